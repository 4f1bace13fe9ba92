"""Run `breaker recover`: show the recovery checklist, live, and answer what it asks."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer
from rich.live import Live

from breaker.keys import of_scope
from cli.acting_on import say_what_is_acted_on, scope_of
from cli.circuit_view import console
from cli.exit_codes import EPILOG, Exit
from cli.messages import say
from cli.options import ClaimedOption, JsonOption, RebaseOption, ScopeOption, on_terminal
from cli.person import Person, acting_person
from cli.prompts import agreed, ask
from cli.recovery_view import changes, checklist, print_next_step
from cli.transitions import open_breaker
from configuration.breakers import breaker_of
from configuration.printed_commands import pastable
from configuration.reasons import MIN_REASON, checked_reason
from configuration.redis_clients import async_redis_client
from configuration.settings import Settings, load_settings
from tasks.checks.equity import trips_again_of
from tasks.checks.probe import redis_reader
from tasks.recovery.answers import AnswerNotTaken, refusal_of, refusal_record, submit_answer
from tasks.recovery.approval_rules import CATEGORIES, MIN_TEXT, Approval, ApprovalRules, RootCause, trippers_of
from tasks.recovery.attestation import attest
from tasks.recovery.cancellation import begun_again_record, end_recovery, ended_record
from tasks.recovery.evidence_store import read_evidence
from tasks.recovery.state import RecoveryState, cancelled_sentence, read_state

if TYPE_CHECKING:
    from redis.asyncio import Redis as AsyncRedis

    from ledger.record import AuditRecord

T = TypeVar("T")

recover_app = typer.Typer(help="The recovery checklist.", epilog=EPILOG, invoke_without_command=True)
POLL = 0.5
TAKEN_WITHIN = 60.0
"""Seconds in which a served flow has taken an answer, or has refused it."""


def register(app: typer.Typer) -> None:
    recover_app.callback()(show)
    recover_app.command(epilog=EPILOG)(start)
    recover_app.command(epilog=EPILOG)(evidence)
    recover_app.command(epilog=EPILOG)(answer)
    recover_app.command(epilog=EPILOG)(end)
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
    state = _read(settings, scope := scope_of(settings, scope))
    if as_json:
        typer.echo(state.to_json() if state else json.dumps(None))
    elif state is None:
        console().print(f"No recovery of {scope} is on record; a trip starts one where the deployments are served.")
    elif watch:
        try:
            _follow(settings, state)
        except KeyboardInterrupt:
            _say_what_goes_on(settings, _read(settings, scope) or state)
            raise typer.Exit(Exit.REFUSED) from None
    else:
        console().print(checklist(state))
        print_next_step(state)


def start(scope: ScopeOption = "global") -> None:
    """Start the recovery of the present incident by hand; usually the trip has done so."""
    settings = load_settings()
    say_what_is_acted_on(settings)
    scope = scope_of(settings, scope)
    status, before = open_breaker(settings, scope).get_status(), _read(settings, scope)
    # What was reset past a recovery that was cancelled is OPEN, and its cause is yet to be told.
    again = before is not None and before.is_cancelled and before.incident_id == status.incident_id
    if status.incident_id is None or not (again or status.state.value in ("TRIPPED", "QUIET_PERIOD")):
        raise typer.BadParameter(f"{scope} is {status.state.value}: there is nothing to recover from")
    from tasks import orchestrator  # noqa: PLC0415  slow to import

    try:
        run_id = asyncio.run(orchestrator.start("recovery/recovery", incident_id=status.incident_id, scope=scope))
    except orchestrator.NotStarted as error:
        say(f"no recovery was started: {error}; trading stays halted")
        raise typer.Exit(Exit.REFUSED) from None
    if again and before is not None:  # the run takes the claim over from the one that was cancelled
        person = acting_person(settings, None)
        _record(settings, begun_again_record(before, person.name, run_id))
    typer.echo(f"started flow run {run_id}; follow it with: {pastable(f'breaker recover --watch{of_scope(scope)}')}")


def end(
    reason: Annotated[str, typer.Option("--reason", help=f"Why it is given up, {MIN_REASON} characters or more.")],
    operator: ClaimedOption = None,
    scope: ScopeOption = "global",
) -> None:
    """End a recovery whose run was cancelled in Prefect, on record. The breaker stays as it is."""
    why, settings = checked_reason(reason), load_settings()
    say_what_is_acted_on(settings)
    scope = scope_of(settings, scope)
    person = acting_person(settings, operator)
    if "APPROVE_RECOVERY" not in person.permissions:
        say(f"{person.name} has no APPROVE_RECOVERY permission; nothing changed")
        raise typer.Exit(Exit.REFUSED)

    async def once() -> RecoveryState:
        async with redis_reader(settings) as redis:
            return await end_recovery(redis, scope, person.name, why)

    ended = asyncio.run(once())
    _record(settings, ended_record(ended, person.name, why, claimed=person.claimed))
    look = pastable(f"breaker status{of_scope(scope)}")
    typer.echo(f"ended the recovery of incident {ended.incident_id}; the breaker stays as it is: {look}")


def evidence(
    incident: Annotated[str, typer.Option("--incident", help="Of this one; of the latest recovery's otherwise.")] = "",
    scope: ScopeOption = "global",
) -> None:
    """What was gathered for whoever writes the root cause, as Markdown. It is kept for 30 days."""
    settings = load_settings()
    scope = scope_of(settings, scope)
    state = None if incident else _read(settings, scope)
    of = incident or (state.incident_id if state else "")
    found = _from_redis(settings, partial(read_evidence, incident_id=of)) if of else None
    if found is None:
        why = f"no evidence of {of} is kept" if of else f"no recovery of {scope} is on record"
        say(f"{why}; a recovery gathers it when it begins, where the deployments are served")
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
    rebase_equity: RebaseOption = False,
    operator: ClaimedOption = None,
    scope: ScopeOption = "global",
) -> None:
    """Answer what the recovery waits for: its root cause, or the approval of its reset. Asks for what is not given."""
    settings = load_settings()
    say_what_is_acted_on(settings)
    scope = scope_of(settings, scope)
    state = _read(settings, scope)
    if state is not None and state.is_cancelled:
        say(f"the recovery takes no answer. {cancelled_sentence(scope)}; nothing changed")
        raise typer.Exit(Exit.REFUSED)
    if state is None or not state.waiting_for:
        say("no recovery waits for a person; nothing was done")
        raise typer.Exit(Exit.REFUSED)
    told = {"--root-cause": root_cause, "--corrective-action": corrective_action}
    approved = {
        "--reason": reason,
        "--acknowledge": acknowledge,
        "--override": override,
        "--rebase-equity": rebase_equity,
    }
    if unfit := [name for name, given in (approved if state.waiting_for == "root-cause" else told).items() if given]:
        say(f"{', '.join(unfit)} answers another question. {_what_is_asked(state)}; nothing changed")
        raise typer.Exit(Exit.REFUSED)
    person = acting_person(settings, operator)
    who = person.name
    status = open_breaker(settings, scope).get_status()
    people = {who: person.permissions}
    rules = ApprovalRules(people, settings.recovery.two_person, trippers_of(status), state.author, scope)
    given: RootCause | Approval
    if state.waiting_for == "root-cause":
        given = RootCause(
            who,
            category,
            _ask_unless_given("Root cause: what happened, and why", root_cause),
            _ask_unless_given("Corrective action", corrective_action),
        )
    else:
        rebase_equity = rebase_equity or _ask_to_rebase(settings, scope, acknowledge)
        why = _ask_unless_given("Why may trading resume", reason)
        given = Approval(who, why, acknowledge or _ask_acknowledgement(), override, rebase_equity)
    refusal = asyncio.run(refusal_of(given, rules, settings, state))
    if refusal is not None:
        _record(settings, refusal_record(state, who, refusal, "cli", claimed=person.claimed))
        say(f"refused: {refusal}; nothing changed, the recovery still waits")
        raise typer.Exit(Exit.REFUSED)
    try:
        _from_redis(settings, partial(_attest, state=state, answer=given, person=person))
        asyncio.run(submit_answer(state, given))
    except AnswerNotTaken as error:
        say(f"{error}; look with: `breaker recover{of_scope(scope)}`")
        raise typer.Exit(Exit.REFUSED) from None
    _tell_what_became_of_it(settings, state)


def _what_is_asked(state: RecoveryState) -> str:
    """In a sentence, with the command that answers it."""
    if state.waiting_for == "root-cause":
        return (
            f"The recovery asks for the root cause of incident {state.incident_id}, and for its approval after that. "
            "Answer with: `breaker recover answer --root-cause WHAT --corrective-action "
            f"WHAT{of_scope(state.scope)}`"
        )
    return (
        f"The recovery asks for the approval of the reset; the root cause of incident {state.incident_id} is known. "
        f"Answer with: `breaker recover answer --reason WHY --acknowledge{of_scope(state.scope)}`"
    )


def _tell_what_became_of_it(settings: Settings, asked: RecoveryState) -> None:
    """Wait until the flow has taken the answer or has refused it: only then was it answered."""
    follow = pastable(f"breaker recover --watch{of_scope(asked.scope)}")
    deadline = time.monotonic() + TAKEN_WITHIN
    while time.monotonic() < deadline:
        now = _read(settings, asked.scope) or asked
        if (now.waiting_for, now.round) == (asked.waiting_for, asked.round) and now.question != asked.question:
            say(f"refused: {now.problem}; nothing changed, the recovery still waits")
            raise typer.Exit(Exit.REFUSED)
        if now.question != asked.question and _is_taken(asked, now):
            typer.echo(f"answered {asked.waiting_for}; follow it with: {follow}")
            return
        time.sleep(POLL)
    typer.echo(f"the answer to {asked.waiting_for} was handed over, and not taken yet; look with: {follow}")


def _is_taken(asked: RecoveryState, now: RecoveryState) -> bool:
    """An approval is when the reset is made. A run that goes on begins at the top, shows earlier questions again, and
    measures before it resets.
    """
    if now.done or now.round != asked.round:
        return True
    if asked.waiting_for == "approval":
        return now.item("reset") != asked.item("reset")
    return now.items != asked.items or now.waiting_for not in ("", asked.waiting_for)


async def _attest(redis: AsyncRedis, state: RecoveryState, answer: RootCause | Approval, person: Person) -> None:
    """The flow is told what was confirmed here of whoever answers: of a token's user it knows nothing by itself."""
    await attest(redis, state.flow_run_id, state.question, answer, person.permissions)


def _ask_unless_given(what: str, given: str) -> str:
    if given.strip() or not on_terminal():
        return given.strip()
    return ask(f"{what} ({MIN_TEXT} characters or more)")


def _ask_to_rebase(settings: Settings, scope: str, acknowledge: bool) -> bool:
    """Tell of an equity that would trip again, and ask about it unless everything was given on the command line."""
    foreseen = asyncio.run(trips_again_of(settings, scope))
    if foreseen:
        say(foreseen)
    return bool(foreseen) and not acknowledge and on_terminal() and agreed("Begin the high-water mark anew (re-base)?")


def _ask_acknowledgement() -> bool:
    return on_terminal() and agreed("The cause is understood, conditions are normal, trading resumes?")


def _record(settings: Settings, record: AuditRecord) -> None:
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
        say(f"the recovery's state cannot be read from Redis: {error}")
        raise typer.Exit(Exit.NOT_HALTED) from None


def _say_what_goes_on(settings: Settings, state: RecoveryState) -> None:
    """To whoever leaves it before it has ended or waits for a person."""
    breaker = breaker_of(settings, state.scope, source="cli").get_status()
    say(
        f"not followed here any more: the recovery of incident {state.incident_id} goes on by itself "
        f"({state.phase}), and {state.scope} is {breaker.state}; nothing changed. To follow it again: "
        f"`breaker recover --watch{of_scope(state.scope)}`"
    )


def _follow(settings: Settings, state: RecoveryState) -> None:
    """Until it has ended or waits for a person: live on a terminal, a line for each change elsewhere."""
    out = console()
    seen: RecoveryState | None = None
    with Live(console=out, refresh_per_second=4) if on_terminal() else nullcontext() as live:
        while True:
            if live is not None:
                live.update(checklist(state, out.height))
            else:
                for line in changes(seen, state):
                    typer.echo(line)
            if state.done or state.waiting_for or state.is_cancelled:
                break
            time.sleep(POLL)
            seen, state = state, _read(settings, state.scope) or state
    print_next_step(state)
