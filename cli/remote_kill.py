"""Run `breaker kill` through a console, and follow the run until it has ended."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

import typer

from breaker.errors import BreakerError
from brokers.coverage import Coverage, coverage_of
from cli import circuit_view
from cli.console_client import ConsoleClient
from cli.exit_codes import Exit
from cli.messages import say
from cli.remote_circuit import RemoteCircuit, say_who_acts
from configuration.reasons import KILL_CONFIRMATION
from tasks.kill import cost_text
from tasks.kill.report import cost_of_record, count

POLL_EVERY = 0.5
COSTS_WITHIN = 10.0
"""Seconds after the verdict within which the console tells what the exit cost."""
SILENCE = 30.0
"""Seconds without an answer after which a run is not followed any more."""


def kill_by_console(
    scope: str, reason: str, operator: str | None, accounts: Sequence[str] | None, *, yes: bool, as_json: bool
) -> NoReturn:
    """Leaves with the exit status. Raises what ConsoleClient's methods raise."""
    coverage = _coverage(scope, accounts or ())
    scope = coverage.scope
    say_who_acts(operator)
    console = ConsoleClient.from_environment()
    RemoteCircuit(console).say_what_is_acted_on()
    if not yes:
        _, halted = console.trip(scope, reason)
        circuit_view.ask_for(
            KILL_CONFIRMATION,
            f"Halted. {coverage.effect}",
            halted,
            scope,
            option="--yes",
            otherwise=f"not confirmed; the state is {halted.state.value}, nothing further was done",
            leave_with=Exit.NOT_FLAT,
        )
    run = console.start_kill(scope, reason, accounts)
    try:
        run = _follow(console, run, as_json)
    except KeyboardInterrupt:
        say("the console goes on with it, followed or not; look at its page of the kill switch")
        raise typer.Exit(Exit.NOT_FLAT) from None
    if not as_json:
        typer.echo(f"{run['verdict']} after {run['elapsed']:.1f} s: {run['covers']} {run['problem']}".strip())
    run = _with_costs(console, run)
    if as_json:
        typer.echo(json.dumps(run))
    else:
        for line in _costs(run):
            typer.echo(line)
    if not run["halted"]:
        raise typer.Exit(Exit.NOT_HALTED)
    raise typer.Exit(Exit.OK if run["verdict"] == "FLAT" else Exit.NOT_FLAT)


def _coverage(scope: str, asked: Sequence[str]) -> Coverage:
    """What is asked for, as far as it can be told without knowing the console's accounts. Raises InvalidInput."""
    kind, _, name = scope.partition(":")
    named = [name.upper()] if kind == "account" and name else []
    return coverage_of(scope, [*named, *(each.upper() for each in asked)], asked)


def _follow(console: ConsoleClient, run: dict[str, Any], quiet: bool) -> dict[str, Any]:
    """Until the run has ended; it goes on in the console whether it is followed or not. Leaves with an exit status if
    nothing is heard of it any more.
    """
    shown, heard = "", time.monotonic()
    while True:
        progress = "\n".join(_line(account) for account in run["accounts"])
        if not quiet and progress != shown:
            typer.echo(progress)
            shown = progress
        if run["verdict"] != "RUNNING":
            return run
        time.sleep(POLL_EVERY)
        try:
            run, heard = console.kill(run["incident_id"]), time.monotonic()
        except BreakerError as error:
            if time.monotonic() - heard > SILENCE:
                begun = "has halted and" if run["halted"] else "could not halt, and"
                say(
                    f"the kill switch {begun} was sweeping when it was last heard of; run it again, it is safe to: "
                    f"{error}"
                )
                raise typer.Exit(Exit.NOT_FLAT if run["halted"] else Exit.NOT_HALTED) from None


def _with_costs(console: ConsoleClient, run: dict[str, Any]) -> dict[str, Any]:
    """The run with what the exit cost, if the console tells that in time; a verdict stands without it."""
    ended = time.monotonic()
    while run.get("costs", ()) is None and time.monotonic() - ended < COSTS_WITHIN:
        time.sleep(POLL_EVERY)
        try:
            run = console.kill(run["incident_id"])
        except BreakerError as error:
            say(f"what the exit cost is not known: {error}")
            break
    return run


def _costs(run: dict[str, Any]) -> Iterator[str]:
    for record in run.get("costs") or ():
        try:
            cost = cost_of_record(record)
        except ValueError:  # of a console that is older or newer than this
            yield f"{record.get('account')}: the console tells what the exit cost in a way that is not known here"
            continue
        yield f"{cost.account}: {' · '.join(cost_text.headline(cost))}"


def _line(account: dict[str, Any]) -> str:
    stuck = "; ".join(f"{item['symbol']}: {item['reason']}" for item in account["stuck"])
    orders = f"{count(account['orders_open'])} of {count(account['orders_at_start'])} orders"
    positions = f"{count(account['positions_open'])} of {count(account['positions_at_start'])} positions"
    said = f"{account['account']}: {account['phase']}, {orders}, {positions}"
    return f"{said}, stuck {stuck}" if stuck else said
