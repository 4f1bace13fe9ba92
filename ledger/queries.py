"""Say which rows of the audit log to list, and cut them into pages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, literal, tuple_

from ledger.errors import InvalidRecord
from ledger.models import UtcTime, audit_log
from ledger.record import AuditRow


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which rows to list. What is None, or empty, does not restrict. `since` is inclusive, `until` is not."""

    actions: Sequence[str] = ()
    user_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    incident_id: str | None = None
    scope: str | None = None
    source: str | None = None
    outcome: str | None = None

    def conditions(self) -> list[ColumnElement[bool]]:
        columns = audit_log.c
        named = {name: getattr(self, name) for name in ("user_id", "incident_id", "scope", "source", "outcome")}
        found = [columns[name] == wanted for name, wanted in named.items() if wanted is not None]
        if self.actions:
            found.append(columns.action.in_(self.actions))
        if self.since is not None:
            found.append(columns.timestamp >= self.since)
        if self.until is not None:
            found.append(columns.timestamp < self.until)
        return found


@dataclass(frozen=True, slots=True)
class Page:
    """RowSource, newest first, and what to pass as `after` for the ones that follow; None when these were the last."""

    rows: tuple[AuditRow, ...]
    next: str | None

    @classmethod
    def of(cls, found: Sequence[AuditRow], limit: int) -> Page:
        """The page of `limit` rows that `found` begins with; one row more than that says that others follow."""
        if len(found) <= limit:
            return cls(tuple(found), None)
        last = found[limit - 1]
        return cls(tuple(found[:limit]), f"{last.timestamp.isoformat()}~{last.seq}")


def rows_after(cursor: str) -> ColumnElement[bool]:
    """The condition for rows behind the page whose `next` this is. Raises `InvalidRecord` for what is none."""
    moment, _, seq = cursor.partition("~")
    try:
        last = (datetime.fromisoformat(moment), int(seq))
    except ValueError:
        raise InvalidRecord(f"{cursor!r} is not the end of a page: pass `next` as a page gave it") from None
    columns = audit_log.c
    return tuple_(columns.timestamp, columns.seq) < tuple_(literal(last[0], UtcTime()), literal(last[1]))
