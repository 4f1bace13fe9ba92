"""Run `breaker trip | status | reset | init | history`."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

from breaker.state import State, Status
from cli import circuit_view
from cli.circuit import open_circuit
from cli.exit_codes import EPILOG, Exit
from cli.login import login_name
from cli.options import JsonOption, OperatorOption, OperatorOrTokenOption, ScopeOption, TripReasonOption, checked_scope
from cli.transitions import open_breaker, record_transitions
from configuration.reasons import MIN_REASON, checked_reason
from configuration.settings import load_settings


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
    why = checked_reason(reason, at_least=1)
    checked_scope(scope)
    circuit = open_circuit()
    after = circuit.trip(scope, why, operator)
    if after.unconfirmed:
        sys.stderr.write(f"breaker: tripped, but not known to outlive a crash of Redis: {after.unconfirmed}\n")
    _show(after, scope, as_json)
    circuit.record(scope)
    if not as_json:
        circuit_view.next_step("open orders and positions are untouched; to close them: make kill-switch")


def status(scope: ScopeOption = "global", as_json: JsonOption = False) -> None:
    """The breaker's state, read afresh."""
    now = open_circuit().status(scope)
    _show(now, scope, as_json)
    if now.state is State.UNKNOWN:
        raise typer.Exit(Exit.NOT_HALTED)


def reset(
    reason: Annotated[str, typer.Option("--reason", help=f"Why trading may resume, {MIN_REASON} characters or more.")],
    acknowledge: Annotated[
        bool, typer.Option("--acknowledge", help="Confirm that the cause is understood and conditions are normal.")
    ] = False,
    operator: OperatorOrTokenOption = None,
    scope: ScopeOption = "global",
    as_json: JsonOption = False,
) -> None:
    """End a trip: a quiet period begins, after which trading is normal. At most one reset a minute."""
    why = checked_reason(reason)
    circuit = open_circuit()
    before = circuit.status(scope)
    if not acknowledge:
        circuit_view.ask_for(
            "RESET",
            "The cause is understood and conditions are normal.",
            before,
            scope,
            option="--acknowledge",
            otherwise="not acknowledged; nothing changed",
        )
    # What was looked at is what is reset: a trip that came in the meantime is not undone.
    expected = before.epoch if before.state is State.TRIPPED else None
    _show(circuit.reset(scope, why, operator, expected), scope, as_json)
    circuit.record(scope)
    if not as_json:
        circuit_view.next_step("watch for five minutes; if anything looks wrong: make circuit-trip")


def init(
    force: Annotated[
        bool, typer.Option("--force", help="Replace a state that cannot be read. Never replaces a trip.")
    ] = False,
    operator: OperatorOption = None,
    scope: ScopeOption = "global",
    as_json: JsonOption = False,
) -> None:
    """Write the first state, OPEN, where there is none. Until then no new risk passes."""
    settings = load_settings()
    after = open_breaker(settings, scope).initialize_state(force=force, by=operator or login_name())
    _show(after, scope, as_json)
    record_transitions(settings, scope)


def history(
    limit: Annotated[int, typer.Option("--limit", min=1, max=1000, help="How many, newest first.")] = 10,
    scope: ScopeOption = "global",
    as_json: JsonOption = False,
) -> None:
    """The latest transitions, newest first."""
    events = open_circuit().history(scope, limit)
    if as_json:
        for event in events:
            typer.echo(event.raw)
    else:
        circuit_view.show_history(events, scope)


def _show(status: Status, scope: str, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps({"scope": scope, **status}))
    else:
        circuit_view.show_status(status, scope)
