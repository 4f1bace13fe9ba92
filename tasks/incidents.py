"""List incidents as the ledger tells them, and find their reports on this host."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from ledger.ledger import Ledger
from ledger.queries import Filter
from ledger.record import OK, AuditRow
from tasks.kill import cost_text
from tasks.kill.report import cost_of_record

TRIP = "CIRCUIT_BREAKER_TRIP"
ACTIONS = (
    TRIP,
    "CIRCUIT_BREAKER_QUIET_PERIOD_END",
    "RESET_WATCH_ENDED",
    "KILL_SWITCH_STARTED",
    "KILL_SWITCH_FINISHED",
    "KILL_SWITCH_COST",
    "RECOVERY_ROOT_CAUSE",
    "RECOVERY_REOPENED",
    "RECOVERY_CANCELLED",
    "RECOVERY_BEGUN_AGAIN",
    "RECOVERY_ENDED",
    "RECOVERY_FINISHED",
)
_RECOVERY = {
    "RECOVERY_ROOT_CAUSE": "under way",
    "RECOVERY_REOPENED": "reopened",
    "RECOVERY_CANCELLED": "cancelled",
    "RECOVERY_BEGUN_AGAIN": "under way",
    "RECOVERY_ENDED": "given up",
    "RECOVERY_FINISHED": "recovered",
}
_MOST_ROWS = 500
"""Of one incident; what comes after them is not looked at."""


@dataclass(frozen=True, slots=True)
class Incident:
    """Everything from a trip until the watch after its reset has ended. `kill` and `recovery` are a word, or empty."""

    id: str
    scope: str
    reason: str
    since: datetime
    by: str
    ended: datetime | None = None
    kill: str = ""
    recovery: str = ""
    cost: tuple[str, ...] = ()
    """What the exit cost, a line for each account."""

    def as_dict(self) -> dict[str, Any]:
        """JSON types only."""
        ended = None if self.ended is None else self.ended.isoformat()
        return {**asdict(self), "since": self.since.isoformat(), "ended": ended, "cost": list(self.cost)}


def read_incidents(ledger: Ledger, limit: int, after: str | None = None) -> tuple[list[Incident], str | None]:
    """The incidents of the newest `limit` trips, newest first, and where the next ones begin. Raises LedgerError."""
    page = ledger.query(Filter(actions=(TRIP,)), limit=limit, after=after)
    ids = dict.fromkeys(row.incident_id for row in page.rows if row.incident_id)
    found = (ledger.query(Filter(incident_id=each, actions=ACTIONS), limit=_MOST_ROWS).rows for each in ids)
    return [incident for rows in found if (incident := incident_of(rows[::-1])) is not None], page.next


def read_incident(ledger: Ledger, incident_id: str) -> Incident | None:
    """One incident; None where no trip of it is on record. Raises LedgerError, and InvalidInput for what is no id."""
    return incident_of(ledger.query(Filter(incident_id=incident_id, actions=ACTIONS), limit=_MOST_ROWS).rows[::-1])


def incident_of(rows: Iterable[AuditRow]) -> Incident | None:
    """What the rows of one incident, oldest first, come to; None where no trip is among them. Pure."""
    incident: Incident | None = None
    for row in rows:
        if incident is not None:
            incident = _after(incident, row)
        elif row.action == TRIP and row.incident_id:
            incident = Incident(row.incident_id, row.scope, _why(row), row.timestamp, row.user_id or "–")
    return incident


def _after(incident: Incident, row: AuditRow) -> Incident:
    if row.action == TRIP:
        return replace(incident, ended=None)
    if row.action == "CIRCUIT_BREAKER_QUIET_PERIOD_END" or (row.action == "RESET_WATCH_ENDED" and row.outcome == OK):
        return replace(incident, ended=row.timestamp)
    if row.action == "KILL_SWITCH_STARTED":
        return replace(incident, kill="RUNNING")
    if row.action == "KILL_SWITCH_FINISHED":
        declined, flat = row.details.get("declined"), row.details.get("flat")
        return replace(incident, kill="DECLINED" if declined else "FLAT" if flat else "NOT FLAT")
    if row.action == "KILL_SWITCH_COST":
        return replace(incident, cost=(*incident.cost, _cost(row)))
    return replace(incident, recovery=_RECOVERY.get(row.action, incident.recovery))


def _why(row: AuditRow) -> str:
    inner = row.details.get("details")
    said = inner.get("reason") if isinstance(inner, dict) else None
    return " · ".join(dict.fromkeys(str(part) for part in (row.details.get("reason"), said) if part))


def _cost(row: AuditRow) -> str:
    try:
        cost = cost_of_record(row.details)
    except ValueError:
        return f"what row {row.seq} says of it can't be read"
    return f"{cost.account}: {cost_text.headline(cost)[0]}"


def read_report(state_dir: Path, incident_id: str) -> str | None:
    """The incident's report as Markdown, if this host has it. Its place goes by the id alone."""
    try:
        name = str(UUID(incident_id))
    except ValueError:
        return None
    try:
        return (state_dir / "incidents" / name / "report.md").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
