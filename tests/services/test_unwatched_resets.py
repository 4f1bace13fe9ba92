"""A reset that nobody watches is watched by the services, on a real breaker and a real ledger."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
from prefect.context import refresh_global_settings_context

from breaker import CircuitBreaker, State, Status
from configuration.settings import Settings
from proofs.fork_server import ForkServer
from sandbox.embedded_redis import EmbeddedRedis
from services.unwatched_resets import ResetWatch, may_need_a_watcher
from tasks.recovery import reset_watch
from tests.helpers import eventually


@pytest.fixture
def settings(redis_server: EmbeddedRedis, redis_client: redis.Redis, tmp_path: Path) -> Iterator[Settings]:
    """Of an installation without Prefect, for threads too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PREFECT_API_URL")
        refresh_global_settings_context()
        recovery = {"watch": 0.5, "watch_interval": 0.05}
        yield Settings.model_validate({"redis_url": redis_server.url, "state_dir": tmp_path, "recovery": recovery})
    refresh_global_settings_context()


ANOTHER_HOST = """
import asyncio
from configuration.breakers import async_breaker_of
from configuration.settings import load_settings
from tasks.recovery.reset_watch import Watcher, reset_to_watch, watch_reset

async def watch():
    settings = load_settings()
    breaker = async_breaker_of(settings)
    async def record(_): pass
    await watch_reset(settings, breaker, await reset_to_watch(breaker), "services on a", record, Watcher())

asyncio.run(watch())
"""


def test_promise_9_a_host_that_dies_in_the_watch_leaves_the_quiet_period_on_until_another_has_watched_all_of_it(
    settings: Settings,
    redis_client: redis.Redis,
    fork_server: ForkServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reset_watch, "SILENT", 1.0)
    monkeypatch.setattr(reset_watch, "SIGN_EVERY", 0.1)
    breaker = CircuitBreaker(redis_client, quiet_period=0.5)
    breaker.trip("MANUAL")
    reset = breaker.reset("ada", "decided by the rules", ends_watched=True)
    given = {
        "BREAKER_REDIS_URL": settings.redis_url.get_secret_value(),
        "BREAKER_STATE_DIR": str(tmp_path / "a"),
        "BREAKER_RECOVERY__WATCH": "60",
    }
    host = fork_server.start("-c", ANOTHER_HOST, env={**os.environ, **given})
    eventually(lambda: redis_client.hget("circuit_breaker:reset_watch", "holder") == b"services on a")
    host.kill()
    host.wait()
    eventually(lambda: is_past(breaker.get_status(), reset))
    assert breaker.get_state() is State.QUIET_PERIOD, "nobody watching is no end"
    died = redis_client.hget("circuit_breaker:reset_watch", "seen")
    watch = ResetWatch(settings, "standby")
    watch.start()
    try:
        eventually(lambda: redis_client.hget("circuit_breaker:reset_watch", "ended"))
    finally:
        watch.stop()
    assert breaker.get_state() is State.OPEN
    seen: dict[Any, Any] = redis_client.hgetall("circuit_breaker:reset_watch")
    assert seen[b"holder"].startswith(b"standby on ")
    assert int(seen[b"began"]) - int(died or 0) >= 1_000, "it was begun anew, once the other was silent"
    assert int(seen[b"ended"]) - int(seen[b"began"]) >= 500


def is_past(now: Status, reset: Status) -> bool:
    return now.as_of is not None and reset.quiet_until is not None and now.as_of > reset.quiet_until


def test_only_what_rests_on_a_reset_whose_watch_is_not_over_is_looked_at_further() -> None:
    now = datetime(2026, 1, 5, tzinfo=UTC)

    def status(state: str, reset_ago: float | None = None, epoch: int = 7) -> Status:
        reset = {} if reset_ago is None else {"reset_at": (now - timedelta(seconds=reset_ago)).isoformat()}
        return Status(State(state), {**reset, "epoch": epoch}, as_of=now)

    found = {
        "a": status("OPEN"),
        "b": status("OPEN", 60),
        "c": status("OPEN", 86_400),
        "d": status("TRIPPED", 60),
        "e": status("QUIET_PERIOD", 86_400),
        "f": Status(State.UNKNOWN, problem="lost"),
    }
    assert may_need_a_watcher(found, {}) == ["b", "e", "f"]
    assert may_need_a_watcher(found, {"b": 7, "e": 6}) == ["f"], "7 is the end of 6"
    assert may_need_a_watcher(found, {"b": 5}) == ["b", "e", "f"], "of an earlier reset"


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
