"""The watch after a reset, on a real breaker and a real ledger."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import httpx
import redis
from prefect.settings import PREFECT_API_URL, temporary_settings
from redis.asyncio import Redis

from breaker import CircuitBreaker
from configuration.breakers import async_breaker_of
from configuration.settings import Settings
from ledger.configured import open_ready_ledger, open_spool
from ledger.queries import Filter
from ledger.record import FAILED, OK, AuditRecord
from ledger.recorder import Recorder
from sandbox.child_process import free_port
from sandbox.exchange.server import PaperExchangeThread
from tasks.kill.pending_exit_store import open_pending_exits
from tasks.kill.pending_exits import AccountExits, PendingExit
from tasks.kill.venue_lock import Phase, begun, in_phase
from tasks.kill.venue_lock_store import read_venue_locks, write_venue_lock
from tasks.recovery import steps
from tasks.recovery.context import RecoveryContext, current_recovery
from tasks.recovery.reset_watch import WatchEnd, Watcher, needs_a_watcher, reset_to_watch, watch_reset
from tasks.recovery.state import RecoveryState, Tick
from tests.helpers import eventually
from tests.tasks.recovery.conftest import Configure, approve

RUN = "6b7a6a4e-0000-4000-8000-000000000001"


@asynccontextmanager
async def desk_after_reset(
    settings: Settings, client: redis.Redis, quiet_period: float = 0, ends_watched: bool = False
) -> AsyncIterator[RecoveryContext]:
    """Of an incident that was tripped and reset a moment ago."""
    breaker = CircuitBreaker(client, quiet_period=quiet_period)
    incident = breaker.trip("MANUAL", tripped_by="ada").incident_id
    breaker.reset(reset_by="cyd", reason="the cause was found and put right", ends_watched=ends_watched)
    asynchronous, patient = async_breaker_of(settings), Redis.from_url(settings.redis_url.get_secret_value())
    ledger = open_ready_ledger(settings)
    state = RecoveryState(incident_id=str(incident), scope="global", flow_run_id=RUN)
    context = RecoveryContext(settings, patient, asynchronous, Recorder(ledger, open_spool(settings)), state, ("ada",))
    token = current_recovery.set(context)
    try:
        yield context
    finally:
        current_recovery.reset(token)
        await asynchronous.close()
        await patient.aclose()
        ledger.close()


async def test_a_watch_longer_than_the_quiet_period_trips_the_same_incident_again(
    configure: Configure, redis_client: redis.Redis
) -> None:
    service = {"gateway": {"url": f"http://127.0.0.1:{free_port()}/"}}
    settings = configure(quiet_period=0, recovery={"watch": 5, "services": service})
    async with desk_after_reset(settings, redis_client) as context:
        before = CircuitBreaker(redis_client).get_status()
        assert before.state.value == "OPEN" and before.epoch is not None
        why = await steps.watch.fn(1, 1.0, before.epoch)
        assert why is not None and "gateway" in why
        after = CircuitBreaker(redis_client).get_status()
        assert (after.state.value, after.trip_reason) == ("TRIPPED", "WATCH_FAILED")
        assert after.incident_id == context.state.incident_id


async def test_a_state_that_is_lost_during_the_watch_is_written_as_a_trip(
    configure: Configure, redis_client: redis.Redis
) -> None:
    async with desk_after_reset(configure(quiet_period=0, recovery={"watch": 5}), redis_client) as context:
        redis_client.delete("circuit_breaker:state")
        why = await steps.watch.fn(1, 1.0, 1)
        assert why is not None and "can't be told" in why
        after = CircuitBreaker(redis_client).get_status()
        assert (after.state.value, after.trip_reason) == ("TRIPPED", "WATCH_FAILED")
        assert after.incident_id == context.state.incident_id


async def test_an_approval_after_somebody_has_reset_at_a_terminal_goes_on_to_the_watch(
    configure: Configure, redis_client: redis.Redis
) -> None:
    settings = configure(quiet_period=0, recovery={"people": {"cyd": ["RESET_CIRCUIT"]}})
    approval = {"approver": "cyd", "reason": "the cause was found and put right", "acknowledge": True}
    async with desk_after_reset(settings, redis_client):
        with temporary_settings(updates={PREFECT_API_URL: None}):
            done = await approve({**approval, "override_reason": ""})
        assert "refused" not in done, done["refused"]
        assert done["epoch"] == CircuitBreaker(redis_client).get_status().epoch


async def test_promise_9_a_reset_past_what_is_pending_needs_an_override_whose_reason_drops_it(
    configure: Configure, redis_client: redis.Redis
) -> None:
    settings = configure(quiet_period=0, recovery={"people": {"cyd": ["RESET_CIRCUIT", "APPROVE_RECOVERY"]}})
    approval = {"approver": "cyd", "reason": "the cause was found and put right", "acknowledge": True}
    why = "hedged elsewhere until the halt is over"
    now = datetime.now(UTC)
    async with desk_after_reset(settings, redis_client) as context:
        incident = context.state.incident_id
        redis_client.delete("circuit_breaker:reset_rate_limit")
        CircuitBreaker(redis_client).trip("MANUAL", tripped_by="ada", incident_id=incident)
        pending = PendingExit("ALPHA", "AAPL", Decimal(10), "trading is halted", incident, "global", now, now)
        with open_pending_exits(settings) as store:
            store.write(AccountExits("ALPHA", now, (pending,)))
            with temporary_settings(updates={PREFECT_API_URL: None}):
                refused = await approve({**approval, "override_reason": ""})
                assert "1 pending: ALPHA AAPL 10" in refused["refused"]
                assert store.read().exits == (pending,)
                done = await approve({**approval, "override_reason": why})
            assert "refused" not in done, done["refused"]
            assert store.read().exits == ()
        rows = context.recorder.ledger.query(Filter(actions=("PENDING_EXIT_DROPPED",), incident_id=incident)).rows
        assert [(row.user_id, row.details["reason"]) for row in rows] == [("cyd", why)]
        assert context.state.item("position-sizes").tick is Tick.OVERRIDDEN


async def test_an_item_whose_evidence_nobody_could_review_is_not_green(
    configure: Configure, redis_client: redis.Redis
) -> None:
    async with desk_after_reset(configure(), redis_client) as context:
        found = await steps.gather_evidence.fn(1)
        for key in ("trip-reason", "anomalies", "logs"):
            await steps.confirm.fn(key, "words", 1, "bob", found[key])
        ticks = {key: context.state.item(key).tick for key in ("trip-reason", "anomalies", "logs")}
        assert ticks == {"trip-reason": Tick.GREEN, "anomalies": Tick.YELLOW, "logs": Tick.YELLOW}
        assert "no evidence was gathered" in context.state.item("logs").evidence


async def test_the_watchs_end_is_written_down_though_the_quiet_period_ran_out_before(
    configure: Configure, redis_client: redis.Redis
) -> None:
    settings = configure(recovery={"watch": 0.3, "watch_interval": 0.05})
    async with desk_after_reset(settings, redis_client, quiet_period=0.05) as context:
        reset = CircuitBreaker(redis_client).get_status()
        assert reset.epoch is not None
        assert await steps.watch.fn(1, 1.0, reset.epoch) is None
        stored = json.loads(redis_client.get("circuit_breaker:state") or b"{}")
        assert (stored["state"], stored["epoch"]) == ("OPEN", reset.epoch + 1), "what redis-cli GET shows"
        assert context.state.item("verify-open").evidence == f"OPEN, epoch {reset.epoch + 1}"


async def watch_once(settings: Settings, client: redis.Redis, holder: str, watcher: Watcher | None = None) -> WatchEnd:
    """As a service does, or somebody at the command line; `client` is only there to say which Redis."""
    breaker, ledger = async_breaker_of(settings), open_ready_ledger(settings)
    recorder = Recorder(ledger, open_spool(settings))
    try:
        reset = await reset_to_watch(breaker)
        assert reset is not None

        async def record(made: AuditRecord) -> None:
            await asyncio.to_thread(recorder.record, made)

        return await watch_reset(settings, breaker, reset, holder, record, watcher or Watcher())
    finally:
        await breaker.close()
        ledger.close()


async def test_a_watch_counts_from_its_own_beginning_and_the_recovery_says_when_that_was(
    configure: Configure, redis_client: redis.Redis
) -> None:
    settings = configure(recovery={"watch": 0.6, "watch_interval": 0.05})
    async with desk_after_reset(settings, redis_client, quiet_period=0.05) as context:
        await asyncio.sleep(0.7)  # reset in the console; its recovery is answered later
        reset = CircuitBreaker(redis_client).get_status()
        begun = datetime.now(UTC)
        assert await steps.watch.fn(1, 1.0, reset.epoch or 0) is None
        assert (datetime.now(UTC) - begun).total_seconds() >= 0.6, "a tick is no watch"
        (row,) = context.recorder.ledger.query(Filter(actions=("RESET_WATCH_ENDED",))).rows
        assert row.details["tripped_again"] == "" and row.details["epoch"] == reset.epoch
        ticked = context.state.item("watch")
        assert ticked.tick is Tick.GREEN and f"watched from {row.details['began'][11:19]} to" in ticked.evidence
        assert datetime.fromisoformat(ticked.at) >= begun


async def test_one_watches_and_the_other_takes_its_word(configure: Configure, redis_client: redis.Redis) -> None:
    settings = configure(recovery={"watch": 0.6, "watch_interval": 0.05})
    async with desk_after_reset(settings, redis_client, quiet_period=60) as context:
        epoch = CircuitBreaker(redis_client).get_status().epoch or 0
        service = asyncio.create_task(watch_once(settings, redis_client, "services on a"))
        await asyncio.to_thread(eventually, lambda: redis_client.exists("circuit_breaker:reset_watch"))
        assert await steps.watch.fn(1, 1.0, epoch) is None
        assert "by services on a" in context.state.item("watch").evidence
        assert (await service).why == ""
        started = context.recorder.ledger.query(Filter(actions=("RESET_WATCH_STARTED",))).rows
        assert [row.user_id for row in started] == ["services on a"]
        reset = await reset_to_watch(context.breaker)
        assert reset is not None and not await needs_a_watcher(settings, reset), "it has been watched to its end"


async def test_what_an_override_went_past_does_not_trip_again_and_everything_else_does(
    configure: Configure, redis_client: redis.Redis
) -> None:
    settings = configure(recovery={"watch": 0.3, "watch_interval": 0.05})
    for red, again in ((["drawdown"], False), (["api-errors"], True)):
        redis_client.flushall()
        breaker = CircuitBreaker(redis_client)
        breaker.trip("MANUAL", tripped_by="ada")
        redis_client.hset("circuit_breaker:equity", mapping={"equity": "90", "high_water": "100", "measured_at": 9e15})
        breaker.reset("cyd", "the loss is booked and known", details={"red": red})
        end = await watch_once(settings, redis_client, "services on a")
        assert ("drawdown is 10" in end.why) is again
        assert breaker.get_state().value == ("TRIPPED" if again else "OPEN")


async def test_a_watch_with_a_hole_in_it_is_begun_anew(configure: Configure, redis_client: redis.Redis) -> None:
    settings = configure(recovery={"watch": 0.4, "watch_interval": 0.05})
    async with desk_after_reset(settings, redis_client, quiet_period=60):
        epoch, now = CircuitBreaker(redis_client).get_status().epoch, time.time() * 1000
        lost: dict[Any, Any] = {
            "epoch": epoch or 0,
            "holder": "gone",
            "began": int(now - 90_000),
            "seen": int(now - 40_000),
            "ended": "",
        }
        redis_client.hset("circuit_breaker:reset_watch", mapping=lost)
        begun = time.monotonic()
        end = await watch_once(settings, redis_client, "services on b")
        assert (end.why, end.holder) == ("", "services on b") and time.monotonic() - begun >= 0.4


async def test_a_quiet_period_shorter_than_its_watch_is_ended_by_it_on_the_way(
    configure: Configure, redis_client: redis.Redis
) -> None:
    settings = configure(recovery={"watch": 0.6, "watch_interval": 5})
    async with desk_after_reset(settings, redis_client, quiet_period=0.2, ends_watched=True) as context:
        epoch = CircuitBreaker(redis_client).get_status().epoch or 0
        watching = asyncio.create_task(watch_once(settings, redis_client, "services on a"))
        await asyncio.to_thread(eventually, lambda: CircuitBreaker(redis_client).get_state() == "OPEN")
        reset = await reset_to_watch(context.breaker)
        assert reset is not None and reset.epoch == epoch, "it is watched on"
        end = await watching
        assert end.why == "" and (end.ended - end.began).total_seconds() >= 0.6
        assert CircuitBreaker(redis_client).get_status().epoch == epoch + 1, "it ended once"


async def test_a_watch_that_was_taken_for_dead_ends_no_quiet_period_and_waits_for_who_took_over(
    configure: Configure, redis_client: redis.Redis
) -> None:
    settings = configure(recovery={"watch": 0.6, "watch_interval": 0.05})
    breaker = CircuitBreaker(redis_client)

    class Stalled(Watcher):
        """Its host stands still; another one watches when it goes on."""

        async def measured(self, measurements: Any) -> None:
            redis_client.hset("circuit_breaker:reset_watch", "holder", "services on b")

    async with desk_after_reset(settings, redis_client, quiet_period=60, ends_watched=True):
        stalled = asyncio.create_task(watch_once(settings, redis_client, "services on a", Stalled()))
        await asyncio.to_thread(
            eventually, lambda: redis_client.hget("circuit_breaker:reset_watch", "holder") == b"services on b"
        )
        began = int(redis_client.hget("circuit_breaker:reset_watch", "began") or 0)
        redis_client.hset("circuit_breaker:reset_watch", "seen", began + 60_000)
        await asyncio.to_thread(eventually, lambda: redis_client.time()[0] * 1000 > began + 1_600)
        assert not stalled.done() and breaker.get_state() == "QUIET_PERIOD"
        breaker.trip("MANUAL", tripped_by="bob")
        assert "tripped by bob" in (await stalled).why


async def test_a_watch_that_was_cut_off_trips_nothing_that_another_one_watches_by_now(
    configure: Configure, redis_client: redis.Redis
) -> None:
    service = {"gateway": {"url": f"http://127.0.0.1:{free_port()}/"}}  # red from here, as all is from a host cut off
    settings = configure(recovery={"watch": 60, "watch_interval": 0.05, "services": service})

    class CutOff(Watcher):
        async def measured(self, measurements: Any) -> None:
            redis_client.hset("circuit_breaker:reset_watch", "holder", "services on b")

        async def goes_on(self, left: float, holder: str, gate: str) -> None:
            now = round(time.time() * 1000)
            redis_client.hset("circuit_breaker:reset_watch", "ended", now)

    async with desk_after_reset(settings, redis_client, quiet_period=60, ends_watched=True):
        end = await watch_once(settings, redis_client, "services on a", CutOff())
        assert (end.why, end.holder) == ("", "services on b")
        assert CircuitBreaker(redis_client).get_state() == "QUIET_PERIOD"


async def test_the_reset_unlocks_at_the_venue_and_the_watch_does_where_that_failed(
    configure: Configure, redis_client: redis.Redis
) -> None:
    approval = {"approver": "cyd", "reason": "the cause was found and put right", "acknowledge": True}
    with PaperExchangeThread() as venue, httpx.Client(base_url=venue.url) as at_venue:
        at_venue.headers = {"APCA-API-KEY-ID": "key", "APCA-API-SECRET-KEY": "secret"}
        setting = "/v2/account/configurations"
        account = {"base_url": venue.url, "key_id": "key", "secret_key": "secret", "request_timeout": 0.5}
        settings = configure(
            quiet_period=60,
            accounts={"ALPHA": account},
            recovery={"people": {"cyd": ["RESET_CIRCUIT", "APPROVE_RECOVERY"]}, "watch": 30, "watch_interval": 0.1},
        )
        async with desk_after_reset(settings, redis_client) as context:
            incident = context.state.incident_id
            redis_client.delete("circuit_breaker:reset_rate_limit")
            CircuitBreaker(redis_client).trip("MANUAL", tripped_by="ada", incident_id=incident)
            lock = begun(None, "ALPHA", "global", incident, datetime.now(UTC))
            write_venue_lock(settings, in_phase(lock, Phase.SET, datetime.now(UTC)))
            at_venue.patch(setting, json={"suspend_trade": True})
            venue.control("trouble", {"kind": "503", "routes": [f"PATCH {setting}"]})
            with temporary_settings(updates={PREFECT_API_URL: None}):
                done = await approve({**approval, "override_reason": ""})
            assert "refused" not in done, done["refused"]
            assert "ALPHA is still locked at its venue" in context.state.item("reset").evidence
            assert at_venue.get(setting).json()["suspend_trade"] is True

            watching = asyncio.create_task(steps.watch.fn(1, 0.5, done["epoch"]))
            await asyncio.to_thread(eventually, lambda: "still locked" in context.state.problem)
            venue.control("trouble", method="DELETE")
            await asyncio.to_thread(eventually, lambda: not at_venue.get(setting).json()["suspend_trade"])
            await asyncio.to_thread(eventually, lambda: not context.state.problem)
            watching.cancel()
            assert read_venue_locks(settings).held == ()
            wanted = Filter(actions=("VENUE_LOCK_RELEASE",), incident_id=incident)
            found = context.recorder.ledger.query(wanted).rows
            assert {row.user_id: row.outcome for row in found} == {"cyd": FAILED, "recovery watch": OK}
