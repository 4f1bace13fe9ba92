"""Run `breaker recover`: show the recovery checklist, live, and answer what it asks."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from cli.circuit_view import console
from cli.exit_codes import EPILOG, Exit
from cli.login import login_name
from cli.options import JsonOption, OperatorOption, ScopeOption, on_terminal
from cli.transitions import open_breaker
from configuration.redis_clients import async_redis_client
from configuration.settings import Settings, load_settings
from tasks.recovery.answers import AnswerNotTaken, refusal_of, refusal_record, submit_answer
from tasks.recovery.approval_rules import CATEGORIES, MIN_TEXT, Approval, ApprovalRules, RootCause
from tasks.recovery.checklist import CHECKLIST
from tasks.recovery.evidence_store import read_evidence
from tasks.recovery.state import RecoveryState, Tick, read_state

if TYPE_CHECKING:
    from redis.asyncio import Redis as AsyncRedis

    from ledger.record import AuditRecord

T = TypeVar("T")

recover_app = typer.Typer(help="The recovery checklist.", epilog=EPILOG, invoke_without_command=True)
_COLOURS = {
    Tick.GREEN: "green",
    Tick.YELLOW: "yellow",
    Tick.OVERRIDDEN: "yellow",
    Tick.RED: "red",
    Tick.WORKING: "cyan",
}


def register(app: typer.Typer) -> None:
    recover_app.callback()(show)
    recover_app.command(epilog=EPILOG)(start)
    recover_app.command(epilog=EPILOG)(evidence)
    recover_app.command(epilog=EPILOG)(answer)
    app.add_typer(recover_app, name="recover")


def show(
    context: typer.Context,
    watch: Annotated[bool, typer.Option("--watch", help="Stay and follow it until it ends or waits for you.")] = False,
    scope: ScopeOption = "global",
    as_json: JsonOption = False,
) -> None:
    """Where the latest recovery stands."""
    if context.invoked_subcommand is not None:
        return
    settings = load_settings()
    state = _read(settings, scope)
    if as_json:
        typer.echo(state.to_json() if state else json.dumps(None))
    elif state is None:
        console().print(f"No recovery of {scope} is on record; a trip starts one where the deployments are served.")
    elif watch and on_terminal():
        _follow(settings, state)
    else:
        console().print(_checklist(state))
        _next_step(state)


def start(scope: ScopeOption = "global") -> None:
    """Start the recovery of the present incident by hand; usually the trip has done so."""
    settings = load_settings()
    status = open_breaker(settings, scope).get_status()
    if status.incident_id is None or status.state.value not in ("TRIPPED", "QUIET_PERIOD"):
        raise typer.BadParameter(f"{scope} is {status.state.value}: there is nothing to recover from")
    from prefect.deployments import arun_deployment  # noqa: PLC0415  slow to import

    parameters = {"incident_id": status.incident_id, "scope": scope}
    run = asyncio.run(arun_deployment("recovery/recovery", parameters=parameters, timeout=0, as_subflow=False))
    typer.echo(f"started flow run {run.id}; follow it with: breaker recover --watch")


def evidence(
    incident: Annotated[str, typer.Option("--incident", help="Of this one; of the latest recovery's otherwise.")] = "",
    scope: ScopeOption = "global",
) -> None:
    """What was gathered for whoever writes the root cause, as Markdown. It is kept for 30 days."""
    settings = load_settings()
    state = None if incident else _read(settings, scope)
    of = incident or (state.incident_id if state else "")
    found = _from_redis(settings, partial(read_evidence, incident_id=of)) if of else None
    if found is None:
        why = f"no evidence of {of} is kept" if of else f"no recovery of {scope} is on record"
        typer.echo(f"breaker: {why}; a recovery gathers it when it begins, where the deployments are served", err=True)
        raise typer.Exit(Exit.REFUSED)
    typer.echo(found)


def answer(
    root_cause: Annotated[str, typer.Option("--root-cause", help="What happened, and why.")] = "",
    corrective_action: Annotated[str, typer.Option("--corrective-action", help="What was done about it.")] = "",
    category: Annotated[str, typer.Option("--category", help=f"One of {', '.join(CATEGORIES)}.")] = "other",
    reason: Annotated[str, typer.Option("--reason", help="Approval: why trading may resume.")] = "",
    acknowledge: Annotated[
        bool, typer.Option("--acknowledge", help="Approval: the cause is understood, conditions are normal.")
    ] = False,
    override: Annotated[str, typer.Option("--override", help="Approval: why to go on although something is red.")] = "",
    operator: OperatorOption = None,
    scope: ScopeOption = "global",
) -> None:
    """Answer what the recovery waits for: its root cause, or the approval of its reset. Asks for what is not given."""
    settings = load_settings()
    state = _read(settings, scope)
    if state is None or not state.waiting_for:
        typer.echo("breaker: no recovery waits for a person; nothing was done", err=True)
        raise typer.Exit(Exit.REFUSED)
    who = operator or login_name()
    status = open_breaker(settings, scope).get_status()
    rules = ApprovalRules(settings.recovery.people, settings.recovery.two_person, status.tripped_by or "", state.author)
    given: RootCause | Approval
    if state.waiting_for == "root-cause":
        given = RootCause(
            who,
            category,
            _ask_unless_given("Root cause: what happened, and why", root_cause),
            _ask_unless_given("Corrective action", corrective_action),
        )
    else:
        given = Approval(
            who, _ask_unless_given("Why may trading resume", reason), acknowledge or _ask_acknowledgement(), override
        )
    refusal = asyncio.run(refusal_of(given, rules, settings, scope))
    if refusal is not None:
        _record_refusal(settings, refusal_record(state, who, refusal, "cli"))
        typer.echo(f"breaker: refused: {refusal}; nothing changed, the recovery still waits", err=True)
        raise typer.Exit(Exit.REFUSED)
    try:
        asyncio.run(submit_answer(state, given))
    except AnswerNotTaken as error:
        typer.echo(f"breaker: {error}; look with: breaker recover", err=True)
        raise typer.Exit(Exit.REFUSED) from None
    typer.echo(f"answered {state.waiting_for}; follow it with: breaker recover --watch")


def _ask_unless_given(what: str, given: str) -> str:
    if given.strip() or not on_terminal():
        return given.strip()
    return str(typer.prompt(f"{what} ({MIN_TEXT} characters or more)", err=True)).strip()


def _ask_acknowledgement() -> bool:
    return on_terminal() and typer.confirm("The cause is understood, conditions are normal, trading resumes?", err=True)


def _record_refusal(settings: Settings, record: AuditRecord) -> None:
    from ledger.configured import open_ready_ledger, open_spool  # noqa: PLC0415  slow to import
    from ledger.recorder import Recorder  # noqa: PLC0415

    Recorder(open_ready_ledger(settings), open_spool(settings)).record(record)


def _read(settings: Settings, scope: str) -> RecoveryState | None:
    return _from_redis(settings, partial(read_state, scope=scope))


def _from_redis(settings: Settings, reading: Callable[[AsyncRedis], Awaitable[T]]) -> T:
    async def once() -> T:
        async with async_redis_client(settings, timeout=settings.redis_timeout) as redis:
            return await reading(redis)

    from redis.exceptions import RedisError  # noqa: PLC0415

    try:
        return asyncio.run(once())
    except RedisError as error:
        sys.stderr.write(f"breaker: the recovery's state cannot be read from Redis: {error}\n")
        raise typer.Exit(Exit.NOT_HALTED) from None


def _follow(settings: Settings, state: RecoveryState) -> None:
    with Live(_checklist(state), console=console(), refresh_per_second=4) as live:
        while not state.done and not state.waiting_for:
            time.sleep(0.5)
            state = _read(settings, state.scope) or state
            live.update(_checklist(state))
    _next_step(state)


def _next_step(state: RecoveryState) -> None:
    if state.waiting_for:
        first = "breaker recover evidence, then " if state.waiting_for == "root-cause" else ""
        console().print(Text.assemble(("next: ", "dim"), f"{first}breaker recover answer   ({state.waiting_for})"))
    elif state.report_path and state.done:
        console().print(Text.assemble(("report: ", "dim"), state.report_path))


def _checklist(state: RecoveryState) -> Group:
    head = Text.assemble(
        ("▸ RECOVERY", "bold"), f"  {state.phase}  ", (f"round {state.round} · incident {state.incident_id}", "dim")
    )
    table = Table.grid(padding=(0, 1))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold", style="dim")
    for section in CHECKLIST:
        table.add_row("", Text(f"{section.number}. {section.title}", "bold"), "")
        for item in section.items:
            shown = state.item(item.key)
            word = "" if shown.tick in (Tick.GREEN, Tick.PENDING) else f" [{shown.tick.value}]"
            who = " ".join(part for part in (shown.at[11:19], f"by {shown.by}" if shown.by else "") if part)
            table.add_row(
                Text(shown.tick.mark, _COLOURS.get(shown.tick, "")),
                Text(f"{item.words}{word}"),
                Text(" · ".join(part for part in (who, shown.evidence) if part)),
            )
    bar = ProgressBar(total=1.0, completed=state.share_done, width=40)
    parts: list[Any] = [head, table, bar]
    if state.problem:
        parts.insert(1, Text(f"! {state.problem}", "red"))
    return Group(*parts)
