"""A kill switch in shares: each account is closed and told of once, whatever becomes of workers (promises 5, 6)."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
import redis
from prefect.settings import PREFECT_API_URL, temporary_settings
from pydantic import SecretStr

from breaker import CircuitBreaker
from breaker.uuid7 import uuid7
from configuration.redis_clients import async_redis_client
from configuration.settings import Settings
from flows import kill_coordination, kill_procedure, kill_switch
from flows.drivers import RunStep, without_prefect
from flows.kill_context import open_kill_run
from flows.kill_coordination import close_in_shares
from flows.kill_procedure import halt_and_flatten, read_costs
from flows.kill_share import run_share
from sandbox.embedded_redis import EmbeddedRedis
from tasks import orchestrator
from tasks.kill import share_watch
from tasks.kill.close_names import KEY as CLOSES
from tasks.kill.cost import ExitCost
from tasks.kill.report import KillReport
from tasks.kill.run import KillRun, current_kill
from tasks.kill.share_watch import CLAIM, WANTED, claim_share
from tasks.kill.shares import Share
from tasks.kill.status import kill_status
from tasks.kill.status_feed import RUN, RUNS
from tests.two_accounts import NOTHING, POSITIONS, Venues

Work = Callable[[Settings, dict[str, Any]], Awaitable[None]]


@pytest.fixture
def venues() -> Iterator[Venues]:
    with Venues() as running:
        yield running


@pytest.fixture
def settings(redis_server: EmbeddedRedis, redis_client: redis.Redis, venues: Venues, tmp_path: Path) -> Settings:
    CircuitBreaker(redis_client).initialize_state()
    return Settings.model_validate(
        {
            "redis_url": redis_server.url,
            "state_dir": tmp_path / "state",
            "accounts": venues.settings(),
            "kill": {
                "poll_interval": 0.05,
                "settle": 0.1,
                "guard": 0.1,
                "deadline": 100,
                "accounts_per_worker": 1,
                "share_starts_within": 60,
            },
        }
    )


@dataclass
class Pool:
    """In place of Prefect and its workers: begins what is asked for, if anything, as `work` does."""

    settings: Settings
    served: frozenset[str] = frozenset({"kill-share"})
    work: Work | None = None
    busy: int = 0
    """So many times it does not answer."""
    refuses: Exception | None = None
    asked: list[dict[str, Any]] = field(default_factory=list)
    cancelled: list[UUID] = field(default_factory=list)
    working: list[asyncio.Future[None]] = field(default_factory=list)

    async def served_deployments(self) -> frozenset[str]:
        return self.served

    async def start_subflow(
        self, deployment: str, name: str, tags: Sequence[str], key: str, parameters: dict[str, Any]
    ) -> UUID:
        assert deployment == "kill-share/kill-share"
        assert name.startswith(f"kill-share-{parameters['number']}-of-{parameters['of']}-")
        assert key == parameters["run_id"]
        if self.refuses is not None:
            raise self.refuses
        if self.busy:
            self.busy -= 1
            raise TimeoutError
        self.asked.append(parameters)
        if self.work is not None:
            self.working.append(asyncio.ensure_future(self.work(self.settings, parameters)))
        return uuid4()

    async def cancel(self, flow_run_id: UUID, why: str) -> None:
        self.cancelled.append(flow_run_id)


@pytest.fixture
async def pool(settings: Settings, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Pool]:
    """Whatever works in it begins before whoever asked for that is done with its own account."""
    pool = Pool(settings)
    for name in ("served_deployments", "start_subflow", "cancel"):
        monkeypatch.setattr(orchestrator, name, getattr(pool, name))

    def begun() -> bool:
        ids = [asked["run_id"] for asked in pool.asked]
        return bool(ids) and all(redis_client.exists(f"{CLAIM}{each}", f"{RUN}{each}") for each in ids)

    async def close_account(run: KillRun, do: RunStep, account: str) -> None:
        while account == "ALPHA" and pool.work is not None and not begun():
            await asyncio.sleep(0.02)
        await kill_procedure.close_account(run, do, account)

    monkeypatch.setattr(kill_coordination, "close_account", close_account)
    yield pool
    for each in pool.working:
        each.cancel()
    await asyncio.gather(*pool.working, return_exceptions=True)


async def close(settings: Settings, asked: dict[str, Any]) -> None:
    """As a worker does."""
    share = Share(asked["number"], asked["of"], tuple(asked["accounts"]), asked["run_id"])
    told = {name: asked[name] for name in ("reason", "operator", "incident_id", "scope", "trip_event_id", "closes_as")}
    await run_share(share, without_prefect, settings, **told)


async def fall_silent(settings: Settings, asked: dict[str, Any]) -> None:
    """As a worker that dies once it has begun: one sign of life, and never another."""
    share = Share(asked["number"], asked["of"], tuple(asked["accounts"]), asked["run_id"])
    client = async_redis_client(settings)
    assert await claim_share(client, share.run_id)
    async with open_kill_run(
        reason="-", operator="-", incident_id=uuid7(), accounts=share.accounts, settings=settings, share=share
    ) as run:
        status = replace(kill_status(run), over=False)
    await client.set(f"{RUN}{share.run_id}", status.to_json(), ex=86_400)
    await client.aclose()


async def break_off(settings: Settings, asked: dict[str, Any]) -> None:
    """As one whose run ends with an error in the middle."""
    share = Share(asked["number"], asked["of"], tuple(asked["accounts"]), asked["run_id"])
    with pytest.raises(MemoryError):
        async with open_kill_run(
            reason="-", operator="-", incident_id=uuid7(), accounts=share.accounts, settings=settings, share=share
        ):
            raise MemoryError


async def lack_keys(settings: Settings, asked: dict[str, Any]) -> None:
    """As a worker whose host has no valid keys for the account."""
    beta = settings.accounts["BETA"].model_copy(update={"secret_key": SecretStr("another")})
    kill = settings.kill.model_copy(update={"refusal_patience": 0.1})
    accounts = {**settings.accounts, "BETA": beta}
    await close(settings.model_copy(update={"accounts": accounts, "kill": kill}), asked)


async def kill(settings: Settings, client: redis.Redis) -> tuple[KillReport, Counter[tuple[str, str]], KillRun]:
    """The report, what this run put on record by action and account, and the run itself."""
    recorded: Counter[tuple[str, str]] = Counter()
    trip = CircuitBreaker(client).trip("KILL_SWITCH")
    async with open_kill_run(
        reason="a test",
        operator="ada",
        incident_id=trip.incident_id or "",
        settings=settings,
        observers=(lambda action, details: recorded.update([(action, str(details.get("account", "")))]),),
    ) as run:
        run.halted_after = 0.0
        token = current_kill.set(run)
        try:
            report = await halt_and_flatten(run, without_prefect, close_in_shares)
            report = await read_costs(run, without_prefect, report)
        finally:
            current_kill.reset(token)
    return report, recorded, run


def is_done(venues: Venues, report: KillReport) -> bool:
    """Every account is flat, in the report and at its venue, and each position was closed by one order."""
    for name in ("ALPHA", "BETA"):
        assert venues.left(name) == NOTHING
        seen = venues[name].report()
        assert seen["sign_changes"] == [] and seen["closes"] == dict.fromkeys(POSITIONS, 1)
    return report.flat and [each.account for each in report.accounts] == ["ALPHA", "BETA"]


async def test_a_worker_closes_its_share_and_one_report_tells_of_all(
    settings: Settings, redis_client: redis.Redis, venues: Venues, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(share_watch, "TAKEN_OVER_AFTER", 60.0)  # nothing falls silent here but a busy machine
    pool.work, pool.busy = close, 1
    report, recorded, run = await kill(settings, redis_client)
    assert is_done(venues, report) and report.missing == ()
    assert [asked["accounts"] for asked in pool.asked] == [["BETA"]] and pool.cancelled == []
    assert "secret" not in str(pool.asked), "whoever can read Prefect sees it"
    assert report.flat_after is not None and report.no_orders_after is not None
    beta = report.accounts[1]
    assert (beta.orders_at_start, beta.positions_at_start, beta.closes_sent) == (5, 3, 3)
    assert len(beta.closes) == 3
    assert [(cost.account, cost.whole, cost.priced) for cost in report.costs] == [("ALPHA", True, 3), ("BETA", True, 3)]
    assert recorded["KILL_SWITCH_COST", "BETA"] == recorded["KILL_SWITCH_COST", "ALPHA"] == 1
    assert recorded["ACCOUNT_FLAT", "ALPHA"] == 1 and recorded["ACCOUNT_FLAT", "BETA"] == 0, "the share's own record"
    assert redis_client.zrange(RUNS, 0, -1) == [run.run_id.encode()], "people see one run, and standbys too"


@pytest.mark.parametrize("work", [None, fall_silent, break_off])
async def test_a_share_that_comes_to_nothing_is_closed_here(
    settings: Settings,
    redis_client: redis.Redis,
    venues: Venues,
    pool: Pool,
    monkeypatch: pytest.MonkeyPatch,
    work: Work | None,
) -> None:
    monkeypatch.setattr(share_watch, "TAKEN_OVER_AFTER", 1.5)
    pool.work = work
    if work is None:
        settings = settings.model_copy(update={"kill": settings.kill.model_copy(update={"share_starts_within": 0.3})})
    report, recorded, _ = await kill(settings, redis_client)
    assert is_done(venues, report)
    (said,) = report.missing
    assert said.startswith("the worker of share 2 of 2, BETA: ") and said.endswith("; it was closed here")
    assert recorded["KILL_SHARE_TAKEN_OVER", ""] == 1 and len(pool.cancelled) == 1
    assert recorded["ACCOUNT_FLAT", "BETA"] == recorded["KILL_SWITCH_COST", "BETA"] == 1


async def test_what_no_worker_has_begun_is_closed_here_one_share_after_another(
    settings: Settings, redis_client: redis.Redis, venues: Venues, pool: Pool
) -> None:
    with Venues("GAMMA") as further:
        settings = settings.model_copy(update={"accounts": {**settings.accounts, **further.settings()}})
        report, recorded, run = await kill(settings, redis_client)
        assert further.left("GAMMA") == NOTHING
    assert report.flat and all(venues.left(name) == NOTHING for name in ("ALPHA", "BETA"))
    assert run.elapsed < settings.kill.share_starts_within
    assert [said.partition(": ")[0] for said in report.missing] == [
        "the worker of share 2 of 3, BETA",
        "the worker of share 3 of 3, GAMMA",
    ]
    assert all("no worker had begun it" in said for said in report.missing)
    assert recorded["KILL_SHARE_TAKEN_OVER", ""] == 2 and len(pool.cancelled) == 2
    flat_after = {each.account: each.flat_after or 0.0 for each in report.accounts}
    assert flat_after["BETA"] <= flat_after["GAMMA"]
    assert all(redis_client.exists(f"{CLAIM}{asked['run_id']}") for asked in pool.asked), "a worker finds it taken"


@pytest.mark.parametrize("since", ["closed here", "reset", "out of time"])
async def test_a_worker_that_comes_too_late_does_nothing(
    settings: Settings, redis_client: redis.Redis, venues: Venues, pool: Pool, since: str
) -> None:
    begun = settings.model_copy(update={"kill": settings.kill.model_copy(update={"share_starts_within": 0.1})})
    report, _, _ = await kill(begun, redis_client)
    assert is_done(venues, report)
    asked = pool.asked[0]
    if since != "closed here":  # whoever asked died before it could take anything back
        redis_client.delete(f"{CLAIM}{asked['run_id']}")
    if since == "reset":
        CircuitBreaker(redis_client).reset("ada", "a test")
    if since == "out of time":
        redis_client.delete(f"{WANTED}{asked['run_id']}")
    before = {name: venues[name].report()["requests"] for name in ("ALPHA", "BETA")}
    await close(settings, asked)
    assert {name: venues[name].report()["requests"] for name in before} == before


async def test_what_a_worker_can_not_close_is_closed_here(
    settings: Settings, redis_client: redis.Redis, venues: Venues, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(share_watch, "TAKEN_OVER_AFTER", 60.0)
    pool.work = lack_keys
    report, recorded, _ = await kill(settings, redis_client)
    assert is_done(venues, report) and recorded["KILL_SHARE_TAKEN_OVER", ""] == 1
    said = "the worker of share 2 of 2, BETA: it could not close BETA; it was closed here"
    assert said in report.missing


async def test_a_prefect_that_refuses_a_share_is_not_asked_for_as_long_as_one_may_take_to_begin(
    settings: Settings, redis_client: redis.Redis, venues: Venues, pool: Pool
) -> None:
    request = httpx.Request("POST", "http://prefect/")
    pool.refuses = httpx.HTTPStatusError("-", request=request, response=httpx.Response(409, request=request))
    report, _, _ = await kill(settings, redis_client)
    assert is_done(venues, report)
    assert report.missing == (
        "the worker of share 2 of 2, BETA: Prefect did not take it: it answered 409; it was closed here",
    )
    assert report.flat_after is not None and report.flat_after < settings.kill.share_starts_within


@pytest.mark.parametrize("tripped", [False, True], ids=["not at all", "by another incident"])
async def test_a_trip_that_is_not_confirmed_keeps_nothing_waiting_for_a_worker(
    settings: Settings, redis_client: redis.Redis, venues: Venues, pool: Pool, tripped: bool
) -> None:
    if tripped:
        CircuitBreaker(redis_client).trip("MANUAL")
    async with open_kill_run(reason="-", operator="-", incident_id=uuid7(), settings=settings) as run:
        token = current_kill.set(run)
        try:
            await close_in_shares(run, without_prefect)
        finally:
            current_kill.reset(token)
    assert pool.asked == [] and all(venues.left(name) == NOTHING for name in ("ALPHA", "BETA"))
    assert "the trip is not confirmed" in run.missing[0]


async def test_orders_are_cancelled_before_a_worker_begins_in_a_run_that_nobody_swept_for(
    settings: Settings, redis_client: redis.Redis, venues: Venues, pool: Pool
) -> None:
    async def look_first(settings: Settings, asked: dict[str, Any]) -> None:
        left.append(venues.left("BETA"))
        await close(settings, asked)

    left: list[tuple[dict[str, str], set[str]]] = []
    pool.work = look_first
    report, recorded, _ = await kill(settings, redis_client)
    assert is_done(venues, report) and left == [(POSITIONS, set())] and recorded["FIRST_SWEEP", "BETA"] == 1


async def test_a_share_names_its_closes_as_whoever_asked_for_it_does(
    settings: Settings, redis_client: redis.Redis, venues: Venues, pool: Pool
) -> None:
    async def forget(settings: Settings, asked: dict[str, Any]) -> None:
        redis_client.delete(f"{CLOSES}BETA")  # as a failover may
        await close(settings, asked)

    earlier = uuid7()
    redis_client.set(f"{CLOSES}BETA", earlier)
    pool.work = forget
    report, _, _ = await kill(settings, redis_client)
    assert is_done(venues, report)
    assert all(
        close.client_order_id.startswith(f"{earlier}-") for close in report.accounts[1].closes if len(close.symbol) < 5
    )


async def test_without_anybody_who_serves_shares_all_is_closed_here(
    settings: Settings, redis_client: redis.Redis, venues: Venues, pool: Pool
) -> None:
    pool.served = frozenset({"kill-switch"})
    report, _, _ = await kill(settings, redis_client)
    assert is_done(venues, report) and pool.asked == []
    assert report.missing == ("workers for BETA: nobody serves the deployment kill-share; they were closed here",)


async def test_no_more_accounts_than_one_takes_are_closed_here_and_nobody_is_asked(
    settings: Settings, redis_client: redis.Redis, venues: Venues, pool: Pool
) -> None:
    alone = settings.model_copy(update={"kill": settings.kill.model_copy(update={"accounts_per_worker": 2})})
    report, _, _ = await kill(alone, redis_client)
    assert is_done(venues, report) and pool.asked == [] and report.missing == ()


async def test_what_workers_had_is_told_of_by_what_is_done_here_once_prefect_is_lost(
    settings: Settings, redis_client: redis.Redis, venues: Venues, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def break_off_with_a_share_away(run: KillRun) -> None:
        run.elsewhere["BETA"] = ask_the_worker
        run.begun.set()
        raise TimeoutError

    async def ask_the_worker(account: str) -> ExitCost:
        asked.append(account)
        raise LookupError

    async def refuses_nobody(api: str) -> bool:
        return False

    asked: list[str] = []
    monkeypatch.setattr(kill_switch, "_refuses_connections", refuses_nobody)
    monkeypatch.setattr(kill_switch, "_start_flow", break_off_with_a_share_away)
    CircuitBreaker(redis_client).trip("KILL_SWITCH")
    with temporary_settings({PREFECT_API_URL: "http://prefect.invalid/api"}):
        async with open_kill_run(reason="-", operator="-", settings=settings) as run:
            report = await kill_switch.run_kill_switch(run, lambda _: None)
    assert is_done(venues, report) and asked == []
