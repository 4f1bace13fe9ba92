"""Know which orders TWS keeps until another one of their bracket is transmitted, so that a bracket goes whole or not.

The parts of a bracket are placed one by one. TWS sends none of them to the venue until one comes with `transmit`, which
takes its parent and all that is attached to that with it: this message, and not the first, is where the entry leaves.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any, Final

from ib_async import Contract, Order

from breaker.engines.ib_account import OrderKey
from breaker.engines.ib_orders import NotUnderstood
from breaker.gate.decision import Decision, Permit

_MOST_REMEMBERED: Final = 1_000


@dataclass(slots=True, eq=False)
class Leaving:
    """An order, or a change of one, on its way from the engine to the socket."""

    order_id: int
    key: OrderKey
    contract: Contract
    order: Order
    """The engine's own, which it may write into; a copy once it has to wait."""
    change: bool
    transport: object
    """Of the connection that it was placed on; a later one sends nothing that was left in the queue."""
    permit: Permit | None = None
    """None until it is admitted, and for what is no order to trade."""
    intent: Any = None
    """What it was judged as; None where every breaker was open."""
    left: bool = False
    at_tws: bool = False
    """Whether TWS has it, or what it changes."""
    withdrawn: Decision | None = None
    """Why it may no longer leave, although it was admitted."""


@dataclass(frozen=True, slots=True)
class Attached:
    """A part of a bracket that closes what its parent opens, placed or to come."""

    key: OrderKey
    contract: Contract
    order: Order


class Brackets:
    """The brackets of one connection."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """The connection has ended, and TWS forgets what was not transmitted."""
        self._kept: dict[int, Leaving] = {}
        """By number: admitted, and not transmitted."""
        self._made: dict[int, tuple[Order, ...]] = {}
        """By the parent's number: the parts of a bracket that `bracketOrder` made."""
        self._refused: dict[int, Decision] = {}
        self._judged: dict[int, tuple[Any, Permit]] = {}

    def made(self, parts: tuple[Order, ...]) -> None:
        """Remember a bracket before any of it is placed."""
        self._made[parts[0].orderId] = parts
        _shorten(self._made)

    def refusal_of(self, order_id: int) -> Decision | None:
        """Why that order was refused, if it was."""
        return self._refused.get(order_id)

    def admitted(self, leaving: Leaving) -> None:
        self._refused.pop(leaving.order_id, None)
        before = self._kept.get(leaving.order_id)
        if not leaving.order.transmit:
            leaving.at_tws = leaving.change and (before is None or before.at_tws)
            self._kept[leaving.order_id] = leaving

    def left(self, leaving: Leaving) -> None:
        """If it is transmitted, so is all that waits for it."""
        leaving.at_tws = True
        if not leaving.order.transmit:
            return
        self._kept.pop(leaving.order_id, None)
        parent = leaving.order.parentId
        while parent:
            above = self._kept.pop(parent, None)
            for order_id in [each.order_id for each in self._kept.values() if each.order.parentId == parent]:
                del self._kept[order_id]
            self._made.pop(parent, None)
            self._judged.pop(parent, None)
            parent = above.order.parentId if above else 0

    def whole(self, leaving: Leaving, client_id: int) -> tuple[Leaving, list[Attached]] | None:
        """The parent and what is attached to it, of a bracket that is not transmitted yet; None if it is in none.

        Raises:
            NotUnderstood: something is attached to what is itself attached.
        """
        parent = self._kept.get(leaving.order.parentId) if leaving.order.parentId else leaving
        if parent is None:
            return None
        attached = {
            each.order_id: Attached(each.key, each.contract, each.order)
            for each in self._kept.values()
            if each.order.parentId == parent.order_id
        }
        for part in self._made.get(parent.order_id, ())[1:]:
            attached.setdefault(part.orderId, Attached((client_id, part.orderId), leaving.contract, part))
        if leaving is not parent:
            attached[leaving.order_id] = Attached(leaving.key, leaving.contract, leaving.order)
        if not attached:
            return None
        if parent.order.parentId in self._kept or any(each.order.parentId in attached for each in self._kept.values()):
            raise NotUnderstood("orders are attached to what is itself attached, and not transmitted")
        return parent, list(attached.values())

    def judged(self, parent: int, intent: Any) -> Permit | None:
        """The permit of the whole bracket, if it has been judged as just this."""
        known = self._judged.get(parent)
        return known[1] if known is not None and known[0] == intent else None

    def remember(self, parent: int, intent: Any, permit: Permit) -> None:
        self._judged[parent] = intent, permit
        _shorten(self._judged)

    def refused(self, leaving: Leaving, decision: Decision) -> list[Leaving]:
        """It lets nothing of its bracket pass. Returns what of that TWS has, and must be told to forget."""
        root = leaving.order.parentId if leaving.order.parentId in self._kept else leaving.order_id
        if not leaving.change or root != leaving.order_id:
            self._refused[root] = self._refused[leaving.order_id] = decision
            while len(self._refused) > _MOST_REMEMBERED:
                del self._refused[next(iter(self._refused))]
        if leaving.change and root == leaving.order_id:
            return []
        self._judged.pop(root, None)
        gone = [each for each in self._kept.values() if root in {each.order_id, each.order.parentId}]
        for each in gone:
            del self._kept[each.order_id]
            each.withdrawn = decision
        return [each for each in gone if each.at_tws]


class Queue:
    """What waits in ib_async's throttle, by number: ib_async keeps the order in which it was given."""

    def __init__(self) -> None:
        self._waiting: dict[int, deque[Leaving]] = {}

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def put(self, leaving: Leaving) -> None:
        self._waiting.setdefault(leaving.order_id, deque()).append(leaving)

    def take(self, order_id: int, transport: object) -> Leaving | None:
        """What leaves now under this number; None for what was never put there."""
        waiting = self._waiting.get(order_id)
        while waiting:
            leaving = waiting.popleft()
            if not waiting:
                del self._waiting[order_id]
            if leaving.transport is transport:
                return leaving
        return None

    def alone(self) -> list[Leaving]:
        """What waits as the only one of its number."""
        return [each[0] for each in self._waiting.values() if len(each) == 1]

    def clear(self) -> list[Leaving]:
        """The connection has ended: what waited has not been sent."""
        waiting, self._waiting = self._waiting, {}
        return [leaving for each in waiting.values() for leaving in each]


def _shorten(known: dict[int, Any]) -> None:
    if len(known) > _MOST_REMEMBERED:
        del known[next(iter(known))]
