"""Read what is held of a symbol from whatever an engine hands over: a number, a position, or all of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

from breaker.gate.order_terms import InvalidOrder, Terms, as_quantity, position_side_of
from breaker.instruments import canonical_symbol, is_option, right_of, underlying_of
from breaker.orders import ZERO, PositionSide

_NUMBERS = (Decimal, int, float, str)


def held_of(position: Any, asked: Terms) -> tuple[Decimal, Decimal] | None:
    """The signed quantity held of what is asked about, and how much of its size no order at the venue holds.

    `position` is a signed number, a position, a mapping of symbols to either, or all positions of the account; None,
    and then so is the answer, where it is not known. Raises `InvalidOrder` for what makes no sense, or is ambiguous.
    """
    if position is None:
        return None
    if isinstance(position, _NUMBERS):
        held = as_quantity(position, "the position")
        _check_side(held, asked)
        return held, abs(held)
    if isinstance(position, Mapping):
        named = {canonical_symbol(str(symbol)): each for symbol, each in position.items()}
        return held_of(named.get(asked.symbol, 0), asked)
    if getattr(position, "symbol", None) is None and isinstance(position, Iterable):
        return _among(position, asked)
    return _one(position, asked)


def why_uncovering(
    position: Any, before: Sequence[Terms], sold: Sequence[Terms], bought: Sequence[Terms]
) -> str | None:
    """Why selling longs, with the shorts `bought` back at the same time, uncovers short options; None if it does not.

    `before` is what may be sold anyway. Told only where all positions are given. Options on the same underlying cover
    each other, calls and puts apart.
    """
    held = _held_options(position)
    for right in {_right(each.name) for each in sold if is_option(each.name)}:
        of_right = {symbol: quantity for symbol, (name, quantity) in held.items() if _right(name) == right}
        if None in of_right.values():
            return f"not every position in options on {right[0]} can be read, so it may leave short ones uncovered"
        was = _uncovered(of_right, before, ())
        becomes = _uncovered(of_right, [*before, *sold], bought)
        if becomes > was:
            name = "calls" if right[1] == "C" else "puts"
            return (
                f"it would leave {becomes} short {name} on {right[0]} uncovered; buy these back first, or in one order "
                "with several legs"
            )
    return None


def _among(positions: Iterable[Any], asked: Terms) -> tuple[Decimal, Decimal]:
    of_symbol = [each for each in positions if _symbol(each) == asked.symbol]
    if asked.position_side is not None:
        of_symbol = [each for each in of_symbol if position_side_of(each) in (None, asked.position_side)]
    if len(of_symbol) > 1:
        raise InvalidOrder(f"there is more than one position in {asked.name}, and the order does not say for which")
    return _one(of_symbol[0], asked) if of_symbol else (ZERO, ZERO)


def _one(position: Any, asked: Terms) -> tuple[Decimal, Decimal]:
    symbol = getattr(position, "symbol", None)
    if _symbol(position) != asked.symbol:
        raise InvalidOrder(f"the position is in {symbol!r:.60}, the order in {asked.name}")
    side = position_side_of(position)
    if side is not None and side is not asked.position_side:
        for_ = f"for the {asked.position_side} one" if asked.position_side else "does not say for which one it is"
        raise InvalidOrder(f"the position is the {side} one of {asked.name}, and the order {for_}")
    held = as_quantity(getattr(position, "quantity", None), "the position's quantity")
    _check_side(held, asked)
    available = getattr(position, "available", None)
    free = abs(held) if available is None else abs(as_quantity(available, "the position's available quantity"))
    return held, free


def _check_side(held: Decimal, asked: Terms) -> None:
    wrong = held < 0 if asked.position_side is PositionSide.LONG else held > 0
    if asked.position_side is not None and wrong:
        raise InvalidOrder(f"a position of {held:f} can't be the {asked.position_side} one of {asked.name}")


def _symbol(position: Any) -> str | None:
    symbol = getattr(position, "symbol", None)
    return canonical_symbol(symbol) if isinstance(symbol, str) else None


def _held_options(position: Any) -> dict[str, tuple[str, Decimal | None]]:
    """By canonical symbol: the symbol as it is spelled, and what is held; None where that can't be read."""
    if isinstance(position, Mapping):
        pairs = [(str(symbol), getattr(each, "quantity", each)) for symbol, each in position.items()]
    elif isinstance(position, Iterable) and not isinstance(position, str):
        pairs = [(str(getattr(each, "symbol", "")), getattr(each, "quantity", None)) for each in position]
    else:
        return {}
    return {canonical_symbol(symbol): (symbol, _or_none(quantity)) for symbol, quantity in pairs if is_option(symbol)}


def _or_none(quantity: object) -> Decimal | None:
    try:
        return as_quantity(quantity, "the position")
    except InvalidOrder:
        return None


def _uncovered(held: Mapping[str, Decimal | None], sold: Sequence[Terms], bought: Sequence[Terms]) -> Decimal:
    """How many short options more than long ones there are once these have filled."""
    left = ZERO
    for symbol, quantity in held.items():
        if quantity is None:
            continue
        closing = sold if quantity > 0 else bought
        taken = sum((each.quantity or ZERO for each in closing if each.symbol == symbol), ZERO)
        left += max(quantity - taken, ZERO) if quantity > 0 else min(quantity + taken, ZERO)
    return max(-left, ZERO)


def _right(symbol: str) -> tuple[str, str]:
    return underlying_of(symbol), right_of(symbol)
