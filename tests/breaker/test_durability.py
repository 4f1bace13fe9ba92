"""How far a trip got: asked of real servers with and without a disk and replicas, and never at the trip's expense."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from breaker import CircuitBreaker, Durability, InvalidInput
from breaker.request_attempts import RequestAttempts
from breaker.requests import Request
from sandbox.embedded_redis import EmbeddedRedis
from tests.breaker.conftest import MakeBreaker
from tests.helpers import in_time


@pytest.fixture
def replica(own_server: EmbeddedRedis, tmp_path: Path) -> Iterator[EmbeddedRedis]:
    config = {"replicaof": f"127.0.0.1 {own_server.port}"}
    with redis.Redis.from_url(own_server.url) as primary, EmbeddedRedis(tmp_path / "replica", config=config) as server:
        primary.config_set("repl-diskless-sync-delay", 0)
        deadline = time.monotonic() + 10
        while not primary.set("a write to wait for", 1) or not primary.wait(1, 100):
            assert time.monotonic() < deadline, "the replica never came online"
        yield server


def test_nothing_is_asked_unless_wanted(make_breaker: MakeBreaker, own_server: EmbeddedRedis) -> None:
    assert make_breaker(own_server.url).trip("MANUAL").unconfirmed is None


def test_a_trip_on_the_disk_is_confirmed(make_breaker: MakeBreaker, own_server: EmbeddedRedis) -> None:
    status = make_breaker(own_server.url, durability=Durability("aof")).trip("MANUAL")
    assert status.state == "TRIPPED"
    assert status.unconfirmed is None and "unconfirmed" not in status


def test_a_server_without_a_disk_trips_and_says_that_it_is_not_durable(
    make_breaker: MakeBreaker, tmp_path: Path
) -> None:
    with EmbeddedRedis(tmp_path / "memory", config={"appendonly": "no"}) as server:
        cb = make_breaker(server.url, durability=Durability("aof"))
        status = cb.trip("MANUAL")
        assert status.state == "TRIPPED"
        assert "would not say whether it is durable" in status.unconfirmed
        assert status["unconfirmed"] == status.unconfirmed
        assert cb.get_status().state == "TRIPPED"


def test_a_replica_confirms(make_breaker: MakeBreaker, own_server: EmbeddedRedis, replica: EmbeddedRedis) -> None:
    assert make_breaker(own_server.url, durability=Durability("replicas")).trip("MANUAL").unconfirmed is None


def test_a_replica_too_few_is_counted_in_time_and_the_trip_stands(
    make_breaker: MakeBreaker, own_server: EmbeddedRedis, replica: EmbeddedRedis
) -> None:
    cb = make_breaker(own_server.url, durability=Durability("replicas", 2))
    with in_time(1):
        status = cb.trip("MANUAL")
    assert status.unconfirmed == "1 of 2 replicas had it in time."
    assert cb.get_status().state == "TRIPPED"
    assert len(cb.get_history()) == 1


def test_a_repeated_trip_is_not_called_durable(make_breaker: MakeBreaker, own_server: EmbeddedRedis) -> None:
    """Its write belongs to another connection, and to what Redis answers on this one it may not belong at all."""
    event = "01890000-0000-7000-8000-000000000001"
    CircuitBreaker(redis.Redis.from_url(own_server.url)).trip("MANUAL", event_id=event)
    status = make_breaker(own_server.url, durability=Durability("aof")).trip("MANUAL", event_id=event)
    assert "made before" in status.unconfirmed


@pytest.mark.parametrize("kind", ["aof", "replicas"])
def test_what_is_waited_for_leaves_each_attempt_the_time_to_answer(kind: str) -> None:
    request = Request("trip", (("PING",),), confirmation=Durability(kind).wait_command)
    attempts = RequestAttempts(request, "here", deadline=2.0, timeout=2.0)
    waits = []
    for now in (0.0, 1.0, 1.5, 1.9, 1.9999):
        commands, until = attempts.next_attempt(now)
        waits.append(int(commands[-1][-1]))
        assert 1 <= waits[-1] <= max(round((until - now) * 500), 1)
    assert waits[0] == 500


@pytest.mark.parametrize("wrong", [("disk", 1), ("replicas", 0), ("replicas", True)])
def test_other_words_are_refused(wrong: tuple[str, int]) -> None:
    with pytest.raises(InvalidInput):
        Durability(*wrong)
