"""An account that changes at written-down moments, on a clock that moves only while somebody waits or is answered.

For decisions that hang on the order and the moment of readings, which no venue gives twice alike: minutes pass at once,
and to the second.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest

from breaker.instruments import EQUITY, Instrument
from breaker.orders import (
    Account,
    Fill,
    MarketClock,
    Order,
    OrderStatus,
    OrderType,
    Position,
    Side,
    TimeInForce,
    Unreadable,
)
from brokers.coverage import Coverage, coverage_of
from brokers.protocol import (
    Broker,
    BrokerError,
    CancelOutcome,
    CancelResult,
    Capabilities,
    CloseOrder,
    CloseOutcome,
    CloseResult,
    Listed,
    repeat_until,
)
from configuration.settings import KillSettings
from tasks.kill import account, book, cancel, flatten, verify
from tasks.kill.account import AccountProgress, AccountRun, RunClock
from tasks.kill.memory import client_order_id

NAME = "ALPHA"
INCIDENT = "0190aaaa-bbbb-7ccc-8ddd-eeeeeeeeeeee"
WHOLE = coverage_of("global", [NAME])
OPEN = MarketClock(datetime(2026, 11, 24, 17, tzinfo=UTC), is_open=True)
CLOSED = MarketClock(datetime(2026, 11, 24, 23, tzinfo=UTC), is_open=False)
ABLE = Capabilities(
    bulk_cancel=True, bulk_close=True, reduce_only=False, fractional=True, requests_per_minute=None, page_size=500
)


def position(symbol: str = "AAPL", quantity: str = "10", instrument: Instrument = EQUITY) -> Position:
    size = Decimal(quantity)
    return Position(symbol, size, abs(size), Decimal(50), Decimal(50), instrument=instrument)


def order(number: int = 1, symbol: str = "AAPL", side: Side = Side.BUY, *, attempt: int | None = None) -> Order:
    """Somebody's order for 10, or our close of that attempt."""
    name = f"theirs-{number}" if attempt is None else client_order_id(INCIDENT, symbol, attempt)
    kind = OrderType.LIMIT if attempt is None else OrderType.MARKET
    return Order(
        f"o{number}", name, symbol, side, Decimal(10), Decimal(0), OrderStatus.NEW, kind, TimeInForce.DAY, Decimal(40)
    )


def bulk_close_of(held: Position, status: OrderStatus = OrderStatus.FILLED, filled: str | None = None) -> Order:
    """The order that a venue makes to close a position in bulk, under a name of its own."""
    size = abs(held.quantity)
    done = Decimal(filled) if filled is not None else size if status is OrderStatus.FILLED else Decimal(0)
    name, kind = f"venue-{held.symbol}", OrderType.MARKET
    return Order(f"b{held.symbol}", name, held.symbol, held.closing_side, size, done, status, kind, TimeInForce.DAY)


class StillClock:
    """Moves only when somebody sleeps by it, and by `tick` whenever somebody looks at it."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.tick = 0.0

    def monotonic(self) -> float:
        self.now += self.tick
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


def stop_time(monkeypatch: pytest.MonkeyPatch) -> StillClock:
    """The clock, from now on, of everything that decides about an account."""
    still = StillClock()
    for module in (account, book, cancel, flatten, verify):
        monkeypatch.setattr(module, "time", still)
    for waiting in (flatten, verify):
        monkeypatch.setattr(waiting, "asyncio", SimpleNamespace(sleep=still.sleep))
    return still


@dataclass
class TimedVenue(Broker):
    """Times are seconds since it was made."""

    time: StillClock
    orders: Sequence[Order] = ()
    holdings: Sequence[Position] = ()
    unreadable_orders: Sequence[Unreadable] = ()
    unreadable_holdings: Sequence[Unreadable] = ()
    market: MarketClock | BrokerError = OPEN
    trouble: BrokerError | None = None
    """What every request is answered with, instead."""
    orders_trouble: BrokerError | None = None
    """What listing the orders is answered with, instead."""
    lookup_trouble: BrokerError | None = None
    """What looking an order up is answered with, instead."""
    cancel_trouble: BrokerError | None = None
    """What cancelling is answered with, instead."""
    resisting: str = ""
    """Why no order can be cancelled; empty where each can."""
    only_in_bulk: frozenset[str] = frozenset()
    """Orders that are cancelled by a request for all and by no other."""
    ended: Sequence[Order] = ()
    """Orders that are not open any more, and can be looked up."""
    changes: Mapping[float, Mapping[str, Any]] = field(default_factory=dict)
    """Which of the above are different from these moments on."""
    capabilities: Capabilities = ABLE
    latency: float = 0.0
    """Seconds that each request takes."""
    answer: Callable[[CloseOrder], CloseResult] | None = None
    """What a close is answered with; without one, each is taken and fills whole at once."""
    bulk_answer: Callable[[], Sequence[CloseResult]] | None = None
    """What closing everything is answered with; without one, each position is closed at once."""
    most: int = 500
    """Requests after which it is held to go on for ever."""
    name: str = NAME
    asked: list[tuple[float, str]] = field(default_factory=list)
    """When, and what."""
    canceled: list[str] = field(default_factory=list)
    """The ids of the orders that it was asked to cancel one by one."""
    closes: list[CloseOrder] = field(default_factory=list)
    repeats_until: set[float] = field(default_factory=set)
    """Until when it was let to repeat a request, to the thousandth of a second."""
    started: float = field(init=False)

    def __post_init__(self) -> None:
        self.started = self.time.now

    def when(self, what: str) -> list[float]:
        """The moments at which it was asked for that, to the thousandth of a second."""
        return [round(at, 3) for at, asked in self.asked if asked == what]

    def _ask(self, what: str) -> None:
        self.asked.append((self.time.now - self.started, what))
        self.repeats_until.add(round(repeat_until.get() - self.started, 3))
        assert len(self.asked) <= self.most, f"it goes on for ever: {self.asked[-5:]}"
        self.time.now += self.latency
        until_now = self.time.now - self.started + 1e-9
        for moment in sorted(each for each in self.changes if each <= until_now):
            for name, value in self.changes[moment].items():
                setattr(self, name, value)
        self.changes = {moment: what for moment, what in self.changes.items() if moment > until_now}
        if self.trouble is not None:
            raise self.trouble

    async def open_orders(self) -> Listed[Order]:
        self._ask("orders")
        if self.orders_trouble is not None:
            raise self.orders_trouble
        return Listed(tuple(self.orders), tuple(self.unreadable_orders))

    async def positions(self) -> Listed[Position]:
        self._ask("positions")
        return Listed(tuple(self.holdings), tuple(self.unreadable_holdings))

    async def clock(self) -> MarketClock:
        self.asked.append((self.time.now - self.started, "clock"))
        if isinstance(self.market, BrokerError):
            raise self.market
        return self.market

    async def account(self) -> Account:
        return Account("A", "USD", Decimal(100_000), Decimal(100_000))

    async def order(self, client_order_id: str, symbol: str | None = None) -> Order | None:
        self._ask("order")
        if self.lookup_trouble is not None:
            raise self.lookup_trouble
        known = (*self.orders, *self.ended)
        asked = client_order_id, symbol  # as at many a venue, without its symbol no order is found
        return next((order for order in known if (order.client_order_id, order.symbol) == asked), None)

    async def cancel_all(self) -> Sequence[CancelResult]:
        self._ask("cancel all")
        return [self._cancel(order_id) for order_id in self._ids()]

    async def cancel(self, order_id: str) -> CancelResult:
        self._ask("cancel")
        self.canceled.append(order_id)
        if order_id in self.only_in_bulk:
            return CancelResult(order_id, CancelOutcome.REFUSED, "somebody else's", only_in_bulk=True)
        return self._cancel(order_id)

    def _ids(self) -> list[str]:
        """Under which something can be cancelled."""
        if self.cancel_trouble is not None:
            raise self.cancel_trouble
        return [*(order.id for order in self.orders), *(item.id for item in self.unreadable_orders if item.id)]

    def _cancel(self, order_id: str) -> CancelResult:
        if order_id not in self._ids():
            return CancelResult(order_id, CancelOutcome.NOT_OPEN)
        if self.resisting:
            return CancelResult(order_id, CancelOutcome.REFUSED, self.resisting)
        self.orders = [order for order in self.orders if order.id != order_id]
        self.unreadable_orders = [item for item in self.unreadable_orders if item.id != order_id]
        return CancelResult(order_id, CancelOutcome.ACCEPTED)

    async def close(self, request: CloseOrder) -> CloseResult:
        self._ask("close")
        self.closes.append(request)
        if self.answer is not None:
            return self.answer(request)
        self.holdings = [held for held in self.holdings if held.key != request.key]
        return CloseResult(request.symbol, CloseOutcome.ACCEPTED)

    async def close_all(self) -> Sequence[CloseResult]:
        self._ask("close all")
        if self.bulk_answer is not None:
            return self.bulk_answer()
        gone, self.holdings = self.holdings, ()
        return [CloseResult(held.symbol, CloseOutcome.ACCEPTED, bulk_close_of(held)) for held in gone]

    async def fills(self, since: datetime) -> Listed[Fill]:
        return Listed()

    async def aclose(self) -> None: ...


@dataclass
class Watched:
    """An account's part in a run, and what it recorded."""

    run: AccountRun
    records: list[tuple[str, Mapping[str, Any]]]

    def recorded(self, action: str) -> list[Mapping[str, Any]]:
        return [details for name, details in self.records if name == action]


async def nothing_to_write() -> None:
    """Records of these runs stay in memory."""


def watched(venue: TimedVenue, coverage: Coverage = WHOLE, **settings: Any) -> Watched:
    """A run that begins now."""
    records: list[tuple[str, Mapping[str, Any]]] = []
    chosen = KillSettings(**settings)
    clock = RunClock(chosen.deadline, venue.time.now)
    run = AccountRun(
        venue,
        INCIDENT,
        chosen,
        clock,
        lambda action, details: records.append((action, details)),
        AccountProgress(NAME),
        coverage,
        nothing_to_write,
    )
    return Watched(run, records)
