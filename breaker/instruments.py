"""Describe what is traded: its class, its steps, its multiplier and when it trades. Pure.

What a venue doesn't tell has a safe answer: the price step is that of the asset class, and there is no minimum.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields, replace
from decimal import ROUND_DOWN, ROUND_UP, Decimal
from enum import StrEnum

_CENT = Decimal("0.01")
_HUNDREDTH_OF_A_CENT = Decimal("0.0001")
_FINEST = Decimal("0.000000001")
_SIGNIFICANT_DIGITS = 4
_OPTION = re.compile(r"([A-Z]{1,6})\d?\d{6}([CP])\d{8}")


class AssetClass(StrEnum):
    """What kind of thing an instrument is."""

    EQUITY = "equity"
    OPTION = "option"
    CRYPTO = "crypto"
    """A pair of currencies, one of them not a state's, that is bought and sold itself (spot)."""
    PERPETUAL = "perpetual"
    """A swap without an end."""
    FUTURE = "future"
    FOREX = "forex"
    """A pair of states' currencies."""


class Session(StrEnum):
    """When an instrument trades."""

    EXTENDED = "extended"
    """In the venue's session, and before and after it by limit orders."""
    REGULAR = "regular"
    """In the venue's session only; orders for the next one can't be left there."""
    ALWAYS = "always"
    """Round the clock."""


@dataclass(frozen=True, slots=True)
class Instrument:
    """One instrument's rules at its venue.

    Attributes:
        asset_class: the kind.
        multiplier: units of the underlying per contract; 1 where the thing itself is traded.
        price_increment: the price step; None where only the rule of the asset class is known.
        quantity_increment: the quantity step; None where any quantity may be asked for.
        minimum_quantity: the least that an order may have; None where it is not known.
        maximum_quantity: the most that one order may have; None where it is not known.
        minimum_notional: the least that an order may be worth, in the currency it is priced in; None where not known.
        trades: when it trades, where its venue says; None: as its asset class does.
        price_bands: where the step depends on the price, each band's lowest price and its step, in order; empty
            otherwise.
        inverse: whether a contract is `multiplier` of money, settled in the coin that it is on: it gains the coins of
            which that money buys fewer as the price rises.
    """

    asset_class: AssetClass = AssetClass.EQUITY
    multiplier: Decimal = Decimal(1)
    price_increment: Decimal | None = None
    quantity_increment: Decimal | None = None
    minimum_quantity: Decimal | None = None
    maximum_quantity: Decimal | None = None
    minimum_notional: Decimal | None = None
    trades: Session | None = None
    price_bands: tuple[tuple[Decimal, Decimal], ...] = ()
    inverse: bool = False

    @property
    def session(self) -> Session:
        """When it trades."""
        return self.trades or _SESSIONS[self.asset_class]

    def completed_by(self, other: Instrument) -> Instrument:
        """With what the `other` says where this one doesn't; the other, where this one is only what is assumed."""
        if self == EQUITY:
            return other
        said = {each.name: getattr(self, each.name) for each in fields(self)}
        return replace(other, **{name: value for name, value in said.items() if value not in {None, ()}})

    def tick(self, price: Decimal) -> Decimal:
        """The price step at `price`.

        An equity has a cent from a dollar up, else a hundredth of one (SEC rule 612); an option a cent (Alpaca, options
        trading: two decimals). Anything else has the venue's own, else four significant digits and nine decimals at
        most.
        """
        if self.price_bands:
            reached = [step for lowest, step in self.price_bands if lowest <= price]
            return reached[-1] if reached else self.price_bands[0][1]
        if self.price_increment is not None:
            return self.price_increment
        if self.asset_class is AssetClass.OPTION:
            return _CENT
        if self.asset_class is not AssetClass.EQUITY:
            return max(Decimal(1).scaleb(price.adjusted() - _SIGNIFICANT_DIGITS + 1), _FINEST)
        return _CENT if price >= 1 else _HUNDREDTH_OF_A_CENT

    def price(self, target: Decimal, *, up: bool, coarser: int = 0) -> Decimal:
        """`target` in whole price steps, or ten times coarser ones, rounded up or down, and one step at least."""
        tick = self.tick(target).scaleb(coarser)
        steps = (target / tick).to_integral_value(rounding=ROUND_UP if up else ROUND_DOWN)
        return max(steps, Decimal(1)) * tick

    def worth(self, quantity: Decimal, price: Decimal) -> Decimal:
        """In the currency that it is priced in, signed as `quantity`; an inverse contract's is always the same."""
        return quantity * self.multiplier * (1 if self.inverse else price)

    def gain(self, quantity: Decimal, since: Decimal, price: Decimal) -> Decimal:
        """What a quantity, negative where it is short, has gained since a price, in the currency that it is priced in.

        An inverse contract's coins are taken at `price`: quantity × multiplier × (1 / since - 1 / price) of them.
        """
        if not self.inverse:
            return quantity * self.multiplier * (price - since)
        return quantity * self.multiplier * (price - since) / since if since else Decimal(0)

    def quantity(self, wanted: Decimal) -> Decimal:
        """The most of `wanted` that is in whole quantity steps."""
        if self.quantity_increment is None:
            return wanted
        return (wanted / self.quantity_increment).to_integral_value(rounding=ROUND_DOWN) * self.quantity_increment


EQUITY = Instrument()
OPTION = Instrument(AssetClass.OPTION, multiplier=Decimal(100), quantity_increment=Decimal(1))
CRYPTO = Instrument(AssetClass.CRYPTO)

_SESSIONS = {
    AssetClass.EQUITY: Session.EXTENDED,
    AssetClass.OPTION: Session.REGULAR,
    AssetClass.CRYPTO: Session.ALWAYS,
    AssetClass.PERPETUAL: Session.ALWAYS,
    AssetClass.FUTURE: Session.ALWAYS,
    AssetClass.FOREX: Session.ALWAYS,
}


def canonical_symbol(symbol: str) -> str:
    """The one spelling by which symbols are compared: `BTC/USD` and `BTCUSD` are the same pair."""
    return symbol.replace("/", "").upper()


def underlying_of(symbol: str) -> str:
    """What an option (by its OCC symbol) is written on; any other symbol itself."""
    match = _OPTION.fullmatch(symbol.replace(" ", ""))
    return match[1] if match else symbol


def concerns_symbol(named: str, symbol: str) -> bool:
    """Whether what is said of `named` concerns `symbol`: the same, however it is spelled, or an option written on it.

    The root of an option has no dot: those on `BRK.B` are called `BRKB…`.
    """
    wanted = canonical_symbol(named)
    if canonical_symbol(symbol) == wanted:
        return True
    return is_option(symbol) and underlying_of(symbol) == wanted.replace(".", "")


def right_of(symbol: str) -> str:
    """`C` for a call, `P` for a put (by its OCC symbol); empty for anything else."""
    match = _OPTION.fullmatch(symbol.replace(" ", ""))
    return match[2] if match else ""


def is_option(symbol: str) -> bool:
    """Whether `symbol` has the form that the Options Clearing Corporation gives to options."""
    return _OPTION.fullmatch(symbol.replace(" ", "")) is not None
