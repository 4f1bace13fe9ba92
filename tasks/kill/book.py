"""Read what a venue says of one account: its open orders, then its positions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from breaker.orders import Order, Position
from brokers.protocol import Broker


@dataclass(frozen=True, slots=True)
class Book:
    """What the venue said, orders first; see `plan` for why the order of reading matters."""

    orders: Sequence[Order]
    positions: Sequence[Position]

    @property
    def empty(self) -> bool:
        return not self.orders and not any(position.quantity for position in self.positions)


async def read_book(broker: Broker) -> Book:
    orders = await broker.open_orders()
    return Book(orders, await broker.positions())
