"""What a kill switch could not close is closed later, by one procedure, once, and only while the breaker is halted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import redis
from prefect.settings import PREFECT_API_URL, temporary_settings
from pydantic import SecretStr

from breaker import CircuitBreaker
from breaker.uuid7 import uuid7
from configuration.settings import Settings
from flows.kill_context import open_kill_run
from flows.kill_switch import run_kill_switch
from flows.resume import Resumed, resume_exits, resuming
from ledger.configured import open_ready_ledger
from ledger.outbox import drain_outbox
from ledger.queries import Filter
from sandbox.child_process import free_port
from sandbox.embedded_redis import EmbeddedRedis
from sandbox.exchange.scenario import parse
from sandbox.exchange.server import PaperExchange
from tasks.kill.pending_exit_store import KEY, open_pending_exits, read_pending_exits
from tasks.kill.pending_exits import AccountExits
from tasks.kill.report import KillReport
from tests.tasks.web import Answer, Web

HALTED = (
    'positions = [{ symbol = "AAPL", qty = "10" }, { symbol = "MSFT", qty = "-5" }]\nhalts = [{ symbol = "MSFT" }]\n'
)


@pytest.fixture
def web() -> Iterator[Web]:
    with Web(lambda _: Answer(202)) as server:
        yield server


@pytest.fixture(autouse=True)
async def without_prefect() -> AsyncIterator[None]:
    with temporary_settings(updates={PREFECT_API_URL: f"http://127.0.0.1:{free_port()}/api"}):
        yield


@pytest.fixture
def settings(
    redis_server: EmbeddedRedis, redis_client: redis.Redis, paper: PaperExchange, web: Web, tmp_path: Path
) -> Settings:
    paper.restart(parse(HALTED))
    CircuitBreaker(redis_client).initialize_state()
    return settings_on(redis_server.url, paper, web, tmp_path)


def settings_on(redis_url: str, paper: PaperExchange, web: Web, home: Path) -> Settings:
    return Settings.model_validate(
        {
            "redis_url": redis_url,
            "redis_timeout": 0.5,
            "state_dir": home / "state",
            "accounts": {"PAPER": {"base_url": paper.url, "key_id": "key", "secret_key": "secret"}},
            "kill": {
                "poll_interval": 0.05,
                "settle": 0.1,
                "guard": 0,
                "stuck_after": 0.5,
                "record_wait": 0.2,
                "retry_backoff": 0.1,
            },
            "notifications": {"pagerduty": "KEY", "pagerduty_url": f"{web.url}/enqueue", "timeout": 10.0},
        }
    )


async def kill(settings: Settings, client: redis.Redis | None) -> KillReport:
    """As somebody asks for it: tripped first, where Redis can be told."""
    incident = uuid7() if client is None else str(CircuitBreaker(client).trip("KILL_SWITCH").incident_id)
    async with open_kill_run(reason="a test", operator="ada", incident_id=incident, settings=settings) as run:
        run.halted_after = 0.0
        return await run_kill_switch(run, lambda _: None)


async def resume_now(settings: Settings) -> list[Resumed]:
    return await resume_exits(settings, operator="tests", source="cli", due_for=None)


def rows(settings: Settings, incident: str, *actions: str) -> list[Any]:
    ledger = open_ready_ledger(settings)
    found = ledger.query(Filter(incident_id=incident, actions=actions), limit=500).rows
    ledger.close()
    return list(reversed(found))


def told(web: Web) -> list[dict[str, Any]]:
    return [asked.json["payload"] for asked in web.asked]


async def test_a_halted_symbol_is_pending_named_and_closed_once_the_halt_is_over(
    settings: Settings, redis_client: redis.Redis, paper: PaperExchange, web: Web
) -> None:
    report = await kill(settings, redis_client)
    (pending,) = report.pending_exits
    assert (pending.account, pending.symbol, pending.resume_at) == ("PAPER", "MSFT", None)
    assert pending.quantity == -5
    assert redis_client.hkeys(KEY) == [b"PAPER:MSFT"]
    note = next(each for each in told(web) if each["class"] == "stuck")["custom_details"]["text"]
    assert f"PAPER MSFT -5: {pending.next_try:%Y-%m-%d %H:%M:%S} UTC" in note and "breaker kill --resume" in note

    assert await resume_exits(settings, operator="tests", source="cli") == [], "it is not due for a minute"
    paper.control("resume", {"symbol": "MSFT"})
    (resumed,) = await resume_now(settings)
    assert resumed.report is not None and resumed.report.flat and paper.report()["is_flat"]
    assert resumed.report.incident_id == report.incident_id
    (cost,) = resumed.report.costs
    assert [(line.symbol, line.quantity) for line in cost.lines] == [("MSFT", Decimal(5))] and cost.whole
    assert paper.report()["violations"] == []
    assert redis_client.hlen(KEY) == 0 and read_pending_exits(settings).exits == ()
    words = [row.action for row in rows(settings, report.incident_id, "PENDING_EXIT", "KILL_SWITCH_RESUMED")]
    assert words == ["PENDING_EXIT", "KILL_SWITCH_RESUMED"]
    (closed,) = rows(settings, report.incident_id, "PENDING_EXIT_CLOSED")
    assert (closed.details["symbol"], closed.user_id) == ("MSFT", "tests")
    assert told(web)[-1]["summary"].startswith("Kill switch: FLAT")
    assert await resume_now(settings) == []


async def test_a_try_in_vain_waits_longer_and_pages_nobody_again(
    settings: Settings, redis_client: redis.Redis, web: Web
) -> None:
    first = await kill(settings, redis_client)
    pages = len(web.asked)
    (resumed,) = await resume_now(settings)
    assert resumed.report is not None and not resumed.report.flat
    (pending,) = resumed.report.pending_exits
    assert pending.since == first.pending_exits[0].since
    assert pending.next_try - pending.tried_at == timedelta(minutes=2)
    assert len(web.asked) == pages
    assert len(rows(settings, first.incident_id, "PENDING_EXIT")) == 1, "it is still the same one"


@pytest.mark.parametrize("state", ["OPEN", "QUIET_PERIOD"])
async def test_a_breaker_that_was_reset_meanwhile_is_not_traded_past_nor_tripped(
    settings: Settings, redis_client: redis.Redis, paper: PaperExchange, web: Web, state: str
) -> None:
    report = await kill(settings, redis_client)
    CircuitBreaker(redis_client, quiet_period=0 if state == "OPEN" else 60).reset()  # as a library's user can
    assert CircuitBreaker(redis_client).get_state() == state
    paper.control("resume", {"symbol": "MSFT"})
    asked = paper.report()["closes"]
    pages = len(web.asked)
    for _ in range(2):
        (resumed,) = await resume_now(settings)
        assert resumed.report is None and state in resumed.held
    assert paper.report()["closes"] == asked and paper.report()["positions"] == {"MSFT": "-5"}
    assert CircuitBreaker(redis_client).get_state() == state
    (kept,) = read_pending_exits(settings).exits
    assert state in kept.held
    assert len(web.asked) == pages + 1, "people are told once"
    assert len(rows(settings, report.incident_id, "PENDING_EXIT_HELD")) == 1
    # Tripped again, it goes on.
    CircuitBreaker(redis_client).trip("MANUAL")
    (again,) = await resume_now(settings)
    assert again.report is not None and again.report.flat and paper.report()["is_flat"]


async def test_a_redis_from_before_the_reset_brings_back_exits_that_are_not_traded(
    settings: Settings, redis_client: redis.Redis, paper: PaperExchange
) -> None:
    """What the symbol holds now was opened after the reset, which the copy of Redis does not know of."""
    await kill(settings, redis_client)
    copied = {key: redis_client.dump(key) for key in redis_client.keys("*")}
    CircuitBreaker(redis_client, quiet_period=0).reset()
    with closing(open_ready_ledger(settings)) as ledger:
        drain_outbox(redis_client, ledger, ["global"])
    redis_client.flushall()
    for key, value in copied.items():
        redis_client.restore(key, 0, value or b"")
    assert CircuitBreaker(redis_client).get_state() == "TRIPPED"
    paper.control("resume", {"symbol": "MSFT"})
    (held,) = await resume_now(settings)
    assert held.report is None and "Redis is from before the reset of global" in held.held
    assert paper.report()["positions"] == {"MSFT": "-5"}
    assert (await kill(settings, redis_client)).flat
    assert read_pending_exits(settings).exits == ()


async def test_promise_5_without_redis_it_is_kept_on_disk_and_closed_from_there(
    own_server: EmbeddedRedis, paper: PaperExchange, web: Web, tmp_path: Path
) -> None:
    paper.restart(parse(HALTED))
    settings = settings_on(own_server.url, paper, web, tmp_path)
    own_server.kill()
    report = await kill(settings, None)
    assert [pending.symbol for pending in report.pending_exits] == ["MSFT"]
    assert any("not kept in Redis" in what for what in report.missing)
    paper.control("resume", {"symbol": "MSFT"})
    (resumed,) = await resume_now(settings)
    assert resumed.report is not None and resumed.report.flat and paper.report()["is_flat"]
    # Redis is back, with nothing in it: neither the entry nor the account's trip comes from a resumption.
    own_server.start()
    with redis.Redis.from_url(own_server.url) as client, open_pending_exits(settings) as store:
        store.reconcile()
        assert client.hlen(KEY) == 0 and store.read().exits == ()
        assert CircuitBreaker(client).get_state() == "UNKNOWN"


async def test_an_account_whose_venue_does_not_answer_is_pending_as_a_whole(
    settings: Settings, redis_client: redis.Redis, paper: PaperExchange
) -> None:
    paper.control("trouble", {"kind": "503"})
    # A request is tried again for three times as long as it may take.
    account = settings.accounts["PAPER"].model_copy(update={"request_timeout": 1.0})
    brief = settings.kill.model_copy(update={"deadline": 0.5})
    short = settings.model_copy(update={"kill": brief, "accounts": {"PAPER": account}})
    (pending,) = (await kill(short, redis_client)).pending_exits
    assert pending.symbol == "*" and "PAPER" in pending.reason
    paper.control("trouble", method="DELETE")
    paper.control("resume", {"symbol": "MSFT"})
    (resumed,) = await resume_now(settings)
    assert resumed.report is not None and resumed.report.flat


async def test_one_resumer_at_a_time_in_redis_and_without_it(settings: Settings, tmp_path: Path) -> None:
    async with resuming(settings, ["PAPER"]) as mine:
        assert mine == ("PAPER",)
        elsewhere = settings.model_copy(update={"state_dir": tmp_path / "another host"})
        async with resuming(elsewhere, ["PAPER", "OTHER"]) as theirs:
            assert theirs == ("OTHER",)
        nowhere = settings.model_copy(update={"redis_url": SecretStr("redis://127.0.0.1:1/0")})
        async with resuming(nowhere, ["PAPER"]) as same_host:
            assert same_host == ()
    async with resuming(settings, ["PAPER"]) as again:
        assert again == ("PAPER",)


async def test_two_at_once_resume_it_once(settings: Settings, redis_client: redis.Redis, paper: PaperExchange) -> None:
    report = await kill(settings, redis_client)
    paper.control("resume", {"symbol": "MSFT"})
    both = await asyncio.gather(resume_now(settings), resume_now(settings))
    assert sorted(len(resumed) for resumed in both) == [0, 1]
    assert paper.report()["is_flat"] and paper.report()["violations"] == []
    assert len(rows(settings, report.incident_id, "KILL_SWITCH_RESUMED")) == 1


async def test_an_account_that_is_not_configured_here_is_left_to_whoever_has_it(
    settings: Settings, redis_client: redis.Redis
) -> None:
    await kill(settings, redis_client)
    with open_pending_exits(settings) as store:
        (pending,) = store.read().exits
        elsewhere = replace(pending, account="ELSEWHERE")
        store.write(AccountExits("ELSEWHERE", pending.tried_at, (elsewhere,)))
    (resumed,) = await resume_now(settings)
    assert resumed.resumption.accounts == ("PAPER",)
    assert {each.account for each in read_pending_exits(settings).exits} == {"ELSEWHERE", "PAPER"}
