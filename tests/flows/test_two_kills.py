"""Two kill switches of different breakers, and so of different incidents, at once on one account."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import redis
from prefect.settings import PREFECT_API_URL, temporary_settings

from breaker import CircuitBreaker
from breaker.uuid7 import uuid7
from configuration.settings import Settings
from flows.kill_context import open_kill_run
from flows.kill_switch import run_kill_switch
from sandbox.child_process import free_port
from sandbox.embedded_redis import EmbeddedRedis
from sandbox.exchange.scenario import parse
from sandbox.exchange.server import PaperExchange
from tasks.kill import close_names
from tasks.kill.status import KillStatus, kill_status

BOOK = """
rate_limit = 100000
latency_ms = { low = 5, high = 80 }
[book]
orders = 40
positions = 30
reducing = 0.0
"""


@pytest.fixture(autouse=True)
async def without_prefect() -> AsyncIterator[None]:
    with temporary_settings(updates={PREFECT_API_URL: f"http://127.0.0.1:{free_port()}/api"}):
        yield


async def test_promise_6_whoever_takes_a_run_over_names_closes_as_it_did_whatever_is_agreed_by_now(
    redis_server: EmbeddedRedis,
    redis_client: redis.Redis,
    paper: PaperExchange,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """The one that fell silent may have been without Redis, and not have heard of another one's names, or have."""
    account = {"base_url": paper.url, "key_id": "key", "secret_key": "secret"}
    settings = Settings.model_validate(
        {"redis_url": redis_server.url, "state_dir": tmp_path / "state", "accounts": {"PAPER": account}}
    )
    earlier, incident = uuid7(), uuid7()

    async def names(**given: Any) -> tuple[dict[str, str], KillStatus]:
        opening = open_kill_run(reason="a test", operator="ada", incident_id=incident, settings=settings, **given)
        async with opening as run:
            assert run.naming_closes is not None
            await run.naming_closes
            return {name: each.closes_as for name, each in run.accounts.items()}, kill_status(run)

    async with open_kill_run(reason="a test", operator="ada", incident_id=earlier, settings=settings) as before:
        assert before.naming_closes is not None
        await before.naming_closes
        heard, silent = await names()
        assert heard == silent.closes_as == {"PAPER": earlier}
        with monkeypatch.context() as patch:
            patch.setattr(close_names, "LIMIT", 0.0)
            unheard, deaf = await names()
        assert unheard == deaf.closes_as == {"PAPER": incident}
        for said in (silent.closes_as, deaf.closes_as):
            assert (await names(closes_as=said))[0] == said
        assert (await names(closes_as={}))[0] == {"PAPER": incident}, "it died before it could say"
    assert redis_client.get(f"{close_names.KEY}PAPER") == earlier.encode(), "others go on agreeing on the first one's"


@pytest.mark.parametrize("second", ["account:PAPER", "symbol:AAPL"])
async def test_promise_6_they_close_everything_once(
    redis_server: EmbeddedRedis,
    redis_client: redis.Redis,
    paper: PaperExchange,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    second: str,
) -> None:
    paper.restart(parse(BOOK))
    monkeypatch.setattr(close_names, "LIMIT", 20.0)  # a busy machine's Redis is not what is tried here
    settings = Settings.model_validate(
        {
            "redis_url": redis_server.url,
            "state_dir": tmp_path / "state",
            "accounts": {"PAPER": {"base_url": paper.url, "key_id": "key", "secret_key": "secret"}},
            "kill": {"poll_interval": 0.05, "settle": 0.3, "guard": 0.2, "record_wait": 0.2, "deadline": 100},
        }
    )

    async def kill(scope: str) -> bool:
        incident = uuid7()
        CircuitBreaker(redis_client, scope).trip("KILL_SWITCH", incident_id=incident)
        async with open_kill_run(
            reason="a test", operator="ada", incident_id=incident, settings=settings, scope=scope
        ) as run:
            run.halted_after = 0.0
            return (await run_kill_switch(run, lambda _: None)).flat

    assert all(await asyncio.gather(kill("global"), kill(second)))
    seen = paper.report()
    assert seen["is_flat"] and seen["sign_changes"] == []
    left = redis_client.pttl(f"{close_names.KEY}PAPER")
    assert left <= close_names.KEPT_FLAT_MS, "the next one, of another incident, goes by its own"
