"""Run `breaker equity`: show what a drawdown is judged from, begin it anew, tell of money moved in or out."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from breaker.errors import InvalidInput
from breaker.keys import of_scope
from breaker.limits import Limits
from breaker.rule_requests import Outcome, Verdict, checked_text
from breaker.uuid7 import uuid7
from brokers.coverage import named_in
from cli.acting_on import say_what_is_acted_on, scope_of
from cli.exit_codes import EPILOG, Exit
from cli.messages import say
from cli.options import ClaimedOption, JsonOption, ScopeOption
from cli.person import Person, acting_person
from configuration.breakers import async_breaker_of, limits_from
from configuration.reasons import MIN_REASON, checked_reason
from configuration.settings import Settings, load_settings
from console.value_format import duration
from tasks.checks.equity import Equity, read_equity, trips_again

if TYPE_CHECKING:
    from breaker import AsyncCircuitBreaker
    from tasks.recovery.rebase import Rebased
    from tasks.recovery.reset import Record

_T = TypeVar("_T")

equity_app = typer.Typer(
    help="The account's equity, as the rules DRAWDOWN and DAILY_LOSS know it.", epilog=EPILOG, no_args_is_help=True
)


def register(app: typer.Typer) -> None:
    equity_app.command(epilog=EPILOG)(show)
    equity_app.command(epilog=EPILOG)(rebase)
    # A withdrawal begins with a minus, which is no option.
    equity_app.command(epilog=EPILOG, context_settings={"ignore_unknown_options": True})(transfer)
    app.add_typer(equity_app, name="equity")


def show(scope: ScopeOption = "global", as_json: JsonOption = False) -> None:
    """Equity, high-water mark and the day's first, and whether the next measurement trips."""
    settings = load_settings()
    scope = scope_of(settings, scope)
    held = _read(settings, scope)
    limits = limits_from(settings, scope)
    if as_json:
        typer.echo(json.dumps(_as_dict(scope, held, limits)))
        return
    if held is None:
        typer.echo(f"No equity of {scope} is recorded; the account monitor does so, or an engine's record_equity.")
        return
    since = f"{held.figure(held.day_start)}, down {held.daily_loss:.2%}" if held.day_start is not None else "none yet"
    mark = "none yet" if held.high_water is None else held.figure(held.high_water)
    fallen = "the account is not funded" if held.is_unfunded else f"down {held.drawdown:.2%}"
    typer.echo(
        f"equity {held.figure(held.equity)}{held.currency and ' ' + held.currency}, measured {duration(held.age)} ago\n"
        f"high-water mark {mark}, {fallen} (limit {_limit(limits.drawdown)})\n"
        f"the day's first {since} (limit {_limit(limits.daily_loss)})"
    )
    if foreseen := trips_again(held, limits):
        say(foreseen)


def rebase(
    reason: Annotated[str, typer.Option("--reason", help=f"Why, {MIN_REASON} characters or more.")],
    to: Annotated[
        str | None, typer.Option("--to", help="The equity to begin at; the last that was measured unless given.")
    ] = None,
    operator: ClaimedOption = None,
    scope: ScopeOption = "global",
    as_json: JsonOption = False,
) -> None:
    """Begin the high-water mark and the day's first equity anew, on record. The breaker stays as it is.

    It takes what a reset takes: RESET_CIRCUIT, and somebody who has not tripped it (recovery.two_person); while the
    drawdown is red APPROVE_RECOVERY too.
    """
    why, value = checked_reason(reason), None if to is None else _amount(to)
    settings = load_settings()
    scope = named_in(settings, scope).scope
    say_what_is_acted_on(settings)
    person = acting_person(settings, operator)
    rebased = asyncio.run(_rebase(settings, scope, person, why, value))
    if as_json:
        typer.echo(json.dumps({"scope": scope, **rebased.as_details()}))
    else:
        typer.echo(f"{scope}: {rebased}")


def transfer(
    amount: Annotated[str, typer.Argument(help="In the account's currency; what left the account with a minus.")],
    reason: Annotated[str, typer.Option("--reason", help=f"Why, {MIN_REASON} characters or more.")],
    at: Annotated[
        datetime | None,
        typer.Option(
            "--at", formats=["%Y-%m-%dT%H:%M:%S%z", "%Y-%m-%d %H:%M:%S%z"], help="When it was moved; now unless given."
        ),
    ] = None,
    transfer_id: Annotated[
        str | None, typer.Option("--id", help="The bank's or venue's id; the same one counts once.")
    ] = None,
    operator: ClaimedOption = None,
    scope: ScopeOption = "global",
    as_json: JsonOption = False,
) -> None:
    """Tell the rules of money moved in or out, which is neither a gain nor a loss. On record.

    High-water mark and the day's first equity move with it. It takes what a re-base takes.
    """
    from tasks.recovery.transfer import checked_amount, checked_moment, named_by_hand  # noqa: PLC0415

    why, value = checked_reason(reason), checked_amount(amount)
    when = datetime.now(UTC) if at is None else checked_moment(at, "--at")
    named = named_by_hand(uuid7()) if transfer_id is None else checked_text(transfer_id)
    settings = load_settings()
    scope = named_in(settings, scope).scope
    say_what_is_acted_on(settings)
    person = acting_person(settings, operator)
    moved = _Moved(value, when, named)
    outcome = asyncio.run(_transfer(settings, scope, person, why, moved))
    effect = outcome.details.get("effect", str(outcome.verdict))
    if as_json:
        typer.echo(json.dumps({"scope": scope, "amount": f"{value:f}", "effect": effect, "id": moved.transfer_id}))
    else:
        typer.echo(f"{scope}: {value:+f} is recorded ({effect})")
    if outcome.verdict in (Verdict.TRIPPED, Verdict.ALREADY_TRIPPED):
        say(f"by that, equity is {outcome.details['measured']} down {outcome.details['window']}: {scope} is TRIPPED")


@dataclass(frozen=True, slots=True)
class _Moved:
    amount: Decimal
    at: datetime
    transfer_id: str


async def _transfer(settings: Settings, scope: str, person: Person, why: str, moved: _Moved) -> Outcome:
    from tasks.recovery.transfer import TransferRequest, record_transfer  # noqa: PLC0415

    request = TransferRequest(
        scope=scope,
        person=person.name,
        permissions=person.permissions,
        reason=why,
        source="cli",
        claimed=person.claimed,
        amount=moved.amount,
        at=moved.at,
        transfer_id=moved.transfer_id,
    )
    return await _on_record(
        settings, scope, lambda breaker, record: record_transfer(settings, breaker, request, record)
    )


async def _rebase(settings: Settings, scope: str, person: Person, why: str, value: Decimal | None) -> Rebased:
    from tasks.recovery.rebase import RebaseRequest, rebase_equity  # noqa: PLC0415

    request = RebaseRequest(
        scope=scope,
        person=person.name,
        permissions=person.permissions,
        reason=why,
        source="cli",
        value=value,
        claimed=person.claimed,
    )
    return await _on_record(settings, scope, lambda breaker, record: rebase_equity(settings, breaker, request, record))


async def _on_record(settings: Settings, scope: str, act: Callable[[AsyncCircuitBreaker, Record], Awaitable[_T]]) -> _T:
    """What `act` comes to, with the breaker of the scope and what puts it on record."""
    from cli.reset import recording  # noqa: PLC0415  what it measures with is slow to import

    breaker = async_breaker_of(settings, scope, source="cli")
    try:
        with recording(settings) as record:
            return await act(breaker, record)
    finally:
        await breaker.close()


def _read(settings: Settings, scope: str) -> Equity | None:
    try:
        return asyncio.run(read_equity(settings, scope))
    except ValueError as error:
        anew = f"`breaker equity rebase --to EQUITY --reason WHY{of_scope(scope)}`"
        say(f"{error}: see what wrote to it, or begin anew with: {anew}")
        raise typer.Exit(Exit.REFUSED) from None


def _as_dict(scope: str, held: Equity | None, limits: Limits) -> dict[str, str | float | None]:
    known = {
        "drawdown_limit": _text(limits.drawdown),
        "daily_loss_limit": _text(limits.daily_loss),
    }
    if held is None:
        return {"scope": scope, "equity": None, **known}
    return {
        "scope": scope,
        "equity": _text(held.equity),
        "currency": held.currency or None,
        "uncompared": held.uncompared or None,
        "high_water": _text(held.high_water),
        "day_start": _text(held.day_start),
        "age": held.age,
        "drawdown": f"{held.drawdown:.6f}",
        "daily_loss": f"{held.daily_loss:.6f}",
        **known,
        "trips_again": trips_again(held, limits) or None,
    }


def _text(value: Decimal | None) -> str | None:
    return None if value is None else f"{value:f}"


def _limit(limit: Decimal | None) -> str:
    return "none: the rule is off" if limit is None else f"{limit:.1%}"


def _amount(text: str) -> Decimal:
    """Raises InvalidInput for what is no equity."""
    from tasks.recovery.transfer import LEAST, MOST  # noqa: PLC0415

    try:
        value = Decimal(text)
    except InvalidOperation:
        value = Decimal(0)
    if not value.is_finite() or not LEAST <= value <= MOST:
        raise InvalidInput(
            f"--to {text!r:.60} is no equity: it has to be a number of {LEAST:f} to {MOST:f}; nothing changed"
        )
    return value
