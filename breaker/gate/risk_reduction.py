"""Tell whether an order only reduces risk, which is all that a halted breaker still lets through.

All arithmetic is `Decimal`. A position is signed (short is negative); an order's quantity is positive and its side
says the direction. An order reduces when, whatever part of it and of the closing orders already working fills, the
position never crosses zero and never grows: +100 → −50 is not a reduction although 50 is less than 100.
"""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal, InvalidOperation
from typing import Any

from breaker.orders import ZERO, Side


class InvalidOrder(ValueError):
    """An order, a position or a quantity that makes no sense; the message says which and why."""


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


def order_terms(order: Any) -> tuple[str, Side, Decimal]:
    """Symbol, side and quantity of an order-like object; raises `InvalidOrder` when one is missing or senseless."""
    symbol = getattr(order, "symbol", None)
    if not isinstance(symbol, str) or not symbol:
        raise InvalidOrder("the order names no symbol")
    try:
        side = Side(str(getattr(order, "side", None)).lower())
    except ValueError:
        raise InvalidOrder("the order's side is neither buy nor sell") from None
    quantity = as_quantity(getattr(order, "quantity", None), "the order's quantity")
    if quantity <= 0:
        raise InvalidOrder(f"the order's quantity is not positive: {quantity}")
    return symbol, side, quantity


def why_not_reducing(order: Any, position: Any, working: Iterable[Any] = ()) -> str | None:
    """None when the order can only reduce the position, else a clause that says why it can't be let through.

    `position` is a `breaker.orders.Position`, or a signed number, or None when it is not known (then the answer is
    no). `working` are the open orders of the account; those that close this position are counted at their remaining
    quantity. A `Position` that says how much of it is `available` is believed where that is less.
    Raises `InvalidOrder` when the order, the position or a working order makes no sense.
    """
    symbol, side, quantity = order_terms(order)
    if position is None:
        return "the position is not known"
    held, available = _holding(position, symbol)
    if held == 0:
        return f"there is no position in {symbol} to reduce"
    if side.sign * held > 0:
        return f"a {side} adds to a position of {held}"
    closing = sum((_remaining(o) for o in working if _closes(o, symbol, side)), ZERO)
    room = min(abs(held) - closing, available)
    if quantity > room:
        return f"a {side} of {quantity} could cross zero: position {held}, {max(room, ZERO)} of it not being closed yet"
    return None


def _holding(position: Any, symbol: str) -> tuple[Decimal, Decimal]:
    """The signed quantity held, and how much of its size no order holds."""
    if isinstance(position, (Decimal, int, float, str)):
        held = as_quantity(position, "the position")
        return held, abs(held)
    of = getattr(position, "symbol", None)
    if of != symbol:
        raise InvalidOrder(f"the position is in {of!r:.60}, the order in {symbol}")
    held = as_quantity(getattr(position, "quantity", None), "the position's quantity")
    available = getattr(position, "available", None)
    free = abs(held) if available is None else abs(as_quantity(available, "the position's available quantity"))
    return held, free


def _closes(order: Any, symbol: str, side: Side) -> bool:
    of, direction, _ = order_terms(order)
    return of == symbol and direction is side


def _remaining(order: Any) -> Decimal:
    remaining = getattr(order, "remaining", None)
    if remaining is None:
        return order_terms(order)[2]
    quantity = as_quantity(remaining, "a working order's remaining quantity")
    if quantity < 0:
        raise InvalidOrder(f"a working order's remaining quantity is negative: {quantity}")
    return quantity
