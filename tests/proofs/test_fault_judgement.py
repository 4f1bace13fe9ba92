"""The judge of the fault matrix finds each broken promise, and finds none where there is none."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from breaker import TransitionEvent
from breaker.events import Transition
from breaker.uuid7 import uuid7
from ledger.record import AuditRow
from proofs.faults.judgement import Evidence, Facts, Run, broken_promises
from proofs.faults.matrix import STEPS
from tests.records import audit_row, transition_event

NOW = datetime(2026, 1, 15, 10, tzinfo=UTC)
INCIDENT = uuid7()
VENUE: Mapping[str, Any] = {
    "is_flat": True,
    "positions": {},
    "open_orders": 0,
    "violations": [],
    "sign_changes": [],
    "closes": {"AAPL": 1},
}


def trip() -> TransitionEvent:
    return transition_event(Transition.TRIP, NOW, by="faults", reason="KILL_SWITCH", incident_id=INCIDENT)


def row(action: str, *, row_id: str = "", **details: Any) -> AuditRow:
    return audit_row(action, NOW, details, id=row_id or uuid7(), user_id="faults", incident_id=INCIDENT)


TRIP = trip()
ROWS = [
    row("CIRCUIT_BREAKER_TRIP", row_id=TRIP.event_id),
    row("KILL_SWITCH_STARTED"),
    row("POSITION_CLOSE_SENT", symbol="AAPL"),
    row("KILL_SWITCH_FINISHED"),
]
FACTS = Facts(
    state="TRIPPED", trips=[TRIP], rows=ROWS, broken_chain="", venue=VENUE, told=1, in_prefect=True, waiting=False
)
RUN = Run(status=0, screen="✓ FLAT", steps=STEPS, seconds=2.0)
GOOD = Evidence("redis", "flatten", killed=False, hopeless=False, runs=[RUN], left=FACTS, end=FACTS)


def venue(**changes: Any) -> Facts:
    return replace(FACTS, venue={**VENUE, **changes})


def test_a_good_run_breaks_nothing() -> None:
    assert broken_promises(GOOD) == []


def test_what_is_missing_may_be_missing_when_it_is_named_and_recorded_later() -> None:
    named = "done without the ledger\ndone without Prefect\ndone without pagerduty"
    left = replace(FACTS, rows=[], told=0, in_prefect=False, waiting=True)
    assert broken_promises(replace(GOOD, runs=[replace(RUN, screen=named)], left=left)) == []


def test_a_kill_switch_that_was_killed_is_judged_by_the_second_one() -> None:
    again = trip()
    more = [
        row("CIRCUIT_BREAKER_TRIP", row_id=again.event_id, reason="again"),
        row("KILL_SWITCH_STARTED", reason="again"),
    ]
    open_book = venue(is_flat=False, positions={"AAPL": "10"})
    killed = replace(GOOD, killed=True, runs=[replace(RUN, status=None), RUN], left=open_book)
    assert broken_promises(replace(killed, end=replace(FACTS, trips=[TRIP, again], rows=[*ROWS, *more]))) == []
    assert broken_promises(replace(killed, end=open_book)) != []


NOT_FLAT = venue(is_flat=False, positions={"AAPL": "10"})
BROKEN: dict[str, Callable[[], Evidence]] = {
    "did not end": lambda: replace(GOOD, runs=[replace(RUN, status=None, overran=True)]),
    "traceback": lambda: replace(GOOD, runs=[replace(RUN, screen="Traceback (most recent call last):")]),
    "exit status 1": lambda: replace(GOOD, runs=[replace(RUN, status=1)]),
    "never began": lambda: replace(GOOD, runs=[replace(RUN, steps=["trip"])]),
    "it said flat": lambda: replace(GOOD, left=NOT_FLAT),
    "not flat in the end": lambda: replace(GOOD, end=NOT_FLAT),
    "could have been proven": lambda: replace(GOOD, runs=[replace(RUN, status=3, screen="PAPER"), RUN]),
    "the breaker is OPEN": lambda: replace(GOOD, left=replace(FACTS, state="OPEN")),
    "Redis was there": lambda: replace(GOOD, runs=[replace(RUN, status=4, screen="COULD NOT HALT")]),
    "could not halt": lambda: replace(GOOD, step="trip", runs=[replace(RUN, status=4)]),
    "missing: ledger": lambda: replace(GOOD, left=replace(FACTS, rows=[])),
    "missing: prefect": lambda: replace(GOOD, left=replace(FACTS, in_prefect=False)),
    "missing: pagerduty": lambda: replace(GOOD, left=replace(FACTS, told=0)),
    "larger than": lambda: replace(GOOD, end=venue(violations=["a close of 9 was larger than the position of 5"])),
    "turned over": lambda: replace(GOOD, end=venue(sign_changes=[{"by": "client", "symbol": "AAPL"}])),
    "2 closes of AAPL": lambda: replace(GOOD, end=venue(closes={"AAPL": 2})),
    "chain": lambda: replace(GOOD, end=replace(FACTS, broken_chain="row 3 was changed")),
    "2 trips of 1 runs": lambda: replace(GOOD, end=replace(FACTS, trips=[TRIP, trip()])),
    "0 rows of 1 trips": lambda: replace(GOOD, end=without("CIRCUIT_BREAKER_TRIP")),
    "0 rows say that one of 1 kill switches started": lambda: replace(GOOD, end=without("KILL_SWITCH_STARTED")),
    "0 rows say that one of 1 kill switches ended": lambda: replace(GOOD, end=without("KILL_SWITCH_FINISHED")),
    "2 rows of one": lambda: replace(GOOD, end=replace(FACTS, rows=[*ROWS, row("ACCOUNT_FLAT"), row("ACCOUNT_FLAT")])),
    "no row of the close": lambda: replace(GOOD, end=without("POSITION_CLOSE_SENT")),
    "waits on the disk": lambda: replace(GOOD, end=replace(FACTS, waiting=True)),
}


def without(action: str) -> Facts:
    kept: Sequence[AuditRow] = [known for known in ROWS if known.action != action]
    return replace(FACTS, rows=kept)


@pytest.mark.parametrize("word", BROKEN)
def test_each_broken_promise_is_found(word: str) -> None:
    assert any(word in sentence for sentence in broken_promises(BROKEN[word]()))
