"""A kill switch whose host dies is brought to its end by a standby elsewhere, and nothing else is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import redis

from breaker import CircuitBreaker
from configuration.running import RunningConfiguration
from configuration.settings import Settings
from proofs.fork_server import ForkServer
from sandbox.embedded_redis import EmbeddedRedis
from sandbox.exchange.scenario import parse
from sandbox.exchange.server import PaperExchangeThread
from services import kill_takeover
from services.kill_executor import KillExecutor
from services.kill_request import KillRequest
from services.kill_takeover import LATE, KillTakeover, abandoned
from services.outage_log import OutageLog
from tasks.kill.status import KillStatus
from tasks.kill.status_feed import KEPT, RUN, RUNS, TAKEN_OVER_AFTER
from tests.helpers import eventually
from tests.services.test_standby import Host, trips

HALTED = (
    'positions = [{ symbol = "AAPL", qty = "10" }, { symbol = "MSFT", qty = "-5" }]\nhalts = [{ symbol = "MSFT" }]\n'
)
AT_WORK = KillStatus(
    run_id="1",
    incident_id="one",
    event_id=None,
    scope="global",
    operator="ada",
    reason="drill",
    source="cli",
    host="elsewhere",
    started_at=datetime(2026, 1, 5, tzinfo=UTC),
    elapsed=4.0,
    halted_after=0.1,
    accounts=(),
    missing=(),
    reported=False,
    over=False,
    covered=("ALPHA",),
    silent_for=TAKEN_OVER_AFTER,
)
UP = float("inf")


def test_a_run_that_falls_silent_at_work_is_taken_over_once() -> None:
    assert abandoned([AT_WORK], UP) == [AT_WORK]
    again = replace(AT_WORK, run_id="2", started_at=AT_WORK.started_at + timedelta(seconds=5), silent_for=0.5)
    assert abandoned([AT_WORK, again], UP) == [], "another one has gone on with it"
    assert abandoned([AT_WORK, replace(again, silent_for=TAKEN_OVER_AFTER)], UP) == [
        replace(again, silent_for=TAKEN_OVER_AFTER)
    ]
    assert abandoned([AT_WORK, replace(again, over=True)], UP) == []


@pytest.mark.parametrize(
    "changed",
    [
        {"silent_for": TAKEN_OVER_AFTER - 0.1},
        {"silent_for": LATE},
        {"over": True},
        {"reported": True},
        {"declined": True},
        {"asking": True},
        {"resuming": True},
        {"covered": ()},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_what_goes_on_has_ended_or_was_never_confirmed_is_left(changed: dict[str, object]) -> None:
    assert abandoned([replace(AT_WORK, **changed)], UP) == []  # type: ignore[arg-type]


def test_what_redis_has_from_before_it_began_is_left() -> None:
    """It may be a copy, and the run over long since."""
    assert abandoned([AT_WORK], TAKEN_OVER_AFTER - 1) == []


async def test_who_takes_over_is_told_by_which_names_the_silent_one_closes(
    redis_server: EmbeddedRedis, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    account = {"base_url": "http://127.0.0.1:9", "key_id": "key", "secret_key": "secret"}
    settings = Settings.model_validate(
        {"redis_url": redis_server.url, "state_dir": tmp_path, "accounts": {"ALPHA": account}}
    )
    breaker = CircuitBreaker(redis_client)
    breaker.initialize_state()
    incident = str(breaker.trip("KILL_SWITCH").incident_id)
    silent = replace(AT_WORK, incident_id=incident, closes_as={"ALPHA": "an earlier incident"})
    redis_client.set(f"{RUN}{silent.run_id}", silent.to_json(), ex=KEPT - 60)
    redis_client.zadd(RUNS, {silent.run_id: 1})

    async def up_for_ever(_: object) -> float:
        return UP

    monkeypatch.setattr(kill_takeover, "redis_uptime", up_for_ever)
    monkeypatch.setattr(kill_takeover, "TAKEN_OVER_AFTER", 0.0)
    told: list[object] = []

    class Executor(KillExecutor):
        async def kill(self, request: KillRequest, source: str, send: object, **more: object) -> None:
            told.append((request.incident_id, more["closes_as"]))

    executor = Executor(RunningConfiguration(settings))
    takeover = KillTakeover(settings, executor, OutageLog("tests"))
    await takeover.look()
    await executor.finish()
    await takeover.close()
    await executor.close()
    assert told == [(incident, {"ALPHA": "an earlier incident"})]


@pytest.fixture
def venue() -> Iterator[PaperExchangeThread]:
    with PaperExchangeThread(parse(HALTED)) as running:
        yield running


def test_promise_6_a_kill_whose_host_dies_is_ended_by_a_standby_elsewhere(
    tmp_path: Path,
    redis_server: EmbeddedRedis,
    redis_client: redis.Redis,
    venue: PaperExchangeThread,
    fork_server: ForkServer,
) -> None:
    CircuitBreaker(redis_client).initialize_state()
    hosts = []
    for name in ("dies", "lives"):
        (tmp_path / name).mkdir()
        hosts.append(Host(tmp_path / name, redis_server.url, venue.url, fork_server))
    dies, lives = hosts
    lives.stand_by()
    try:
        killed = fork_server.start("cli", "kill", "--yes", env=dies.environment, cwd=tmp_path / "dies")
        eventually(lambda: venue.report()["positions"] == {"MSFT": "-5"}, lives.said)
        eventually(lambda: redis_client.zcard("circuit_breaker:kill_runs"), "it gave no sign of life")
        killed.kill()
        killed.wait()
        venue.control("resume", {"symbol": "MSFT"})
        eventually(lambda: "kill done" in lives.said(), lives.said)
        seen = venue.report()
        assert seen["is_flat"] and seen["violations"] == [] and seen["sign_changes"] == []
        assert "fell silent and is taken over" in lives.said()
        assert len(trips(redis_client)) == 1
    finally:
        lives.stop()
