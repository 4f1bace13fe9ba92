"""When a feed's newest data came is seen wherever that stands; its silence trips, and only while it should speak."""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
from pydantic import SecretStr, ValidationError

from breaker import CircuitBreaker
from breaker.deadline_client import AsyncDeadlineClient
from brokers.alpaca import AlpacaBroker
from configuration.accounts import AccountSettings
from configuration.monitor import FeedSettings, MonitorSettings, feed_scope
from configuration.redis_clients import async_redis_client
from configuration.rules import RuleSettings
from configuration.settings import GivenSettings, RecoverySettings, Settings
from sandbox.embedded_redis import EmbeddedRedis
from sandbox.exchange.scenario import parse
from sandbox.exchange.server import PaperExchangeThread
from services.account_monitor import AccountMonitor
from tasks.checks.stores import check_feeds
from tasks.monitor import feeds
from tasks.monitor.account import RequestPace
from tasks.monitor.check import measure_calendars
from tasks.monitor.feeds import FeedUnreadable, Sources, WatchedFeed, at_path, newest_data, read_time
from tasks.monitor.sessions import AlwaysOpen, ExchangeSession, SharedSessions
from tests.helpers import eventually
from tests.tasks.web import Answer, Web

AT = datetime(2026, 11, 30, 14, 30, tzinfo=UTC)


@pytest.fixture
def web() -> Iterator[Web]:
    with Web() as web:
        yield web


def settings_for(server: EmbeddedRedis, folder: Path, **more: Any) -> Settings:
    given = {"monitor": MonitorSettings(interval=0.05), "rules": {"global": RuleSettings(data_age=1.0)}, **more}
    return GivenSettings(redis_url=server.url, state_dir=folder, **given)


@asynccontextmanager
async def sources_of(settings: Settings, **more: Any) -> AsyncIterator[Sources]:
    client = AsyncDeadlineClient(async_redis_client(settings), 10)
    async with httpx.AsyncClient() as http:
        yield Sources(**{"redis": client, "http": http, "brokers": {}, "paces": {}, **more})
    await client.close()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("2026-11-30T14:30:00Z", AT),
        ("2026-11-30T09:30:00-05:00", AT),
        (AT.timestamp(), AT),
        (str(int(AT.timestamp())), AT),
        (int(AT.timestamp() * 1e3), AT),
        (int(AT.timestamp() * 1e6), AT),
        (int(AT.timestamp()) * 10**9, AT),
    ],
)
def test_a_time_is_read_as_feeds_write_it(value: object, expected: datetime) -> None:
    assert read_time(value) == expected


@pytest.mark.parametrize(
    "value",
    ["", "soon", None, True, {}, "2026-11-30T14:30:00", "nan", "-1", "9" * 30, "9" * 400, "0001-01-01T00:00:00+14:00"],
)
def test_what_is_no_time_is_refused(value: object) -> None:
    with pytest.raises(FeedUnreadable):
        read_time(value)


def test_a_path_leads_into_an_answer() -> None:
    document = {"data": [{"time": 7}]}
    assert at_path(document, "data.0.time") == 7
    for path in ("data.1.time", "data.x", "other", "data.0.time.deeper"):
        with pytest.raises(FeedUnreadable, match="on the way"):
            at_path(document, path)


async def test_each_source_tells_when_the_newest_data_came(
    redis_server: EmbeddedRedis, redis_client: redis.Redis, tmp_path: Path, web: Web
) -> None:
    file = tmp_path / "quotes.csv"
    file.touch()
    os.utime(file, (AT.timestamp(), AT.timestamp()))
    redis_client.set("quotes:last", AT.isoformat())
    redis_client.xadd("ticks", {"price": "1"}, id=f"{int(AT.timestamp() * 1000)}-5")
    answers = {
        "/status": {"feed": {"last": AT.isoformat()}},
        "/api/v1/query": {"status": "success", "data": {"result": [{"value": [0, str(AT.timestamp())]}]}},
    }
    web.answering = lambda asked: Answer(body=json.dumps(answers[asked.path]))
    configured = [
        FeedSettings(redis_key="quotes:last"),
        FeedSettings(redis_key="ticks"),
        FeedSettings(url=f"{web.url}/status", json_path="feed.last"),
        FeedSettings(prometheus="max(last_tick)", prometheus_url=web.url),
        FeedSettings(prometheus="max(last_tick)"),
        FeedSettings(file=file),
    ]
    async with sources_of(settings_for(redis_server, tmp_path), prometheus_url=web.url) as sources:
        for feed in configured:
            assert await newest_data(feed, sources) == AT
        for unreadable, why in (
            (FeedSettings(redis_key="nothing"), "neither a string that holds a time nor a stream"),
            (FeedSettings(url=f"{web.url}/status", json_path="feed.first"), "there is no 'first'"),
            (FeedSettings(file=tmp_path / "gone"), "No such file"),
            (FeedSettings(prometheus="x", prometheus_url="http://127.0.0.1:1"), "Prometheus did not answer"),
            (FeedSettings(url="http://127.0.0.1:1", json_path="x"), "127.0.0.1 did not answer"),
        ):
            with pytest.raises(FeedUnreadable, match=why):
                await newest_data(unreadable, sources)
        web.answering = lambda _: Answer(503)
        with pytest.raises(FeedUnreadable, match="answered 503"):
            await newest_data(configured[2], sources)


@contextmanager
def monitoring(settings: Settings) -> Iterator[None]:
    monitor = AccountMonitor(settings)
    thread = threading.Thread(target=lambda: asyncio.run(monitor.run()))
    thread.start()
    try:
        yield
    finally:
        monitor.stop()
        thread.join(30)
        assert not thread.is_alive()


def test_a_quote_that_stands_still_trips_and_one_that_goes_on_does_not(
    redis_server: EmbeddedRedis, redis_client: redis.Redis, tmp_path: Path
) -> None:
    breaker = CircuitBreaker(redis_client)
    breaker.initialize_state()
    with PaperExchangeThread(parse("rate_limit = 1000000\nprices.AAPL = 200\nprices.MSFT = 300\n")) as exchange:
        account = AccountSettings(
            base_url=exchange.url, key_id=SecretStr("key"), secret_key=SecretStr("secret"), requests_per_minute=10**6
        )
        quotes = {
            name: FeedSettings(quote=symbol, account="alpha", limit=1.0 if symbol == "MSFT" else None)
            for name, symbol in (("apple", "AAPL"), ("microsoft", "MSFT"))
        }
        rules = {"global": RuleSettings(data_age=600)}
        with monitoring(settings_for(redis_server, tmp_path, accounts={"ALPHA": account}, feeds=quotes, rules=rules)):
            eventually(lambda: all(redis_client.exists(f"circuit_breaker:heartbeat:{name}") for name in quotes))
            assert not breaker.is_tripped()
            exchange.control("quotes", {"symbol": "MSFT", "silent": True})
            eventually(breaker.is_tripped)
    status = breaker.get_status()
    assert (status.trip_reason, status.trip_details["feed"]) == ("DATA_STALENESS", "microsoft")


async def test_what_can_not_be_read_is_silent_from_when_it_was_looked_for(
    redis_server: EmbeddedRedis, redis_client: redis.Redis, tmp_path: Path
) -> None:
    """This process may have been down: that the last sign of life is old is not the feed's doing."""
    breaker = CircuitBreaker(redis_client)
    breaker.initialize_state()
    redis_client.set("circuit_breaker:heartbeat:quotes", "2026-01-05T00:00:00.000000Z")
    settings = settings_for(redis_server, tmp_path, feeds={"quotes": FeedSettings(file=tmp_path / "gone")})
    feed = WatchedFeed("quotes", settings)
    async with sources_of(settings) as sources:
        assert (await feed.judge(sources)).verdict == "WITHIN"
        assert "No such file" in feed.unreadable
        deadline = time.monotonic() + 60
        while (outcome := await feed.judge(sources)).verdict == "WITHIN":
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
        assert outcome.verdict == "TRIPPED" and float(outcome.details["measured"].split()[0]) >= 1
    await feed.aclose()


async def test_a_source_that_fails_as_nobody_thought_of_is_silent_too(
    redis_server: EmbeddedRedis, redis_client: redis.Redis, tmp_path: Path, web: Web
) -> None:
    CircuitBreaker(redis_client).initialize_state()
    web.answering = lambda _: Answer(body="[" * 100_000)
    nested = FeedSettings(url=f"{web.url}/status", json_path="time")
    settings = settings_for(redis_server, tmp_path, feeds={"quotes": nested})
    feed = WatchedFeed("quotes", settings)
    async with sources_of(settings) as sources:
        assert (await feed.judge(sources)).verdict == "WITHIN"
        assert "can't be read (RecursionError" in feed.unreadable
    await feed.aclose()


async def test_a_feed_whose_clock_is_ahead_grows_old_when_it_stops(
    redis_server: EmbeddedRedis, redis_client: redis.Redis, tmp_path: Path
) -> None:
    CircuitBreaker(redis_client).initialize_state()
    ahead = datetime.now(UTC) + timedelta(hours=9)
    redis_client.set("circuit_breaker:heartbeat:quotes", f"{ahead:%Y-%m-%dT%H:%M:%S.%f}Z")  # by a clock of before
    settings = settings_for(redis_server, tmp_path, feeds={"quotes": FeedSettings(redis_key="quotes:last")})
    feed = WatchedFeed("quotes", settings)
    async with sources_of(settings) as sources:
        redis_client.set("quotes:last", ahead.isoformat())
        assert (await feed.judge(sources)).verdict == "WITHIN"
        deadline = time.monotonic() + 60
        while (outcome := await feed.judge(sources)).verdict == "WITHIN":
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
        assert outcome.verdict == "TRIPPED"
        redis_client.set("quotes:last", (ahead + timedelta(seconds=1)).isoformat())
        assert (await feed.judge(sources)).verdict == "WITHIN", "it speaks"
    await feed.aclose()


async def test_while_its_market_is_closed_nothing_is_missed(
    redis_server: EmbeddedRedis, redis_client: redis.Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    breaker = CircuitBreaker(redis_client)
    breaker.initialize_state()
    redis_client.set("quotes:last", "2026-01-05T00:00:00Z")
    settings = settings_for(
        redis_server, tmp_path, feeds={"quotes": FeedSettings(redis_key="quotes:last", session="XNYS")}
    )
    monkeypatch.setattr(feeds, "market_session", lambda *_: AlwaysOpen())
    feed = WatchedFeed("quotes", settings)
    closed, opened = (SharedSessions(lambda *_, found=found: found) for found in (ExchangeSession([]), AlwaysOpen()))
    async with sources_of(settings, sessions=closed) as sources:
        assert (await feed.judge(sources)).details == {"window": "market closed", "feed": "quotes"}
        assert (await feed.judge(replace(sources, sessions=opened))).verdict == "TRIPPED"
    await feed.aclose()


async def test_a_quote_keeps_to_its_share_of_the_rate_limit(redis_server: EmbeddedRedis, tmp_path: Path) -> None:
    broker = AlpacaBroker("ALPHA", "http://127.0.0.1:1", "key", "secret")
    used_up = RequestPace(1, 0.1)
    used_up.used(1)
    async with sources_of(
        settings_for(redis_server, tmp_path), brokers={"ALPHA": broker}, paces={"ALPHA": used_up}
    ) as sources:
        with pytest.raises(FeedUnreadable, match="the share of the rate limit of account ALPHA is used up"):
            await newest_data(FeedSettings(quote="AAPL", account="ALPHA"), sources)
    await broker.aclose()


async def test_the_scheduled_verification_leaves_the_monitor_s_feeds_to_it(
    redis_server: EmbeddedRedis, redis_client: redis.Redis, tmp_path: Path
) -> None:
    redis_client.set("circuit_breaker:heartbeat:quotes", "2026-01-05T00:00:00.000000Z")
    monitored = {"quotes": FeedSettings(file=tmp_path / "gone", session="XNYS")}
    recovery = RecoverySettings(feeds=("quotes",))
    found = await check_feeds(settings_for(redis_server, tmp_path, feeds=monitored, recovery=recovery))
    assert (found.colour, found.value) == ("green", "1 judged by the monitor")


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({}, "name exactly one of"),
        ({"redis_key": "a", "file": "b"}, "name exactly one of"),
        ({"url": "http://127.0.0.1"}, "json_path goes with url"),
        ({"quote": "AAPL"}, "account goes with quote"),
        ({"file": "b", "scope": "a b"}, "is no scope"),
        ({"file": "b", "session": "nyse"}, "session"),
    ],
)
def test_a_feed_that_makes_no_sense_is_refused(given: dict[str, str], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        FeedSettings.model_validate(given)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"feeds": {"bad name": {"redis_key": "a"}}}, "'bad name' is no feed's name"),
        ({"feeds": {"monitor": {"redis_key": "a"}}}, "own sign of life is called so"),
        ({"rules": {"foo bar": {"drawdown": 0.1}}}, "is no scope"),
        ({"rules": {"account:alpha": {"drawdown": 0.1}}}, "its breaker account:ALPHA"),
    ],
)
def test_names_by_which_nothing_would_be_judged_are_refused(given: dict[str, Any], why: str) -> None:
    account = {"base_url": "http://127.0.0.1:1", "key_id": "k", "secret_key": "s"}
    with pytest.raises(ValidationError, match=why):
        GivenSettings.model_validate({"accounts": {"alpha": account}, **given})


def test_a_quote_trips_the_breaker_of_its_account() -> None:
    account = AccountSettings(base_url="http://127.0.0.1:1", key_id=SecretStr("k"), secret_key=SecretStr("s"))
    two = {"ALPHA": account, "BETA": account}
    quote = FeedSettings(quote="AAPL", account="beta")
    assert feed_scope(quote, two) == "account:BETA"
    assert feed_scope(quote, {"BETA": account}) == "global"
    assert feed_scope(FeedSettings(file=Path("x")), two) == "global"
    assert feed_scope(quote.model_copy(update={"scope": "strategy:x"}), two) == "strategy:x"
    with pytest.raises(ValidationError, match=r"feeds\.apple: no account of the name beta"):
        GivenSettings(accounts={"ALPHA": account}, feeds={"apple": quote})


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the calendars, about pandas
async def test_doctor_knows_a_calendar_that_there_is_not(redis_server: EmbeddedRedis, tmp_path: Path) -> None:
    def settings(session: str) -> Settings:
        return settings_for(redis_server, tmp_path, feeds={"quotes": FeedSettings(redis_key="q", session=session)})

    assert await measure_calendars(settings("24/7")) == []
    (known,) = await measure_calendars(settings("XNYS"))
    assert (known.colour, known.value) == ("green", "XNYS")
    (unknown,) = await measure_calendars(settings("XNOWHERE"))
    assert unknown.colour == "red" and "'XNOWHERE' is no calendar of exchange_calendars" in unknown.problem
