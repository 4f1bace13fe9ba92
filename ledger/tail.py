"""Read the end of the chain: which events it has, and in what state it leaves each breaker."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, and_, or_, select

from ledger.models import IS_STATE, OVERRIDE_DETECTED, TRANSITION_ACTIONS, audit_log, raw_columns
from ledger.record import AuditRow

LATE = "LATE"
"""Outcome of a transition recorded after later ones, found in the breaker's history; it says nothing of the present."""


@dataclass(frozen=True, slots=True)
class RecordedState:
    """What the ledger says of one breaker: the row that says its state, and the trip that no reset has followed."""

    row: AuditRow | None
    standing_trip: AuditRow | None


class Tail:
    """The end of the chain while nobody else can append to it."""

    def __init__(self, connection: Connection, dialect: str) -> None:
        self._connection = connection
        self._columns = raw_columns(dialect)

    def known(self, ids: Iterable[str]) -> frozenset[str]:
        """Those of `ids` that the ledger has."""
        return frozenset(self._connection.scalars(select(audit_log.c.id).where(audit_log.c.id.in_(list(ids)))))

    def transitions(self, ids: Iterable[str]) -> dict[str, tuple[str, int | None]]:
        """Scope and epoch of those of `ids` that the ledger has."""
        columns = audit_log.c
        wanted = select(columns.id, columns.scope, columns.details).where(columns.id.in_(list(ids)))
        return {row.id: (row.scope, _epoch(row.details)) for row in self._connection.execute(wanted)}

    def last_state_row(self, scope: str) -> AuditRow | None:
        """The last row that says what state the breaker of `scope` is in."""
        return self._newest(scope)

    def newest(self, scope: str, actions: Sequence[str]) -> AuditRow | None:
        """The last row of one of these actions, of those that say the state of the breaker of `scope`."""
        return self._newest(scope, audit_log.c.action.in_(actions))

    def state_of(self, scope: str) -> RecordedState:
        """The last word on the breaker of `scope`, and whether its last trip stands."""
        columns = audit_log.c
        tripped_by_hand = and_(columns.action == OVERRIDE_DETECTED, columns.outcome == "TRIPPED")
        decisive = or_(columns.action.in_((TRANSITION_ACTIONS["TRIP"], TRANSITION_ACTIONS["RESET"])), tripped_by_hand)
        decision = self._newest(scope, decisive)
        standing = None if decision is None or decision.action == TRANSITION_ACTIONS["RESET"] else decision
        return RecordedState(self.last_state_row(scope), standing)

    def _newest(self, scope: str, *conditions: ColumnElement[bool]) -> AuditRow | None:
        columns = audit_log.c
        found = self._connection.execute(
            select(*self._columns)
            .where(IS_STATE, columns.scope == scope, columns.outcome != LATE, *conditions)
            .order_by(columns.seq.desc())
            .limit(1)
        ).first()
        return None if found is None else AuditRow.from_raw(found)


def _epoch(details: object) -> int | None:
    found = json.loads(details) if isinstance(details, str) else details
    epoch = found.get("epoch") if isinstance(found, dict) else None
    return epoch if isinstance(epoch, int) else None
