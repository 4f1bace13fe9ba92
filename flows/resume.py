"""Resume what a kill switch could not close: the same procedure, in the exits' own incident, once they are due.

One procedure for all who do it: the scheduled flow run, the standby, and `breaker kill --resume`. It trades only while
the breaker of the exits is halted; one that has been reset meanwhile is never tripped by it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from prefect import flow, get_run_logger
from prefect.client.schemas.objects import State as FlowState
from prefect.states import Completed, Failed

from breaker import State, Status
from breaker.errors import InvalidInput
from breaker.keys import of_scope
from brokers.coverage import coverage_of
from configuration.breakers import async_breaker_of
from configuration.redis_clients import async_redis_client
from configuration.settings import Settings, load_settings
from flows.kill_context import open_kill_run
from flows.kill_start import ended_if_interrupted
from flows.kill_switch import run_kill_switch
from flows.run_names import run_name
from ledger.configured import open_ready_ledger
from ledger.errors import LedgerError
from ledger.models import TRANSITION_ACTIONS
from ledger.record import AuditRow
from tasks.kill.exit_records import record_exits
from tasks.kill.pending_exit_store import LIMIT, open_pending_exits, read_pending_exits, rewrite
from tasks.kill.pending_exits import PendingExit, Resumption, due_accounts, held_back, resumptions
from tasks.kill.report import KillReport, seconds
from tasks.notification import Notification, NotificationKind
from tasks.notify import notify
from tasks.single_run import single_run

if TYPE_CHECKING:
    from brokers.protocol import Broker

EARLY = timedelta(seconds=1)
"""How much before its time an exit counts as due, since the clock of whoever scheduled this may be ahead of ours."""
LOCK = "circuit_breaker:resuming:"
"""Before an account's name: held by whoever resumes it."""
LEASE = 30.0
"""Seconds after which the lock of a process that has died is free."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Resumed:
    """What became of one resumption: the report of its run, or why nothing was sent."""

    resumption: Resumption
    report: KillReport | None = None
    held: str = ""


@flow(
    name="resume",
    flow_run_name=run_name("resume"),
    description="Close what a kill switch could not close, in its own incident, until it is flat.",
    persist_result=False,
)
async def resume(accounts: list[str] | None = None) -> FlowState[Any]:
    """Resume every pending exit that is due, of these accounts or of all. Failed while anything is left."""
    resumed = await resume_exits(load_settings(), operator="resume", source="flow", accounts=accounts)
    for one in resumed:
        get_run_logger().info("%s: %s", ", ".join(str(pending) for pending in one.resumption.exits), outcome(one))
    if not resumed:
        return Completed(name="Skipped", message="Nothing is due, or somebody else is resuming it.")
    said = "; ".join(outcome(one) for one in resumed)
    flat = all(one.report is not None and one.report.flat for one in resumed)
    return Completed(message=said) if flat else Failed(message=said)


async def resume_exits(
    settings: Settings,
    *,
    operator: str,
    source: str,
    accounts: Collection[str] | None = None,
    due_for: timedelta | None = -EARLY,
    opened: Mapping[str, Broker] | None = None,
    announce: Callable[[KillReport], None] = lambda _: None,
    announce_costs: Callable[[KillReport], None] = lambda _: None,
) -> list[Resumed]:
    """Resume what is pending in accounts that nobody else is resuming just now.

    Args:
        accounts: only these; every configured one otherwise.
        due_for: only what has been due for so long; None takes all that is pending.
        opened: brokers to use, and to leave open.
        announce: called with the report of each run as soon as there is one.
        announce_costs: called with it again when it says what the exit cost.

    Raises:
        ConfigurationError: an account's adapter is not installed.
    """
    wanted = partial(_wanted, settings, accounts, due_for)
    names = wanted(await _pending(settings))
    if not names:
        return []
    async with resuming(settings, names) as mine:
        # Whoever had an account before may have closed everything in it.
        exits = await _pending(settings)
        still = [pending for pending in exits if pending.account in wanted(exits) & {*mine}]
        resume_one = partial(_resume, settings, operator, source, opened, (announce, announce_costs))
        return list(await asyncio.gather(*(resume_one(each) for each in resumptions(still))))


def outcome(resumed: Resumed) -> str:
    """In a sentence."""
    accounts = ", ".join(resumed.resumption.accounts)
    report = resumed.report
    if report is None:
        return f"{accounts}: {resumed.held}"
    if report.flat:
        return f"{accounts}: FLAT {seconds(report.flat_after)} after the start"
    return f"{accounts}: NOT FLAT: {'; '.join(str(pending) for pending in report.pending_exits)}"


async def _pending(settings: Settings) -> Sequence[PendingExit]:
    return (await asyncio.to_thread(read_pending_exits, settings)).exits


def _wanted(
    settings: Settings, accounts: Collection[str] | None, due_for: timedelta | None, exits: Sequence[PendingExit]
) -> frozenset[str]:
    now = datetime.now(UTC)
    pending = frozenset(each.account for each in exits) if due_for is None else due_accounts(exits, now - due_for)
    return frozenset(name for name in pending & {*settings.accounts} if accounts is None or name in accounts)


async def _resume(
    settings: Settings,
    operator: str,
    source: str,
    opened: Mapping[str, Broker] | None,
    tell: tuple[Callable[[KillReport], None], Callable[[KillReport], None]],
    resumption: Resumption,
) -> Resumed:
    try:
        coverage_of(resumption.scope, settings.accounts, resumption.accounts)
    except InvalidInput as error:
        why = f"not resumed: {error}"
        await _hold(settings, resumption, why, operator, source)
        return Resumed(resumption, held=why)
    breaker = async_breaker_of(settings, resumption.scope, source=source)
    try:
        status = await breaker.get_status()
    finally:
        await breaker.close()
    state = status.state
    if why := await _why_not_traded(settings, resumption.scope, status):
        await _hold(settings, resumption, why, operator, source)
        return Resumed(resumption, held=why)
    named = [str(pending) for pending in resumption.exits]
    async with open_kill_run(
        reason=f"resuming what could not be closed: {', '.join(pending.what for pending in resumption.exits[:10])}",
        operator=operator,
        incident_id=resumption.incident_id,
        accounts=resumption.accounts,
        scope=resumption.scope,
        source=source,
        settings=settings,
        opened=opened,
    ) as run:
        run.resumes = resumption.exits
        if state is State.TRIPPED:
            run.halted_after = run.elapsed
        run.record("KILL_SWITCH_RESUMED", accounts=list(resumption.accounts), exits=named)
        with ended_if_interrupted(run):
            return Resumed(resumption, await run_kill_switch(run, *tell))


async def _why_not_traded(settings: Settings, scope: str, status: Status) -> str:
    """Why what is pending in `scope` is no longer to be closed without being asked, and what to do; empty where it is.

    A Redis that was restored brings back exits, and the trip that they belong to, from before a reset: what is held in
    their symbols now was opened since. The audit log knows of the reset, by an epoch beyond that of the trip.
    """
    if status.state in (State.OPEN, State.QUIET_PERIOD):
        return (
            f"not resumed, as the breaker of {scope} is {status.state.value}: trip it again, or close by hand and then "
            f"`breaker reset --reason WHY --drop-pending WHY{of_scope(scope)}`"
        )
    if status.epoch is None:
        return ""
    try:
        reset = await asyncio.to_thread(_last_reset, settings, scope)
    except LedgerError as error:
        _log.warning("whether %s was reset since can't be told: %s", scope, error)
        return ""
    if reset is None or int(reset.details.get("epoch") or 0) <= status.epoch:
        return ""
    return (
        f"not resumed, as Redis is from before the reset of {scope} at {reset.timestamp:%Y-%m-%d %H:%M:%S} UTC, and "
        f"what is held now was opened since: `breaker kill{of_scope(scope)}` closes it, after a question; a reset with "
        "--override gives up what is pending"
    )


def _last_reset(settings: Settings, scope: str) -> AuditRow | None:
    with closing(open_ready_ledger(settings)) as ledger:
        return ledger.newest(scope, (TRANSITION_ACTIONS["RESET"],))


async def _hold(settings: Settings, resumption: Resumption, why: str, operator: str, source: str) -> None:
    """Keep the exits for later. People are told, and it is on record, when this happens to an exit first."""
    news = [pending for pending in resumption.exits if not pending.held]
    now = datetime.now(UTC)
    ours = {(pending.account, pending.symbol) for pending in resumption.exits}

    def hold() -> None:
        with open_pending_exits(settings) as store:
            rewrite(
                store,
                resumption.accounts,
                lambda each: held_back(each, why, now) if (each.account, each.symbol) in ours else each,
            )
        try:
            record_exits(settings, "PENDING_EXIT_HELD", news, by=operator, source=source, why=why)
        except LedgerError as error:
            _log.error("not recorded: %s", error)

    await asyncio.to_thread(hold)
    if news:
        note = Notification(
            kind=NotificationKind.STUCK,
            incident_id=resumption.incident_id,
            title=f"{len(news)} pending exits of {resumption.scope} were not resumed",
            body="\n".join([*(f"{pending.what}: {pending.reason}" for pending in news), f"They are {why}."]),
            severity="critical",
            link=settings.recovery.console_url,
        )
        await notify(settings, note)


@asynccontextmanager
async def resuming(settings: Settings, accounts: Collection[str]) -> AsyncIterator[tuple[str, ...]]:
    """Those of the accounts that nobody else resumes while the block goes on.

    Processes of this host are told apart by a lock that dies with them; those of other hosts by one in Redis, as long
    as it answers. Two at once would be harmless, but each would ask the venue for everything.
    """
    from redis.asyncio.retry import Retry  # noqa: PLC0415
    from redis.backoff import NoBackoff  # noqa: PLC0415

    async with AsyncExitStack() as held:
        redis = async_redis_client(settings, timeout=LIMIT, retry=Retry(NoBackoff(), 0))
        held.push_async_callback(redis.aclose)
        mine = []
        for account in sorted(accounts):
            if not held.enter_context(single_run(settings, f"resume-{quote(account, safe='')}")):
                continue
            if await held.enter_async_context(_leased(redis, account)):
                mine.append(account)
        yield tuple(mine)


@asynccontextmanager
async def _leased(redis: Any, account: str) -> AsyncIterator[bool]:
    """Whether nobody else has the account's lock in Redis; where that can't be told, nobody has."""
    from redis.asyncio.lock import Lock  # noqa: PLC0415
    from redis.exceptions import RedisError  # noqa: PLC0415

    lock = Lock(redis, f"{LOCK}{account}", timeout=LEASE, blocking=False, thread_local=False)
    try:
        acquired = await lock.acquire()
    except (RedisError, OSError):
        yield True
        return
    if not acquired:
        yield False
        return
    renewing = asyncio.create_task(_keep(lock))
    try:
        yield True
    finally:
        renewing.cancel()
        with suppress(RedisError, OSError):
            await lock.release()


async def _keep(lock: Any) -> None:
    from redis.exceptions import RedisError  # noqa: PLC0415

    while True:
        await asyncio.sleep(LEASE / 3)
        with suppress(RedisError, OSError):
            await lock.reacquire()
