"""Write the incident report: what a team would file, built from what was measured, decided and recorded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ledger.record import AuditRow
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


def incident_report(source: ReportSource) -> str:
    """The report as Markdown."""
    trip, cause = source.trip, source.root_cause
    return "\n".join(
        [
            f"# Incident {source.state.incident_id}",
            "",
            f"Breaker **{source.state.scope}** was tripped {_when(trip.get('tripped_at'))} by "
            f"{_text(trip.get('tripped_by'))} with reason {_text(trip.get('trip_reason'))}.",
            "",
            "## Root cause",
            "",
            f"Category: {_text(cause.get('category'))}. Written by {_text(cause.get('author'))}.",
            "",
            _text(cause.get("root_cause")),
            "",
            "## Corrective action",
            "",
            _text(cause.get("corrective_action")),
            "",
            "## Timeline",
            "",
            "| time (UTC) | what | who | result |",
            "| --- | --- | --- | --- |",
            *(
                f"| {row.timestamp:%Y-%m-%d %H:%M:%S.%f} | {row.action} | {_text(row.user_id)} | {row.outcome} |"
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


def _when(moment: object) -> str:
    return f"at {str(moment)[:19].replace('T', ' ')} UTC" if moment else "at an unknown time"


def _text(value: object) -> str:
    """Somebody's words inside Markdown: on one line, and no markup of theirs."""
    return " ".join(str(value or "—").split()).replace("|", "\\|").replace("<", "&lt;")
