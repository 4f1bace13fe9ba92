"""Cancel and close, round after round, until the venue lists no order and no position of an account."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from decimal import Decimal

from breaker.instruments import Session
from breaker.orders import ZERO, MarketClock, Order, OrderStatus, Position
from brokers.cancel_by_id import together
from brokers.instrument_store import InstrumentStore
from brokers.protective import can_wait, protective_orders
from brokers.protocol import BrokerError, BrokerRefused, CloseOrder, CloseOutcome, CloseResult, Listed, Refusal
from tasks.kill.account import AccountRun, BrokenOff, CloseRecord, StuckItem, TimeIsUp
from tasks.kill.book import Book, MarketSession, ReadingAllowance, book_of, read_book
from tasks.kill.cancel import Cancelling
from tasks.kill.known_instruments import KnownInstruments
from tasks.kill.ladder import Pace
from tasks.kill.lost_answer import Claim, LostAnswers
from tasks.kill.memory import PositionMemory, attempt_of, gone, may_close_again, refused, sent, unanswered, untried
from tasks.kill.plan import Plan, entries, plan_round

BULK_CLOSE_FROM = 100
"""From this many positions on, one bulk request comes first, where single closes might not fit into what a minute of
the rate limit leaves for them.

Not for fewer: a venue names the orders of a bulk close itself, so that another kill switch of the incident, which has
just read the same positions, would not know them for ours and would close once more.
"""
POSITION_LAG = 5.0
"""Seconds that a venue's positions may lag behind its fills before a close is planned on them again."""
CANCEL_SETTLES = 1.0
"""Seconds for which an order that was asked to go is waited for before the rest of its symbol is closed beside it."""
FRESH_FOR = 2.0
"""Seconds after which a reading is too old to close by: somebody else may have closed the position meanwhile."""
READ_AHEAD = 0.25
"""Seconds for which a reading without orders, made by cancelling, serves flattening as the first half of its own."""
STANDING_SHARE = 0.25
"""Of the time since a book last changed, how long the next reading waits: what stands is read ever less often."""
IDLE_POLL_FACTOR = 20
"""The longest such wait, in poll intervals."""

LiftLock = Callable[[float], Awaitable[bool]]
"""Asked when the venue has refused a close, sent at that monotonic time, since trading is suspended in the account.

Whether it was a kill switch that had suspended it, and that is lifted now."""


class Flattening:
    """Makes one account flat. Keeps what it learnt between calls, so that it can be resumed after a late fill."""

    def __init__(
        self,
        run: AccountRun,
        lift_lock: LiftLock | None = None,
        instruments: InstrumentStore | None = None,
        claim: Claim | None = None,
    ) -> None:
        self._run = run
        self._lift_lock = lift_lock
        self._broker = run.broker
        self._coverage = run.coverage
        self._pace = Pace(
            escalate_after=run.settings.escalate_after,
            collars=run.settings.collars,
            retry_backoff=run.settings.retry_backoff,
            retry_backoff_max=run.settings.retry_backoff_max,
            stuck_after=run.settings.stuck_after,
            position_lag=POSITION_LAG,
            cancel_settles=CANCEL_SETTLES,
        )
        self._memory: dict[str, PositionMemory] = {}
        self._own: set[str] = set()
        self._lost_answers = LostAnswers(run, claim)
        self._orders_at_start: frozenset[str] | None = None
        self._bulk_closed = False
        self._session = MarketSession(run.broker)
        self._instruments = KnownInstruments(run.broker, instruments)
        self._cancelling = Cancelling(run)
        self._protective_last: bool | None = None
        self._refused_since: float | None = None
        self._held_up = 0.0
        self._counted_to = time.monotonic()
        self._last_seen: tuple[Book, float] | None = None
        self._orders_read: tuple[float, Listed[Order]] | None = None
        self._readings = ReadingAllowance(self._broker.capabilities.requests_per_minute)

    def note_market(self, market: MarketClock | None) -> None:
        """Somebody has just asked the venue, so that it need not be asked again at once."""
        self._session.note(market)

    async def until_no_orders(self) -> None:
        """Cancel until no order is left but closes of this incident and what protects, or cancels stall.

        They stall when there have not been fewer than ever for `cancel_patience`. What survives, or is placed anew, is
        cancelled again in each round of `until_flat`; it must not keep other positions from closing.
        """
        fewest, progressed = math.inf, time.monotonic()
        while not self._run.overdue:
            try:
                listed = self._coverage.of_orders(await self._run.in_time(self._broker.open_orders()))
                self._understood()
                self._run.opening.note_orders(listed.items, self._run.closes_as)
                unwanted = await self._entries(listed)
                unread = [item for item in listed.unreadable if item.id and self._coverage.covers_unread(item)]
                self._note_orders(Book(listed.items, (), listed.unreadable))
                left = len(unwanted) + len(unread)
                if not left:
                    if not listed.items:
                        self._orders_read = time.monotonic(), listed
                    return
                if left < fewest:
                    fewest, progressed = left, time.monotonic()
                if time.monotonic() - progressed > self._run.settings.cancel_patience:
                    self._run.update(note=f"{left} orders resist; flattening beside them")
                    return
                standing = [order for order in unwanted if order.status is not OrderStatus.PENDING_CANCEL]
                await self._run.in_time(self._cancelling.cancel(standing, listed.items, unread))
                await self._rest(Book(listed.items, (), listed.unreadable))
            except BrokerError as error:
                await self._trouble(error)
                await self._cancel_unseen()

    async def _entries(self, listed: Listed[Order]) -> list[Order]:
        """What goes before anything is closed; positions are read only where something may be protective."""
        ours = self._run.closes_as
        if self._run.settings.cancel == "all" or self._protective_last is False or not self._coverage.positions_known:
            return [order for order in listed.items if attempt_of(order, ours) is None]
        positions: Listed[Position] = Listed()
        if listed.items:
            positions = self._coverage.of_positions(await self._run.in_time(self._broker.positions()))
            self._run.opening.note_positions(positions.items, positions.unreadable, self._run.elapsed)
        protective = len(protective_orders(listed.items, positions.items))
        if self._protective_last is None:
            forced = self._run.settings.cancel == "protective_last"
            limit = self._broker.capabilities.requests_per_minute
            self._protective_last = forced or can_wait(protective, len(listed.items) - protective, limit)
            if protective:
                self._run.record("CANCEL_POLICY", protective=protective, protective_last=self._protective_last)
        return entries(listed.items, positions.items if self._protective_last else (), ours)

    async def until_flat(self) -> bool:
        """Rounds of cancel and close until nothing is left (True), or what is left is stuck or time is up (False)."""
        try:
            return await self._rounds()
        finally:
            self._session.close()
            await self._instruments.close()

    async def _rounds(self) -> bool:
        # What was flat before, and is open again by a late fill, has all its time anew.
        now = self._now()
        self._memory = {name: each if each.dust else gone(each, now) for name, each in self._memory.items()}
        while True:
            try:
                book = await self._read_book()
                self._understood()
                self._run.note_book(book)
            except BrokerError as error:
                if self._run.overdue:
                    self._run.update(note=str(error))
                    return False
                await self._trouble(error)
                continue
            market = await self._session.now()
            self._note_orders(book)
            self._run.update(positions_open=book.open_positions, rounds=self._run.progress.rounds + 1)
            if book.empty:
                self._run.update(stuck=(), dust=(), note="")
                return True
            self._notice_delay()
            if not self._bulk_closed and self._bulk_is_safe(book, market):
                await self._close_in_bulk(book.positions)
            elif (flat := await self._round(book, market)) is not None:
                return flat
            await self._rest(book)

    async def _round(self, book: Book, market: MarketClock | None) -> bool | None:
        """One round; whether the account is flat, once nothing more is to be tried."""
        read_at = time.monotonic()
        time_is_up = self._run.overdue  # asked once: what the plan doesn't call stuck then would be named by nobody
        plan = self._plan(book, market, time_is_up)
        self._note_stuck(plan, book)
        if not plan.remaining:  # but dust
            return self._run.settings.dust != "fail"
        if time_is_up or plan.remaining == {*plan.stuck}:
            await self._cancel(plan, book)
            return False
        await self._carry_out(plan, book, read_at)
        return None

    async def _rest(self, book: Book) -> None:
        shortest = self._run.settings.poll_interval
        now = time.monotonic()
        if self._last_seen is None or self._last_seen[0] != book:
            self._last_seen = book, now
        stood = now - self._last_seen[1]
        standing = min(max(shortest, stood * STANDING_SHARE), shortest * IDLE_POLL_FACTOR)
        # The pages of orders, what confirms that there are none, and the positions.
        able = self._broker.capabilities
        pages = 1 + len(book.orders) // able.page_size
        weight = (pages + 1) * able.weights.open_orders + able.weights.positions
        pause = max(standing, self._readings.wait(weight, now))
        self._counted_to += pause
        await asyncio.sleep(pause)

    def _now(self) -> float:
        """The clock of closes and of being stuck: it hardly moves while the venue doesn't answer or holds us back.

        Otherwise one wait for the rate limit to be renewed would make stuck what has hardly been tried.
        """
        return time.monotonic() - self._held_up

    def _notice_delay(self) -> None:
        """Of the time since the last call, as in the last round, at most `FRESH_FOR` counts beside our own rest."""
        now = time.monotonic()
        self._held_up += max(0.0, now - self._counted_to - FRESH_FOR)
        self._counted_to = now

    def _bulk_is_safe(self, book: Book, market: MarketClock | None) -> bool:
        """A bulk close acts on whole positions: only where no order of anybody's could fill beside it, in any order.

        Nor one that has filled already, of which the venue's positions may not tell yet.
        """
        enough = len(book.positions) >= BULK_CLOSE_FROM and self._broker.capabilities.bulk_close
        equities = all(
            position.instrument.session is Session.EXTENDED and position.position_side is None
            for position in book.positions
        )
        remembered = (self._memory.get(position.key) for position in book.positions)
        settled = not any(memory and memory.last_close for memory in remembered)
        alone = settled and not book.orders and not book.unreadable
        return enough and alone and equities and market is not None and market.is_open and self._coverage.whole_accounts

    def _plan(self, book: Book, market: MarketClock | None, time_is_up: bool) -> Plan:
        plan = plan_round(
            book.orders,
            book.positions,
            market,
            self._memory,
            incident_id=self._run.closes_as,
            able=self._broker.capabilities,
            own_order_ids=frozenset(self._own),
            orders_at_start=self._orders_at_start or frozenset(),
            now=self._now(),
            pace=self._pace,
            time_is_up=time_is_up,
            unreadable=book.unreadable,
            protective_last=bool(self._protective_last),
            beside=book.beside,
            unreadable_beside=book.unreadable_beside,
        )
        self._memory = dict(plan.memory)
        return plan

    async def _carry_out(self, plan: Plan, book: Book, read_at: float) -> None:
        # Closes first, as they belong to the reading just made; a slow venue's cancels would make it too old each time.
        await together(plan.closes, lambda close: self._send_close(close, read_at))
        await self._cancel(plan, book)

    async def _cancel(self, plan: Plan, book: Book) -> None:
        try:
            # What a bulk request hits is not only what was read: no closes may have been sent since.
            in_bulk = not plan.closes
            unread = [item for item in plan.cancel_unread if self._coverage.covers_unread(item)]
            refusals = await self._run.in_time(
                self._cancelling.cancel(plan.cancels, book.orders, unread, in_bulk=in_bulk)
            )
        except BrokerError as error:
            await self._trouble(error)
            return
        for key, reason in refusals.items():
            if key in self._memory:
                self._memory[key] = replace(self._memory[key], reason=reason)

    async def _cancel_unseen(self) -> None:
        try:
            await self._run.in_time(self._cancelling.cancel_unseen())
        except BrokerError as error:
            await self._trouble(error)

    async def _close_in_bulk(self, positions: Sequence[Position]) -> None:
        self._bulk_closed = True
        self._run.record("POSITIONS_CLOSE_ALL_SENT")
        now = self._now()
        self._memory = {p.key: PositionMemory(changed_at=now, quantity=abs(p.quantity)) for p in positions}
        try:
            results = await self._run.in_time(self._broker.close_all())
        except BrokerError as error:
            # It may have been applied, or be so at any moment now: positions are left alone until that would show.
            self._notice_delay()
            wait = self._now() + POSITION_LAG
            self._memory = {key: replace(memory, retry_at=wait) for key, memory in self._memory.items()}
            await self._trouble(error)
            return
        for result in results:
            order = result.order
            if order is None:
                self._note_close(result, "bulk close", "", ZERO, "")
                continue
            self._own.add(order.id)
            self._note_close(result, "bulk close", order.client_order_id, order.quantity, order.side.value)
            memory = self._memory.get(result.symbol, PositionMemory(changed_at=now, quantity=order.quantity))
            self._memory[result.symbol] = replace(sent(memory, order.client_order_id, now), attempt=0)
        self._run.record(
            "POSITIONS_CLOSE_ALL_ANSWERED",
            accepted={r.symbol: r.order.client_order_id for r in results if r.order is not None},
            refused={r.symbol: r.reason for r in results if r.order is None},
        )

    async def _send_close(self, close: CloseOrder, read_at: float) -> None:
        if not await self._may_send(close):
            return
        memory = self._memory[close.key]
        if time.monotonic() - read_at > FRESH_FOR:
            self._memory[close.key] = untried(memory, self._now())
            return
        self._run.record(
            "POSITION_CLOSE_SENT",
            symbol=close.key,
            side=close.side.value,
            quantity=f"{close.quantity:f}",
            type=close.type.value,
            limit_price=None if close.limit_price is None else f"{close.limit_price:f}",
            client_order_id=close.client_order_id,
        )
        sent_at = time.monotonic()
        try:
            result = await self._run.in_time(self._broker.close(close))
        except (TimeIsUp, BrokenOff) as error:
            result = CloseResult(close.symbol, CloseOutcome.UNKNOWN, reason=str(error))
        except BrokerError as error:
            # Nothing was taken: a rate limit, or keys refused. The next round, if there is one, plans on what is then.
            reason = str(error) if isinstance(error, BrokerRefused) else memory.reason
            self._memory[close.key] = replace(untried(memory, self._now()), reason=reason)
            await self._trouble(error)
            return
        now = self._now()
        if result.outcome in (CloseOutcome.ACCEPTED, CloseOutcome.DUPLICATE):
            self._memory[close.key] = sent(memory, close.client_order_id, now)
            if result.order is not None and not self._broker.capabilities.client_order_ids.longest:
                self._own.add(result.order.id)
        elif result.refusal is Refusal.SUSPENDED and self._lift_lock and await self._lift_lock(sent_at):
            self._memory[close.key] = untried(memory, now)  # the next round sends it, on what it reads then
        elif result.outcome is CloseOutcome.REFUSED:
            self._memory[close.key] = refused(memory, result.reason, now, self._pace, result.refusal, close.quantity)
        else:
            self._memory[close.key] = unanswered(memory, close.client_order_id, result.reason)
        self._note_close(
            result, close.type.value, close.client_order_id, close.quantity, close.side.value, key=close.key
        )
        self._run.record(
            "POSITION_CLOSE_ANSWERED",
            symbol=close.key,
            outcome=result.outcome.value,
            client_order_id=close.client_order_id,
            reason=result.reason,
        )

    async def _may_send(self, close: CloseOrder) -> bool:
        """Whether it is known what became of the last close, and that this one is not at the venue yet."""
        memory, ids = self._memory[close.key], self._broker.capabilities.client_order_ids
        try:
            if not ids.settles:
                self._memory[close.key], may_send = await self._lost_answers.settle(
                    memory, close, self._now(), self._pace
                )
                return may_send
            if memory.last_close in ("", close.client_order_id):
                return True
            last = await self._run.in_time(self._broker.order(memory.last_close, close.symbol))
        except BrokerError as error:
            await self._trouble(error)
            return False
        self._memory[close.key], settled = may_close_again(memory, last, self._now(), self._pace)
        return settled

    def _note_close(
        self, result: CloseResult, kind: str, client_order_id: str, quantity: Decimal, side: str, key: str = ""
    ) -> None:
        record = CloseRecord(
            symbol=key or result.symbol,
            side=side,
            quantity=quantity,
            kind=kind,
            client_order_id=client_order_id,
            outcome=result.outcome.value,
            reason=result.reason,
        )
        progress = self._run.progress
        self._run.opening.note_close(result, client_order_id)
        self._run.update(
            closes_sent=progress.closes_sent + (result.outcome is CloseOutcome.ACCEPTED),
            closes=(*progress.closes, record),
        )

    def _note_orders(self, book: Book) -> None:
        if self._orders_at_start is None:
            self._orders_at_start = frozenset(order.id for order in book.orders)
        progress = self._run.progress
        first_time = progress.no_orders_after is None
        self._run.update(
            orders_open=book.open_orders,
            no_orders_after=self._run.elapsed if first_time and not book.open_orders else progress.no_orders_after,
        )

    def _note_stuck(self, plan: Plan, book: Book) -> None:
        quantities: dict[str, Decimal] = {position.key: position.quantity for position in book.positions}

        def item(key: str, reason: str) -> StuckItem:
            orders = {order.cancel_id for order in book.orders if order.key == key}
            return StuckItem(key, quantities.get(key, ZERO), len(orders), reason, plan.opens_at.get(key))

        self._run.update(
            stuck=tuple(item(key, reason) for key, reason in plan.stuck.items()),
            dust=tuple(item(key, reason) for key, reason in plan.dust.items()),
        )

    async def _read_book(self) -> Book:
        read, self._orders_read = self._orders_read, None
        if read is None or time.monotonic() - read[0] > READ_AHEAD:
            book = await self._run.in_time(read_book(self._broker, self._coverage))
        else:
            book = book_of(read[1], await self._run.in_time(self._broker.positions()), self._coverage)
        return replace(book, positions=await self._instruments.complete(book.positions))

    def _understood(self) -> None:
        """The venue has let itself be read, so that its refusals before were none of the account."""
        self._refused_since = None

    async def _trouble(self, error: BrokerError) -> None:
        """Say it and go on; raises a refusal of the venue once it has persisted for `refusal_patience`."""
        now = time.monotonic()
        self._run.update(note=str(error))
        self._run.record("VENUE_UNAVAILABLE", error=str(error))
        if isinstance(error, BrokerRefused):
            self._refused_since = now if self._refused_since is None else self._refused_since
            if now - self._refused_since >= self._run.settings.refusal_patience:
                raise error
        await asyncio.sleep(max(self._run.settings.poll_interval, 0.05))
