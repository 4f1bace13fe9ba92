"""Run `breaker safety`: show the venues' own timers, arm them, disarm them."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from breaker.errors import InvalidInput
from cli.acting_on import say_what_is_acted_on
from cli.circuit_view import console
from cli.exit_codes import EPILOG, Exit
from cli.messages import say
from cli.options import ClaimedOption, JsonOption
from cli.person import acting_person
from configuration.reasons import MIN_REASON, checked_reason
from configuration.settings import Settings, load_settings

if TYPE_CHECKING:
    from tasks.safety_nets.check import NetNow
    from tasks.safety_nets.instructing import CarriedOut

safety_app = typer.Typer(
    help="Safety nets: the venues' own timers, which cancel orders when nobody is there any more. "
    "`breaker services` and `services.serve` keep them.",
    epilog=EPILOG,
    no_args_is_help=True,
)
AccountsArgument = Annotated[
    list[str] | None, typer.Argument(help="Accounts; all that have `safety_net` unless given.", show_default=False)
]
ReasonOption = Annotated[str, typer.Option("--reason", help=f"Why, {MIN_REASON} characters or more.")]


def register(app: typer.Typer) -> None:
    for command in (show, arm, disarm):
        safety_app.command(epilog=EPILOG)(command)
    app.add_typer(safety_app, name="safety")


def show(as_json: JsonOption = False) -> None:
    """Of each account: where its venue's timer stands, until when it is armed, and what it does not cover."""
    from tasks.safety_nets.check import read_nets  # noqa: PLC0415  `--help` doesn't pay for it

    nets = asyncio.run(read_nets(load_settings()))
    if as_json:
        typer.echo(json.dumps({"accounts": [_as_dict(net) for net in nets]}))
        return
    with_timer = [net for net in nets if net.settings.safety_net is not None and not net.unfit]
    if with_timer:
        console().print(_table(with_timer))
    for net in nets:
        for line in _lines(net):
            console().print(Text(f"{net.account}: {line}"))


def _table(nets: list[NetNow]) -> Table:
    """Of those that have a timer: short cells only, for a terminal of 80 columns."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("account", "stands", "armed until", "renewed", "verified", "last fired"):
        table.add_column(column, overflow="fold", no_wrap=column == "account")
    for net in nets:
        table.add_row(*(Text(cell) for cell in _cells(net)))
    return table


def arm(accounts: AccountsArgument = None, *, reason: ReasonOption, operator: ClaimedOption = None) -> None:
    """Arm the timers again: those that were disarmed, or that stay off after they have fired."""
    _instruct(accounts, reason, operator, armed=True)


def disarm(accounts: AccountsArgument = None, *, reason: ReasonOption, operator: ClaimedOption = None) -> None:
    """Disarm the timers, and keep them off until they are armed again. For a venue's maintenance, for one."""
    _instruct(accounts, reason, operator, armed=False)


def _instruct(accounts: list[str] | None, reason: str, operator: str | None, *, armed: bool) -> None:
    why, settings = checked_reason(reason), load_settings()
    named = _named(settings, accounts)
    say_what_is_acted_on(settings)
    person = acting_person(settings, operator)
    from tasks.safety_nets.instructing import instruct  # noqa: PLC0415

    results = asyncio.run(instruct(settings, named, armed=armed, by=person.name, reason=why, source="cli"))
    for result in results:
        _tell(result)
    if any(result.problem for result in results):
        raise typer.Exit(Exit.REFUSED)


def _named(settings: Settings, accounts: list[str] | None) -> list[str]:
    """Raises InvalidInput for an account that has no timer to be armed."""
    from tasks.safety_nets.check import unfit_of  # noqa: PLC0415

    asked = [name for name, account in settings.accounts.items() if account.safety_net is not None]
    named = [name.upper() for name in accounts or asked]
    if not named:
        raise InvalidInput("no account has safety_net configured, so nothing was done; see docs/how-to/safety-nets.md")
    for name in named:
        if name not in settings.accounts:
            known = ", ".join(settings.accounts) or "none"
            raise InvalidInput(f"no account of the name {name} is configured (there are: {known}); nothing was done")
        if unfit := unfit_of(settings.accounts[name]):
            raise InvalidInput(f"{name}: {unfit}; nothing was done")
        if name not in asked:
            raise InvalidInput(
                f"{name}: safety_net is not configured; nothing was done. Set accounts.{name}.safety_net"
            )
    return named


def _tell(result: CarriedOut) -> None:
    from tasks.safety_nets.records import moment  # noqa: PLC0415

    if result.problem:
        say(f"{result.account}: {result.problem}")
        return
    until = None if result.record is None else moment(result.record.armed_until)
    typer.echo(
        f"{result.account}: " + ("disarmed" if until is None else f"armed until {until:%H:%M:%S} UTC, and renewed")
    )


def _cells(net: NetNow) -> tuple[str, ...]:
    from tasks.safety_nets.records import moment  # noqa: PLC0415

    record = net.record
    if record is None:
        return net.account, net.in_words, "", "", "", ""
    until, renewed, fired = moment(record.armed_until), moment(record.renewed_at), moment(record.fired_at)
    return (
        net.account,
        net.in_words,
        "" if until is None else f"{until:%H:%M:%S} UTC",
        "" if renewed is None else f"{renewed:%H:%M:%S} UTC",
        "yes" if record.verified else "no",
        "never" if fired is None else f"{fired:%Y-%m-%d %H:%M:%S} UTC",
    )


def _lines(net: NetNow) -> list[str]:
    """What is said beside the table: what the timer covers, and why it isn't armed; or why there is none."""
    from tasks.safety_nets.configured import timer_of_account  # noqa: PLC0415

    record, timer = net.record, timer_of_account(net.settings)
    if net.unfit or net.settings.safety_net is None:
        return [net.in_words]
    if record is None:
        return []
    covers = ", ".join(record.covers) or (timer.covers if timer is not None else "")
    covered = "; ".join(filter(None, (covers, record.not_covered)))
    because = "; ".join(filter(None, (record.why, record.problem)))
    return [*([f"covers {covered}"] if covered else []), *([because] if because else [])]


def _as_dict(net: NetNow) -> dict[str, object]:
    record = net.record
    known: dict[str, object] = {} if record is None else {**asdict(record), "standing": record.standing.value}
    return {
        "account": net.account,
        "safety_net": net.settings.safety_net,
        "says": net.in_words,
        "kept": net.is_kept,
        "net": known,
    }
