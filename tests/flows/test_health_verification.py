"""The scheduled verification, on a real Prefect server, Redis and ledger: what it finds, and how often it tells."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun, State
from prefect.logging import disable_run_logger
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Running, Scheduled, Suspended
from sqlalchemy import text

from breaker import CircuitBreaker
from breaker.pending_trips import PendingTrip, PendingTrips
from breaker.uuid7 import uuid7
from configuration.settings import load_settings
from flows.drivers import run_directly
from flows.health_verification import change_notification, health_verification
from ledger.configured import open_ready_ledger
from ledger.record import AuditRecord
from proofs.fork_server import Forked, ForkServer
from sandbox.child_process import free_port
from sandbox.embedded_redis import EmbeddedRedis
from sandbox.exchange.server import PaperExchangeThread
from sandbox.prefect_server import PrefectServer
from tasks import orchestrator
from tasks.checks.measurement import Colour, Measurement
from tasks.kill.pending_exit_store import open_pending_exits
from tasks.kill.pending_exits import AccountExits, PendingExit
from tasks.kill.venue_lock import Phase, begun, in_phase
from tasks.kill.venue_lock_store import write_venue_lock
from tasks.recovery.conflicts import find_conflicts
from tasks.recovery.state import RecoveryState, state_key
from tasks.verification import steps
from tasks.verification.last_result import KEY, Change, LastVerification, change_since
from tasks.verification.steps import ARTIFACT
from tests.helpers import eventually
from tests.tasks.web import Answer, Web

Configure = Callable[..., None]
CHECKPOINT = "The audit log was verified from its first row"
FEEDS = '[recovery]\nfeeds = ["quotes"]\n'


@pytest.fixture
def web() -> Iterator[Web]:
    with Web(lambda _: Answer(202)) as server:
        yield server


@pytest.fixture
def configure(
    redis_server: EmbeddedRedis, redis_client: redis.Redis, web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Configure:
    """Writes the configuration anew. At first it is the session's Redis, emptied and initialised, and `web` is told."""
    for name in [name for name in os.environ if name.startswith("BREAKER_")]:
        monkeypatch.delenv(name)
    path = tmp_path / "breaker.toml"
    monkeypatch.setenv("BREAKER_CONFIG", str(path))
    # Not what is tested here: a busy machine is slow, which is no finding.
    monkeypatch.setenv("BREAKER_RECOVERY__REDIS_LATENCY", "5")
    monkeypatch.setenv("BREAKER_RECOVERY__DATABASE_LATENCY", "5")

    def write(
        more: str = "",
        *,
        redis_url: str = redis_server.url,
        redis_timeout: float = 5,
        database_url: str | None = None,
    ) -> None:
        database = "" if database_url is None else f'database_url = "{database_url}"\n'
        path.write_text(
            f'redis_url = "{redis_url}"\nredis_timeout = {redis_timeout}\nstate_dir = "{tmp_path / "state"}"\n'
            f"{database}{more}\n"
            f'[notifications]\nslack = "{web.url}/hook"\ntimeout = 2\n'
        )

    with closing(CircuitBreaker(redis_client)) as breaker:
        breaker.initialize_state(by="test")
    write()
    return write


async def verify(prefect: PrefectServer) -> State[Any]:
    with temporary_settings(updates={PREFECT_API_URL: prefect.api_url}):
        state: State[Any] = await health_verification(return_state=True)
    return state


Verify = Callable[[], Awaitable[State[Any]]]


@dataclass(frozen=True)
class Direct:
    """A check that no orchestrator runs."""

    check: steps.Check

    @property
    def name(self) -> str:
        return self.check.name

    async def __call__(self) -> Any:
        return await run_directly(self.check)


@pytest.fixture
def verify_directly(prefect: PrefectServer, monkeypatch: pytest.MonkeyPatch) -> Verify:
    """What is found, and told, is the same whoever runs the checks; an orchestrator takes most of the time."""
    for name in ("SEQUENTIAL", "CONCURRENT"):
        monkeypatch.setattr(steps, name, tuple(Direct(check) for check in getattr(steps, name)))

    async def verify() -> State[Any]:
        with temporary_settings(updates={PREFECT_API_URL: prefect.api_url}), disable_run_logger():
            return await health_verification.fn()

    return verify


def told(web: Web) -> list[str]:
    """What people were told, but for the daily checkpoint."""
    return [words for asked in web.asked if CHECKPOINT not in (words := asked.json["text"])]


def asked(prefect: PrefectServer, what: str, query: Mapping[str, Any]) -> list[dict[str, Any]]:
    answer = httpx.post(f"{prefect.api_url}/{what}/filter", json=query, timeout=10)
    answer.raise_for_status()
    found: list[dict[str, Any]] = answer.json()
    return found


# --- green


async def test_a_green_run_is_quick_and_keeps_one_artifact(
    prefect: PrefectServer, configure: Configure, web: Web
) -> None:
    took: list[float] = []
    # On a busy machine one takes longer; with a wait in it, each does.
    while len(took) < 2 or (min(took) >= 3 and len(took) < 10):
        begun = time.monotonic()
        state = await verify(prefect)
        took.append(time.monotonic() - begun)
        assert state.is_completed() and str(state.message).startswith("GREEN")
    assert min(took) < 3
    artifacts = asked(prefect, "artifacts", {"artifacts": {"key": {"any_": [ARTIFACT]}}})
    assert len(artifacts) == 1
    assert "| green | state | OPEN |" in artifacts[0]["data"]
    assert told(web) == []


async def test_each_check_is_a_task_with_a_name_that_reads(prefect: PrefectServer, configure: Configure) -> None:
    state = await verify(prefect)
    of_run = {"flow_runs": {"id": {"any_": [str(state.state_details.flow_run_id)]}}}
    expected = {
        "No trip waits on this host",
        "State is readable, epoch is sane",
        "Outbox and spool drain",
        "Ledger and Redis agree",
        "Chain is unbroken",
        "Feeds are fresh",
        "Rules hear what they judge",
        "Accounts and feeds are monitored",
        "Conditions are within limits",
        "Pending exits are resumed",
        "Safety nets are armed",
        "Accounts are locked at their venues until the reset",
        "Services, queues and latencies",
        "Resets were decided",
        "Recoveries are not forgotten",
        "Every process runs by what is configured",
    }

    def told() -> set[str]:
        return {task["name"] for task in asked(prefect, "task_runs", of_run)}

    # The server learns of tasks by events, a moment later.
    await asyncio.to_thread(eventually, lambda: told() == expected, told, every=0.1)


# --- red


async def test_a_venues_timer_that_is_configured_and_not_to_be_had_is_red(
    verify_directly: Verify, configure: Configure, web: Web
) -> None:
    keys = 'key_id = "key"\nsecret_key = "secret"\n'
    configure(f'[accounts.ALPHA]\nbase_url = "{web.url}"\nsafety_net = 60\n{keys}')
    state = await verify_directly()
    assert state.is_failed()
    assert "safety-net/ALPHA: Alpaca has no timer of its own" in str(state.message)


async def test_a_trip_that_waits_on_this_host_is_made_before_the_state_is_judged(
    verify_directly: Verify, configure: Configure, redis_client: redis.Redis
) -> None:
    pending = PendingTrips(load_settings().pending_trips_dir)
    pending.save(PendingTrip(reason="KILL_SWITCH", tripped_by="ada", source="cli"))
    state = await verify_directly()
    assert state.is_completed() and "pending_trips" in str(state.message)
    assert not pending.load()
    with closing(CircuitBreaker(redis_client)) as breaker:
        assert breaker.get_status()["tripped_by"] == "ada"


async def test_a_hand_edited_state_is_found_told_and_then_known(
    verify_directly: Verify, configure: Configure, redis_client: redis.Redis, web: Web
) -> None:
    assert (await verify_directly()).is_completed()
    redis_client.set("circuit_breaker:state", '{"state": "OPEN"}')
    state = await verify_directly()
    assert state.is_failed()
    assert "reconciliation: Somebody wrote OPEN to circuit_breaker:state" in str(state.message)
    assert (await verify_directly()).is_completed(), "it is on record now, and told once"
    assert [text.split(" ", 1)[1] for text in told(web)] == [
        "Health verification failed: reconciliation",
        "Health verification is green again",
    ]


async def test_a_trip_that_was_written_over_is_restored(
    verify_directly: Verify, configure: Configure, redis_client: redis.Redis
) -> None:
    with closing(CircuitBreaker(redis_client)) as breaker:
        breaker.trip("MANUAL", tripped_by="ada")
        assert (await verify_directly()).is_completed()
        redis_client.set("circuit_breaker:state", '{"state": "OPEN"}')
        assert "It was tripped again" in str((await verify_directly()).message)
        assert breaker.is_tripped()


async def test_an_older_copy_of_the_data_is_found(
    verify_directly: Verify, configure: Configure, redis_client: redis.Redis
) -> None:
    before = redis_client.get("circuit_breaker:state")
    assert isinstance(before, bytes)
    with closing(CircuitBreaker(redis_client)) as breaker:
        breaker.trip("MANUAL", tripped_by="ada")
    assert (await verify_directly()).is_completed()
    redis_client.set("circuit_breaker:state", before)
    assert "epoch: Redis serves an older copy" in str((await verify_directly()).message)


async def test_a_missing_state_is_red_until_somebody_initialises_it(
    verify_directly: Verify, configure: Configure, redis_client: redis.Redis
) -> None:
    redis_client.flushall()
    for _ in range(2):
        assert "state: circuit_breaker:state is missing" in str((await verify_directly()).message)


async def test_a_feed_that_is_too_old_trips(
    verify_directly: Verify, configure: Configure, redis_client: redis.Redis
) -> None:
    configure(FEEDS)
    old = (datetime.now(UTC) - timedelta(hours=1)).isoformat()
    redis_client.set("circuit_breaker:heartbeat:quotes", old)
    assert "feeds: Feed quotes is too old; the breaker was tripped" in str((await verify_directly()).message)
    with closing(CircuitBreaker(redis_client)) as breaker:
        assert breaker.get_status().trip_reason == "DATA_STALENESS"
    redis_client.set("circuit_breaker:heartbeat:quotes", datetime.now(UTC).isoformat())
    assert (await verify_directly()).is_completed()


async def test_what_is_pending_is_yellow_and_red_once_nobody_is_at_it(
    verify_directly: Verify, configure: Configure, web: Web
) -> None:
    now = datetime.now(UTC)
    pending = PendingExit("ALPHA", "AAPL", Decimal(10), "market closed", uuid7(), "global", now, now)
    with open_pending_exits(load_settings()) as store:
        store.write(AccountExits("ALPHA", now, (replace(pending, resume_at=now + timedelta(hours=1)),)))
        state = await verify_directly()
        assert state.is_completed() and "pending-exits" in str(state.message), "yellow, whatever a reset would say"
        late = replace(pending, resume_at=now - timedelta(minutes=6))
        store.write(AccountExits("ALPHA", now + timedelta(seconds=1), (late,)))
    state = await verify_directly()
    assert state.is_failed() and "pending-exits: Due for 6 min: ALPHA AAPL 10" in str(state.message)
    assert any("pending-exits" in text for text in told(web))


async def test_an_account_that_somebody_has_unlocked_at_its_venue_is_red_and_people_are_told(
    verify_directly: Verify, configure: Configure, redis_client: redis.Redis, web: Web
) -> None:
    with PaperExchangeThread() as venue:
        configure(f'[accounts.ALPHA]\nbase_url = "{venue.url}"\nkey_id = "key"\nsecret_key = "secret"\n')
        incident = str(CircuitBreaker(redis_client).trip("KILL_SWITCH", tripped_by="ada").incident_id)
        lock = begun(None, "ALPHA", "global", incident, datetime.now(UTC))
        write_venue_lock(load_settings(), in_phase(lock, Phase.SET, datetime.now(UTC)))
        state = await verify_directly()
    assert state.is_failed() and "venue-locks: ALPHA was locked at its venue by the kill switch" in str(state.message)
    assert incident in str(state.message)
    assert any("venue-locks" in text for text in told(web))


async def test_what_can_be_checked_is_checked_when_the_ledger_is_down(
    verify_directly: Verify, configure: Configure, redis_client: redis.Redis, web: Web
) -> None:
    configure(FEEDS, database_url=f"postgresql://x:hunter2222@127.0.0.1:{free_port()}/x")
    redis_client.set("circuit_breaker:heartbeat:quotes", datetime.now(UTC).isoformat())
    state = await verify_directly()
    causes = str(state.message).removeprefix("RED: ").split("; ")
    red = {name for cause in causes if ":" in cause for name in cause.split(":")[0].split(", ")}
    assert {"drain", "ledger", "Ledger and Redis agree", "Chain is unbroken"} <= red
    assert "feeds" not in red and "redis" not in red
    assert "hunter2222" not in str(state.message) + str(told(web))


async def test_people_are_told_once_also_when_redis_is_what_fails(
    verify_directly: Verify, configure: Configure, web: Web
) -> None:
    configure(redis_url=f"redis://127.0.0.1:{free_port()}", redis_timeout=0.5)
    for _ in range(2):
        assert (await verify_directly()).is_failed()
    assert len(told(web)) == 1
    configure()
    assert (await verify_directly()).is_completed()
    assert len(told(web)) == 2 and "green again" in told(web)[1]


async def test_each_new_trouble_is_told_once(
    verify_directly: Verify, configure: Configure, redis_client: redis.Redis, web: Web
) -> None:
    queue = '[recovery.queues.{0}]\nkey = "{0}"\nlimit = 1\n'
    configure(queue.format("orders") + queue.format("fills"))
    for depths in ({"orders": 2}, {"orders": 2}, {"orders": 2, "fills": 2}, {"fills": 2}, {"fills": 2}, {}):
        redis_client.delete("orders", "fills")
        for name, depth in depths.items():
            redis_client.rpush(name, *range(depth))
        await verify_directly()
    failed = "Health verification failed: queues/"
    assert [text.split(" ", 1)[1] for text in told(web)] == [
        f"{failed}orders",
        f"{failed}fills, queues/orders",
        "Health verification is green again",
    ]


async def test_a_broken_chain_is_found_by_the_daily_walk_and_stays_red(
    verify_directly: Verify, configure: Configure, redis_client: redis.Redis, tmp_path: Path
) -> None:
    with closing(open_ready_ledger(load_settings())) as ledger:
        ledger.append([AuditRecord(action="DONE", source="cli", details={"number": number}) for number in range(5)])
        assert (await verify_directly()).is_completed()
        with ledger.engine.connect() as connection, connection.begin():
            connection.execute(text("DROP TRIGGER audit_log_no_update"))
            connection.execute(text("UPDATE audit_log SET user_id = 'nobody' WHERE seq = 3"))
    assert (await verify_directly()).is_completed(), "between walks only what is new is verified"
    raw = redis_client.get(KEY)
    assert isinstance(raw, bytes)
    last = LastVerification.from_json(raw)
    yesterday = LastVerification(last.checked_at, (), datetime.now(UTC) - timedelta(days=1), last.compared_to)
    (tmp_path / "state" / "verification.json").unlink()
    redis_client.set(KEY, yesterday.to_json())
    for _ in range(2):
        assert "chain: The audit log was tampered with: row 3" in str((await verify_directly()).message)


async def test_once_a_day_the_audit_logs_checkpoint_leaves_the_host(
    verify_directly: Verify, configure: Configure, web: Web
) -> None:
    with closing(open_ready_ledger(load_settings())) as ledger:
        ledger.append([AuditRecord(action="DONE", source="cli")])
        for _ in range(2):
            await verify_directly()
        head = ledger.head()
    (checkpoint,) = [asked.json for asked in web.asked if CHECKPOINT in asked.json["text"]]
    assert f"audit checkpoint {head[0]}:{head[1]}" in str(checkpoint)


def test_one_outage_is_told_once_with_all_that_it_made_red() -> None:
    def red(name: str, value: str, problem: str) -> Measurement:
        return Measurement(name, Colour.RED, value, "", "", datetime.now(UTC), problem)

    away = "Redis at r:6379 gave no answer within 0.5 s when asked to {} (2 attempts: refused). Try again."
    found = [red(name, "not measured", away.format(f"read {name}")) for name in ("state", "outbox", "feeds")]
    note = change_notification([], [*found, red("chain", "row 3", "It was tampered with.")], None)
    assert note is not None
    first, second = note.body.splitlines()
    assert first.startswith("state, outbox, feeds: Redis at r:6379 gave no answer") and first.count("Redis at") == 1
    assert second == "chain: row 3. It was tampered with."


# --- recoveries


async def test_who_is_waited_for_is_reminded_but_not_every_minute(
    prefect: PrefectServer, configure: Configure, redis_client: redis.Redis, web: Web
) -> None:
    configure("[recovery]\nremind_after = 600\n")

    @flow(name="recovery")
    async def recovery() -> None: ...

    with temporary_settings(updates={PREFECT_API_URL: prefect.api_url}):
        async with get_client() as client:
            run = await client.create_flow_run(recovery, state=Suspended())
    since = datetime.now(UTC) - timedelta(minutes=11)
    state = RecoveryState(
        uuid7(), "global", str(run.id), waiting_for="approval", waiting_since=since.isoformat(), phase="waiting"
    )
    redis_client.set(state_key("global"), state.to_json())
    assert (await verify(prefect)).is_completed()
    assert told(web) == [], "trading is OPEN: nobody is held up"
    with closing(CircuitBreaker(redis_client)) as breaker:
        breaker.trip("MANUAL", tripped_by="test", incident_id=state.incident_id)
    web.asked.clear()
    for _ in range(2):
        await verify(prefect)
    (text,) = [words for words in told(web) if "waits" in words]
    assert "Recovery waits for a person: approval" in text
    assert "Trading stays halted until somebody does" in str(web.asked[0].json["blocks"])
    assert state.incident_id in str(web.asked[0].json["blocks"])
    assert f"/runs/flow-run/{state.flow_run_id}" in str(web.asked[0].json["blocks"])


async def test_a_recovery_that_a_later_incident_overtook_waits_no_longer(
    prefect: PrefectServer, configure: Configure, redis_client: redis.Redis
) -> None:
    @flow(name="recovery")
    async def recovery(incident_id: str, scope: str = "global") -> None: ...

    with (
        closing(CircuitBreaker(redis_client)) as breaker,
        temporary_settings(updates={PREFECT_API_URL: prefect.api_url}),
    ):
        older = str(breaker.trip("MANUAL", tripped_by="test").incident_id)
        async with get_client() as client:

            async def recovery_of(incident: str) -> FlowRun:
                return await client.create_flow_run(recovery, parameters={"incident_id": incident}, state=Suspended())

            async def states() -> list[str]:
                await health_verification(return_state=True)
                found = [(await client.read_flow_run(run.id)).state for run in runs]
                return [state.type.value for state in found if state]

            runs = [await recovery_of(older), await recovery_of(uuid7())]
            assert await states() == ["PAUSED", "PAUSED"], "an older copy of Redis's data is no later incident"
            epoch = breaker.reset(reset_by="test", reason="the cause was found and mended").epoch
            breaker.end_quiet_period(expected_epoch=int(epoch or 0), by="test")
            incident = str(breaker.trip("MANUAL", tripped_by="test", incident_id=uuid7()).incident_id)
            runs.append(await recovery_of(incident))
            assert await states() == ["CANCELLED", "CANCELLED", "PAUSED"]
            ended = (await client.read_flow_run(runs[0].id)).state
    assert f"incident {incident} came after it" in str(ended and ended.message)


async def test_a_recovery_whose_process_died_is_scheduled_again(
    prefect: PrefectServer, configure: Configure, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orchestrator, "SILENT_FOR", timedelta(0))  # as the run's state is as young as the test

    @flow(name="recovery")
    async def recovery() -> None: ...

    with temporary_settings(updates={PREFECT_API_URL: prefect.api_url}):
        async with get_client() as client:
            run = await client.create_flow_run(recovery, state=Running())
            for age, expected in ((5, "RUNNING"), (61, "SCHEDULED")):
                heartbeat = (datetime.now(UTC) - timedelta(seconds=age)).isoformat()
                state = RecoveryState(uuid7(), "global", str(run.id), phase="watching", heartbeat_at=heartbeat)
                redis_client.set(state_key("global"), state.to_json())
                assert (await health_verification(return_state=True)).is_completed()
                found = (await client.read_flow_run(run.id)).state
                assert found is not None and found.type.value == expected


async def test_a_kill_switch_that_prefect_says_runs_is_a_conflict(prefect: PrefectServer, configure: Configure) -> None:
    @flow(name="kill-switch")
    async def kill_switch() -> None: ...

    with temporary_settings(updates={PREFECT_API_URL: prefect.api_url}):
        async with get_client() as client:
            run = await client.create_flow_run(kill_switch, name="kill-switch-by-hand", state=Running())
            found = await find_conflicts(load_settings(), incident_id=uuid7(), flow_run_id=None)
            assert found.colour is Colour.RED
            assert "the kill switch is running (kill-switch-by-hand in Prefect)" in found.problem

            # One whose process was killed says so for ever, but no kill switch takes longer than its limits allow.
            configure("[kill]\ndeadline = 0.1\nstuck_after = 0.1\nguard = 0\nrecord_wait = 0.1\n")
            deadline = time.monotonic() + 20
            while "kill-switch-by-hand" in found.problem:
                assert time.monotonic() < deadline
                found = await find_conflicts(load_settings(), incident_id=uuid7(), flow_run_id=None)
            await client.delete_flow_run(run.id)


# --- on a schedule


async def test_one_at_a_time_but_never_held_up_by_one_that_was_killed(
    prefect: PrefectServer, configure: Configure
) -> None:
    hold = (
        "import sys, time\nfrom configuration.settings import load_settings\nfrom tasks.single_run import single_run\n"
        "with single_run(load_settings(), 'health-verification') as acquired:\n"
        "    print(acquired, flush=True)\n    time.sleep(600)"
    )
    command = [sys.executable, "-c", hold]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as other:
        assert other.stdout is not None and other.stdout.readline() == "True\n"
        assert (await verify(prefect)).name == "Skipped"
        other.kill()
    state = await verify(prefect)
    assert state.is_completed() and str(state.message).startswith("GREEN")


async def test_a_state_directory_that_takes_no_lock_keeps_nothing_from_being_verified(
    verify_directly: Verify, configure: Configure, tmp_path: Path
) -> None:
    configure(database_url=f"sqlite:///{tmp_path / 'audit.db'}")
    (tmp_path / "state").write_text("a file where the directory should be")
    state = await verify_directly()
    assert state.name != "Skipped"


@pytest.fixture
def served(
    prefect: PrefectServer, configure: Configure, tmp_path: Path, fork_server: ForkServer
) -> Iterator[Callable[[], None]]:
    """Starts serving the verification every few seconds."""
    processes: list[Forked] = []

    def start() -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        environment |= {**prefect.environment, "PREFECT_HOME": str(tmp_path), "PREFECT_RUNNER_POLL_FREQUENCY": "1"}
        with (tmp_path / "serve.log").open("wb") as log:
            served = "tests.flows.verification_process"
            root = Path(__file__).parents[2]
            processes.append(
                fork_server.start(served, "8", env=environment, cwd=root, stdout=log, stderr=log, children=True)
            )

    yield start
    for process in processes:
        process.terminate()
        process.wait(20)


@pytest.mark.timeout(300)
def test_a_schedule_catches_a_hand_edited_state_a_stopped_drain_and_a_stale_feed(
    prefect: PrefectServer,
    configure: Configure,
    served: Callable[[], None],
    redis_client: redis.Redis,
    web: Web,
    tmp_path: Path,
) -> None:
    configure(FEEDS)
    for scope in ("account:ALPHA", "strategy:slow"):
        with closing(CircuitBreaker(redis_client, scope)) as breaker:
            breaker.initialize_state(by="test")
    redis_client.set("circuit_breaker:heartbeat:quotes", datetime.now(UTC).isoformat())
    begun = datetime.now(UTC)
    served()

    def served_runs() -> list[dict[str, Any]]:
        since = {"flow_runs": {"expected_start_time": {"after_": (begun - timedelta(hours=1)).isoformat()}}}
        return [run for run in asked(prefect, "flow_runs", since) if run["deployment_id"]]

    def seen() -> object:
        runs = [(run["state_name"], run["state"]["message"]) for run in served_runs()]
        return runs, (tmp_path / "serve.log").read_text()[-2000:]

    def run_with(words: str) -> dict[str, Any]:
        """The first run since the beginning whose state says so."""

        def found() -> list[dict[str, Any]]:
            return [run for run in served_runs() if words in f"{run['state_name']} {run['state']['message']}"]

        return eventually(found, seen, within=120, every=0.5)[0]

    green = run_with("Completed GREEN")
    redis_client.set("circuit_breaker:state:account:ALPHA", '{"state": "OPEN", "by": "hand"}')
    redis_client.set("circuit_breaker:outbox:strategy:slow", "no stream, so nothing drains")
    redis_client.set("circuit_breaker:heartbeat:quotes", (datetime.now(UTC) - timedelta(hours=1)).isoformat())
    with (
        temporary_settings(updates={PREFECT_API_URL: prefect.api_url}),
        get_client(sync_client=True) as client,
    ):
        for due in (timedelta(minutes=-10), timedelta()):
            scheduled: State[None] = Scheduled(scheduled_time=datetime.now(UTC) + due)
            client.create_flow_run_from_deployment(UUID(green["deployment_id"]), state=scheduled)
    run = run_with("reconciliation/account:ALPHA: Somebody wrote OPEN to circuit_breaker:state:account:ALPHA")
    assert run["state_type"] == "FAILED"
    assert "drain: circuit_breaker:outbox:strategy:slow is not a stream" in run["state"]["message"]
    assert "feeds: Feed quotes is too old; the breaker was tripped" in run["state"]["message"]
    assert run_with("Skipped")["state"]["message"].startswith("Missed at ")


# --- what is news


@given(before=st.sets(st.sampled_from("abc")), failing=st.sets(st.sampled_from("abc")))
def test_people_hear_of_new_trouble_and_of_the_end_of_all_of_it(before: set[str], failing: set[str]) -> None:
    said = change_since(sorted(before), sorted(failing))
    assert (said is Change.FAILED) == bool(failing - before)
    assert (said is Change.RECOVERED) == (bool(before) and not failing)
