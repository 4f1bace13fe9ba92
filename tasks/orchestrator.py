"""Ask the configured Prefect API about flow runs. Only where `is_configured`: none is started for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

from breaker.errors import BreakerError

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient
    from prefect.client.schemas.objects import FlowRun, State, StateType

DEADLINE = 4.0
"""Seconds that one question may take, retries of Prefect's client included."""
FAILED_FOR = timedelta(seconds=15)
SILENT_FOR = timedelta(seconds=60)
"""Before which a run that was taken for starting, or has begun, may not have had the time for a sign of life."""


class NotStarted(BreakerError):
    """No run was started; nothing changed."""


def is_configured() -> bool:
    return api_url() is not None


def api_url() -> str | None:
    """The configured API's, None where there is none."""
    from prefect.settings import get_current_settings  # noqa: PLC0415  Prefect is slow to import

    return get_current_settings().api.url or None


def describe_failure(error: BaseException) -> str:
    """Why Prefect's API could not be asked, in a few words on one line."""
    answered = getattr(getattr(error, "response", None), "status_code", None)
    if answered in (401, 403):
        return f"it refuses the credentials ({answered}); see PREFECT_API_AUTH_STRING and PREFECT_API_KEY"
    if answered is not None:
        return f"it answered {answered}"
    if isinstance(error, TimeoutError) or "Timeout" in type(error).__name__:
        return "it did not answer in time"
    if type(error).__name__ == "ConnectError" or is_unreachable(error):
        return "it can't be reached"
    return type(error).__name__


def is_refusal(error: BaseException) -> bool:
    """Whether Prefect's API has answered that it won't do it: asking again changes nothing."""
    answered = getattr(getattr(getattr(error, "http_exc", error), "response", None), "status_code", None)
    return isinstance(answered, int) and 400 <= answered < 500 and answered not in (408, 425, 429)


def is_unreachable(error: BaseException) -> bool:
    """Whether Prefect's client raised it for an API that does not answer: a bare RuntimeError, known by its text."""
    return isinstance(error, RuntimeError) and str(error).startswith("Failed to reach API")


def flow_run_url(flow_run_id: str) -> str | None:
    """The run's page in Prefect's UI, where there is one."""
    if not is_configured():
        return None
    from prefect.utilities.urls import url_for  # noqa: PLC0415

    return url_for("flow-run", flow_run_id)


async def count_late_runs() -> int:
    """Flow runs whose time has come without anybody starting them."""
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateName  # noqa: PLC0415

    late = FlowRunFilter(state=FlowRunFilterState(name=FlowRunFilterStateName(any_=["Late"])))
    async with _client() as client:
        return int(await client.count_flow_runs(flow_run_filter=late))


async def served_deployments() -> frozenset[str]:
    """The names of deployments whose runs somebody was there to start within the last minute."""
    from prefect.client.schemas.objects import DeploymentStatus  # noqa: PLC0415

    async with _client() as client:
        found = await client.read_deployments()
    return frozenset(each.name for each in found if each.status is DeploymentStatus.READY and not each.paused)


async def running(*flow_names: str) -> list[FlowRun]:
    """The flows' runs that are going on now."""
    from prefect.client.schemas.objects import StateType  # noqa: PLC0415

    return await _runs_of(flow_names, StateType.RUNNING, StateType.CANCELLING)


async def suspended(flow_name: str) -> list[FlowRun]:
    """The flow's runs that are suspended until a person answers."""
    from prefect.client.schemas.objects import StateType  # noqa: PLC0415

    return await _runs_of([flow_name], StateType.PAUSED)


async def cancel_suspended(flow_run_id: UUID, why: str) -> bool:
    """Cancel a run that waits, without a process that would notice. False when it no longer does."""
    from prefect.states import Cancelled  # noqa: PLC0415

    async with _client() as client:
        run = await client.read_flow_run(flow_run_id)
        if run.state is None or not run.state.is_paused():
            return False
        cancelled: State[None] = Cancelled(message=why)
        await client.set_flow_run_state(flow_run_id, cancelled, force=True)
    return True


async def how_cancelled(flow_run_id: UUID) -> str:
    """`cancelled` or `deleted`, if somebody has put an end to the run; empty if nobody has."""
    from prefect.exceptions import ObjectNotFound  # noqa: PLC0415

    async with _client() as client:
        try:
            run = await client.read_flow_run(flow_run_id)
        except ObjectNotFound:
            return "deleted"
    return "cancelled" if run.state is not None and (run.state.is_cancelled() or run.state.is_cancelling()) else ""


async def _runs_of(flow_names: Sequence[str], *types: StateType) -> list[FlowRun]:
    from prefect.client.schemas.filters import (  # noqa: PLC0415
        FlowFilter,
        FlowFilterName,
        FlowRunFilter,
        FlowRunFilterState,
        FlowRunFilterStateType,
    )

    async with _client() as client:
        return await client.read_flow_runs(
            flow_filter=FlowFilter(name=FlowFilterName(any_=list(flow_names))),
            flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=list(types)))),
        )


async def schedule(deployment: str, at: datetime, key: str, parameters: dict[str, Any]) -> None:
    """Have a run of the deployment (`flow/name`) started at that time; the same `key` makes it once."""
    from prefect.states import Scheduled  # noqa: PLC0415

    async with _client() as client:
        found = await client.read_deployment_by_name(deployment)
        when: State[None] = Scheduled(scheduled_time=at)
        await client.create_flow_run_from_deployment(found.id, parameters=parameters, state=when, idempotency_key=key)


async def start(deployment: str, **parameters: str) -> str:
    """Have a run of the deployment (`flow/name`) started now; returns its id.

    Raises NotStarted: no orchestrator is configured, it can't be asked, or has no such deployment.
    """
    if not is_configured():
        raise NotStarted("no orchestrator is configured; set PREFECT_API_URL")
    import httpx  # noqa: PLC0415
    from prefect.exceptions import ObjectNotFound, PrefectException  # noqa: PLC0415

    try:
        async with _client() as client:
            found = await client.read_deployment_by_name(deployment)
            return str((await client.create_flow_run_from_deployment(found.id, parameters=parameters)).id)
    except ObjectNotFound:
        raise NotStarted(f"Prefect knows no deployment {deployment}: are the deployments served?") from None
    except (httpx.HTTPError, TimeoutError, PrefectException) as error:
        said = describe_failure(error)
        raise NotStarted(f"Prefect at {api_url()} can't be asked: {said}; look with: `breaker doctor`") from None


async def start_subflow(deployment: str, name: str, tags: Sequence[str], key: str, parameters: dict[str, Any]) -> UUID:
    """Have a run of the deployment (`flow/name`) started now, as a part of the flow run that this is called in.

    The same `key` makes it once. Raises TimeoutError, and what Prefect's client raises.
    """
    from prefect.deployments.flow_runs import arun_deployment  # noqa: PLC0415

    async with asyncio.timeout(DEADLINE):
        started = await arun_deployment(
            deployment, parameters=parameters, flow_run_name=name, timeout=0, tags=tags, idempotency_key=key
        )
    return started.id


async def cancel(flow_run_id: UUID, why: str) -> None:
    """Have the run not begun any more, or no longer said to be running. Raises as `start_subflow`."""
    from prefect.states import Cancelled  # noqa: PLC0415

    async with _client() as client:
        cancelled: State[None] = Cancelled(message=why)
        await client.set_flow_run_state(flow_run_id, cancelled, force=True)


async def reschedule_if_lost(flow_run_id: UUID) -> bool:
    """Put a run whose process is gone back to Scheduled, so that whoever serves its deployment starts it again.

    False when it has not said Running or Pending for `SILENT_FOR`: then there is nothing to put back.
    """
    return await _reschedule(flow_run_id, is_lost)


def is_lost(state: State[Any], now: datetime) -> bool:
    """Whether a run without a sign of life has no process; one that has just been submitted or resumed is about to give
    one.
    """
    return (state.is_running() or state.is_pending()) and now - state.timestamp >= SILENT_FOR


async def reschedule_if_failed(flow_run_id: UUID) -> bool:
    """The same for a run whose process was reported dead, or that failed `FAILED_FOR` ago or before.

    And for one that asks and can't be answered.
    """
    return await _reschedule(flow_run_id, is_failed_or_crashed) or await _reschedule_if_unanswerable(flow_run_id)


async def _reschedule_if_unanswerable(flow_run_id: UUID) -> bool:
    """A server that breaks off in the middle of an asking keeps a run suspended without the form that it waits for.

    It takes no answer then, for ever. Begun again, the run finds that nobody has answered, and asks anew.
    """
    async with _client() as client:
        run = await client.read_flow_run(flow_run_id)
        if run.state is None or not run.state.is_paused() or datetime.now(UTC) - run.state.timestamp < FAILED_FOR:
            return False
        asked = run.state.state_details.run_input_keyset
        if not asked or await _has_input(client, flow_run_id, asked["schema"]):
            return False
        await client.set_flow_run_state(flow_run_id, _scheduled("it asked and its form was lost"), force=True)
    return True


async def _has_input(client: PrefectClient, flow_run_id: UUID, key: str) -> bool:
    import httpx  # noqa: PLC0415

    try:
        await client.read_flow_run_input(flow_run_id, key)
    except httpx.HTTPStatusError as error:
        if error.response.status_code == httpx.codes.NOT_FOUND:
            return False
        raise
    return True


def is_failed_or_crashed(state: State[Any], now: datetime) -> bool:
    """A failure is given a moment: what it lacked is seldom there again at once."""
    return state.is_crashed() or (state.is_failed() and now - state.timestamp >= FAILED_FOR)


async def _reschedule(flow_run_id: UUID, when: Callable[[State[Any], datetime], bool]) -> bool:
    async with _client() as client:
        run = await client.read_flow_run(flow_run_id)
        if run.state is None or not when(run.state, datetime.now(UTC)):
            return False
        again = _scheduled(f"it was {run.state.name} and had no process any more")
        await client.set_flow_run_state(flow_run_id, again, force=True)
    return True


def _scheduled(why: str) -> State[None]:
    from prefect.states import Scheduled  # noqa: PLC0415

    return Scheduled(message=f"Started again, as {why}")


@asynccontextmanager
async def _client() -> AsyncIterator[PrefectClient]:
    """Raises TimeoutError, and what Prefect's client raises."""
    from prefect.client.orchestration import get_client  # noqa: PLC0415

    async with asyncio.timeout(DEADLINE), get_client() as client:
        yield client
