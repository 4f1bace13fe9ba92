"""What a gate knows and until when: the pure rules, with made-up clocks."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from breaker.gate.decision import EXPIRED
from breaker.gate.lease import (
    LatestSeen,
    Lease,
    ScopeState,
    ScopeView,
    StateReading,
    StoredState,
    connection_lost,
    heartbeat_confirmed,
    heartbeat_sent,
    invalidated,
    observe,
    states_read,
)
from breaker.gate.protocol import read_state
from breaker.gate.resp3 import ErrorReply

OPEN = StateReading(StoredState.OPEN, epoch=5)
TRIPPED = StateReading(StoredState.TRIPPED, epoch=6)
MISSING = StateReading(StoredState.MISSING)


def lease(**fields: Any) -> Lease:
    return Lease(max_staleness=0.2, views=(ScopeView("global"),), **fields)


def answered(before: Lease, *readings: StateReading, replicas: int = 0) -> Lease:
    return heartbeat_confirmed(states_read(before, readings), replicas)


def seen(*readings: StateReading, scope: str = "global") -> ScopeView:
    view = ScopeView(scope)
    for reading in readings:
        view = observe(view, reading)
    return view


def test_promise_3_a_lease_runs_from_the_sending_however_late_the_answer() -> None:
    assert answered(heartbeat_sent(lease(), 100.0), OPEN).clear_until == pytest.approx(100.2)


def test_answers_belong_to_the_heartbeats_in_their_order() -> None:
    sent = heartbeat_sent(heartbeat_sent(lease(), 100.0), 100.05)
    first = answered(sent, OPEN)
    assert first.clear_until == pytest.approx(100.2)
    assert answered(first, OPEN).clear_until == pytest.approx(100.25)


def test_an_invalidation_closes_until_an_answer_to_a_later_heartbeat() -> None:
    known = answered(heartbeat_sent(lease(), 100.0), OPEN)
    written = invalidated(heartbeat_sent(known, 100.05))
    assert written.clear_until == EXPIRED
    overtaken = answered(heartbeat_sent(written, 100.06), OPEN)
    assert overtaken.clear_until == EXPIRED
    assert answered(overtaken, OPEN).clear_until == pytest.approx(100.26)


def test_a_halt_closes_before_its_heartbeat_is_confirmed() -> None:
    known = answered(heartbeat_sent(lease(replicas=1), 100.0), OPEN, replicas=1)
    assert known.clear_until == pytest.approx(100.2)
    assert states_read(heartbeat_sent(known, 100.05), (TRIPPED,)).clear_until == EXPIRED


def test_too_few_replicas_do_not_renew_the_lease() -> None:
    known = answered(heartbeat_sent(lease(replicas=2), 100.0), OPEN, replicas=2)
    assert answered(heartbeat_sent(known, 100.05), OPEN, replicas=1).clear_until == pytest.approx(100.2)


def test_a_lost_connection_closes_and_forgets_what_was_in_flight() -> None:
    lost = connection_lost(heartbeat_sent(answered(heartbeat_sent(lease(), 100.0), OPEN), 100.05))
    assert lost.clear_until == EXPIRED
    assert lost.sent == ()


@pytest.mark.parametrize(
    ("readings", "state"),
    [
        ([OPEN], ScopeState.OPEN),
        ([MISSING], ScopeState.MISSING),
        ([MISSING, OPEN], ScopeState.OPEN),
        ([OPEN, MISSING], ScopeState.MISSING),
        ([OPEN, MISSING, OPEN], ScopeState.OUTDATED),
        ([OPEN, MISSING, StateReading(StoredState.OPEN, epoch=6)], ScopeState.OPEN),
        ([OPEN, TRIPPED, OPEN], ScopeState.OUTDATED),
        ([OPEN, TRIPPED, StateReading(StoredState.OPEN, epoch=6)], ScopeState.OUTDATED),
        ([OPEN, TRIPPED, StateReading(StoredState.QUIET_PERIOD, epoch=7)], ScopeState.QUIET_PERIOD),
        ([OPEN, StateReading(StoredState.TRIPPED), OPEN], ScopeState.OUTDATED),
        ([OPEN, StateReading(StoredState.TRIPPED, epoch=2)], ScopeState.TRIPPED),
        ([OPEN, StateReading(StoredState.OPEN)], ScopeState.OUTDATED),
        ([StateReading(StoredState.OPEN)], ScopeState.OPEN),
        ([StateReading(StoredState.UNREADABLE), OPEN], ScopeState.OPEN),
        ([OPEN, StateReading(StoredState.UNREADABLE), OPEN], ScopeState.OUTDATED),
        ([StateReading(StoredState.QUIET_PERIOD, epoch=5), OPEN], ScopeState.OPEN),
    ],
)
def test_trading_is_believed_only_from_what_is_not_behind(readings: list[StateReading], state: ScopeState) -> None:
    assert seen(*readings).state is state


def test_only_a_scope_that_never_existed_does_not_block() -> None:
    assert seen(MISSING, scope="account:A").state is ScopeState.NEVER_INITIALISED
    assert seen(OPEN, MISSING, scope="account:A").state is ScopeState.MISSING
    existed_before_this_gate = ScopeView("account:A", latest_seen=LatestSeen(-1, halted=True))
    assert observe(existed_before_this_gate, MISSING).state is ScopeState.MISSING


readings_ = st.builds(StateReading, st.sampled_from(StoredState), st.none() | st.integers(0, 4))


@given(st.lists(readings_, max_size=12))
def test_after_a_halt_only_a_greater_epoch_lets_trade(history: list[StateReading]) -> None:
    view, halted_at = ScopeView("global"), -1
    for reading in history:
        view = observe(view, reading)
        existed = view.latest_seen is not None
        if view.state in (ScopeState.OPEN, ScopeState.QUIET_PERIOD):
            assert (reading.epoch or 0) > halted_at
        elif existed and view.state is not ScopeState.OUTDATED:
            assert view.latest_seen is not None
            halted_at = max(halted_at, view.latest_seen.epoch)


NOW_US = 1_800_000_000_000_000


def raw(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


@pytest.mark.parametrize(
    ("stored", "state"),
    [
        (None, StoredState.MISSING),
        (ErrorReply("WRONGTYPE x"), StoredState.UNREADABLE),
        (b"", StoredState.UNREADABLE),
        (b"\xff\xfe", StoredState.UNREADABLE),
        (b"{}", StoredState.UNREADABLE),
        (b"[]", StoredState.UNREADABLE),
        (b'"OPEN"', StoredState.UNREADABLE),
        (raw(state="open"), StoredState.UNREADABLE),
        (raw(state="UNKNOWN"), StoredState.UNREADABLE),
        (raw(state="QUIET_PERIOD"), StoredState.UNREADABLE),
        (raw(state="TRIPPED", tripped_at="2025-01-15T10:00:00Z", trip_reason="EMERGENCY_MANUAL"), StoredState.TRIPPED),
        (raw(state="OPEN", epoch=3), StoredState.OPEN),
        (raw(state="QUIET_PERIOD", quiet_until="2027-01-15T08:00:10Z"), StoredState.QUIET_PERIOD),
        (raw(state="QUIET_PERIOD", quiet_until="2027-01-15T07:59:59Z"), StoredState.OPEN),
    ],
)
def test_stored_state_is_read_as_what_it_means(stored: bytes | ErrorReply | None, state: StoredState) -> None:
    assert read_state(stored, NOW_US, 50.0, key="k").state is state


def test_the_end_of_a_quiet_period_is_placed_on_the_gates_own_clock() -> None:
    stored = raw(state="QUIET_PERIOD", reset_at="2027-01-15T07:59:00Z", quiet_until="2027-01-15T08:00:10Z", epoch=1)
    quiet_period = read_state(stored, NOW_US, 50.0, key="k").quiet_period
    assert quiet_period is not None
    assert quiet_period.ends == pytest.approx(60.0)
    assert quiet_period.length == pytest.approx(70.0)


def test_a_quiet_period_that_does_not_say_its_end_ramps_over_five_minutes() -> None:
    quiet_period = read_state(
        raw(state="QUIET_PERIOD", reset_at="2027-01-15T07:59:00Z"), NOW_US, 50.0, key="k"
    ).quiet_period
    assert quiet_period is not None
    assert quiet_period.ends == pytest.approx(290.0)
    assert quiet_period.length == pytest.approx(300.0)


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_no_text_whatever_reads_as_trading_unless_it_says_so(stored: bytes) -> None:
    state = read_state(stored, NOW_US, 0.0, key="k").state
    assert state not in (StoredState.OPEN, StoredState.QUIET_PERIOD) or b'"state"' in stored


def test_states_without_an_epoch_come_before_every_other() -> None:
    unnumbered = StateReading(StoredState.OPEN)
    assert seen(unnumbered, StateReading(StoredState.OPEN, epoch=0)).state is ScopeState.OPEN
    assert seen(StateReading(StoredState.TRIPPED), unnumbered).state is ScopeState.OPEN
    assert seen(StateReading(StoredState.TRIPPED, epoch=0), unnumbered).state is ScopeState.OUTDATED


def test_an_invalidation_overtakes_exactly_the_heartbeats_in_flight() -> None:
    assert invalidated(lease()).sent == ()
    assert invalidated(heartbeat_sent(heartbeat_sent(lease(), 1.0), 2.0)).sent == (EXPIRED, EXPIRED)
