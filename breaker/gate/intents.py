"""Name what an engine may ask a gate: a new order."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from breaker.gate.order_terms import InvalidOrder, terms_of
from breaker.orders import Side


@dataclass(frozen=True, slots=True)
class OrderIntent:
    """The least that a gate needs to know of an order about to be sent. `breaker.orders.Order` does as well.

    An order that does not say which account or strategy it belongs to is held by every account or strategy breaker
    that the gate watches. Whether it makes sense is found out once, here, so that a check needn't.

    Attributes:
        symbol: What is bought or sold.
        side: `buy` or `sell`.
        quantity: Units of the symbol; more than zero. Text and Decimal are taken exactly.
        account: The account that it is for.
        strategy: The strategy that sends it.
        normal_quantity: The size that this order would have on an ordinary day; the quiet period allows a fraction.
        malformed: Why this can't be an order, which no gate lets through in any state; None for one that can.

    Example:
        >>> order = OrderIntent("AAPL", "buy", Decimal("12.5"), account="ALPHA")
        >>> gate.check(order, position=Decimal("-20")).allowed
        True
        >>> OrderIntent("AAPL", "buy", 0).malformed
        "the order's quantity is not positive: 0"
    """

    symbol: str
    side: Side | str
    quantity: Decimal | int | str
    account: str | None = None
    strategy: str | None = None
    normal_quantity: Decimal | int | str | None = None
    malformed: str | None = field(init=False, repr=False, compare=False, default=None)

    def __post_init__(self) -> None:
        object.__setattr__(self, "malformed", _why_no_order(self))


def why_malformed(order: Any) -> str | None:
    """Why `order`, anybody's object, can't be an order; None for one that can."""
    return order.malformed if isinstance(order, OrderIntent) else _why_no_order(order)


def _why_no_order(order: Any) -> str | None:
    try:
        terms_of(order)
    except InvalidOrder as error:
        return str(error)
    return None
