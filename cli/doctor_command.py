"""Run `breaker doctor`: check that everything is in order before it is needed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import typer
from rich.table import Table
from rich.text import Text

from cli.circuit_view import console
from cli.exit_codes import EPILOG, Exit
from cli.options import JsonOption
from configuration.printed_commands import COMMAND, pastable
from configuration.settings import load_settings

if TYPE_CHECKING:
    from tasks.checks.measurement import Colour, Measurement

LOOKS = {"green": ("●", "green"), "yellow": ("▲", "yellow"), "red": ("■", "bold red")}


def register(app: typer.Typer) -> None:
    app.command(epilog=EPILOG)(doctor)


def doctor(as_json: JsonOption = False) -> None:
    """Check everything that the breaker needs, and name each problem's fix. Changes nothing.

    Exit status: 0 nothing is red, 1 something is, 4 the breaker's state cannot be read.
    """
    settings = load_settings()
    from tasks.checks.measurement import worst  # noqa: PLC0415
    from tasks.doctor.diagnosis import diagnose  # noqa: PLC0415  `--help` and a wrong configuration don't pay for it

    found = asyncio.run(diagnose(settings))
    if as_json:
        checks = [measurement.as_dict() for measurement in found]
        typer.echo(json.dumps({"colour": worst(found).value, "checks": checks}))
    else:
        show_measurements(found)
    red = {measurement.name for measurement in found if measurement.colour == "red"}
    if red:
        raise typer.Exit(Exit.NOT_HALTED if "state" in red else Exit.REFUSED)


def show_measurements(found: Sequence[Measurement]) -> None:
    """Each with what to do beneath, and the commands that they name at the end."""
    console().print(
        answers((measurement.colour, measurement.name, measurement.value, measurement.problem) for measurement in found)
    )
    show_commands(found)
    show_counts(found)


def answers(rows: Iterable[tuple[Colour, str, str, str]]) -> Table:
    """A row for each colour, name, value and problem, the problem beneath the value: it has room at 80 columns too."""
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(max_width=26, overflow="fold")
    table.add_column(overflow="fold")
    for colour, name, value, problem in rows:
        shape, style = LOOKS[colour]
        lines = [Text(value)] if value else []
        lines += [Text(problem, "" if colour == "red" else "dim")] if problem else []
        table.add_row(Text(f"{shape} {colour.value}", style), Text(name), Text("\n").join(lines))
    return table


def show_commands(found: Sequence[Measurement]) -> None:
    """What these name, to be copied: a cell of a table may have cut it."""
    commands = dict.fromkeys(named for measurement in found for named in COMMAND.findall(measurement.problem))
    for command in commands:
        console().print(Text.assemble(("run: ", "dim"), pastable(command)), soft_wrap=True)


def show_counts(found: Sequence[Measurement]) -> None:
    counts = [sum(measurement.colour == colour for measurement in found) for colour in ("red", "yellow", "green")]
    console().print("{} red, {} yellow, {} green".format(*counts))
