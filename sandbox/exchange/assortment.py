"""Generate what a mixed book holds beside equities: pairs, options, spreads, futures, dust, and their orders.

Resting orders are far from the market, so they fill only by a race or a price move.
"""

from __future__ import annotations

from collections.abc import Iterator
from decimal import ROUND_DOWN, Decimal
from random import Random
from typing import Final

from breaker.orders import Side, TimeInForce
from sandbox.exchange.assets import PAIRS
from sandbox.exchange.book import Book
from sandbox.exchange.futures_forex_assets import FUTURES
from sandbox.exchange.futures_forex_assets import PAIRS as FOREX_PAIRS
from sandbox.exchange.orders import PaperPosition
from sandbox.exchange.scenario import LegEntry, OrderEntry, Scenario

_EXPIRIES: Final = ("261218", "270115")
_FUTURES_MONTHS: Final = ("Z6", "H7")
_CENT: Final = Decimal("0.01")
_FINEST: Final = Decimal("0.000000001")
_SMALLEST_DUST: Final = Decimal("0.000000005")


class Assortment:
    """One scenario's; the same seed and equities give the same. What it needs it lists in the book's prices."""

    def __init__(self, scenario: Scenario, book: Book, random: Random) -> None:
        self._counts = scenario.book
        self._book = book
        self._random = random
        self._pairs = list(PAIRS)
        random.shuffle(self._pairs)
        self._forex = list(FOREX_PAIRS)
        self._futures = [f"{root}{month}" for root in FUTURES for month in _FUTURES_MONTHS]
        self._held: dict[str, list[PaperPosition]] = {
            kind: [] for kind in ("crypto", "options", "spreads", "futures", "forex")
        }

    @property
    def most_orders(self) -> int:
        """No more orders than these come of it."""
        counts = self._counts
        brokered = counts.futures + counts.forex
        return counts.crypto + counts.options + counts.notional + counts.multi_leg + brokered

    def positions(self) -> Iterator[PaperPosition]:
        """Positions in symbols that nothing is held of yet."""
        counts = self._counts
        for _ in range(counts.crypto):
            yield self._keep("crypto", self._coins(self._random.randint(500, 30_000)))
        for _ in range(counts.dust):
            yield self._dust()
        for _ in range(counts.options):
            right = self._random.choice("CP")
            yield self._keep("options", self._option(self._any_underlying(), right, self._random.randint(1, 20)))
        for _ in range(counts.spreads):
            yield from self._spread()
        for _ in range(counts.covered_calls):
            yield from self._covered_call()
        for symbol in self._some(self._futures, counts.futures):
            yield self._keep("futures", self._long_or_short(symbol, self._random.randint(1, 12)))
        for symbol in self._some(self._forex, counts.forex):
            yield self._keep("forex", self._long_or_short(symbol, self._random.randint(500, 60_000)))

    def orders(self) -> Iterator[OrderEntry]:
        """Orders for what is held already, most of which would reduce it."""
        counts = self._counts
        for position in self._held["crypto"]:
            yield self._resting(position, TimeInForce.GTC, _FINEST)
        for position in self._held["options"]:
            yield self._resting(position, TimeInForce.DAY, Decimal(1))
        for position in (*self._held["futures"], *self._held["forex"]):
            yield self._resting(position, TimeInForce.GTC, Decimal(1))
        for _ in range(counts.notional):
            yield self._for_an_amount()
        for index in range(counts.multi_leg):
            yield self._with_legs(index)

    # Positions

    def _coins(self, worth: int) -> PaperPosition:
        symbol = self._next_pair()
        price = self._book.prices[symbol]
        qty = (Decimal(worth) / price).quantize(_FINEST, ROUND_DOWN)
        return PaperPosition(symbol, qty, price)

    def _dust(self) -> PaperPosition:
        symbol = self._next_pair()
        half = (self._book.asset(symbol).minimum_quantity / 2).quantize(_FINEST, ROUND_DOWN)
        return PaperPosition(symbol, self._random.choice([_SMALLEST_DUST, half]), self._book.prices[symbol])

    def _next_pair(self) -> str:
        symbol = self._pairs.pop() if self._pairs else f"COIN{len(self._book.prices)}/USD"
        asset = self._book.asset(symbol)
        usual = asset.usual_price * self._random.randint(80, 120) / 100
        tick = asset.tick(usual)
        self._book.prices.setdefault(symbol, (usual / tick).to_integral_value(ROUND_DOWN) * tick)
        return symbol

    def _option(self, underlying: str, right: str, qty: int) -> PaperPosition:
        """A contract that nobody holds yet; strikes are in dollars."""
        while True:
            strike = self._random.randint(20, 900)
            symbol = f"{underlying}{self._random.choice(_EXPIRIES)}{right}{strike * 1000:08}"
            if symbol not in self._book.prices:
                break
        price = self._book.prices[symbol] = Decimal(self._random.randint(5, 2_000)) / 100
        return PaperPosition(symbol, Decimal(qty), price)

    def _spread(self) -> Iterator[PaperPosition]:
        underlying, right, qty = self._any_underlying(), self._random.choice("CP"), self._random.randint(1, 10)
        yield self._keep("spreads", self._option(underlying, right, -qty))
        yield self._keep("spreads", self._option(underlying, right, qty + self._random.choice([0, 0, 3])))

    def _covered_call(self) -> Iterator[PaperPosition]:
        underlying, qty = self._unheld_underlying(), self._random.randint(1, 5)
        yield self._option(underlying, "C", -qty)
        shares = 100 * qty + self._random.choice([0, 0, 50])
        yield PaperPosition(underlying, Decimal(shares), self._book.prices[underlying])

    def _some(self, symbols: list[str], count: int) -> list[str]:
        return self._random.sample(symbols, min(count, len(symbols)))

    def _long_or_short(self, symbol: str, qty: int) -> PaperPosition:
        price = self._book.prices.setdefault(symbol, self._book.asset(symbol).usual_price)
        return PaperPosition(symbol, Decimal(self._random.choice([qty, -qty])), price)

    def _any_underlying(self) -> str:
        return self._random.choice([symbol for symbol in self._book.prices if symbol.isalpha()])

    def _unheld_underlying(self) -> str:
        unheld = [symbol for symbol in self._book.prices if symbol.isalpha() and symbol not in self._book.positions]
        return self._random.choice(unheld)

    def _keep(self, kind: str, position: PaperPosition) -> PaperPosition:
        self._held[kind].append(position)
        return position

    # Orders

    def _resting(self, position: PaperPosition, force: TimeInForce, step: Decimal) -> OrderEntry:
        """For a part of the position, or for more of the same."""
        part = (abs(position.qty) * self._random.randint(10, 100) / 100).quantize(step, ROUND_DOWN)
        side = self._random.choice([position.closing_side, position.closing_side, position.closing_side.opposite])
        return OrderEntry(
            symbol=position.symbol,
            side=side,
            qty=max(part, step),
            time_in_force=force,
            limit_price=self._far(position.symbol, side),
        )

    def _for_an_amount(self) -> OrderEntry:
        """A purchase of a few hundred dollars, or a sale of a long position's half."""
        longs = [p for p in self._book.positions.values() if p.symbol.isalpha() and self._book.available(p) >= 2]
        position = self._random.choice(longs) if longs and self._random.random() < 0.5 else None
        if position is None or position.qty < 0:
            symbol, side, amount = self._any_underlying(), Side.BUY, Decimal(self._random.randint(50, 900))
        else:
            symbol, side = position.symbol, Side.SELL
            amount = self._book.value(symbol, self._book.available(position) / 2)
        return OrderEntry(
            symbol=symbol,
            side=side,
            notional=amount.quantize(_CENT),
            time_in_force=TimeInForce.DAY,
            limit_price=self._far(symbol, side),
        )

    def _with_legs(self, index: int) -> OrderEntry:
        """It closes one of the spreads, while there are any that no such order closes, or opens one."""
        pair = self._held["spreads"][2 * index : 2 * index + 2]
        if pair:
            legs = [LegEntry(symbol=position.symbol, side=position.closing_side) for position in pair]
            qty = min(abs(position.qty) for position in pair)
        else:
            underlying, right = self._any_underlying(), self._random.choice("CP")
            bought, sold = self._option(underlying, right, 1), self._option(underlying, right, 1)
            legs = [LegEntry(symbol=bought.symbol, side=Side.BUY), LegEntry(symbol=sold.symbol, side=Side.SELL)]
            qty = Decimal(self._random.randint(1, 5))
        net = sum(leg.side.sign * self._book.prices[leg.symbol] for leg in legs)
        return OrderEntry(legs=tuple(legs), qty=qty, time_in_force=TimeInForce.DAY, limit_price=net - 3)

    def _far(self, symbol: str, side: Side) -> Decimal:
        price = self._book.prices[symbol] * (1 - side.sign * Decimal(self._random.randint(10, 30)) / 100)
        tick = self._book.asset(symbol).tick(price)
        return max((price / tick).to_integral_value(ROUND_DOWN), Decimal(1)) * tick
