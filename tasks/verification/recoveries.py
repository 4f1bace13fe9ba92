"""Look after recoveries: remind people who are waited for, start a run again whose process died, and end one that a
later incident overtook.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

from breaker import CircuitBreaker, Status
from breaker.keys import GLOBAL
from configuration.settings import Settings
from tasks import orchestrator
from tasks.checks.measurement import Colour, Measurement
from tasks.checks.probe import Probe, RedisReader, redis_reader
from tasks.checks.stores import Stores
from tasks.notification import Notification, NotificationKind
from tasks.notify import DeliveryFailure, notify
from tasks.recovery.state import RecoveryState, state_key

SILENT_AFTER = timedelta(seconds=60)
"""A recovery at work shows a sign of life more often than this."""

_WRITE_IF_UNCHANGED = "if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('SET', KEYS[1], ARGV[2]) return 1 end"


async def check_recoveries(stores: Stores) -> Measurement:
    """Remind, restart and end where it is due. Raises what Redis and the orchestrator raise."""
    settings = stores.settings
    probe = Probe("recoveries", "none forgotten", "the recoveries' states in Redis")
    found, colour, problems = [], Colour.GREEN, []
    statuses = await asyncio.to_thread(_statuses, stores)
    async with redis_reader(settings) as redis:
        for scope, status in statuses.items():
            (raw,) = await redis.ask(f"read {state_key(scope)}", ("GET", state_key(scope)))
            if raw is None:
                continue
            state = RecoveryState.from_json(raw)
            if state.done:
                continue
            found.append(f"{state.incident_id}: {state.phase}")
            now = datetime.now(UTC)
            if is_silent(state, now) and (problem := await _reschedule_lost(state)):
                colour = Colour.YELLOW
                problems.append(problem)
            if reminder_is_due(state, now, settings.recovery.remind_after):
                failures = await _remind(settings, redis, state, raw, now, halted=status.is_tripped)
                if failures:
                    colour = Colour.YELLOW
                    problems.append(f"The reminder did not reach {', '.join(failure.channel for failure in failures)}.")
    if orchestrator.is_configured():
        try:
            found += await _cancel_superseded(statuses)
        except Exception as error:  # they do no harm while they wait
            colour = Colour.YELLOW
            problems.append(f"Prefect could not be asked which recoveries wait ({type(error).__name__}).")
    return probe.measured("; ".join(found) or "none under way", colour, " ".join(problems))


def is_silent(state: RecoveryState, now: datetime) -> bool:
    """Whether the run's process seems to be gone. One that waits for a person has none, which Prefect knows."""
    return bool(state.heartbeat_at) and now - datetime.fromisoformat(state.heartbeat_at) > SILENT_AFTER


def reminder_is_due(state: RecoveryState, now: datetime, every: float) -> bool:
    if not (state.waiting_for and state.waiting_since):
        return False
    last = max(datetime.fromisoformat(at) for at in (state.waiting_since, state.reminded_at) if at)
    return (now - last).total_seconds() > every


def _statuses(stores: Stores) -> dict[str, Status]:
    found = {}
    for scope in stores.scopes:
        with closing(CircuitBreaker(stores.redis, scope, timeout=stores.timeout)) as breaker:
            found[scope] = breaker.get_status()
    return found


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
    settings: Settings, redis: RedisReader, state: RecoveryState, raw: bytes, now: datetime, *, halted: bool
) -> list[DeliveryFailure]:
    """Note the reminder first, and only if nothing moved meanwhile, so that nobody is reminded twice or for nothing."""
    key, reminded = state_key(state.scope), replace(state, reminded_at=now.isoformat())
    write = ("EVAL", _WRITE_IF_UNCHANGED, 1, key, raw, reminded.to_json())
    (written,) = await redis.ask(f"note a reminder in {key}", write)
    if not written:
        return []
    minutes = (now - datetime.fromisoformat(state.waiting_since)).total_seconds() / 60
    note = Notification(
        kind=NotificationKind.WAITING,
        incident_id=state.incident_id,
        title=f"Recovery waits for a person: {state.waiting_for}",
        body=f"For {minutes:.0f} minutes nobody has answered. "
        f"{'Trading stays halted' if halted else 'The incident stays open'} until somebody does: "
        f"in the console, in Prefect, or with breaker recover.",
        severity="warning",
        link=settings.recovery.console_url or orchestrator.flow_run_url(state.flow_run_id),
    )
    return await notify(settings, note)
