"""Run the steps of the kill switch as Prefect tasks.

A task carries its own policy (retries, waits, time limit), so the same object runs with and without the orchestrator.
No step is ever cached: a second kill switch must act, not remember. None has a tag: before a tagged task runs, Prefect
asks its API for a concurrency slot, and a kill must not wait for that. The run carries the tags.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import Task

from breaker.errors import BreakerUnavailable, NotTripped
from breaker.orders import ZERO
from breaker.trip_reasons import TripReason
from brokers.instrument_store import InstrumentStore
from brokers.protocol import BrokerUnavailable
from brokers.sweep import order_row, position_row
from tasks.kill import cost_reading, snapshot, verify
from tasks.kill.account_lock import LOCK_WITHIN
from tasks.kill.artifacts import publish_report as publish
from tasks.kill.close_claims import CloseClaims
from tasks.kill.cost import ExitCost
from tasks.kill.flatten import Flattening
from tasks.kill.notifications import kill_notifications
from tasks.kill.pending_exits import is_news
from tasks.kill.report import KillReport
from tasks.kill.run import KillRun, UnorchestratedStep, current_kill
from tasks.notification import console_page
from tasks.notify import notify

_P = ParamSpec("_P")
_R = TypeVar("_R")


async def _is_transient(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    """Whether trying again can help: an unreachable venue or Redis, not a refusal and not a mistake of ours."""
    error = await state.aresult(raise_on_failure=False)
    return is_transient(error)


def is_transient(error: object) -> bool:
    return isinstance(error, (BrokerUnavailable, BreakerUnavailable, TimeoutError, ConnectionError))


def _step(name: str, run_name: str, *, timeout: float, retries: int = 3) -> Callable[[Callable[_P, _R]], Task[_P, _R]]:
    return task(
        name=name,
        task_run_name=run_name,
        retries=retries,
        retry_delay_seconds=[0.25, 1.0, 3.0][:retries],
        retry_jitter_factor=0.3,
        retry_condition_fn=_is_transient,
        timeout_seconds=timeout,
        cache_policy=NO_CACHE,
        persist_result=False,
    )


@_step("Confirm the trip", "confirm-trip-{incident_id}", timeout=15)
async def confirm_trip(incident_id: str) -> str:
    """Read the breaker back; trip it if it is not tripped. Returns the state's word.

    A run that resumes pending exits does not trip: somebody may have reset the breaker, and nobody has asked again.
    """
    run = current_kill.get()
    status = await run.breaker.get_status()
    if status.state.value != "TRIPPED" and run.resumes:
        raise NotTripped(f"the breaker of {run.scope} is {status.state.value}")
    if status.state.value != "TRIPPED":
        status = await run.breaker.trip(
            TripReason.KILL_SWITCH,
            details={"operator": run.operator, "reason": run.reason},
            tripped_by=run.operator,
            event_id=run.trip_event_id,
            incident_id=incident_id,
        )
    if run.halted_after is None:
        run.halted_after = run.elapsed
    run.record("TRIP_CONFIRMED", state=status.state.value, incident_id=incident_id)
    return status.state.value


@_step("Take a snapshot of the book", "snapshot-{account}", timeout=10, retries=0)
async def take_snapshot(account: str) -> dict[str, Any]:
    """What is there before flattening. Orders that the first sweep has already cancelled are no longer in it.

    Tried once, beside the cancels: a venue that can't be read now must not keep anything waiting.
    """
    run = current_kill.get()
    taken = await run.accounts[account].in_time(snapshot.take_snapshot(run.brokers[account], run.coverage))
    _flattening(run, account).note_market(taken.market)
    run.accounts[account].note_book(taken.book)
    run.accounts[account].currency = taken.currency or run.accounts[account].currency
    progress = run.progress[account]
    run.update(
        account,
        orders_at_start=max(taken.orders, progress.orders_at_start or 0),
        positions_at_start=max(taken.positions, progress.positions_at_start or 0),
        positions_open=taken.positions,
        notional_at_start=max(taken.notional, progress.notional_at_start or ZERO),
    )
    summary = {
        "orders": taken.orders,
        "positions": taken.positions,
        "long": f"{taken.long_notional:f}",
        "short": f"{taken.short_notional:f}",
        "equity": None if taken.equity is None else f"{taken.equity:f}",
        "currency": taken.currency,
    }
    book = {
        "orders": [order_row(order) for order in taken.book.orders],
        "positions": [position_row(position) for position in taken.book.positions],
    }
    run.record("SNAPSHOT_TAKEN", account=account, **summary, book=book)
    return summary


@_step("Cancel open orders", "cancel-orders-{account}", timeout=86_400)
async def cancel_orders(account: str) -> int:
    """Cancel until the venue lists none, or those left resist. Returns how many are left."""
    run = current_kill.get()
    run.update(account, phase="cancelling")
    if run.naming_closes is not None:
        await asyncio.wait({run.naming_closes})
    await _flattening(run, account).until_no_orders()
    return run.progress[account].orders_open or 0


@_step("Flatten positions", "flatten-positions-{account}", timeout=86_400)
async def flatten_positions(account: str) -> bool:
    """Close until the venue lists no position and no order. False when what is left is stuck or time is up."""
    run = current_kill.get()
    run.update(account, phase="flattening")
    return await _flattening(run, account).until_flat()


@_step("Verify that the book is flat", "verify-flat-{account}", timeout=86_400)
async def verify_flat(account: str) -> bool:
    """Two agreeing readings of the venue, then a watch for late fills."""
    run = current_kill.get()
    run.update(account, phase="verifying")
    verified = await verify.verify_flat(run.accounts[account])
    without_positions = "flat" if run.coverage.positions_known else "orders gone, positions not known"
    run.update(account, phase=without_positions if verified else "not flat after all")
    return verified


@_step("Read what the exit cost", "read-cost-{account}", timeout=cost_reading.COST_WITHIN + 1, retries=0)
async def read_cost(account: str) -> ExitCost:
    """The fills and what they cost, once the result is known; nothing depends on it."""
    run = current_kill.get()
    return await cost_reading.read_cost(run.accounts[account], run.started_at)


@_step("Lock the account at its venue", "lock-{account}", timeout=LOCK_WITHIN, retries=0)
async def lock_account(account: str) -> bool:
    """Have the venue refuse new orders until the reset, if the account is flat. False where that is not so."""
    run = current_kill.get()
    result = await run.locks[account].settle()
    run.update(account, venue_lock=result)
    return result.engaged


@_step("Publish the report", "report-{incident_id}", timeout=15, retries=0)
async def publish_report(incident_id: str, report: KillReport) -> None:
    """Artifacts for the orchestrator's UI; nothing depends on them."""
    await publish(report)


@_step("Tell people", "notify-{incident_id}", timeout=86_400, retries=0)
async def notify_people(incident_id: str, report: KillReport) -> None:
    """Each channel has its own retries and deadline; one that fails is named among what the run did without."""
    run = current_kill.get()
    if run.configuration is None or (run.resumes and not is_news(run.resumes, report.pending_exits)):
        return
    notifications = kill_notifications(
        report, console_page(run.configuration.recovery.console_url, f"kill/{report.incident_id}")
    )
    undelivered = await asyncio.gather(*(notify(run.configuration, each) for each in notifications))
    for notification, failures in zip(notifications, undelivered, strict=True):
        for failure in failures:
            run.record_missing(f"{failure.channel}, for the note '{notification.kind.label}' ({failure.problem})")


@task(name="Record a step that ran directly", cache_policy=NO_CACHE, persist_result=False)
async def record_unorchestrated_step(step: UnorchestratedStep) -> None:
    """So that the orchestrator's UI shows what happened while it could not be reached."""
    get_run_logger().info("ran without Prefect from %s to %s", step.begun_at.isoformat(), step.ended_at.isoformat())
    if step.error:
        raise RuntimeError(step.error)


def _flattening(run: KillRun, account: str) -> Flattening:
    if account not in run.flattenings:
        lock = run.locks.get(account)
        settings = run.configuration
        store = None if settings is None else InstrumentStore(settings.instruments_dir, account)
        if run.claims is None and settings is not None:
            run.claims = CloseClaims(settings, run.run_id)
        claim = None if run.claims is None else run.claims.of(account)
        run.flattenings[account] = Flattening(run.accounts[account], lock.lift if lock else None, store, claim)
    return run.flattenings[account]
