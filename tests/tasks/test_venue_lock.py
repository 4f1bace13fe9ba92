"""The venue's own lock: whose it is, when it is set, lifted and released, and what is said where that fails."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from breaker import CircuitBreaker
from configuration.settings import Settings
from flows.drivers import without_prefect
from flows.kill_context import open_kill_run
from flows.kill_procedure import halt_and_flatten
from ledger.configured import open_ready_ledger
from ledger.queries import Filter
from ledger.record import FAILED, OK
from sandbox.child_process import free_port
from sandbox.embedded_redis import EmbeddedRedis
from sandbox.exchange.scenario import parse
from sandbox.exchange.server import PaperExchangeThread
from tasks.checks.measurement import Colour
from tasks.checks.venue_locks import Seen, check_venue_locks, judge_venue_locks
from tasks.kill.account import AccountProgress, LockResult, StuckItem
from tasks.kill.notifications import kill_notifications
from tasks.kill.report import KillReport
from tasks.kill.run import current_kill
from tasks.kill.venue_lock import (
    UNFINISHED_AFTER,
    Phase,
    VenueLock,
    begun,
    from_json,
    in_phase,
    is_foreign,
    is_unfinished,
    seen,
    to_json,
    why_not,
    without,
)
from tasks.kill.venue_lock_release import release_venue_locks
from tasks.kill.venue_lock_store import KEY, read_venue_locks, write_venue_lock

NOW = datetime(2026, 11, 24, 20, tzinfo=UTC)
LATER = NOW + timedelta(minutes=1)
REASON = "the cause was found and put right"
BOOK = "rate_limit = 100000\n[book]\norders = 4\npositions = 4\n"
NO_BOOK = "rate_limit = 100000\n"
KEYS = {"APCA-API-KEY-ID": "key", "APCA-API-SECRET-KEY": "secret"}
STUCK = StuckItem("MSFT", Decimal(-5), 0, "trading is halted")


def lock(scope: str = "global", incident: str = "one", known: VenueLock | None = None) -> VenueLock:
    return in_phase(begun(known, "ALPHA", scope, incident, NOW), Phase.SET, NOW)


# --- Whose it is, and when it is set ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("progress", "known", "words"),
    [
        (AccountProgress("A", flat=True), {}, ""),
        (AccountProgress("A", flat=True), {"whole_account": False}, "only a part of the account"),
        (AccountProgress("A", flat=True), {"suspends_trading": False}, "no lock that could be set"),
        (AccountProgress("A", stuck=(STUCK,)), {}, "would refuse to close what is left: MSFT"),
        (AccountProgress("A", note="the venue is away"), {}, "not proven flat"),
    ],
)
def test_it_is_set_on_a_whole_account_that_is_flat_and_otherwise_it_is_said_why_not(
    progress: AccountProgress, known: dict[str, bool], words: str
) -> None:
    reason = why_not(progress, **{"whole_account": True, "suspends_trading": True, **known})
    assert words in reason and bool(words) == bool(reason)


def test_what_is_suspended_is_ours_only_while_that_is_on_record() -> None:
    assert is_foreign(None, suspended=True)
    assert not is_foreign(None, suspended=False)
    for phase in (Phase.SETTING, Phase.SET, Phase.LIFTING):
        assert not is_foreign(in_phase(lock(), phase, LATER), suspended=True), f"killed while it was {phase}"
    assert is_foreign(in_phase(lock(), Phase.LIFTED, LATER), suspended=True), "somebody has set it since"


def test_each_change_is_newer_than_what_it_replaces_by_whatever_clock() -> None:
    ahead = lock()
    assert in_phase(ahead, Phase.LIFTING, NOW - timedelta(hours=1)).version > ahead.version
    assert begun(ahead, "ALPHA", "global", "two", NOW - timedelta(hours=1)).version > ahead.version
    assert from_json(to_json(ahead)) == ahead


def test_a_second_incident_joins_the_first_and_the_last_to_be_reset_releases_it() -> None:
    both = lock("account:ALPHA", "two", lock())
    assert both.holders == {"global": "one", "account:ALPHA": "two"} and both.since == NOW
    assert without(both, ["global"], LATER).holders == {"account:ALPHA": "two"}


def test_found_lifted_is_news_once_and_over_when_it_is_on_again() -> None:
    lifted = seen(lock(), suspended=False, now=LATER)
    assert lifted.lifted_elsewhere == LATER and "somebody has lifted that" in str(lifted)
    assert seen(lifted, suspended=False, now=LATER + timedelta(hours=1)) is lifted
    assert seen(lifted, suspended=True, now=LATER).lifted_elsewhere is None
    setting = in_phase(lock(), Phase.SETTING, NOW)
    assert seen(setting, suspended=False, now=LATER) is setting, "a kill switch is at it"
    assert not is_unfinished(setting, suspended=False, now=LATER)
    assert is_unfinished(setting, suspended=False, now=NOW + 2 * UNFINISHED_AFTER)


def test_the_verification_is_red_for_what_is_off_and_yellow_for_what_is_not_known() -> None:
    on, off = Seen(lock(), True), Seen(seen(lock(), suspended=False, now=LATER), False)
    assert judge_venue_locks([on], [], [], LATER).colour is Colour.GREEN
    red = judge_venue_locks([on, off], [], [], LATER)
    assert red.colour is Colour.RED and "somebody has lifted that" in red.problem and "breaker kill" in red.problem
    unfinished = Seen(in_phase(lock(), Phase.LIFTING, NOW), False)
    assert judge_venue_locks([unfinished], [], [], NOW + 2 * UNFINISHED_AFTER).colour is Colour.RED
    assert judge_venue_locks([], ["ALPHA is still locked"], [], LATER).colour is Colour.RED
    assert judge_venue_locks([Seen(lock(), None, "no answer")], [], [], LATER).colour is Colour.YELLOW
    assert judge_venue_locks([], [], ["Redis can't be read"], LATER).colour is Colour.YELLOW


def test_people_are_told_with_the_result_and_warned_where_it_failed() -> None:
    def told(result: LockResult | None) -> tuple[str, str]:
        account = AccountProgress("ALPHA", phase="flat", flat=True, flat_after=1.0, venue_lock=result)
        report = KillReport("i", "why", "ada", "global", "ALPHA", NOW, 0.1, 0.2, 1.0, (account,), ())
        (note,) = kill_notifications(report, None)
        return note.severity, note.body

    assert told(None)[0] == "info"
    assert told(LockResult(True, "locked at the venue"))[0] == "info"
    severity, body = told(LockResult(False, "not locked at the venue: it answered 503"))
    assert severity == "warning" and "ALPHA: not locked at the venue: it answered 503" in body


# --- At the paper exchange --------------------------------------------------------------------------------------------


class LockedVenue(PaperExchangeThread):
    @property
    def suspended(self) -> bool:
        with httpx.Client(base_url=self.url, headers=KEYS) as client:
            return bool(client.get("/v2/account/configurations").json()["suspend_trade"])

    def suspend(self, on: bool) -> None:
        """As a person does there."""
        with httpx.Client(base_url=self.url, headers=KEYS) as client:
            client.patch("/v2/account/configurations", json={"suspend_trade": on}).raise_for_status()

    def refuse_to_be_configured(self) -> None:
        self.control("trouble", {"kind": "503", "routes": ["PATCH /v2/account/configurations"]})


@pytest.fixture(scope="module")
def running() -> Iterator[LockedVenue]:
    with LockedVenue() as venue:
        yield venue


@pytest.fixture
def venue(running: LockedVenue) -> LockedVenue:
    running.restart(parse(NO_BOOK))
    return running


Configure = Callable[..., Settings]


@pytest.fixture
def configure(venue: LockedVenue, redis_server: EmbeddedRedis, redis_client: redis.Redis, tmp_path: Path) -> Configure:
    CircuitBreaker(redis_client).initialize_state(by="tests")

    def make(**changes: Any) -> Settings:
        account = {"base_url": venue.url, "key_id": "key", "secret_key": "secret", "request_timeout": 1.0}
        pace = {"settle": 0.05, "guard": 0.1, "poll_interval": 0.02, "retry_backoff": 0.1, "deadline": 20.0}
        terms: dict[str, Any] = {
            "redis_url": redis_server.url,
            "state_dir": tmp_path / "state",
            "quiet_period": 0,
            "accounts": {"ALPHA": account},
            "kill": {"venue_lock": True, **pace},
        }
        return Settings(**{**terms, **changes})

    return make


async def kill(settings: Settings, scope: str = "global") -> AccountProgress:
    """One kill switch without an orchestrator; what became of the account."""
    async with open_kill_run(reason="tests", operator="ada", scope=scope, settings=settings) as run:
        token = current_kill.set(run)
        try:
            (account,) = (await halt_and_flatten(run, without_prefect)).accounts
        finally:
            current_kill.reset(token)
    return account


def actions(settings: Settings) -> list[str]:
    """On record about locks, oldest first."""
    ledger = open_ready_ledger(settings)
    try:
        rows = ledger.query(Filter(), limit=500).rows
    finally:
        ledger.close()
    ordered = [row for row in sorted(rows, key=lambda row: row.seq) if row.action.startswith("VENUE_LOCK")]
    return [row.action if row.outcome == OK else f"{row.action} {row.outcome}" for row in ordered]


def reset(client: redis.Redis, scope: str = "global") -> None:
    client.delete("circuit_breaker:reset_rate_limit")
    CircuitBreaker(client, scope, quiet_period=0).reset(reset_by="bob", reason=REASON)


async def test_flat_is_flat_where_the_venue_does_not_take_it(venue: LockedVenue, configure: Configure) -> None:
    venue.refuse_to_be_configured()
    account = await kill(configure())
    assert account.flat and account.venue_lock is not None and not account.venue_lock.engaged
    assert "the venue answered 503" in account.venue_lock.said
    assert actions(configure()) == ["VENUE_LOCK_SENT", f"VENUE_LOCK_FAILED {FAILED}"]


async def test_what_a_person_has_suspended_is_left_so_and_not_released(
    venue: LockedVenue, configure: Configure, redis_client: redis.Redis
) -> None:
    venue.suspend(True)
    account = await kill(configure())
    assert account.flat and account.venue_lock is not None
    assert "by nobody that is on record here" in account.venue_lock.said
    reset(redis_client)
    assert await release_venue_locks(configure(), by="bob", source="cli") == []
    assert venue.suspended


async def test_a_person_who_sets_it_again_after_the_release_keeps_it(
    venue: LockedVenue, configure: Configure, redis_client: redis.Redis
) -> None:
    settings = configure()
    await kill(settings)
    reset(redis_client)
    await release_venue_locks(settings, by="bob", source="cli")
    venue.suspend(True)
    assert (await check_venue_locks(settings)).colour is Colour.GREEN
    assert await release_venue_locks(settings, by="bob", source="cli") == []
    assert venue.suspended


async def test_it_is_lifted_once_for_all_positions_that_came_meanwhile_and_set_again(
    venue: LockedVenue, configure: Configure
) -> None:
    await kill(configure())
    held = {"AAPL": "7", "MSFT": "3", "NVDA": "2", "TSLA": "5"}
    scenario = "".join(f'[[positions]]\nsymbol = "{symbol}"\nqty = {qty}\n' for symbol, qty in held.items())
    venue.restart(parse(NO_BOOK + scenario + "[account]\ntrade_suspended_by_user = true\n"))
    account = await kill(configure())
    assert account.flat and account.venue_lock == LockResult(
        True, "locked at the venue: it refuses new orders until the breaker is reset"
    )
    report = venue.report()
    assert report["is_flat"] and report["violations"] == [] and venue.suspended
    assert actions(configure())[2:] == ["VENUE_LOCK_SENT", "VENUE_LOCK_LIFTED", "VENUE_LOCK_SENT", "VENUE_LOCK_SET"]


async def test_a_lock_that_is_set_is_lifted_to_close_also_where_the_setting_is_off_by_now(
    venue: LockedVenue, configure: Configure
) -> None:
    on = configure()
    await kill(on)
    venue.restart(parse(BOOK + "[account]\ntrade_suspended_by_user = true\n"))
    account = await kill(configure(kill={**on.kill.model_dump(), "venue_lock": False}))
    assert account.flat and account.venue_lock is not None and "kill.venue_lock is off" in account.venue_lock.said
    assert not venue.suspended


async def test_killed_after_the_venue_took_it_the_lock_is_ours_all_the_same(
    venue: LockedVenue, configure: Configure, redis_client: redis.Redis
) -> None:
    settings = configure()
    write_venue_lock(settings, begun(None, "ALPHA", "global", "one", datetime.now(UTC)))
    venue.suspend(True)
    account = await kill(settings)
    assert account.venue_lock is not None and account.venue_lock.engaged
    reset(redis_client)
    assert await release_venue_locks(settings, by="bob", source="cli") == []
    assert not venue.suspended


async def test_promise_5_without_redis_the_disk_knows_whose_it_is(
    venue: LockedVenue, configure: Configure, redis_client: redis.Redis
) -> None:
    away = configure(redis_url=f"redis://127.0.0.1:{free_port()}/0", redis_timeout=0.2)
    account = await kill(away)
    assert account.flat and account.venue_lock is not None and account.venue_lock.engaged and venue.suspended
    assert not redis_client.exists(KEY)
    CircuitBreaker(redis_client).trip("KILL_SWITCH", tripped_by="ada")
    assert (await check_venue_locks(configure())).colour is Colour.GREEN
    assert redis_client.hexists(KEY, "ALPHA"), "other hosts know too once Redis is back"
    reset(redis_client)
    assert await release_venue_locks(configure(), by="bob", source="cli") == []
    assert not venue.suspended


async def test_it_is_not_set_where_nobody_would_know_that_it_is_ours(venue: LockedVenue, configure: Configure) -> None:
    away = configure(redis_url=f"redis://127.0.0.1:{free_port()}/0", redis_timeout=0.2)
    away.state_dir.mkdir()
    away.venue_locks_dir.touch()
    account = await kill(away)
    assert account.flat and account.venue_lock is not None
    assert "the reset would not know that it may lift it" in account.venue_lock.said
    assert not venue.suspended


async def test_a_lock_for_two_breakers_is_released_by_the_reset_of_the_last(
    venue: LockedVenue, configure: Configure, redis_client: redis.Redis
) -> None:
    settings = configure()
    CircuitBreaker(redis_client, "account:ALPHA").initialize_state(by="tests")
    await kill(settings)
    await kill(settings, scope="account:ALPHA")
    reset(redis_client)
    assert await release_venue_locks(settings, by="bob", source="cli") == [] and venue.suspended
    reset(redis_client, "account:ALPHA")
    assert await release_venue_locks(settings, by="bob", source="cli") == [] and not venue.suspended
    assert actions(settings)[-2:] == ["VENUE_LOCK_RELEASE", "VENUE_LOCK_RELEASE"]


async def test_a_halted_breaker_keeps_its_locks_whoever_asks(venue: LockedVenue, configure: Configure) -> None:
    settings = configure()
    await kill(settings)
    assert await release_venue_locks(settings, by="bob", source="cli") == []
    assert venue.suspended


async def test_what_a_reset_could_not_release_the_verification_does_and_is_red_until_then(
    venue: LockedVenue, configure: Configure, redis_client: redis.Redis
) -> None:
    settings = configure()
    await kill(settings)
    venue.refuse_to_be_configured()
    reset(redis_client)
    (problem,) = await release_venue_locks(settings, by="bob", source="cli")
    assert "ALPHA is still locked at its venue" in problem and "lift suspend_trade" in problem
    found = await check_venue_locks(settings)
    assert found.colour is Colour.RED and "still locked" in found.problem
    venue.control("trouble", method="DELETE")
    assert (await check_venue_locks(settings)).colour is Colour.GREEN
    assert not venue.suspended
    assert actions(settings)[-2:] == [f"VENUE_LOCK_RELEASE {FAILED}", "VENUE_LOCK_RELEASE"], "one row, not one a minute"


async def test_an_account_that_is_not_configured_here_is_named_with_what_to_do(
    venue: LockedVenue, configure: Configure, redis_client: redis.Redis
) -> None:
    await kill(configure())
    reset(redis_client)
    (problem,) = await release_venue_locks(configure(accounts={}), by="bob", source="cli")
    assert "no such account is configured here" in problem and venue.suspended


async def test_somebody_who_lifts_it_is_found_told_and_on_record_once(venue: LockedVenue, configure: Configure) -> None:
    settings = configure()
    await kill(settings)
    assert (await check_venue_locks(settings)).colour is Colour.GREEN
    venue.suspend(False)
    for _ in range(2):
        found = await check_venue_locks(settings)
        assert found.colour is Colour.RED and "somebody has lifted that" in found.problem
    assert actions(settings).count(f"VENUE_LOCK_LIFTED_ELSEWHERE {FAILED}") == 1
    (held,) = read_venue_locks(settings).held
    assert held.lifted_elsewhere is not None, "shown by status and console without asking the venue"
    again = await kill(settings)
    assert again.venue_lock is not None and again.venue_lock.engaged and venue.suspended
    assert (await check_venue_locks(settings)).colour is Colour.GREEN


async def test_the_newer_of_redis_and_disk_wins_and_either_is_enough(
    configure: Configure, redis_client: redis.Redis
) -> None:
    settings = configure()
    first = lock()
    assert await asyncio.to_thread(write_venue_lock, settings, first) == []
    redis_client.flushall()
    assert read_venue_locks(settings).held == (first,), "a flushed Redis loses nothing"
    lifted = in_phase(first, Phase.LIFTED, LATER)
    redis_client.hset(KEY, "ALPHA", to_json(lifted))
    assert read_venue_locks(settings).held == ()
    write_venue_lock(settings, first)
    assert json.loads(redis_client.hget(KEY, "ALPHA") or b"{}")["phase"] == "lifted", "the older never replaces it"
    redis_client.hset(KEY, "BETA", "nonsense")
    assert "of BETA in Redis can't be read" in read_venue_locks(settings).problems[0]
    newest = replace(first, version=lifted.version + 1)
    assert write_venue_lock(settings, newest) == [] and read_venue_locks(settings).held == (newest,)
