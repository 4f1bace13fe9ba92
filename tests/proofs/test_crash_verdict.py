"""The judge of the crash points calls each broken promise by its name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from proofs.crash_points.boundary import Boundary, Point, read_points
from proofs.crash_points.forks import Ended
from proofs.crash_points.procedures import KILL, PENDING, RESET, TAKEOVER
from proofs.crash_points.verdict import Evidence, faults

DONE = Ended(0, 1.0, "flat\n")
VENUE: dict[str, Any] = {
    "violations": [],
    "sign_changes": [],
    "is_flat": True,
    "positions": {},
    "open_orders": 0,
    "closes": {"AAPL": 1},
}


def transition(epoch: int, made: str) -> dict[str, Any]:
    return {"epoch": epoch, "transition": made, "event_id": f"event-{epoch}"}


def row(identity: str, action: str, **details: Any) -> dict[str, Any]:
    return {"id": identity, "action": action, "details": details}


GOOD = Evidence(
    venue=VENUE,
    state="TRIPPED",
    transitions=[transition(7, "INITIALIZE"), transition(8, "TRIP")],
    rows=[
        row("event-7", "CIRCUIT_BREAKER_INITIALIZE"),
        row("event-8", "CIRCUIT_BREAKER_TRIP"),
        row("close", "POSITION_CLOSE_SENT", client_order_id="incident-AAPL-1"),
    ],
    chain="",
    waiting=0,
    kept=frozenset({"event-8", "close"}),
)


def test_nothing_is_wrong_with_what_is_right() -> None:
    assert faults(KILL, GOOD, DONE) == []


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (replace(GOOD, venue={**VENUE, "violations": ["two at once"]}), "two at once"),
        (replace(GOOD, venue={**VENUE, "sign_changes": [{"symbol": "AAPL"}]}), "turned over"),
        (replace(GOOD, venue={**VENUE, "is_flat": False, "positions": {"AAPL": "1"}}), "not flat"),
        (replace(GOOD, venue={**VENUE, "closes": {"AAPL": 2}}), "took 2 closes, on record are 1"),
        (replace(GOOD, state="OPEN"), "is OPEN, not TRIPPED"),
        (replace(GOOD, transitions=[transition(7, "INITIALIZE"), transition(9, "TRIP")]), "gap"),
        (replace(GOOD, transitions=[*GOOD.transitions, transition(9, "TRIP")]), "a TRIP is in no row"),
        (replace(GOOD, rows=[*GOOD.rows, GOOD.rows[0]]), "2 rows"),
        (replace(GOOD, rows=[*GOOD.rows, row("x", "SPOOL_LINE_UNREADABLE")]), "SPOOL_LINE_UNREADABLE"),
        (replace(GOOD, kept=frozenset({"lost"})), "1 records that there were"),
        (replace(GOOD, chain="row 2 was changed"), "row 2 was changed"),
        (replace(GOOD, waiting=3), "3 records still wait"),
    ],
)
def test_what_is_wrong_is_named(bad: Evidence, said: str) -> None:
    found = faults(KILL, bad, DONE)
    assert any(said in fault for fault in found), found


def test_an_unexpected_exit_status_is_named_with_its_reason() -> None:
    assert faults(KILL, GOOD, Ended(3, 1.0, "✗ NOT FLAT\n")) == ["run again, it ended with 3: ✗ NOT FLAT"]


def test_two_resets_and_a_pending_trip_made_twice_are_named() -> None:
    twice = [transition(8, "RESET"), transition(9, "RESET")]
    assert "2 resets" in faults(RESET, replace(GOOD, transitions=twice, state="QUIET_PERIOD"), DONE)
    made = [transition(8, "TRIP"), transition(9, "TRIP")]
    assert "the pending trip was made 2 times" in faults(PENDING, replace(GOOD, transitions=made), DONE)


def test_what_only_a_lost_host_had_on_record_is_not_missed() -> None:
    assert faults(TAKEOVER, replace(GOOD, venue={**VENUE, "closes": {"AAPL": 2}}), DONE) == []


def test_the_same_io_is_counted_up_and_written_down_before_it_is_done(tmp_path: Path) -> None:
    boundary = Boundary(tmp_path / "journal", {}, tmp_path)
    with boundary.crossing("fsync spool"):
        assert read_points(tmp_path / "journal") == [Point("fsync spool", 1)]
        with boundary.crossing("what it is made of"):
            pass
    with boundary.crossing("fsync spool"):
        pass
    assert read_points(tmp_path / "journal") == [Point("fsync spool", 1), Point("fsync spool", 2)]
