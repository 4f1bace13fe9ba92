"""Generate what an account at a crypto venue holds: pairs or perpetuals, dust, conditional and reduce-only orders.

Resting orders are far from the market, so they fill only by a race or a price move. None that may do more than reduce
is larger than what it would reduce, so that nothing but a client turns a position over.
"""

from __future__ import annotations

from collections.abc import Iterator
from decimal import ROUND_DOWN, Decimal
from random import Random
from typing import Final

from breaker.orders import OrderType, Side
from sandbox.exchange.book import Book
from sandbox.exchange.crypto_assets import CASH, COINS
from sandbox.exchange.orders import PaperPosition
from sandbox.exchange.scenario import OrderEntry, Protocol, ResubmissionEntry, Scenario

_MOST_WORTH: Final = 30_000


class CryptoBook:
    """One scenario's; the same seed gives the same. What it needs it lists in the book's prices."""

    def __init__(self, scenario: Scenario, book: Book, random: Random) -> None:
        self._counts = scenario.book
        self._is_spot = scenario.protocol is Protocol.BINANCE_SPOT
        self._book = book
        self._random = random
        self._held: list[PaperPosition] = []

    def list_assets(self) -> None:
        """The best-known coins at about their usual prices, and what other pairs are paid from."""
        for coin in COINS:
            if coin != CASH and (self._is_spot or coin != "USDC"):
                self._list(f"{coin}/{CASH}" if self._is_spot else f"{coin}{CASH}")

    @property
    def most_orders(self) -> int:
        """No more orders than these come of it."""
        return self._counts.orders + self._counts.algo + self._counts.reduce_only

    def positions(self) -> Iterator[PaperPosition]:
        """Positions in symbols that nothing is held of yet."""
        counts = self._counts
        for index, symbol in enumerate(self._unheld(max(counts.positions, counts.both_legs))):
            is_short = not self._is_spot and self._random.random() < counts.short
            yield self._position(symbol, Side.SELL if is_short else Side.BUY)
            if self._book.hedged and index < counts.both_legs:
                yield self._position(symbol, Side.BUY if is_short else Side.SELL)
        for symbol in self._unheld(counts.dust):
            yield PaperPosition(symbol, self._dust(symbol), self._book.prices[symbol])

    def orders(self) -> Iterator[OrderEntry]:
        """Orders for what is held already and for other symbols."""
        held = list(self._held)
        self._random.shuffle(held)
        for position in held[: self._counts.reduce_only]:
            yield self._resting(position.symbol, position.closing_side, abs(position.qty), position, reduce_only=True)
        for index in range(self._counts.algo):
            if held:
                yield self._conditional(held[index % len(held)], index)
        yield from self._resting_orders()

    # Positions

    def _list(self, symbol: str) -> None:
        asset = self._book.asset(symbol)
        usual = asset.usual_price * self._random.randint(80, 120) / 100
        tick = asset.tick(usual)
        self._book.prices.setdefault(symbol, (usual / tick).to_integral_value(ROUND_DOWN) * tick)

    def _unheld(self, count: int) -> list[str]:
        held = {position.symbol for position in self._book.positions.values()}
        listed = [
            symbol for symbol in self._book.prices if symbol not in held and not self._book.asset(symbol).paid_from
        ]
        self._random.shuffle(listed)
        while len(listed) < count:
            symbol = f"COIN{len(self._book.prices)}{'/' if self._is_spot else ''}{CASH}"
            self._list(symbol)
            listed.append(symbol)
        return listed[:count]

    def _position(self, symbol: str, side: Side) -> PaperPosition:
        qty = side.sign * self._size(symbol, self._random.randint(500, _MOST_WORTH))
        position = PaperPosition(symbol, qty, self._book.prices[symbol], position_side=self._book.opened_by(side))
        self._held.append(position)
        return position

    def _size(self, symbol: str, worth: int) -> Decimal:
        step = self._book.asset(symbol).quantity_increment
        return max((worth / self._book.prices[symbol] / step).to_integral_value(ROUND_DOWN), Decimal(1)) * step

    def _dust(self, symbol: str) -> Decimal:
        """Less than a step, or less than the least that a sale may bring."""
        asset = self._book.asset(symbol)
        steps = (asset.minimum_cost / 2 / self._book.prices[symbol] / asset.quantity_increment).to_integral_value(
            ROUND_DOWN
        )
        crumbs = asset.quantity_increment / self._random.choice([3, 7])
        return (steps * asset.quantity_increment + crumbs).quantize(Decimal("1e-8"), ROUND_DOWN)

    # Orders

    def _resting_orders(self) -> Iterator[OrderEntry]:
        counts = self._counts
        others = self._unheld(max(10, counts.orders // 10))
        # One side for each symbol without a position: two that race into it must not turn it over.
        sides = {symbol: Side.BUY if self._is_spot else self._random.choice(list(Side)) for symbol in others}
        for index in range(counts.orders):
            entry = self._resting_order(others, sides)
            if index < counts.pending_cancel:
                pending = {"status": "pending_cancel", "status_for": counts.pending_cancel_for}
                entry = entry.model_copy(update=pending)
            elif index < counts.pending_cancel + counts.strategies:
                again = ResubmissionEntry(
                    times=counts.strategy_times, seconds=counts.strategy_for, delay=counts.strategy_delay
                )
                entry = entry.model_copy(update={"again": again})
            yield entry

    def _resting_order(self, others: list[str], sides: dict[str, Side]) -> OrderEntry:
        """For a part of a position that nothing else holds, for more of it, or for something new."""
        position = self._random.choice(self._held) if self._held and self._random.random() < 0.7 else None
        if position is None:
            symbol = self._random.choice(others)
            return self._resting(symbol, sides[symbol], self._size(symbol, self._random.randint(50, 2_000)), None)
        step = self._book.asset(position.symbol).quantity_increment
        part = self._book.available(position) * self._random.randint(10, 60) / 100
        part = (part / step).to_integral_value(ROUND_DOWN) * step
        if part and self._random.random() < self._counts.reducing:
            sometimes = self._random.random() < 0.5
            return self._resting(position.symbol, position.closing_side, part, position, reduce_only=sometimes)
        more = self._size(position.symbol, self._random.randint(50, 2_000))
        return self._resting(position.symbol, position.closing_side.opposite, more, position)

    def _resting(
        self, symbol: str, side: Side, qty: Decimal, position: PaperPosition | None, *, reduce_only: bool = False
    ) -> OrderEntry:
        return OrderEntry(
            symbol=symbol,
            side=side,
            qty=qty,
            limit_price=self._away(symbol, -side.sign),
            position_side=position.position_side if position else None,
            reduce_only=reduce_only and not self._is_spot and not self._book.hedged,
        )

    def _conditional(self, position: PaperPosition, index: int) -> OrderEntry:
        """A stop-loss or a take-profit, for all of the position or for so much."""
        side = position.closing_side
        takes_profit = index % 2 == 1
        closes_all = index % 4 < 2
        return OrderEntry(
            symbol=position.symbol,
            side=side,
            qty=abs(position.qty),
            type=OrderType.STOP,
            stop_price=self._away(position.symbol, -side.sign if takes_profit else side.sign),
            position_side=position.position_side,
            reduce_only=not closes_all and not self._book.hedged,
            close_position=closes_all,
            takes_profit=takes_profit,
        )

    def _away(self, symbol: str, sign: int) -> Decimal:
        """A price 10 to 30 % above the market, or below it."""
        price = self._book.prices[symbol] * (1 + sign * Decimal(self._random.randint(10, 30)) / 100)
        tick = self._book.asset(symbol).tick(price)
        return max((price / tick).to_integral_value(ROUND_DOWN), Decimal(1)) * tick
