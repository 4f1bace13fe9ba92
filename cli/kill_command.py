"""Run `breaker kill`: halt first, before anything slow is imported; then cancel, flatten and prove it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import threading
import time
from dataclasses import replace
from functools import partial
from typing import Annotated, NoReturn

import typer

from breaker import BreakerError
from breaker.errors import InvalidInput
from breaker.keys import of_scope
from breaker.trip_reasons import TripReason
from brokers.coverage import coverage_of
from cli import kill_handover, kill_view, notices
from cli.acting_on import say_what_is_acted_on
from cli.environment import URL, through_console
from cli.exit_codes import EPILOG, Exit
from cli.lost_terminal import outliving_terminal
from cli.messages import say
from cli.options import (
    JsonOption,
    KillScopeOption,
    OperatorOrTokenOption,
    TripReasonOption,
    checked_scope,
    fit_for_halt,
    on_terminal,
)
from cli.process_clock import process_started
from cli.transitions import make_pending_trips, make_trip
from configuration.breakers import requested_trip, waiting_incident
from configuration.login import behind_sudo, login_name
from configuration.orchestrator import set_prefect_timeouts
from configuration.reasons import FLATTENS_IF_CONFIRMED, FLATTENS_NOTHING
from configuration.settings import ConfigurationError, Settings, load_settings
from flows.kill_start import Halt, KillStart, halt, load_procedure, sweep_and_flatten
from tasks.kill.report import KillReport
from tasks.kill.run import KillRun

TRIP_FIRST = 0.15
"""Seconds that Redis may take before the first sweep goes beside the trip: longer than a process that has its
connections open gives it, since what has to be imported for the sweep would hold up the trip's answer."""
EXIT_WITHIN = 5.0
"""Seconds after the result by which the process is gone, even if the orchestrator's client would not let it."""


def register(app: typer.Typer) -> None:
    app.command(epilog=EPILOG)(kill)


@outliving_terminal()
def kill(
    reason: TripReasonOption = "kill switch, no reason given",
    operator: OperatorOrTokenOption = None,
    scope: KillScopeOption = "global",
    account: Annotated[
        list[str] | None,
        typer.Option("--account", help="Of the scope only this account; may be repeated. The scope is tripped."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask: cancel and flatten at once.")] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Only resume what an earlier kill could not close; trips and asks nothing.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Halt trading, cancel every open order, flatten every position of the scope, prove it. For emergencies: it can't
    be undone.
    """
    started = process_started()
    why, operator = fit_for_halt(reason, operator)
    checked_scope(scope)
    if through_console():
        if resume:
            raise InvalidInput(f"--resume is local only: {URL} names a console, whose host resumes; nothing was done")
        from cli.remote_kill import kill_by_console  # noqa: PLC0415  not needed where the halt is made here

        kill_by_console(scope, why, operator, account, yes=yes, as_json=as_json)
    settings = load_settings()
    coverage = coverage_of(scope, settings.accounts, account or ())
    scope = coverage.scope
    say_what_is_acted_on(settings, coverage.accounts)
    view = kill_view.KillView(quiet=as_json)
    if resume:
        from cli.kill_resume import resume_by_hand  # noqa: PLC0415  halting doesn't pay for it

        _exit(resume_by_hand(settings, operator or login_name(), coverage, view, as_json=as_json))
    document = _Document()
    if as_json:
        view = kill_view.KillView(quiet=True, answer=lambda report: document.print(True, report, None, view))
    trip = requested_trip(
        TripReason.KILL_SWITCH,
        operator=operator or login_name(),
        login=login_name(),
        sudo=behind_sudo(),
        why=why,
        scope=scope,
        source="cli",
        incident_id=waiting_incident(settings, scope),
        flattens="" if yes or not coverage.accounts else FLATTENS_IF_CONFIRMED if on_terminal() else FLATTENS_NOTHING,
        closes=coverage.accounts if yes else (),
    )
    if (session := kill_handover.session) is not None:
        from services.kill_messages import follow  # noqa: PLC0415  only with a standby

        try:
            followed = follow(session.messages(), session.incident_id, view)
        except KeyboardInterrupt:
            say(f"the standby goes on with it, followed or not; look with: `breaker status{of_scope(scope)}`")
            _exit(Exit.NOT_FLAT if view.is_halted else Exit.NOT_HALTED)
        if followed.ended:
            _leave(followed.halted, followed.report, None, view, document if as_json else None)
        view.standby_lost(followed.problem)
        # The same ids: what the standby has done already is not done again.
        trip = replace(trip, event_id=session.event_id, incident_id=session.incident_id)
    start = KillStart(trip=trip, reason=why, coverage=coverage, started=started)
    try:
        halted, report = asyncio.run(_kill(settings, start, view, yes))
    except KeyboardInterrupt:
        _withdraw(settings, start)
        view.interrupted(coverage)
        _tell_if_declined(settings, start, view)
        _exit(Exit.NOT_FLAT if view.is_halted else Exit.NOT_HALTED)
    if report is None and not _asks(start):  # the procedure, which tells of its start, did not run
        _tell_of_halt(settings, start, halted)
    _tell_if_declined(settings, start, view)
    is_halted = halted.status is not None or _halted_meanwhile(settings, report, view)
    _leave(is_halted, report, halted.after, view, document if as_json else None)


_loader = threading.Thread(target=load_procedure, name="procedure", daemon=True)


async def _kill(
    settings: Settings, start: KillStart, view: kill_view.KillView, yes: bool
) -> tuple[Halt, KillReport | None]:
    # On a thread: it waits for Redis, and this loop has more to do meanwhile.
    async def halt_now() -> Halt:
        halted = await halt(start, lambda trip: asyncio.to_thread(make_trip, settings, trip), view)
        if _asks(start):
            _tell_of_halt(settings, start, halted, during_question=True)
        return halted

    tripping = asyncio.create_task(halt_now())
    if start.trip.details.get("flattens") == FLATTENS_NOTHING:
        halted = await tripping
        view.not_confirmed()
        return halted, None
    set_prefect_timeouts()
    try:
        run = await sweep_and_flatten(
            settings,
            start,
            tripping,
            view,
            confirm=None if yes else partial(_confirm, view),
            trip_first=TRIP_FIRST,
        )
    except ConfigurationError as error:
        view.not_flattened(error)
        run = None
    return await tripping, run.report if run else None


async def _confirm(view: kill_view.KillView, run: KillRun) -> bool:
    """Show what there is, and ask."""
    _loader.start()  # while the person reads
    run.start_told = True
    await view.show_book(run)
    confirmed = await view.confirmed(run.coverage)
    if not confirmed:
        view.declined(run.coverage)
    return confirmed


def _asks(start: KillStart) -> bool:
    """Before it flattens; people are told at the halt then, and once more if it is declined."""
    return start.trip.details.get("flattens") == FLATTENS_IF_CONFIRMED


def _tell_of_halt(settings: Settings, start: KillStart, halted: Halt, *, during_question: bool = False) -> None:
    if halted.status is not None:
        notices.tell_transitions(settings, start.trip.scope, during_question=during_question)
    else:
        why = (
            "Nothing was cancelled or flattened yet." if _asks(start) else "Nothing was cancelled or flattened either."
        )
        notices.tell_undelivered_trip(settings, start.trip, why, during_question=during_question)


def _tell_if_declined(settings: Settings, start: KillStart, view: kill_view.KillView) -> None:
    if _asks(start) and not view.is_confirmed:
        incident_id = view.incident_id or start.trip.incident_id
        notices.tell_declined_kill(settings, start.trip, incident_id, start.coverage.accounts, halted=view.is_halted)


def _withdraw(settings: Settings, start: KillStart) -> None:
    """What is broken off here, before it has begun even, is neither begun nor gone on with elsewhere."""
    trip = start.trip
    from redis.exceptions import RedisError  # noqa: PLC0415  hardly ever

    from tasks.kill.asked_kills import withdraw  # noqa: PLC0415

    try:
        if host := withdraw(settings, trip.event_id, start.run_id):
            say(f"a standby on {host} has begun it and goes on; look with: `breaker status{of_scope(trip.scope)}`")
    except (RedisError, OSError) as error:
        if "closes" in trip.details:
            say(f"a standby may begin it all the same, as Redis could not be told ({type(error).__name__})")


def _halted_meanwhile(settings: Settings, report: KillReport | None, view: kill_view.KillView) -> bool:
    """Whether the run found Redis back and made the trip; then it need not wait on the disk any longer."""
    if report is None or report.halted_after is None:
        return False
    try:
        make_pending_trips(settings)
    except BreakerError as error:
        view.not_halted(error)
        return False
    view.halted_late()
    return True


class _Document:
    """The one that `--json` prints: as soon as it is known, as the record of it may take long without Prefect."""

    def __init__(self) -> None:
        self._printed = False

    def print(
        self, halted: bool, report: KillReport | None, halted_after: float | None, view: kill_view.KillView
    ) -> None:
        if self._printed:
            return
        self._printed = True
        body = report.as_dict() if report else {"flat": False, "accounts": [], "halted_after": halted_after}
        typer.echo(json.dumps({"halted": halted, "unconfirmed": view.unconfirmed, **body}))
        sys.stdout.flush()


def _leave(
    halted: bool,
    report: KillReport | None,
    halted_after: float | None,
    view: kill_view.KillView,
    document: _Document | None,
) -> NoReturn:
    if document is not None:
        document.print(halted, report, halted_after, view)
    status = Exit.NOT_HALTED
    if halted and view.unconfirmed is None:
        status = Exit.OK if report is not None and report.flat else Exit.NOT_FLAT
    _exit(status)


def _exit(status: Exit) -> NoReturn:
    """Leave normally, so that what was started is stopped; but leave.

    At once while the procedure is still being imported: it has started nothing then, and a thread that imports compiled
    modules takes the process down with it when the interpreter ends.
    """
    notices.finish()

    def force() -> None:
        time.sleep(EXIT_WITHIN)
        os._exit(status)

    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    if _loader.is_alive():
        os._exit(status)
    threading.Thread(target=force, daemon=True).start()
    raise typer.Exit(status)
