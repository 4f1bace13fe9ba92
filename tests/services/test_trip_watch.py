"""Trips of any breaker are announced once, and what one breaker's keys hold keeps no other's from it."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from breaker import CircuitBreaker
from breaker.status_reader import StatusReader
from tasks import trip_announcement
from tasks.recovery.state import claim_key
from tasks.trip_announcement import announce_trips


def test_each_trip_without_a_recovery_is_announced_once(
    redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    emitted: list[dict[str, Any]] = []
    monkeypatch.setattr(trip_announcement, "emit_event", lambda **event: emitted.append(event["payload"]))
    scopes = ["global", "account:ALPHA", "account:BETA", "strategy:open", "strategy:foreign", "strategy:none"]
    for scope in scopes[:3]:
        CircuitBreaker(redis_client, scope).trip("MANUAL")
    CircuitBreaker(redis_client, "strategy:open").initialize_state()
    redis_client.hset("circuit_breaker:state:strategy:foreign", "state", "TRIPPED")
    recovering = CircuitBreaker(redis_client, "account:BETA").get_status().incident_id
    redis_client.set(claim_key(str(recovering)), "a flow run")
    reader = StatusReader(redis_client, remember=False)
    announced = [found.scope for _ in range(2) for found in announce_trips(redis_client, reader.read(scopes))]
    reader.close()
    assert announced == [payload["scope"] for payload in emitted] == ["global", "account:ALPHA"]
