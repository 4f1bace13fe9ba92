"""Read the end of the chain: which events it has, and in what state it leaves each breaker."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    Connection,
    ScalarSelect,
    Text,
    and_,
    func,
    literal,
    or_,
    select,
)
from sqlalchemy.sql.base import ReadOnlyColumnCollection
from sqlalchemy.sql.selectable import NamedFromClause

from ledger.models import IS_STATE, OVERRIDE_DETECTED, TRANSITION_ACTIONS, audit_log, raw_columns
from ledger.record import AuditRow

LATE = "LATE"
"""Outcome of a transition recorded after later ones, found in the breaker's history; it says nothing of the present."""

_AT_ONCE = 500
"""Rows that are asked for by number in one question."""


@dataclass(frozen=True, slots=True)
class RecordedState:
    """What the ledger says of one breaker: the row that says its state, and the trip that no reset has followed."""

    row: AuditRow | None
    standing_trip: AuditRow | None


class Tail:
    """The end of the chain while nobody else can append to it."""

    def __init__(self, connection: Connection, dialect: str) -> None:
        self._connection = connection
        self._dialect = dialect
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
        return _recorded(self.last_state_row(scope), self._newest(scope, _decides(audit_log.c)))

    def states_of(self, scopes: Sequence[str]) -> dict[str, RecordedState]:
        """`state_of` for each of them, in two questions whatever their number is."""
        newest, decisive = audit_log.alias("newest"), audit_log.alias("decisive")
        found = self._of_each(
            scopes,
            lambda scope: self._last_of(newest, scope),
            lambda scope: self._last_of(decisive, scope, _decides(decisive.c)),
        )
        return {scope: _recorded(last, decision) for scope, (last, decision) in found.items()}

    def newest_of_each(self, scopes: Sequence[str], action: str) -> dict[str, AuditRow | None]:
        """The newest row of that action of each of them, by when it happened; `action` is one that says a state."""
        row = audit_log.alias("row")
        found = self._of_each(
            scopes,
            lambda scope: (
                select(row.c.seq)
                .where(IS_STATE, row.c.scope == scope, row.c.action == action)
                .order_by(row.c.timestamp.desc(), row.c.seq.desc())
                .limit(1)
                .scalar_subquery()
            ),
        )
        return {scope: newest for scope, (newest,) in found.items()}

    def _of_each(
        self, scopes: Sequence[str], *rows: Callable[[ColumnElement[str]], ScalarSelect[int]]
    ) -> dict[str, tuple[AuditRow | None, ...]]:
        """For each scope the row that each of `rows` names by its number."""
        if self._dialect == "postgresql":
            asked = func.unnest(literal(list(scopes), ARRAY(Text))).table_valued("value", name="asked").render_derived()
        else:
            asked = func.json_each(json.dumps(list(scopes))).table_valued("value", name="asked")
        scope = asked.c.value
        numbers = {each[0]: each[1:] for each in self._connection.execute(select(scope, *(row(scope) for row in rows)))}
        wanted = sorted({number for some in numbers.values() for number in some if number is not None})
        read: dict[int, AuditRow] = {}
        for start in range(0, len(wanted), _AT_ONCE):
            some = select(*self._columns).where(audit_log.c.seq.in_(wanted[start : start + _AT_ONCE]))
            read |= {row[0]: AuditRow.from_raw(row) for row in self._connection.execute(some)}
        return {scope: tuple(read.get(number) for number in some) for scope, some in numbers.items()}

    def _last_of(
        self, rows: NamedFromClause, scope: ColumnElement[str], *conditions: ColumnElement[bool]
    ) -> ScalarSelect[int]:
        return (
            select(rows.c.seq)
            .where(IS_STATE, rows.c.scope == scope, rows.c.outcome != LATE, *conditions)
            .order_by(rows.c.seq.desc())
            .limit(1)
            .scalar_subquery()
        )

    def _newest(self, scope: str, *conditions: ColumnElement[bool]) -> AuditRow | None:
        columns = audit_log.c
        found = self._connection.execute(
            select(*self._columns)
            .where(IS_STATE, columns.scope == scope, columns.outcome != LATE, *conditions)
            .order_by(columns.seq.desc())
            .limit(1)
        ).first()
        return None if found is None else AuditRow.from_raw(found)


def _decides(columns: ReadOnlyColumnCollection[str, Any]) -> ColumnElement[bool]:
    """Whether a row says if the breaker's last trip stands."""
    tripped_by_hand = and_(columns.action == OVERRIDE_DETECTED, columns.outcome == "TRIPPED")
    return or_(columns.action.in_((TRANSITION_ACTIONS["TRIP"], TRANSITION_ACTIONS["RESET"])), tripped_by_hand)


def _recorded(last: AuditRow | None, decision: AuditRow | None) -> RecordedState:
    standing = None if decision is None or decision.action == TRANSITION_ACTIONS["RESET"] else decision
    return RecordedState(last, standing)


def _epoch(details: object) -> int | None:
    found = json.loads(details) if isinstance(details, str) else details
    epoch = found.get("epoch") if isinstance(found, dict) else None
    return epoch if isinstance(epoch, int) else None
