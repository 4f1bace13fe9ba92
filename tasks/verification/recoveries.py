"""Look after recoveries: remind people who are waited for, start a run again whose process died, and end one that a
later incident overtook.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

from breaker import Status
from breaker.keys import GLOBAL, of_scope
from configuration.settings import Settings
from tasks import orchestrator
from tasks.checks.measurement import Colour, Measurement
from tasks.checks.probe import Probe, RedisReader, describe_error, redis_reader
from tasks.checks.stores import Stores
from tasks.notification import Notification, NotificationKind, console_page
from tasks.notify import DeliveryFailure, notify
from tasks.recovery.cancellation import (
    WRITE_IF_UNCHANGED,
    is_of_present_incident,
    note_cancellation,
    recorder_of,
)
from tasks.recovery.state import RecoveryState, cancelled_sentence, state_key

SILENT_AFTER = timedelta(seconds=60)
"""A recovery at work shows a sign of life more often than this."""


async def check_recoveries(stores: Stores) -> Measurement:
    """Remind, restart and end where it is due; one recovery's trouble hides no other. Raises what Redis raises."""
    settings = stores.settings
    probe = Probe("recoveries", "none forgotten", "the recoveries' states in Redis")
    found, colour, problems = [], Colour.GREEN, []
    statuses = await asyncio.to_thread(stores.statuses)
    async with redis_reader(settings) as redis:
        kept = await redis.ask("read the recoveries' states", *(("GET", state_key(scope)) for scope in statuses))
        for (scope, status), raw in zip(statuses.items(), kept, strict=True):
            if raw is None:
                continue
            try:
                seen = await _look_after(stores, redis, raw, status)
            except (ValueError, TypeError, KeyError, AttributeError):
                seen = _Seen(
                    f"{scope}: unreadable",
                    Colour.RED,
                    f"What {state_key(scope)} holds is no recovery's state: nobody is reminded of it, and nothing "
                    "restarts it. Look at its run in Prefect, then begin it again "
                    f"(`breaker recover start{of_scope(scope)}`).",
                )
            except Exception as error:  # the other breakers' recoveries are looked after all the same
                seen = _Seen(scope, Colour.YELLOW, f"That of {scope} can't be looked after: {describe_error(error)}")
            if seen is not None:
                found.append(seen.what)
                colour = max(colour, seen.colour, key=list(Colour).index)
                problems += [seen.problem] if seen.problem else []
    if orchestrator.is_configured():
        try:
            found += await _cancel_superseded(statuses)
        except Exception as error:  # they do no harm while they wait
            colour = max(colour, Colour.YELLOW, key=list(Colour).index)
            problems.append(f"Prefect can't be asked which recoveries wait: {orchestrator.describe_failure(error)}.")
    return probe.measured("; ".join(found) or "none under way", colour, " ".join(problems))


@dataclass(frozen=True, slots=True)
class _Seen:
    what: str
    colour: Colour = Colour.GREEN
    problem: str = ""


async def _look_after(stores: Stores, redis: RedisReader, raw: bytes, status: Status) -> _Seen | None:
    """None for one that is over. Raises what reading its state, Redis and the orchestrator raise."""
    settings, state, now = stores.settings, RecoveryState.from_json(raw), datetime.now(UTC)
    if state.done:
        return None
    what, problems = f"{state.incident_id}: {state.phase}", []
    asked = orchestrator.is_configured() and is_of_present_incident(state, status)
    record = recorder_of(settings, stores.ledger)
    if state.cancelled_at or (asked and await note_cancellation(settings, redis, state, raw, record)):
        return _Seen(f"{state.incident_id}: cancelled", Colour.YELLOW, cancelled_sentence(state.scope) + ".")
    if is_silent(state, now) and (problem := await _reschedule_lost(state)):
        problems.append(problem)
    # What was reset past its recovery still waits for its cause, but holds up nobody: it is shown, and not called for.
    if status.is_tripped and reminder_is_due(state, now, settings.recovery.remind_after):
        failures = await _remind(settings, redis, state, raw, now)
        if failures:
            problems.append(f"The reminder did not reach {', '.join(failure.channel for failure in failures)}.")
    return _Seen(what, Colour.YELLOW if problems else Colour.GREEN, " ".join(problems))


def is_silent(state: RecoveryState, now: datetime) -> bool:
    """Whether the run's process seems to be gone. One that waits for a person has none, which Prefect knows."""
    return bool(state.heartbeat_at) and now - datetime.fromisoformat(state.heartbeat_at) > SILENT_AFTER


def reminder_is_due(state: RecoveryState, now: datetime, every: float) -> bool:
    if not (state.waiting_for and state.waiting_since):
        return False
    last = max(datetime.fromisoformat(at) for at in (state.waiting_since, state.reminded_at) if at)
    return (now - last).total_seconds() > every


async def _cancel_superseded(statuses: Mapping[str, Status]) -> list[str]:
    """Cancel what waits for answers about an incident that its breaker has left behind: nobody can be asked them there
    any more. One that was reset at the terminal still waits, for its cause is yet to be told.
    """
    ended = []
    for run in await orchestrator.suspended("recovery"):
        incident, status = run.parameters.get("incident_id"), statuses.get(run.parameters.get("scope", GLOBAL))
        if status is None or status.incident_id in (None, incident):
            continue
        # An older copy of Redis's data knows an incident that is over, and not the one that is to be recovered from.
        if status.tripped_at is None or run.created is None or status.tripped_at < run.created:
            continue
        why = f"Over: incident {status.incident_id} came after it, with a recovery of its own."
        if await orchestrator.cancel_suspended(run.id, why):
            ended.append(f"{incident}: {why}")
    return ended


async def _reschedule_lost(state: RecoveryState) -> str:
    """What is the matter, as a sentence; empty when there is nothing to put right."""
    if not orchestrator.is_configured():
        return (
            "" if state.waiting_for else f"The recovery of {state.incident_id} is silent, and no Prefect is configured."
        )
    if not await orchestrator.reschedule_if_lost(UUID(state.flow_run_id)):
        return ""
    return f"The process of the recovery of {state.incident_id} was gone; its run was scheduled again."


async def _remind(
    settings: Settings, redis: RedisReader, state: RecoveryState, raw: bytes, now: datetime
) -> list[DeliveryFailure]:
    """Note the reminder first, and only if nothing moved meanwhile, so that nobody is reminded twice or for nothing."""
    key, reminded = state_key(state.scope), replace(state, reminded_at=now.isoformat())
    write = ("EVAL", WRITE_IF_UNCHANGED, 1, key, raw, reminded.to_json())
    (written,) = await redis.ask(f"note a reminder in {key}", write)
    if not written:
        return []
    minutes = (now - datetime.fromisoformat(state.waiting_since)).total_seconds() / 60
    note = Notification(
        kind=NotificationKind.WAITING,
        incident_id=state.incident_id,
        title=f"Recovery waits for a person: {state.waiting_for}",
        body=f"For {minutes:.0f} minutes nobody has answered. "
        f"Trading stays halted until somebody does: in the console, in Prefect, or with "
        f"`breaker recover answer{of_scope(state.scope)}`.",
        severity="warning",
        link=console_page(settings.recovery.console_url, "recovery", state.scope)
        or orchestrator.flow_run_url(state.flow_run_id),
    )
    return await notify(settings, note)
