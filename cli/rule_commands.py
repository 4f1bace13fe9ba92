"""Run `breaker rules`: show each automatic rule and what it last heard, and try other limits on what was recorded."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated

import typer

from breaker.errors import BreakerError, InvalidInput
from breaker.limits import Limits
from breaker.rule_table import RULE_TABLE
from cli.acting_on import scope_of
from cli.exit_codes import EPILOG
from cli.options import JsonOption, ScopeOption
from configuration.breakers import limits_from
from configuration.monitor import monitored_scope
from configuration.settings import Settings, load_settings
from console.value_format import duration
from tasks.checks.rules import RuleLine, read_judged, rule_lines

_ROW = "{:<22} {:>12} {:>14} {:>7}  {}"
_LEAST = Decimal(-99)
"""Of a limit; what is further beyond it is told no more exactly."""
rules_app = typer.Typer(help=f"The automatic trips: {', '.join(RULE_TABLE)}.", epilog=EPILOG, no_args_is_help=True)


def register(app: typer.Typer) -> None:
    rules_app.command(epilog=EPILOG)(show)
    rules_app.command(epilog=EPILOG)(replay)
    app.add_typer(rules_app, name="rules")


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


_MOMENTS = ["%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S"]


def replay(
    since: Annotated[datetime, typer.Option("--from", formats=_MOMENTS, help="UTC.")],
    until: Annotated[datetime | None, typer.Option("--to", formats=_MOMENTS, help="UTC; now unless given.")] = None,
    changes: Annotated[
        list[str] | None, typer.Option("--set", help="A limit to try, such as drawdown=0.03; any number of them.")
    ] = None,
    account: Annotated[
        str | None, typer.Option("--account", help="Whose recording; the only one unless given.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """When the rules would have tripped on what the account's monitor recorded, by other limits. Acts on nothing."""
    from tasks import rules_replay  # noqa: PLC0415  starts a Redis of its own

    settings = load_settings()
    name = _account_of(settings, account)
    scope = monitored_scope(name, settings.accounts)
    asked = dict(change.partition("=")[::2] for change in changes or [])
    limits = rules_replay.limits_with(settings, scope, asked, "--set")
    begin = since.replace(tzinfo=UTC)
    end = datetime.now(UTC) if until is None else until.replace(tzinfo=UTC)
    if not datetime(1970, 1, 1, tzinfo=UTC) <= begin < end:
        raise InvalidInput(f"--from {_utc(begin)} has to be after 1970 and before {_utc(end)}; nothing was replayed")
    recording = asyncio.run(rules_replay.read_recording(settings, name, scope, begin, end))
    if not recording.readings:
        raise NothingRecorded(
            f"nothing of {name} is recorded from {_utc(begin)} to {_utc(end)}: does `breaker monitor` run?"
        )
    found = rules_replay.replay(recording, limits)
    if as_json:
        trips = [{**asdict(each), "at": each.at.isoformat()} for each in found]
        typer.echo(json.dumps({"account": name, "readings": len(recording.readings), "would_have_tripped": trips}))
        return
    first, last = recording.readings[0].at, recording.readings[-1].at
    typer.echo(f"{name}: {len(recording.readings)} readings from {_utc(first)} to {_utc(last)} UTC")
    for each in found:
        typer.echo(f"{_utc(each.at)}  {each.rule}: {each.measured} {each.window}, limit {each.limit}")
    typer.echo("would not have tripped" if not found else f"would have tripped {len(found)} times")


class NothingRecorded(BreakerError):
    """There is nothing to try limits on."""


def _account_of(settings: Settings, named: str | None) -> str:
    """Raises InvalidInput where it is none, or not told which."""
    known = ", ".join(settings.accounts) or "none"
    if named is None and len(settings.accounts) == 1:
        return next(iter(settings.accounts))
    if named is None or named.upper() not in settings.accounts:
        raise InvalidInput(f"--account has to name a configured account ({known}); nothing was replayed")
    return named.upper()


def _utc(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S}"
