"""What comes first when a kill switch starts: the trip, the record that it began, the first cancel, the question."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import redis

from breaker import CircuitBreaker
from breaker.orders import Fill, MarketClock, Order
from breaker.pending_trips import PendingTrip, PendingTrips
from breaker.state import Status
from breaker.trip_reasons import TripReason
from brokers import alpaca, registry
from brokers.alpaca import AlpacaBroker
from brokers.coverage import coverage_of
from brokers.protocol import Broker, CancelResult, CloseOrder, CloseResult, Listed
from brokers.registry import open_brokers
from brokers.sweep import SweepResult
from configuration.accounts import AccountSettings
from configuration.breakers import async_breaker_of, make_or_store_trip, requested_trip
from configuration.settings import ConfigurationError, Settings
from flows import kill_sweep
from flows.kill_start import KillDisplay, KillStart, halt, sweep_and_flatten
from flows.kill_sweep import FirstSweep
from ledger.configured import open_ready_ledger, open_spool
from ledger.queries import Filter
from ledger.spool import Spool
from sandbox.child_process import free_port
from sandbox.embedded_redis import EmbeddedRedis
from sandbox.exchange.scenario import parse
from sandbox.exchange.server import PaperExchangeThread
from services.kill_takeover import abandoned
from tasks.kill.report import KillReport
from tasks.kill.run import KillRun
from tasks.kill.status import KillStatus, kill_status
from tasks.kill.status_feed import RUN, RUNS, TAKEN_OVER_AFTER
from tasks.recovery.conflicts import unfinished_kills
from tests.helpers import PATIENCE, eventually

BOOK = "[book]\norders = 4\npositions = 2\n"
KILL = {"poll_interval": 0.05, "settle": 0.05, "guard": 0.05, "record_wait": 0.1, "orchestrator_wait": 0.1}


@pytest.fixture
def venue() -> Iterator[PaperExchangeThread]:
    with PaperExchangeThread(parse(BOOK)) as running:
        yield running


@pytest.fixture
def settings(
    redis_server: EmbeddedRedis, redis_client: redis.Redis, venue: PaperExchangeThread, tmp_path: Path
) -> Settings:
    CircuitBreaker(redis_client).initialize_state()
    return with_account(redis_server.url, tmp_path, venue.url)


def with_account(redis_url: str, state_dir: Path, venue_url: str, adapter: str = "alpaca") -> Settings:
    account = {"adapter": adapter, "base_url": venue_url, "key_id": "key", "secret_key": "secret"}
    values = {"redis_url": redis_url, "state_dir": state_dir, "redis_timeout": 2.0, "kill": KILL}
    return Settings.model_validate({**values, "accounts": {"ALPHA": account}})


class Journal(KillDisplay):
    """What was shown, in order; at each sweep also what was on this host's disk by then."""

    def __init__(self, settings: Settings) -> None:
        self.shown: list[str] = []
        self.on_disk: list[str] = []
        self._spool = Spool(settings.state_dir / "spool")

    def halted(self, status: Status, scope: str, after: float) -> None:
        self.shown.append("halted")

    def not_halted(self, problem: object) -> None:
        self.shown.append("not halted")

    def no_broker(self) -> None:
        self.shown.append("no broker")

    def began(self, run: KillRun) -> None:
        self.shown.append("began")

    def swept(self, results: Sequence[SweepResult], after: float) -> None:
        self.shown.append("swept")
        self.on_disk = [record.action for record in self._spool.records()]

    def report(self, report: KillReport) -> None:
        self.shown.append("flat" if report.flat else "not flat")

    def done_without(self, missing: Sequence[str]) -> None:
        self.shown.append("done")


def start_of(settings: Settings) -> KillStart:
    trip = requested_trip(TripReason.KILL_SWITCH, operator="ada", why="drill", scope="global", source="cli")
    return KillStart(trip=trip, reason="drill", coverage=coverage_of("global", settings.accounts))


def way_of(settings: Settings) -> Callable[[PendingTrip], Awaitable[Status]]:
    async def make(trip: PendingTrip) -> Status:
        breaker = async_breaker_of(settings, trip.scope, source=trip.source)
        try:
            return await make_or_store_trip(settings, trip, breaker)
        finally:
            await breaker.close()

    return make


async def test_that_it_began_is_on_disk_before_anything_is_cancelled(
    settings: Settings, venue: PaperExchangeThread
) -> None:
    start, journal = start_of(settings), Journal(settings)
    halting = halt(start, way_of(settings), journal)
    run = await sweep_and_flatten(settings, start, halting, journal, trip_first=PATIENCE)
    assert journal.shown == ["halted", "began", "swept", "flat", "done"]
    assert journal.on_disk == ["KILL_SWITCH_STARTED"]
    assert run is not None and run.report is not None and run.report.first_sweep_after is not None
    assert venue.report()["is_flat"]


async def test_with_everything_open_it_sweeps_right_after_the_trip_and_leaves_it_open(
    settings: Settings, venue: PaperExchangeThread
) -> None:
    start, journal, opened = start_of(settings), Journal(settings), open_brokers(settings.accounts)
    halting = halt(start, way_of(settings), journal)
    await sweep_and_flatten(settings, start, halting, journal, opened=opened, trip_first=PATIENCE)
    assert journal.shown == ["halted", "swept", "began", "flat", "done"]
    assert len(await opened["ALPHA"].positions()) == 0
    await opened["ALPHA"].aclose()


async def test_promise_6_whoever_dies_in_the_first_sweep_has_left_a_sign_of_life(
    settings: Settings, venue: PaperExchangeThread, redis_client: redis.Redis
) -> None:
    settings = settings.model_copy(update={"kill": settings.kill.model_copy(update={"cancel": "all"})})
    start, journal, opened = start_of(settings), Journal(settings), open_brokers(settings.accounts)
    left: list[KillStatus] = []
    broker = opened["ALPHA"]
    cancel_all = broker.cancel_all

    async def cancel_once_told() -> Sequence[CancelResult]:
        await asyncio.to_thread(eventually, lambda: redis_client.zcard(RUNS), within=5)
        raw = redis_client.get(f"{RUN}{start.run_id}")
        assert isinstance(raw, bytes)
        left.append(KillStatus.from_json(raw))
        return await cancel_all()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(broker, "cancel_all", cancel_once_told)
        halting = halt(start, way_of(settings), journal)
        await sweep_and_flatten(settings, start, halting, journal, opened=opened, trip_first=PATIENCE)
    await broker.aclose()
    assert journal.shown == ["halted", "swept", "began", "flat", "done"]
    (sign, *_) = left
    incident = CircuitBreaker(redis_client).get_status().incident_id
    assert (sign.incident_id, sign.event_id, sign.covered) == (incident, start.trip.event_id, ("ALPHA",))
    assert abandoned([replace(sign, silent_for=TAKEN_OVER_AFTER)], float("inf")), "nobody would go on with it"
    assert redis_client.zcard(RUNS) == 1, "the run goes on under the same id"


async def test_promise_5_a_silent_redis_holds_up_no_cancel(settings: Settings, venue: PaperExchangeThread) -> None:
    settings = settings.model_copy(update={"kill": settings.kill.model_copy(update={"cancel": "all"})})
    start, journal, may_answer = start_of(settings), Journal(settings), asyncio.Event()

    async def slow(trip: PendingTrip) -> Status:
        await may_answer.wait()
        return await way_of(settings)(trip)

    running = asyncio.create_task(sweep_and_flatten(settings, start, halt(start, slow, journal), journal))
    await asyncio.to_thread(eventually, lambda: "swept" in journal.shown)
    assert venue.report()["open_orders"] == 0 and "halted" not in journal.shown
    may_answer.set()
    run = await running
    assert journal.shown == ["swept", "halted", "began", "flat", "done"]
    assert run is not None and run.halted_after is not None


async def test_without_the_word_nothing_is_cancelled(settings: Settings, venue: PaperExchangeThread) -> None:
    start, journal = start_of(settings), Journal(settings)
    asked: list[int] = []

    async def decline(run: KillRun) -> bool:
        asked.append(venue.report()["open_orders"])
        return False

    run = await sweep_and_flatten(settings, start, halt(start, way_of(settings), journal), journal, confirm=decline)
    assert (journal.shown, asked) == (["halted", "began", "done"], [4])
    assert run is not None and run.report is None
    assert venue.report()["open_orders"] == 4
    status = kill_status(run)
    assert (status.verdict, replace(status, over=True).verdict) == ("DECLINED", "DECLINED")
    ledger = open_ready_ledger(settings)
    rows = ledger.query(Filter(actions=("KILL_SWITCH_STARTED", "KILL_SWITCH_FINISHED"))).rows
    ledger.close()
    assert [(row.action, row.details.get("declined")) for row in rows] == [
        ("KILL_SWITCH_FINISHED", True),
        ("KILL_SWITCH_STARTED", None),
    ]
    assert unfinished_kills(rows) == []


async def test_a_kill_that_breaks_off_at_the_question_has_ended_too(
    settings: Settings, venue: PaperExchangeThread
) -> None:
    start, journal = start_of(settings), Journal(settings)

    asked = asyncio.Event()

    async def think(run: KillRun) -> bool:
        asked.set()
        return await asyncio.Event().wait()

    halting = halt(start, way_of(settings), journal)
    running = asyncio.create_task(sweep_and_flatten(settings, start, halting, journal, confirm=think))
    await asyncio.wait_for(asked.wait(), PATIENCE)
    running.cancel()  # as Ctrl-C does
    with pytest.raises(asyncio.CancelledError):
        await running
    open_spool(settings).drain(ledger := open_ready_ledger(settings))
    rows = ledger.query(Filter(actions=("KILL_SWITCH_FINISHED",))).rows
    ledger.close()
    assert [row.details["declined"] for row in rows] == [True]


async def test_an_adapter_that_is_missing_is_told_after_the_trip(
    settings: Settings, redis_client: redis.Redis, venue: PaperExchangeThread
) -> None:
    missing = with_account(settings.redis_url.get_secret_value(), settings.state_dir, venue.url, adapter="nyse")
    start, journal = start_of(missing), Journal(missing)
    with pytest.raises(ConfigurationError, match="no adapter 'nyse'"):
        await sweep_and_flatten(missing, start, halt(start, way_of(missing), journal), journal)
    assert journal.shown == ["halted"]
    assert CircuitBreaker(redis_client).get_state() == "TRIPPED"


async def test_promise_5_an_account_that_cannot_be_opened_stops_none_of_the_others(
    settings: Settings, venue: PaperExchangeThread
) -> None:
    kill = settings.kill.model_copy(update={"refusal_patience": 0.2})
    broken = settings.accounts["ALPHA"].model_copy(update={"adapter": "nyse"})
    accounts = {"BROKEN": broken, **settings.accounts}
    ten = settings.model_copy(update={"kill": kill, "accounts": accounts})
    start, journal = start_of(ten), Journal(ten)
    run = await sweep_and_flatten(ten, start, halt(start, way_of(ten), journal), journal)
    assert run is not None and run.report is not None and not run.report.flat
    assert run.progress["ALPHA"].phase == "flat" and venue.report()["is_flat"]
    assert run.progress["BROKEN"].phase == "failed" and "no adapter 'nyse'" in run.progress["BROKEN"].note


class SlowToImport:
    """An adapter whose first call ends only once what it has to import is there, as on a slow disk."""

    def __init__(self) -> None:
        self.imported, self.asked = asyncio.Event(), asyncio.Event()

    def from_settings(self, name: str, account: AccountSettings) -> AlpacaBroker:
        broker = alpaca.from_settings(name, account)
        send = broker._requests.send

        async def once_imported(*request: Any, **more: Any) -> Any:
            self.asked.set()
            await self.imported.wait()
            return await send(*request, **more)

        broker._requests.send = once_imported  # type: ignore[method-assign]
        return broker


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> SlowToImport:
    adapter = SlowToImport()
    open_broker = registry.open_broker

    def opened(name: str, account: AccountSettings, *, markets_dir: Path | None = None) -> Broker:
        if account.adapter == "slow":
            return adapter.from_settings(name, account)
        return open_broker(name, account, markets_dir=markets_dir)

    monkeypatch.setattr(registry, "open_broker", opened)
    return adapter


@pytest.fixture
def slow_venue() -> Iterator[PaperExchangeThread]:
    with PaperExchangeThread(parse(BOOK)) as running:
        yield running


@pytest.fixture
def with_slow(settings: Settings, slow: SlowToImport, slow_venue: PaperExchangeThread) -> Settings:
    """SLOW beside ALPHA, at a venue of its own."""
    values = {"adapter": "slow", "base_url": slow_venue.url}
    accounts = {"SLOW": settings.accounts["ALPHA"].model_copy(update=values), **settings.accounts}
    kill = settings.kill.model_copy(update={"first_sweep_timeout": PATIENCE})
    return settings.model_copy(update={"accounts": accounts, "kill": kill})


@pytest.mark.parametrize("resident", [False, True], ids=["cold", "with everything open"])
async def test_an_account_that_has_answered_is_closed_while_another_ones_adapter_is_still_being_imported(
    resident: bool,
    with_slow: Settings,
    slow: SlowToImport,
    venue: PaperExchangeThread,
    slow_venue: PaperExchangeThread,
) -> None:
    start, journal = start_of(with_slow), Journal(with_slow)
    opened = registry.open_brokers(with_slow.accounts) if resident else None
    halting = halt(start, way_of(with_slow), journal)
    killing = asyncio.create_task(sweep_and_flatten(with_slow, start, halting, journal, opened=opened))
    await asyncio.wait_for(slow.asked.wait(), PATIENCE)
    await asyncio.to_thread(eventually, lambda: venue.report()["is_flat"], within=PATIENCE)
    assert "swept" not in journal.shown, "the sweep is told once every account has answered"
    assert not slow_venue.report()["requests"]
    slow.imported.set()
    run = await killing
    assert run is not None and run.report is not None and run.report.flat
    assert slow_venue.report()["is_flat"]
    assert journal.shown == ["halted", "began", "swept", "flat", "done"]
    assert run.report.first_sweep_after is not None and run.first_sweep_after == run.report.first_sweep_after
    for broker in (opened or {}).values():
        await broker.aclose()


async def test_promise_6_no_account_is_closed_before_its_own_first_sweep_has_ended(
    with_slow: Settings, slow: SlowToImport, venue: PaperExchangeThread
) -> None:
    start, journal = start_of(with_slow), Journal(with_slow)
    killing = asyncio.create_task(sweep_and_flatten(with_slow, start, halt(start, way_of(with_slow), journal), journal))
    await asyncio.to_thread(eventually, lambda: venue.report()["is_flat"], within=PATIENCE)
    slow.imported.set()
    await killing
    open_spool(with_slow).drain(ledger := open_ready_ledger(with_slow))
    rows = ledger.query(Filter(actions=("FIRST_SWEEP", "POSITION_CLOSE_SENT")), limit=50).rows
    ledger.close()
    told = [(row.action, row.details["account"]) for row in reversed(rows)]
    for account in ("ALPHA", "SLOW"):
        of_account = [action for action, name in told if name == account]
        assert of_account[0] == "FIRST_SWEEP" and of_account.count("FIRST_SWEEP") == 1
        assert "POSITION_CLOSE_SENT" in of_account
    assert told.index(("POSITION_CLOSE_SENT", "ALPHA")) < told.index(("FIRST_SWEEP", "SLOW"))


async def test_a_kill_that_is_interrupted_before_every_account_has_answered_leaves_nothing_running(
    with_slow: Settings, slow: SlowToImport, venue: PaperExchangeThread, slow_venue: PaperExchangeThread
) -> None:
    start, journal = start_of(with_slow), Journal(with_slow)
    killing = asyncio.create_task(sweep_and_flatten(with_slow, start, halt(start, way_of(with_slow), journal), journal))
    await asyncio.to_thread(eventually, lambda: venue.report()["is_flat"], within=PATIENCE)
    killing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await killing
    slow.imported.set()
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert not slow_venue.report()["requests"]


class Unruly(AlpacaBroker):
    """An adapter with a mistake that is no ordinary error."""

    def __init__(self, name: str, url: str, mistake: str) -> None:
        super().__init__(name, url, "key", "secret")
        self._mistake = mistake

    async def cancel_all(self) -> Sequence[CancelResult]:
        if self._mistake == "answers nothing":
            return None  # type: ignore[return-value]
        if self._mistake == "answers rows":
            return [{"id": "1"}]  # type: ignore[list-item]
        return await super().cancel_all()

    async def cancel(self, order_id: str) -> CancelResult:
        if self._mistake.startswith("answers"):
            return {"id": order_id} if self._mistake == "answers rows" else None  # type: ignore[return-value]
        return await super().cancel(order_id)

    async def close(self, request: CloseOrder) -> CloseResult:
        result = await super().close(request)
        if self._mistake == "breaks off closes":
            raise asyncio.CancelledError
        return result

    async def open_orders(self) -> Listed[Order]:
        if self._mistake == "breaks off":
            raise asyncio.CancelledError  # as for whoever awaits a request whose connection is closed beneath it
        return await super().open_orders()

    async def fills(self, since: datetime) -> Listed[Fill]:
        if self._mistake == "has no fills":
            raise asyncio.CancelledError
        return await super().fills(since)

    async def clock(self) -> MarketClock:
        if self._mistake in ("breaks off", "has no clock"):
            raise asyncio.CancelledError
        return await super().clock()


@pytest.mark.parametrize(
    "mistake", ["answers nothing", "answers rows", "breaks off", "breaks off closes", "has no clock", "has no fills"]
)
async def test_promise_5_an_adapter_that_errs_in_ways_of_its_own_ends_no_other_accounts_kill(
    mistake: str, settings: Settings, venue: PaperExchangeThread, slow_venue: PaperExchangeThread
) -> None:
    accounts = {"ODD": settings.accounts["ALPHA"], **settings.accounts}
    kill = settings.kill.model_copy(update={"deadline": 3.0, "cancel": "all"})
    both = settings.model_copy(update={"accounts": accounts, "kill": kill})
    start, journal = start_of(both), Journal(both)
    opened = {"ODD": Unruly("ODD", slow_venue.url, mistake), **registry.open_brokers(settings.accounts)}
    run = await sweep_and_flatten(both, start, halt(start, way_of(both), journal), journal, opened=opened)
    assert run is not None and run.report is not None
    assert run.progress["ALPHA"].flat and venue.report()["is_flat"]
    if mistake == "breaks off closes":
        assert run.progress["ODD"].flat and slow_venue.report()["is_flat"], "sent once each, and looked up"
        assert len(run.progress["ODD"].closes) == 2
    if mistake == "has no fills":
        assert any("broke off" in cost.problem for cost in run.report.costs if cost.account == "ODD")
    if mistake == "breaks off":
        assert not run.progress["ODD"].flat and "broke off" in run.progress["ODD"].note
    for broker in opened.values():
        await broker.aclose()


@pytest.mark.parametrize("trouble", ["raises", "hangs"])
async def test_an_adapter_that_cannot_be_closed_changes_nothing_of_what_was_done(
    trouble: str, settings: Settings, venue: PaperExchangeThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def aclose(broker: AlpacaBroker) -> None:
        await broker._requests.aclose()
        if trouble == "raises":
            raise ZeroDivisionError
        await asyncio.Event().wait()

    monkeypatch.setattr(AlpacaBroker, "aclose", aclose)
    monkeypatch.setattr(registry, "CLOSED_WITHIN", 0.1, raising=False)
    start, journal = start_of(settings), Journal(settings)
    async with asyncio.timeout(PATIENCE):
        run = await sweep_and_flatten(settings, start, halt(start, way_of(settings), journal), journal)
    assert run is not None and run.report is not None and run.report.flat
    assert journal.shown[-2:] == ["flat", "done"] and venue.report()["is_flat"]


class Clinging(AlpacaBroker):
    """An adapter that doesn't let go of a request when it is told to."""

    def __init__(self, name: str, url: str, over: asyncio.Event) -> None:
        super().__init__(name, url, "key", "secret")
        self._over = over

    async def open_orders(self) -> Listed[Order]:
        while not self._over.is_set():
            with suppress(asyncio.CancelledError):
                await self._over.wait()
        return await super().open_orders()


async def test_a_first_sweep_that_no_adapter_lets_go_of_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, settings: Settings, venue: PaperExchangeThread
) -> None:
    monkeypatch.setattr(kill_sweep, "LETS_GO_WITHIN", 0.1)
    kill = settings.kill.model_copy(update={"first_sweep_timeout": 0.1})
    over, told = asyncio.Event(), list[float]()
    broker = Clinging("ALPHA", venue.url, over)
    sweep = FirstSweep(0.0, coverage_of("global", ["ALPHA"]), kill, lambda _, after: told.append(after))
    async with asyncio.timeout(PATIENCE):
        async with sweep:
            sweep.begin({"ALPHA": broker}, "incident")
            await sweep.answered()
    assert not told
    over.set()
    await broker.aclose()


async def test_without_an_account_it_halts_and_says_so(settings: Settings, redis_client: redis.Redis) -> None:
    nothing = settings.model_copy(update={"accounts": {}})
    start, journal = start_of(nothing), Journal(nothing)
    assert await sweep_and_flatten(nothing, start, halt(start, way_of(nothing), journal), journal) is None
    assert journal.shown == ["halted", "no broker"]
    assert CircuitBreaker(redis_client).get_state() == "TRIPPED"


async def test_promise_5_a_trip_that_cannot_be_made_waits_on_the_disk_and_the_book_is_closed(
    settings: Settings, venue: PaperExchangeThread
) -> None:
    nowhere = with_account(f"redis://127.0.0.1:{free_port()}/0", settings.state_dir, venue.url)
    nowhere = nowhere.model_copy(update={"redis_timeout": 0.2})
    start, journal = start_of(nowhere), Journal(nowhere)
    run = await sweep_and_flatten(nowhere, start, halt(start, way_of(nowhere), journal), journal)
    assert "not halted" in journal.shown and journal.shown[-2:] == ["flat", "done"]
    assert run is not None and run.halted_after is None
    assert [trip.event_id for trip in PendingTrips(nowhere.pending_trips_dir).load()] == [start.trip.event_id]
