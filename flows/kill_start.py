"""Trip, sweep and flatten, the same for command line, standby and console.

Nothing that is slow to import stands before the trip, and the orchestrator's client, which is slowest, comes after the
first sweep. Who asked decides how the trip is made and what is shown of the run.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Protocol

from breaker.errors import BreakerError, InvalidInput
from breaker.pending_trips import PendingTrip
from breaker.state import Status
from breaker.uuid7 import uuid7
from brokers.coverage import Coverage, coverage_of
from configuration.settings import Settings
from flows.kill_sweep import FirstSweep

if TYPE_CHECKING:
    from brokers.protocol import Broker
    from brokers.sweep import SweepResult
    from configuration.running import Present
    from tasks.kill.account import AccountProgress
    from tasks.kill.report import KillReport
    from tasks.kill.run import KillRun

TRIP_FIRST = 0.1
"""Seconds that Redis may take to answer before the first sweep is sent beside the trip."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KillStart:
    """What is asked for, and since when."""

    trip: PendingTrip
    reason: str
    coverage: Coverage
    """What is cancelled and closed; `trip` is of the scope that covers it."""
    without: str = ""
    """Why the configuration as it is now is not what it goes by; empty where it is. An account may be missing then."""
    started: float = field(default_factory=time.monotonic)
    """On the clock of `time.monotonic()`; the run's durations count from it."""
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    run_id: str = field(default_factory=uuid7)
    closes_as: Mapping[str, str] | None = None
    """Of a run that is taken over, by account, the incident that its closes are named by; None of one that begins."""


def coverage_now(present: Present, scope: str, asked: Iterable[str] = ()) -> Coverage:
    """What a kill switch of a resident process covers. Raises InvalidInput, as `coverage_of`."""
    try:
        return coverage_of(scope, present.settings.accounts, asked)
    except InvalidInput as error:
        raise InvalidInput(f"{error} Not read: {present.problem}" if present.problem else str(error)) from None


@dataclass(frozen=True, slots=True)
class Halt:
    """What came of the trip: the state after it, and seconds from the start; neither if Redis could not be told."""

    status: Status | None = None
    after: float | None = None


class RunKillSwitch(Protocol):
    """The procedure; see `flows.kill_switch.run_kill_switch`."""

    async def __call__(
        self,
        run: KillRun,
        announce: Callable[[KillReport], None],
        announce_costs: Callable[[KillReport], None] = ...,
    ) -> KillReport: ...


class RunProgress(Protocol):
    """A run that goes on, in this process or in another one."""

    @property
    def incident_id(self) -> str: ...
    @property
    def elapsed(self) -> float: ...
    @property
    def progress(self) -> Mapping[str, AccountProgress]: ...


class KillDisplay:
    """What whoever asked is shown of it, as it comes: nothing, but for what is overridden."""

    __slots__ = ()

    def halted(self, status: Status, scope: str, after: float) -> None:
        """The trip is made: the state after it, and seconds from the start."""

    def not_halted(self, problem: object) -> None:
        """The trip was not made; cancelling and flattening goes on all the same."""

    def no_broker(self) -> None:
        """No account is configured: nothing is cancelled or flattened."""

    def began(self, run: KillRun) -> None:
        """The run is open."""

    def swept(self, results: Sequence[SweepResult], after: float) -> None:
        """The venues have answered the first sweep, seconds from the start."""

    def live(self, run: RunProgress) -> AbstractContextManager[None]:
        """Show the run's progress while the block goes on."""
        return nullcontext()

    def report(self, report: KillReport) -> None:
        """The result; what follows is only its record."""

    def costs(self, report: KillReport) -> None:
        """What the exit cost, once it is known, or why it is not."""

    def done_without(self, missing: Sequence[str]) -> None:
        """The run is over and on record, but for what could not be reached."""


async def halt(start: KillStart, make_trip: Callable[[PendingTrip], Awaitable[Status]], display: KillDisplay) -> Halt:
    """Make the trip. A breaker that can't be tripped doesn't keep the book from being closed."""
    try:
        status = await make_trip(start.trip)
    except BreakerError as error:
        display.not_halted(error)
        return Halt()
    after = time.monotonic() - start.started
    display.halted(status, start.trip.scope, after)
    return Halt(status, after)


async def sweep_and_flatten(
    settings: Settings,
    start: KillStart,
    halting: Awaitable[Halt],
    display: KillDisplay,
    *,
    opened: Mapping[str, Broker] | None = None,
    confirm: Callable[[KillRun], Awaitable[bool]] | None = None,
    trip_first: float = TRIP_FIRST,
) -> KillRun | None:
    """Cancel what is open once the trip is made, then run the procedure; returns the run when it is over.

    None where no account is configured; a run without a report is one that was not confirmed.

    If Redis is silent for `trip_first` seconds the cancels go out beside the trip. Gates that it can't tell close by
    their own leases, so nothing new is placed behind them. Otherwise it is on disk that the run has begun before
    anything is cancelled, except by a process that has the accounts' brokers `opened` (they are left open): it sweeps
    first, as writing that takes as long as everything else that it does before. With `confirm`, nothing is cancelled
    until it has returned True.

    Raises:
        ConfigurationError: no account's adapter can be opened. The trip has been made, or has failed, by then.
    """
    tripping = asyncio.ensure_future(halting)
    await asyncio.wait({tripping}, timeout=None if confirm else trip_first)
    if not start.coverage.accounts:
        await tripping
        display.no_broker()
        return None
    try:
        async with (
            _brokers(settings, start.coverage.accounts, opened) as brokers,
            FirstSweep(start.started, start.coverage, settings.kill, display.swept) as sweep,
        ):
            if confirm is None and (opened is not None or not tripping.done()):
                incident = _incident(start, tripping.result() if tripping.done() else Halt())
                sweep.begin(brokers, incident)
                await (sweep.answered() if opened is None else _told_beside(sweep, settings, start, incident))
            await asyncio.wait({tripping}, timeout=settings.redis_timeout)
            made = tripping.result() if tripping.done() else Halt()
            return await _flatten(settings, start, made, display, brokers, sweep, confirm)
    finally:
        await asyncio.wait({tripping}, timeout=settings.redis_timeout)  # whatever else fails, its answer is shown


async def _flatten(
    settings: Settings,
    start: KillStart,
    made: Halt,
    display: KillDisplay,
    brokers: Mapping[str, Broker],
    sweep: FirstSweep,
    confirm: Callable[[KillRun], Awaitable[bool]] | None,
) -> KillRun:
    from flows.kill_context import open_kill_run  # noqa: PLC0415  after the trip

    async with open_kill_run(
        reason=start.reason,
        operator=start.trip.tripped_by,
        incident_id=_incident(start, made),
        accounts=start.coverage.accounts,
        scope=start.coverage.scope,
        source=start.trip.source,
        record_at_once=False,  # importing what writes the ledger would hold up the sweep
        settings=settings,
        trip_event_id=start.trip.event_id,
        opened=brokers,
        closes_as=start.closes_as,
    ) as run:
        run.run_id, run.started_at, run.clock.started = start.run_id, start.started_at, start.started
        run.halted_after = made.after
        run.asking = confirm is not None
        if start.without:
            run.record_missing(start.without)
            run.unknown = start.without if start.coverage.every_account else ""
        display.began(run)
        if await _confirmed(run, confirm):
            with ended_if_interrupted(run):
                if not sweep.begun:
                    sweep.begin(brokers, run.incident_id)
                    await sweep.answered()
                sweep.hand_to(run)
                if run.trail is not None:
                    run.trail.start()
                run_kill_switch = await asyncio.to_thread(load_procedure)
                with display.live(run):
                    await run_kill_switch(run, display.report, display.costs)
    display.done_without(run.missing)
    return run


async def _confirmed(run: KillRun, confirm: Callable[[KillRun], Awaitable[bool]] | None) -> bool:
    """A run that is not confirmed has an end like any other, or it would be taken for one that is still at work."""
    confirmed = False
    try:
        confirmed = confirm is None or await confirm(run)
    finally:
        run.asking = False
        if not confirmed:
            run.declined = True
            run.record("KILL_SWITCH_FINISHED", declined=True)
    return confirmed


@contextmanager
def ended_if_interrupted(run: KillRun) -> Iterator[None]:
    """A run that is cancelled, as by Ctrl-C, has an end too, with what was open at the last reading."""
    try:
        yield
    except asyncio.CancelledError:
        if run.report is None:
            left = {
                account.account: {"orders": account.orders_open, "positions": account.positions_open}
                for account in run.progress.values()
            }
            run.record("KILL_SWITCH_FINISHED", interrupted=True, flat=False, open=left)
        raise


def load_procedure() -> RunKillSwitch:
    """Import the kill switch, and with it the orchestrator's client, which takes a second in a new process."""
    from flows.kill_switch import run_kill_switch  # noqa: PLC0415

    return run_kill_switch


async def _told_beside(sweep: FirstSweep, settings: Settings, start: KillStart, incident_id: str) -> None:
    """Tell of the run while its first sweep is under way, as it is not open yet: whoever dies in it is taken over."""
    await asyncio.sleep(0)  # its requests go first
    telling = asyncio.create_task(_tell_that_it_began(settings, start, incident_id))
    try:
        await sweep.answered()
    finally:
        telling.cancel()  # what could not be told by now, the run tells itself
        await asyncio.gather(telling, return_exceptions=True)


async def _tell_that_it_began(settings: Settings, start: KillStart, incident_id: str) -> None:
    from tasks.kill.status import KillStatus  # noqa: PLC0415  after the trip
    from tasks.kill.status_feed import publish_beginning  # noqa: PLC0415

    beginning = KillStatus(
        run_id=start.run_id,
        incident_id=incident_id,
        event_id=start.trip.event_id,
        scope=start.coverage.scope,
        operator=start.trip.tripped_by,
        reason=start.reason,
        source=start.trip.source,
        host=socket.gethostname(),
        started_at=start.started_at,
        elapsed=time.monotonic() - start.started,
        halted_after=None,
        accounts=(),
        missing=(),
        reported=False,
        over=False,
        covered=tuple(start.coverage.accounts),
        covers=str(start.coverage),
    )
    await publish_beginning(beginning, settings)


def _incident(start: KillStart, made: Halt) -> str:
    """The incident of a breaker that was halted before, else the trip's own."""
    return (made.status.incident_id if made.status else None) or start.trip.incident_id


@asynccontextmanager
async def _brokers(
    settings: Settings, accounts: Sequence[str], opened: Mapping[str, Broker] | None
) -> AsyncIterator[Mapping[str, Broker]]:
    """The accounts' brokers: those that are open already, and for the others new ones that are closed at the end."""
    from brokers.registry import close_brokers, open_those_that_open  # noqa: PLC0415  after the trip

    lent = opened or {}
    own = open_those_that_open(
        {name: settings.accounts[name] for name in accounts if name not in lent}, markets_dir=settings.markets_dir
    )
    try:
        yield {name: lent[name] if name in lent else own[name] for name in accounts}
    finally:
        await close_brokers(own.values())
