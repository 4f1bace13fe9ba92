"""What is drawn for three hosts has each loss and each phase; and the judge finds each broken promise, or none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from breaker import TransitionEvent
from breaker.events import Transition
from breaker.uuid7 import uuid7
from ledger.record import AuditRow
from proofs.three_hosts.judgement import Facts, Kill, Recovery, broken_by_kill, broken_by_recovery, late_admissions
from proofs.three_hosts.losses import (
    KILL_PHASES,
    LOSSES,
    RECOVERY_EARLY,
    RECOVERY_LATE,
    kill_cases,
    phases_of,
    recovery_cases,
)
from tests.records import audit_row, transition_event

NOW = datetime(2026, 1, 15, 10, tzinfo=UTC)
AT = NOW.timestamp()
INCIDENT = uuid7()
STALENESS = 0.2
VENUE: Mapping[str, Any] = {
    "is_flat": True,
    "positions": {},
    "open_orders": 0,
    "violations": [],
    "sign_changes": [],
    "closes": {"AAPL": 1},
}


def transition(what: Transition, after: float = 0.0, by: str = "cyd") -> TransitionEvent:
    return transition_event(what, NOW + timedelta(seconds=after), by=by, incident_id=INCIDENT)


def row(action: str, row_id: str = "", **details: Any) -> AuditRow:
    return audit_row(action, NOW, details, id=row_id or uuid7(), incident_id=INCIDENT)


TRIP = transition(Transition.TRIP)
FACTS = Facts(
    state="TRIPPED",
    history=[TRIP],
    rows=[
        row("CIRCUIT_BREAKER_TRIP", TRIP.event_id),
        row("KILL_SWITCH_STARTED"),
        row("POSITION_CLOSE_SENT", client_order_id="one"),
    ],
    chain="",
    waiting=0,
    stretches=[(2, AT - 9, AT + 0.1)],
    venue=VENUE,
)
KILL = Kill(flat_meanwhile=True, said={"halted": True, "unconfirmed": None, "incident_id": INCIDENT}, facts=FACTS)


def test_every_loss_is_drawn_as_often_as_asked_and_every_phase_about_as_often() -> None:
    drawn = kill_cases(seed=1, rounds=2)
    assert drawn == kill_cases(seed=1, rounds=2) != kill_cases(seed=2, rounds=2)
    assert len(set(drawn)) == len(drawn)
    assert Counter(case.loss for case in drawn) == dict.fromkeys(LOSSES, 2)
    phases = Counter(case.phase for case in drawn)
    assert set(phases) == set(KILL_PHASES) and max(phases.values()) - min(phases.values()) <= 2
    assert len(set(kill_cases(seed=1, rounds=len(KILL_PHASES)))) == len(KILL_PHASES) * len(LOSSES)


def test_every_loss_meets_a_recovery_and_every_phase_a_loss() -> None:
    drawn = list(phases_of(recovery_cases(seed=1, rounds=1)))
    assert Counter(loss for _, loss in drawn) == dict.fromkeys(LOSSES, 1)
    assert {phase for phase, _ in drawn} == {*RECOVERY_EARLY, *RECOVERY_LATE}


def test_a_kill_that_kept_every_promise_is_not_blamed() -> None:
    assert broken_by_kill(KILL, STALENESS) == []


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"flat_meanwhile": False}, "not flat while it lasted"),
        ({"venue": {**VENUE, "is_flat": False}}, "not flat in the end"),
        ({"venue": {**VENUE, "violations": ["a close was larger"]}}, "a close was larger"),
        ({"venue": {**VENUE, "sign_changes": [{"by": "client"}]}}, "turned over"),
        ({"venue": {**VENUE, "closes": {"AAPL": 2}}}, "the venue took 2 closes, on record are 1"),
        ({"state": "OPEN"}, "the breaker is OPEN in the end"),
        ({"history": []}, "a confirmed trip is gone"),
        ({"rows": FACTS.rows[1:]}, "0 rows of the TRIP"),
        ({"rows": [*FACTS.rows, row("ORDERS_CANCELED"), row("ORDERS_CANCELED")]}, "2 rows of one ORDERS_CANCELED"),
        ({"rows": [FACTS.rows[0], FACTS.rows[2]]}, "no row says that a kill switch started"),
        ({"rows": [*FACTS.rows, row("CIRCUIT_BREAKER_OVERRIDE_DETECTED")]}, "OVERRIDE_DETECTED"),
        ({"chain": "row 7 was changed"}, "row 7 was changed"),
        ({"waiting": 1}, "1 records still wait"),
        ({"stretches": [(1, AT - 9, AT + 0.5)]}, "waits for 1 replicas let orders through until 0.50 s after a trip"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_promise_that_a_kill_breaks_is_named(changed: dict[str, Any], sentence: str) -> None:
    flat = changed.pop("flat_meanwhile", True)
    broken = broken_by_kill(replace(KILL, flat_meanwhile=flat, facts=replace(FACTS, **changed)), STALENESS)
    assert any(sentence in each for each in broken), broken


def recovery(*history: TransitionEvent, approved_after: float = 1.0, ended: str = "OPEN") -> Recovery:
    facts = replace(
        FACTS,
        history=history,
        rows=[row("CIRCUIT_BREAKER", event.event_id, epoch=number) for number, event in enumerate(history)],
    )
    return Recovery(
        incident_id=INCIDENT, approver="cyd", approved_at=AT + approved_after, missed=[], ended=ended, facts=facts
    )


def test_a_recovery_that_was_approved_or_tripped_again_is_not_blamed() -> None:
    reset, again = transition(Transition.RESET, 2), transition(Transition.TRIP, 3)
    assert broken_by_recovery(recovery(TRIP, reset, transition(Transition.QUIET_PERIOD_END, 4)), STALENESS) == []
    assert broken_by_recovery(recovery(TRIP, reset, again, ended="begun anew"), STALENESS) == []


@pytest.mark.parametrize(
    ("seen", "sentence"),
    [
        (recovery(TRIP, transition(Transition.RESET, 0.5)), "reset before anybody approved it"),
        (recovery(TRIP, transition(Transition.RESET, 2, by="eve")), "reset by eve"),
        (recovery(TRIP, *(transition(Transition.RESET, at) for at in (2, 3))), "the transitions were TRIP RESET RESET"),
        (recovery(TRIP, ended="going on"), "it did not go on: going on"),
        (replace(recovery(TRIP), missed=["approval awaited"]), "it never came to approval awaited"),
    ],
)
def test_each_promise_that_a_recovery_breaks_is_named(seen: Recovery, sentence: str) -> None:
    assert any(sentence in each for each in broken_by_recovery(seen, STALENESS))


def test_a_gate_may_open_again_after_a_reset_and_not_after_the_next_trip() -> None:
    history = [TRIP, transition(Transition.RESET, 5), transition(Transition.TRIP, 8)]

    def late(first: float, last: float) -> list[str]:
        facts = replace(FACTS, history=history, stretches=[(1, AT + first, AT + last)])
        return late_admissions(facts, STALENESS)

    assert late(-3, 0.15) == [] and late(5.1, 8.1) == []
    assert late(1, 1.5) and late(5.1, 9)
