"""Count what the ledger has, reading on from where the last reading ended.

Counting rows instead of calls makes the counters right across restarts, and for trips from any place: command line,
console, rule, another host, `redis-cli`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy import Text, cast, or_, select

from breaker.trip_reasons import TripReason
from ledger.ledger import Ledger
from ledger.models import OVERRIDE_DETECTED, TRANSITION_ACTIONS, audit_log
from ledger.record import DENIED
from ledger.transactions import reading

KNOWN_REASONS = (
    TripReason.MANUAL,
    TripReason.KILL_SWITCH,
    TripReason.DRAWDOWN,
    TripReason.API_ERRORS,
    TripReason.DATA_STALENESS,
    TripReason.DAILY_LOSS,
)
"""Reported as 0 before the first such trip, so that the first one is an increase."""
OTHER = "other"
_MOST_REASONS = 40
_REASON = re.compile(r"[A-Z][A-Z0-9_]{0,39}")

_TRIP, _RESET = TRANSITION_ACTIONS["TRIP"], TRANSITION_ACTIONS["RESET"]
_KILL_FINISHED = "KILL_SWITCH_FINISHED"
_DRILL_FINISHED = "DRILL_FINISHED"
_NOTIFICATION_FAILED = "NOTIFICATION_FAILED"
_COUNTED = (_TRIP, _RESET, OVERRIDE_DETECTED, _KILL_FINISHED, _DRILL_FINISHED, _NOTIFICATION_FAILED)


@dataclass(frozen=True, slots=True)
class Counts:
    """Everything counted up to the row `seq`."""

    seq: int = 0
    trips: Mapping[str, int] = field(default_factory=lambda: dict.fromkeys(KNOWN_REASONS, 0))
    """By reason. A reason that is no code, or one too many, counts as `other`: labels are not free text."""
    resets: int = 0
    overrides: int = 0
    denied: int = 0
    notification_failures: int = 0
    kills: Mapping[str, int] = field(default_factory=lambda: {"flat": 0, "not_flat": 0})
    last_kill: Mapping[str, Any] | None = None
    last_drill: Mapping[str, Any] | None = None


def read_on(ledger: Ledger, counts: Counts) -> Counts:
    """`counts` and everything that the ledger has behind them.

    Raises:
        LedgerUnavailable, LedgerNotReady: it can't be read now.
    """
    columns = audit_log.c
    wanted = (
        select(columns.seq, columns.action, columns.outcome, cast(columns.details, Text).label("details"))
        .where(columns.seq > counts.seq, or_(columns.action.in_(_COUNTED), columns.outcome == DENIED))
        .order_by(columns.seq)
    )
    head, _ = ledger.head()
    if head == counts.seq:
        return counts
    with reading(ledger) as connection:
        rows = connection.execute(wanted.where(columns.seq <= head)).all()
    for row in rows:
        counts = add_row(counts, row.action, row.outcome, json.loads(row.details))
    return replace(counts, seq=head)


def add_row(counts: Counts, action: str, outcome: str, details: Mapping[str, Any]) -> Counts:
    """Pure: one more row."""
    if outcome == DENIED:
        return replace(counts, denied=counts.denied + 1)
    if action == _TRIP:
        return replace(counts, trips=_one_more(counts.trips, _label(counts.trips, details.get("reason"))))
    if action == _RESET:
        return replace(counts, resets=counts.resets + 1)
    if action == OVERRIDE_DETECTED:
        # The runbook's manual override is a trip too, though no script made it.
        trips = _one_more(counts.trips, "OVERRIDE") if outcome == "TRIPPED" else counts.trips
        return replace(counts, trips=trips, overrides=counts.overrides + 1)
    if action == _KILL_FINISHED:
        kills = _one_more(counts.kills, "flat" if details.get("flat") is True else "not_flat")
        return replace(counts, kills=kills, last_kill=details)
    if action == _DRILL_FINISHED:
        return replace(counts, last_drill=details)
    return replace(counts, notification_failures=counts.notification_failures + 1)


def _label(trips: Mapping[str, int], reason: object) -> str:
    if not isinstance(reason, str) or not _REASON.fullmatch(reason):
        return OTHER
    return reason if reason in trips or len(trips) < _MOST_REASONS else OTHER


def _one_more(counted: Mapping[str, int], label: str) -> Mapping[str, int]:
    return {**counted, label: counted.get(label, 0) + 1}
