"""People are told of a kill switch's start and end, with Prefect and without, once each; neither holds up anything."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from breaker.uuid7 import uuid7
from configuration.settings import Settings
from flows.kill_context import open_kill_run
from flows.kill_switch import run_kill_switch
from sandbox.child_process import free_port
from sandbox.embedded_redis import EmbeddedRedis
from sandbox.exchange.scenario import parse
from sandbox.exchange.server import PaperExchange
from sandbox.prefect_server import PrefectServer
from tasks.kill.report import KillReport
from tests.helpers import eventually
from tests.tasks.web import Answer, Web

FLAT = "[book]\norders = 3\npositions = 2\n"


@pytest.fixture
def web() -> Iterator[Web]:
    with Web(lambda _: Answer(202)) as server:
        yield server


@pytest.fixture
def settings(
    redis_server: EmbeddedRedis, redis_client: redis.Redis, paper: PaperExchange, web: Web, tmp_path: Path
) -> Settings:
    return Settings.model_validate(
        {
            "redis_url": redis_server.url,
            "state_dir": tmp_path / "state",
            "accounts": {"PAPER": {"base_url": paper.url, "key_id": "key", "secret_key": "secret"}},
            "kill": {"poll_interval": 0.05, "settle": 0.1, "guard": 0, "stuck_after": 0.5, "record_wait": 0.5},
            "notifications": {"pagerduty": "KEY", "pagerduty_url": f"{web.url}/enqueue", "timeout": 10.0},
        }
    )


async def kill(settings: Settings, api: str, incident: str) -> tuple[KillReport, float, list[str], float]:
    """The report, when it was announced, what the run did without, and when it ended; in seconds from the start."""
    announced: list[float] = []
    begun = time.monotonic()
    quick = {PREFECT_API_URL: api, PREFECT_CLIENT_MAX_RETRIES: 0}
    with temporary_settings(updates=quick):
        async with open_kill_run(reason="a test", operator="ada", incident_id=incident, settings=settings) as run:
            report = await run_kill_switch(run, lambda _: announced.append(time.monotonic() - begun))
            return report, announced[0], list(run.missing), time.monotonic() - begun


def events(web: Web) -> list[dict[str, Any]]:
    return [asked.json for asked in web.asked]


@pytest.mark.parametrize("with_prefect", [True, False])
async def test_start_and_report_are_sent_once_each(
    prefect: PrefectServer, paper: PaperExchange, settings: Settings, web: Web, with_prefect: bool
) -> None:
    paper.restart(parse(FLAT))
    incident = uuid7()
    api = prefect.api_url if with_prefect else f"http://127.0.0.1:{free_port()}/api"
    report, _, _, _ = await kill(settings, api, incident)
    start, event = events(web)
    assert start["payload"]["class"] == "kill started" and start["dedup_key"] == report.incident_id
    assert "Reason: a test" in start["payload"]["custom_details"]["text"]
    assert event["dedup_key"] == report.incident_id
    assert event["payload"]["summary"].startswith("Kill switch: FLAT after")
    assert event["payload"]["severity"] == "info"
    assert "a test (by ada)" in event["payload"]["custom_details"]["text"]
    assert "PAPER: slippage " in event["payload"]["custom_details"]["text"], "and what it cost"
    wanted = {"task_runs": {"name": {"any_": [f"notify-{incident}"]}}}

    def in_prefect() -> list[Any]:
        found: list[Any] = httpx.post(f"{prefect.api_url}/task_runs/filter", json=wanted, timeout=10).json()
        return found

    # The server learns of tasks by events, a moment later.
    await asyncio.to_thread(eventually, lambda: len(in_prefect()) == with_prefect, in_prefect, within=60, every=0.1)


async def test_what_is_stuck_is_told_apart_and_pages(paper: PaperExchange, settings: Settings, web: Web) -> None:
    paper.restart(parse("[book]\norders = 0\npositions = 2\n[[halts]]\ncount = 1\n"))
    report, _, _, _ = await kill(settings, f"http://127.0.0.1:{free_port()}/api", uuid7())
    assert not report.flat
    assert {event["payload"]["class"] for event in events(web)} == {"kill started", "kill report", "stuck"}
    assert {event["payload"]["severity"] for event in events(web)} == {"critical"}
    assert len({event["dedup_key"] for event in events(web)}) == 1


async def test_a_channel_that_hangs_delays_neither_the_result_nor_the_end_for_long(
    paper: PaperExchange, settings: Settings, web: Web
) -> None:
    paper.restart(parse(FLAT))
    web.answering = lambda _: Answer(wait=threading.Event())
    settings = settings.model_copy(
        update={"notifications": settings.notifications.model_copy(update={"timeout": 1.0})},
    )
    report, announced, missing, ended = await kill(settings, f"http://127.0.0.1:{free_port()}/api", uuid7())
    assert report.flat
    assert ended - announced > 0.9, "the channel hung"
    assert ended - announced < 1.0 + 1.0 + 6, "but not longer than its deadline and the records' own"
    assert any("pagerduty, for the note 'kill report'" in what for what in missing)
