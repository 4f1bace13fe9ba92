"""The steps of a recovery as Prefect tasks: one a box of the checklist, named as the runbook names it.

A recovery is suspended while it waits for people and begins again from the top when they have answered, or when its
process was killed. What a step has done is therefore kept under its name, its arguments and the flow run's id, and not
done again; whatever can't be kept in time is harmless to repeat (deterministic ids in Redis and in the ledger).
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from prefect import task
from prefect.context import TaskRunContext
from prefect.tasks import Task

from breaker.errors import BreakerError, NotTripped
from breaker.state import State, Status
from configuration.redis_clients import redis_client
from ledger.ledger import Filter
from ledger.outbox import drain_outbox
from ledger.record import DENIED, FAILED, derived_id
from tasks.checks import conditions, system
from tasks.checks.measurement import Colour, Measurement, worst
from tasks.notify import Kind, Note, notify
from tasks.recovery.approval_rules import Approval, RootCause, refuse_approval, refuse_root_cause
from tasks.recovery.attestation import question_of
from tasks.recovery.conflicts import find_conflicts
from tasks.recovery.context import RecoveryDesk, current_desk
from tasks.recovery.evidence import gather_evidence as gather
from tasks.recovery.evidence_store import keep_evidence
from tasks.recovery.gate_watch import WatchedGate
from tasks.recovery.report import ReportSource, incident_report
from tasks.recovery.state import Tick

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
    name: str, *, run_name: str | None = None, timeout: float = 120
) -> Callable[[Callable[_P, _R]], Task[_P, _R]]:
    return task(
        name=name,
        task_run_name=run_name or name,
        retries=3,
        retry_delay_seconds=[1, 5, 15],
        retry_jitter_factor=0.3,
        timeout_seconds=timeout,
        persist_result=True,
        cache_key_fn=_kept,
    )


@_step("Gather evidence", run_name="1. Gather evidence, round {round_}", timeout=180)
async def gather_evidence(round_: int) -> str:
    """Trip, ledger and history, metrics, logs and the kill switch's report, as Markdown; kept for people to read."""
    desk = current_desk.get()
    await desk.show(phase="gathering evidence", round=round_)
    found = await gather(desk.settings, desk.state.incident_id, desk.state.scope)
    markdown: str = found.as_markdown()
    await keep_evidence(desk.redis, desk.state.incident_id, markdown)
    return markdown


@_step("Confirm an item", run_name="{words}", timeout=30)
async def confirm(key: str, words: str, round_: int, by: str, evidence: str) -> None:
    """Tick an item that a person confirmed."""
    desk = current_desk.get()
    await desk.tick(key, Tick.GREEN, evidence, by)
    await desk.record("RECOVERY_ITEM_CONFIRMED", {"item": key, "words": words}, by=by, once=f"{key}-{round_}")


@_step("Accept the root cause", run_name="1. Accept the root cause, answer {attempt}")
async def accept_root_cause(round_: int, attempt: int, answer: dict[str, str]) -> str | None:
    """Why the answer is refused, or None."""
    desk = current_desk.get()
    cause = RootCause(**answer)
    problem = refuse_root_cause(cause, await desk.rules(question_of("root-cause", round_, attempt), cause))
    outcome = {"outcome": DENIED} if problem else {}
    details = {**answer, "refused": problem} if problem else answer
    await desk.record("RECOVERY_ROOT_CAUSE", details, by=cause.author, once=f"cause-{round_}-{attempt}", **outcome)
    return problem


@_step("Measure conditions", run_name="2. Conditions, round {round_}", timeout=86_400)
async def measure_conditions(round_: int) -> list[dict[str, str]]:
    """Measured again and again until none is red or the deadline has passed; shown while they change."""
    desk = current_desk.get()
    await desk.show(phase="measuring conditions")
    return await _until_not_red(desk, lambda: conditions.measure_conditions(desk.settings, desk.state.scope))


@_step("Measure system health", run_name="3. System system, round {round_}", timeout=86_400)
async def measure_health(round_: int) -> list[dict[str, str]]:
    desk = current_desk.get()
    await desk.show(phase="checking system health")
    return await _until_not_red(desk, lambda: system.measure_health(desk.settings))


async def _until_not_red(desk: RecoveryDesk, measure: Callable[[], Any]) -> list[dict[str, str]]:
    settings = desk.settings.recovery
    loop = asyncio.get_running_loop()
    deadline = loop.time() + settings.condition_deadline
    while True:
        measured: list[Measurement] = await measure()
        await desk.tick_measured(measured)
        if worst(measured) is not Colour.RED or loop.time() >= deadline:
            return [measurement.as_dict() for measurement in measured]
        await asyncio.sleep(settings.condition_interval)


@_step("Verify an item", run_name="{words}", timeout=30)
async def verify(key: str, words: str, round_: int) -> str:
    """A measured item's result as a task of its own, so that the orchestrator's UI lists the checklist."""
    desk = current_desk.get()
    item = desk.state.item(key)
    details = {"item": key, "words": words, "result": item.tick.value, "evidence": item.evidence}
    outcome = {"outcome": FAILED} if item.tick is Tick.RED else {}
    await desk.record("RECOVERY_ITEM_MEASURED", details, once=f"{key}-{round_}", **outcome)
    return item.tick.value


@_step("Notify", run_name="Notify: {title}, round {round_}")
async def tell_people(round_: int, kind: str, title: str, body: str, critical: bool = False) -> str:
    """Returns what could not be delivered, as text."""
    desk = current_desk.get()
    link = desk.settings.recovery.console_url
    note = Note(
        kind=Kind(kind),
        incident_id=desk.state.incident_id,
        title=title,
        body=body,
        severity="critical" if critical else "info",
        link=link,
    )
    undelivered = "; ".join(str(failure) for failure in await notify(desk.settings, note))
    if note.kind is Kind.WAITING:
        told = desk.settings.notifications.anybody
        missing = undelivered or ("" if told else "no channel is configured in [notifications]: tell people yourself")
        await desk.tick("notify", Tick.YELLOW if missing else Tick.GREEN, missing or "delivered")
    return undelivered


@_step("Write the incident report", run_name="4.2 Document root cause in incident report, round {round_}, {stage}")
async def write_report(round_: int, stage: str, trip: dict[str, Any], root_cause: dict[str, str], evidence: str) -> str:
    """Writes `incidents/ID/report.md` in the state directory; returns the report itself."""
    desk = current_desk.get()
    rows = await asyncio.to_thread(desk.recorder.ledger.query, Filter(incident_id=desk.state.incident_id), limit=500)
    report = incident_report(ReportSource(desk.state, trip, root_cause, evidence, tuple(reversed(rows.rows))))
    path = desk.settings.state_dir / "incidents" / desk.state.incident_id / "report.md"
    await asyncio.to_thread(_write, path, report)
    digest = hashlib.sha256(report.encode()).hexdigest()
    await desk.show(report_path=str(path))
    await desk.tick("incident-report", Tick.GREEN, str(path), root_cause["author"])
    await desk.record(
        "INCIDENT_REPORT", {"path": str(path), "sha256": digest, "stage": stage}, once=f"{stage}-{round_}"
    )
    return report


@_step("Look for conflicting operations", run_name="4.3 Confirm no pending conflicting operations, round {round_}")
async def look_for_conflicts(round_: int) -> dict[str, str]:
    desk = current_desk.get()
    found = await _conflicts(desk)
    await desk.tick_measured([found])
    return found.as_dict()


async def _conflicts(desk: RecoveryDesk) -> Measurement:
    return await find_conflicts(
        desk.settings,
        incident_id=desk.state.incident_id,
        flow_run_id=desk.state.flow_run_id,
        scope=desk.state.scope,
    )


@_step("Reset", run_name="5.1 Reset, answer {attempt}", timeout=60)
async def reset(round_: int, attempt: int, answer: dict[str, Any]) -> dict[str, Any]:
    """Reset if this answer allows it: `{"epoch": …}` with what was reset, or `{"refused": why}`.

    Everything is measured once more first, as the answer may have come hours after the checklist.
    """
    desk = current_desk.get()
    approval = Approval(**answer)
    measured = [
        *await conditions.measure_conditions(desk.settings, desk.state.scope),
        *await system.measure_health(desk.settings),
        await _conflicts(desk),
    ]
    await desk.tick_measured(measured)
    rules = await desk.rules(question_of("approval", round_, attempt), approval)
    problem = refuse_approval(approval, rules, measured)
    if problem is None:
        try:
            status = await _reset_once(desk, approval, round_, attempt)
        except BreakerError as error:
            problem = str(error)
    if problem is not None:
        await desk.record(
            "RECOVERY_RESET_REFUSED",
            {"refused": problem, "reason": approval.reason},
            by=approval.approver,
            outcome=DENIED,
            once=f"{round_}-{attempt}",
        )
        return {"refused": problem}
    red = [measurement.name for measurement in measured if measurement.colour is Colour.RED]
    if red:
        await desk.record(
            "RECOVERY_OVERRIDE",
            {"red": red, "reason": approval.override_reason},
            by=approval.approver,
            once=f"{round_}-{attempt}",
        )
        for name in red:
            await desk.tick(name.partition("/")[0], Tick.OVERRIDDEN, approval.override_reason, approval.approver)
    evidence = f"{approval.reason} (epoch {status.epoch}, quiet until {status.get('quiet_until', 'now')})"
    await desk.tick("reset", Tick.GREEN, evidence, approval.approver)
    return {"epoch": status.epoch, "reset_at": status.get("reset_at"), "by": approval.approver}


async def _reset_once(desk: RecoveryDesk, approval: Approval, round_: int, attempt: int) -> Status:
    """Reset; one that was done already, by this answer before a crash or from a terminal, is taken as it is."""
    incident = desk.state.incident_id
    try:
        return await desk.breaker.reset(
            reset_by=approval.approver,
            reason=approval.reason,
            event_id=derived_id("reset", incident, str(round_), str(attempt)),
            expected_incident_id=incident,
        )
    except NotTripped:
        status = await desk.breaker.get_status()
        if status.state in (State.QUIET_PERIOD, State.OPEN) and status.incident_id == incident:
            return status
        raise


@_step("Verify the state", run_name="5.2 Verify state is OPEN, round {round_}")
async def verify_state(round_: int, epoch: int) -> str:
    """Right after the reset: the quiet period is on, and it is this reset's."""
    desk = current_desk.get()
    status = await desk.breaker.get_status()
    if status.state in (State.QUIET_PERIOD, State.OPEN) and status.epoch == epoch:
        await desk.tick("verify-open", Tick.WORKING, f"{status.state.value}; OPEN when the watch has ended well")
    return status.state.value


@_step("Find the reset in the audit log", run_name="5.3 Check audit log for reset entry, round {round_}")
async def find_ledger_row(round_: int, epoch: int) -> bool:
    """Whether the ledger has the reset; drained until it has, for `LEDGER_WAIT` seconds."""
    desk = current_desk.get()
    loop = asyncio.get_running_loop()
    deadline = loop.time() + LEDGER_WAIT
    while True:
        problem = await asyncio.to_thread(_drain, desk)
        found = await asyncio.to_thread(_reset_row, desk, epoch)
        if found:
            await desk.tick("audit-entry", Tick.GREEN, f"row {found} of the ledger")
            return True
        if loop.time() >= deadline:
            await desk.tick("audit-entry", Tick.RED, problem or "the ledger has no row of this reset")
            return False
        await asyncio.sleep(1)


def _drain(desk: RecoveryDesk) -> str:
    settings = desk.settings
    try:
        with redis_client(settings) as redis:
            drain_outbox(redis, desk.recorder.ledger, (desk.state.scope,), timeout=settings.redis_timeout)
    except BreakerError as error:
        return str(error)
    return ""


def _reset_row(desk: RecoveryDesk, epoch: int) -> int | None:
    wanted = Filter(actions=("CIRCUIT_BREAKER_RESET",), incident_id=desk.state.incident_id)
    rows = desk.recorder.ledger.query(wanted, limit=20).rows
    return next((row.seq for row in rows if row.details.get("epoch") == epoch), None)


@_step("Watch", run_name="5.4 Monitor for {minutes:g} minutes for any issues, round {round_}", timeout=90_000)
async def watch(round_: int, minutes: float, epoch: int) -> str | None:
    """Watch until the time since the reset has passed. None if all went well, else why it was tripped again.

    Any red measurement trips at once. Begun again after a crash, it watches what is left of the time.
    """
    desk = current_desk.get()
    await desk.show(phase="watching")
    with WatchedGate(desk.settings, desk.state.scope) as gate:
        return await _watch_to_its_end(desk, gate, epoch)


async def _watch_to_its_end(desk: RecoveryDesk, gate: WatchedGate, epoch: int) -> str | None:
    settings = desk.settings.recovery
    while True:
        status = await desk.breaker.get_status()
        if status.state is State.TRIPPED:
            return f"tripped by {status.tripped_by}: {status.trip_reason}"
        if status.state is State.UNKNOWN:
            return await _trip_again(desk, f"the breaker's state can't be told: {status.problem}")
        measured = [
            *await conditions.measure_conditions(desk.settings, desk.state.scope),
            *await system.measure_health(desk.settings),
        ]
        await desk.tick_measured(measured)
        admitted = await gate.look()
        red = [measurement for measurement in (*measured, admitted) if measurement.colour is Colour.RED]
        if red:
            return await _trip_again(desk, "; ".join(f"{m.name} is {m.value}, limit {m.limit}" for m in red))
        left = _seconds_left(status, settings.watch)
        if left <= 0:
            await _end_quiet_period(desk, epoch)
            return None
        await desk.tick("watch", Tick.WORKING, f"{left:.0f} s left, nothing red; gate: {admitted.value}")
        await asyncio.sleep(min(settings.watch_interval, left))


@_step("Reopen the checklist", run_name="Reopen the checklist after round {round_}")
async def reopen(round_: int, why: str) -> None:
    """Untick everything. Kept like any step: beginning again at the top must not untick what a later round did."""
    desk = current_desk.get()
    await desk.record("RECOVERY_REOPENED", {"why": why}, once=str(round_))
    await desk.show(items={}, phase="reopened", problem=f"Reopened: {why}", author="", round=round_ + 1)


def _seconds_left(status: Status, watch_for: float) -> float:
    """By Redis's clock, on which the reset is dated too."""
    if status.reset_at is None or status.as_of is None:
        return watch_for
    return watch_for - (status.as_of - status.reset_at).total_seconds()


async def _trip_again(desk: RecoveryDesk, why: str) -> str:
    """Raises BreakerUnavailable when Redis can't be told: nobody is to believe in a trip that was not made."""
    # The quiet period may be over by now, and a trip of an open breaker would begin an incident with its own recovery.
    await desk.breaker.trip(
        "WATCH_FAILED", details={"red": why}, tripped_by="recovery watch", incident_id=desk.state.incident_id
    )
    await desk.tick("watch", Tick.RED, why)
    return why


async def _end_quiet_period(desk: RecoveryDesk, epoch: int) -> None:
    status = await desk.breaker.get_status()
    if status.state is State.QUIET_PERIOD:
        await desk.breaker.end_quiet_period(expected_epoch=epoch, by="recovery watch")
    await desk.tick("watch", Tick.GREEN, "nothing red until its end")
    await desk.tick("verify-open", Tick.GREEN, "OPEN")


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.part")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
