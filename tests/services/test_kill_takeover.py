"""A kill switch whose host dies is brought to its end by a standby elsewhere, and nothing else is."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import redis

from breaker import CircuitBreaker
from breaker.errors import BreakerUnavailable
from breaker.keys import ASKED_KILLS
from breaker.pending_trips import PendingTrip
from breaker.uuid7 import uuid7
from configuration.breakers import apply_pending_trips, requested_trip, store_undelivered
from configuration.running import RunningConfiguration
from configuration.settings import Settings
from proofs.fork_server import ForkServer
from sandbox.embedded_redis import EmbeddedRedis
from sandbox.exchange.scenario import parse
from sandbox.exchange.server import PaperExchangeThread
from services import kill_executor, kill_takeover, redis_history
from services.kill_executor import KillExecutor
from services.kill_request import KillRequest
from services.kill_takeover import LATE, KillTakeover, abandoned, unbegun
from services.outage_log import OutageLog
from tasks.kill.asked_kills import AskedKill, read_asked_kills, withdraw
from tasks.kill.status_feed import KEPT, RUN, RUNS, TAKEN_OVER_AFTER, publish_beginning
from tests.helpers import eventually
from tests.records import kill_at_work
from tests.services.test_standby import Host, trips

HALTED = (
    'positions = [{ symbol = "AAPL", qty = "10" }, { symbol = "MSFT", qty = "-5" }]\nhalts = [{ symbol = "MSFT" }]\n'
)
AT_WORK = kill_at_work(elapsed=4.0, halted_after=0.1, covered=("ALPHA",), silent_for=TAKEN_OVER_AFTER)
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
    "later", [{"covered": ("BETA",)}, {"declined": True, "over": True}, {"asking": True}, {"resuming": True}], ids=str
)
def test_a_later_run_that_has_not_gone_on_with_a_silent_one_hides_it_from_nobody(later: dict[str, object]) -> None:
    again = replace(AT_WORK, run_id="2", started_at=AT_WORK.started_at + timedelta(seconds=5), silent_for=0.5, **later)  # type: ignore[arg-type]
    assert abandoned([AT_WORK, again], UP) == [AT_WORK]


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


@pytest.fixture
def settings(redis_server: EmbeddedRedis, tmp_path: Path) -> Settings:
    account = {"base_url": "http://127.0.0.1:9", "key_id": "key", "secret_key": "secret"}
    return Settings.model_validate(
        {"redis_url": redis_server.url, "state_dir": tmp_path, "accounts": {"ALPHA": account}}
    )


class Takeover(KillTakeover):
    """Keeps what it would begin."""

    def __init__(self, settings: Settings) -> None:
        self.begun: list[tuple[KillRequest, object]] = []
        begun = self.begun

        class Executor(KillExecutor):
            async def kill(self, request: KillRequest, source: str, send: object, **more: object) -> None:
                begun.append((request, more["closes_as"]))

        self.executor = Executor(RunningConfiguration(settings))
        super().__init__(settings, self.executor, OutageLog("tests"))

    @property
    def requests(self) -> list[KillRequest]:
        return [request for request, _ in self.begun]

    async def look(self) -> None:
        await super().look()
        await self.executor.finish()


@pytest.fixture
async def takeover(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Takeover]:
    """One that waits for nothing."""

    async def up_for_ever(_: object) -> float:
        return UP

    monkeypatch.setattr(kill_takeover, "believed_for", up_for_ever)
    monkeypatch.setattr(kill_takeover, "TAKEN_OVER_AFTER", 0.0)
    takeover = Takeover(settings)
    yield takeover
    await takeover.close()
    await takeover.executor.close()


def asked(client: redis.Redis) -> list[AskedKill]:
    kept: Any = client.hgetall(ASKED_KILLS)
    return read_asked_kills(kept.values())


def confirmed(settings: Settings, *accounts: str) -> PendingTrip:
    """The trip of a kill switch of these accounts that was confirmed; of none, of one that was not."""
    return requested_trip(
        "KILL_SWITCH", operator="ada", why="drill", scope="global", source="cli", closes=accounts or ()
    )


def test_a_trip_says_which_kill_switch_is_to_begin_and_its_first_sign_of_life_that_it_has(
    settings: Settings, redis_client: redis.Redis
) -> None:
    breaker = CircuitBreaker(redis_client, source="cli")
    breaker.initialize_state()
    breaker.trip("MANUAL", {"reason": 'no "closes": ["ALPHA"] of mine', "operator": "ada"})
    confirmed(settings).make(breaker)
    assert asked(redis_client) == [], "a trip that names nothing only halts"
    trip = confirmed(settings, "ALPHA")
    for _ in range(2):
        status = trip.make(breaker)
    [kill] = asked(redis_client)
    assert (kill.closes, kill.trip.incident_id, kill.reason) == (("ALPHA",), status.incident_id, "drill")
    assert kill.is_in_force(status)
    asyncio.run(publish_beginning(replace(AT_WORK, event_id=trip.event_id), settings))
    assert asked(redis_client) == []
    trip.make(breaker)
    assert asked(redis_client) == [], "the same event acts once"


def test_what_was_never_confirmed_broken_off_or_kept_on_a_disk_asks_for_nothing(
    settings: Settings, redis_client: redis.Redis
) -> None:
    breaker = CircuitBreaker(redis_client, quiet_period=0, reset_interval=0)
    breaker.initialize_state()
    trip = confirmed(settings, "ALPHA")
    trip.make(breaker)
    withdraw(settings, trip.event_id)
    assert asked(redis_client) == []
    late = confirmed(settings, "ALPHA")
    store_undelivered(settings, late, BreakerUnavailable("Redis is away.", may_have_happened=False))
    apply_pending_trips(settings)
    assert [trip.event_id for trip in breaker.get_history(1)] == [late.event_id]
    assert asked(redis_client) == [], "what it was to close may be closed by then, and traded again"
    confirmed(settings, *(f"ACCOUNT-{number}" for number in range(2_000))).make(breaker)
    assert asked(redis_client) == [], "too many to name, and a halt all the same"
    redis_client.hset(ASKED_KILLS, "mine", "{}")
    assert asked(redis_client) == []


def test_one_is_begun_by_its_age_alone_and_not_from_a_copy_nor_after_a_reset(
    settings: Settings, redis_client: redis.Redis
) -> None:
    breaker = CircuitBreaker(redis_client, quiet_period=0, reset_interval=0)
    tripped = confirmed(settings, "ALPHA").make(breaker)
    [kill] = asked(redis_client)
    after = {wait: kill.trip.at + timedelta(seconds=wait) for wait in (TAKEN_OVER_AFTER - 0.1, TAKEN_OVER_AFTER, LATE)}
    assert [bool(unbegun([kill], now, UP)) for now in after.values()] == [False, True, False]
    assert unbegun([kill], after[TAKEN_OVER_AFTER], TAKEN_OVER_AFTER) == [], "Redis began after it: it may be a copy"
    assert kill.is_in_force(tripped)
    assert not kill.is_in_force(breaker.reset("ada"))
    assert not kill.is_in_force(breaker.trip("MANUAL")), "another incident"


async def test_a_kill_switch_that_gave_no_sign_of_life_is_begun_once_in_its_own_incident(
    settings: Settings, redis_client: redis.Redis, takeover: Takeover
) -> None:
    tripped = confirmed(settings, "ALPHA").make(CircuitBreaker(redis_client))
    elsewhere = requested_trip(
        "KILL_SWITCH", operator="ada", why="drill", scope="account:BETA", source="cli", closes=("BETA",)
    )
    elsewhere.make(CircuitBreaker(redis_client, "account:BETA"))
    for _ in range(2):
        await takeover.look()
    [request] = takeover.requests
    assert (request.incident_id, request.accounts, request.operator) == (tripped.incident_id, ("ALPHA",), "ada")
    assert "nothing was heard of it" in request.reason


async def test_a_stale_copy_that_is_promoted_begins_nothing_that_was_reset_and_traded_since(
    settings: Settings, redis_server: EmbeddedRedis, own_server: EmbeddedRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has run for days, and lost its primary between a trip and the first sign of life of its kill switch."""
    primary, replica = (redis.Redis.from_url(server.url) for server in (redis_server, own_server))
    primary.flushall()
    replica.replicaof("127.0.0.1", str(redis_server.port))
    eventually(lambda: replica.info("replication")["master_link_status"] == "up")
    breaker = CircuitBreaker(primary, quiet_period=0, reset_interval=0)
    confirmed(settings, "ALPHA").make(breaker)
    silent = replace(AT_WORK, incident_id=str(breaker.get_status().incident_id))
    primary.set(f"{RUN}{silent.run_id}", silent.to_json(), ex=KEPT)
    primary.zadd(RUNS, {silent.run_id: 1})
    eventually(lambda: len(asked(replica)) == 1 and replica.zcard(RUNS) == 1)
    replica.replicaof("NO", "ONE")
    breaker.reset("ada")
    monkeypatch.setattr(kill_takeover, "TAKEN_OVER_AFTER", 0.0)
    monkeypatch.setattr(redis_history, "FAILED_OVER", 0.0)  # as if that were long since
    takeover = Takeover(settings.model_copy(update={"redis_url": settings.redis_url.__class__(own_server.url)}))
    await takeover.look()
    await takeover.close()
    await takeover.executor.close()
    assert takeover.requests == []


async def test_what_nobody_of_ours_has_written_holds_up_no_other_kill_switch(
    settings: Settings, redis_client: redis.Redis, takeover: Takeover
) -> None:
    """Whoever may trip may write any details."""
    breaker = CircuitBreaker(redis_client)
    breaker.trip("KILL_SWITCH", {"closes": ["ALPHA"], "login": "x" * 200})
    confirmed(settings, "ALPHA").make(breaker)
    await takeover.look()
    assert [request.login for request in takeover.requests] == [""]
    redis_client.set(ASKED_KILLS, "mine")
    silent = replace(AT_WORK, incident_id=str(breaker.get_status().incident_id))
    redis_client.set(f"{RUN}{silent.run_id}", silent.to_json(), ex=KEPT - 60)
    redis_client.zadd(RUNS, {silent.run_id: 1})
    await takeover.look()
    assert [request.reason[:18] for request in takeover.requests[1:]] == ["drill (taken over,"]


async def test_one_that_was_broken_off_before_its_trip_came_to_redis_is_not_begun(
    settings: Settings, redis_client: redis.Redis, takeover: Takeover
) -> None:
    """A second Ctrl-C doesn't wait for the trip, which is on its way on a thread."""
    trip = confirmed(settings, "ALPHA")
    for _ in range(2):
        assert await asyncio.to_thread(withdraw, settings, trip.event_id) == ""
    trip.make(CircuitBreaker(redis_client))
    await takeover.look()
    assert takeover.requests == []
    late = confirmed(settings, "ALPHA")
    late.make(CircuitBreaker(redis_client))
    await takeover.look()
    begun_by = await asyncio.to_thread(withdraw, settings, late.event_id)
    assert begun_by == socket.gethostname(), "whoever breaks it off is told that it goes on"


async def test_a_run_that_was_broken_off_and_could_not_say_its_end_is_not_taken_over(
    settings: Settings, redis_client: redis.Redis, takeover: Takeover
) -> None:
    """A Redis that is slow for a second misses it: that much is not waited for at the end of a run."""
    incident = str(CircuitBreaker(redis_client).trip("KILL_SWITCH").incident_id)
    at_work = replace(AT_WORK, incident_id=incident)
    redis_client.set(f"{RUN}{at_work.run_id}", at_work.to_json(), ex=KEPT - 60)
    redis_client.zadd(RUNS, {at_work.run_id: 1})
    await asyncio.to_thread(withdraw, settings, "its trip", at_work.run_id)
    await takeover.look()
    assert takeover.requests == []


async def test_a_trip_of_a_time_to_come_is_left_to_people_when_that_has_come(
    settings: Settings, redis_client: redis.Redis, takeover: Takeover, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock of Redis's host was put back after it, and whether it was reset since can't be told by times."""
    confirmed(settings, "ALPHA").make(CircuitBreaker(redis_client))
    clock = redis_client.time()[0]
    waited = AskedKill.waited
    monkeypatch.setattr(AskedKill, "waited", lambda self, now: waited(self, now - timedelta(hours=1)))
    await takeover.look()
    monkeypatch.setattr(AskedKill, "waited", waited)
    await takeover.look()
    assert takeover.requests == [] and redis_client.time()[0] - clock < LATE


async def test_another_kill_switch_of_the_incident_that_is_at_work_here_keeps_none_of_other_accounts_from_it(
    settings: Settings, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    two = settings.model_copy(update={"accounts": {**settings.accounts, "BETA": settings.accounts["ALPHA"]}})
    executor = KillExecutor(RunningConfiguration(two))
    going_on = KillRequest(operator="ada", accounts=("ALPHA",), incident_id=uuid7())
    release = asyncio.Event()

    async def at_work(*_: object, **__: object) -> None:
        await release.wait()

    monkeypatch.setattr(kill_executor, "sweep_and_flatten", at_work)
    monkeypatch.setattr(kill_executor, "halt", lambda *_: None)
    running = asyncio.create_task(executor.kill(going_on, "cli", lambda _: None))
    await asyncio.sleep(0)
    again = {"operator": "ada", "incident_id": going_on.incident_id}
    assert executor.is_at_work(KillRequest(**again, accounts=("ALPHA",)))
    assert not executor.is_at_work(KillRequest(**again, accounts=("BETA",)))
    assert not executor.is_at_work(KillRequest(**again)), "it covers both"
    joined = {"operator": "ada", "incident_id": uuid7(), "event_id": going_on.event_id, "accounts": ("ALPHA",)}
    assert executor.is_at_work(KillRequest(**joined)), "its breaker was halted before, in another incident"
    release.set()
    await running
    assert not executor.is_at_work(going_on)
    await executor.close()


async def test_who_takes_over_is_told_by_which_names_the_silent_one_closes(
    redis_client: redis.Redis, takeover: Takeover
) -> None:
    breaker = CircuitBreaker(redis_client)
    breaker.initialize_state()
    incident = str(breaker.trip("KILL_SWITCH").incident_id)
    silent = replace(AT_WORK, incident_id=incident, closes_as={"ALPHA": "an earlier incident"})
    redis_client.set(f"{RUN}{silent.run_id}", silent.to_json(), ex=KEPT - 60)
    redis_client.zadd(RUNS, {silent.run_id: 1})

    await takeover.look()
    assert [(request.incident_id, named) for request, named in takeover.begun] == [
        (incident, {"ALPHA": "an earlier incident"})
    ]


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
