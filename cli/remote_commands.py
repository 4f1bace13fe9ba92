"""`breaker status | trip | reset | history | kill` through a console: what takes their place where BREAKER_URL is set.

Who acts is whoever the token belongs to. Nothing on this host is needed: no Redis, no venue's credentials. What acts by
this host's own configuration is refused, so that nobody takes it for the console's.
"""

from __future__ import annotations

import json
import time
from typing import Annotated, Any

import typer

from breaker.errors import BreakerError, InvalidInput
from breaker.state import State, Status
from cli import circuit_view
from cli.console_client import TOKEN, URL, ConsoleClient
from cli.exit_codes import EPILOG, Exit
from cli.options import JsonOption, ScopeOption, on_terminal
from configuration.reasons import MIN_REASON, checked_reason
from tasks.kill.report import count

FOLLOW_EVERY = 0.5
SILENCE = 30.0
"""Seconds without an answer after which a run is not followed any more."""


LOCAL_ONLY = ("init", "recover", "audit", "drill", "deadman", "user", "token")
"""Not `doctor` and what serves: those are about this host, wherever its commands go."""

_OperatorOption = Annotated[
    str | None, typer.Option("--operator", help="Not used: the console knows whose token it is.", show_default=False)
]


def take_over(app: typer.Typer) -> None:
    """Put these commands, and refusals of those that are local only, in the place of what `app` has by their names."""
    app.registered_groups = [group for group in app.registered_groups if group.name not in LOCAL_ONLY]
    for command in (trip, status, reset, history, kill):
        app.command(epilog=EPILOG)(command)
    anything = {"allow_extra_args": True, "ignore_unknown_options": True}
    for name in LOCAL_ONLY:
        app.command(name, help=f"Local only: refused while {URL} is set.", context_settings=anything)(_refuse)


def _refuse(context: typer.Context) -> None:
    raise InvalidInput(
        f"`breaker {context.info_name}` is local only: it goes by this host's configuration, and {URL} names a "
        f"console; nothing was done. Unset {URL} on a host with the configuration, or use the console's pages"
    )


def trip(
    reason: Annotated[str, typer.Option("--reason", help="Why, in a sentence.")] = "tripped by hand, no reason given",
    operator: _OperatorOption = None,
    scope: ScopeOption = "global",
    as_json: JsonOption = False,
) -> None:
    """Halt trading, through the console: from now on only orders that reduce risk pass."""
    why = checked_reason(reason, at_least=1)
    _tell_who(operator)
    _show(ConsoleClient.from_environment().trip(scope, why), scope, as_json)


def status(scope: ScopeOption = "global", as_json: JsonOption = False) -> None:
    """The breaker's state, as the console reads it afresh."""
    now = ConsoleClient.from_environment().status(scope)
    _show(now, scope, as_json)
    if now.state is State.UNKNOWN:
        raise typer.Exit(Exit.NOT_HALTED)


def reset(
    reason: Annotated[str, typer.Option("--reason", help=f"Why trading may resume, {MIN_REASON} characters or more.")],
    acknowledge: Annotated[
        bool, typer.Option("--acknowledge", help="Confirm that the cause is understood and conditions are normal.")
    ] = False,
    operator: _OperatorOption = None,
    scope: ScopeOption = "global",
    as_json: JsonOption = False,
) -> None:
    """End a trip, through the console, which measures the conditions first. At most one reset a minute."""
    why = checked_reason(reason)
    _tell_who(operator)
    console = ConsoleClient.from_environment()
    before = console.status(scope)
    if not acknowledge:
        _ask_for("RESET", "The cause is understood and conditions are normal.", before, scope, "--acknowledge")
    expected = before.epoch if before.state is State.TRIPPED else None
    _show(console.reset(scope, why, expected), scope, as_json)


def history(
    limit: Annotated[int, typer.Option("--limit", min=1, max=1000, help="How many, newest first.")] = 10,
    scope: ScopeOption = "global",
    as_json: JsonOption = False,
) -> None:
    """The latest transitions, newest first."""
    events = ConsoleClient.from_environment().history(scope, limit)
    if as_json:
        for event in events:
            typer.echo(event.raw)
    else:
        circuit_view.show_history(events, scope)


def kill(
    reason: Annotated[str, typer.Option("--reason", help="Why, in a sentence.")] = "kill switch, no reason given",
    operator: _OperatorOption = None,
    scope: ScopeOption = "global",
    account: Annotated[
        list[str] | None,
        typer.Option("--account", help="Only this account of the console's; may be repeated. All of them otherwise."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask: cancel and flatten at once.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Halt trading, cancel every open order, flatten every position, by the console. It can't be undone."""
    why = checked_reason(reason, at_least=1)
    _tell_who(operator)
    console = ConsoleClient.from_environment()
    if not yes:
        halted = console.trip(scope, why)
        _ask_for("FLATTEN", "Halted. Every order is cancelled and every position closed.", halted, scope, "--yes")
    run = _follow(console, console.start_kill(scope, why, account), as_json)
    if as_json:
        typer.echo(json.dumps(run))
    else:
        typer.echo(f"{run['verdict']} after {run['elapsed']:.1f} s {run['problem']}".strip())
    if not run["halted"]:
        raise typer.Exit(Exit.NOT_HALTED)
    raise typer.Exit(Exit.OK if run["verdict"] == "FLAT" else Exit.NOT_FLAT)


def _follow(console: ConsoleClient, run: dict[str, Any], quiet: bool) -> dict[str, Any]:
    """Until the run has ended; it goes on in the console whether it is followed or not. Leaves with an exit status if
    nothing is heard of it any more.
    """
    told, heard = "", time.monotonic()
    while True:
        shown = "\n".join(_line(account) for account in run["accounts"])
        if not quiet and shown != told:
            typer.echo(shown)
            told = shown
        if run["verdict"] != "RUNNING":
            return run
        time.sleep(FOLLOW_EVERY)
        try:
            run, heard = console.kill(run["incident_id"]), time.monotonic()
        except BreakerError as error:
            if time.monotonic() - heard > SILENCE:
                begun = "has halted and" if run["halted"] else "could not halt, and"
                typer.echo(
                    f"breaker: the kill switch {begun} was sweeping when it was last heard of; run it again, it is "
                    f"safe to: {error}",
                    err=True,
                )
                raise typer.Exit(Exit.NOT_FLAT if run["halted"] else Exit.NOT_HALTED) from None


def _tell_who(operator: str | None) -> None:
    if operator is not None:
        typer.echo(f"breaker: --operator is not used: through {URL} it is the user of {TOKEN} who does this", err=True)


def _line(account: dict[str, Any]) -> str:
    stuck = "; ".join(f"{item['symbol']}: {item['reason']}" for item in account["stuck"])
    orders = f"{count(account['orders_open'])} of {count(account['orders_at_start'])} orders"
    positions = f"{count(account['positions_open'])} of {count(account['positions_at_start'])} positions"
    said = f"{account['account']}: {account['phase']}, {orders}, {positions}"
    return f"{said}, stuck {stuck}" if stuck else said


def _ask_for(word: str, what: str, now: Status, scope: str, option: str) -> None:
    """Go on only if the word is typed."""
    if not on_terminal():
        raise typer.BadParameter(
            f"not confirmed; the state is {now.state.value}, nothing further was done", param_hint=option
        )
    circuit_view.show_status(now, scope)
    if typer.prompt(f"{what} Type {word} to go on", err=True).strip() != word:
        typer.echo(f"breaker: not confirmed; the state is {now.state.value}, nothing further was done", err=True)
        raise typer.Exit(Exit.REFUSED)


def _show(now: Status, scope: str, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps({"scope": scope, **now}))
    else:
        circuit_view.show_status(now, scope)
