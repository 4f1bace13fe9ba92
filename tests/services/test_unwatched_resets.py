"""A reset that no recovery watches is watched by the services, on a real breaker and a real ledger."""

from __future__ import annotations

from pathlib import Path

import pytest
import redis
from prefect.context import refresh_global_settings_context

from breaker import CircuitBreaker
from configuration.settings import Settings
from sandbox.embedded_redis import EmbeddedRedis
from services.unwatched_resets import ResetWatch
from tests.helpers import eventually


@pytest.fixture
def settings(
    redis_server: EmbeddedRedis, redis_client: redis.Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Settings:
    monkeypatch.delenv("PREFECT_API_URL")
    refresh_global_settings_context()
    recovery = {"watch": 0.5, "watch_interval": 0.05}
    return Settings.model_validate({"redis_url": redis_server.url, "state_dir": tmp_path, "recovery": recovery})


def test_promise_9_a_reset_from_the_library_is_watched_and_tripped_again_when_red(
    settings: Settings, redis_client: redis.Redis
) -> None:
    breaker = CircuitBreaker(redis_client, reset_interval=0)
    watch = ResetWatch(settings)
    watch.start()
    try:
        incident = breaker.trip("MANUAL").incident_id
        breaker.reset("ada", "straight from the library")
        eventually(lambda: breaker.get_history(1)[0].transition == "QUIET_PERIOD_END")
        assert breaker.get_history(1)[0].by == "recovery watch"

        redis_client.hset("circuit_breaker:equity", mapping={"equity": "90", "high_water": "100", "measured_at": 9e15})
        incident = breaker.trip("MANUAL").incident_id
        breaker.reset("ada", "straight from the library")
        eventually(lambda: breaker.get_state() == "TRIPPED")
        status = breaker.get_status()
        assert (status.trip_reason, status.incident_id) == ("WATCH_FAILED", incident)
        assert "drawdown" in str(status.trip_details)
    finally:
        watch.stop()
    assert not watch.is_alive()
