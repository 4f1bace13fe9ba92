"""When a breaker whose state was lost must not be created OPEN."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from ledger.record import AuditRow
from tasks.initialization import LastKnown, object_to_opening
from tests.records import audit_row

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)


def row(action: str, details: Mapping[str, Any], age: float = 60.0) -> AuditRow:
    return audit_row(action, NOW - timedelta(seconds=age), details)


TRIP = row("CIRCUIT_BREAKER_TRIP", {"to_state": "TRIPPED", "reason": "DRAWDOWN"})
INIT = row("CIRCUIT_BREAKER_INITIALIZE", {"to_state": "OPEN"})


def quiet(age: float) -> AuditRow:
    return row("CIRCUIT_BREAKER_RESET", {"to_state": "QUIET_PERIOD"}, age)


@pytest.mark.parametrize(
    ("known", "says"),
    [
        (LastKnown(None, None), None),
        (LastKnown(None, INIT), None),
        (LastKnown(TRIP, TRIP), "tripped by ada at 2026-11-24 11:59:00 UTC (DRAWDOWN)"),
        (LastKnown(TRIP, INIT), "no reset has followed"),
        (LastKnown(row("CIRCUIT_BREAKER_OVERRIDE_DETECTED", {}), None), "written by hand"),
        (LastKnown(None, quiet(299.9)), "lasts until 2026-11-24 12:00:00 UTC"),
        (LastKnown(None, quiet(300)), None),
        (LastKnown(None, row("CIRCUIT_BREAKER_RESET", {"to_state": "OPEN"})), None),
    ],
)
def test_the_ledgers_last_word_decides(known: LastKnown, says: str | None) -> None:
    objection = object_to_opening(known, NOW, 300.0)
    if says is None:
        assert objection is None
    else:
        assert objection is not None and says in objection.why
