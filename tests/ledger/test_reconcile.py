"""What goes past the breaker is found, recorded once, and undone where it opened what was tripped."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
import redis

from breaker import CircuitBreaker, State
from breaker.trip_reasons import TripReason
from ledger.ledger import Ledger
from ledger.models import OVERRIDE_DETECTED
from ledger.outbox import drain_outbox
from ledger.queries import Filter
from ledger.reconcile import Reconciliation, reconcile, settled_at_once
from ledger.record import AuditRow
from ledger.tail import LATE
from ledger.verify import verify

STATE, OUTBOX, HISTORY = "circuit_breaker:state", "circuit_breaker:outbox", "circuit_breaker:history"
RUNBOOKS_OVERRIDE = (
    '{"state":"TRIPPED","tripped_at":"2025-01-15T10:00:00Z","trip_reason":"EMERGENCY_MANUAL",'
    '"trip_details":{"operator":"emergency"}}'
)

Look = Callable[[], Reconciliation]


@pytest.fixture
def breaker(redis_client: redis.Redis) -> CircuitBreaker:
    return CircuitBreaker(redis_client, reset_interval=0)


@pytest.fixture
def look(redis_client: redis.Redis, ledger: Ledger) -> Look:
    """What is found of the breaker; what all are asked together never calls settled what this finds something of."""

    def find() -> Reconciliation:
        at_once = settled_at_once(redis_client, ledger, ["global"])
        found = reconcile(redis_client, ledger)
        assert not at_once or (found.override, found.tripped, found.recovered) == (None, False, 0)
        return found

    return find


def overrides(ledger: Ledger) -> list[AuditRow]:
    """Oldest first."""
    return list(reversed(ledger.query(Filter(actions=[OVERRIDE_DETECTED])).rows))


def before_and_after(row: AuditRow) -> tuple[str | None, str]:
    before = row.details["before"]
    return (None if before is None else before["state"]), row.details["after"]["state"]


def test_what_the_breaker_does_itself_is_no_override(
    breaker: CircuitBreaker, look: Look, ledger: Ledger, redis_client: redis.Redis
) -> None:
    """Every way from state to state, looked at after each."""
    steps: list[Callable[[], object]] = [
        breaker.initialize_state,
        lambda: breaker.trip("MANUAL", details={"ä": 1.50}),
        lambda: breaker.trip("AGAIN"),
        lambda: breaker.reset(reset_by="alice"),
        lambda: breaker.trip("IN_QUIET_PERIOD"),
        lambda: breaker.reset(reset_by="alice", reason="a reason of more than twenty characters"),
        lambda: breaker.end_quiet_period(expected_epoch=breaker.get_status().epoch or 0),
        lambda: breaker.initialize_state(force=True),
        lambda: breaker.trip("MANUAL"),
        lambda: CircuitBreaker(redis_client, quiet_period=0, reset_interval=0).reset(reset_by="bob"),
        lambda: breaker.trip("MANUAL"),
        lambda: CircuitBreaker(redis_client, quiet_period=0.001, reset_interval=0).reset(reset_by="bob"),
        lambda: breaker.trip("AFTER_QUIET_PERIOD_RAN_OUT"),
    ]
    assert look().settled
    for step in steps:
        step()
        found = look()
        assert (found.settled, found.override, found.tripped) == (True, None, False)
    assert overrides(ledger) == []
    assert len(ledger.query().rows) == len(steps)


def test_many_breakers_are_found_at_once_as_one_by_one(ledger: Ledger, redis_client: redis.Redis) -> None:
    def opened(breaker: CircuitBreaker) -> None:
        breaker.trip("MANUAL")
        redis_client.set(breaker.keys.state, '{"state": "OPEN"}')

    ways: dict[str, Callable[[CircuitBreaker], object]] = {
        "global": lambda breaker: breaker.initialize_state(),
        "a:never": lambda _: None,
        "a:tripped": lambda breaker: breaker.trip("MANUAL"),
        "a:reset": lambda breaker: (breaker.trip("MANUAL"), breaker.reset("ada")),
        "a:halted_by_hand": lambda breaker: redis_client.set(breaker.keys.state, RUNBOOKS_OVERRIDE),
        "a:opened_by_hand": opened,
        "a:garbage": lambda breaker: redis_client.set(breaker.keys.state, "garbage"),
    }
    for scope, way in ways.items():
        way(CircuitBreaker(redis_client, scope, reset_interval=0))
    drain_outbox(redis_client, ledger, ways)
    CircuitBreaker(redis_client, "a:waits").trip("MANUAL")
    CircuitBreaker(redis_client, "a:vanished").trip("MANUAL")
    redis_client.delete(f"{OUTBOX}:a:vanished")
    scopes = [*ways, "a:waits", "a:vanished"]

    at_once = settled_at_once(redis_client, ledger, scopes)
    assert sorted(at_once) == ["a:never", "a:reset", "a:tripped", "global"]
    assert at_once == {scope: reconcile(redis_client, ledger, scope) for scope in at_once}
    for scope in scopes:
        reconcile(redis_client, ledger, scope)
    assert sorted(settled_at_once(redis_client, ledger, scopes)) == sorted(scopes), "all is on record now"
    assert ledger.states_of(scopes) == {scope: ledger.state_of(scope) for scope in scopes}
    reset = "CIRCUIT_BREAKER_RESET"
    newest = {scope: ledger.query(Filter(actions=(reset,), scope=scope), limit=1).rows for scope in scopes}
    assert ledger.newest_of_each(scopes, reset) == {scope: (*rows, None)[0] for scope, rows in newest.items()}


def test_the_runbooks_override_is_recorded_within_one_verification(
    redis_client: redis.Redis, breaker: CircuitBreaker, look: Look, ledger: Ledger
) -> None:
    breaker.initialize_state()
    look()
    redis_client.set(STATE, RUNBOOKS_OVERRIDE)
    found = look()
    assert found.override is not None
    assert not found.tripped
    assert [before_and_after(row) for row in overrides(ledger)] == [("OPEN", "TRIPPED")]
    row = overrides(ledger)[0]
    assert row.details["after"]["stored"] == RUNBOOKS_OVERRIDE
    assert row.source == "override"
    for _ in range(3):
        assert look().override is None
    assert len(overrides(ledger)) == 1


def test_each_of_several_overrides_is_recorded_and_the_same_one_again_later_too(
    redis_client: redis.Redis, breaker: CircuitBreaker, look: Look, ledger: Ledger
) -> None:
    breaker.initialize_state()
    other = json.dumps({"state": "TRIPPED", "trip_reason": "OTHER"})
    for value in (RUNBOOKS_OVERRIDE, other, RUNBOOKS_OVERRIDE):
        look()
        redis_client.set(STATE, value)
        look()
    assert [row.details["after"]["stored"] for row in overrides(ledger)] == [
        RUNBOOKS_OVERRIDE,
        other,
        RUNBOOKS_OVERRIDE,
    ]


def test_an_override_of_a_breaker_that_never_was_is_recorded(
    redis_client: redis.Redis, look: Look, ledger: Ledger
) -> None:
    redis_client.set(STATE, RUNBOOKS_OVERRIDE)
    look()
    assert [before_and_after(row) for row in overrides(ledger)] == [(None, "TRIPPED")]


@pytest.mark.parametrize("value", ["garbage", '{"state":"OPEN"}', '{"state":"QUIET_PERIOD"}', "{}", "\0", ""])
def test_a_tripped_breaker_that_was_opened_by_hand_is_tripped_again(
    redis_client: redis.Redis, breaker: CircuitBreaker, look: Look, ledger: Ledger, value: str
) -> None:
    incident = breaker.trip("DRAWDOWN").incident_id
    look()
    redis_client.set(STATE, value)
    found = look()
    assert found.tripped
    assert found.override is not None
    status = breaker.get_status()
    assert (status.state, status.trip_reason, status.tripped_by) == (
        State.TRIPPED,
        TripReason.LEDGER_MISMATCH,
        "reconciliation",
    )
    assert status.incident_id == incident
    newest, override, first = ledger.query().rows
    assert (newest.action, override.action, first.action) == ("CIRCUIT_BREAKER_TRIP", OVERRIDE_DETECTED, first.action)
    assert (newest.source, newest.details["reason"]) == ("rule", TripReason.LEDGER_MISMATCH)
    again = look()
    assert (again.override, again.tripped) == (None, False)
    breaker.reset(reset_by="alice")
    assert (look().override, look().tripped) == (None, False)


def test_a_breaker_tripped_by_hand_may_not_be_opened_by_hand_either(
    redis_client: redis.Redis, breaker: CircuitBreaker, look: Look
) -> None:
    breaker.initialize_state()
    redis_client.set(STATE, RUNBOOKS_OVERRIDE)
    look()
    redis_client.set(STATE, '{"state":"OPEN"}')
    assert look().tripped
    assert breaker.is_tripped()


def test_a_breaker_tripped_by_hand_may_be_reset_properly(
    redis_client: redis.Redis, breaker: CircuitBreaker, look: Look, ledger: Ledger
) -> None:
    breaker.initialize_state()
    redis_client.set(STATE, RUNBOOKS_OVERRIDE)
    look()
    breaker.reset(reset_by="alice")
    assert (look().override, look().tripped) == (None, False)
    assert len(overrides(ledger)) == 1
    assert breaker.get_state() is State.QUIET_PERIOD


def test_an_override_overtaken_by_a_transition_is_found_by_it(
    redis_client: redis.Redis, breaker: CircuitBreaker, look: Look, ledger: Ledger
) -> None:
    breaker.initialize_state()
    redis_client.set(STATE, RUNBOOKS_OVERRIDE)
    breaker.reset(reset_by="alice")
    assert drain_outbox(redis_client, ledger).overrides == 1
    look()
    assert [before_and_after(row) for row in overrides(ledger)] == [("OPEN", "TRIPPED")]
    assert [row.action for row in reversed(ledger.query().rows)][-1] == "CIRCUIT_BREAKER_RESET"
    order = [row[4] for batch in ledger.stream() for row in batch]
    assert order == ["CIRCUIT_BREAKER_INITIALIZE", OVERRIDE_DETECTED, "CIRCUIT_BREAKER_RESET"]


def test_a_flush_is_recorded_and_does_not_reset(
    redis_client: redis.Redis, breaker: CircuitBreaker, look: Look, ledger: Ledger
) -> None:
    breaker.trip("DRAWDOWN")
    look()
    redis_client.flushall()
    found = look()
    assert (found.state, found.tripped) == ("MISSING", True)
    assert [before_and_after(row) for row in overrides(ledger)] == [("TRIPPED", "MISSING")]
    assert breaker.get_state() is State.TRIPPED


def test_a_flush_of_an_open_breaker_stays_closed_until_somebody_initialises_it(
    redis_client: redis.Redis, breaker: CircuitBreaker, look: Look, ledger: Ledger
) -> None:
    breaker.initialize_state()
    look()
    redis_client.flushall()
    for _ in range(2):
        assert not look().tripped
    assert breaker.get_state() is State.UNKNOWN
    breaker.initialize_state()
    assert look().override is None
    assert [before_and_after(row) for row in overrides(ledger)] == [("OPEN", "MISSING")]


def test_initialising_after_a_flush_is_no_way_around_a_reset(
    redis_client: redis.Redis, breaker: CircuitBreaker, look: Look, ledger: Ledger
) -> None:
    breaker.trip("DRAWDOWN")
    look()
    redis_client.flushall()
    CircuitBreaker(redis_client).initialize_state()
    assert look().tripped
    assert CircuitBreaker(redis_client).get_state() is State.TRIPPED
    assert [before_and_after(row) for row in overrides(ledger)] == [("TRIPPED", "MISSING")]


def test_a_restored_backup_is_recorded_and_trips_what_was_tripped_since(
    redis_client: redis.Redis, breaker: CircuitBreaker, look: Look, ledger: Ledger
) -> None:
    breaker.initialize_state()
    look()
    backup: dict[Any, Any] = {key: redis_client.dump(key) for key in redis_client.keys("*")}
    breaker.trip("DRAWDOWN")
    look()
    redis_client.flushall()
    for key, value in backup.items():
        redis_client.restore(key, 0, value)
    found = look()
    assert found.tripped
    assert [before_and_after(row) for row in overrides(ledger)] == [("TRIPPED", "OPEN")]


def test_a_crash_between_the_finding_and_the_trip_is_made_good(
    redis_client: redis.Redis, breaker: CircuitBreaker, look: Look, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    breaker.trip("DRAWDOWN")
    look()
    redis_client.set(STATE, '{"state":"OPEN"}')
    with monkeypatch.context() as patch:
        patch.setattr("ledger.reconcile._trip_if_opened", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            look()
    assert breaker.get_state() is State.OPEN
    assert look().tripped
    assert len(overrides(ledger)) == 1


def test_several_verifications_at_once_record_and_trip_once(
    redis_client: redis.Redis, breaker: CircuitBreaker, look: Look, ledger: Ledger
) -> None:
    breaker.trip("DRAWDOWN")
    look()
    redis_client.set(STATE, '{"state":"OPEN"}')
    together = threading.Barrier(4)

    def verify_together(_: int) -> Reconciliation:
        together.wait(10)
        return look()

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(verify_together, range(4)))
    assert sum(one.override is not None for one in found) == 1
    assert len(overrides(ledger)) == 1
    assert len(breaker.get_history(10)) == 2
    assert look().override is None


def test_transitions_under_way_are_never_taken_for_overrides(
    redis_client: redis.Redis, ledger: Ledger, look: Look
) -> None:
    """Trips and resets without pause, drained and compared at once by others."""
    CircuitBreaker(redis_client).initialize_state()

    def trade_states() -> None:
        mine = CircuitBreaker(redis_client, quiet_period=0, reset_interval=0)
        for _ in range(150):
            mine.trip("MANUAL")
            mine.reset(reset_by="alice")

    def until_done(work: Callable[[], object], trading: Future[None]) -> list[object]:
        found = []
        while not trading.done():
            found.append(work())
        return found

    with ThreadPoolExecutor(4) as pool:
        trading = pool.submit(trade_states)
        draining = [pool.submit(until_done, lambda: drain_outbox(redis_client, ledger), trading) for _ in range(2)]
        found = until_done(look, trading)
        trading.result()
        for job in draining:
            job.result()
    final = look()
    assert final.settled
    for one in [*found, final]:
        assert isinstance(one, Reconciliation)
        assert one.override is None
        assert not one.tripped
    assert overrides(ledger) == []
    assert verify(ledger).rows == 301


def test_transitions_that_vanished_from_the_outbox_are_recovered_from_history(
    redis_client: redis.Redis, breaker: CircuitBreaker, look: Look, ledger: Ledger
) -> None:
    breaker.initialize_state()
    look()
    breaker.trip("MANUAL")
    breaker.reset(reset_by="alice")
    redis_client.delete(OUTBOX)
    found = look()
    assert (found.recovered, found.override, found.tripped) == (2, None, False)
    assert [row.action for row in ledger.query().rows][:2] == ["CIRCUIT_BREAKER_RESET", "CIRCUIT_BREAKER_TRIP"]
    assert verify(ledger).rows == 3


def test_a_transition_recovered_too_late_does_not_speak_for_the_present(
    redis_client: redis.Redis, breaker: CircuitBreaker, look: Look, ledger: Ledger
) -> None:
    breaker.initialize_state()
    look()
    breaker.trip("LOST")
    redis_client.delete(OUTBOX)
    breaker.trip("KEPT")
    assert drain_outbox(redis_client, ledger).overrides == 1
    found = look()
    assert (found.recovered, found.override) == (1, None)
    late = ledger.query(Filter(outcome=LATE)).rows
    assert [row.details["reason"] for row in late] == ["LOST"]
    assert look().recovered == 0


def test_a_state_in_no_known_encoding_is_an_override_like_any_other(
    redis_client: redis.Redis, breaker: CircuitBreaker, look: Look, ledger: Ledger
) -> None:
    breaker.initialize_state()
    look()
    redis_client.set(STATE, b'{"state":"TRIPPED","trip_reason":"\xff\\u0000"}')
    assert look().override is not None
    assert look().override is None
    breaker.trip("AGAIN")
    assert look().override is None


def test_a_state_that_is_no_string_is_an_override_too(
    redis_client: redis.Redis, breaker: CircuitBreaker, look: Look, ledger: Ledger
) -> None:
    breaker.trip("MANUAL")
    look()
    redis_client.delete(STATE)
    redis_client.lpush(STATE, "x")
    assert look().tripped
    assert [before_and_after(row) for row in overrides(ledger)] == [("TRIPPED", "UNKNOWN")]


def test_members_of_history_that_no_transition_wrote_are_passed_over(
    redis_client: redis.Redis, breaker: CircuitBreaker, look: Look, ledger: Ledger
) -> None:
    breaker.trip("MANUAL")
    redis_client.zadd(HISTORY, {"rubbish": 1, "{}": 2})
    assert (look().recovered, look().override) == (0, None)
    assert verify(ledger).rows == 1
