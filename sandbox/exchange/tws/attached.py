"""Keep what TWS keeps of a client's orders: those not transmitted, and those attached to one that has not filled."""

from __future__ import annotations

from collections.abc import Callable

from sandbox.exchange.orders import PaperOrder, Status
from sandbox.exchange.tws.requests import OrderMessage


class Attached:
    """One client's. Nothing of it is at the venue."""

    def __init__(self) -> None:
        self._kept: dict[int, OrderMessage] = {}
        self._waiting: dict[int, OrderMessage] = {}

    def keep(self, asked: OrderMessage) -> None:
        """It is not transmitted."""
        self._kept[asked.order_id] = asked

    def transmitted_with(self, asked: OrderMessage) -> list[OrderMessage]:
        """It, and what waited for it: its parent and what else is attached to that; the parent first."""
        self._kept.pop(asked.order_id, None)
        parent = asked.parent_id
        family = [each for each in self._kept.values() if parent and parent in {each.order_id, each.parent_id}]
        for each in family:
            del self._kept[each.order_id]
        return sorted([*family, asked], key=lambda each: each.order_id)

    def wait(self, asked: OrderMessage) -> None:
        """Until its parent has filled."""
        self._waiting[asked.order_id] = asked

    def due(self, order_of: Callable[[int], PaperOrder | None]) -> tuple[list[OrderMessage], list[int]]:
        """What goes to the venue now, and the numbers of those that end with their parent."""
        go: list[OrderMessage] = []
        end: list[int] = []
        for asked in list(self._waiting.values()):
            parent = order_of(asked.parent_id)
            if parent is not None and parent.is_open:
                continue
            del self._waiting[asked.order_id]
            if parent is not None and parent.status is Status.FILLED:
                go.append(asked)
            else:
                end.append(asked.order_id)
        return go, end

    def forget(self, order_id: int) -> bool:
        """It is cancelled; whether it was here."""
        kept = self._kept.pop(order_id, None), self._waiting.pop(order_id, None)
        return kept != (None, None)
