"""Recover: walk the runbook's checklist as far as machines can, then wait for people.

While it waits, the run is suspended: no process is kept, and a restart of worker or server loses nothing. When it goes
on it begins at the top again, perhaps on another host. What was decided stands in Redis; every other step that was done
is taken from what Prefect kept of it, or done again where that is lost, which is harmless.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, replace
from typing import Any, Protocol, TypeVar

from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.exceptions import ObjectNotFound
from prefect.flow_runs import asuspend_flow_run
from prefect.input import RunInput
from prefect.runtime import flow_run as this_flow_run
from prefect.states import Completed
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff

from configuration.breakers import async_breaker_of
from configuration.redis_clients import async_redis_client
from configuration.settings import Settings, load_settings
from flows.drivers import RunStep, with_prefect
from flows.run_names import log_pauses_as_information
from ledger.configured import open_ready_ledger, open_spool
from ledger.recorder import Recorder
from tasks.checks.equity import trips_again_of
from tasks.recovery import steps
from tasks.recovery.approval_rules import RootCause, trippers_of
from tasks.recovery.artifacts import live_artifacts, update_artifacts
from tasks.recovery.checklist import CHECKLIST, Section
from tasks.recovery.context import RecoveryContext, current_recovery
from tasks.recovery.evidence_store import read_evidence
from tasks.recovery.forms import ApprovalForm, RootCauseForm
from tasks.recovery.questions import NoAnswer, Question
from tasks.recovery.state import RecoveryState, claim, now_iso, read_state, take_over_claim
from tasks.result_storage import results_kept

WAIT_FOR_PEOPLE = 365 * 86_400
"""Seconds that a form stays open. Nobody answering leads to reminders, not to a failure."""
REDIS_RETRIES = 10
"""With their pauses about eight seconds: a Redis that restarts, or a line that breaks, must not end a recovery."""

FormT = TypeVar("FormT", bound=RunInput)

log_pauses_as_information()


@flow(
    name="recovery",
    flow_run_name="recovery-{incident_id}",
    description="The runbook's recovery checklist: root cause, conditions, health, reset, and the watch after it.",
    persist_result=True,
    validate_parameters=True,
)
async def recovery(incident_id: str, scope: str = "global") -> State[Any]:
    """Recover from one incident.

    Args:
        incident_id: the incident's id, as the breaker's state names it.
        scope: which breaker.
    """
    settings = load_settings()
    async with open_recovery(settings, incident_id, scope, flow_run_id=str(this_flow_run.id)) as context:
        status = await context.breaker.get_status()
        if status.incident_id not in (None, incident_id):
            # It would hide the later one's recovery from everybody who looks, and its reset would be refused.
            return Completed(message=f"Over: incident {status.incident_id} came after it, with a recovery of its own.")
        holder = await _holder(context)
        if holder != context.state.flow_run_id:
            return Completed(message=f"Attached: flow run {holder} is this incident's recovery.")
        token = current_recovery.set(context)
        try:
            async with results_kept(settings), live_artifacts(context):
                for round_ in itertools.count(await context.questions.round_in_hand()):
                    if await walk_checklist(context, round_, with_prefect, _ask_by_suspending):
                        break
        finally:
            current_recovery.reset(token)
    return Completed(message="Recovered: OPEN.")


class AskForm(Protocol):
    """How the procedure has a person answer a form: `waiting_for` and `question` name it, `description` is shown.

    Raises NoAnswer where it goes on without an answer.
    """

    async def __call__(
        self, context: RecoveryContext, form: type[FormT], waiting_for: str, question: str, description: str
    ) -> FormT: ...


async def walk_checklist(context: RecoveryContext, round_: int, do: RunStep, ask: AskForm) -> bool:
    """The checklist, once. False when the watch tripped the breaker again: then it is begun anew."""
    trip = dict(await context.breaker.get_status())
    done = await _already_reset(context, round_)
    if done is None:
        evidence = await _walk_to_approval(context, round_, trip, do, ask)
        done = await _approved_reset(context, round_, do, ask)
    else:  # nothing is in question but how the watch ends, which must not wait
        evidence = await read_evidence(context.redis, context.state.incident_id) or ""
    epoch = int(done["epoch"])
    await do(steps.verify_state, round_=round_, epoch=epoch)
    await do(steps.find_ledger_row, round_=round_, epoch=epoch)
    await do(steps.tell_transitions, round_=round_, what="the reset")
    why = await do(steps.watch, round_=round_, minutes=context.settings.recovery.watch / 60, epoch=epoch)
    await do(steps.tell_transitions, round_=round_, what="how the watch ended")
    if why is not None:
        await do(steps.reopen, round_=round_, why=why)
        return False
    await context.update(phase="recovered: OPEN", problem="")
    await context.record("RECOVERY_FINISHED", {"rounds": round_}, once="finished")
    root_cause = await context.question("root-cause", round_)
    await do(
        steps.write_report,
        round_=round_,
        stage="at the end",
        trip=trip,
        root_cause=dict(root_cause.accepted),
        evidence=evidence,
    )
    await context.update(done=True)
    return True


async def _already_reset(context: RecoveryContext, round_: int) -> dict[str, Any] | None:
    """What this round's approval has led to; None while it is to be given yet."""
    approval = await context.questions.read("approval", round_)
    return dict(approval.result) if approval is not None and approval.result else None


async def _walk_to_approval(
    context: RecoveryContext, round_: int, trip: dict[str, Any], do: RunStep, ask: AskForm
) -> str:
    """Sections 1 to 4: what is to be known and done before anybody approves. Returns the evidence."""
    section_1, section_2, section_3 = CHECKLIST[:3]
    await do(steps.tell_transitions, round_=round_, what="the trip")
    gathered: dict[str, str] = await do(steps.gather_evidence, round_=round_)
    evidence = gathered["markdown"]
    cause = await _root_cause(context, round_, evidence, do, ask)
    context.state = replace(context.state, author=cause.author)
    for number, item in enumerate(section_1.items, 1):
        await do(
            steps.confirm,
            key=item.key,
            words=f"1.{number} {item.words}",
            round_=round_,
            by=cause.author,
            evidence=gathered[item.key],
        )
    await do(steps.measure_conditions, round_=round_)
    await _verify_items(section_2, round_, do)
    await do(steps.measure_health, round_=round_)
    await _verify_items(section_3, round_, do)

    await do(steps.tell_of_approval, round_=round_, root_cause=cause.root_cause)
    await do(
        steps.write_report,
        round_=round_,
        stage="before the reset",
        trip=trip,
        root_cause=asdict(cause),
        evidence=evidence,
    )
    await do(steps.look_for_conflicts, round_=round_)
    return evidence


async def _root_cause(context: RecoveryContext, round_: int, evidence: str, do: RunStep, ask: AskForm) -> RootCause:
    """The one that was accepted, asked for until there is one."""
    while not (asked := await context.question("root-cause", round_)).accepted:
        context.state = replace(context.state, problem=asked.problem or _reopened(context))
        try:
            form = await ask(context, RootCauseForm, "root-cause", asked.name, f"{_refusal(asked)}{evidence}")
        except NoAnswer as none:
            await _ask_again(asked, none, do)
        else:
            answer = asdict(form.answer())
            await do(steps.accept_root_cause, round_=round_, attempt=asked.attempt, question=asked.name, answer=answer)
    context.state = replace(context.state, problem="")
    return RootCause(**asked.accepted)


async def _approved_reset(context: RecoveryContext, round_: int, do: RunStep, ask: AskForm) -> dict[str, Any]:
    """What was reset, asked for until somebody approves it."""
    while not (asked := await context.question("approval", round_)).result:
        context.state = replace(context.state, problem=asked.problem)
        answer = dict(asked.accepted)  # the reset was made by it, but not all that comes after that
        try:
            if not answer:
                description = f"{_refusal(asked)}{await _foreseen_trip(context)}{context.state.as_text()}"
                form = await ask(context, ApprovalForm, "approval", asked.name, description)
                answer = asdict(form.answer())
        except NoAnswer as none:
            await _ask_again(asked, none, do)
        else:
            await do(steps.reset, round_=round_, attempt=asked.attempt, question=asked.name, answer=answer)
    context.state = replace(context.state, problem="")
    return dict(asked.result)


async def _ask_again(asked: Question, none: NoAnswer, do: RunStep) -> None:
    await do(
        steps.ask_again,
        form=asked.form,
        round_=asked.round,
        attempt=asked.attempt,
        question=asked.name,
        why=str(none),
    )


async def _ask_by_suspending(
    context: RecoveryContext, form: type[FormT], waiting_for: str, question: str, description: str
) -> FormT:
    """Suspend until a person has answered. Asked once: a run that begins again gets the answer that was given."""
    if (context.state.waiting_for, context.state.question) != (waiting_for, question):
        await context.update(
            waiting_for=waiting_for,
            waiting_since=now_iso(),
            question=question,
            phase=f"waiting for a person: {waiting_for}",
        )
    await update_artifacts(context)
    answer: FormT = await asuspend_flow_run(
        wait_for_input=form.with_initial_data(description=description), key=question, timeout=WAIT_FOR_PEOPLE
    )
    await context.update(waiting_for="", waiting_since="", question="", phase="going on", reminded_at="")
    return answer


def _refusal(asked: Question) -> str:
    return f"**The last answer was refused: {asked.problem}**\n\n" if asked.problem else ""


def _reopened(context: RecoveryContext) -> str:
    """Why there is another round, which people see until its root cause is written."""
    return context.state.problem if context.state.round > 1 else ""


async def _foreseen_trip(context: RecoveryContext) -> str:
    """What whoever approves has to know of an equity that would trip again."""
    foreseen = await trips_again_of(context.settings, context.state.scope)
    return f"**Re-base? {foreseen[:1].upper()}{foreseen[1:]}.**\n\n" if foreseen else ""


async def _verify_items(section: Section, round_: int, do: RunStep) -> None:
    for number, item in enumerate(section.items, 1):
        await do(steps.verify, key=item.key, words=f"{section.number}.{number} {item.words}", round_=round_)


async def _holder(context: RecoveryContext) -> str:
    """The flow run that is this incident's recovery: this one, unless another one lives."""
    mine, incident = context.state.flow_run_id, context.state.incident_id
    holder = await claim(context.redis, incident, mine)
    if holder != mine and await _has_ended(holder):
        await take_over_claim(context.redis, incident, mine)
        return mine
    return holder


async def _has_ended(flow_run_id: str) -> bool:
    """A crashed or failed run has not: it is put back on schedule. A cancelled one has."""
    async with get_client() as client:
        try:
            other = await client.read_flow_run(flow_run_id)  # type: ignore[arg-type]
        except ObjectNotFound:
            return True
    return (
        other.state is not None
        and other.state.is_final()
        and not (other.state.is_crashed() or other.state.is_failed() or other.state.is_completed())
    )


@asynccontextmanager
async def open_recovery(
    settings: Settings, incident_id: str, scope: str, *, flow_run_id: str
) -> AsyncIterator[RecoveryContext]:
    """What the checklist of this incident works with, as far as this flow run had got with it."""
    redis = _redis_with_retries(settings)
    breaker = async_breaker_of(settings, scope)
    recorder = Recorder(open_ready_ledger(settings), open_spool(settings))
    shown = await read_state(redis, scope)
    if shown is None or shown.incident_id != incident_id or shown.flow_run_id != flow_run_id:
        shown = RecoveryState(incident_id=incident_id, scope=scope, flow_run_id=flow_run_id)
    if shown.is_cancelled:  # somebody forced it back on schedule in Prefect, or asked a Prefect that doesn't know it
        shown = replace(shown, cancelled_at="", problem="")
    status = await breaker.get_status()
    context = RecoveryContext(settings, redis, breaker, recorder, shown, trippers_of(status))
    try:
        yield context
    finally:
        await breaker.close()
        await redis.aclose()
        recorder.ledger.close()


def _redis_with_retries(settings: Settings) -> Redis:
    patience = Retry(ExponentialBackoff(cap=1.0, base=0.1), REDIS_RETRIES)
    return async_redis_client(settings, timeout=settings.redis_timeout, retry=patience)
