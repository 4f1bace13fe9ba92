"""Count orders that were let through to reduce as working, until the engine says what became of them or time is up.

Two full closes asked for one after the other would otherwise both pass, since neither is among the open orders yet.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from breaker.gate.decision import Decision, Reason
from breaker.gate.intents import OrderList, ReplaceIntent, asked_terms
from breaker.gate.order_terms import InvalidOrder, Terms, as_quantity
from breaker.uuid7 import uuid7


@dataclass(frozen=True, slots=True)
class Reservation:
    """What one permit lets an engine send. `until` is on the gate's clock."""

    id: str
    terms: tuple[Terms, ...]
    until: float
    replaces: str = ""
    """The id of the order that it takes the place of; empty for a new one."""


class Reservations:
    """Those of one gate. Hold `lock` from looking at them to adding one, so that two threads can't both get the last.

    Each lasts `seconds`, at most 600. Raises ValueError for another time.
    """

    def __init__(self, seconds: float) -> None:
        if not 0 < seconds <= 600:
            raise ValueError(f"reserve_for must be more than 0 and at most 600 seconds, not {seconds}")
        self._seconds = seconds
        self.lock = threading.RLock()
        self._active: dict[str, Reservation] = {}

    def active(self, now: float) -> Sequence[Reservation]:
        """Those whose time is not up."""
        self._active = {name: each for name, each in self._active.items() if now < each.until}
        return tuple(self._active.values())

    def reserve(self, decision: Decision, intent: Any, now: float) -> Decision:
        """The decision, with what it lets through reserved.

        A list in the quiet period is reserved whole, since what in it reduces may be sent with the rest.
        """
        reducing = decision.reason is Reason.REDUCES_RISK
        if decision.permit is None or not (
            reducing or (decision.reason is Reason.QUIET_PERIOD and isinstance(intent, OrderList))
        ):
            return decision
        terms = tuple(asked_terms(intent))
        replaces = intent.order_id if isinstance(intent, ReplaceIntent) else ""
        until = now + self._seconds
        reservation = Reservation(uuid7(), terms, until, replaces)
        self._active[reservation.id] = reservation
        deadline = until if reducing else decision.permit.deadline
        return replace(decision, permit=replace(decision.permit, deadline=deadline, reservation=reservation.id))

    def settle(self, name: str, remaining: object) -> None:
        """Keep `remaining` of it, at most what is reserved; all of it is over at 0. Raises `InvalidOrder`."""
        left = as_quantity(remaining, "what remains")
        if left < 0:
            raise InvalidOrder(f"what remains is negative: {left}")
        with self.lock:
            known = self._active.get(name)
            if known is None:
                return
            if left == 0:
                del self._active[name]
                return
            if len(known.terms) > 1:
                raise InvalidOrder("of several orders it can't be told which remains; settle them once all are over")
            (terms,) = known.terms
            kept = left if terms.quantity is None else min(left, terms.quantity)
            self._active[name] = replace(known, terms=(replace(terms, quantity=kept),))

    def renew_lock(self) -> None:
        """In a forked child: another thread of the parent may have held it, and there is none to let it go."""
        self.lock = threading.RLock()
