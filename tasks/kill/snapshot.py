"""Read the book as it is before it is flattened, and foretell what flattening it will take."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import TypeVar

from breaker.instruments import Session
from breaker.orders import ZERO, Account, MarketClock, Position
from brokers.coverage import Coverage
from brokers.protective import can_wait, protective_orders
from brokers.protocol import Broker, BrokerError, Capabilities
from tasks.kill.book import Book, read_book
from tasks.kill.cancel import BULK_CANCEL_FROM
from tasks.kill.flatten import BULK_CLOSE_FROM

READINGS = 4
"""Of the whole book in an undisturbed run: before the cancels, before the closes, and the two that agree on flat."""
BESIDE_WITHIN = 2.0
"""Seconds that the venue may take to tell of its session and the account; the book is read without them."""

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Forecast:
    """What flattening is expected to cost, before it is confirmed."""

    requests: int
    floor_seconds: float
    """The least time that the venue's rate limit allows for them; zero when they fit in one minute's allowance."""
    blocked: tuple[tuple[str, str], ...]
    """Positions that cannot be closed now, each with the reason."""
    protective: int = 0
    """Stops and take-profits that stay until their position is about to be closed."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    account: str
    orders: int
    positions: int
    long_notional: Decimal
    short_notional: Decimal
    currency: str
    """Empty where the venue did not tell of the account."""
    equity: Decimal | None
    book: Book
    market: MarketClock | None
    """None where the venue did not tell its session."""
    forecast: Forecast

    @property
    def notional(self) -> Decimal:
        return self.long_notional + self.short_notional


async def take_snapshot(broker: Broker, coverage: Coverage, *, lock_is_ours: bool = False) -> Snapshot:
    """Read what is covered of one account. Raises `BrokerError` when the book can't be read; else does without.

    With `lock_is_ours` trading is suspended, if it is, by an earlier kill switch, and this one lifts that to close.
    """
    book, market, account = await asyncio.gather(
        read_book(broker, coverage), _if_told(broker.clock()), _if_told(broker.account())
    )
    return Snapshot(
        account=broker.name,
        orders=book.open_orders,
        positions=book.open_positions,
        long_notional=sum((p.notional for p in book.positions if p.quantity > 0), ZERO),
        short_notional=sum((p.notional for p in book.positions if p.quantity < 0), ZERO),
        currency=account.currency if account else "",
        equity=account.equity if account else None,
        book=book,
        market=market,
        forecast=forecast(
            book,
            account,
            market,
            broker.capabilities,
            lock_is_ours=lock_is_ours,
            in_bulk=coverage.whole_accounts,
        ),
    )


async def _if_told(asked: Awaitable[_T]) -> _T | None:
    """The answer, or None: nothing but orders and positions is needed to close."""
    try:
        async with asyncio.timeout(BESIDE_WITHIN):
            return await asked
    except (BrokerError, TimeoutError):
        return None


def forecast(
    book: Book,
    account: Account | None,
    market: MarketClock | None,
    capabilities: Capabilities,
    *,
    lock_is_ours: bool = False,
    in_bulk: bool = True,
) -> Forecast:
    """Pure: the requests that an undisturbed run needs, and what it already knows it cannot close.

    `in_bulk` says whether the book is all of the account, so that bulk requests may be used.
    """
    orders, positions = book.open_orders, book.open_positions
    protective = len(protective_orders(book.orders, book.positions))
    weights, pages = capabilities.weights, max(1, math.ceil(orders / capabilities.page_size))
    read = pages + 1
    bulk_cancel = in_bulk and capabilities.bulk_cancel and orders >= BULK_CANCEL_FROM and not protective
    cancels = 1 if bulk_cancel else math.ceil(orders / max(1, capabilities.batch_cancel))
    is_open = market is not None and market.is_open
    closes = 1 if in_bulk and capabilities.bulk_close and is_open and positions >= BULK_CLOSE_FROM else positions
    requests = cancels + closes + READINGS * read
    reading = pages * weights.open_orders + weights.positions
    cancel = weights.cancel_all if bulk_cancel else weights.cancel_many if capabilities.batch_cancel else weights.cancel
    weight = cancels * cancel + closes * weights.close + READINGS * reading
    limit = capabilities.requests_per_minute
    floor = 60.0 * ((weight - 1) // limit) if limit else 0.0
    kept = protective if can_wait(protective, orders - protective, limit) else 0
    return Forecast(requests, floor, tuple(_blocked(book, _locked(account, lock_is_ours), market)), kept)


def _locked(account: Account | None, lock_is_ours: bool) -> str:
    """Why the account takes no order at all; empty where it does, or will once the kill switch has lifted its lock."""
    if account is None:
        return ""
    return account.trading_blocked or ("" if lock_is_ours else account.trading_suspended)


def _blocked(book: Book, locked: str, market: MarketClock | None) -> Iterator[tuple[str, str]]:
    for item in book.unreadable:
        yield item.symbol or item.id, str(item)
    for position in book.held:
        its_market = position.market or market
        if locked:
            yield position.key, locked
        elif its_market is not None and not its_market.is_open and (why := _outside(position, its_market)):
            yield position.key, why


def _outside(position: Position, market: MarketClock) -> str:
    """What the closed session means for this position; nothing for what trades round the clock."""
    opens = f"{market.next_open:%Y-%m-%d %H:%M} UTC" if market.next_open else "the next session"
    match position.instrument.session:
        case Session.ALWAYS:
            return ""
        case Session.REGULAR:
            return f"market closed, and nothing can be queued: closed at {opens}"
        case Session.EXTENDED:
            return f"market closed: extended hours if the venue has them, else queued for {opens}"
