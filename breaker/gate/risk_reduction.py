"""Tell whether an order only reduces risk, which is all that a halted breaker still lets through.

All arithmetic is `Decimal`. A position is signed (short is negative); an order's quantity is positive and its side
says the direction. An order reduces when, whatever part of it and of the closing orders already working fills, the
position never crosses zero and never grows: +100 → −50 is not a reduction although 50 is less than 100.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from decimal import Decimal, InvalidOperation
from typing import Any

from breaker.instruments import canonical_symbol
from breaker.orders import ZERO, Side

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


def order_terms(order: Any) -> tuple[str, Side, Decimal]:
    """Symbol, side and quantity of an order-like object; raises `InvalidOrder` when one is missing or senseless."""
    symbol = getattr(order, "symbol", None)
    if not isinstance(symbol, str) or not symbol:
        raise InvalidOrder("the order names no symbol")
    side = side_of(order)
    quantity = as_quantity(getattr(order, "quantity", None), "the order's quantity")
    if quantity <= 0:
        raise InvalidOrder(f"the order's quantity is not positive: {quantity}")
    return symbol, side, quantity


def why_not_reducing(order: Any, position: Any, working: Iterable[Any] = ()) -> str | None:
    """None when the order can only reduce the position, else a clause that says why it can't be let through.

    `position` is a `breaker.orders.Position`, or a signed number, or None when it is not known (then the answer is
    no). `working` are the open orders of the account; those that close this position are counted at their remaining
    quantity, and one that can't be understood, or is for an amount of money, blocks its own symbol only. A `Position`
    that says how much of it is `available` is believed where that is less.
    Raises `InvalidOrder` when the order or the position makes no sense.
    """
    symbol, side, quantity = order_terms(order)
    if position is None:
        return "the position is not known"
    held, available = _holding(position, symbol)
    if held == 0:
        return f"there is no position in {symbol} to reduce"
    if side.sign * held > 0:
        return f"a {side} adds to a position of {held}"
    closing = ZERO
    for other in _legs(working):
        if not _is_of(other, symbol):
            continue
        if not _takes_known_quantity(other):
            return f"how much of {symbol} a working order may still take is not known: {_described(other)}"
        if side_of(other) is side:
            closing += _remaining(other)
    room = min(abs(held) - closing, available)
    if quantity > room:
        return f"a {side} of {quantity} could cross zero: position {held}, {max(room, ZERO)} of it not being closed yet"
    return None


def _legs(working: Iterable[Any]) -> Iterator[Any]:
    """The working orders, each with several legs as these."""
    for order in working:
        legs = getattr(order, "legs", None)
        if legs and not getattr(order, "symbol", None):
            yield from legs
        else:
            yield order


def _is_of(order: Any, symbol: str) -> bool:
    """Whether it is an order in `symbol`; one without any symbol blocks nothing."""
    of = getattr(order, "symbol", None)
    return isinstance(of, str) and canonical_symbol(of) == canonical_symbol(symbol)


def _takes_known_quantity(order: Any) -> bool:
    """False for an order that can't be understood, and for one for an amount of money, also when partly filled."""
    if getattr(order, "by_amount", False) or getattr(order, "notional", None) is not None:
        return False
    try:
        side_of(order)
        _remaining(order)
    except InvalidOrder:
        return False
    return True


def _described(order: Any) -> str:
    return str(getattr(order, "client_order_id", "") or getattr(order, "id", "") or type(order).__name__)


def _holding(position: Any, symbol: str) -> tuple[Decimal, Decimal]:
    """The signed quantity held, and how much of its size no order holds."""
    if isinstance(position, (Decimal, int, float, str)):
        held = as_quantity(position, "the position")
        return held, abs(held)
    of = getattr(position, "symbol", None)
    if not isinstance(of, str) or canonical_symbol(of) != canonical_symbol(symbol):
        raise InvalidOrder(f"the position is in {of!r:.60}, the order in {symbol}")
    held = as_quantity(getattr(position, "quantity", None), "the position's quantity")
    available = getattr(position, "available", None)
    free = abs(held) if available is None else abs(as_quantity(available, "the position's available quantity"))
    return held, free


def _remaining(order: Any) -> Decimal:
    remaining = getattr(order, "remaining", None)
    if remaining is None:
        return order_terms(order)[2]
    quantity = as_quantity(remaining, "a working order's remaining quantity")
    if quantity < 0:
        raise InvalidOrder(f"a working order's remaining quantity is negative: {quantity}")
    return quantity
