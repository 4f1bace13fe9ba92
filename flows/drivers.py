"""Run a step in one of two ways: under the orchestrator, or without it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

from prefect.tasks import Task

from tasks.kill.run import UnorchestratedStep, current_kill
from tasks.kill.steps import is_transient


class RunStep(Protocol):
    """How a procedure runs one of its steps."""

    async def __call__(self, step: Task[..., Any], **arguments: Any) -> Any: ...


async def with_prefect(step: Task[..., Any], **arguments: Any) -> Any:
    return await step(**arguments)


async def without_prefect(step: Task[..., Any], **arguments: Any) -> Any:
    """Run a step of the kill switch directly, and note in its run what there is to tell the orchestrator later."""
    run, begun = current_kill.get(), datetime.now(UTC)
    run_name = str(step.task_run_name).format(**arguments)
    try:
        result = await run_directly(step, **arguments)
    except Exception as error:
        done = UnorchestratedStep(step.name, run_name, begun, datetime.now(UTC), str(error))
        run.unorchestrated_steps.append(done)
        raise
    run.unorchestrated_steps.append(UnorchestratedStep(step.name, run_name, begun, datetime.now(UTC)))
    return result


async def run_directly(step: Task[..., Any], **arguments: Any) -> Any:
    """Run the task's function under the task's own policy: its retries, its waits between them and its time limit."""
    delays = step.retry_delay_seconds
    waits: Sequence[float] = delays if isinstance(delays, Sequence) else [float(delays or 0)] * step.retries
    for wait in [*waits[: step.retries], None]:
        try:
            async with asyncio.timeout(step.timeout_seconds):
                return await step.fn(**arguments)
        except Exception as error:
            if wait is None or not is_transient(error):
                raise
            await asyncio.sleep(wait * random.uniform(1, 1 + (step.retry_jitter_factor or 0)))  # noqa: S311  no secret
    raise AssertionError("the last attempt returns or raises")
