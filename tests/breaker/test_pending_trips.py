"""A trip that Redis could not be told of: kept through anything, made once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import redis

from breaker import BreakerUnavailable, CircuitBreaker, RedisRefused, State
from breaker.pending_trips import PendingTrip, PendingTrips
from breaker.trip_reasons import TripReason
from sandbox.child_process import free_port
from sandbox.embedded_redis import EmbeddedRedis


@pytest.fixture
def pending(tmp_path: Path) -> PendingTrips:
    return PendingTrips(tmp_path / "state" / "pending_trips")


def a_trip(scope: str = "global") -> PendingTrip:
    return PendingTrip(
        reason="KILL_SWITCH", tripped_by="ada", scope=scope, source="cli", details={"reason": "prices are wrong"}
    )


def test_what_is_kept_is_read_back_and_only_its_owner_may(pending: PendingTrips) -> None:
    trip = a_trip()
    path = pending.save(trip)
    assert pending.load() == [trip]
    assert path.stat().st_mode & 0o077 == 0
    assert [file.name for file in pending.directory.iterdir()] == [path.name]


def test_a_restored_open_state_is_tripped_and_the_trip_is_in_history_once(
    pending: PendingTrips, redis_client: redis.Redis
) -> None:
    cb = CircuitBreaker(redis_client)
    cb.initialize_state()
    trip = a_trip()
    pending.save(trip)
    [applied] = pending.apply(redis_client)
    assert applied.status.state is State.TRIPPED
    pending.save(trip)  # a process that died before it could forget it
    pending.apply(redis_client)
    assert pending.load() == []
    trips = [event for event in cb.get_history() if event.transition == "TRIP"]
    assert [event.event_id for event in trips] == [trip.event_id]
    assert trips[0].incident_id == trip.incident_id
    assert trips[0].details["asked_at"] == trip.asked_at
    assert (trips[0].by, trips[0].source) == ("ada", "cli")


def test_one_whose_file_can_not_be_removed_is_made_all_the_same_and_only_once(
    pending: PendingTrips, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    cb = CircuitBreaker(redis_client)
    cb.initialize_state()
    pending.save(a_trip())

    def read_only(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "unlink", read_only)  # as root may remove anything
    for _ in range(2):
        [applied] = pending.apply(redis_client)
        assert applied.status.state is State.TRIPPED
    assert sum(event.transition == "TRIP" for event in cb.get_history()) == 1


def test_each_scope_gets_its_own_trip(pending: PendingTrips, redis_client: redis.Redis) -> None:
    for scope in ("global", "account:ALPHA"):
        pending.save(a_trip(scope))
    pending.apply(redis_client)
    assert all(
        CircuitBreaker(redis_client, scope).get_state() is State.TRIPPED for scope in ("global", "account:ALPHA")
    )


def test_what_redis_cannot_be_told_goes_on_waiting(pending: PendingTrips) -> None:
    pending.save(a_trip())
    with pytest.raises(BreakerUnavailable):
        pending.apply(redis.Redis(port=free_port()), timeout=0.2)
    assert len(pending.load()) == 1


def test_a_trip_that_is_refused_keeps_no_other_from_being_made(
    pending: PendingTrips, redis_client: redis.Redis
) -> None:
    CircuitBreaker(redis_client).initialize_state(event_id=(refused := a_trip()).event_id)
    beta = a_trip("account:BETA")
    for trip in (refused, beta):
        pending.save(trip)
    with pytest.raises(RedisRefused, match="belongs to another transition"):
        pending.apply(redis_client)
    assert CircuitBreaker(redis_client, "account:BETA").get_state() is State.TRIPPED
    assert pending.load() == [refused]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 100,
        b"[]",
        b"[" * 100_000,
        b"{}",
        json.dumps({"reason": "", "tripped_by": "ada"}).encode(),
        json.dumps({"reason": "x", "tripped_by": "ada", "scope": "not a scope"}).encode(),
        json.dumps({"reason": "x", "tripped_by": "ada", "asked_at": 5}).encode(),
        json.dumps({"reason": "x", "tripped_by": "ada", "details": 5}).encode(),
    ],
)
def test_promise_1_a_file_that_cannot_be_read_halts_everything_once(
    content: bytes, pending: PendingTrips, redis_client: redis.Redis
) -> None:
    pending.directory.mkdir(parents=True)
    for _ in range(2):
        (pending.directory / "torn.json").write_bytes(content)
        pending.apply(redis_client)
    cb = CircuitBreaker(redis_client)
    assert cb.get_state() is State.TRIPPED
    assert [event.reason for event in cb.get_history()] == [TripReason.PENDING_TRIP_UNREADABLE]
    assert pending.load() == []


def test_two_processes_that_make_it_at_once_make_one_trip(pending: PendingTrips, own_server: EmbeddedRedis) -> None:
    """Both have read the file before either has made the trip."""
    client = redis.Redis.from_url(own_server.url)
    trip = a_trip()
    path = pending.save(trip)
    again = path.read_bytes()
    pending.apply(client)
    path.write_bytes(again)
    pending.apply(client)
    assert len(CircuitBreaker(client).get_history()) == 1


def test_nothing_waits_where_there_is_no_directory(pending: PendingTrips) -> None:
    assert pending.load() == []
    assert pending.apply(redis.Redis(port=free_port())) == []
