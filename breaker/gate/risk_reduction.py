"""Tell whether an order only reduces risk, which is all that a halted breaker still lets through.

All arithmetic is `Decimal`. A position is signed (short is negative); an order's quantity is positive and its side
says the direction. An order reduces when, whatever part of it and of the closing orders already working fills, the
position never crosses zero and never grows: +100 → −50 is not a reduction although 50 is less than 100.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from decimal import Decimal
from typing import Any

from breaker.gate.order_terms import InvalidOrder, as_quantity, side_of, terms_of
from breaker.instruments import canonical_symbol
from breaker.orders import ZERO


def why_not_reducing(order: Any, position: Any, working: Iterable[Any] = ()) -> str | None:
    """None when the order can only reduce the position, else a clause that says why it can't be let through.

    `position` is a `breaker.orders.Position`, or a signed number, or None when it is not known (then the answer is
    no). `working` are the open orders of the account; those that close this position are counted at their remaining
    quantity, and one that can't be understood, or is for an amount of money, blocks its own symbol only. A `Position`
    that says how much of it is `available` is believed where that is less.
    Raises `InvalidOrder` when the order or the position makes no sense.
    """
    asked = terms_of(order)
    symbol, side, quantity = asked.symbol, asked.side, asked.quantity
    if quantity is None:
        return f"how much of {symbol} an order for an amount of money takes is not known"
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
        remaining = terms_of(order).quantity
    quantity = as_quantity(remaining, "a working order's remaining quantity")
    if quantity < 0:
        raise InvalidOrder(f"a working order's remaining quantity is negative: {quantity}")
    return quantity
