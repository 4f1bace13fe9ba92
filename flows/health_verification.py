"""Verify every minute that breaker, ledger, feeds, conditions and services are in order.

Red runs fail and say what is red; people are told once per change. One check that fails never keeps another from being
made.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

from prefect import flow, get_run_logger
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run as this_flow_run
from prefect.states import Completed, Failed

from configuration.settings import Settings, load_settings
from flows.run_names import run_name
from ledger.configured import open_checkpoints
from tasks.checks.measurement import Colour, Measurement, names_of
from tasks.checks.probe import NOT_MEASURED, Probe, describe_error
from tasks.checks.stores import open_stores
from tasks.notification import Notification, NotificationKind
from tasks.notify import notify
from tasks.single_run import STILL_RUNNING, single_run
from tasks.verification import steps
from tasks.verification.last_result import Change, LastVerification, change_since, read_last, write_last

TOO_LATE = timedelta(seconds=60)
"""After an outage the orchestrator hands out every run that was missed; only the newest says anything of now."""
DEDUPLICATION_KEY = "health-verification"
"""What stands for an incident's id in notifications of the verification itself."""


@flow(
    name="health-verification",
    flow_run_name=run_name("health-verification"),
    description="State readable, ledger in agreement, chain unbroken, outbox drained, feeds fresh, all conditions met.",
    persist_result=False,
)
async def health_verification() -> State[Any]:
    """Verify everything once. Failed when anything is red, with what it is as the message."""
    started_at = datetime.now(UTC)
    scheduled = this_flow_run.scheduled_start_time
    if scheduled is not None and started_at - scheduled > TOO_LATE:
        return Completed(
            name="Skipped", message=f"Missed at {scheduled:%H:%M:%S}; a newer run looks at things as they are."
        )
    settings = load_settings()
    with ExitStack() as opened:
        if not await asyncio.to_thread(opened.enter_context, single_run(settings, "health-verification")):
            return Completed(name="Skipped", message=STILL_RUNNING)
        previous = await read_last(settings)
        stores = await asyncio.to_thread(opened.enter_context, open_stores(settings))
        run = steps.VerificationRun(settings, stores, previous, started_at)
        measurements = await _measure(run)
        _log(measurements)
        await asyncio.gather(steps.publish(measurements, started_at), _conclude(run, measurements))
    red = [found for found in measurements if found.colour is Colour.RED]
    if red:
        return Failed(message="RED: " + "; ".join(causes(red)))
    yellow = names_of(measurements, Colour.YELLOW)
    return Completed(message=f"GREEN, yellow: {', '.join(yellow)}" if yellow else "GREEN")


async def _measure(run: steps.VerificationRun) -> list[Measurement]:
    token = steps.current_verification.set(run)
    try:
        found = await asyncio.gather(
            _run_sequentially(steps.SEQUENTIAL), *(_run_check(check) for check in steps.CONCURRENT)
        )
    finally:
        steps.current_verification.reset(token)
    return [measurement for some in found for measurement in some]


async def _run_sequentially(some: Sequence[steps.Check]) -> list[Measurement]:
    return [measurement for check in some for measurement in await _run_check(check)]


async def _run_check(check: steps.Check) -> list[Measurement]:
    """The check's measurements; a red one in its name when it could not be made."""
    try:
        found: list[Measurement] = await check()
    except Exception as error:  # the other checks are made all the same
        return [Probe(check.name, "made", "the check itself").failed(describe_error(error) or type(error).__name__)]
    return found


def _log(measurements: Sequence[Measurement]) -> None:
    logger = get_run_logger()
    for found in measurements:
        if found.colour is not Colour.GREEN:
            level = logger.error if found.colour is Colour.RED else logger.warning
            level("%s is %s: %s, limit %s. %s", found.name, found.colour, found.value, found.limit, found.problem)


async def _conclude(run: steps.VerificationRun, measurements: Sequence[Measurement]) -> None:
    """Keep what was found, and tell people if it is news."""
    settings, previous = run.settings, run.previous
    walked_at = None if previous is None else previous.walked_at
    walked = run.walks and any(found.name == "chain" and found.colour is Colour.GREEN for found in measurements)
    if walked:
        walked_at = run.started_at
    # Kept first: telling people twice is worse than a run that dies between the two.
    last = LastVerification(run.started_at, names_of(measurements, Colour.RED), walked_at, run.compared_to)
    problems = await write_last(settings, last)
    note = change_notification(
        () if previous is None else previous.failing, measurements, settings.recovery.console_url
    )
    failures = [] if note is None else await notify(settings, note)
    if walked and settings.notifications.any_channel:
        failures += await notify(settings, await asyncio.to_thread(checkpoint_notification, settings))
    for problem in [*problems, *(f"{failure.channel}: {failure.problem}" for failure in failures)]:
        get_run_logger().warning(problem)


def checkpoint_notification(settings: Settings) -> Notification:
    """Once a day the audit log's checkpoint leaves this host, so that a tail cut off with the file beside it shows."""
    newest = open_checkpoints(settings).all()[-1]
    return Notification(
        NotificationKind.CHECKPOINT,
        DEDUPLICATION_KEY,
        "The audit log was verified from its first row",
        str(newest),
        "info",
    )


def causes(red: Sequence[Measurement], *, values: bool = False) -> list[str]:
    """Each cause once, after the names of all that it made red: one outage is one line, not five."""
    groups: dict[str, list[Measurement]] = {}
    for found in red:
        groups.setdefault(_cause(found.problem), []).append(found)
    lines = []
    for group in groups.values():
        names = ", ".join(dict.fromkeys(found.name for found in group))
        seen = dict.fromkeys(found.value for found in group if found.value != NOT_MEASURED)
        told = f"{'; '.join(seen)}. " if values and seen else ""
        lines.append(f"{names}: {told}{group[0].problem}")
    return lines


def _cause(problem: str) -> str:
    """What a problem has in common with others of the same outage: not what was asked just then, and how often."""
    return problem.partition(" when asked to ")[0]


def change_notification(
    before: Sequence[str], measurements: Sequence[Measurement], link: str | None
) -> Notification | None:
    """What people are to be told after the names in `before` were red; None when nothing has changed for them."""
    red = [found for found in measurements if found.colour is Colour.RED]
    match change_since(before, [found.name for found in red]):
        case Change.FAILED:
            names = ", ".join(sorted({found.name for found in red}))
            body = "\n".join(causes(red, values=True))
            title = f"Health verification failed: {names}"
            return Notification(NotificationKind.VERIFICATION_FAILED, DEDUPLICATION_KEY, title, body, "critical", link)
        case Change.RECOVERED:
            title, body = "Health verification is green again", f"No longer red: {', '.join(before)}."
            return Notification(NotificationKind.VERIFICATION_RECOVERED, DEDUPLICATION_KEY, title, body, "info", link)
        case Change.NONE:
            return None
