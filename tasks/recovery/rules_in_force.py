"""Gather the rules that what a person decides of a breaker is judged by."""

from __future__ import annotations

from collections.abc import Collection

from breaker.errors import BreakerError
from breaker.state import Status
from configuration.settings import Settings
from tasks.checks.probe import redis_reader
from tasks.recovery.approval_rules import ApprovalRules, trippers_of
from tasks.recovery.state import RecoveryState, state_key


async def rules_in_force(
    settings: Settings, scope: str, person: str, permissions: Collection[str], status: Status
) -> ApprovalRules:
    """For `person`, who has these permissions, and the incident that `status` is of."""
    author = await _author(settings, scope, status.incident_id)
    return ApprovalRules({person: tuple(permissions)}, settings.recovery.two_person, trippers_of(status), author, scope)


async def _author(settings: Settings, scope: str, incident_id: str | None) -> str:
    """Who wrote the root cause. Where that can't be read there is no author here, but a red conflict at measuring."""
    try:
        async with redis_reader(settings) as redis:
            (raw,) = await redis.ask(f"read {state_key(scope)}", ("GET", state_key(scope)))
        state = RecoveryState.from_json(raw) if raw else None
    except (BreakerError, ValueError, TypeError, KeyError, AttributeError):
        return ""
    return state.author if state is not None and state.incident_id == incident_id else ""
