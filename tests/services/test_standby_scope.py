"""A standby touches what the scope covers and nothing else, whichever way it is asked."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from breaker import CircuitBreaker
from breaker.deadman import DeadMansSwitch
from breaker.uuid7 import uuid7
from proofs.fork_server import ForkServer
from sandbox.embedded_redis import EmbeddedRedis
from tests.helpers import eventually
from tests.services.test_standby import Host, trips
from tests.two_accounts import EVERYTHING, NOTHING, WITHOUT_AAPL, WITHOUT_MEANREV, Venues


@pytest.fixture
def venues() -> Iterator[Venues]:
    with Venues() as running:
        yield running


@pytest.fixture
def warm(
    tmp_path: Path, redis_server: EmbeddedRedis, redis_client: redis.Redis, venues: Venues, fork_server: ForkServer
) -> Iterator[Host]:
    """A standby for both accounts."""
    CircuitBreaker(redis_client).initialize_state()
    host = Host(tmp_path, redis_server.url, venues["ALPHA"].url, fork_server)
    with (tmp_path / "breaker.toml").open("a") as configuration:
        configuration.write(venues.sections("BETA"))
    host.stand_by()
    yield host
    host.stop()


def ask(client: redis.Redis, **request: Any) -> str:
    """Where the answer to a request in the stream will be."""
    body = {"operator": "risk desk", "reason": "drill", "event_id": uuid7(), **request}
    client.xadd("circuit_breaker:kill_requests", {"request": json.dumps(body)})
    return f"circuit_breaker:kill_answer:{body['event_id']}"


def test_the_command_hands_over_its_scope_and_what_it_would_refuse_is_refused(
    warm: Host, redis_client: redis.Redis, venues: Venues
) -> None:
    refused = warm.run("kill", "--yes", "--scope", "account:ALPHA", "--account", "BETA")
    assert refused.returncode == 2
    assert "BETA is outside of the scope account:ALPHA" in refused.stderr.splitlines()[-1]
    assert trips(redis_client) == trips(redis_client, "account:ALPHA") == []
    assert venues.untouched("ALPHA") and venues.untouched("BETA")

    outcome = warm.run("kill", "--yes", "--scope", "account:alpha")
    assert outcome.returncode == 0, outcome.stderr + warm.said()
    assert "FLAT  ALPHA  halted" in outcome.stderr and "doing it here" not in outcome.stderr
    assert "kill done" in warm.said()
    assert venues.left("ALPHA") == NOTHING and venues.untouched("BETA")
    assert len(trips(redis_client, "account:ALPHA")) == 1 and trips(redis_client) == []


def test_a_request_in_the_stream_touches_what_its_scope_covers(
    warm: Host, redis_client: redis.Redis, venues: Venues
) -> None:
    ask(redis_client, scope="account:ALPHA", accounts=["BETA"])
    eventually(lambda: "not for this host" in warm.said(), warm.said)
    key = ask(redis_client, scope="symbol:AAPL", accounts=["BETA"])
    eventually(lambda: b"DONE" in (redis_client.get(key) or b""), warm.said)
    assert b'"flat": true' in (redis_client.get(key) or b"")
    assert venues.untouched("ALPHA") and venues.left("BETA") == WITHOUT_AAPL
    assert len(trips(redis_client, "symbol:AAPL")) == 1
    assert trips(redis_client) == trips(redis_client, "account:ALPHA") == []


@pytest.mark.parametrize(
    ("scope", "alpha", "beta"),
    [
        ("account:BETA", EVERYTHING, NOTHING),
        ("strategy:meanrev", WITHOUT_MEANREV, WITHOUT_MEANREV),
    ],
)
def test_a_switch_that_kills_touches_what_its_scope_covers(
    warm: Host, redis_client: redis.Redis, venues: Venues, scope: str, alpha: Any, beta: Any
) -> None:
    DeadMansSwitch(redis_client, "engine", 0.2, scope=scope, action="kill").renew()
    eventually(lambda: "kill done" in warm.said(), warm.said)
    assert (venues.left("ALPHA"), venues.left("BETA")) == (alpha, beta)
    assert alpha != EVERYTHING or venues.untouched("ALPHA")
    assert len(trips(redis_client, scope)) == 1 and trips(redis_client) == []


def test_a_switch_of_a_scope_that_nobody_can_tell_the_coverage_of_trips_it_and_touches_nothing(
    warm: Host, redis_client: redis.Redis, venues: Venues
) -> None:
    refused = warm.run("deadman", "renew", "desk", "--within", "60", "--scope", "venue:alpaca", "--kill")
    assert refused.returncode == 2 and "can't tell what venue:alpaca covers" in refused.stderr
    DeadMansSwitch(redis_client, "engine", 0.2, scope="venue:alpaca", action="kill").renew()
    eventually(lambda: trips(redis_client, "venue:alpaca"), warm.said)
    eventually(lambda: not redis_client.hlen("circuit_breaker:deadmen"), "it was not forgotten")
    assert "flattens nothing here" in warm.said()
    assert venues.untouched("ALPHA") and venues.untouched("BETA")
