"""Run kill switches in the console's process: tripped first, then one run per incident on a thread of its own.

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
from dataclasses import dataclass, replace

from redis.asyncio import Redis
from redis.exceptions import RedisError

from breaker.keys import ASKED_KILLS
from breaker.pending_trips import check_pending_trip
from breaker.state import Status
from breaker.trip_reasons import TripReason
from brokers.coverage import Coverage
from configuration.running import RunningConfiguration
from configuration.settings import Settings
from console.actions.authorization import Authorization, Caller
from console.actions.trip_reset import TripReset
from console.auth.permissions import Permission
from flows.kill_start import Halt, KillDisplay, KillStart, coverage_now, halt, sweep_and_flatten
from tasks.kill.run import KillRun
from tasks.kill.status import KillStatus, kill_status
from tasks.kill.status_feed import read_kill_statuses

_KEPT = 50
_SHOWN = 20
READ_WITHIN = 1.0
"""Seconds that Redis may take to say what other processes tell of their runs."""


@dataclass(slots=True)
class ConsoleKill(KillDisplay):
    """One run of this console. Written by its own thread and read by the pages; every value is replaced as a whole."""

    start: KillStart
    incident_id: str
    halted_after: float | None = None
    halt_problem: str = ""
    """Why Redis could not be told of the trip, and whether it waits."""
    unconfirmed: str | None = None
    problem: str = ""
    """Why nothing is flattened, or no longer."""
    run: KillRun | None = None
    """While it goes on."""
    last_status: KillStatus | None = None
    """What the run had come to when it was over: some fifty are kept, and a run holds everything it ever read."""
    ended_after: float | None = None

    @property
    def over(self) -> bool:
        return self.ended_after is not None

    @property
    def status(self) -> KillStatus:
        status = kill_status(self.run) if self.run is not None else self.last_status or self._not_begun()
        return replace(
            status,
            over=self.over,
            problem=self.problem,
            unconfirmed=self.unconfirmed,
            halt_problem="" if status.halted_after is not None else self.halt_problem,
        )

    def halted(self, status: Status, scope: str, after: float) -> None:
        self.halted_after, self.unconfirmed = after, status.unconfirmed
        self.incident_id = status.incident_id or self.incident_id

    def not_halted(self, problem: object) -> None:
        self.halt_problem = str(problem)

    def no_broker(self) -> None:
        self.problem = "No account is configured, so nothing was cancelled or closed. Close the book by hand."

    def began(self, run: KillRun) -> None:
        self.run = run

    def end(self) -> None:
        """The run is over; what it holds is let go."""
        if self.run is not None:
            self.last_status, self.run = kill_status(self.run), None
        self.ended_after = time.monotonic() - self.start.started

    def _not_begun(self) -> KillStatus:
        trip = self.start.trip
        return KillStatus(
            run_id=self.start.run_id,
            incident_id=self.incident_id,
            event_id=trip.event_id,
            scope=trip.scope,
            operator=trip.tripped_by,
            reason=self.start.reason,
            source=trip.source,
            host=socket.gethostname(),
            started_at=self.start.started_at,
            elapsed=self.ended_after if self.ended_after is not None else time.monotonic() - self.start.started,
            halted_after=self.halted_after,
            accounts=(),
            missing=(),
            reported=False,
            covers=str(self.start.coverage),
            over=self.over,
        )


class KillSwitchRuns:
    """The newest runs: this console's own as they are, and those that another process has told Redis of."""

    def __init__(
        self, running: RunningConfiguration, redis: Redis, authorization: Authorization, trip_reset: TripReset
    ) -> None:
        self._configuration = running
        self._redis = redis
        self._authorization = authorization
        self._trip_reset = trip_reset
        self._kills: OrderedDict[str, ConsoleKill] = OrderedDict()
        self._elsewhere: dict[str, KillStatus] = {}
        self._read_at = time.monotonic()
        self._tasks: set[asyncio.Task[None]] = set()
        # Not the threads on which everything else waits for a database.
        self._threads = ThreadPoolExecutor(_KEPT, thread_name_prefix="kill switch")

    def all(self) -> list[KillStatus]:
        """Every run that is known, newest first."""
        own = {kill.start.run_id: kill.status for kill in self._kills.values()}
        since = time.monotonic() - self._read_at
        others = [
            replace(status, silent_for=status.silent_for + since)
            for run_id, status in self._elsewhere.items()
            if run_id not in own
        ]
        return sorted([*own.values(), *others], key=lambda status: status.started_at, reverse=True)

    def of(self, incident_id: str) -> list[KillStatus]:
        """Every run of that incident, newest first."""
        return [status for status in self.all() if status.incident_id == incident_id]

    async def read_elsewhere(self) -> None:
        """Read what other processes tell of their runs; what can't be read goes on growing old."""
        with contextlib.suppress(RedisError, OSError):  # pages say themselves that Redis is away
            async with asyncio.timeout(READ_WITHIN):
                found = await read_kill_statuses(self._redis, self._elsewhere, _SHOWN)
            self._elsewhere = {status.run_id: status for status in found}
            self._read_at = time.monotonic()

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
        await self._authorization.require(caller, Permission.KILL_SWITCH)
        why = self._authorization.reason_of_halt(caller, reason)
        present = await asyncio.to_thread(self._configuration.present)
        coverage = coverage_now(present, scope, accounts or ())
        trip = self._trip_reset.requested_trip(
            caller, TripReason.KILL_SWITCH, coverage.scope, why, event_id, coverage.accounts
        )
        check_pending_trip(trip)
        start = KillStart(trip=trip, reason=why, coverage=coverage, without=present.problem)
        kill = ConsoleKill(start, trip.incident_id)
        halted = await halt(kill.start, self._trip_reset.make_trip, kill)
        if (same := self._joined(kill)) is not None:
            await self._note_joined(trip.event_id)
            return same
        self._keep(kill)
        task = asyncio.create_task(self._run(present.settings, kill, halted))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return kill.status

    async def coverage(self, scope: str) -> Coverage:
        """What a kill switch of that scope would touch by what is configured now. Raises InvalidInput."""
        present = await asyncio.to_thread(self._configuration.present)
        return coverage_now(present, scope)

    def _joined(self, asked: ConsoleKill) -> KillStatus | None:
        """The run that this request has started before, or one of ours in the incident that does what is asked for."""
        for status in self.all():
            if status.event_id == asked.start.trip.event_id and status.verdict != "NOT KNOWN":
                return status
        for kill in self._kills.values():
            # Where neither Redis nor the disk could be told, nothing says that it is one incident.
            same_scope = asked.halted_after is None and kill.start.coverage.scope == asked.start.coverage.scope
            ours = kill.incident_id == asked.incident_id or same_scope
            if ours and not kill.over and kill.start.coverage.contains(asked.start.coverage):
                return kill.status
        return None

    async def _note_joined(self, event_id: str) -> None:
        """So that nobody looks for a run of its own. One that is begun elsewhere all the same does no harm."""
        with contextlib.suppress(RedisError, OSError):
            async with asyncio.timeout(READ_WITHIN):
                await self._redis.hdel(ASKED_KILLS, event_id)

    async def finish(self) -> None:
        """Wait for what still runs; every run has a time limit of its own."""
        if self._tasks:
            await asyncio.wait(self._tasks)
        self._threads.shutdown(wait=False)

    def _keep(self, kill: ConsoleKill) -> None:
        self._kills[kill.start.trip.event_id] = kill
        while len(self._kills) > _KEPT:
            self._kills.popitem(last=False)

    async def _run(self, settings: Settings, kill: ConsoleKill, halted: Halt) -> None:
        try:
            work = sweep_and_flatten(settings, kill.start, _known(halted), kill)
            await asyncio.get_running_loop().run_in_executor(self._threads, asyncio.run, work)
        except Exception as error:  # whatever it was, the page must say so instead of showing progress for ever
            kill.problem = f"The kill switch broke off ({type(error).__name__}: {error}). Run it again; it is safe to."
        finally:
            kill.end()


async def _known(halted: Halt) -> Halt:
    """The trip was made, or failed, before the page came; the run's own thread need not wait for it."""
    return halted
