"""Run `breaker incidents`: list what happened, and show the report of one incident."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from breaker.errors import InvalidInput
from cli.circuit_view import console
from cli.exit_codes import EPILOG, Exit
from cli.messages import say
from cli.options import JsonOption
from configuration.printed_commands import pastable
from configuration.settings import load_settings

if TYPE_CHECKING:
    from tasks.incidents import Incident

incidents_app = typer.Typer(help="Incidents, newest first.", epilog=EPILOG, invoke_without_command=True)


def register(app: typer.Typer) -> None:
    incidents_app.callback()(list_incidents)
    incidents_app.command(epilog=EPILOG)(show)
    app.add_typer(incidents_app, name="incidents")


def list_incidents(
    context: typer.Context,
    limit: Annotated[int, typer.Option("--limit", min=1, max=200, help="Of the newest trips so many.")] = 20,
    as_json: JsonOption = False,
) -> None:
    """Incidents, newest first: what tripped which breaker, by whom, until when, and what became of it."""
    if context.invoked_subcommand is not None:
        return
    from ledger.configured import open_ready_ledger  # noqa: PLC0415  slow to import
    from tasks.incidents import read_incidents  # noqa: PLC0415

    found, _ = read_incidents(open_ready_ledger(load_settings()), limit)
    if as_json:
        for incident in found:
            typer.echo(json.dumps(incident.as_dict()))
        return
    out = console()
    if not found:
        out.print("No incident is on record.")
    for incident in found:
        out.print(Text.assemble((incident.id, "bold"), f"  {incident.scope}"))
        for line in lines(incident):
            out.print(Text(f"  {line}"))
    if found:
        out.print(Text(f"report: {pastable(f'breaker incidents show {found[0].id}')}", "dim"), soft_wrap=True)


def lines(incident: Incident) -> list[str]:
    """What is told of an incident beneath its id."""
    ended = "not ended" if incident.ended is None else f"ended {incident.ended:%Y-%m-%d %H:%M:%S} UTC"
    became = [f"kill {incident.kill}" if incident.kill else "", incident.recovery and f"recovery {incident.recovery}"]
    return [
        f"{incident.since:%Y-%m-%d %H:%M:%S} UTC by {incident.by}: {incident.reason}",
        " · ".join(part for part in (ended, *became) if part),
        *incident.cost,
    ]


def show(incident: Annotated[str, typer.Argument(metavar="ID", help="As `breaker incidents` lists it.")]) -> None:
    """The report of an incident, as Markdown. It is written once the root cause is known."""
    from tasks.incidents import read_report  # noqa: PLC0415

    if not incident.strip():
        raise InvalidInput("no incident is named; `breaker incidents` lists them")
    report = read_report(load_settings().state_dir, incident)
    if report is None:
        say(f"this host has no report of {incident}; `breaker audit --incident {incident}` has what is on record")
        raise typer.Exit(Exit.REFUSED)
    typer.echo(report)
