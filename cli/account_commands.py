"""Run `breaker accounts`: list the accounts that are configured, and try one without placing an order."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.table import Table

from breaker.errors import InvalidInput
from cli.circuit_view import console
from cli.doctor_command import show_measurements
from cli.exit_codes import EPILOG, Exit
from cli.options import JsonOption
from configuration.settings import ConfigurationError, Settings, load_settings

if TYPE_CHECKING:
    from brokers.protocol import Capabilities
    from tasks.checks.measurement import Measurement

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
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("account", "adapter", "breaker", "its venue", "cannot"):
        table.add_column(column, overflow="fold", no_wrap=column == "account")
    for row in rows:
        table.add_row(*(row[name] for name in ("account", "adapter", "monitored_as", "can", "cannot")))
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

    account, lock = settings.accounts[name], read_venue_locks(settings).of(name)
    keep = InstrumentStore(settings.instruments_dir, name)
    found = [
        asyncio.run(measure_venue(name, account, lock)),
        *asyncio.run(measure_access(name, account, keep, settings.markets_dir)),
    ]
    if as_json:
        checks = [measurement.as_dict() for measurement in found]
        typer.echo(json.dumps({"account": name, "colour": worst(found).value, "checks": checks}))
    else:
        show_measurements(_told_once(found))
    if worst(found) is Colour.RED:
        raise typer.Exit(Exit.REFUSED)


def _told_once(found: Sequence[Measurement]) -> list[Measurement]:
    """A venue that can't be reached at all answers every question with the same sentence: it is read once.

    The first measurement has that sentence, and behind it which keys of the configuration to look at.
    """
    from tasks.doctor.account_access import BESIDE  # noqa: PLC0415

    first, *rest = found
    shown = [first]
    for measurement in rest:
        same = measurement.problem.removesuffix(BESIDE).rstrip(".")
        shown.append(
            replace(measurement, problem="as above") if same and first.problem.startswith(same) else measurement
        )
    return shown


def _row(name: str, settings: Settings) -> Mapping[str, str]:
    from brokers.registry import open_broker  # noqa: PLC0415
    from configuration.monitor import monitored_scope  # noqa: PLC0415

    account = settings.accounts[name]
    row = {"account": name, "adapter": account.adapter, "monitored_as": monitored_scope(name, settings.accounts)}
    try:
        able = open_broker(name, account).capabilities
    except ConfigurationError as error:
        return {**row, "can": "", "cannot": str(error)}
    can, cannot = _abilities(able)
    return {**row, "can": ", ".join(can), "cannot": ", ".join(cannot)}


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
