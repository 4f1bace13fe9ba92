"""Cancel and close, round after round, until the venue lists no order and no position of an account."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import TypeVar

from breaker.orders import ZERO, MarketClock, Order, OrderStatus, Position
from brokers.protocol import (
    BrokerUnavailable,
    CancelOutcome,
    CloseOrder,
    CloseOutcome,
    CloseResult,
)
from tasks.kill.account import AccountRun, CloseRecord, StuckItem
from tasks.kill.book import Book, read_book
from tasks.kill.plan import (
    Pace,
    Plan,
    SymbolMemory,
    attempt_of,
    may_close_again,
    plan_round,
    refused,
    sent,
    unanswered,
)

BULK_CANCEL_FROM = 5
"""From this many orders on, one bulk request comes first and single ones follow for what survives it."""
BULK_CLOSE_FROM = 100
"""The same for positions, from where single closes might not fit into what a minute of the rate limit leaves for them.

Not for fewer: a venue names the orders of a bulk close itself, so that another kill switch of the incident, which has
just read the same positions, would not know them for ours and would close once more.
"""
CONCURRENT = 8
"""Single requests under way at once for one account."""
POSITION_LAG = 5.0
"""Seconds that a venue's positions may lag behind its fills before a close is planned on them again."""
FRESH_FOR = 2.0
"""Seconds after which a reading is too old to close by: somebody else may have closed the position meanwhile."""
READING_SHARE = 0.5
"""Of the venue's rate limit, what readings may use up; the rest is for cancels and closes."""
READ_AHEAD = 0.25
"""Seconds for which a reading without orders, made by cancelling, serves flattening as the first half of its own."""
STANDING_SHARE = 0.25
"""Of the time since a book last changed, how long the next reading waits: what stands is read ever less often."""
IDLE_POLL_FACTOR = 20
"""The longest such wait, in poll intervals."""
MARKET_CLOCK_AGE = 5.0
"""Seconds for which the venue's answer about its session is used."""

_T = TypeVar("_T")
_R = TypeVar("_R")


class Flattening:
    """Makes one account flat. Keeps what it learnt between calls, so that it can be resumed after a late fill."""

    def __init__(self, run: AccountRun) -> None:
        self._run = run
        self._broker = run.broker
        self._pace = Pace(
            escalate_after=run.settings.escalate_after,
            collars=run.settings.collars,
            retry_backoff=run.settings.retry_backoff,
            retry_backoff_max=run.settings.retry_backoff_max,
            stuck_after=run.settings.stuck_after,
            position_lag=POSITION_LAG,
        )
        self._memory: dict[str, SymbolMemory] = {}
        self._own: set[str] = set()
        self._orders_at_start: frozenset[str] | None = None
        self._bulk_closed = False
        self._market: MarketClock | None = None
        self._market_read = 0.0
        self._held_up = 0.0
        self._planned_at: float | None = None
        self._rested = 0.0
        self._last_seen: Book | None = None
        self._orders_read: tuple[float, Sequence[Order]] | None = None
        self._changed_at = 0.0
        self._readings = _ReadingAllowance(self._broker.capabilities.requests_per_minute)

    def note_market(self, market: MarketClock) -> None:
        """Somebody has just asked the venue, so that it need not be asked again at once."""
        self._market, self._market_read = market, time.monotonic()

    async def until_no_orders(self) -> None:
        """Cancel until the venue lists no order but closes of this incident, or cancels stall for `cancel_patience`.

        What survives is cancelled again in each round of `until_flat`; it must not keep other positions from closing.
        """
        fewest: int | None = None
        progressed = time.monotonic()
        asked: set[str] = set()
        while not self._run.overdue:
            try:
                everything = await self._broker.open_orders()
            except BrokerUnavailable as error:
                await self._venue_unavailable(error)
                await self._cancel_unseen()
                continue
            self._note_orders(everything)
            orders = [order for order in everything if attempt_of(order, self._run.incident_id) is None]
            if not orders:
                self._orders_read = time.monotonic(), everything
                return
            if fewest is None or len(orders) < fewest:
                fewest, progressed = len(orders), time.monotonic()
            if time.monotonic() - progressed > self._run.settings.cancel_patience:
                self._run.update(note=f"{len(orders)} orders resist; flattening beside them")
                return
            standing = [order for order in orders if order.status is not OrderStatus.PENDING_CANCEL]
            fresh = [order for order in standing if order.id not in asked]
            await self._cancel(fresh or standing, everything)
            asked.update(order.id for order in orders)
            await self._rest(Book(everything, ()))

    async def until_flat(self) -> bool:
        """Rounds of cancel and close until nothing is left (True), or what is left is stuck or time is up (False)."""
        while True:
            try:
                market = await self._market_clock()
                book = await self._read_book()
            except BrokerUnavailable as error:
                if self._run.overdue:
                    self._run.update(note=str(error))
                    return False
                await self._venue_unavailable(error)
                continue
            self._note_orders(book.orders)
            self._run.update(
                positions_open=sum(1 for position in book.positions if position.quantity),
                rounds=self._run.progress.rounds + 1,
            )
            if book.empty:
                self._run.update(stuck=(), note="")
                return True
            if not self._bulk_closed and self._bulk_is_safe(book, market):
                await self._close_in_bulk(book.positions)
            else:
                read_at = time.monotonic()
                plan = self._plan(book, market)
                self._note_stuck(plan, book)
                if self._run.overdue or plan.remaining == set(plan.stuck):
                    await self._cancel(plan.cancels, book.orders)
                    return False
                await self._carry_out(plan, book.orders, read_at)
            await self._rest(book)

    async def _rest(self, book: Book) -> None:
        shortest = self._run.settings.poll_interval
        now = time.monotonic()
        if book != self._last_seen:
            self._last_seen, self._changed_at = book, now
        pause = min(max(shortest, (now - self._changed_at) * STANDING_SHARE), shortest * IDLE_POLL_FACTOR)
        # The pages of orders, what confirms that there are none, and the positions.
        requests = 1 + len(book.orders) // self._broker.capabilities.page_size + 2
        self._rested = max(pause, self._readings.wait(requests, now))
        await asyncio.sleep(self._rested)

    def _now(self) -> float:
        """The clock of closes and of being stuck: it hardly moves while the venue doesn't answer or holds us back.

        Otherwise one wait for the rate limit to be renewed would make stuck what has hardly been tried.
        """
        return time.monotonic() - self._held_up

    def _notice_delay(self) -> None:
        """Called once a round: of the time since the last call, at most `FRESH_FOR` counts beside our own rest."""
        now = time.monotonic()
        if self._planned_at is not None:
            self._held_up += max(0.0, now - self._planned_at - self._rested - FRESH_FOR)
        self._planned_at = now

    def _bulk_is_safe(self, book: Book, market: MarketClock) -> bool:
        """A bulk close acts on whole positions: only where no order of anybody's could fill beside it."""
        enough = len(book.positions) >= BULK_CLOSE_FROM
        return enough and not book.orders and market.is_open and self._broker.capabilities.bulk_close

    def _plan(self, book: Book, market: MarketClock) -> Plan:
        self._notice_delay()
        plan = plan_round(
            book.orders,
            book.positions,
            market,
            self._memory,
            incident_id=self._run.incident_id,
            own_order_ids=frozenset(self._own),
            orders_at_start=self._orders_at_start or frozenset(),
            now=self._now(),
            pace=self._pace,
            time_is_up=self._run.overdue,
        )
        self._memory = dict(plan.memory)
        return plan

    async def _carry_out(self, plan: Plan, open_orders: Sequence[Order], read_at: float) -> None:
        canceling = {order.symbol for order in plan.cancels}
        # A symbol whose orders are only now asked to go is planned afresh in the next round, when it is known what
        # they left. Sending now would be correct (their quantity is deducted) but would need a second close.
        closes = [close for close in plan.closes if close.symbol not in canceling]
        # Closes first, as they belong to the reading just made; a slow venue's cancels would make it too old each time.
        await _together(closes, lambda close: self._send_close(close, read_at))
        await self._cancel(plan.cancels, open_orders)

    async def _cancel(self, orders: Sequence[Order], open_orders: Sequence[Order]) -> None:
        """Cancel these of the open orders: in bulk only where that would not take with it what is to stay."""
        if not orders:
            return
        accepted = 0
        unwanted = {order.id for order in orders}
        spared = [o for o in open_orders if o.id not in unwanted and o.status is not OrderStatus.PENDING_CANCEL]
        try:
            if len(orders) >= BULK_CANCEL_FROM and not spared and self._broker.capabilities.bulk_cancel:
                results = list(await self._broker.cancel_all())
            else:
                results = await _together([order.id for order in orders], self._broker.cancel)
        except BrokerUnavailable as error:
            await self._venue_unavailable(error)
            return
        symbols = {order.id: order.symbol for order in orders}
        for result in results:
            accepted += result.outcome is CancelOutcome.ACCEPTED
            symbol = symbols.get(result.order_id)
            if result.outcome is CancelOutcome.REFUSED and symbol in self._memory:
                reason = f"the venue will not cancel order {result.order_id}: {result.reason}"
                self._memory[symbol] = replace(self._memory[symbol], reason=reason)
        refusals = [f"{r.order_id}: {r.reason}" for r in results if r.outcome is CancelOutcome.REFUSED]
        self._run.record("ORDERS_CANCELED", asked=len(orders), accepted=accepted, refused=refusals[:50])
        canceled = self._run.progress.canceled + accepted
        self._run.update(canceled=canceled)

    async def _cancel_unseen(self) -> None:
        """The orders can't be read, but perhaps they can be cancelled all the same."""
        if not self._broker.capabilities.bulk_cancel:
            return
        try:
            results = await self._broker.cancel_all()
        except BrokerUnavailable as error:
            await self._venue_unavailable(error)
            return
        self._run.record("ORDERS_CANCELED_UNSEEN", answers=len(results))

    async def _close_in_bulk(self, positions: Sequence[Position]) -> None:
        self._bulk_closed = True
        self._notice_delay()
        self._run.record("POSITIONS_CLOSE_ALL_SENT")
        now = self._now()
        self._memory = {p.symbol: SymbolMemory(changed_at=now, quantity=abs(p.quantity)) for p in positions}
        try:
            results = await self._broker.close_all()
        except BrokerUnavailable as error:
            # It may have been applied, or be so at any moment now: positions are left alone until that would show.
            self._notice_delay()
            wait = self._now() + POSITION_LAG
            self._memory = {symbol: replace(memory, retry_at=wait) for symbol, memory in self._memory.items()}
            await self._venue_unavailable(error)
            return
        for result in results:
            order = result.order
            if order is None:
                self._note_close(result, "bulk close", "", ZERO, "")
                continue
            self._own.add(order.id)
            self._note_close(result, "bulk close", order.client_order_id, order.quantity, order.side.value)
            memory = self._memory.get(result.symbol, SymbolMemory(changed_at=now, quantity=order.quantity))
            self._memory[result.symbol] = replace(sent(memory, order.client_order_id, now), attempt=0)
        self._run.record(
            "POSITIONS_CLOSE_ALL_ANSWERED",
            accepted={r.symbol: r.order.client_order_id for r in results if r.order is not None},
            refused={r.symbol: r.reason for r in results if r.order is None},
        )

    async def _send_close(self, close: CloseOrder, read_at: float) -> None:
        if not await self._last_close_is_settled(close) or time.monotonic() - read_at > FRESH_FOR:
            return
        memory = self._memory[close.symbol]
        self._run.record(
            "POSITION_CLOSE_SENT",
            symbol=close.symbol,
            side=close.side.value,
            quantity=str(close.quantity),
            client_order_id=close.client_order_id,
        )
        try:
            result = await self._broker.close(close)
        except BrokerUnavailable as error:
            # Nothing was taken: a rate limit. The next round, when there is one, plans on what is then.
            await self._venue_unavailable(error)
            return
        now = self._now()
        if result.outcome in (CloseOutcome.ACCEPTED, CloseOutcome.DUPLICATE):
            self._memory[close.symbol] = sent(memory, close.client_order_id, now)
        elif result.outcome is CloseOutcome.REFUSED:
            self._memory[close.symbol] = refused(memory, result.reason, now, self._pace)
        else:
            self._memory[close.symbol] = unanswered(memory, close.client_order_id, result.reason)
        self._note_close(result, close.type.value, close.client_order_id, close.quantity, close.side.value)
        self._run.record(
            "POSITION_CLOSE_ANSWERED",
            symbol=close.symbol,
            outcome=result.outcome.value,
            client_order_id=close.client_order_id,
            reason=result.reason,
        )

    async def _last_close_is_settled(self, close: CloseOrder) -> bool:
        memory = self._memory[close.symbol]
        if memory.last_close in ("", close.client_order_id):
            return True
        try:
            last = await self._broker.order(memory.last_close)
        except BrokerUnavailable as error:
            await self._venue_unavailable(error)
            return False
        self._memory[close.symbol], settled = may_close_again(memory, last, self._now(), self._pace)
        return settled

    def _note_close(self, result: CloseResult, kind: str, client_order_id: str, quantity: Decimal, side: str) -> None:
        record = CloseRecord(
            symbol=result.symbol,
            side=side,
            quantity=quantity,
            kind=kind,
            client_order_id=client_order_id,
            outcome=result.outcome.value,
            reason=result.reason,
        )
        progress = self._run.progress
        self._run.update(
            closes_sent=progress.closes_sent + (result.outcome is CloseOutcome.ACCEPTED),
            closes=(*progress.closes, record),
        )

    def _note_orders(self, orders: Sequence[Order]) -> None:
        if self._orders_at_start is None:
            self._orders_at_start = frozenset(order.id for order in orders)
        progress = self._run.progress
        first_time = progress.no_orders_after is None
        self._run.update(
            orders_open=len(orders),
            no_orders_after=self._run.elapsed if first_time and not orders else progress.no_orders_after,
        )

    def _note_stuck(self, plan: Plan, book: Book) -> None:
        quantities = {position.symbol: position.quantity for position in book.positions}
        self._run.update(
            stuck=tuple(
                StuckItem(
                    symbol=symbol,
                    quantity=quantities.get(symbol, ZERO),
                    open_orders=sum(1 for order in book.orders if order.symbol == symbol),
                    reason=reason,
                )
                for symbol, reason in plan.stuck.items()
            ),
        )

    async def _read_book(self) -> Book:
        read, self._orders_read = self._orders_read, None
        if read is None or time.monotonic() - read[0] > READ_AHEAD:
            return await read_book(self._broker)
        return Book(read[1], await self._broker.positions())

    async def _market_clock(self) -> MarketClock:
        """The venue's session, asked again every few seconds: a market may open or close while we flatten."""
        if self._market is not None and time.monotonic() - self._market_read <= MARKET_CLOCK_AGE:
            return self._market
        market = await self._broker.clock()
        self.note_market(market)
        return market

    async def _venue_unavailable(self, error: BrokerUnavailable) -> None:
        self._run.update(note=str(error))
        self._run.record("VENUE_UNAVAILABLE", error=str(error))
        await asyncio.sleep(max(self._run.settings.poll_interval, 0.05))


class _ReadingAllowance:
    """So that polling a big or restless book never uses up what cancels and closes need. Times are monotonic seconds.

    A burst is free; then readings come no faster than `READING_SHARE` of the venue's limit is renewed.
    """

    def __init__(self, requests_per_minute: int | None) -> None:
        self._most = None if requests_per_minute is None else requests_per_minute * READING_SHARE
        self._left = self._most or 0.0
        self._counted_at: float | None = None

    def wait(self, requests: int, now: float) -> float:
        """Count a reading of that many requests; how long to wait before the next one."""
        if self._most is None:
            return 0.0
        per_second = self._most / 60
        since = 0.0 if self._counted_at is None else now - self._counted_at
        self._left = min(self._most, self._left + since * per_second) - requests
        self._counted_at = now
        return max(0.0, -self._left / per_second)


async def _together(items: Sequence[_T], action: Callable[[_T], Awaitable[_R]]) -> list[_R]:
    """Run `action` on each item, at most `CONCURRENT` at once; every item is tried before the first error is raised."""
    places = asyncio.Semaphore(CONCURRENT)

    async def one(item: _T) -> _R:
        async with places:
            return await action(item)

    outcomes = await asyncio.gather(*(one(item) for item in items), return_exceptions=True)
    results = []
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
        results.append(outcome)
    return results
