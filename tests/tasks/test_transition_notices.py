"""Each transition is told once, by whoever is there, with what somebody who is woken by it needs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import redis

from breaker import CircuitBreaker
from breaker.pending_trips import PendingTrip
from breaker.uuid7 import uuid7
from configuration.settings import Settings
from ledger.configured import open_ready_ledger
from ledger.outbox import drain_outbox
from sandbox.child_process import free_port
from sandbox.embedded_redis import EmbeddedRedis
from sandbox.exchange.scenario import parse
from sandbox.exchange.server import PaperExchangeThread
from services import notification_watch
from services.notification_watch import NotificationWatch
from tasks.transition_notices import tell_transitions, tell_undelivered_trip
from tests.helpers import eventually
from tests.tasks.web import Answer, Web

SAID = {"operator": "ada", "reason": "fills that no engine of ours sent"}


@pytest.fixture
def web() -> Iterator[Web]:
    with Web(lambda _: Answer(202)) as server:
        yield server


def configured(web: Web, redis_url: str, tmp_path: Path, **more: Any) -> Settings:
    return Settings.model_validate(
        {
            "redis_url": redis_url,
            "state_dir": tmp_path,
            "notifications": {"pagerduty": "KEY", "pagerduty_url": f"{web.url}/enqueue", "timeout": 10.0},
            "recovery": {"console_url": "https://console.example"},
            **more,
        }
    )


@pytest.fixture
def settings(redis_server: EmbeddedRedis, web: Web, tmp_path: Path) -> Settings:
    return configured(web, redis_server.url, tmp_path)


@pytest.fixture
def breaker(redis_client: redis.Redis) -> Iterator[CircuitBreaker]:
    breaker = CircuitBreaker(redis_client, reset_interval=0)
    breaker.initialize_state(by="test")
    yield breaker
    breaker.close()


def titles(web: Web) -> list[str]:
    return [asked.json.get("payload", {}).get("summary", asked.json["event_action"]) for asked in web.asked]


def text(web: Web, at: int = 0) -> str:
    return str(web.asked[at].json["payload"]["custom_details"]["text"])


async def test_a_trip_says_why_by_whom_what_is_exposed_where_and_links_its_page(
    redis_server: EmbeddedRedis, breaker: CircuitBreaker, web: Web, tmp_path: Path
) -> None:
    with PaperExchangeThread(parse("[book]\norders = 4\npositions = 3\n")) as exchange:
        account = {"base_url": exchange.url, "key_id": "key", "secret_key": "secret"}
        nowhere = {**account, "base_url": f"http://127.0.0.1:{free_port()}"}
        settings = configured(
            web, redis_server.url, tmp_path, environment="paper floor", accounts={"A": account, "B": nowhere}
        )
        breaker.trip("MANUAL", details=SAID, tripped_by="ada")
        (told,) = await tell_transitions(settings, "global")
    assert told.delivered and titles(web) == ["[paper floor] global was tripped: MANUAL"]
    assert "Reason: fills that no engine of ours sent" in text(web) and "By: ada" in text(web)
    assert "A: 4 open orders, 3 positions (" in text(web), text(web)
    assert "B: not read (" in text(web)
    assert web.asked[0].json["links"][0]["href"] == "https://console.example/circuit-breaker"


async def test_a_reset_resolves_by_whatever_way_it_came_and_a_trip_in_the_quiet_period_is_told(
    settings: Settings, breaker: CircuitBreaker, web: Web
) -> None:
    incident = breaker.trip("DRAWDOWN", details={"drawdown": "6 %"}, tripped_by="rule").incident_id
    breaker.reset("ben", "the cause was found and mended")
    breaker.trip("MANUAL", details=SAID, tripped_by="ada")
    epoch = breaker.reset("ben", "the cause was found and mended once more").epoch
    breaker.end_quiet_period(expected_epoch=int(epoch or 0), by="recovery watch")
    kinds = [told.notification.kind.value for told in await tell_transitions(settings, "global")]
    assert kinds == ["TRIPPED", "RESET", "RETRIPPED", "RESET", "RECOVERED"]
    assert titles(web) == [
        "global was tripped: DRAWDOWN",
        "global was tripped again after its reset: MANUAL",
        "resolve",
    ]
    assert "drawdown 6 %" in text(web)
    assert {asked.json["dedup_key"] for asked in web.asked} == {incident}
    assert await tell_transitions(settings, "global") == [], "told before"


async def test_several_processes_tell_one_event_once(settings: Settings, breaker: CircuitBreaker, web: Web) -> None:
    breaker.trip("MANUAL", details=SAID, tripped_by="ada")
    told = await asyncio.gather(*(tell_transitions(settings, "global") for _ in range(4)))
    assert len(web.asked) == 1 and sum(map(len, told)) == 1


async def test_what_no_channel_took_is_told_by_the_next_once_the_claim_has_run_out(
    settings: Settings, breaker: CircuitBreaker, redis_client: redis.Redis, web: Web
) -> None:
    web.answering = lambda _: Answer(400)
    breaker.trip("MANUAL", details=SAID, tripped_by="ada")
    (failed,) = await tell_transitions(settings, "global")
    assert not failed.delivered
    (key,) = redis_client.keys("circuit_breaker:notified:*")
    assert 0 < redis_client.pttl(key) <= 60_000
    redis_client.delete(key)
    web.answering = lambda _: Answer(202)
    (told,) = await tell_transitions(settings, "global")
    assert told.delivered


async def test_a_rule_that_trips_once_more_is_no_news_and_a_person_who_does_is(
    settings: Settings, breaker: CircuitBreaker, web: Web
) -> None:
    breaker.trip("DRAWDOWN", tripped_by="rule")
    breaker.trip("DRAWDOWN", tripped_by="rule")
    breaker.trip("KILL_SWITCH", details=SAID, tripped_by="ada")
    await tell_transitions(settings, "global")
    assert titles(web) == [
        "global was tripped: DRAWDOWN",
        "Kill switch started (global): halted",
    ]


async def test_a_trip_that_redis_was_not_told_of_is_told_all_the_same(web: Web, tmp_path: Path) -> None:
    settings = configured(web, f"redis://127.0.0.1:{free_port()}/0", tmp_path, redis_timeout=0.2)
    trip = PendingTrip(
        reason="MANUAL",
        details=SAID,
        tripped_by="ada",
        scope="global",
        source="cli",
        event_id=uuid7(),
        incident_id=uuid7(),
    )
    told = await tell_undelivered_trip(settings, trip, "It is kept on this host.")
    assert told is not None and told.delivered
    assert titles(web) == ["global could not be tripped: Redis was not told"]
    assert "It is kept on this host." in text(web) and "fills that no engine" in text(web)


def test_breakers_without_news_cost_no_connection(
    settings: Settings, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    scopes = tuple(f"account:A{number}" for number in range(20))
    for scope in scopes:
        breaker = CircuitBreaker(redis_client, scope)
        breaker.initialize_state()
        aged: dict[Any, float] = {redis_client.zrange(breaker.keys.history, 0, -1)[0]: time.time() - 86_400}
        redis_client.zadd(breaker.keys.history, aged)
    with closing(open_ready_ledger(settings)) as ledger:
        drain_outbox(redis_client, ledger, scopes)
    monkeypatch.setattr(notification_watch, "EVERY", 0.01)
    watch = NotificationWatch(settings)
    watch.start()

    def looks() -> int:
        return int(redis_client.info("commandstats").get("cmdstat_zrevrange", {"calls": 0})["calls"])

    try:
        before = looks()
        eventually(lambda: looks() > before + 20 * len(scopes))
        connections = redis_client.info("stats")["total_connections_received"]
        before = looks()
        eventually(lambda: looks() > before + 20 * len(scopes))
        assert redis_client.info("stats")["total_connections_received"] - connections < 5
    finally:
        watch.stop()


def test_the_services_tell_of_a_trip_that_a_library_made(settings: Settings, breaker: CircuitBreaker, web: Web) -> None:
    watches = [NotificationWatch(settings), NotificationWatch(settings)]
    for watch in watches:
        watch.start()
    try:
        breaker.trip("MANUAL", details=SAID, tripped_by="ada")
        eventually(lambda: web.asked)
        breaker.trip("KILL_SWITCH", details=SAID, tripped_by="ada")
        eventually(lambda: len(web.asked) > 1)
    finally:
        for watch in watches:
            watch.stop()
    assert [title.partition(":")[0] for title in titles(web)] == ["global was tripped", "Kill switch started (global)"]
