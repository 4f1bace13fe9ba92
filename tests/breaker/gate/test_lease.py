"""What a gate knows and until when: the pure rules, with made-up clocks."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from breaker.gate.decision import NEVER
from breaker.gate.lease import (
    Lease,
    Newest,
    Standing,
    StateReading,
    View,
    Word,
    connection_lost,
    heartbeat_confirmed,
    heartbeat_sent,
    invalidated,
    observe,
    states_read,
)
from breaker.gate.resp3 import ErrorReply
from breaker.gate.state_reading import read_state

OPEN = StateReading(Word.OPEN, epoch=5)
TRIPPED = StateReading(Word.TRIPPED, epoch=6)
MISSING = StateReading(Word.MISSING)


def lease(**fields: Any) -> Lease:
    return Lease(max_staleness=0.2, views=(View("global"),), **fields)


def answered(before: Lease, *readings: StateReading, replicas: int = 0) -> Lease:
    return heartbeat_confirmed(states_read(before, readings), replicas)


def seen(*readings: StateReading, scope: str = "global") -> View:
    view = View(scope)
    for reading in readings:
        view = observe(view, reading)
    return view


def test_a_lease_runs_from_the_sending_however_late_the_answer() -> None:
    assert answered(heartbeat_sent(lease(), 100.0), OPEN).clear_until == pytest.approx(100.2)


def test_answers_belong_to_the_heartbeats_in_their_order() -> None:
    sent = heartbeat_sent(heartbeat_sent(lease(), 100.0), 100.05)
    first = answered(sent, OPEN)
    assert first.clear_until == pytest.approx(100.2)
    assert answered(first, OPEN).clear_until == pytest.approx(100.25)


def test_an_invalidation_closes_until_an_answer_to_a_later_heartbeat() -> None:
    known = answered(heartbeat_sent(lease(), 100.0), OPEN)
    written = invalidated(heartbeat_sent(known, 100.05))
    assert written.clear_until == NEVER
    overtaken = answered(heartbeat_sent(written, 100.06), OPEN)
    assert overtaken.clear_until == NEVER
    assert answered(overtaken, OPEN).clear_until == pytest.approx(100.26)


def test_a_halt_closes_before_its_heartbeat_is_confirmed() -> None:
    known = answered(heartbeat_sent(lease(replicas=1), 100.0), OPEN, replicas=1)
    assert known.clear_until == pytest.approx(100.2)
    assert states_read(heartbeat_sent(known, 100.05), (TRIPPED,)).clear_until == NEVER


def test_too_few_replicas_do_not_renew_the_lease() -> None:
    known = answered(heartbeat_sent(lease(replicas=2), 100.0), OPEN, replicas=2)
    assert answered(heartbeat_sent(known, 100.05), OPEN, replicas=1).clear_until == pytest.approx(100.2)


def test_a_lost_connection_closes_and_forgets_what_was_in_flight() -> None:
    lost = connection_lost(heartbeat_sent(answered(heartbeat_sent(lease(), 100.0), OPEN), 100.05))
    assert lost.clear_until == NEVER
    assert lost.sent == ()


@pytest.mark.parametrize(
    ("readings", "standing"),
    [
        ([OPEN], Standing.OPEN),
        ([MISSING], Standing.MISSING),
        ([MISSING, OPEN], Standing.OPEN),
        ([OPEN, MISSING], Standing.MISSING),
        ([OPEN, MISSING, OPEN], Standing.OUTDATED),
        ([OPEN, MISSING, StateReading(Word.OPEN, epoch=6)], Standing.OPEN),
        ([OPEN, TRIPPED, OPEN], Standing.OUTDATED),
        ([OPEN, TRIPPED, StateReading(Word.OPEN, epoch=6)], Standing.OUTDATED),
        ([OPEN, TRIPPED, StateReading(Word.QUIET_PERIOD, epoch=7)], Standing.QUIET_PERIOD),
        ([OPEN, StateReading(Word.TRIPPED), OPEN], Standing.OUTDATED),
        ([OPEN, StateReading(Word.TRIPPED, epoch=2)], Standing.TRIPPED),
        ([OPEN, StateReading(Word.OPEN)], Standing.OUTDATED),
        ([StateReading(Word.OPEN)], Standing.OPEN),
        ([StateReading(Word.UNREADABLE), OPEN], Standing.OPEN),
        ([OPEN, StateReading(Word.UNREADABLE), OPEN], Standing.OUTDATED),
        ([StateReading(Word.QUIET_PERIOD, epoch=5), OPEN], Standing.OPEN),
    ],
)
def test_trading_is_believed_only_from_what_is_not_behind(readings: list[StateReading], standing: Standing) -> None:
    assert seen(*readings).standing is standing


def test_only_a_scope_that_never_existed_does_not_block() -> None:
    assert seen(MISSING, scope="account:A").standing is Standing.NEVER_INITIALISED
    assert seen(OPEN, MISSING, scope="account:A").standing is Standing.MISSING
    existed_before_this_gate = View("account:A", newest=Newest(-1, halted=True))
    assert observe(existed_before_this_gate, MISSING).standing is Standing.MISSING


readings_ = st.builds(StateReading, st.sampled_from(Word), st.none() | st.integers(0, 4))


@given(st.lists(readings_, max_size=12))
def test_after_a_halt_only_a_greater_epoch_lets_trade(history: list[StateReading]) -> None:
    view, halted_at = View("global"), -1
    for reading in history:
        view = observe(view, reading)
        existed = view.newest is not None
        if view.standing in (Standing.OPEN, Standing.QUIET_PERIOD):
            assert (reading.epoch or 0) > halted_at
        elif existed and view.standing is not Standing.OUTDATED:
            assert view.newest is not None
            halted_at = max(halted_at, view.newest.epoch)


NOW_US = 1_800_000_000_000_000


def raw(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


@pytest.mark.parametrize(
    ("stored", "word"),
    [
        (None, Word.MISSING),
        (ErrorReply("WRONGTYPE x"), Word.UNREADABLE),
        (b"", Word.UNREADABLE),
        (b"\xff\xfe", Word.UNREADABLE),
        (b"{}", Word.UNREADABLE),
        (b"[]", Word.UNREADABLE),
        (b'"OPEN"', Word.UNREADABLE),
        (raw(state="open"), Word.UNREADABLE),
        (raw(state="UNKNOWN"), Word.UNREADABLE),
        (raw(state="QUIET_PERIOD"), Word.UNREADABLE),
        (raw(state="TRIPPED", tripped_at="2025-01-15T10:00:00Z", trip_reason="EMERGENCY_MANUAL"), Word.TRIPPED),
        (raw(state="OPEN", epoch=3), Word.OPEN),
        (raw(state="QUIET_PERIOD", quiet_until="2027-01-15T08:00:10Z"), Word.QUIET_PERIOD),
        (raw(state="QUIET_PERIOD", quiet_until="2027-01-15T07:59:59Z"), Word.OPEN),
    ],
)
def test_stored_state_is_read_as_what_it_means(stored: bytes | ErrorReply | None, word: Word) -> None:
    assert read_state(stored, NOW_US, 50.0, key="k").word is word


def test_the_end_of_a_quiet_period_is_placed_on_the_gates_own_clock() -> None:
    stored = raw(state="QUIET_PERIOD", reset_at="2027-01-15T07:59:00Z", quiet_until="2027-01-15T08:00:10Z", epoch=1)
    cooling = read_state(stored, NOW_US, 50.0, key="k").cooling
    assert cooling is not None
    assert cooling.ends == pytest.approx(60.0)
    assert cooling.length == pytest.approx(70.0)


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_no_text_whatever_reads_as_trading_unless_it_says_so(stored: bytes) -> None:
    word = read_state(stored, NOW_US, 0.0, key="k").word
    assert word not in (Word.OPEN, Word.QUIET_PERIOD) or b'"state"' in stored
