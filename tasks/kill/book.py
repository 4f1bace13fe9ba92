"""Read what a venue says of one account: its open orders, then its positions, and beside them its session."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import Decimal

from breaker.orders import MarketClock, Order, Position, Unreadable
from brokers.coverage import Coverage
from brokers.protocol import Broker, BrokerError, Listed

READING_SHARE = 0.5
"""Of the venue's rate limit, what readings may use up; the rest is for cancels and closes."""
MARKET_CLOCK_AGE = 5.0
"""Seconds after which the venue is asked for its session again: a market may open or close while we flatten."""
MARKET_CLOCK_BELIEVED = 60.0
"""Seconds for which an answer stands while no newer one comes."""
MARKET_CLOCK_PATIENCE = 0.5
"""Seconds that the first answer may hold up a round."""


@dataclass(frozen=True, slots=True)
class Book:
    """What the venue said, orders first; see `plan` for why the order of reading matters."""

    orders: tuple[Order, ...]
    positions: tuple[Position, ...]
    unreadable: tuple[Unreadable, ...] = ()
    beside: tuple[Position, ...] = ()
    """Positions that are not covered: they stay, and with them whatever they may be covered by."""
    unreadable_beside: tuple[Unreadable, ...] = ()

    @property
    def held(self) -> tuple[Position, ...]:
        """The positions that are not zero."""
        return tuple(position for position in self.positions if position.quantity)

    @property
    def open_orders(self) -> int:
        """How many orders are open, those that can't be read among them; the legs of one order count once."""
        unread = sum(item.what == "order" for item in self.unreadable)
        return len({order.cancel_id for order in self.orders}) + unread

    @property
    def open_positions(self) -> int:
        """How many positions are open, those that can't be read among them."""
        return len(self.held) + sum(item.what == "position" for item in self.unreadable)

    @property
    def empty(self) -> bool:
        return not self.orders and not self.held and not self.unreadable

    def without(self, dust: Mapping[str, Decimal]) -> Book:
        """The book but for the positions that are still what `dust` says of them."""
        rest = tuple(held for held in self.positions if dust.get(held.key) != held.quantity)
        return replace(self, positions=rest)


async def read_book(broker: Broker, coverage: Coverage) -> Book:
    """What is covered of the account. Raises `BrokerError`."""
    orders = await broker.open_orders()
    return book_of(orders, await broker.positions(), coverage)


def book_of(orders: Listed[Order], positions: Listed[Position], coverage: Coverage) -> Book:
    """What is covered of what the venue lists."""
    covered, held = coverage.of_orders(orders), coverage.of_positions(positions)
    return Book(
        covered.items,
        held.items,
        (*covered.unreadable, *held.unreadable),
        tuple(position for position in positions.items if position not in held.items),
        tuple(item for item in positions.unreadable if item not in held.unreadable),
    )


class MarketSession:
    """The venue's session, asked beside everything else: nothing waits for it, and nothing fails without it."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._known: MarketClock | None = None
        self._read_at = float("-inf")
        self._asking: asyncio.Task[MarketClock] | None = None

    def note(self, market: MarketClock | None) -> None:
        """Somebody has just asked the venue, so that it need not be asked again at once."""
        if market is not None:
            self._known, self._read_at = market, time.monotonic()

    async def now(self) -> MarketClock | None:
        """What is known; None when the venue has not told within the last minute."""
        if time.monotonic() - self._read_at > MARKET_CLOCK_AGE and self._asking is None:
            self._asking = asyncio.create_task(self._broker.clock())
        if self._asking is not None:
            patience = MARKET_CLOCK_PATIENCE if self._known is None else 0.0
            await asyncio.wait({self._asking}, timeout=patience)
            if self._asking.done():
                asked, self._asking = self._asking, None
                if asked.cancelled():  # by the adapter
                    self.note(None)
                    return self._believed()
                error = asked.exception()
                if error is not None and not isinstance(error, BrokerError):
                    raise error
                self.note(None if error is not None else asked.result())
        return self._believed()

    def _believed(self) -> MarketClock | None:
        return self._known if time.monotonic() - self._read_at <= MARKET_CLOCK_BELIEVED else None

    def close(self) -> None:
        """Wait for no answer any more."""
        if self._asking is not None:
            self._asking.cancel()
            self._asking = None


class ReadingAllowance:
    """So that polling a big or restless book never uses up what cancels and closes need. Times are monotonic seconds.

    A burst is free; then readings come no faster than `READING_SHARE` of the venue's limit is renewed.
    """

    def __init__(self, requests_per_minute: int | None) -> None:
        self._most = None if requests_per_minute is None else requests_per_minute * READING_SHARE
        self._left = self._most or 0.0
        self._counted_at: float | None = None

    def wait(self, weight: int, now: float) -> float:
        """Count a reading of that weight; how long to wait before the next one."""
        if self._most is None:
            return 0.0
        per_second = self._most / 60
        since = 0.0 if self._counted_at is None else now - self._counted_at
        self._left = min(self._most, self._left + since * per_second) - weight
        self._counted_at = now
        return max(0.0, -self._left / per_second)
