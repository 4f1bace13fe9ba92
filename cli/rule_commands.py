"""Run `breaker rules`: show each automatic rule with its limit, what it last heard, and how far that is from it."""

from __future__ import annotations

import asyncio
import json

import typer

from breaker.limits import Limits, Rule
from breaker.rule_table import RULE_TABLE
from cli.acting_on import scope_of
from cli.exit_codes import EPILOG
from cli.options import JsonOption, ScopeOption
from configuration.breakers import limits_from
from configuration.settings import load_settings
from console.value_format import duration
from tasks.checks.rules import Judged, limits_in_words, read_judged

_ROW = "{:<22} {:>12} {:>14} {:>7}  {}"
rules_app = typer.Typer(help="The automatic trips.", epilog=EPILOG, no_args_is_help=True)


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
        typer.echo(json.dumps({"scope": scope, "rules": [_as_dict(rule, limits, judged.get(rule)) for rule in Rule]}))
        return
    typer.echo(_ROW.format("rule", "limit", "measured", "left", "heard"))
    for rule, row in RULE_TABLE.items():
        last = judged.get(rule)
        typer.echo(
            _ROW.format(
                rule.value,
                limits_in_words(limits, rule) + ("*" if rule in limits.dry_run else ""),
                "-" if last is None else last.details.get("measured", "-"),
                _left(last, limits, rule),
                "never" if last is None else f"{duration(last.age)} ago",
            ).rstrip()
        )
        typer.echo(f"  {row.fed_by}")
    if limits.dry_run:
        typer.echo("* dry run: only records what it would have done")


def _left(last: Judged | None, limits: Limits, rule: Rule) -> str:
    if last is None or RULE_TABLE[rule].limit(limits) is None or last.mode == "off":
        return "-"
    return f"{max(last.distance, -9):.0%}"


def _as_dict(rule: Rule, limits: Limits, last: Judged | None) -> dict[str, object]:
    row = RULE_TABLE[rule]
    limit = row.limit(limits)
    return {
        "rule": rule.value,
        "measures": row.measured,
        "limit": None if limit is None else str(limit),
        "unit": row.unit,
        "dry_run": rule in limits.dry_run,
        "fed_by": row.fed_by,
        "measured": None if last is None else last.details.get("measured"),
        "share_left": None if last is None or last.mode == "off" else f"{last.distance:.6f}",
        "age": None if last is None else last.age,
    }
