"""Say in the gate's words what NautilusTrader's commands ask for, and what its cache holds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from breaker.gate.intents import ListKind, OrderIntent, OrderList, ReplaceIntent

_ONE_OF = frozenset({"OCO", "OUO"})
"""Contingencies by which a fill of one order takes from the others."""


@dataclass(frozen=True, slots=True)
class WorkingOrder:
    """One that is open or in flight, as the gate counts it."""

    symbol: str
    side: str
    quantity: Decimal
    remaining: Decimal
    client_order_id: str
    reduce_only: bool


def order_intent(order: Any) -> OrderIntent:
    """A new order's.

    Args:
        order: NautilusTrader's.

    Returns:
        Its symbol is the instrument's id, venue included: the same symbol at two venues is two positions. One in units
        of the quote currency is for an amount of money.
    """
    quantity = order.quantity.as_decimal()
    by_amount = bool(order.is_quote_quantity)
    return OrderIntent(
        str(order.instrument_id),
        _side(order),
        None if by_amount else quantity,
        strategy=str(order.strategy_id),
        notional=quantity if by_amount else None,
        reduce_only=bool(order.is_reduce_only),
        client_order_id=str(order.client_order_id),
    )


def list_intent(orders: Sequence[Any]) -> OrderList:
    """A list's: an entry with what it triggers, orders that cancel each other, or independent ones.

    Args:
        orders: NautilusTrader's, as the list has them.

    Returns:
        The gate's list.
    """
    names = {order.client_order_id for order in orders}
    roots = [order for order in orders if order.parent_order_id not in names]
    triggered = [order for order in orders if order.parent_order_id in names]
    if len(roots) == 1 and triggered:
        first = order_intent(roots[0])
        exits = OrderList([order_intent(order) for order in triggered], _kind(triggered))
        return OrderList([first, exits], ListKind.OTO)
    return OrderList([order_intent(order) for order in orders], _kind(orders))


def modify_intent(command: Any, order: Any) -> ReplaceIntent:
    """A change of an order's quantity or price.

    Args:
        command: NautilusTrader's `ModifyOrder`; its quantity counts what has filled.
        order: The order, as the cache has it.

    Returns:
        The gate's replacement.
    """
    whole = order.quantity if command.quantity is None else command.quantity
    left = whole.as_decimal() - order.filled_qty.as_decimal()
    new = OrderIntent(
        str(order.instrument_id),
        _side(order),
        left,
        strategy=str(order.strategy_id),
        reduce_only=bool(order.is_reduce_only),
        client_order_id=str(order.client_order_id),
    )
    only_quantity = command.price is None and command.trigger_price is None
    return ReplaceIntent(str(order.client_order_id), new, only_quantity)


def held_of(cache: Any) -> Mapping[str, Decimal]:
    """What the node holds, by instrument: the sum of its open positions.

    Args:
        cache: The node's.

    Returns:
        Signed quantities.
    """
    held: dict[str, Decimal] = {}
    for position in cache.positions_open():
        name = str(position.instrument_id)
        held[name] = held.get(name, Decimal(0)) + position.signed_decimal_qty()
    return held


def working_in(cache: Any) -> list[Any]:
    """What may still fill: orders that are open, in flight or kept by the emulator. Exits that cancel each other count
    once.

    Args:
        cache: The node's.

    Returns:
        As `Gate.check` takes working orders.
    """
    found = {
        order.client_order_id: order
        for order in (*cache.orders_open(), *cache.orders_inflight(), *cache.orders_emulated())
    }
    return [_together(group) for group in _linked(found)]


def _linked(orders: Mapping[Any, Any]) -> Iterable[list[Any]]:
    left = dict(orders)
    while left:
        _, order = left.popitem()
        others = order.linked_order_ids or () if order.contingency_type.name in _ONE_OF else ()
        yield [order, *(left.pop(name) for name in others if name in left)]


def _together(group: Sequence[Any]) -> Any:
    orders = [_working(order) for order in group]
    return orders[0] if len(orders) == 1 else OrderList(orders, ListKind.OCO)


def _working(order: Any) -> WorkingOrder:
    return WorkingOrder(
        str(order.instrument_id),
        _side(order),
        order.quantity.as_decimal(),
        order.leaves_qty.as_decimal(),
        str(order.client_order_id),
        bool(order.is_reduce_only),
    )


def _kind(orders: Sequence[Any]) -> ListKind:
    one_of = len(orders) > 1 and all(order.contingency_type.name in _ONE_OF for order in orders)
    return ListKind.OCO if one_of else ListKind.INDEPENDENT


def _side(order: Any) -> str:
    return "buy" if order.side.name == "BUY" else "sell"
