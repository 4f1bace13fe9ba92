"""The kill switch, run in the console's process: tripped first, then one run per incident on a thread of its own.

The thread has its own event loop, so that neither a busy page nor the orchestrator's client can hold the other up.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

from breaker import BreakerError
from breaker.errors import InvalidInput
from breaker.pending_trips import PendingTrip
from breaker.settings import Settings
from brokers.sweep import first_sweep
from console.actions import Actions, Caller, checked_reason
from console.permissions import Permission
from flows.kill_context import note_sweep, open_kill_run
from tasks.kill.report import KillReport
from tasks.kill.run import AccountProgress, KillRun

CONFIRMATION = "FLATTEN"
"""What has to be typed before anything is cancelled or closed."""
_KEPT = 50

Verdict = Literal["RUNNING", "FLAT", "NOT FLAT"]

ORCHESTRATOR = {
    "PREFECT_API_REQUEST_TIMEOUT": "2",
    "PREFECT_CLIENT_MAX_RETRIES": "0",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    "PREFECT_LOGGING_LEVEL": "WARNING",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
}
"""What the environment should say before the orchestrator's client is imported: its own patience is over a minute."""


@dataclass(slots=True)
class Kill:
    """One run. Written by its own thread and read by the pages; every value is replaced as a whole."""

    incident_id: str
    scope: str
    operator: str
    reason: str
    event_id: str
    names: Sequence[str]
    """The accounts."""
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    started: float = field(default_factory=time.monotonic)
    halted_after: float | None = None
    not_told: str = ""
    """Why Redis could not be told of the trip, and whether it waits."""
    unconfirmed: str | None = None
    """Why the trip is not known to outlive a crash of Redis."""
    problem: str = ""
    """Why nothing is flattened, or no longer."""
    run: KillRun | None = None
    report: KillReport | None = None
    ended_after: float | None = None

    @property
    def halt_problem(self) -> str:
        """`not_told`, unless the run has found Redis back and made the trip."""
        return "" if self.run is not None and self.run.halted_after is not None else self.not_told

    @property
    def over(self) -> bool:
        return self.ended_after is not None

    @property
    def verdict(self) -> Verdict:
        if self.report is not None:
            return "FLAT" if self.report.flat else "NOT FLAT"
        return "NOT FLAT" if self.over else "RUNNING"

    @property
    def elapsed(self) -> float:
        return self.ended_after if self.ended_after is not None else time.monotonic() - self.started

    @property
    def accounts(self) -> Sequence[AccountProgress]:
        if self.report is not None:
            return self.report.accounts
        return tuple(self.run.progress.values()) if self.run is not None else ()

    @property
    def missing(self) -> Sequence[str]:
        """Parts that it went on without."""
        return tuple(self.run.missing) if self.run is not None else ()


class Kills:
    """The newest runs that this console has started."""

    def __init__(self, settings: Settings, actions: Actions) -> None:
        self._settings = settings
        self._actions = actions
        self._kills: OrderedDict[str, Kill] = OrderedDict()
        self._tasks: set[asyncio.Task[None]] = set()
        # Not the threads on which everything else waits for a database.
        self._threads = ThreadPoolExecutor(_KEPT, thread_name_prefix="kill switch")

    def find(self, incident_id: str) -> Kill | None:
        """The newest run of that incident."""
        return next((kill for kill in reversed(self._kills.values()) if kill.incident_id == incident_id), None)

    def running(self) -> list[Kill]:
        return [kill for kill in self._kills.values() if not kill.over]

    def all(self) -> list[Kill]:
        """Every run that is still known, the newest last."""
        return list(self._kills.values())

    async def start(
        self,
        caller: Caller,
        scope: str,
        reason: str,
        *,
        accounts: Sequence[str] | None = None,
        event_id: str | None = None,
    ) -> Kill:
        """Trip, then flatten behind the caller's back. While a run of the incident goes on, this joins it.

        A breaker that can't be tripped doesn't keep the book from being closed. Raises Denied and InvalidInput; nothing
        changed then.
        """
        await self._actions.require(caller, Permission.KILL_SWITCH)
        why = checked_reason(reason, caller.shortest_reason)
        names = self._checked_accounts(accounts)
        begun, problem, status = time.monotonic(), "", None
        trip = self._actions.asked(caller, "KILL_SWITCH", scope, why, event_id)
        try:
            status = await self._actions.halt(trip)
        except InvalidInput:
            raise
        except BreakerError as error:
            problem = str(error)
        incident_id = (status.incident_id if status else None) or trip.incident_id
        if (same := self._same(trip, incident_id, names, halted=status is not None)) is not None:
            return same
        kill = Kill(incident_id, scope, caller.user, why, trip.event_id, names, not_told=problem)
        kill.started = begun
        if status is not None:
            kill.halted_after, kill.unconfirmed = time.monotonic() - begun, status.unconfirmed
        self._keep(kill)
        task = asyncio.create_task(self._run(kill, caller.source))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return kill

    def _checked_accounts(self, asked: Sequence[str] | None) -> Sequence[str]:
        known = self._settings.accounts
        names = list(known) if not asked else list(dict.fromkeys(name.upper() for name in asked))
        if unknown := [name for name in names if name not in known]:
            raise InvalidInput(
                f"No account {', '.join(unknown)} is configured here; nothing changed, not even halted. "
                f"There are: {', '.join(known) or 'none'}."
            )
        return names

    def _same(self, trip: PendingTrip, incident_id: str, names: Sequence[str], *, halted: bool) -> Kill | None:
        """The run that this request has started before, or one of the incident that does what is asked for."""
        for kill in reversed(self._kills.values()):
            if kill.event_id == trip.event_id:
                return kill
            # Where neither Redis nor the disk could be told, nothing says that it is one incident.
            ours = kill.incident_id == incident_id or (not halted and kill.scope == trip.scope)
            if ours and not kill.over and set(names) <= set(kill.names):
                return kill
        return None

    async def finish(self) -> None:
        """Wait for what still runs; every run has a time limit of its own."""
        if self._tasks:
            await asyncio.wait(self._tasks)
        self._threads.shutdown(wait=False)

    def _keep(self, kill: Kill) -> None:
        self._kills[kill.event_id] = kill
        while len(self._kills) > _KEPT:
            self._kills.popitem(last=False)

    async def _run(self, kill: Kill, source: str) -> None:
        try:
            if kill.names:
                work = _flatten(kill, self._settings, source)
                await asyncio.get_running_loop().run_in_executor(self._threads, asyncio.run, work)
            else:
                kill.problem = "No account is configured, so nothing was cancelled or closed. Close the book by hand."
        except Exception as error:  # whatever it was, the page must say so instead of showing progress for ever
            kill.problem = f"The kill switch broke off ({type(error).__name__}: {error}). Run it again; it is safe to."
        finally:
            kill.ended_after = time.monotonic() - kill.started


async def _flatten(kill: Kill, settings: Settings, source: str) -> None:
    async with open_kill_run(
        reason=kill.reason,
        operator=kill.operator,
        incident_id=kill.incident_id,
        accounts=kill.names,
        scope=kill.scope,
        source=source,
        settings=settings,
        trip_event_id=kill.event_id,
    ) as run:
        run.started, run.started_at, run.halted_after = kill.started, kill.started_at, kill.halted_after
        kill.run = run
        swept = await first_sweep(run.brokers.values(), run.settings.first_sweep_timeout)
        run.first_sweep_after = run.elapsed
        note_sweep(run, swept)
        from flows.kill_switch import run_kill_switch  # noqa: PLC0415  slow to import, and the sweep comes first

        def announce(report: KillReport) -> None:
            kill.report = report

        await run_kill_switch(run, announce)
