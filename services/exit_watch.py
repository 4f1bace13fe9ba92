"""See to it that pending exits are resumed: by a flow run scheduled for their time, else by a standby."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import structlog

from brokers.protocol import Broker
from configuration.running import RunningConfiguration
from configuration.settings import Settings
from tasks import orchestrator
from tasks.kill.pending_exit_store import open_pending_exits
from tasks.kill.pending_exits import PendingExit, Resumption, overdue, resumptions

DEPLOYMENT = "resume/resume"
LOOK_EVERY = 1.0
"""Seconds between two looks at what is pending."""
AGAIN_AFTER = timedelta(minutes=2)
"""How long a scheduled run that has not resumed anything is waited for before another one is scheduled."""

log = structlog.get_logger(__name__)


class ResumeScheduler:
    """Schedules the deployment `resume` for the time of each pending exit. Used by one thread, which it blocks."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._scheduled: set[str] = set()
        self._looked_at = float("-inf")

    def look(self) -> None:
        """Schedule what is not scheduled yet, at most once every `LOOK_EVERY` seconds.

        Raises whatever the orchestrator's client raises; what could not be scheduled is tried at the next look.
        """
        if time.monotonic() - self._looked_at < LOOK_EVERY:
            return
        self._looked_at = time.monotonic()
        exits = _pending(self._settings)
        if not exits:
            self._scheduled.clear()
            return
        if not orchestrator.is_configured():
            return
        for resumption in resumptions(exits):
            key = _key(resumption, datetime.now(UTC))
            if key in self._scheduled:
                continue
            asyncio.run(
                orchestrator.schedule(DEPLOYMENT, resumption.due_at, key, {"accounts": list(resumption.accounts)})
            )
            self._scheduled.add(key)
            log.info("resumption scheduled", accounts=resumption.accounts, due_at=resumption.due_at.isoformat())


def _pending(settings: Settings) -> tuple[PendingExit, ...]:
    """What is pending; Redis and the disk of this host learn from each other on the way."""
    with open_pending_exits(settings) as store:
        store.reconcile()
        return store.read().exits


def _key(resumption: Resumption, now: datetime) -> str:
    """The same for the same time, so that the orchestrator makes one run of it, whoever asks and however often.

    A time that has passed without effect gets a further run every `AGAIN_AFTER`.
    """
    due = resumption.due_at
    late = max(timedelta(0), now - due) // AGAIN_AFTER
    return f"resume-{resumption.incident_id}-{due.isoformat()}" + (f"-{late}" if late else "")


class ResumeWatch:
    """Resumes in this process what has been due for `kill.resume_patience` seconds without anybody resuming it.

    `lent` gives the brokers that are open for accounts of such a configuration; `begin` runs the work to its end, also
    when this stops looking.
    """

    def __init__(
        self,
        running: RunningConfiguration,
        lent: Callable[[Settings], Mapping[str, Broker]],
        begin: Callable[[Coroutine[Any, Any, None]], asyncio.Future[None]],
    ) -> None:
        self._running = running
        self._lent = lent
        self._begin = begin
        self._patience = timedelta(seconds=running.settings.kill.resume_patience)

    async def look(self) -> None:
        """Once; comes back when what is overdue has been resumed. Never raises: what goes wrong is said in the log."""
        exits = await asyncio.to_thread(_pending, self._running.settings)
        if overdue(exits, datetime.now(UTC), self._patience):
            await self._begin(self._resume())

    async def _resume(self) -> None:
        from flows.resume import outcome, resume_exits  # noqa: PLC0415  Prefect is slow to import, and seldom needed

        settings = self._running.present().settings
        try:
            resumed = await resume_exits(
                settings, operator="standby", source="rule", due_for=self._patience, opened=self._lent(settings)
            )
        except Exception:  # a resident process outlives what goes wrong in one run, and says so
            log.exception("resuming failed")
            await asyncio.sleep(LOOK_EVERY)
            return
        for each in resumed:
            log.info("resumed", incident_id=each.resumption.incident_id, outcome=outcome(each))
