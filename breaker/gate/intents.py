"""Name what an engine may ask a gate: a new order, a replacement, a cancel, several orders as one.

Each finds out when it is made whether it makes sense, so that a check needn't.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from typing import Any, ClassVar

from breaker.gate.order_terms import InvalidOrder, Terms, one_of, terms_of, working_terms
from breaker.orders import PositionSide, Side

_SIDE_TYPES = (Side, str)
_PLAIN_SIDES = frozenset({"buy", "sell"})


@dataclass(frozen=True, slots=True)
class OrderIntent:
    """The least that a gate needs to know of an order about to be sent. `breaker.orders.Order` does as well.

    An order that does not say which account or strategy it belongs to is held by every account or strategy breaker
    that the gate watches.

    Attributes:
        symbol: What is bought or sold.
        side: `buy` or `sell`.
        quantity: Units of the symbol; more than zero. Text and Decimal are taken exactly. None in an order for an
            amount of money.
        account: The account that it is for.
        strategy: The strategy that sends it.
        normal_quantity: The size that this order would have on an ordinary day; the quiet period allows a fraction.
        position_side: In hedge mode, which of the symbol's two positions it is for: `long` or `short`.
        notional: The amount of money that it is for, in place of a quantity; more than zero.
        reduce_only: Whether the venue is told to let it reduce the position and do nothing else, and does so.
        client_order_id: The engine's name for it, which no other order has or had. Once it is among the working orders
            under it, only that counts.
        malformed: Why this can't be an order, which no gate lets through in any state; None for one that can.

    Example:
        >>> order = OrderIntent("AAPL", "buy", Decimal("12.5"), account="ALPHA")
        >>> gate.check(order, position=Decimal("-20")).allowed
        True
        >>> OrderIntent("AAPL", "buy", 0).malformed
        "the order's quantity is not positive: 0"
        >>> OrderIntent("AAPL", "buy", notional=500).malformed is None
        True
    """

    symbol: str
    side: Side | str
    quantity: Decimal | int | str | None = None
    account: str | None = None
    strategy: str | None = None
    normal_quantity: Decimal | int | str | None = None
    position_side: PositionSide | str | None = None
    notional: Decimal | int | str | None = None
    reduce_only: bool = False
    client_order_id: str = ""
    malformed: str | None = field(init=False, repr=False, compare=False, default=None)

    def __post_init__(self) -> None:
        if not self._is_plain():
            object.__setattr__(self, "malformed", _why_no_order(self))

    def _is_plain(self) -> bool:
        """Whether it makes sense at first sight, as nearly every order does: a tenth of the time."""
        quantity = self.quantity
        return (
            (type(quantity) is int or (type(quantity) is Decimal and quantity.is_finite()))
            and quantity > 0
            and type(self.symbol) is str
            and self.symbol.isalnum()
            and self.side.__class__ in _SIDE_TYPES
            and self.side in _PLAIN_SIDES
            and self.notional is None
            and self.position_side is None
        )


@dataclass(frozen=True, slots=True)
class ReplaceIntent:
    """A change of a working order's quantity or price, judged by what it adds to the old one, no longer counted.

    The old one is looked for by its id among the working orders that the check is given, and among those that this gate
    has let through. Not found, it is counted for nothing: the new order is judged like any other.

    Attributes:
        order_id: The venue's id or the engine's `client_order_id` of the order to be replaced.
        order: What it is to be. Its quantity is what may fill from now on; where the venue counts what has filled
            already (Alpaca, FIX), the whole is safe to give.
        only_quantity: Whether nothing but the quantity changes. An order that would add risk may then be made smaller
            while halted; with another price it may not, since it could fill sooner.
        malformed: As for `OrderIntent`.

    Example:
        >>> smaller = ReplaceIntent("7", OrderIntent("AAPL", "sell", 30))
        >>> gate.check(smaller, position=100).allowed
        True
    """

    order_id: str
    order: OrderIntent
    only_quantity: bool = False
    malformed: str | None = field(init=False, repr=False, compare=False, default=None)

    def __post_init__(self) -> None:
        named = isinstance(self.order_id, str) and bool(self.order_id)
        problem = _why_no_order(self.order) if named else "the replacement names no order to be replaced"
        object.__setattr__(self, "malformed", problem)


@dataclass(frozen=True, slots=True)
class CancelIntent:
    """A cancel, which adds nothing and so always passes.

    Attributes:
        order_id: The venue's id, or the engine's; empty for a cancel of all.

    Example:
        >>> _ = breaker.trip("MANUAL")
        >>> until(lambda: gate.status().reason == "TRIPPED")
        >>> gate.check(CancelIntent("7")).reason
        <Reason.CANCEL: 'CANCEL'>
    """

    order_id: str = ""
    malformed: ClassVar[None] = None


class ListKind(StrEnum):
    """How the orders of a list belong together."""

    INDEPENDENT = "independent"
    """Each may fill, whatever becomes of the others."""
    OCO = "oco"
    """One cancels the others, so together they take what the largest does."""
    OTO = "oto"
    """The first one triggers the others, as an entry does its bracket of exits (an `OCO` list within this one)."""
    LEGS = "legs"
    """One order with several legs, which fill together or not at all; each with its whole quantity."""


@dataclass(frozen=True, slots=True)
class OrderList:
    """Several orders that are sent together. It passes whole or not at all.

    Attributes:
        orders: At least one; each an `OrderIntent` or alike, or a list in turn.
        kind: How they belong together.
        malformed: As for `OrderIntent`: the first one's that has one.

    Example:
        >>> exits = OrderList([OrderIntent("AAPL", "sell", 100), OrderIntent("AAPL", "sell", 100)], ListKind.OCO)
        >>> _ = breaker.trip("MANUAL")
        >>> until(lambda: gate.status().reason == "TRIPPED")
        >>> gate.check(exits, position=100).reason
        <Reason.REDUCES_RISK: 'REDUCES_RISK'>
        >>> bool(gate.check(OrderList(exits.orders, ListKind.INDEPENDENT), position=100))
        False
    """

    orders: Sequence[Any]
    kind: ListKind = ListKind.INDEPENDENT
    malformed: str | None = field(init=False, repr=False, compare=False, default=None)

    def __post_init__(self) -> None:
        object.__setattr__(self, "malformed", self._why_malformed())

    def _why_malformed(self) -> str | None:
        if not isinstance(self.orders, list | tuple) or not self.orders:
            return "the list holds no orders"
        if self.kind not in tuple(ListKind):
            return f"{self.kind!r:.40} is no kind of list"
        if any(isinstance(order, ReplaceIntent | CancelIntent) for order in self.orders):
            return "a list holds new orders only; ask for replacements and cancels by themselves"
        return next((problem for order in self.orders if (problem := why_malformed(order)) is not None), None)


def why_malformed(intent: Any) -> str | None:
    """Why `intent`, ours or anybody's order, can't be an order; None for what can."""
    if isinstance(intent, OrderIntent | ReplaceIntent | CancelIntent | OrderList):
        return intent.malformed
    return _why_no_order(intent)


def orders_in(intent: Any) -> Iterator[Any]:
    """The single orders of an intent, those of lists within lists too. An order with several legs of its own, and no
    symbol, is a list of these."""
    if isinstance(intent, ReplaceIntent):
        yield intent.order
    elif (members := _members(intent)) is None:
        yield intent
    else:
        for member in members:
            yield from orders_in(member)


def asked_terms(intent: Any) -> list[Terms]:
    """What may fill of an intent. Raises `InvalidOrder` for what can't be an order."""
    if isinstance(intent, ReplaceIntent):
        return [terms_of(intent.order)]
    members = _members(intent)
    if members is None:
        return [terms_of(intent)]
    found = [asked_terms(member) for member in members]
    return one_of(found) if _is_oco(intent) else [terms for each in found for terms in each]


def all_working_terms(working: Any) -> list[Terms]:
    """What open orders may still take; an `OrderList` of them counts as such a list does."""
    members = _members(working)
    if members is None:
        terms = working_terms(working)
        return [] if terms is None else [terms]
    found = [all_working_terms(member) for member in members]
    return one_of(found) if _is_oco(working) else [terms for each in found for terms in each]


def _members(intent: Any) -> Sequence[Any] | None:
    if isinstance(intent, OrderList):
        return intent.orders
    legs = getattr(intent, "legs", None)
    return tuple(legs) if legs and not getattr(intent, "symbol", None) else None


def _is_oco(intent: Any) -> bool:
    return isinstance(intent, OrderList) and intent.kind == ListKind.OCO


def _why_no_order(order: Any) -> str | None:
    try:
        asked_terms(order)
    except InvalidOrder as error:
        return str(error)
    return None
