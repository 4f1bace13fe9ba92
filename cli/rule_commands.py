"""Run `breaker rules`: show each automatic rule with its limit, what it last heard, and how far that is from it."""

from __future__ import annotations

import asyncio
import json
from decimal import Decimal

import typer

from breaker.limits import Limits
from breaker.rule_table import RULE_TABLE
from cli.acting_on import scope_of
from cli.exit_codes import EPILOG
from cli.options import JsonOption, ScopeOption
from configuration.breakers import limits_from
from configuration.settings import load_settings
from console.value_format import duration
from tasks.checks.rules import RuleLine, read_judged, rule_lines

_ROW = "{:<22} {:>12} {:>14} {:>7}  {}"
_LEAST = Decimal(-99)
"""Of a limit; what is further beyond it is told no more exactly."""
rules_app = typer.Typer(help=f"The automatic trips: {', '.join(RULE_TABLE)}.", epilog=EPILOG, no_args_is_help=True)


def register(app: typer.Typer) -> None:
    rules_app.callback()(_group)  # which keeps `show` a command of its own
    rules_app.command(epilog=EPILOG)(show)
    app.add_typer(rules_app, name="rules")


def _group() -> None:
    """The text of the help is the group's."""


def show(scope: ScopeOption = "global", as_json: JsonOption = False) -> None:
    """Each rule with its limit, the last measurement, the share of the limit that is left, and who feeds it."""
    settings = load_settings()
    scope = scope_of(settings, scope)
    limits = limits_from(settings, scope)
    judged = asyncio.run(read_judged(settings, scope))
    if as_json:
        typer.echo(
            json.dumps({"scope": scope, "rules": [_as_dict(line, limits) for line in rule_lines(limits, judged)]})
        )
        return
    typer.echo(_ROW.format("rule", "limit", "measured", "left", "heard"))
    for line in rule_lines(limits, judged):
        last = line.last
        typer.echo(
            _ROW.format(
                line.rule.value,
                line.limit + ("*" if line.dry_run else ""),
                "-" if last is None else last.details.get("measured", "-"),
                "-" if line.left is None else f"{max(line.left, _LEAST):.0%}",
                "never" if last is None else f"{duration(last.age)} ago",
            )
        )
        typer.echo(f"  {RULE_TABLE[line.rule].fed_by}")
    if limits.dry_run:
        typer.echo("* dry run: only records what it would have done")


def _as_dict(line: RuleLine, limits: Limits) -> dict[str, object]:
    row, last = RULE_TABLE[line.rule], line.last
    limit = row.limit(limits)
    return {
        "rule": line.rule.value,
        "measures": row.measured,
        "limit": None if limit is None else str(limit),
        "unit": row.unit,
        "dry_run": line.dry_run,
        "fed_by": row.fed_by,
        "measured": None if last is None else last.details.get("measured"),
        "share_left": None if line.left is None else f"{line.left:.6f}",
        "age": None if last is None else last.age,
    }
