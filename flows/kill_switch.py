"""Kill: confirm the trip, cancel, flatten, verify, report. One procedure, with or without Prefect.

Whatever happens to the orchestrator, the procedure goes on: the flow is a way of running it, not a condition for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from prefect import flow, get_run_logger, tags
from prefect.client.schemas.objects import State
from prefect.context import TagsContext
from prefect.runtime import flow_run as this_flow_run
from prefect.settings import get_current_settings
from prefect.states import Completed, Failed

from breaker.errors import BreakerError
from breaker.keys import GLOBAL
from breaker.pending_trips import PendingTrip
from breaker.trip_reasons import TripReason
from brokers.protocol import BrokerError
from configuration.settings import Settings
from flows.drivers import RunStep, with_prefect, without_prefect
from flows.kill_context import open_kill_run
from flows.run_names import environment_tag
from tasks.kill import cost_reading, steps
from tasks.kill.account import LockResult
from tasks.kill.artifacts import live_progress
from tasks.kill.cost import ExitCost
from tasks.kill.exit_settlement import settle_exits
from tasks.kill.report import KillReport, cost_record, seconds
from tasks.kill.run import KillRun, current_kill, make_report
from tasks.orchestrator import describe_failure
from tasks.transition_notices import Told, longest, tell_transitions, tell_undelivered_trip

CONFIRMATION_WAIT = 2.0
"""Seconds after which flattening no longer waits for a trip that this run makes first; confirming goes on beside it."""
NOTIFY_WAIT = 3.0
"""Seconds beyond the notifications' own time limit that the orchestrator and the spool may add to it."""
COST_WAIT = 3.0
"""Seconds beyond the time limit of reading the cost that the orchestrator may add to it."""
REFUSAL_WAIT = 0.25
"""Seconds to see whether anybody listens at the orchestrator's address; no answer in that time is not a refusal."""
FINAL_STATE_WAIT = 3.0
"""Seconds that the orchestrator may take to write down a result that is already known."""


async def halt_and_flatten(run: KillRun, do: RunStep) -> KillReport:
    """The procedure. Accounts go in parallel, and none waits for another one's trouble."""
    confirmation = asyncio.create_task(_confirm_trip(run, do))
    if run.telling_of_start is None and not run.resumes and not run.start_told:
        run.telling_of_start = asyncio.create_task(_tell_of_start(run, confirmation))
    if not run.trip_requested:
        await asyncio.wait({confirmation}, timeout=CONFIRMATION_WAIT)
    await asyncio.gather(*(_close_account(run, do, account) for account in run.brokers))
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


async def _close_account(run: KillRun, do: RunStep, account: str) -> None:
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


@flow(
    name="kill-switch",
    flow_run_name="kill-switch-{incident_id}",
    description="Trip the breaker, cancel every open order, flatten every position, and prove it.",
    persist_result=False,
    validate_parameters=True,
)
async def kill_switch(
    reason: str,
    operator: str = "prefect",
    incident_id: str = "new",
    accounts: list[str] | None = None,
    scope: str = GLOBAL,
) -> State[Any]:
    """Halt and flatten what the scope covers.

    Args:
        reason: why, for the record.
        operator: who asked for it.
        incident_id: the incident it belongs to; a new one unless the breaker is already tripped.
        accounts: names from the configuration; all that the scope covers unless named.
        scope: which breaker is tripped, and what is cancelled and closed: `global` everything, `account:NAME`,
            `symbol:NAME` in every account, `strategy:NAME` the orders with its tag.
    """
    run = current_kill.get(None)
    if run is not None:
        return await _flow_body(run)
    async with open_kill_run(
        reason=reason, operator=operator, incident_id=incident_id, accounts=accounts, scope=scope
    ) as own:
        return await _flow_body(own)


async def _flow_body(run: KillRun) -> State[Any]:
    token = current_kill.set(run)
    if run.trail is not None:
        run.trail.flow_run_id = this_flow_run.id
    try:
        with TagsContext(current_tags=set()):  # the run's tags stay the run's; see the steps
            if run.without_orchestrator:
                await run.reported.wait()
                await _record_late(run)
            else:
                run.begun.set()
                await _run_orchestrated(run)
        report = run.report
    finally:
        run.finished.set()
        current_kill.reset(token)
    if report is None:
        return Failed(message="The procedure ended without a report.")
    if report.flat:
        return Completed(message=f"FLAT {seconds(report.flat_after)} after the start: {report.covers}")
    return Failed(message=f"NOT FLAT: {_what_is_left(report)}")


async def _run_orchestrated(run: KillRun) -> None:
    logger = get_run_logger()
    run.observers = (*run.observers, lambda action, details: logger.info("%s %s", action, _one_line(details)))
    async with live_progress(run):
        run.report = await halt_and_flatten(run, with_prefect)
    telling = asyncio.create_task(_notify_people(run, with_prefect, run.report))
    run.reported.set()
    await _publish(run, await read_costs(run, with_prefect, run.report))
    await telling


async def _record_late(run: KillRun) -> None:
    """The orchestrator answered after the procedure had begun without it: show there what was done."""
    report = None if run.report is None else await read_costs(run, without_prefect, run.report)
    for step in run.unorchestrated_steps:
        recorded = steps.record_unorchestrated_step.with_options(name=step.name, task_run_name=step.run_name)
        with suppress(RuntimeError):  # how a recorded failure shows as one; it was reported when it happened
            await recorded(step)
    if report is not None:
        await _publish(run, report)


async def _publish(run: KillRun, report: KillReport) -> None:
    try:
        await steps.publish_report(incident_id=run.incident_id, report=report)
    except Exception as error:
        run.record_missing(f"Prefect's report artifact ({type(error).__name__})")


async def read_costs(run: KillRun, do: RunStep, report: KillReport) -> KillReport:
    """The report with what the exit cost. Read once a run, by whoever comes first; the other waits until it is done."""
    async with run.pricing:
        if run.report is None or not run.report.costs:
            costs = await asyncio.gather(*(_read_cost(run, do, account) for account in run.brokers))
            run.report = replace(run.report or report, costs=tuple(costs))
            for cost in costs:
                run.record("KILL_SWITCH_COST", **cost_record(cost))
        run.priced.set()
        return run.report


async def _read_cost(run: KillRun, do: RunStep, account: str) -> ExitCost:
    try:
        async with asyncio.timeout(cost_reading.COST_WITHIN + COST_WAIT):
            cost: ExitCost = await do(steps.read_cost, account=account)
            return cost
    except Exception:  # an orchestrator that was lost meanwhile; it is not needed for this
        return await cost_reading.read_cost(run.accounts[account], run.started_at)


async def _notify_people(run: KillRun, do: RunStep, report: KillReport) -> None:
    """Once a run, by whoever comes first; the other waits until it is done.

    A book that is not flat needs somebody at once; of one that is, people are told with what it cost.
    """
    settings = run.configuration
    if settings is None or not settings.notifications.any_channel:
        return
    async with run.notifying:
        if run.notified:
            return
        run.notified = True
        if report.flat:
            await _wait_until_priced(run)
            report = run.report or report
        if run.telling_of_start is not None:  # the end is not told before the start
            await asyncio.wait({run.telling_of_start}, timeout=settings.notifications.timeout)
        try:
            async with asyncio.timeout(settings.notifications.timeout + NOTIFY_WAIT):
                await do(steps.notify_people, incident_id=run.incident_id, report=report)
        except Exception as error:  # people not being told must not change what was done
            run.record_missing(f"notifications ({type(error).__name__})")


async def _wait_until_priced(run: KillRun) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(cost_reading.COST_WITHIN):
            await run.priced.wait()


async def run_kill_switch(
    run: KillRun,
    announce: Callable[[KillReport], None],
    announce_costs: Callable[[KillReport], None] = lambda _: None,
) -> KillReport:
    """Run the flow here, in this process; without the orchestrator when it doesn't answer in time or fails on the way.

    Safe to fall back at any moment, because the procedure is safe to run again. `announce` is called with the result
    as soon as there is one, `announce_costs` when it is known what that cost; what follows is only the orchestrator's
    record of it.
    """
    token = current_kill.set(run)
    flow_run: asyncio.Task[None] | None = None
    try:
        configured = get_current_settings().api.url
        refused = configured is not None and await _refuses_connections(configured)
        # Where none is configured, Prefect starts a temporary server, and blocks this loop for seconds meanwhile.
        flow_run = asyncio.create_task(_start_flow(run)) if configured and not refused else None
        if flow_run is not None:
            await _wait_for_first(flow_run, run.begun, run.settings.orchestrator_wait)
            if run.begun.is_set():
                await _wait_for_first(flow_run, run.reported, None)
        if run.report is None:
            run.without_orchestrator = True
            if refused:
                run.record_missing(f"Prefect at {configured}, which refuses connections")
            elif configured and flow_run is not None:
                run.record_missing(_why_without_prefect(flow_run, configured, run.settings.orchestrator_wait))
            run.report = await halt_and_flatten(run, without_prefect)
            run.reported.set()
        announce(run.report)
        telling = asyncio.create_task(_notify_people(run, without_prefect, run.report))
        announce_costs(await read_costs(run, without_prefect, run.report))
        await telling
        if configured and refused and await _refuses_connections(configured):
            run.record_missing("Prefect did not record the run, as it still refuses connections")
        else:
            await _wait_for_record(run, flow_run or asyncio.create_task(_start_flow(run)))
        return run.report
    finally:
        if flow_run is not None:  # one whose kill is interrupted would go on with brokers that are being closed
            flow_run.cancel()
        current_kill.reset(token)


async def _wait_for_record(run: KillRun, flow_run: asyncio.Task[None]) -> None:
    wait = run.settings.record_wait if run.without_orchestrator else FINAL_STATE_WAIT
    await asyncio.wait({flow_run}, timeout=wait)
    if not flow_run.done():
        run.record_missing(f"Prefect did not record the run within {wait:g} s")
        flow_run.cancel()
    elif (error := flow_run.exception()) is not None:
        run.record_missing(f"Prefect did not record the run: {describe_failure(error)}")


async def _refuses_connections(api: str) -> bool:
    """Whether nobody listens there. Prefect's client would find out too, but only after seconds of trying again."""
    url = urlsplit(api)
    if getproxies():  # what is at the other end can't be seen from here
        return False
    try:
        async with asyncio.timeout(REFUSAL_WAIT):
            _, writer = await asyncio.open_connection(url.hostname, url.port or (443 if url.scheme == "https" else 80))
    except TimeoutError:
        return False
    except OSError:
        return True
    writer.close()
    return False


async def _start_flow(run: KillRun) -> None:
    environment = [] if run.configuration is None else [environment_tag(run.configuration)]
    with tags("kill-switch", *environment):
        await kill_switch(
            reason=run.reason,
            operator=run.operator,
            incident_id=run.incident_id,
            accounts=list(run.brokers),
            scope=run.scope,
            return_state=True,
        )


async def _wait_for_first(flow_run: asyncio.Task[None], event: asyncio.Event, timeout: float | None) -> None:
    """Wait until the flow run ended, the event happened, or `timeout` seconds passed."""
    waiting = asyncio.create_task(event.wait())
    await asyncio.wait({flow_run, waiting}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()


def _why_without_prefect(flow_run: asyncio.Task[None], api: str, wait: float) -> str:
    if not flow_run.done():
        return f"Prefect at {api}, which did not answer within {wait:g} s"
    error = flow_run.exception()
    return f"Prefect at {api}: {describe_failure(error) if error else 'no result'}"


def _what_is_left(report: KillReport) -> str:
    parts = []
    for account in report.accounts:
        if account.flat:
            continue
        stuck = ", ".join(f"{item.symbol} ({item.reason})" for item in account.stuck)
        parts.append(f"{account.account}: {stuck or account.note or account.phase}")
    return "; ".join([*parts, *([report.unknown] if report.unknown else [])]) or "no account is configured"


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


LONGEST_LOGGED = 400
"""Characters of one detail in a log line. A whole book is longer: it is read in the audit log, where all of it is."""


def _one_line(details: Mapping[str, Any]) -> str:
    return " ".join(f"{key}={_brief(value)}" for key, value in details.items() if value not in ("", None))


def _brief(value: object) -> str:
    text = str(value)
    return text if isinstance(value, str) or len(text) <= LONGEST_LOGGED else "(see the audit log)"
