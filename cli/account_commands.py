"""Run `breaker accounts`: list the accounts that are configured, and try one without placing an order."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from breaker.errors import InvalidInput
from cli.circuit_view import console
from cli.doctor_command import answers, show_commands, show_counts
from cli.exit_codes import EPILOG, Exit
from cli.options import JsonOption
from configuration.settings import ConfigurationError, Settings, load_settings

if TYPE_CHECKING:
    from brokers.protocol import Capabilities
    from configuration.accounts import AccountSettings
    from tasks.checks.measurement import Colour, Measurement

accounts_app = typer.Typer(help="The accounts that the kill switch closes.", epilog=EPILOG, no_args_is_help=True)


def register(app: typer.Typer) -> None:
    accounts_app.command("list", epilog=EPILOG)(list_accounts)
    accounts_app.command("test", epilog=EPILOG)(try_account)
    app.add_typer(accounts_app, name="accounts")


def list_accounts(as_json: JsonOption = False) -> None:
    """The accounts by name, with their adapters and what these can do. Asks no venue."""
    settings = load_settings()
    rows = [_row(name, settings) for name in settings.accounts]
    if as_json:
        typer.echo(json.dumps(rows))
        return
    if not rows:
        typer.echo("No account is configured: the kill switch can only halt. Write an [accounts.NAME] for each.")
        return
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    for row in rows:
        table.add_row(row["account"], _described(row))
    console().print(table)


def try_account(name: Annotated[str, typer.Argument(help="As it is configured.")], as_json: JsonOption = False) -> None:
    """Ask the account's venue for all that a kill switch needs, and what its keys may not do. Places no order.

    Exit status: 0 nothing is red, 1 something is, 2 there is no such account.
    """
    settings = load_settings()
    name = name.upper()
    if name not in settings.accounts:
        known = ", ".join(settings.accounts) or "none"
        raise InvalidInput(f"No account {name} is configured (there are: {known}); nothing was asked.")
    from brokers.instrument_store import InstrumentStore  # noqa: PLC0415
    from tasks.checks.measurement import Colour, worst  # noqa: PLC0415  `--help` doesn't pay for it
    from tasks.doctor.account_access import measure_access  # noqa: PLC0415
    from tasks.doctor.venues import measure_venue  # noqa: PLC0415
    from tasks.kill.venue_lock_store import read_venue_locks  # noqa: PLC0415

    lock = read_venue_locks(settings).of(name)
    keep = InstrumentStore(settings.instruments_dir, name)
    found = [
        asyncio.run(measure_venue(settings, name, lock)),
        *asyncio.run(measure_access(settings, name, keep)),
        *_measure_unfit_net(name, settings),
    ]
    left_out = _not_covered(name, settings)
    if as_json:
        checks = [measurement.as_dict() for measurement in found]
        typer.echo(
            json.dumps({"account": name, "colour": worst(found).value, "checks": checks, "not_covered": left_out})
        )
    else:
        _show(name, settings.accounts[name], found)
        if left_out:
            console().print(Text(f"Neither read nor closed through {name}: {left_out}."))
    if worst(found) is Colour.RED:
        raise typer.Exit(Exit.REFUSED)


def _not_covered(name: str, settings: Settings) -> str:
    """What of the account its adapter neither reads nor closes; nothing of one that can't be opened, which is said."""
    from brokers.missing import missing_for  # noqa: PLC0415
    from brokers.registry import open_account  # noqa: PLC0415

    if missing_for(settings.accounts[name]):
        return ""
    try:
        return open_account(settings, name).capabilities.not_covered
    except ConfigurationError:
        return ""


def _measure_unfit_net(name: str, settings: Settings) -> list[Measurement]:
    """That a timer is configured which the venue doesn't have; one that it has is asked of it with all else."""
    from tasks.safety_nets.check import measure_unfit  # noqa: PLC0415

    unfit = measure_unfit(name, settings.accounts[name])
    return [] if unfit is None else [unfit]


def _show(name: str, account: AccountSettings, found: Sequence[Measurement]) -> None:
    """Each answer in a line, or what to do in its place; what several questions come to is said once."""
    console().print(Text.assemble((name, "bold"), f"  {account.adapter} at {account.place}"))
    rows = _rows(name, found)
    console().print(answers((row.colour, ", ".join(row.what), row.value, row.problem) for row in rows))
    show_commands(found)
    show_counts(found)


@dataclass(slots=True)
class _Row:
    """What some questions came to. `because` is the sentence that it is known by; empty where all is well."""

    colour: Colour
    what: list[str]
    value: str
    problem: str
    because: str = ""


def _rows(name: str, found: Sequence[Measurement]) -> list[_Row]:
    """A venue that can't be reached answers every question with the same sentence: it is read once."""
    from tasks.checks.probe import NOT_MEASURED  # noqa: PLC0415
    from tasks.doctor.account_access import BESIDE  # noqa: PLC0415

    rows: list[_Row] = []
    for measurement in found:
        what = measurement.name.removeprefix(f"venue/{name}/").removesuffix(f"/{name}") if rows else "reached"
        because = measurement.problem.removesuffix(BESIDE).rstrip(".")
        alike = (row for row in rows[1:] if because and (row.because, row.colour) == (because, measurement.colour))
        if (same := next(alike, None)) is not None:
            same.what.append(what)
            continue
        value = "" if measurement.value == NOT_MEASURED and because else measurement.value
        is_known = because and any(row.because.startswith(because) for row in rows)
        problem = "as above" if is_known else measurement.problem
        rows.append(_Row(measurement.colour, [what], value, problem, because))
    return rows


def _described(row: Mapping[str, str]) -> Text:
    """One account: where it is and which breaker it is judged for, what its venue can do, and what is wrong with it."""
    lines = [Text(f"{row['adapter']} at {row['place']}, judged for {row['monitored_as']}")]
    lines += [Text(f"{what} {row[what]}", "dim") for what in ("can", "cannot") if row[what]]
    lines += [Text.assemble(("■ ", "bold red"), row["problem"])] if row["problem"] else []
    return Text("\n").join(lines)


def _row(name: str, settings: Settings) -> Mapping[str, str]:
    from brokers.missing import missing_for  # noqa: PLC0415
    from brokers.registry import open_account  # noqa: PLC0415
    from configuration.monitor import monitored_scope  # noqa: PLC0415
    from tasks.safety_nets.check import unfit_of  # noqa: PLC0415

    account = settings.accounts[name]
    row = {
        "account": name,
        "adapter": account.adapter,
        "place": account.place,
        "monitored_as": monitored_scope(name, settings.accounts),
        "can": "",
        "cannot": "",
    }
    if missing := missing_for(account):
        return {**row, "problem": f"{missing}{'' if missing.endswith('?') else '.'} A kill switch can't close it."}
    try:
        able = open_account(settings, name).capabilities
    except ConfigurationError as error:
        return {**row, "problem": str(error)}
    can, cannot = _abilities(able)
    unfit = unfit_of(account) if account.safety_net is not None else ""
    problem = f"safety_net = {account.safety_net:g}: {unfit}" if unfit else ""
    return {**row, "can": ", ".join(can), "cannot": ", ".join(cannot), "problem": problem}


def _abilities(able: Capabilities) -> tuple[list[str], list[str]]:
    """What its venue can do, and what it can't, of what makes a difference to a kill switch."""
    offered = {
        "cancel all at once": able.bulk_cancel,
        "close all at once": able.bulk_close,
        "reduce-only": able.reduce_only,
        "market orders": able.market_orders,
        "extended hours": able.extended_hours,
        "refuse a second close": able.client_order_ids.settles,
        "tell fills": able.fills,
        "lock the account": able.suspends_trading,
        "dead-man timer": able.safety_net,
    }
    return [what for what, can in offered.items() if can], [what for what, can in offered.items() if not can]
