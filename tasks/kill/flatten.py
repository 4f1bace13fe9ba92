"""Cancel and close, round after round, until the venue lists no order and no position of an account."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import TypeVar

from breaker.orders import ZERO, MarketClock, Order, OrderStatus, Position
from brokers.protocol import (
    Broker,
    BrokerUnavailable,
    CancelOutcome,
    CloseOrder,
    CloseOutcome,
    CloseResult,
)
from tasks.kill.plan import Pace, Plan, SymbolMemory, plan_round, refused, sent
from tasks.kill.run import CloseRecord, KillRun, StuckItem

BULK_FROM = 5
"""From this many orders or positions on, one bulk request comes first and single ones follow for what survives it."""
CONCURRENT = 8
"""Single requests under way at once for one account."""
POSITION_LAG = 5.0
"""Seconds that a venue's positions may lag behind its fills before a close is planned on them again."""

IDLE_POLL_FACTOR = 8
"""Readings that show no change come ever less often, down to this many poll intervals, to spare the rate limit."""
MARKET_CLOCK_AGE = 5.0
"""Seconds for which the venue's answer about its session is used."""

_T = TypeVar("_T")
_R = TypeVar("_R")


@dataclass(frozen=True, slots=True)
class Book:
    """What the venue said, orders first; see `plan` for why the order of reading matters."""

    orders: Sequence[Order]
    positions: Sequence[Position]

    @property
    def empty(self) -> bool:
        return not self.orders and not any(position.quantity for position in self.positions)


async def read_book(broker: Broker) -> Book:
    orders = await broker.open_orders()
    return Book(orders, await broker.positions())


class Flattening:
    """Makes one account flat. Keeps what it learnt between calls, so that it can be resumed after a late fill."""

    def __init__(self, run: KillRun, account: str) -> None:
        self._run = run
        self._account = account
        self._broker = run.brokers[account]
        self._pace = Pace(
            escalate_after=run.settings.escalate_after,
            collars=run.settings.collars,
            retry_backoff=run.settings.retry_backoff,
            retry_backoff_max=run.settings.retry_backoff_max,
            stuck_after=run.settings.stuck_after,
        )
        self._memory: dict[str, SymbolMemory] = {}
        self._own: set[str] = set()
        self._bulk_closed = False
        self._market: MarketClock | None = None
        self._market_read = 0.0
        self._last_seen: Book | None = None
        self._pause = run.settings.poll_interval

    async def until_no_orders(self) -> None:
        """Cancel until the venue lists no open order, or cancels have made no progress for `cancel_patience`.

        What survives is cancelled again in each round of `until_flat`; it must not keep other positions from closing.
        """
        fewest: int | None = None
        progressed = time.monotonic()
        asked: set[str] = set()
        while not self._run.overdue:
            try:
                orders = await self._broker.open_orders()
            except BrokerUnavailable as error:
                await self._venue_unavailable(error)
                continue
            self._note_orders(orders)
            if not orders:
                return
            if fewest is None or len(orders) < fewest:
                fewest, progressed = len(orders), time.monotonic()
            if time.monotonic() - progressed > self._run.settings.cancel_patience:
                self._run.update(self._account, note=f"{len(orders)} orders resist; flattening beside them")
                return
            fresh = [order for order in orders if order.id not in asked]
            again = [order for order in orders if order.status is not OrderStatus.PENDING_CANCEL]
            await self._cancel(fresh or again, of=len(orders))
            asked.update(order.id for order in orders)
            await asyncio.sleep(self._run.settings.poll_interval)

    async def until_flat(self) -> bool:
        """Rounds of cancel and close until nothing is left (True), or what is left is stuck or time is up (False)."""
        while True:
            try:
                book = await read_book(self._broker)
                market = await self._market_clock()
            except BrokerUnavailable as error:
                if self._run.overdue:
                    self._run.update(self._account, note=str(error))
                    return False
                await self._venue_unavailable(error)
                continue
            self._note_orders(book.orders)
            self._run.update(
                self._account,
                positions_open=sum(1 for position in book.positions if position.quantity),
                rounds=self._run.progress[self._account].rounds + 1,
            )
            if book.empty:
                self._run.update(self._account, stuck=(), note="")
                return True
            if not self._bulk_closed and self._bulk_is_safe(book, market):
                await self._close_in_bulk()
            else:
                plan = self._plan(book, market)
                self._note_stuck(plan, book)
                if self._run.overdue or (plan.remaining and plan.remaining == set(plan.stuck)):
                    return False
                await self._carry_out(plan, len(book.orders))
            await self._rest(book)

    async def _rest(self, book: Book) -> None:
        shortest = self._run.settings.poll_interval
        changed = book != self._last_seen
        self._last_seen = book
        self._pause = shortest if changed else min(self._pause * 2, shortest * IDLE_POLL_FACTOR)
        await asyncio.sleep(self._pause)

    def _bulk_is_safe(self, book: Book, market: MarketClock) -> bool:
        """A bulk close acts on whole positions: only where no order of anybody's could fill beside it."""
        enough = len(book.positions) >= BULK_FROM
        return enough and not book.orders and market.is_open and self._broker.capabilities.bulk_close

    def _plan(self, book: Book, market: MarketClock) -> Plan:
        plan = plan_round(
            book.orders,
            book.positions,
            market,
            self._memory,
            incident_id=self._run.incident_id,
            own_order_ids=frozenset(self._own),
            now=time.monotonic(),
            pace=self._pace,
        )
        self._memory = dict(plan.memory)
        return plan

    async def _carry_out(self, plan: Plan, open_orders: int) -> None:
        await self._cancel(plan.cancels, of=open_orders)
        canceling = {order.symbol for order in plan.cancels}
        # A symbol whose orders were only just asked to go is planned afresh in the next round, when it is known what
        # they left. Sending now would be correct (their quantity is deducted) but would need a second close.
        closes = [close for close in plan.closes if close.symbol not in canceling]
        await _together(closes, self._send_close)

    async def _cancel(self, orders: Sequence[Order], *, of: int) -> None:
        """Cancel these of the `of` open orders: in bulk only where that would not take a close of ours with it."""
        if not orders:
            return
        accepted = 0
        try:
            if len(orders) >= max(BULK_FROM, of) and self._broker.capabilities.bulk_cancel:
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
        self._run.tell(
            "ORDERS_CANCELED", account=self._account, asked=len(orders), accepted=accepted, refused=refusals[:50]
        )
        canceled = self._run.progress[self._account].canceled + accepted
        self._run.update(self._account, canceled=canceled)

    async def _close_in_bulk(self) -> None:
        self._bulk_closed = True
        self._run.tell("POSITIONS_CLOSE_ALL_SENT", account=self._account)
        try:
            results = await self._broker.close_all()
        except BrokerUnavailable as error:
            # It may have been applied. The next round reads what is there now and closes only that.
            await self._venue_unavailable(error)
            return
        for result in results:
            order = result.order
            if order is None:
                self._note_close(result, "bulk close", "", ZERO, "")
            else:
                self._own.add(order.id)
                self._note_close(result, "bulk close", order.client_order_id, order.quantity, order.side.value)
        self._run.tell(
            "POSITIONS_CLOSE_ALL_ANSWERED",
            account=self._account,
            accepted={r.symbol: r.order.client_order_id for r in results if r.order is not None},
            refused={r.symbol: r.reason for r in results if r.order is None},
        )

    async def _send_close(self, close: CloseOrder) -> None:
        memory = self._memory[close.symbol]
        if await self._position_lags(close, memory):
            return
        self._run.tell(
            "POSITION_CLOSE_SENT",
            account=self._account,
            symbol=close.symbol,
            side=close.side.value,
            quantity=str(close.quantity),
            client_order_id=close.client_order_id,
        )
        result = await self._broker.close(close)
        now = time.monotonic()
        if result.outcome in (CloseOutcome.ACCEPTED, CloseOutcome.DUPLICATE):
            self._memory[close.symbol] = sent(memory, now)
        elif result.outcome is CloseOutcome.REFUSED:
            self._memory[close.symbol] = refused(memory, result.reason, now, self._pace)
        else:
            # Whether the venue has it is not known: the same attempt is sent again, which it can take only once.
            self._memory[close.symbol] = replace(memory, reason=result.reason, sent_against=memory.quantity)
        self._note_close(result, close.type.value, close.client_order_id, close.quantity, close.side.value)
        self._run.tell(
            "POSITION_CLOSE_ANSWERED",
            account=self._account,
            symbol=close.symbol,
            outcome=result.outcome.value,
            client_order_id=close.client_order_id,
            reason=result.reason,
        )

    async def _position_lags(self, close: CloseOrder, memory: SymbolMemory) -> bool:
        """Whether the last close filled but the position does not show it yet: closing it again would flip it."""
        if memory.attempt == 0 or memory.sent_against != memory.quantity or memory.sent_at is None:
            return False
        if time.monotonic() - memory.sent_at > POSITION_LAG:
            return False
        previous = close.client_order_id.rpartition("-")[0] + f"-{memory.attempt}"
        try:
            order = await self._broker.order(previous)
        except BrokerUnavailable as error:
            await self._venue_unavailable(error)
            return True
        return order is not None and (order.filled_quantity > 0 or order.status.is_open)

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
        progress = self._run.progress[self._account]
        self._run.update(
            self._account,
            closes_sent=progress.closes_sent + (result.outcome is CloseOutcome.ACCEPTED),
            closes=(*progress.closes, record),
        )

    def _note_orders(self, orders: Sequence[Order]) -> None:
        progress = self._run.progress[self._account]
        first_time = progress.no_orders_after is None
        self._run.update(
            self._account,
            orders_open=len(orders),
            no_orders_after=self._run.elapsed if first_time and not orders else progress.no_orders_after,
        )

    def _note_stuck(self, plan: Plan, book: Book) -> None:
        quantities = {position.symbol: position.quantity for position in book.positions}
        self._run.update(
            self._account,
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

    async def _market_clock(self) -> MarketClock:
        """The venue's session, asked again every few seconds: a market may open or close while we flatten."""
        now = time.monotonic()
        if self._market is None or now - self._market_read > MARKET_CLOCK_AGE:
            self._market, self._market_read = await self._broker.clock(), now
        return self._market

    async def _venue_unavailable(self, error: BrokerUnavailable) -> None:
        self._run.update(self._account, note=str(error))
        self._run.tell("VENUE_UNAVAILABLE", account=self._account, error=str(error))
        await asyncio.sleep(max(self._run.settings.poll_interval, 0.05))


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
