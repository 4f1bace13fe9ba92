"""Trips of any breaker are announced once, and what one breaker's keys hold keeps no other's from it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import redis

from breaker import CircuitBreaker, Status
from breaker.status_reader import StatusReader
from configuration.settings import Settings
from ledger.configured import open_ready_ledger
from sandbox.embedded_redis import EmbeddedRedis
from services import trip_watch
from tasks import orchestrator, trip_announcement
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


def test_a_trip_of_which_no_recovery_came_is_not_left_to_events(
    redis_server: EmbeddedRedis, redis_client: redis.Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    CircuitBreaker(redis_client, "account:ALPHA").trip("MANUAL")
    announced: list[AnnouncedTrip] = []
    asked: list[tuple[str, str, dict[str, Any]]] = []

    def announce(client: redis.Redis, found: Mapping[str, Status]) -> list[AnnouncedTrip]:
        client.delete(*client.keys("circuit_breaker:recovery_announced:*") or ["none"])  # as once it has expired
        made = announce_trips(client, found)
        announced.extend(made)
        return made

    async def schedule(deployment: str, at: datetime, key: str, parameters: dict[str, Any]) -> None:
        asked.append((deployment, key, parameters))
        if len(asked) == 1:
            raise TimeoutError

    monkeypatch.setattr(trip_watch, "announce_trips", announce)
    monkeypatch.setattr(trip_watch, "ALL_EVERY", 0.0)
    monkeypatch.setattr(trip_announcement, "emit_event", lambda **event: None)
    monkeypatch.setattr(orchestrator, "is_configured", lambda: True)
    monkeypatch.setattr(orchestrator, "schedule", schedule)
    watch = trip_watch.TripWatch(Settings.model_validate({"redis_url": redis_server.url, "state_dir": tmp_path}))
    watch.start()
    try:
        eventually(lambda: len(asked) >= 2)
    finally:
        watch.stop()
    (trip,) = set(announced)
    parameters = {"incident_id": trip.incident_id, "scope": "account:ALPHA"}
    assert asked[1] == ("recovery/recovery", f"recovery-of-{trip.incident_id}", parameters)
    assert asked[0] == asked[1], "one that fails is asked for again, by the same key"
    assert len(announced) > len(asked), "not at the first announcement"


def test_an_orchestrator_that_hangs_holds_up_no_watch_over_many_tripped_breakers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trips = [AnnouncedTrip(f"account:A{number}", str(number)) for number in range(9)]
    clock, broken = [0.0], {"0"}
    asked: list[str] = []

    async def schedule(_: str, __: datetime, ___: str, parameters: dict[str, Any]) -> None:
        asked.append(parameters["incident_id"])
        clock[0] += 1.0
        if parameters["incident_id"] in broken:
            raise TimeoutError

    monkeypatch.setattr(trip_watch, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    monkeypatch.setattr(orchestrator, "is_configured", lambda: True)
    monkeypatch.setattr(orchestrator, "schedule", schedule)
    watch = trip_watch.TripWatch(Settings.model_validate({"redis_url": "redis://127.0.0.1:9/0", "state_dir": tmp_path}))
    watch._ask_for_unheard(trips)
    assert asked == [], "not at the first announcement"
    looks = []
    for _ in range(9):
        begun = clock[0]
        watch._ask_for_unheard(trips)
        looks.append(clock[0] - begun)
    assert max(looks) <= trip_watch.ASKING_WITHIN + 1.0
    assert set(asked) == {trip.incident_id for trip in trips}, "one that fails keeps no other from its turn"
