"""Run `breaker trip | status | reset | init | history`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from breaker.errors import InvalidInput
from breaker.keys import GLOBAL, of_scope
from breaker.state import State, Status
from cli import circuit_view
from cli.acting_on import ask_whether_meant, say_what_is_acted_on, scope_of
from cli.circuit import Circuit, open_circuit
from cli.environment import through_console
from cli.exit_codes import EPILOG, Exit
from cli.messages import say
from cli.options import (
    ClaimedOption,
    JsonOption,
    OperatorOption,
    OperatorOrTokenOption,
    RebaseOption,
    ResetOptions,
    ScopeOption,
    TripReasonOption,
    checked_scope,
    fit_for_halt,
    on_terminal,
)
from cli.prompts import agreed
from cli.transitions import make_pending_trips, record_transitions
from configuration.login import login_name
from configuration.reasons import MIN_REASON, checked_reason
from configuration.settings import load_settings
from tasks.kill import venue_lock
from tasks.kill.pending_exits import as_dict


def register(app: typer.Typer) -> None:
    for command in (trip, status, reset, init, history):
        app.command(epilog=EPILOG)(command)


def trip(
    reason: TripReasonOption = "tripped by hand, no reason given",
    operator: OperatorOrTokenOption = None,
    scope: ScopeOption = "global",
    as_json: JsonOption = False,
) -> None:
    """Halt trading: from now on only orders that reduce risk pass. Orders and positions are left as they are."""
    why, operator = fit_for_halt(reason, operator)
    checked_scope(scope)
    circuit = open_circuit()
    circuit.say_what_is_acted_on()
    scope, after = circuit.trip(scope, why, operator)
    _show(after, scope, as_json)
    circuit.tell(scope)
    circuit.record(scope)
    if not as_json:
        circuit_view.next_step(
            f"open orders and positions are untouched; to close them: `breaker kill{of_scope(scope)}`"
        )
    if after.unconfirmed:
        say(
            f"tripped, but not as durably as configured, so a crash of Redis may lose it: {after.unconfirmed} Keep the "
            "engines stopped, and look with `breaker doctor`"
        )
        raise typer.Exit(Exit.NOT_HALTED)


def status(scope: ScopeOption = "global", as_json: JsonOption = False) -> None:
    """The breaker's state, read afresh; of global also the other breakers that are not OPEN."""
    circuit = open_circuit()
    named = circuit.named(scope)
    scope = named.scope
    now, pending, locks = circuit.status(scope), circuit.pending_exits(scope), circuit.venue_locks(scope)
    others = circuit.restricted(scope) if now.state is not State.UNKNOWN or now.as_of else {}
    if as_json:
        restricted = [{"scope": name, **each} for name, each in others.items()]
        exits = [as_dict(each) for each in pending.exits]
        held = [venue_lock.as_dict(lock) for lock in locks.held]
        beside = {
            "pending_exits": exits,
            "venue_locks": held,
            **({"restricted": restricted} if scope == GLOBAL else {}),
        }
        typer.echo(json.dumps({"scope": scope, "target": circuit.target(), **now, **beside}))
    else:
        circuit_view.show_status(now, scope, circuit.target())
        circuit_view.show_restricted(others)
        circuit_view.show_pending_exits(circuit_view.console(), pending.exits)
        circuit_view.show_venue_locks(circuit_view.console(), locks.held)
    if now.state is State.UNKNOWN:
        if named.doubt:
            ask_whether_meant(named)
        raise typer.Exit(Exit.NOT_HALTED)
    for problem in (*pending.problems, *pending.elsewhere, *locks.problems):
        say(problem)


def reset(
    reason: Annotated[str, typer.Option("--reason", help=f"Why trading may resume, {MIN_REASON} characters or more.")],
    acknowledge: Annotated[
        bool, typer.Option("--acknowledge", help="Confirm that the cause is understood and conditions are normal.")
    ] = False,
    override: Annotated[
        str,
        typer.Option("--override", help="Why to reset although something is red; what is pending is given up then."),
    ] = "",
    rebase_equity: RebaseOption = False,
    drop_pending: Annotated[
        str, typer.Option("--drop-pending", help="Where nothing is tripped: why pending exits are given up.")
    ] = "",
    operator: ClaimedOption = None,
    scope: ScopeOption = "global",
    as_json: JsonOption = False,
) -> None:
    """End a trip: a quiet period begins, after which trading is normal. At most one reset a minute.

    It takes somebody with RESET_CIRCUIT who has not tripped it (recovery.two_person), and nothing red; or an override.
    """
    why, why_override = checked_reason(reason), checked_reason(override) if override else ""
    circuit = open_circuit()
    circuit.say_what_is_acted_on()
    named = circuit.named(scope)
    scope, before = named.scope, circuit.status(named.scope)
    if named.doubt and before.state is State.UNKNOWN:
        ask_whether_meant(named)
    if drop_pending:
        _drop_pending(circuit, before, scope, checked_reason(drop_pending), operator)
        return
    if before.ends_watched and not through_console():
        say(f"nothing to reset: {scope} is in the quiet period of a reset, which ends by its watch")
        _show(before, scope, as_json)
        circuit.watch(scope)
        return
    foreseen = "" if rebase_equity else circuit.foreseen_trip(scope)
    if foreseen:
        say(foreseen)
    if foreseen and not acknowledge and on_terminal():
        rebase_equity = agreed("Begin the high-water mark anew (re-base)?")
    if not acknowledge:
        circuit_view.ask_for(
            "RESET",
            "The cause is understood and conditions are normal.",
            before,
            scope,
            option="--acknowledge (make: YES=1)",
            otherwise="not acknowledged; nothing changed",
        )
    # What was looked at is what is reset: a trip that came in the meantime is not undone.
    expected = before.epoch if before.state is State.TRIPPED else None
    asked = ResetOptions(scope, why, why_override, operator, expected, rebase_equity)
    _show(circuit.reset(asked), scope, as_json)
    circuit.tell(scope)
    circuit.record(scope)
    if not as_json:
        circuit_view.next_step(f"if anything looks wrong: `breaker trip{of_scope(scope)}`")
    circuit.watch(scope)


def _drop_pending(circuit: Circuit, before: Status, scope: str, why: str, operator: str | None) -> None:
    """Only where there is nothing to reset, and so nobody would resume them."""
    if before.state not in (State.OPEN, State.QUIET_PERIOD):
        raise InvalidInput(
            f"{scope} is {before.state}: what is pending is closed by itself while it is TRIPPED. To reset all the "
            "same and give it up, use --override with the reason; nothing changed"
        )
    circuit.drop_pending_exits(scope, why, operator)


def init(
    force: Annotated[
        bool, typer.Option("--force", help="Replace a state that cannot be read. Never replaces a trip.")
    ] = False,
    reason: Annotated[
        str,
        typer.Option("--reason", help=f"With --force, where the ledger can't be asked: why, {MIN_REASON} characters."),
    ] = "",
    second_person: Annotated[
        str | None,
        typer.Option(
            "--second-person",
            help="Who answers for that too, where two persons have to: with RESET_CIRCUIT, kept as claimed.",
        ),
    ] = None,
    operator: OperatorOption = None,
    scope: ScopeOption = "global",
    as_json: JsonOption = False,
) -> None:
    """Write the first state where there is none: OPEN, or TRIPPED where the ledger knows of a trip without a reset."""
    from tasks.initialization import WithoutLedger, initialize  # noqa: PLC0415  SQLAlchemy is slow to import

    settings = load_settings()
    if reason and not force:
        raise typer.BadParameter(
            "it says why a state is written without the ledger: give --force too", param_hint="--reason"
        )
    answer = WithoutLedger(checked_reason(reason), second_person) if reason else None
    say_what_is_acted_on(settings)
    scope = scope_of(settings, scope)
    make_pending_trips(settings)
    after = initialize(settings, scope, by=operator or login_name(), source="cli", force=force, without_ledger=answer)
    _show(after, scope, as_json)
    record_transitions(settings, scope)
    if after.state is State.TRIPPED and not as_json:
        circuit_view.next_step(f"trading stays halted; `breaker recover --watch{of_scope(scope)}` walks back to it")


def history(
    limit: Annotated[int, typer.Option("--limit", min=1, max=1000, help="How many, newest first.")] = 10,
    scope: ScopeOption = "global",
    as_json: JsonOption = False,
) -> None:
    """The latest transitions, newest first; from the audit log where Redis does not tell them."""
    circuit = open_circuit()
    named = circuit.named(scope)
    scope, events = named.scope, circuit.history(named.scope, limit)
    if named.doubt and not events:
        ask_whether_meant(named)
    if as_json:
        for event in events:
            typer.echo(event.raw)
    else:
        circuit_view.show_history(events, scope)
    if events.unreadable:
        say(circuit_view.unreadable_sentence(events.unreadable))


def _show(status: Status, scope: str, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps({"scope": scope, **status}))
    else:
        circuit_view.show_status(status, scope)
