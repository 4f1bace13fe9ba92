"""Run the console's background tasks: say when one fails, and end them all in order."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

CANCEL_ATTEMPTS = 10
"""How often a task is told to end before it is left behind."""
CANCEL_EVERY = 0.5

_log = logging.getLogger(__name__)


class BackgroundTasks:
    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(_logged(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def end(self) -> None:
        """Cancel until it has worked: a client that waits for something else just then may lose a cancellation."""
        left = set(self._tasks)
        for _ in range(CANCEL_ATTEMPTS):
            for task in left:
                task.cancel()
            if left:
                _, left = await asyncio.wait(left, timeout=CANCEL_EVERY)


async def _logged(work: Coroutine[Any, Any, None]) -> None:
    try:
        await work
    except Exception:
        _log.exception("a task of the console ended; what it kept up to date is not any more")
