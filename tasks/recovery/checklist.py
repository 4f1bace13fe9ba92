"""Define the runbook's recovery checklist as data, once for the orchestrator's UI, the command line and the console.

Source: runbook, *Recovery Checklist*; the words of sections and items are the runbook's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Verified(StrEnum):
    """How an item is ticked."""

    BY_TASK = "measured"
    BY_FORM = "confirmed by a person"
    BY_BOTH = "measured, and confirmed by a person"


@dataclass(frozen=True, slots=True)
class Item:
    key: str
    words: str
    verified: Verified
    permission: str = "APPROVE_RECOVERY"
    """Who may confirm it, or override it when it is red."""


@dataclass(frozen=True, slots=True)
class Section:
    number: int
    title: str
    items: tuple[Item, ...]


CHECKLIST: tuple[Section, ...] = (
    Section(
        1,
        "Identify Root Cause",
        (
            Item("trip-reason", "Review trip reason and details", Verified.BY_BOTH),
            Item("anomalies", "Check Grafana for anomalies at trip time", Verified.BY_BOTH),
            Item("logs", "Review logs: `docker logs execution_gateway`", Verified.BY_BOTH),
        ),
    ),
    Section(
        2,
        "Verify Conditions Normalized",
        (
            Item("drawdown", "Drawdown within limits", Verified.BY_TASK),
            Item("position-sizes", "Position sizes within limits", Verified.BY_TASK),
            Item("api-errors", "No API errors in last 5 minutes", Verified.BY_TASK),
            Item("redis", "Redis connectivity healthy", Verified.BY_TASK),
            Item("ledger", "PostgreSQL connectivity healthy", Verified.BY_TASK),
        ),
    ),
    Section(
        3,
        "System Health Check",
        (
            Item("services", "All services showing green in System Health dashboard", Verified.BY_TASK),
            Item("queues", "No queue backlogs (check queue depth metrics)", Verified.BY_TASK),
            Item("latencies", "Latencies within normal range", Verified.BY_TASK),
        ),
    ),
    Section(
        4,
        "Pre-Reset Actions",
        (
            Item("notify", "Notify relevant team members (Slack/PagerDuty)", Verified.BY_TASK),
            Item("incident-report", "Document root cause in incident report", Verified.BY_BOTH),
            Item("conflicts", "Confirm no pending conflicting operations", Verified.BY_TASK),
        ),
    ),
    Section(
        5,
        "Reset and Verify",
        (
            Item("reset", "Reset via UI or CLI", Verified.BY_BOTH, permission="RESET_CIRCUIT"),
            Item("verify-open", "Verify state is OPEN", Verified.BY_TASK),
            Item("audit-entry", "Check audit log for reset entry", Verified.BY_TASK),
            Item("watch", "Monitor for 5 minutes for any issues", Verified.BY_TASK),
        ),
    ),
)

ITEMS: dict[str, Item] = {item.key: item for section in CHECKLIST for item in section.items}
