"""The kill switch's procedure: confirm the trip, close each account, verify, report. With or without Prefect.

It takes the way of running a step as an argument, and the way of closing the accounts: all of them here, or in shares.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from breaker.errors import BreakerError
from breaker.pending_trips import PendingTrip
from breaker.trip_reasons import TripReason
from brokers.protocol import BrokerError
from configuration.settings import Settings
from flows.drivers import RunStep
from tasks.kill import cost_reading, steps
from tasks.kill.account import LockResult
from tasks.kill.cost import ExitCost
from tasks.kill.exit_settlement import settle_exits
from tasks.kill.report import KillReport, cost_record
from tasks.kill.run import KillRun, make_report
from tasks.transition_notices import Told, longest, tell_transitions, tell_undelivered_trip

CONFIRMATION_WAIT = 2.0
"""Seconds after which flattening no longer waits for a trip that this run makes first; confirming goes on beside it."""
NOTIFY_WAIT = 3.0
"""Seconds beyond the notifications' own time limit that the orchestrator and the spool may add to it."""
COST_WAIT = 3.0
"""Seconds beyond the time limit of reading the cost that the orchestrator may add to it."""

CloseAccounts = Callable[[KillRun, RunStep], Awaitable[None]]


async def close_here(run: KillRun, do: RunStep) -> None:
    """Close every account of the run in this process."""
    await asyncio.gather(*(close_account(run, do, account) for account in run.brokers))


async def halt_and_flatten(run: KillRun, do: RunStep, close_accounts: CloseAccounts = close_here) -> KillReport:
    """The procedure. Accounts go in parallel, and none waits for another one's trouble."""
    confirmation = asyncio.create_task(_confirm_trip(run, do))
    if run.telling_of_start is None and not run.resumes and not run.start_told:
        run.telling_of_start = asyncio.create_task(_tell_of_start(run, confirmation))
    if not run.trip_requested:
        await asyncio.wait({confirmation}, timeout=CONFIRMATION_WAIT)
    await close_accounts(run, do)
    await confirmation
    report = await settle_exits(run, make_report(run))
    run.record("KILL_SWITCH_FINISHED", **_summary(report))
    return report


async def _tell_of_start(run: KillRun, confirmation: asyncio.Task[None]) -> None:
    """On a thread with a loop of its own: opening connections to tell people must not hold up a cancel."""
    settings = run.configuration
    if settings is None or not settings.notifications.any_channel:
        return
    await asyncio.wait({confirmation}, timeout=CONFIRMATION_WAIT)
    try:
        async with asyncio.timeout(longest(settings) + NOTIFY_WAIT):
            told = await asyncio.to_thread(lambda: asyncio.run(_tell_of_trip(settings, _trip_of(run))))
    except Exception as error:  # people not being told must not change what is done
        run.record_missing(f"notifications of the start ({type(error).__name__})")
        return
    for failure in (failure for each in told for failure in each.failures):
        run.record_missing(f"{failure.channel}, for the note of the start ({failure.problem})")


async def _tell_of_trip(settings: Settings, trip: PendingTrip) -> list[Told]:
    """What the breaker's history says of it; what was asked for, if Redis can't be read."""
    try:
        return await tell_transitions(settings, trip.scope)
    except BreakerError as error:
        told = await tell_undelivered_trip(settings, trip, str(error))
        return [] if told is None else [told]


def _trip_of(run: KillRun) -> PendingTrip:
    return PendingTrip(
        reason=TripReason.KILL_SWITCH,
        details={"operator": run.operator, "reason": run.reason},
        tripped_by=run.operator,
        scope=run.scope,
        source=run.source,
        event_id=run.trip_event_id or run.run_id,
        incident_id=run.incident_id,
    )


async def _confirm_trip(run: KillRun, do: RunStep) -> None:
    try:
        await do(steps.confirm_trip, incident_id=run.incident_id)
    except Exception as error:  # Redis being down must not keep the book from being closed
        run.record_missing(f"the trip could not be confirmed: {error}")


async def close_account(run: KillRun, do: RunStep, account: str) -> None:
    """Flatten it and, where that is configured, lock it at its venue. What goes wrong is in the run, not raised."""
    await _flatten_account(run, do, account)
    lock = run.locks.get(account)
    if lock is None or not lock.wanted:
        return
    try:
        await do(steps.lock_account, account=account)
    except Exception as error:  # flat is flat, locked or not
        said = (
            f"not known to be locked at the venue ({type(error).__name__}): look there at the account's configuration"
        )
        run.update(account, venue_lock=LockResult(False, said))
        run.record("VENUE_LOCK_FAILED", account=account, why=said)


async def _flatten_account(run: KillRun, do: RunStep, account: str) -> None:
    try:
        await run.swept(account)
        await _cancel_beside_snapshot(run, do, account)
        while await do(steps.flatten_positions, account=account):
            if await do(steps.verify_flat, account=account) or run.overdue:
                return
    except BrokerError as error:
        run.update(account, phase="failed", note=str(error))
        run.record("ACCOUNT_FAILED", account=account, error=str(error))
    except Exception as error:  # a mistake of ours in one account must not stop the others
        run.update(account, phase="failed", note=f"{type(error).__name__}: {error}")
        run.record("ACCOUNT_FAILED", account=account, error=f"{type(error).__name__}: {error}")


async def _cancel_beside_snapshot(run: KillRun, do: RunStep, account: str) -> None:
    """The snapshot is for the record, and a big book takes many answers; only no close comes before it has ended."""
    snapshot = asyncio.create_task(_take_snapshot(run, do, account))
    try:
        await do(steps.cancel_orders, account=account)
    except BaseException:
        snapshot.cancel()
        raise
    await snapshot


async def _take_snapshot(run: KillRun, do: RunStep, account: str) -> None:
    try:
        await do(steps.take_snapshot, account=account)
    except Exception as error:
        run.update(account, note=f"no snapshot: {error}")


async def read_costs(run: KillRun, do: RunStep, report: KillReport) -> KillReport:
    """The report with what the exit cost. Read once a run, by whoever comes first; the other waits until it is done."""
    async with run.pricing:
        if run.report is None or not run.report.costs:
            costs = await asyncio.gather(*(read_cost(run, do, account) for account in run.brokers))
            run.report = replace(run.report or report, costs=tuple(costs))
            for cost in costs:
                run.record("KILL_SWITCH_COST", **cost_record(cost))
        run.priced.set()
        return run.report


async def read_cost(run: KillRun, do: RunStep, account: str) -> ExitCost:
    """What the exit of one account cost: told by the share that closed it, or read here. Never raises."""
    ask = run.elsewhere.get(account)
    try:
        async with asyncio.timeout(cost_reading.COST_WITHIN + COST_WAIT):
            if ask is not None:
                return await ask(account)
            cost: ExitCost = await do(steps.read_cost, account=account)
            return cost
    except Exception:  # an orchestrator, or a worker, that was lost meanwhile; neither is needed for this
        return await cost_reading.read_cost(run.accounts[account], run.started_at)


def _summary(report: KillReport) -> dict[str, Any]:
    return {
        "flat": report.flat,
        "covers": report.covers,
        "halted_after": _milliseconds(report.halted_after),
        "no_orders_after": _milliseconds(report.no_orders_after),
        "flat_after": _milliseconds(report.flat_after),
        "stuck": {
            account.account: [item.symbol for item in account.stuck] for account in report.accounts if account.stuck
        },
        "without": list(report.missing),
    }


def _milliseconds(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
