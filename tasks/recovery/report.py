"""Write the incident report: what a team would file, built from what was measured, decided and recorded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ledger.record import AuditRow
from tasks.kill import cost_text
from tasks.kill.report import cost_of_record
from tasks.markdown import inert
from tasks.recovery.book_at_trip import book_at_trip
from tasks.recovery.state import RecoveryState


@dataclass(frozen=True, slots=True)
class ReportSource:
    state: RecoveryState
    trip: Mapping[str, Any]
    """The breaker's state as it was while tripped."""
    root_cause: Mapping[str, str]
    evidence: str
    timeline: Sequence[AuditRow]
    """Oldest first."""
    costs: Sequence[AuditRow] = ()
    """What the exits of the incident cost, oldest first."""
    book: Sequence[AuditRow] = ()
    """What its kill switches found, oldest first."""


def incident_report(source: ReportSource) -> str:
    """The report as Markdown."""
    trip, cause = source.trip, source.root_cause
    return "\n".join(
        [
            f"# Incident {source.state.incident_id}",
            "",
            f"Breaker **{source.state.scope}** was tripped {_when(trip.get('tripped_at'))} by "
            f"{inert(trip.get('tripped_by'))} with reason {inert(trip.get('trip_reason'))}.",
            "",
            "## Root cause",
            "",
            f"Category: {inert(cause.get('category'))}. Written by {inert(cause.get('author'))}.",
            "",
            inert(cause.get("root_cause")),
            "",
            "## Corrective action",
            "",
            inert(cause.get("corrective_action")),
            "",
            "## The book at the trip",
            "",
            *book_at_trip(source.book),
            "",
            "## What the exit cost",
            "",
            *_costs(source.costs),
            "",
            "## Timeline",
            "",
            "| time (UTC) | what | who | result |",
            "| --- | --- | --- | --- |",
            *(
                f"| {row.timestamp:%Y-%m-%d %H:%M:%S.%f} | {row.action} | {inert(row.user_id)} | {row.outcome} |"
                for row in source.timeline
            ),
            "",
            source.state.as_markdown().replace("\n## ", "\n### ").replace("# Recovery of incident", "## Checklist of"),
            "## Evidence",
            "",
            source.evidence,
            "",
        ]
    )


def _costs(rows: Sequence[AuditRow]) -> list[str]:
    """Of each run of the kill switch in the incident, as the ledger has it."""
    if not rows:
        return ["No kill switch of this incident has told what its exit cost."]
    lines: list[str] = []
    for row in rows:
        lines += [f"Read {row.timestamp:%Y-%m-%d %H:%M:%S} UTC, for {inert(row.user_id)}:", ""]
        try:
            lines += cost_text.markdown([cost_of_record(row.details)])
        except ValueError:
            lines += [f"What the ledger's row {row.seq} says of it can't be read.", ""]
    return lines[:-1]


def _when(moment: object) -> str:
    return f"at {str(moment)[:19].replace('T', ' ')} UTC" if moment else "at an unknown time"
