"""Read what the gate has to know of an order, whoever's object it is: exact values, or `InvalidOrder` and why.

All arithmetic is `Decimal`. An order's quantity is positive and its side says the direction; one for an amount of money
has none that is known.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

from breaker.orders import Side

_SIDES = {
    "buy": Side.BUY,
    "buy_to_open": Side.BUY,
    "buy_to_close": Side.BUY,
    "buy_to_cover": Side.BUY,
    "sell": Side.SELL,
    "sell_short": Side.SELL,
    "sell_to_open": Side.SELL,
    "sell_to_close": Side.SELL,
}
"""The sides that venues and their clients know; any other word is no side."""


class InvalidOrder(ValueError):
    """An order, a position or a quantity that makes no sense; the message is a clause that says which and why."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What is asked for. `quantity` is None in an order for an amount of money."""

    symbol: str
    side: Side
    quantity: Decimal | None


def terms_of(order: Any) -> Terms:
    """Raises `InvalidOrder` for what can't be an order."""
    symbol = getattr(order, "symbol", None)
    if not isinstance(symbol, str) or not symbol.strip(" /"):
        raise InvalidOrder("the order names no symbol")
    side = side_of(order)
    quantity, amount = getattr(order, "quantity", None), getattr(order, "notional", None)
    if amount is not None and quantity is None:
        _positive(amount, "the order's amount")
        return Terms(symbol, side, None)
    return Terms(symbol, side, _positive(quantity, "the order's quantity"))


def as_quantity(value: object, what: str) -> Decimal:
    """`value` as an exact, finite `Decimal`. A float is taken at the digits it prints, as its author meant it.

    Raises `InvalidOrder` for anything else: booleans, NaN, infinities, text that is no number.
    """
    if isinstance(value, bool) or not isinstance(value, (Decimal, int, float, str)):
        raise InvalidOrder(f"{what} is not a number: {value!r:.60}")
    try:
        quantity = Decimal(repr(value)) if isinstance(value, float) else Decimal(value)
    except InvalidOperation:
        raise InvalidOrder(f"{what} is not a number: {value!r:.60}") from None
    if not quantity.is_finite():
        raise InvalidOrder(f"{what} is not finite: {value!r:.60}")
    return quantity


def side_of(order: Any) -> Side:
    """The side of an order-like object: one of our own, a known word, or an enum of a client whose value is one.

    Raises `InvalidOrder` for anything else.
    """
    said = getattr(order, "side", None)
    if isinstance(said, Side):
        return said
    word = getattr(said, "value", said)
    if not isinstance(word, str) or word.lower() not in _SIDES:
        raise InvalidOrder(f"the order's side is {word!r:.40}, neither buy nor sell")
    return _SIDES[word.lower()]


def _positive(value: object, what: str) -> Decimal:
    number = as_quantity(value, what)
    if number <= 0:
        raise InvalidOrder(f"{what} is not positive: {number}")
    return number
