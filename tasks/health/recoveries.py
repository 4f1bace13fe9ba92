"""Looking after recoveries: people who are waited for are reminded, and a run whose process died is started again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

from breaker.settings import Settings
from tasks import orchestrator
from tasks.notify import DeliveryFailure, Kind, Note, notify
from tasks.recovery.measurement import Colour, Measurement
from tasks.recovery.probe import Probe, RedisReader, redis_reader
from tasks.recovery.state import RecoveryState, key_of

SILENT_AFTER = timedelta(seconds=60)
"""A recovery at work shows a sign of life more often than this."""

_WRITE_IF_UNCHANGED = "if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('SET', KEYS[1], ARGV[2]) return 1 end"


async def look_after_recoveries(settings: Settings, scopes: Sequence[str]) -> Measurement:
    """Remind and restart where it is due. Raises what Redis and the orchestrator raise."""
    probe = Probe("recoveries", "none forgotten", "the recoveries' states in Redis")
    found, colour, problems = [], Colour.GREEN, []
    async with redis_reader(settings) as redis:
        for scope in scopes:
            (raw,) = await redis.ask(f"read {key_of(scope)}", ("GET", key_of(scope)))
            if raw is None:
                continue
            state = RecoveryState.from_json(raw)
            if state.done:
                continue
            found.append(f"{state.incident_id}: {state.phase}")
            now = datetime.now(UTC)
            if is_silent(state, now) and (problem := await _start_again(state)):
                colour = Colour.YELLOW
                problems.append(problem)
            if reminder_is_due(state, now, settings.recovery.remind_after):
                failures = await _remind(settings, redis, state, raw, now)
                if failures:
                    colour = Colour.YELLOW
                    problems.append(f"The reminder did not reach {', '.join(failure.channel for failure in failures)}.")
    return probe.found("; ".join(found) or "none under way", colour, " ".join(problems))


def is_silent(state: RecoveryState, now: datetime) -> bool:
    """Whether the run's process seems to be gone. One that waits for a person has none, which Prefect knows."""
    return bool(state.heartbeat_at) and now - datetime.fromisoformat(state.heartbeat_at) > SILENT_AFTER


def reminder_is_due(state: RecoveryState, now: datetime, every: float) -> bool:
    if not (state.waiting_for and state.waiting_since):
        return False
    last = max(datetime.fromisoformat(at) for at in (state.waiting_since, state.reminded_at) if at)
    return (now - last).total_seconds() > every


async def _start_again(state: RecoveryState) -> str:
    """What is the matter, as a sentence; empty when there is nothing to put right."""
    if not orchestrator.is_configured():
        return (
            "" if state.waiting_for else f"The recovery of {state.incident_id} is silent, and no Prefect is configured."
        )
    if not await orchestrator.run_again_if_gone(UUID(state.flow_run_id)):
        return ""
    return f"The process of the recovery of {state.incident_id} was gone; its run was scheduled again."


async def _remind(
    settings: Settings, redis: RedisReader, state: RecoveryState, raw: bytes, now: datetime
) -> list[DeliveryFailure]:
    """Note the reminder first, and only if nothing moved meanwhile, so that nobody is reminded twice or for nothing."""
    key, reminded = key_of(state.scope), replace(state, reminded_at=now.isoformat())
    write = ("EVAL", _WRITE_IF_UNCHANGED, 1, key, raw, reminded.to_json())
    (written,) = await redis.ask(f"note a reminder in {key}", write)
    if not written:
        return []
    minutes = (now - datetime.fromisoformat(state.waiting_since)).total_seconds() / 60
    note = Note(
        kind=Kind.WAITING,
        incident_id=state.incident_id,
        title=f"Recovery waits for a person: {state.waiting_for}",
        body=f"For {minutes:.0f} minutes nobody has answered. Trading stays halted until somebody does: "
        f"in the console, in Prefect, or with breaker recover.",
        severity="warning",
        link=settings.recovery.console_url or orchestrator.page_of(state.flow_run_id),
    )
    return await notify(settings, note)
