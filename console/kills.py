"""The kill switch, run in the console's process: tripped first, then one run per incident on a thread of its own.

The thread has its own event loop, so that neither a busy page nor the orchestrator's client can hold the other up.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

from breaker import BreakerError
from breaker.settings import Settings
from breaker.uuid7 import uuid7
from brokers.sweep import first_sweep
from console.actions import Actions, Caller, checked_reason
from console.permissions import Permission
from flows.kill_context import open_kill_run
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
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    started: float = field(default_factory=time.monotonic)
    halted_after: float | None = None
    halt_problem: str = ""
    problem: str = ""
    """Why nothing is flattened, or no longer."""
    run: KillRun | None = None
    report: KillReport | None = None
    ended_after: float | None = None

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
    """Every run that this console has started, and the newest of each incident."""

    def __init__(self, settings: Settings, actions: Actions) -> None:
        self._settings = settings
        self._actions = actions
        self._kills: OrderedDict[str, Kill] = OrderedDict()
        self._tasks: set[asyncio.Task[None]] = set()

    def find(self, incident_id: str) -> Kill | None:
        return self._kills.get(incident_id)

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

        A breaker that can't be tripped doesn't keep the book from being closed. Raises Denied and InvalidInput.
        """
        await self._actions.require(caller, Permission.KILL_SWITCH)
        why = checked_reason(reason)
        begun, problem, incident_id = time.monotonic(), "", None
        try:
            status = await self._actions.breaker(scope, caller.source).trip(
                "KILL_SWITCH",
                details={"operator": caller.user, "reason": why},
                tripped_by=caller.user,
                event_id=event_id,
                ip_address=caller.address,
            )
            incident_id = status.incident_id
        except BreakerError as error:
            problem = str(error)
        halted_after = None if problem else time.monotonic() - begun
        running = next((kill for kill in self.running() if incident_id in (None, kill.incident_id)), None)
        if running is not None:
            return running
        kill = Kill(incident_id or uuid7(), scope, caller.user, why, halted_after=halted_after, halt_problem=problem)
        kill.started = begun
        self._keep(kill)
        task = asyncio.create_task(self._run(kill, caller.source, accounts))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return kill

    async def finish(self) -> None:
        """Wait for what still runs; every run has a time limit of its own."""
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _keep(self, kill: Kill) -> None:
        self._kills[kill.incident_id] = kill
        self._kills.move_to_end(kill.incident_id)
        while len(self._kills) > _KEPT:
            self._kills.popitem(last=False)

    async def _run(self, kill: Kill, source: str, accounts: Sequence[str] | None) -> None:
        names = list(self._settings.accounts) if accounts is None else list(accounts)
        try:
            if names:
                await asyncio.to_thread(asyncio.run, _flatten(kill, self._settings, source, names))
            else:
                kill.problem = "No account is configured, so nothing was cancelled or closed. Close the book by hand."
        except Exception as error:  # whatever it was, the page must say so instead of showing progress for ever
            kill.problem = f"The kill switch broke off ({type(error).__name__}: {error}). Run it again; it is safe to."
        finally:
            kill.ended_after = time.monotonic() - kill.started


async def _flatten(kill: Kill, settings: Settings, source: str, accounts: Sequence[str]) -> None:
    async with open_kill_run(
        reason=kill.reason,
        operator=kill.operator,
        incident_id=kill.incident_id,
        accounts=accounts,
        scope=kill.scope,
        source=source,
        settings=settings,
    ) as run:
        run.started, run.started_at, run.halted_after = kill.started, kill.started_at, kill.halted_after
        kill.run = run
        swept = await first_sweep(run.brokers.values(), run.settings.first_sweep_timeout)
        run.first_sweep_after = run.elapsed
        for result in swept:
            run.update(result.account, canceled=result.accepted, orders_at_start=result.accepted + result.refused)
            if result.problem:
                run.update(result.account, note=result.problem)
        from flows.kill_switch import run_kill_switch  # noqa: PLC0415  slow to import, and the sweep comes first

        def announce(report: KillReport) -> None:
            kill.report = report

        await run_kill_switch(run, announce)
