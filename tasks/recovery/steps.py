"""Run the steps of a recovery as Prefect tasks: one a box of the checklist, named as the runbook names it.

A recovery is suspended while it waits for people and begins again from the top when they have answered, or when its
process was killed. What a step has done is therefore kept under its name, its arguments and the flow run's id, and not
done again; whatever can't be kept in time, or is lost with the host that kept it, is harmless to repeat (deterministic
ids in Redis and in the ledger).
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.context import TaskRunContext
from prefect.tasks import Task

from breaker.atomic_file import write_atomically
from breaker.errors import BreakerError
from breaker.state import State
from breaker.transition_terms import ResetToken
from configuration.redis_clients import redis_client
from ledger.errors import LedgerError
from ledger.ledger import Ledger
from ledger.outbox import drain_outbox
from ledger.queries import Filter
from ledger.record import DENIED, FAILED, AuditRow, derived_id
from tasks import transition_notices
from tasks.checks import conditions, system
from tasks.checks.measurement import DRAWDOWN, Colour, Measurement
from tasks.notification import Notification, NotificationKind, console_page
from tasks.recovery.approval_rules import Approval, RootCause, refuse_root_cause
from tasks.recovery.book_at_trip import BOOK_ACTIONS
from tasks.recovery.checklist import CHECKLIST
from tasks.recovery.conflicts import find_conflicts
from tasks.recovery.context import RecoveryContext, current_recovery
from tasks.recovery.evidence_gathering import gather_evidence as gather
from tasks.recovery.evidence_store import keep_evidence
from tasks.recovery.questions import Question
from tasks.recovery.report import ReportSource, incident_report
from tasks.recovery.reset import REFUSED, ResetRequest, measure_for_reset, reset_breaker
from tasks.recovery.reset_watch import WatchedReset, Watcher, reset_at_epoch, watch_reset
from tasks.recovery.state import Tick

MOST_ROWS = 10_000
"""Of the ledger's, in one report."""
LEDGER_WAIT = 30.0
"""Seconds for which the ledger is asked for the entry of the reset."""

_P = ParamSpec("_P")
_R = TypeVar("_R")


def _kept(context: TaskRunContext, parameters: dict[str, Any]) -> str:
    name = context.task.name
    return (
        f"{context.task_run.flow_run_id}-{name}-{hashlib.sha256(repr(sorted(parameters.items())).encode()).hexdigest()}"
    )


def _step(
    name: str, *, run_name: str | None = None, timeout: float = 120, decides: bool = False
) -> Callable[[Callable[_P, _R]], Task[_P, _R]]:
    """What `decides` is never taken from Prefect's results: what was decided stands in Redis."""
    return task(
        name=name,
        task_run_name=run_name or name,
        retries=3,
        retry_delay_seconds=[1, 5, 15],
        retry_jitter_factor=0.3,
        timeout_seconds=timeout,
        persist_result=not decides,
        **({"cache_policy": NO_CACHE} if decides else {"cache_key_fn": _kept}),
    )


@_step("Gather the evidence", run_name="1. Gather the evidence, round {round_}", timeout=180)
async def gather_evidence(round_: int) -> dict[str, str]:
    """Trip, ledger and history, metrics, logs and the kill switch's report, as `markdown`, kept for people to read; and
    by its key what there is for each item of the section, empty for nothing.
    """
    context = current_recovery.get()
    await context.update(phase="gathering evidence", round=round_)
    found = await gather(context.settings, context.state.incident_id, context.state.scope)
    markdown: str = found.as_markdown()
    await keep_evidence(context.redis, context.state.incident_id, markdown)
    return {"markdown": markdown, **{item.key: found.found_for(item.key) for item in CHECKLIST[0].items}}


@_step("Confirm an item", run_name="{words}", timeout=30)
async def confirm(key: str, words: str, round_: int, by: str, evidence: str) -> None:
    """Tick an item that a person confirmed. Where there was no evidence, nobody can have reviewed any."""
    context = current_recovery.get()
    said = f"reviewed: {evidence}" if evidence else "no evidence was gathered; the root cause was written without it"
    await context.tick(key, Tick.GREEN if evidence else Tick.YELLOW, said, by)
    details = {"item": key, "words": words, "evidence": evidence}
    await context.record("RECOVERY_ITEM_CONFIRMED", details, by=by, once=f"{key}-{round_}")


@_step("Accept the root cause", run_name="1. Accept the root cause, answer {attempt}", decides=True)
async def accept_root_cause(round_: int, attempt: int, question: str, answer: dict[str, str]) -> str | None:
    """Why the answer is refused, or None."""
    context = current_recovery.get()
    asked = await context.question("root-cause", round_)
    if asked.name != question or asked.accepted:
        return asked.problem or None  # by another process of this run
    cause = RootCause(**answer)
    problem = refuse_root_cause(cause, await context.rules(question, cause))
    outcome = {"outcome": DENIED} if problem else {}
    details = {**answer, "question": question, **({"refused": problem} if problem else {})}
    await context.record("RECOVERY_ROOT_CAUSE", details, by=cause.author, once=f"cause-{question}", **outcome)
    if problem:
        await context.refuse(asked, problem)
    else:
        await context.questions.accept(asked, answer)
    return problem


@_step("Ask again", run_name="Ask again after answer {attempt} to {form}, round {round_}", decides=True)
async def ask_again(form: str, round_: int, attempt: int, question: str, why: str) -> None:
    """For what was no answer at all: on record, as it may have been meant for one."""
    context = current_recovery.get()
    asked = await context.question(form, round_)
    if asked.name == question and not asked.accepted:
        details = {"form": form, "question": question, "refused": why}
        await context.record("RECOVERY_ANSWER_REFUSED", details, outcome=DENIED, once=f"no-answer-{question}")
        await context.refuse(asked, why)


@_step("Measure conditions", run_name="2. Conditions, round {round_}", timeout=86_400)
async def measure_conditions(round_: int) -> list[dict[str, str]]:
    """Measured again and again while waiting may help, until the deadline; shown while they change."""
    context = current_recovery.get()
    await context.update(phase="measuring conditions")
    return await _until_not_red(context, lambda: conditions.measure_conditions(context.settings, context.state.scope))


@_step("Measure system health", run_name="3. System health, round {round_}", timeout=86_400)
async def measure_health(round_: int) -> list[dict[str, str]]:
    context = current_recovery.get()
    await context.update(phase="checking system health")
    return await _until_not_red(context, lambda: system.measure_health(context.settings))


def waiting_may_help(measured: Sequence[Measurement]) -> bool:
    """Whether something is red that may get better by itself.

    A drawdown is for a person to decide: whether the high-water mark begins anew. Nobody is kept waiting for that.
    """
    return any(each.colour is Colour.RED and each.name != DRAWDOWN for each in measured)


async def _until_not_red(context: RecoveryContext, measure: Callable[[], Any]) -> list[dict[str, str]]:
    settings = context.settings.recovery
    loop = asyncio.get_running_loop()
    deadline = loop.time() + settings.condition_deadline
    while True:
        measured: list[Measurement] = await measure()
        await context.tick_measured(measured)
        if not waiting_may_help(measured) or loop.time() >= deadline:
            return [measurement.as_dict() for measurement in measured]
        await asyncio.sleep(settings.condition_interval)


@_step("Verify an item", run_name="{words}", timeout=30)
async def verify(key: str, words: str, round_: int) -> str:
    """A measured item's result as a task of its own, so that the orchestrator's UI lists the checklist."""
    context = current_recovery.get()
    item = context.state.item(key)
    details = {"item": key, "words": words, "result": item.tick.value, "evidence": item.evidence}
    outcome = {"outcome": FAILED} if item.tick is Tick.RED else {}
    await context.record("RECOVERY_ITEM_MEASURED", details, once=f"{key}-{round_}", **outcome)
    return item.tick.value


@_step("Notify", run_name="Notify: {what}, round {round_}")
async def tell_transitions(round_: int, what: str) -> str:
    """Tell what nobody else has told of the breaker yet. Returns what could not be delivered, as text."""
    context = current_recovery.get()
    told = await transition_notices.tell_transitions(context.settings, context.state.scope)
    return "; ".join(str(failure) for each in told for failure in each.failures)


@_step("Notify", run_name="Notify: a reset waits for approval, round {round_}")
async def tell_of_approval(round_: int, root_cause: str) -> str:
    """Returns what could not be delivered, as text."""
    context = current_recovery.get()
    recovery, status = context.settings.recovery, await context.breaker.get_status()
    note = Notification(
        # What was reset past the recovery is no alarm any more: it would open the incident at PagerDuty again.
        kind=NotificationKind.WAITING if status.is_tripped else NotificationKind.RESET,
        incident_id=context.state.incident_id,
        title="A reset waits for approval" if status.is_tripped else "A reset that was made waits for its approval",
        body=f"Root cause: {root_cause}",
        severity="info",
        link=console_page(recovery.console_url, "recovery", context.state.scope),
    )
    told_once = await transition_notices.tell_once(
        context.settings, f"recovery-approval:{context.state.flow_run_id}:{round_}", note
    )
    undelivered = "; ".join(str(failure) for failure in told_once.failures) if told_once else ""
    told = context.settings.notifications.any_channel
    missing = undelivered or ("" if told else "no channel is configured in [notifications]: tell people yourself")
    await context.tick("notify", Tick.YELLOW if missing else Tick.GREEN, missing or "delivered")
    return undelivered


@_step("Write the incident report", run_name="4.2 Document root cause in incident report, round {round_}, {stage}")
async def write_report(round_: int, stage: str, trip: dict[str, Any], root_cause: dict[str, str], evidence: str) -> str:
    """Writes `incidents/ID/report.md` in the state directory; returns the report itself."""
    context = current_recovery.get()
    ledger, incident = context.recorder.ledger, context.state.incident_id
    rows, costs, book = [
        await asyncio.to_thread(_oldest_first, ledger, Filter(actions=actions, incident_id=incident))
        for actions in ((), ("KILL_SWITCH_COST",), BOOK_ACTIONS)
    ]
    report = incident_report(ReportSource(context.state, trip, root_cause, evidence, rows, costs, book))
    path = context.settings.state_dir / "incidents" / context.state.incident_id / "report.md"
    await asyncio.to_thread(_write, path, report)
    digest = hashlib.sha256(report.encode()).hexdigest()
    await context.update(report_path=str(path))
    await context.tick("incident-report", Tick.GREEN, str(path), root_cause["author"])
    await context.record(
        "INCIDENT_REPORT", {"path": str(path), "sha256": digest, "stage": stage}, once=f"{stage}-{round_}"
    )
    return report


@_step("Look for conflicting operations", run_name="4.3 Confirm no pending conflicting operations, round {round_}")
async def look_for_conflicts(round_: int) -> dict[str, str]:
    context = current_recovery.get()
    state = context.state
    found = await find_conflicts(
        context.settings, incident_id=state.incident_id, flow_run_id=state.flow_run_id, scope=state.scope
    )
    await context.tick_measured([found])
    return found.as_dict()


@_step("Reset", run_name="5.1 Reset, answer {attempt}", timeout=60, decides=True)
async def reset(round_: int, attempt: int, question: str, answer: dict[str, Any]) -> dict[str, Any]:
    """Reset if this answer allows it: `{"epoch": …}` with what was reset, or `{"refused": why}`.

    Everything is measured once more first, as the answer may have come hours after the checklist. A reset that was made
    meanwhile past this recovery is taken as it is, under the name of whoever made it. The answer is consumed by the
    script that resets, and refused for ever where it does not: nothing else can be decided by it, wherever it is found.
    """
    context = current_recovery.get()
    asked = await context.question("approval", round_)
    if asked.name != question or asked.result:  # by another process of this run
        return dict(asked.result) or {"refused": asked.problem}
    request = await _reset_request(context, asked, Approval(**(asked.accepted or answer)))
    approval = request.answer
    if not request.made and (known := await _decided_before(context, request)):
        await context.refuse(asked, known)
        return {"refused": known}

    async def measure(of: str, flow_run_id: str | None) -> list[Measurement]:
        measured = await measure_for_reset(context.settings, context.state.scope, of, flow_run_id)
        await context.tick_measured(measured)
        return measured

    try:
        outcome = await reset_breaker(context.settings, context.breaker, request, measure, context.keep)
    except BreakerError as error:
        if request.made:
            raise
        await context.refuse(asked, str(error))
        return {"refused": str(error)}
    for measurement in outcome.red:
        key = measurement.name.partition("/")[0]
        await context.tick(key, Tick.OVERRIDDEN, approval.override_reason, approval.approver)
    status = outcome.status
    by, why = (
        (status.reset_by or "", status.reset_reason or "") if outcome.adopted else (approval.approver, approval.reason)
    )
    until = f"quiet until {status.quiet_until.isoformat()}" if status.quiet_until else "no quiet period"
    told = f"{why} (epoch {outcome.epoch}, {until})"
    if outcome.adopted:
        told += f"; made past this recovery, taken as its own by {approval.approver}"
    equity = [str(outcome.rebased)] if outcome.rebased else []
    equity += [outcome.equity_warning] if outcome.equity_warning else []
    told = "; ".join([told, *equity, *outcome.locked])
    await context.tick("reset", Tick.GREEN, told, by, at=status.reset_at)
    result = {"epoch": outcome.epoch, "by": by}
    ours = asked if outcome.adopted else replace(asked, raw=request.token.spent if request.token else asked.raw)
    await context.questions.accept(ours, asdict(approval), result)
    return result


async def _reset_request(context: RecoveryContext, asked: Question, approval: Approval) -> ResetRequest:
    run, incident = context.state.flow_run_id, context.state.incident_id
    rules = await context.rules(asked.name, approval)
    spent = replace(asked, accepted=asdict(approval))
    return ResetRequest(
        scope=context.state.scope,
        answer=approval,
        permissions=rules.people[approval.approver],
        source="flow",
        expected_epoch=asked.epoch,
        event_id=derived_id("reset", incident, run, asked.name),
        incident_id=incident,
        flow_run_id=run,
        once=f"{run}-{asked.name}",
        token=ResetToken(context.questions.key(asked.form, asked.round), asked.raw, spent.to_json()),
        question=asked.name,
        made=bool(asked.accepted),
    )


async def _decided_before(context: RecoveryContext, request: ResetRequest) -> str:
    """Why this answer is none any more, although Redis has it open: it may have come back from a copy.

    Empty if it is one. The ledger says so where it can be asked; Redis alone decides where it can't.
    """
    refused = derived_id(REFUSED, request.incident_id, request.once)
    try:
        known = await asyncio.to_thread(context.recorder.ledger.known, [refused, str(request.event_id)])
    except LedgerError:
        return ""
    return "this answer was decided about before, as the audit log has it: give another one" if known else ""


@_step("Verify the state", run_name="5.2 Verify state is OPEN, round {round_}")
async def verify_state(round_: int, epoch: int) -> str:
    """Right after the reset: the quiet period is on, and it is this reset's."""
    context = current_recovery.get()
    status = await context.breaker.get_status()
    if status.state in (State.QUIET_PERIOD, State.OPEN) and status.epoch == epoch:
        await context.tick("verify-open", Tick.WORKING, f"{status.state.value}; OPEN when the watch has ended well")
    return status.state.value


@_step("Find the reset in the audit log", run_name="5.3 Check audit log for reset entry, round {round_}")
async def find_ledger_row(round_: int, epoch: int) -> bool:
    """Whether the ledger has the reset; drained until it has, for `LEDGER_WAIT` seconds."""
    context = current_recovery.get()
    loop = asyncio.get_running_loop()
    deadline = loop.time() + LEDGER_WAIT
    while True:
        problem = await asyncio.to_thread(_drain, context)
        found = await asyncio.to_thread(_reset_row, context, epoch)
        if found:
            await context.tick("audit-entry", Tick.GREEN, f"row {found} of the ledger")
            return True
        if loop.time() >= deadline:
            await context.tick("audit-entry", Tick.RED, problem or "the ledger has no row of this reset")
            return False
        await asyncio.sleep(1)


def _drain(context: RecoveryContext) -> str:
    settings = context.settings
    try:
        with redis_client(settings) as redis:
            drain_outbox(redis, context.recorder.ledger, (context.state.scope,), timeout=settings.redis_timeout)
    except BreakerError as error:
        return str(error)
    return ""


def _reset_row(context: RecoveryContext, epoch: int) -> int | None:
    wanted = Filter(actions=("CIRCUIT_BREAKER_RESET",), incident_id=context.state.incident_id)
    rows = context.recorder.ledger.query(wanted, limit=20).rows
    return next((row.seq for row in rows if row.details.get("epoch") == epoch), None)


@_step(
    "Watch",
    run_name="5.4 Monitor for {minutes:g} minutes for any issues, round {round_}",
    timeout=90_000,
    decides=True,
)
async def watch(round_: int, minutes: float, epoch: int) -> str | None:
    """None if the watch ended well, else why it was tripped again.

    Whoever began to watch this reset first goes on with it; this waits for that end then. Begun again after a crash, it
    watches what is left of the time.
    """
    context = current_recovery.get()
    await context.update(phase="watching")
    state = context.state
    reset = await reset_at_epoch(context.breaker, epoch) or WatchedReset(
        state.scope, epoch, state.incident_id, frozenset()
    )
    holder = f"recovery {state.flow_run_id}"
    end = await watch_reset(context.settings, context.breaker, reset, holder, context.keep, _TickingWatcher(context))
    if end.why:
        await context.tick("watch", Tick.RED, end.why)
        return end.why
    status = await context.breaker.get_status()
    await context.tick("watch", Tick.GREEN, f"nothing red: {end}", at=end.ended)
    await context.tick("verify-open", Tick.GREEN, f"{status.state.value}, epoch {status.epoch}")
    return None


@dataclass(frozen=True, slots=True)
class _TickingWatcher(Watcher):
    context: RecoveryContext

    async def measured(self, measurements: Sequence[Measurement]) -> None:
        state = self.context.state
        gone_past = [key for key, item in state.items.items() if item.tick is Tick.OVERRIDDEN]
        await self.context.tick_measured([one for one in measurements if one.name.partition("/")[0] not in gone_past])

    async def still_locked(self, problems: Sequence[str]) -> None:
        await self.context.update(problem="; ".join(problems))

    async def goes_on(self, left: float, holder: str, gate: str) -> None:
        told = f"{left:.0f} s left, nothing red; gate: {gate}" if gate else f"{left:.0f} s left, watched by {holder}"
        await self.context.tick("watch", Tick.WORKING, told)


@_step("Reopen the checklist", run_name="Reopen the checklist after round {round_}", decides=True)
async def reopen(round_: int, why: str) -> None:
    """Untick everything, and end this round: beginning again at the top must not untick what a later one did."""
    context = current_recovery.get()
    await context.record("RECOVERY_REOPENED", {"why": why}, once=str(round_))
    await context.update(items={}, phase="reopened", problem=f"Reopened: {why}", author="", round=round_ + 1)
    await context.questions.reopen(round_, why)


def _oldest_first(ledger: Ledger, wanted: Filter) -> Sequence[AuditRow]:
    """The newest `MOST_ROWS` of them."""
    found: list[AuditRow] = []
    after: str | None = None
    while len(found) < MOST_ROWS:
        page = ledger.query(wanted, limit=500, after=after)
        found += page.rows
        after = page.next
        if after is None:
            break
    return found[::-1]


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, text, mode=0o644)
