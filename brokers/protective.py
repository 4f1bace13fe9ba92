"""Tell the orders that protect a position from those that could open one. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from breaker.orders import ZERO, Order, OrderStatus, OrderType, Position, PositionKey

SHARE = 0.5
"""Of a minute's allowance, what cancelling one by one, and the closes beside it, may use."""
MOST_ONE_BY_ONE = 100
"""More requests than that take longer than positions may wait for them."""
STOPS = frozenset({OrderType.STOP, OrderType.STOP_LIMIT, OrderType.TRAILING_STOP})


def protective_of(orders: Iterable[Order], position: Position | None) -> list[Order]:
    """Of one position's orders the stops and take-profits that can only reduce the position.

    None are where together they are more than it. The exits of a bracket cancel each other, but in a fast market both
    may fill: stops and take-profits are each held against the whole position. One that is being cancelled may fill too,
    but protects nothing any more.
    """
    if position is None or not position.quantity:
        return []
    reducing = [order for order in orders if order.side is position.closing_side and order.status.is_open]
    exits = [order for order in reducing if order.type is not OrderType.MARKET and not order.by_amount]
    stops = sum((order.remaining for order in exits if order.type in STOPS), ZERO)
    targets = sum((order.remaining for order in exits if order.type not in STOPS), ZERO)
    if max(stops, targets) > abs(position.quantity):
        return []
    return [order for order in exits if order.status is not OrderStatus.PENDING_CANCEL]


def protective_orders(orders: Iterable[Order], positions: Iterable[Position] | None) -> list[Order]:
    """Of a whole account; where the positions are not known, orders of a kind that protects are taken to do so."""
    listed = list(orders)
    if positions is None:
        return [order for order in listed if order.type in STOPS]
    held = {position.key: position for position in positions}
    return [order for key, own in by_position(listed).items() for order in protective_of(own, held.get(key))]


def by_position(orders: Iterable[Order]) -> Mapping[PositionKey, Sequence[Order]]:
    """The open orders for each position, whether there is one or not."""
    found: dict[PositionKey, list[Order]] = {}
    for order in orders:
        if order.status.is_open:
            found.setdefault(order.key, []).append(order)
    return found


def can_wait(protective: int, others: int, requests_per_minute: int | None) -> bool:
    """Whether so many protective orders can stay until their closes.

    Then no bulk request is possible: each of the others is cancelled by itself, and each of these beside a close. That
    has to be quick, and to fit into the rate limit.
    """
    most = MOST_ONE_BY_ONE if requests_per_minute is None else min(MOST_ONE_BY_ONE, requests_per_minute * SHARE)
    return others + 2 * protective <= most
