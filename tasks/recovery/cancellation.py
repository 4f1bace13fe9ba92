"""Notice that a recovery's run was cancelled in Prefect, say it, and end such a recovery by somebody's decision.

Prefect has a button for it beside *Resume*. Nothing takes an answer then, and nothing says so by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from uuid import UUID

from breaker import Status
from breaker.errors import BreakerError
from breaker.keys import of_scope
from configuration.breakers import async_breaker_of
from configuration.settings import Settings
from ledger.configured import open_spool
from ledger.ledger import Ledger
from ledger.record import FAILED, AuditRecord, derived_id
from ledger.recorder import Recorder
from tasks import orchestrator
from tasks.checks.probe import RedisReader, redis_reader
from tasks.notification import Notification, NotificationKind, console_page
from tasks.recovery.state import RecoveryState, cancelled_sentence, now_iso, state_key
from tasks.transition_notices import tell_once

NOTICED = "RECOVERY_CANCELLED"
BEGUN_AGAIN = "RECOVERY_BEGUN_AGAIN"
ENDED = "RECOVERY_ENDED"

Record = Callable[[AuditRecord], Awaitable[None]]
WRITE_IF_UNCHANGED = "if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('SET', KEYS[1], ARGV[2]) return 1 end"


class NotCancelled(BreakerError):
    """The recovery goes on, or is over: there is nothing to end. Nothing changed."""


async def note_cancellation(
    settings: Settings,
    redis: RedisReader,
    state: RecoveryState,
    raw: bytes,
    record: Record,
) -> bool:
    """Whether its run was cancelled or deleted in Prefect; the first who sees it shows, records and tells it.

    Raises what asking Redis and Prefect raises.
    """
    how = await orchestrator.how_cancelled(UUID(state.flow_run_id))
    if not how:
        return False
    # Recorded and told first, each once by its id: a process that dies on the way leaves it to the next look.
    await record(
        AuditRecord(
            action=NOTICED,
            source="watch",
            id=derived_id(NOTICED, state.flow_run_id),
            details={"flow_run_id": state.flow_run_id},
            incident_id=state.incident_id,
            scope=state.scope,
            outcome=FAILED,
        )
    )
    await tell_once(settings, f"{NOTICED}:{state.flow_run_id}", _notification(settings, state))
    noted = replace(
        state,
        waiting_for="",
        waiting_since="",
        question="",
        heartbeat_at="",
        phase=f"{how} in Prefect",
        problem=cancelled_sentence(state.scope),
        cancelled_at=now_iso(),
    )
    key = state_key(state.scope)
    # Unless it moved meanwhile, as when it was begun again.
    await redis.ask(f"note a cancellation in {key}", ("EVAL", WRITE_IF_UNCHANGED, 1, key, raw, noted.to_json()))
    return True


async def look_for_cancellation(settings: Settings, ledger: Ledger, scope: str) -> bool:
    """Whether the recovery of this breaker was found cancelled just now. Raises as `note_cancellation` does."""
    if not orchestrator.is_configured():
        return False
    key = state_key(scope)
    async with redis_reader(settings) as redis:
        (raw,) = await redis.ask(f"read {key}", ("GET", key))
        try:
            state = RecoveryState.from_json(raw) if raw else None
        except (ValueError, TypeError, KeyError, AttributeError):
            return False  # the health verification says so
        if state is None or state.done or state.cancelled_at:
            return False
        breaker = async_breaker_of(settings, scope)
        try:
            status = await breaker.get_status()
        finally:
            await breaker.close()
        if not is_of_present_incident(state, status):
            return False
        return await note_cancellation(settings, redis, state, raw, recorder_of(settings, ledger))


def is_of_present_incident(state: RecoveryState, status: Status) -> bool:
    """Not so of one that a later incident overtook: that is cancelled by us."""
    return status.incident_id in (None, state.incident_id)


def recorder_of(settings: Settings, ledger: Ledger) -> Record:
    """Keeps a record in the ledger, or in this host's spool until the ledger is back."""
    recorder = Recorder(ledger, open_spool(settings))

    async def record(made: AuditRecord) -> None:
        await asyncio.to_thread(recorder.record, made)

    return record


def begun_again_record(state: RecoveryState, who: str, flow_run_id: str) -> AuditRecord:
    """Somebody began the cancelled recovery again, as this flow run."""
    return AuditRecord(
        action=BEGUN_AGAIN,
        source="cli",
        user_id=who,
        details={"cancelled_run": state.flow_run_id},
        incident_id=state.incident_id,
        scope=state.scope,
        flow_run_id=flow_run_id,
    )


def ended_record(state: RecoveryState, who: str, reason: str, *, claimed: str = "") -> AuditRecord:
    """Somebody gave the cancelled recovery up. `claimed` is a name that was only typed."""
    said = {"claimed": claimed} if claimed else {}
    return AuditRecord(
        action=ENDED,
        source="cli",
        user_id=who,
        details={"reason": reason, "cancelled_run": state.flow_run_id, **said},
        incident_id=state.incident_id,
        scope=state.scope,
    )


async def end_recovery(redis: RedisReader, scope: str, who: str, reason: str) -> RecoveryState:
    """End the cancelled recovery of this breaker; returns how it stood. Raises NotCancelled, and what Redis's does."""
    key = state_key(scope)
    (raw,) = await redis.ask(f"read {key}", ("GET", key))
    try:
        state = RecoveryState.from_json(raw) if raw else None
    except (ValueError, TypeError, KeyError, AttributeError):
        state = None
    if state is None or state.done or not state.cancelled_at:
        raise NotCancelled(f"no recovery of {scope} was cancelled: there is nothing to end, and nothing changed")
    over = replace(state, done=True, phase=f"ended by {who}: {reason}", problem="")
    (written,) = await redis.ask(f"write {key}", ("EVAL", WRITE_IF_UNCHANGED, 1, key, raw, over.to_json()))
    if not written:
        look = f"`breaker recover{of_scope(scope)}`"
        raise NotCancelled(f"the recovery of {scope} moved just now; nothing changed, look with: {look}")
    return state


def _notification(settings: Settings, state: RecoveryState) -> Notification:
    return Notification(
        NotificationKind.RECOVERY_CANCELLED,
        state.incident_id,
        f"The recovery of {state.scope} was cancelled in Prefect",
        cancelled_sentence(state.scope),
        "warning",
        console_page(settings.recovery.console_url, "recovery", state.scope)
        or orchestrator.flow_run_url(state.flow_run_id),
    )
