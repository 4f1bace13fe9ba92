"""The kill switch, run in the console's process: tripped first, then one run per incident on a thread of its own.

The thread has its own event loop, so that neither a busy page nor the orchestrator's client can hold the other up.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from redis.asyncio import Redis
from redis.exceptions import RedisError

from breaker import BreakerError
from breaker.errors import InvalidInput
from breaker.pending_trips import PendingTrip
from breaker.trip_reasons import TripReason
from breaker.uuid7 import uuid7
from brokers.sweep import first_sweep
from configuration.reasons import checked_reason
from configuration.settings import Settings
from console.actions.trip_reset import Actions, Caller
from console.auth.permissions import Permission
from flows.kill_context import open_kill_run, record_sweep
from tasks.kill.run import KillRun
from tasks.kill.status import KillStatus, kill_status
from tasks.kill.status_feed import read_kill_statuses

CONFIRMATION = "FLATTEN"
"""What has to be typed before anything is cancelled or closed."""
_KEPT = 50
_SHOWN = 20
LOOK_WITHIN = 1.0
"""Seconds that Redis may take to say what other processes tell of their runs."""


@dataclass(slots=True)
class Kill:
    """One run of this console. Written by its own thread and read by the pages; every value is replaced as a whole."""

    incident_id: str
    scope: str
    operator: str
    reason: str
    source: str
    event_id: str
    names: Sequence[str]
    """The accounts."""
    run_id: str = field(default_factory=uuid7)
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    started: float = field(default_factory=time.monotonic)
    halted_after: float | None = None
    not_told: str = ""
    """Why Redis could not be told of the trip, and whether it waits."""
    unconfirmed: str | None = None
    problem: str = ""
    run: KillRun | None = None
    """While it goes on."""
    last_seen: KillStatus | None = None
    """What the run had come to when it was over: some fifty are kept, and a run holds everything it ever read."""
    ended_after: float | None = None

    @property
    def over(self) -> bool:
        return self.ended_after is not None

    @property
    def status(self) -> KillStatus:
        seen = kill_status(self.run) if self.run is not None else self.last_seen or self._not_begun()
        return replace(
            seen,
            over=self.over,
            problem=self.problem,
            unconfirmed=self.unconfirmed,
            halt_problem="" if seen.halted_after is not None else self.not_told,
        )

    def _not_begun(self) -> KillStatus:
        return KillStatus(
            run_id=self.run_id,
            incident_id=self.incident_id,
            event_id=self.event_id,
            scope=self.scope,
            operator=self.operator,
            reason=self.reason,
            source=self.source,
            host=socket.gethostname(),
            started_at=self.started_at,
            elapsed=self.ended_after if self.ended_after is not None else time.monotonic() - self.started,
            halted_after=self.halted_after,
            accounts=(),
            missing=(),
            reported=False,
            over=self.over,
        )


class Kills:
    """The newest runs: this console's own as they are, and those that another process has told Redis of."""

    def __init__(self, settings: Settings, actions: Actions, redis: Redis) -> None:
        self._settings = settings
        self._actions = actions
        self._redis = redis
        self._kills: OrderedDict[str, Kill] = OrderedDict()
        self._elsewhere: dict[str, KillStatus] = {}
        self._looked_at = time.monotonic()
        self._tasks: set[asyncio.Task[None]] = set()
        # Not the threads on which everything else waits for a database.
        self._threads = ThreadPoolExecutor(_KEPT, thread_name_prefix="kill switch")

    def all(self) -> list[KillStatus]:
        """Every run that is known, newest first."""
        own = {kill.run_id: kill.status for kill in self._kills.values()}
        since = time.monotonic() - self._looked_at
        others = [
            replace(seen, silent_for=seen.silent_for + since)
            for run_id, seen in self._elsewhere.items()
            if run_id not in own
        ]
        return sorted([*own.values(), *others], key=lambda seen: seen.started_at, reverse=True)

    def of(self, incident_id: str) -> list[KillStatus]:
        """Every run of that incident, newest first."""
        return [seen for seen in self.all() if seen.incident_id == incident_id]

    async def look_elsewhere(self) -> None:
        """Read what other processes tell of their runs; what can't be read goes on growing old."""
        with contextlib.suppress(RedisError, OSError):  # pages say themselves that Redis is away
            async with asyncio.timeout(LOOK_WITHIN):
                found = await read_kill_statuses(self._redis, self._elsewhere, _SHOWN)
            self._elsewhere = {seen.run_id: seen for seen in found}
            self._looked_at = time.monotonic()

    async def start(
        self,
        caller: Caller,
        scope: str,
        reason: str,
        *,
        accounts: Sequence[str] | None = None,
        event_id: str | None = None,
    ) -> KillStatus:
        """Trip, then flatten behind the caller's back. While a run of the incident goes on, this joins it.

        A breaker that can't be tripped doesn't keep the book from being closed. Raises Denied and InvalidInput; nothing
        changed then.
        """
        await self._actions.require(caller, Permission.KILL_SWITCH)
        why = checked_reason(reason, caller.shortest_reason)
        names = self._checked_accounts(accounts)
        begun, problem, status = time.monotonic(), "", None
        trip = self._actions.asked(caller, TripReason.KILL_SWITCH, scope, why, event_id)
        try:
            status = await self._actions.halt(trip)
        except InvalidInput:
            raise
        except BreakerError as error:
            problem = str(error)
        incident_id = (status.incident_id if status else None) or trip.incident_id
        if (same := self._same(trip, incident_id, names, halted=status is not None)) is not None:
            return same
        kill = Kill(incident_id, scope, caller.user, why, caller.source, trip.event_id, names, not_told=problem)
        kill.started = begun
        if status is not None:
            kill.halted_after, kill.unconfirmed = time.monotonic() - begun, status.unconfirmed
        self._keep(kill)
        task = asyncio.create_task(self._run(kill))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return kill.status

    def _checked_accounts(self, asked: Sequence[str] | None) -> Sequence[str]:
        known = self._settings.accounts
        names = list(known) if not asked else list(dict.fromkeys(name.upper() for name in asked))
        if unknown := [name for name in names if name not in known]:
            raise InvalidInput(
                f"No account {', '.join(unknown)} is configured here; nothing changed, not even halted. "
                f"There are: {', '.join(known) or 'none'}."
            )
        return names

    def _same(self, trip: PendingTrip, incident_id: str, names: Sequence[str], *, halted: bool) -> KillStatus | None:
        """The run that this request has started before, or one of ours in the incident that does what is asked for."""
        for seen in self.all():
            if seen.event_id == trip.event_id and seen.verdict != "NOT KNOWN":
                return seen
        for kill in self._kills.values():
            # Where neither Redis nor the disk could be told, nothing says that it is one incident.
            ours = kill.incident_id == incident_id or (not halted and kill.scope == trip.scope)
            if ours and not kill.over and set(names) <= set(kill.names):
                return kill.status
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

    async def _run(self, kill: Kill) -> None:
        try:
            if kill.names:
                work = _flatten(kill, self._settings)
                await asyncio.get_running_loop().run_in_executor(self._threads, asyncio.run, work)
            else:
                kill.problem = "No account is configured, so nothing was cancelled or closed. Close the book by hand."
        except Exception as error:  # whatever it was, the page must say so instead of showing progress for ever
            kill.problem = f"The kill switch broke off ({type(error).__name__}: {error}). Run it again; it is safe to."
        finally:
            if kill.run is not None:
                kill.last_seen, kill.run = kill_status(kill.run), None
            kill.ended_after = time.monotonic() - kill.started


async def _flatten(kill: Kill, settings: Settings) -> None:
    async with open_kill_run(
        reason=kill.reason,
        operator=kill.operator,
        incident_id=kill.incident_id,
        accounts=kill.names,
        scope=kill.scope,
        source=kill.source,
        settings=settings,
        trip_event_id=kill.event_id,
    ) as run:
        run.clock.started, run.started_at, run.halted_after = kill.started, kill.started_at, kill.halted_after
        run.run_id = kill.run_id
        kill.run = run
        swept = await first_sweep(run.brokers.values(), run.settings.first_sweep_timeout, run.settings.cancel)
        run.first_sweep_after = run.elapsed
        record_sweep(run, swept)
        from flows.kill_switch import run_kill_switch  # noqa: PLC0415  slow to import, and the sweep comes first

        await run_kill_switch(run, lambda _: None)
