"""Show a recovery in the orchestrator's UI: one progress bar and one checklist per incident, kept up to date."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

from prefect.artifacts import (
    acreate_markdown_artifact,
    acreate_progress_artifact,
    aupdate_progress_artifact,
)
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactUpdate

from tasks.recovery.context import RecoveryContext

UPDATE_INTERVAL = 1.0
LIMIT = 5.0

_log = logging.getLogger(__name__)


@asynccontextmanager
async def live_artifacts(context: RecoveryContext) -> AsyncIterator[None]:
    """Keep the artifacts like the context's state while the body runs, and once more at its end."""
    updates = asyncio.create_task(_keep_updating(context))
    try:
        yield
    finally:
        updates.cancel()
        # Bounded: a cancellation can be lost in a client that waits for something else just then.
        await asyncio.wait({updates}, timeout=LIMIT)
        await update_artifacts(context)


async def update_artifacts(context: RecoveryContext) -> None:
    """Create the artifacts of this incident, or bring them up to date; their ids are kept with the state."""
    state = context.state
    percent = round(100 * state.share_done, 1)
    text = f"{state.phase}, round {state.round}" + (f"; waiting for {state.waiting_for}" if state.waiting_for else "")
    async with asyncio.timeout(LIMIT):
        if "progress" not in state.artifacts:
            progress = await acreate_progress_artifact(percent, key="recovery-progress", description=text)
            checklist = await acreate_markdown_artifact(
                key="recovery-checklist", markdown=state.as_markdown(), description="The runbook's recovery checklist"
            )
            await context.update(artifacts={"progress": str(progress), "checklist": str(checklist)})
            return
        await aupdate_progress_artifact(UUID(state.artifacts["progress"]), percent, description=text)
        async with get_client() as client:
            await client.update_artifact(UUID(state.artifacts["checklist"]), ArtifactUpdate(data=state.as_markdown()))


async def _keep_updating(context: RecoveryContext) -> None:
    shown = ""
    while True:
        now = context.state.as_markdown()
        if now != shown:
            try:
                await update_artifacts(context)
                shown = now
            except Exception as error:  # an outage of the orchestrator or of Redis; the next look tries again
                _log.warning("the recovery's artifacts could not be updated: %s: %s", type(error).__name__, error)
        await asyncio.sleep(UPDATE_INTERVAL)
