"""Rehearse the whole circle, from the trip to OPEN again, on a book of its own at a venue of its own.

Nothing in it knows of production but where its figures are filed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.artifacts import acreate_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run as this_flow_run
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Completed, Failed

from breaker import AsyncCircuitBreaker
from breaker import State as Circuit
from breaker.gate import Gate, OrderIntent
from breaker.trip_reasons import TripReason
from brokers.sweep import first_sweep
from configuration.breakers import async_breaker_of
from configuration.settings import Settings, load_settings
from flows.drivers import run_directly, without_prefect
from flows.kill_context import open_kill_run, record_sweep
from flows.kill_procedure import halt_and_flatten, read_costs
from flows.recovery import FormT, open_recovery, walk_checklist
from flows.run_names import run_name
from tasks.drill.environment import APPROVER, AUTHOR, DrillEnvironment, open_drill_environment
from tasks.drill.record import record_result
from tasks.drill.result import DrillResult, problems_of_kill
from tasks.kill.cost_text import in_a_line
from tasks.kill.report import KillReport
from tasks.kill.run import current_kill
from tasks.notify import DeliveryFailure
from tasks.recovery.context import RecoveryContext, current_recovery
from tasks.recovery.forms import ApprovalForm, RootCauseForm
from tasks.single_run import STILL_RUNNING, single_run

REASON = "drill: planned, on a paper account of its own"
GATE_PATIENCE = 5.0
"""Seconds that the gate may take to open, and to close."""
RECOVERY_LIMIT = 300.0
"""Seconds beyond the watch that everything else of a recovery may take."""
ARTIFACT_LIMIT = 5.0
_NEW_RISK = OrderIntent("DRILL", "buy", 1)


@flow(
    name="drill",
    flow_run_name=run_name("drill"),
    description="Trip, cancel, flatten, verify and recover, on a paper account of its own; the figures are filed.",
    persist_result=False,
)
async def drill() -> State[Any]:
    """The whole circle once. Failed when anything of it did, with what as the message."""
    settings = load_settings()
    with single_run(settings, "drill") as acquired:
        if not acquired:
            return Completed(name="Skipped", message=STILL_RUNNING)
        result = await rehearse_as_task(settings)
        undelivered = await record_as_task(settings, result)
    await _publish(result)
    for failure in undelivered:
        get_run_logger().warning("%s: %s", failure.channel, failure.problem)
    return Completed(message="PASSED") if result.passed else Failed(message=f"FAILED: {'; '.join(result.problems)}")


async def run_drill(settings: Settings, *, by: str, source: str) -> tuple[DrillResult, list[DeliveryFailure]]:
    """The same without the orchestrator, and who could not be told. Raises what `record_result` raises."""
    result = await rehearse(settings)
    return result, await record_result(settings, result, by=by, source=source)


@task(name="Rehearse", cache_policy=NO_CACHE, persist_result=False)
async def rehearse_as_task(settings: Settings) -> DrillResult:
    return await rehearse(settings)


@task(name="File the figures", cache_policy=NO_CACHE, persist_result=False)
async def record_as_task(settings: Settings, result: DrillResult) -> list[DeliveryFailure]:
    return await record_result(settings, result, by="drill", source="flow", flow_run_id=str(this_flow_run.id))


async def rehearse(settings: Settings) -> DrillResult:
    """Kill and recover in an environment of its own. Whatever goes wrong is in the result; nothing is raised."""
    result = DrillResult(settings.drill.orders, settings.drill.positions)
    try:
        # Whoever measures there asks the configured orchestrator too, and a drill has none.
        with temporary_settings(updates={PREFECT_API_URL: None}), open_drill_environment(settings) as environment:
            result = await _kill(environment, result)
            return await _recover(environment, result)
    except Exception as error:  # a drill that breaks off has failed, and that is to be filed like any other
        return replace(result, problems=(*result.problems, f"broken off by {type(error).__name__}: {error}"))


async def _kill(environment: DrillEnvironment, result: DrillResult) -> DrillResult:
    """Trip, sweep, cancel, flatten, verify; and what the venue says of it."""
    breaker = async_breaker_of(environment.settings)
    try:
        started, halted_after, incident_id = await _halt(environment, breaker)
    finally:
        await breaker.close()
    report = await _flatten(environment, started, halted_after, incident_id)
    venue = await asyncio.to_thread(environment.exchange.report)
    return replace(
        result,
        halted_after=halted_after,
        first_cancel_after=report.first_sweep_after,
        no_orders_after=report.no_orders_after,
        flat_after=report.flat_after,
        cost="; ".join(filter(None, map(in_a_line, report.costs))),
        violations=len(venue["violations"]),
        problems=tuple(problems_of_kill(report, venue)),
    )


async def _halt(environment: DrillEnvironment, breaker: AsyncCircuitBreaker) -> tuple[float, float, str]:
    """When it began, how long until a gate refused new risk, and the incident."""
    gate = Gate(environment.settings.redis_address.get_secret_value())
    try:
        await _until(lambda: bool(gate.check(_NEW_RISK, 0)), "the gate did not open before the trip")
        started = time.monotonic()
        status = await breaker.trip(
            TripReason.KILL_SWITCH, details={"operator": "drill", "reason": REASON}, tripped_by="drill"
        )
        await _until(lambda: not gate.check(_NEW_RISK, 0), "the gate did not close after the trip")
        return started, time.monotonic() - started, str(status.incident_id)
    finally:
        await asyncio.to_thread(gate.close)


async def _flatten(environment: DrillEnvironment, started: float, halted_after: float, incident_id: str) -> KillReport:
    async with open_kill_run(
        reason=REASON, operator="drill", incident_id=incident_id, settings=environment.settings
    ) as run:
        run.clock.started, run.halted_after = started, halted_after
        token = current_kill.set(run)
        try:
            swept = await first_sweep(
                run.brokers.values(), run.settings.first_sweep_timeout, run.settings.cancel, coverage=run.coverage
            )
            run.first_sweep_after = run.elapsed
            record_sweep(run, swept, run.first_sweep_after)
            return await read_costs(run, without_prefect, await halt_and_flatten(run, without_prefect))
        finally:
            current_kill.reset(token)


async def _recover(environment: DrillEnvironment, result: DrillResult) -> DrillResult:
    """The checklist, its forms answered by the drill itself, until the breaker is OPEN."""
    begun = time.monotonic()
    breaker = async_breaker_of(environment.settings)
    try:
        incident_id = str((await breaker.get_status()).incident_id)
        async with (
            asyncio.timeout(environment.settings.recovery.watch + RECOVERY_LIMIT),
            open_recovery(environment.settings, incident_id, "global", flow_run_id=result.drill_id) as context,
        ):
            token = current_recovery.set(context)
            try:
                recovered = await walk_checklist(context, 1, run_directly, _answer)
            finally:
                current_recovery.reset(token)
            state = (await breaker.get_status()).state
            if recovered and state is Circuit.OPEN:
                return replace(result, recovery_after=time.monotonic() - begun)
            why = context.state.problem or f"the breaker is {state.value}"
    except TimeoutError:
        why = f"it took longer than {environment.settings.recovery.watch + RECOVERY_LIMIT:g} s"
    finally:
        await breaker.close()
    return replace(result, problems=(*result.problems, f"not recovered: {why}"))


async def _answer(
    context: RecoveryContext, form: type[FormT], waiting_for: str, question: str, description: str
) -> FormT:
    """What people would say. Asked a second time, the first answer was refused, and so would be the second."""
    if context.state.problem:
        raise RuntimeError(f"the answer to {waiting_for} was refused: {context.state.problem}")
    answers: dict[type[Any], dict[str, Any]] = {
        RootCauseForm: {"author": AUTHOR, "root_cause": REASON, "corrective_action": "none is needed, it was a drill"},
        ApprovalForm: {"approver": APPROVER, "reason": "the drill's book is flat", "acknowledge": True},
    }
    return form(**answers[form])


async def _until(holds: Callable[[], bool], otherwise: str) -> None:
    deadline = time.monotonic() + GATE_PATIENCE
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{otherwise} within {GATE_PATIENCE:g} s")
        await asyncio.sleep(0.001)


async def _publish(result: DrillResult) -> None:
    """Only ever an addition: the figures are filed."""
    try:
        async with asyncio.timeout(ARTIFACT_LIMIT):
            await acreate_markdown_artifact(
                key="drill-report", markdown=result.as_markdown(), description="The kill switch drill's figures"
            )
    except Exception as error:
        get_run_logger().warning("the artifact could not be written: %s", error)
