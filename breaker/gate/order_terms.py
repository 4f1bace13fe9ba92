"""Read what the gate has to know of an order, whoever's object it is: exact values, or `InvalidOrder` and why.

All arithmetic is `Decimal`. An order's quantity is positive and its side says the direction; one for an amount of money
has none that is known.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from typing import Any

from breaker.instruments import canonical_symbol
from breaker.orders import ZERO, PositionSide, Side

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
_POSITION_SIDES = {"long": PositionSide.LONG, "short": PositionSide.SHORT, "both": None, "net": None, "": None}
"""The last three are what venues say of an account that is not in hedge mode."""


class InvalidOrder(ValueError):
    """An order, a position or a quantity that makes no sense; the message is a clause that says which and why."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What one order may take of one position, whether it is asked for, held for the engine, or working."""

    name: str
    """The symbol as the order spells it; `symbol` is the spelling by which symbols are compared."""
    symbol: str
    side: Side | None
    """None where it can't be told."""
    quantity: Decimal | None
    """What may still fill; None where it isn't known, as in an order for an amount of money."""
    position_side: PositionSide | None = None
    reduce_only: bool = False
    account: str | None = None
    ids: frozenset[str] = frozenset()
    normal_quantity: object = None
    at_venue: bool = False
    described: str = ""

    def competes_with(self, other: Terms) -> bool:
        """Whether both may take from the same position in the same direction. What is not told may be anything."""
        return (
            self.symbol == other.symbol
            and (self.side is None or other.side is None or self.side is other.side)
            and (self.position_side is None or other.position_side in (None, self.position_side))
            and (self.account is None or other.account in (None, self.account))
        )


def terms_of(order: Any) -> Terms:
    """What an order about to be sent asks for. Raises `InvalidOrder` for what can't be an order."""
    symbol = getattr(order, "symbol", None)
    if not isinstance(symbol, str) or not symbol.strip(" /"):
        raise InvalidOrder("the order names no symbol")
    side = side_of(order)
    amount = getattr(order, "notional", None)
    if amount is not None:
        positive(amount, "the order's amount")
    unknown = amount is not None or getattr(order, "by_amount", False)
    quantity = None if unknown else positive(getattr(order, "quantity", None), "the order's quantity")
    return _terms(order, symbol, side, quantity)


def working_terms(order: Any) -> Terms | None:
    """What an open order may still take; one that can't be understood may take anything of its own symbol.

    None for one without a symbol, which blocks nothing.
    """
    symbol = getattr(order, "symbol", None)
    if not isinstance(symbol, str) or not symbol:
        return None
    described = str(getattr(order, "client_order_id", "") or getattr(order, "id", "") or type(order).__name__)
    try:
        side, unknown = side_of(order), _is_by_amount(order)
        terms = _terms(order, symbol, side, None if unknown else _remaining(order))
    except InvalidOrder:
        terms = Terms(symbol, canonical_symbol(symbol), None, None, ids=_ids(order))
    return replace(terms, at_venue=True, described=described)


def one_of(alternatives: Iterable[Iterable[Terms]]) -> list[Terms]:
    """What orders of which one cancels the others may take: per position and side the largest of them."""
    largest: dict[tuple[object, ...], Terms] = {}
    for alternative in alternatives:
        for terms in _summed(alternative).values():
            key = _key(terms)
            known = largest.setdefault(key, terms)
            if known is not terms:
                largest[key] = replace(
                    known,
                    quantity=None if None in (known.quantity, terms.quantity) else max(known.quantity, terms.quantity),  # type: ignore[type-var]
                    reduce_only=known.reduce_only and terms.reduce_only,
                    ids=known.ids | terms.ids,
                )
    return list(largest.values())


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


def positive(value: object, what: str) -> Decimal:
    """`value` as `as_quantity` reads it. Raises `InvalidOrder` where it is not more than zero, too."""
    number = as_quantity(value, what)
    if number <= 0:
        raise InvalidOrder(f"{what} is not positive: {number}")
    return number


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


def position_side_of(holder: Any) -> PositionSide | None:
    """On which side of a hedge-mode account an order or a position is; None where it doesn't say, or nets.

    Raises `InvalidOrder` for a word that is no such side.
    """
    said = getattr(holder, "position_side", None)
    if said is None or isinstance(said, PositionSide):
        return said
    word = getattr(said, "value", said)
    if not isinstance(word, str) or word.lower() not in _POSITION_SIDES:
        raise InvalidOrder(f"the position side is {word!r:.40}, neither long nor short")
    return _POSITION_SIDES[word.lower()]


def _terms(order: Any, symbol: str, side: Side, quantity: Decimal | None) -> Terms:
    account = getattr(order, "account", None)
    return Terms(
        symbol,
        canonical_symbol(symbol),
        side,
        quantity,
        position_side_of(order),
        getattr(order, "reduce_only", False) is True,
        None if account is None else str(account),
        _ids(order),
        getattr(order, "normal_quantity", None),
    )


def _ids(order: Any) -> frozenset[str]:
    ids = (getattr(order, "id", None), getattr(order, "client_order_id", None))
    return frozenset(each for each in ids if isinstance(each, str) and each)


def _is_by_amount(order: Any) -> bool:
    """Also when it is partly filled."""
    return bool(getattr(order, "by_amount", False)) or getattr(order, "notional", None) is not None


def _remaining(order: Any) -> Decimal:
    remaining = getattr(order, "remaining", None)
    if remaining is None:
        return positive(getattr(order, "quantity", None), "a working order's quantity")
    quantity = as_quantity(remaining, "a working order's remaining quantity")
    if quantity < 0:
        raise InvalidOrder(f"a working order's remaining quantity is negative: {quantity:f}")
    return quantity


def _key(terms: Terms) -> tuple[object, ...]:
    return terms.symbol, terms.side, terms.position_side, terms.account


def _summed(together: Iterable[Terms]) -> dict[tuple[object, ...], Terms]:
    """Per position and side, what orders that may all fill take together."""
    sums: dict[tuple[object, ...], Terms] = {}
    for terms in together:
        known = sums.get(_key(terms))
        if known is not None:
            unknown = known.quantity is None or terms.quantity is None
            total = None if unknown else (known.quantity or ZERO) + (terms.quantity or ZERO)
            reduce_only = known.reduce_only and terms.reduce_only
            terms = replace(known, quantity=total, reduce_only=reduce_only, ids=known.ids | terms.ids)  # noqa: PLW2901
        sums[_key(terms)] = terms
    return sums
