"""Trips of any breaker are announced once, and what one breaker's keys hold keeps no other's from it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import redis

from breaker import CircuitBreaker, Status
from breaker.status_reader import StatusReader
from configuration.settings import Settings
from ledger.configured import open_ready_ledger
from sandbox.embedded_redis import EmbeddedRedis
from services import trip_watch
from tasks import trip_announcement
from tasks.recovery.state import claim_key
from tasks.trip_announcement import AnnouncedTrip, announce_trips
from tests.helpers import eventually


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


def test_a_trip_of_a_breaker_that_nobody_knew_is_in_the_ledger_at_once(
    redis_server: EmbeddedRedis, redis_client: redis.Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    announced: list[str] = []

    def announce(_: redis.Redis, found: Mapping[str, Status]) -> list[AnnouncedTrip]:
        announced.extend(found)
        return []

    monkeypatch.setattr(trip_watch, "announce_trips", announce)
    monkeypatch.setattr(trip_watch, "SCOPES_EVERY", 3_600.0)
    monkeypatch.setattr(trip_watch, "ALL_EVERY", 3_600.0)
    settings = Settings.model_validate({"redis_url": redis_server.url, "state_dir": tmp_path})
    watch = trip_watch.TripWatch(settings)
    watch.start()
    try:
        eventually(lambda: announced)  # it has looked once
        CircuitBreaker(redis_client, "account:NEW").trip("MANUAL")
        ledger = open_ready_ledger(settings)
        eventually(lambda: "account:NEW" in ledger.scopes())
        ledger.close()
        eventually(lambda: "account:NEW" in announced)
    finally:
        watch.stop()
    assert not watch.is_alive()
