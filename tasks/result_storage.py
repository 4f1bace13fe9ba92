"""Keep what a flow's steps have come to where every host finds it, so that the flow can go on on another one."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from configuration.settings import Settings
from tasks.checks.probe import describe_error

if TYPE_CHECKING:
    from prefect.filesystems import WritableFileSystem

PROBE = "breaker-writes-here"
"""The file that is written to see whether results can be kept; it stays, with one line in it."""
ANSWERS_WITHIN = 5.0

_log = logging.getLogger(__name__)


@asynccontextmanager
async def results_kept(settings: Settings) -> AsyncIterator[None]:
    """While the block goes on, tasks of the flow run that it is in keep their results in the configured place.

    Where that can't be written each host keeps its own: a flow must not fail for what it is only spared by.
    """
    from prefect.context import FlowRunContext  # noqa: PLC0415  Prefect is slow to import

    context = FlowRunContext.get()
    if context is None or not settings.prefect.result_storage:
        yield
        return
    storage, why = await usable_storage(settings)
    if storage is None:
        _log.error("results are kept on this host only: %s can't be used: %s", settings.prefect.result_storage, why)
        yield
        return
    kept_there = context.result_store.model_copy(update={"result_storage": storage})
    with context.model_copy(update={"result_store": kept_there}):
        yield


async def usable_storage(settings: Settings) -> tuple[WritableFileSystem | None, str]:
    """The configured place, once a file was written there and read back; or why that can't be done."""
    said = b"written by breaker"
    try:
        async with asyncio.timeout(ANSWERS_WITHIN):
            storage = await _storage(settings.prefect.result_storage)
            await storage.write_path(PROBE, said)
            if await storage.read_path(PROBE) == said:
                return storage, ""
    except TimeoutError:
        return None, f"it did not answer within {ANSWERS_WITHIN:g} s"
    except Exception as error:  # whatever a file system of somebody else's raises
        return None, describe_error(error)
    return None, "what is read there is not what was written"


async def _storage(place: str) -> WritableFileSystem:
    from prefect.filesystems import LocalFileSystem, RemoteFileSystem  # noqa: PLC0415
    from prefect.results import aresolve_result_storage  # noqa: PLC0415

    if "://" in place:
        return RemoteFileSystem(basepath=place)
    if place.startswith("/"):
        return LocalFileSystem(basepath=place)
    return await aresolve_result_storage(place)
