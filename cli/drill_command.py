"""Run `breaker drill`: rehearse the whole circle on a paper account of its own, with or without Prefect."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import TYPE_CHECKING

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from cli.circuit_view import console
from cli.exit_codes import Exit
from cli.options import JsonOption, OperatorOption
from configuration.login import login_name
from configuration.settings import load_settings

if TYPE_CHECKING:
    from tasks.drill.result import DrillResult

EPILOG = "Exit status: 0 passed · 1 failed, see what it says · 2 usage or configuration. Production is left as it is."


def register(app: typer.Typer) -> None:
    app.command(epilog=EPILOG)(drill)


def drill(operator: OperatorOption = None, as_json: JsonOption = False) -> None:
    """Trip, cancel, flatten, verify and recover a book of its own at a paper exchange of its own; file the figures."""
    from configuration.orchestrator import set_prefect_timeouts  # noqa: PLC0415

    settings = load_settings()
    set_prefect_timeouts()
    if not as_json:
        sys.stderr.write(
            "breaker: a drill on a paper account of its own; "
            f"environment {settings.environment_name} is left as it is, and keeps the figures …\n"
        )
    from flows.drill import run_drill  # noqa: PLC0415  slow to import

    result, undelivered = asyncio.run(run_drill(settings, by=operator or login_name(), source="cli"))
    if as_json:
        typer.echo(json.dumps(result.as_dict()))
    else:
        _show(result)
    for failure in undelivered:
        sys.stderr.write(f"breaker: {failure.channel} was not told: {failure.problem}\n")
    raise typer.Exit(Exit.OK if result.passed else Exit.REFUSED)


def _show(result: DrillResult) -> None:
    verdict = Text("✓ DRILL PASSED", "bold green") if result.passed else Text("✗ DRILL FAILED", "bold red")
    console().print(verdict)
    for problem in result.problems:
        console().print(Text(f"! {problem}", "red"))
    table = Table(box=box.SIMPLE_HEAD, show_header=False, pad_edge=False)
    for name, value in result.rows():
        table.add_row(name, value)
    console().print(table)
