"""A machine is lost for good in the middle of a kill switch; the same command on another one ends it, or a standby."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from breaker import CircuitBreaker
from breaker.keys import ASKED_KILLS
from configuration.running import RunningConfiguration
from configuration.settings import Settings
from proofs.crash_points.boundary import Death, Point, Side
from proofs.crash_points.campaign import Trial, attempt
from proofs.crash_points.environment import CrashEnvironment
from proofs.crash_points.procedures import TAKEOVER
from services.standby import Standby
from tests.helpers import eventually


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CrashEnvironment]:
    with CrashEnvironment(tmp_path_factory.mktemp("takeover")) as running:
        yield running


@pytest.mark.parametrize(
    "point",
    [Point("Redis EVALSHA trip", 1), Point("venue body", 2), Point("database INSERT INTO audit_log", 2)],
    ids=str,
)
def test_promise_6_another_host_takes_over_with_the_same_command(environment: CrashEnvironment, point: Point) -> None:
    outcome = attempt(environment, Trial(TAKEOVER, Death(point, Side.AFTER)))
    assert outcome.reached
    assert not outcome.faults


def test_promise_6_a_standby_begins_what_died_right_after_its_trip(
    environment: CrashEnvironment, tmp_path: Path
) -> None:
    """Before any sign of life: only the trip says that it was confirmed, and what it was to close."""
    with environment.case(TAKEOVER) as case:
        CircuitBreaker(environment.client, "account:KNOWN").trip("MANUAL")  # Redis has the script from here on
        died = case.run(Death(Point("Redis EVALSHA trip", 1), Side.AFTER))
        assert died.ended.killed, died.ended.said
        eventually(lambda: environment.client.hlen(ASKED_KILLS) == 1)
        assert environment.client.zcard("circuit_breaker:kill_runs") == 0
        positions = environment.exchange.report()["positions"]
        assert positions, "nothing is closed yet"
        account = {"base_url": environment.exchange.url, "key_id": "key", "secret_key": "secret"}
        settings = Settings.model_validate(
            {
                "redis_url": environment.redis.url,
                "state_dir": tmp_path / "state",
                "accounts": {"PAPER": account},
                "kill": {"settle": 0.05, "guard": 0.1, "poll_interval": 0.05, "orchestrator_wait": 0.05},
            }
        )
        standby = Standby(RunningConfiguration(settings), {})
        stood = threading.Thread(target=asyncio.run, args=(standby.run(),))
        stood.start()
        try:
            eventually(lambda: environment.exchange.report()["is_flat"], "nobody has begun it")
            eventually(lambda: environment.client.hlen(ASKED_KILLS) == 0)
        finally:
            standby.stop()
            stood.join(60)
        seen = environment.exchange.report()
        assert seen["violations"] == [] and seen["sign_changes"] == []
        breaker = CircuitBreaker(environment.client)
        assert [event.reason for event in breaker.get_history() if event.transition == "TRIP"] == ["KILL_SWITCH"]
