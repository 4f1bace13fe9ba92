"""Runs of the kill switch that another process does: seen live on every console, as they go on and as they end."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
import redis
from pydantic import SecretStr

from breaker import CircuitBreaker, State
from configuration.accounts import AccountSettings
from configuration.settings import KillSettings, Settings
from console.auth.permissions import Role
from flows.kill_context import open_kill_run
from sandbox.child_process import free_port
from sandbox.embedded_redis import EmbeddedRedis
from sandbox.exchange.scenario import parse
from sandbox.exchange.server import PaperExchangeThread
from tasks.kill.status import SILENT, KillStatus, kill_status
from tasks.kill.status_feed import EVERY, KEPT, LIMIT, RUN, RUNS, publish_status
from tests.console.conftest import MakeSettings
from tests.console.harness import REASON, Console
from tests.helpers import BUSY, eventually

KILL = {"reason": REASON, "acknowledge": True, "confirm": "FLATTEN"}
QUICK = KillSettings(settle=0.2, guard=0.2, poll_interval=0.05, record_wait=0.1, orchestrator_wait=0.5)


@pytest.fixture
def exchange(monkeypatch: pytest.MonkeyPatch) -> Iterator[PaperExchangeThread]:
    monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{free_port()}/api")
    with PaperExchangeThread(parse("seed = 3\n[book]\norders = 20\npositions = 6\n")) as running:
        yield running


@pytest.fixture
def settings(
    redis_server: EmbeddedRedis, redis_client: redis.Redis, make_settings: MakeSettings, exchange: PaperExchangeThread
) -> Settings:
    CircuitBreaker(redis_client).initialize_state()
    account = AccountSettings(base_url=exchange.url, key_id=SecretStr("key"), secret_key=SecretStr("secret"))
    return make_settings(redis_server.url, accounts={"ALPHA": account}, kill=QUICK)


class Elsewhere(threading.Thread):
    """A run of another process, at a standstill until it is told to end."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self._settings = settings
        self._end = threading.Event()

    def run(self) -> None:
        asyncio.run(self._run())

    async def _run(self) -> None:
        async with open_kill_run(
            reason=REASON, operator="ada", incident_id=INCIDENT, settings=self._settings, source="cli"
        ) as run:
            run.halted_after = 0.01
            run.update("ALPHA", phase="flattening", positions_at_start=6, positions_open=2)
            await asyncio.to_thread(self._end.wait)

    def end(self) -> None:
        self._end.set()
        self.join(30)


INCIDENT = "0190b5a0-0000-7000-8000-00000000000a"


def test_a_run_of_another_process_is_seen_on_every_page_until_it_ends(settings: Settings) -> None:
    run = Elsewhere(settings)
    with Console(settings) as console:
        viewer, api = console.visitor(Role.VIEWER), console.api(Role.VIEWER)
        assert viewer.get(f"/kill/{INCIDENT}").status_code == 404
        run.start()
        eventually(lambda: "KILL SWITCH RUNS" in viewer.get("/system-health").text)
        page = viewer.get(f"/kill/{INCIDENT}").text
        assert "2 of 6" in page and "by ada" in page and "cli on" in page
        assert api.get(f"/kill-switch/{INCIDENT}").json()["accounts"][0]["positions_open"] == 2
        assert f'href="/kill/{INCIDENT}">RUNNING' in viewer.get("/circuit-breaker").text
        run.end()
        eventually(lambda: "NOT FLAT" in viewer.get(f"/kill/{INCIDENT}").text)
        assert "KILL SWITCH RUNS" not in viewer.get("/system-health").text


def test_a_request_repeated_to_another_console_is_the_same_run(
    settings: Settings, exchange: PaperExchangeThread, redis_client: redis.Redis
) -> None:
    other = settings.model_copy(update={"state_dir": settings.state_dir.parent / "other"})
    database = settings.model_copy(update={"database_url": SecretStr(f"sqlite:///{settings.state_dir}/audit.db")})
    with (
        Console(database) as first,
        Console(other.model_copy(update={"database_url": database.database_url})) as second,
    ):
        api, key = first.api(Role.OPERATOR), {"Idempotency-Key": "once"}
        begun = api.post("/kill-switch", json=KILL, headers=key).json()
        incident = begun["incident_id"]
        eventually(lambda: redis_client.zcard(RUNS) == 1)
        api.base_url = f"{second.url}/api/v1"
        eventually(lambda: api.get(f"/kill-switch/{incident}").status_code == 200)
        assert api.post("/kill-switch", json=KILL, headers=key).json()["started_at"] == begun["started_at"]
        eventually(lambda: api.get(f"/kill-switch/{incident}").json()["verdict"] == "FLAT", within=60)
        again = api.post("/kill-switch", json=KILL, headers=key).json()
        assert (again["verdict"], again["started_at"]) == ("FLAT", begun["started_at"])
    assert redis_client.zcard(RUNS) == 1
    assert exchange.report()["is_flat"]
    assert len([event for event in CircuitBreaker(redis_client).get_history() if event.transition == "TRIP"]) == 1


def test_a_run_whose_process_is_gone_is_not_known(settings: Settings, redis_client: redis.Redis) -> None:
    left = round((KEPT - SILENT - 5) * 1000)
    redis_client.set(f"{RUN}r", a_kill_status(settings).to_json(), px=left)
    redis_client.zadd(RUNS, {"r": time.time(), "gone": time.time(), "garbage": time.time()})
    redis_client.set(f"{RUN}garbage", "<script>")
    with Console(settings) as console:
        api, viewer = console.api(Role.VIEWER), console.visitor(Role.VIEWER)
        eventually(lambda: api.get(f"/kill-switch/{INCIDENT}").status_code == 200)
        body = api.get(f"/kill-switch/{INCIDENT}").json()
        assert body["verdict"] == "NOT KNOWN" and "safe to" in body["problem"]
        assert "nothing was heard of this run" in viewer.get(f"/kill/{INCIDENT}").text
        assert "KILL SWITCH RUNS" not in viewer.get("/circuit-breaker").text


def test_promise_5_a_hung_redis_holds_no_run_up(own_server: EmbeddedRedis, settings: Settings) -> None:
    async def held_up() -> float:
        async with open_kill_run(reason=REASON, operator="ada", incident_id=INCIDENT, settings=settings) as run:
            async with publish_status(run, settings):
                await asyncio.sleep(2 * EVERY)  # so that a status is on its way
                ended = time.monotonic()
            return time.monotonic() - ended

    assert own_server.pid is not None
    os.kill(own_server.pid, signal.SIGSTOP)
    try:
        assert asyncio.run(held_up()) < LIMIT + BUSY
    finally:
        os.kill(own_server.pid, signal.SIGCONT)


def test_a_status_is_the_same_after_its_journey(settings: Settings) -> None:
    status = a_kill_status(settings)
    assert KillStatus.from_json(status.to_json()) == status
    assert status.verdict == "RUNNING"
    assert replace(status, over=True).verdict == replace(status, reported=True).verdict == "NOT FLAT"
    flat = tuple(replace(account, flat=True, flat_after=1.5) for account in status.accounts)
    assert replace(status, reported=True, accounts=flat).flat_after == 1.5
    assert replace(status, reported=True, accounts=()).verdict == "NOT FLAT"


def a_kill_status(settings: Settings) -> KillStatus:
    async def make() -> KillStatus:
        async with open_kill_run(reason=REASON, operator="ada", incident_id=INCIDENT, settings=settings) as run:
            run.update("ALPHA", phase="cancelling", orders_at_start=20, orders_open=7)
            return kill_status(run)

    made = asyncio.run(make())
    with redis.Redis.from_url(settings.redis_url.get_secret_value()) as client:
        client.delete(RUNS)
    return made


def test_the_breaker_is_not_read_from_kill_statuses(settings: Settings, redis_client: redis.Redis) -> None:
    a_kill_status(settings)
    assert CircuitBreaker(redis_client).get_state() is State.OPEN
