"""Incidents as the ledger tells them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pydantic import SecretStr

from ledger.ledger import Ledger
from ledger.record import FAILED, OK, AuditRecord
from ledger.schema import upgrade
from tasks.incidents import Incident, read_incidents, read_report

BEGAN = datetime(2026, 3, 2, 14, 0, tzinfo=UTC)
FIRST, SECOND = "0195f3a0-0000-7000-8000-000000000001", "0195f3a0-0000-7000-8000-000000000002"


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    made = Ledger.connect(SecretStr(f"sqlite:///{tmp_path / 'audit.db'}"))
    upgrade(made)
    return made


def add(ledger: Ledger, incident: str, minute: int, action: str, outcome: str = OK, **details: object) -> None:
    at = BEGAN + timedelta(minutes=minute)
    record = AuditRecord(
        action=action,
        source="cli",
        user_id="ada",
        incident_id=incident,
        details=details,
        timestamp=at,
        outcome=outcome,
        scope="account:ALPHA",
    )
    ledger.append([record])


def test_an_incident_is_what_its_rows_come_to(ledger: Ledger) -> None:
    add(ledger, FIRST, 0, "CIRCUIT_BREAKER_TRIP", reason="MANUAL", details={"reason": "quotes look frozen"})
    add(ledger, FIRST, 1, "KILL_SWITCH_STARTED")
    (begun,), _ = read_incidents(ledger, 10)
    assert (begun.kill, begun.ended, begun.recovery) == ("RUNNING", None, "")
    add(ledger, FIRST, 2, "KILL_SWITCH_FINISHED", flat=True)
    add(ledger, FIRST, 3, "RECOVERY_ROOT_CAUSE")
    add(ledger, FIRST, 9, "CIRCUIT_BREAKER_QUIET_PERIOD_END")
    add(ledger, FIRST, 9, "RECOVERY_FINISHED")
    (found,), after = read_incidents(ledger, 10)
    assert after is None
    assert found == Incident(
        FIRST,
        "account:ALPHA",
        "MANUAL · quotes look frozen",
        BEGAN,
        "ada",
        BEGAN + timedelta(minutes=9),
        "FLAT",
        "recovered",
    )


def test_a_watch_that_tripped_again_has_not_ended_it(ledger: Ledger) -> None:
    add(ledger, FIRST, 0, "CIRCUIT_BREAKER_TRIP", reason="MANUAL")
    add(ledger, FIRST, 5, "CIRCUIT_BREAKER_TRIP", reason="WATCH_FAILED")
    add(ledger, FIRST, 5, "RESET_WATCH_ENDED", outcome=FAILED)
    (found,), _ = read_incidents(ledger, 10)
    assert (found.ended, found.reason) == (None, "MANUAL")


def test_the_newest_comes_first_and_the_others_follow(ledger: Ledger) -> None:
    add(ledger, FIRST, 0, "CIRCUIT_BREAKER_TRIP", reason="MANUAL")
    add(ledger, SECOND, 60, "CIRCUIT_BREAKER_TRIP", reason="DRAWDOWN")
    (newest,), after = read_incidents(ledger, 1)
    (older,), end = read_incidents(ledger, 1, after)
    assert (newest.id, older.id, end) == (SECOND, FIRST, None)


def test_a_report_goes_by_the_id_alone(tmp_path: Path) -> None:
    (tmp_path / "incidents" / FIRST).mkdir(parents=True)
    (tmp_path / "incidents" / FIRST / "report.md").write_text("# Incident")
    assert read_report(tmp_path, FIRST) == "# Incident"
    assert read_report(tmp_path, SECOND) is None and read_report(tmp_path, f"../incidents/{FIRST}") is None
