"""Run the checks of the scheduled verification as Prefect tasks, one each, and show them in one artifact."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, ParamSpec, TypeVar

from prefect import get_run_logger, task
from prefect.artifacts import acreate_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactUpdate
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.client.schemas.sorting import ArtifactSort
from prefect.runtime import deployment
from prefect.tasks import Task

from configuration.printed_commands import with_pastable
from configuration.settings import Settings
from tasks import running_services
from tasks.checks import conditions, pending_exits, rules, system, venue_locks
from tasks.checks.measurement import Colour, Measurement, worst
from tasks.checks.stores import (
    Stores,
    check_chain,
    check_drain,
    check_feeds,
    check_pending_trips,
    check_reconciliation,
    check_states,
)
from tasks.markdown import cell
from tasks.monitor.check import measure_monitor
from tasks.safety_nets.check import measure_safety_nets
from tasks.verification import recoveries
from tasks.verification.last_result import LastVerification
from tasks.verification.resets import check_resets

ARTIFACT = "health-verification"
CHECK_LIMIT = 30.0
WALK_LIMIT = 600.0
"""Seconds; what is checked has limits of its own, which come first."""
_ARTIFACT_LIMIT = 3.0

_P = ParamSpec("_P")
_R = TypeVar("_R")


@dataclass(slots=True)
class VerificationRun:
    """What the checks of one verification work with."""

    settings: Settings
    stores: Stores
    previous: LastVerification | None
    started_at: datetime
    compared_to: int | None = None
    """The last row of the ledger whose news is told by this run, or was by an earlier one."""

    def __post_init__(self) -> None:
        if self.previous is not None:
            self.compared_to = self.previous.compared_to

    @property
    def walks(self) -> bool:
        return self.previous is None or self.previous.walk_is_due(self.started_at)


current_verification: ContextVar[VerificationRun] = ContextVar("current_verification")


def _check(name: str, *, limit: float = CHECK_LIMIT) -> Callable[[Callable[_P, _R]], Task[_P, _R]]:
    """Never kept: a verification must look. Never tried again: the next run is a minute away."""
    return task(name=name, task_run_name=name, timeout_seconds=limit, cache_policy=NO_CACHE, persist_result=False)


@_check("No trip waits on this host")
async def apply_pending_trips() -> list[Measurement]:
    return [await asyncio.to_thread(check_pending_trips, current_verification.get().settings)]


@_check("State is readable, epoch is sane")
async def verify_states() -> list[Measurement]:
    return await asyncio.to_thread(check_states, current_verification.get().stores)


@_check("Outbox and spool drain")
async def drain() -> list[Measurement]:
    return [await asyncio.to_thread(check_drain, current_verification.get().stores)]


@_check("Ledger and Redis agree")
async def reconcile() -> list[Measurement]:
    run = current_verification.get()
    found = await asyncio.to_thread(check_reconciliation, run.stores, run.compared_to)
    run.compared_to = found.up_to
    return list(found.measurements)


@_check("Chain is unbroken", limit=WALK_LIMIT)
async def verify_chain() -> list[Measurement]:
    run = current_verification.get()
    return [await asyncio.to_thread(check_chain, run.stores, whole=run.walks)]


@_check("Resets were decided")
async def verify_resets() -> list[Measurement]:
    return await asyncio.to_thread(check_resets, current_verification.get().stores)


@_check("Feeds are fresh")
async def verify_feeds() -> list[Measurement]:
    return [await check_feeds(current_verification.get().settings)]


@_check("Rules hear what they judge")
async def verify_rules() -> list[Measurement]:
    return await rules.check_rules(current_verification.get().settings)


@_check("Conditions are within limits")
async def measure_conditions() -> list[Measurement]:
    found = await conditions.measure_conditions(current_verification.get().settings)
    # Pending exits have a check of their own: red for a reset is not yet red for the system.
    return [measurement for measurement in found if measurement.name != pending_exits.CONDITION]


@_check("Pending exits are resumed")
async def verify_pending_exits() -> list[Measurement]:
    return [await pending_exits.check_pending_exits(current_verification.get().settings)]


@_check("Accounts are locked at their venues until the reset")
async def verify_venue_locks() -> list[Measurement]:
    return [await venue_locks.check_venue_locks(current_verification.get().settings)]


@_check("Safety nets are armed")
async def verify_safety_nets() -> list[Measurement]:
    return await measure_safety_nets(current_verification.get().settings)


@_check("Services, queues and latencies")
async def measure_health() -> list[Measurement]:
    return await system.measure_health(current_verification.get().settings)


@_check("Recoveries are not forgotten")
async def check_recoveries() -> list[Measurement]:
    return [await recoveries.check_recoveries(current_verification.get().stores)]


async def publish(measurements: Sequence[Measurement], started_at: datetime) -> None:
    """Show the result in the deployment's one artifact. A failure to do so is only logged."""
    text = markdown(measurements, started_at)
    try:
        async with asyncio.timeout(_ARTIFACT_LIMIT), get_client() as client:
            found = await client.read_artifacts(
                artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[ARTIFACT])),
                sort=ArtifactSort.CREATED_DESC,
                limit=1,
            )
            if found:
                await client.update_artifact(found[0].id, ArtifactUpdate(data=text))
                return
        await acreate_markdown_artifact(key=ARTIFACT, markdown=text, description="What the last verification found")
    except Exception as error:  # the picture is not the verification
        get_run_logger().warning("The artifact could not be written: %s", type(error).__name__)


def markdown(measurements: Sequence[Measurement], started_at: datetime) -> str:
    """What was found, worst first."""
    order = (Colour.RED, Colour.YELLOW, Colour.GREEN)
    took = (datetime.now(UTC) - started_at).total_seconds()
    lines = [
        f"# {worst(measurements).value.upper()}",
        "",
        f"{len(measurements)} checks at {started_at:%Y-%m-%d %H:%M:%S} UTC, in {took:.1f} s",
        "",
        "| | what | found | limit | what to do |",
        "| --- | --- | --- | --- | --- |",
    ]
    for found in sorted(measurements, key=lambda found: order.index(found.colour)):
        cells = (found.colour.value, found.name, found.value, found.limit, with_pastable(found.problem))
        lines.append(f"| {' | '.join(cell(text) for text in cells)} |")
    return "\n".join(lines) + "\n"


@_check("Every process runs by what is configured")
async def verify_services() -> list[Measurement]:
    settings = current_verification.get().settings
    found = await running_services.measure_services(settings)
    # A deployment's run may be a worker's, which announces no trips; by hand it is nobody's business who does.
    return [*found, await running_services.measure_watches(settings)] if deployment.id else found


@_check("Accounts and feeds are monitored")
async def verify_monitor() -> list[Measurement]:
    # As with who announces trips: whoever verifies by hand may have no resident process.
    return await measure_monitor(current_verification.get().settings) if deployment.id else []


Check = Task[[], Any]
SEQUENTIAL: tuple[Check, ...] = (
    apply_pending_trips,
    verify_states,
    verify_venue_locks,
    drain,
    reconcile,
    verify_resets,
    verify_chain,
    measure_health,
)
"""Each finds what the one before left: a lock is needed for a trip that waited, only what is drained can be reconciled,
and what isn't is a backlog."""
CONCURRENT: tuple[Check, ...] = (
    verify_feeds,
    verify_rules,
    measure_conditions,
    verify_pending_exits,
    verify_safety_nets,
    check_recoveries,
    verify_services,
    verify_monitor,
)
