"""Run the kill switch's procedure as a flow of Prefect's, or without Prefect.

Whatever happens to the orchestrator, the procedure goes on: the flow is a way of running it, not a condition for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from prefect import flow, get_run_logger, tags
from prefect.client.schemas.objects import State
from prefect.context import TagsContext
from prefect.runtime import flow_run as this_flow_run
from prefect.settings import get_current_settings
from prefect.states import Completed, Failed

from breaker.keys import GLOBAL
from flows.drivers import RunStep, with_prefect, without_prefect
from flows.kill_context import open_kill_run
from flows.kill_coordination import close_in_shares
from flows.kill_procedure import NOTIFY_WAIT, halt_and_flatten, read_costs
from flows.run_names import environment_tag
from tasks.kill import cost_reading, steps
from tasks.kill.artifacts import live_progress
from tasks.kill.report import KillReport, seconds
from tasks.kill.run import KillRun, current_kill
from tasks.orchestrator import describe_failure

REFUSAL_WAIT = 0.25
"""Seconds to see whether anybody listens at the orchestrator's address; no answer in that time is not a refusal."""
FINAL_STATE_WAIT = 3.0
"""Seconds that the orchestrator may take to write down a result that is already known."""


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
        run.report = await halt_and_flatten(run, with_prefect, close_in_shares)
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
            run.elsewhere.clear()  # what workers had is closed here too, and told of by what is done here
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


LONGEST_LOGGED = 400
"""Characters of one detail in a log line. A whole book is longer: it is read in the audit log, where all of it is."""


def _one_line(details: Mapping[str, Any]) -> str:
    return " ".join(f"{key}={_brief(value)}" for key, value in details.items() if value not in ("", None))


def _brief(value: object) -> str:
    text = str(value)
    return text if isinstance(value, str) or len(text) <= LONGEST_LOGGED else "(see the audit log)"
