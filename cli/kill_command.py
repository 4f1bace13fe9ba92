"""`breaker kill`: halt first, in this process, before anything slow is imported; then cancel, flatten and prove it."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import os
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

import typer

from breaker import BreakerError
from breaker.pending_trips import PendingTrip, PendingTrips
from breaker.state import Status
from breaker.trip_reasons import TripReason
from breaker.uuid7 import uuid7
from cli import kill_handover, kill_view
from cli.exit_codes import EPILOG, Exit
from cli.options import (
    JsonOption,
    OperatorOption,
    ScopeOption,
    checked_scope,
    login_name,
    on_terminal,
)
from cli.process_clock import process_started
from cli.transitions import make_trip, tell_of_pending_trips
from configuration.reasons import checked_reason
from configuration.settings import ConfigurationError, Settings, load_settings
from tasks.kill.report import KillReport
from tasks.kill.run import KillRun

if TYPE_CHECKING:
    from brokers.sweep import SweepResult

TRIP_FIRST = 0.15
"""Seconds that Redis may take to answer before the first sweep is sent beside the trip."""
EXIT_WITHIN = 5.0
"""Seconds after the result by which the process is gone, even if the orchestrator's client would not let it."""


@dataclass(frozen=True, slots=True)
class FirstSweep:
    """What each account's venue answered, `after` so many seconds from the start."""

    results: Sequence[SweepResult]
    after: float


def register(app: typer.Typer) -> None:
    app.command(epilog=EPILOG)(kill)


def kill(
    reason: Annotated[str, typer.Option("--reason", help="Why, in a sentence.")] = "kill switch, no reason given",
    operator: OperatorOption = None,
    scope: ScopeOption = "global",
    account: Annotated[
        list[str] | None, typer.Option("--account", help="Only this account; may be repeated. All of them otherwise.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask: cancel and flatten at once.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Halt trading, cancel every open order, flatten every position, prove it. For emergencies: it can't be undone."""
    started = process_started()
    why = checked_reason(reason, at_least=1)
    checked_scope(scope)
    settings = load_settings()
    accounts = [name.upper() for name in account or settings.accounts]
    unknown = [name for name in accounts if name not in settings.accounts]
    if unknown:
        raise typer.BadParameter(
            f"no account {', '.join(unknown)} is configured; nothing changed, not even halted", param_hint="--account"
        )
    view = kill_view.KillView(quiet=as_json)
    who = operator or login_name()
    # Kill switches of one incident know each other's closes, also while Redis can't say that it is one incident.
    incident_id = PendingTrips(settings.pending_trips_dir).incident_of(scope) or uuid7()
    trip = PendingTrip(
        reason=TripReason.KILL_SWITCH,
        details={"operator": who, "reason": why},
        tripped_by=who,
        scope=scope,
        source="cli",
        incident_id=incident_id,
    )
    if kill_handover.handed is not None:
        from cli.kill_follow import follow  # noqa: PLC0415  only with a standby

        followed = follow(kill_handover.handed, view)
        if followed.ended:
            if as_json:
                _print_json(followed.halted, followed.report, None)
            _leave(_exit_status(followed.halted, followed.report))
        view.standby_lost(followed.problem)
        # The same ids: what the standby has done already is not done again.
        ids = kill_handover.handed.acknowledgement
        trip = replace(trip, event_id=ids["event_id"], incident_id=ids["incident_id"])
    tripping = ThreadPoolExecutor(1, "trip").submit(_trip, settings, trip, started)
    early = _sweep_beside(tripping, settings, accounts, view, started) if yes else None
    status, halted_after = _halt(tripping, trip, view)
    outcome = _flatten(settings, trip, why, status, halted_after, accounts, yes, early, view, started)
    halted = status is not None or _halted_meanwhile(settings, outcome, view)
    if as_json:
        _print_json(halted, outcome, halted_after)
    _leave(_exit_status(halted, outcome))


def _trip(settings: Settings, trip: PendingTrip, started: float) -> tuple[Status, float]:
    status = make_trip(settings, trip)
    return status, time.monotonic() - started


def _halt(
    tripping: Future[tuple[Status, float]], trip: PendingTrip, view: kill_view.KillView
) -> tuple[Status | None, float | None]:
    """The trip's answer, and how long after the start it came; neither when Redis could not be told."""
    try:
        status, halted_after = tripping.result()
    except BreakerError as error:
        view.not_halted(error)
        return None, None
    view.halted(status, trip.scope, halted_after)
    return status, halted_after


def _sweep_beside(
    tripping: Future[tuple[Status, float]],
    settings: Settings,
    accounts: Sequence[str],
    view: kill_view.KillView,
    started: float,
) -> FirstSweep | None:
    """Cancel what is open while Redis is still silent; None when it was not, and there is nothing to do meanwhile.

    Gates that Redis can't tell close by their own leases, so that nothing new is placed behind it.
    """
    if not accounts or wait([tripping], TRIP_FIRST).done:
        return None
    from brokers.registry import open_brokers  # noqa: PLC0415  the trip has been sent
    from brokers.sweep import first_sweep  # noqa: PLC0415

    async def sweep() -> Sequence[SweepResult]:
        brokers = open_brokers({name: settings.accounts[name] for name in accounts})
        try:
            return await first_sweep(brokers.values(), settings.kill.first_sweep_timeout, settings.kill.cancel)
        finally:
            for broker in brokers.values():
                await broker.aclose()

    try:
        early = FirstSweep(asyncio.run(sweep()), time.monotonic() - started)
    except Exception:  # the procedure that follows opens the same accounts, and tells what is the matter
        return None
    view.swept(early.results, early.after)
    return early


def _halted_meanwhile(settings: Settings, outcome: KillReport | None, view: kill_view.KillView) -> bool:
    """Whether the run found Redis back and made the trip; then it need not wait on the disk any longer."""
    if outcome is None or outcome.halted_after is None:
        return False
    try:
        tell_of_pending_trips(settings)
    except BreakerError as error:
        view.not_halted(error)
        return False
    view.halted_late()
    return True


def _flatten(
    settings: Settings,
    trip: PendingTrip,
    reason: str,
    status: Status | None,
    halted_after: float | None,
    accounts: list[str],
    yes: bool,
    early: FirstSweep | None,
    view: kill_view.KillView,
    started: float,
) -> KillReport | None:
    if not accounts:
        view.no_broker()
        return None
    if not yes and not on_terminal():
        view.not_confirmed()
        return None
    from configuration.orchestrator import set_prefect_timeouts  # noqa: PLC0415  after the trip

    set_prefect_timeouts()
    loading = threading.Thread(target=importlib.import_module, args=("flows.kill_switch",), daemon=True)
    incident_id = (status.incident_id if status else None) or trip.incident_id

    async def run() -> KillReport | None:
        from flows.kill_context import open_kill_run  # noqa: PLC0415  after the trip

        async with open_kill_run(
            reason=reason,
            operator=trip.tripped_by,
            incident_id=incident_id,
            accounts=accounts,
            scope=trip.scope,
            source="cli",
            record_at_once=False,
            settings=settings,
            trip_event_id=trip.event_id,
        ) as kill_run:
            kill_run.clock.started, kill_run.halted_after = started, halted_after
            report = await _confirm_and_run(kill_run, yes, early, view, loading)
        view.done_without(kill_run.missing)
        return report

    try:
        return asyncio.run(run())
    except ConfigurationError as error:
        view.not_flattened(error)
        return None


async def _confirm_and_run(
    run: KillRun, yes: bool, early: FirstSweep | None, view: kill_view.KillView, loading: threading.Thread
) -> KillReport | None:
    from brokers.sweep import first_sweep  # noqa: PLC0415  after the trip
    from flows.kill_context import record_sweep  # noqa: PLC0415

    if not yes:
        loading.start()  # while the person reads
        await view.show_book(run)
        if not await view.confirmed():
            view.declined()
            return None
    sweep = early
    if sweep is None:
        results = await first_sweep(run.brokers.values(), run.settings.first_sweep_timeout, run.settings.cancel)
        sweep = FirstSweep(results, run.elapsed)
        view.swept(sweep.results, sweep.after)
    run.first_sweep_after = sweep.after
    if yes:
        loading.start()  # not before: importing in a thread holds up the sweep
    record_sweep(run, sweep.results)
    if run.trail is not None:
        run.trail.start()
    await asyncio.to_thread(loading.join)
    from flows.kill_switch import run_kill_switch  # noqa: PLC0415  the slow import, done meanwhile

    with view.live(run):
        return await run_kill_switch(run, view.report)


def _print_json(halted: bool, report: KillReport | None, halted_after: float | None) -> None:
    body = report.as_dict() if report else {"flat": False, "accounts": [], "halted_after": halted_after}
    typer.echo(json.dumps({"halted": halted, **body}))


def _exit_status(halted: bool, report: KillReport | None) -> Exit:
    if not halted:
        return Exit.NOT_HALTED
    return Exit.OK if report is not None and report.flat else Exit.NOT_FLAT


def _leave(status: Exit) -> None:
    """Leave normally, so that what was started is stopped; but leave."""

    def force() -> None:
        time.sleep(EXIT_WITHIN)
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
        os._exit(status)

    threading.Thread(target=force, daemon=True).start()
    raise typer.Exit(status)
