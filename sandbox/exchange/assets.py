"""Know what is listed: each asset's class, its price and quantity steps, its minimum and its multiplier. Pure.

A pair of crypto currencies is `BTC/USD` in orders and `BTCUSD` in positions; requests may say either (Alpaca, crypto
trading). The exchange itself says `BTC/USD`. An option has the symbol that the Options Clearing Corporation gives it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from functools import lru_cache
from typing import Final

from breaker.instruments import AssetClass
from breaker.orders import ZERO
from sandbox.exchange.futures_forex_assets import PAIRS as FOREX_PAIRS
from sandbox.exchange.futures_forex_assets import PAIRS_TICK, future_root, pair_of

_CENT: Final = Decimal("0.01")
_HUNDREDTH_OF_A_CENT: Final = Decimal("0.0001")
_OPTION: Final = re.compile(r"(?P<underlying>[A-Z]{1,6})\d?(?P<expiry>\d{6})(?P<right>[CP])(?P<strike>\d{8})")


ALWAYS_OPEN: Final = frozenset({AssetClass.CRYPTO, AssetClass.PERPETUAL})
"""What trades round the clock."""


@dataclass(frozen=True, slots=True)
class Asset:
    """What one asset's orders must obey."""

    symbol: str
    """As orders have it."""
    asset_class: AssetClass = AssetClass.EQUITY
    quantity_increment: Decimal = Decimal("0.000000001")
    price_increment: Decimal | None = None
    """None: a cent from a dollar up, else a hundredth of a cent (SEC rule 612)."""
    price_bands: tuple[tuple[Decimal, Decimal], ...] = ()
    """Where the step depends on the price: each band's lowest price and its step, in order."""
    minimum_quantity: Decimal = ZERO
    minimum_cost: Decimal = ZERO
    """The least that a purchase may cost."""
    usual_price: Decimal = Decimal(100)
    maximum_quantity: Decimal | None = None
    maximum_market_quantity: Decimal | None = None
    """The most that an order without a price may have."""
    paid_from: str = ""
    """The pair whose currency it is paid in, where that is not the account's."""
    units: Decimal = Decimal(1)
    """Of the underlying, in one contract of a future."""
    last_trade: date | None = None
    """The last day on which a future or an option trades, where the scenario says so; no such day otherwise."""

    @property
    def multiplier(self) -> Decimal:
        """Units of the underlying per contract."""
        return Decimal(100) if self.asset_class is AssetClass.OPTION else self.units

    @property
    def position_symbol(self) -> str:
        """As positions have it."""
        return in_positions(self.symbol)

    def tick(self, price: Decimal) -> Decimal:
        """The price step at `price`."""
        if self.price_bands:
            return next(step for lowest, step in reversed(self.price_bands) if lowest <= abs(price))
        if self.price_increment is not None:
            return self.price_increment
        return _CENT if abs(price) >= 1 else _HUNDREDTH_OF_A_CENT


@dataclass(frozen=True, slots=True)
class Contract:
    """What an option's symbol says."""

    underlying: str
    is_call: bool


def _pair(symbol: str, price: str, minimum: str, increment: str) -> Asset:
    return Asset(
        symbol,
        AssetClass.CRYPTO,
        price_increment=Decimal(increment),
        minimum_quantity=Decimal(minimum),
        minimum_cost=Decimal(10),
        usual_price=Decimal(price),
    )


PAIRS: Final = {
    pair.symbol: pair
    for pair in (
        _pair("BTC/USD", "95000", "0.00001", "0.01"),
        _pair("ETH/USD", "3500", "0.0003", "0.01"),
        _pair("SOL/USD", "180", "0.005", "0.01"),
        _pair("LTC/USD", "90", "0.01", "0.001"),
        _pair("LINK/USD", "13", "0.07", "0.001"),
        _pair("DOGE/USD", "0.15", "6", "0.00001"),
        _pair("SHIB/USD", "0.00001234", "80000", "0.00000001"),
    )
}
"""Listed without being named in the scenario; others with a slash in their symbol are pairs too."""
_SPELLINGS: Final = {symbol.replace("/", ""): symbol for symbol in PAIRS}


def in_orders(symbol: str) -> str:
    """The spelling of orders, whichever of a listed pair's two is given."""
    return _SPELLINGS.get(symbol, symbol)


def in_positions(symbol: str) -> str:
    """The spelling of positions."""
    return symbol.replace("/", "")


@lru_cache(maxsize=4_096)
def contract_of(symbol: str) -> Contract | None:
    """What an option's symbol says; None for anything else."""
    match = _OPTION.fullmatch(symbol)
    return Contract(match["underlying"], match["right"] == "C") if match else None


def asset_of(symbol: str) -> Asset:
    """The asset of this symbol, in the spelling of orders: Alpaca's, or a future or pair of Interactive Brokers."""
    if symbol in PAIRS:
        return PAIRS[symbol]
    if "/" in symbol:
        return Asset(symbol, AssetClass.CRYPTO, price_increment=_HUNDREDTH_OF_A_CENT, minimum_cost=Decimal(10))
    if contract_of(symbol):
        return Asset(symbol, AssetClass.OPTION, quantity_increment=Decimal(1), price_increment=_CENT)
    if root := future_root(symbol):
        return Asset(
            symbol,
            AssetClass.FUTURE,
            quantity_increment=Decimal(1),
            price_increment=root.tick,
            usual_price=root.price,
            units=root.multiplier,
        )
    if pair_of(symbol):
        price = FOREX_PAIRS.get(symbol, Decimal(1))
        return Asset(
            symbol, AssetClass.FOREX, quantity_increment=Decimal(1), price_increment=PAIRS_TICK, usual_price=price
        )
    return Asset(symbol)
