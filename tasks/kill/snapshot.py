"""Take a snapshot of the book before it is flattened, and forecast what flattening it will take."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass
from decimal import Decimal

from breaker.orders import ZERO, Account, MarketClock
from brokers.protocol import Broker, Capabilities
from tasks.kill.book import Book, read_book
from tasks.kill.flatten import BULK_CANCEL_FROM, BULK_CLOSE_FROM


@dataclass(frozen=True, slots=True)
class Forecast:
    """What flattening is expected to cost, before it is confirmed."""

    requests: int
    floor_seconds: float
    """The least time that the venue's rate limit allows for them; zero when they fit in one minute's allowance."""
    blocked: tuple[tuple[str, str], ...]
    """Symbols that cannot be closed now, each with the reason."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    account: str
    orders: int
    positions: int
    long_notional: Decimal
    short_notional: Decimal
    currency: str
    equity: Decimal
    book: Book
    market: MarketClock
    forecast: Forecast

    @property
    def notional(self) -> Decimal:
        return self.long_notional + self.short_notional


async def take_snapshot(broker: Broker) -> Snapshot:
    """Read one account. Raises `BrokerError` when the venue can't be read."""
    book, market, account = await asyncio.gather(read_book(broker), broker.clock(), broker.account())
    return Snapshot(
        account=broker.name,
        orders=len(book.orders),
        positions=sum(1 for position in book.positions if position.quantity),
        long_notional=sum((p.notional for p in book.positions if p.quantity > 0), ZERO),
        short_notional=sum((p.notional for p in book.positions if p.quantity < 0), ZERO),
        currency=account.currency,
        equity=account.equity,
        book=book,
        market=market,
        forecast=forecast(book, account, market, broker.capabilities),
    )


def forecast(book: Book, account: Account, market: MarketClock, capabilities: Capabilities) -> Forecast:
    """Pure: the requests that an undisturbed run needs, and what it already knows it cannot close."""
    orders, positions = len(book.orders), sum(1 for position in book.positions if position.quantity)
    read = max(1, math.ceil(orders / capabilities.page_size)) + 1
    cancels = 1 if capabilities.bulk_cancel and orders >= BULK_CANCEL_FROM else orders
    closes = 1 if capabilities.bulk_close and market.is_open and positions >= BULK_CLOSE_FROM else positions
    requests = read + cancels + read + closes + 2 * read
    limit = capabilities.requests_per_minute
    floor = 60.0 * ((requests - 1) // limit) if limit else 0.0
    return Forecast(requests, floor, tuple(_blocked(book, account, market)))


def _blocked(book: Book, account: Account, market: MarketClock) -> list[tuple[str, str]]:
    opens = f"{market.next_open:%Y-%m-%d %H:%M} UTC" if market.next_open else "the next session"
    blocked = []
    for position in book.positions:
        if account.trading_blocked:
            blocked.append((position.symbol, "the venue has blocked trading in this account"))
        elif not market.is_open and position.quantity != position.quantity.to_integral_value():
            blocked.append(
                (position.symbol, f"market closed and fractions trade in the session only: queued for {opens}")
            )
        elif not market.is_open:
            blocked.append(
                (position.symbol, f"market closed: extended hours if the venue has them, else queued for {opens}")
            )
    return blocked
