"""Tripping and resetting for people and programs, the same for pages and API: checked, authorised and on record."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid5

from redis.asyncio import Redis

from breaker import AsyncCircuitBreaker, BreakerError, State, Status
from breaker.pending_trips import PendingTrip
from breaker.trip_reasons import TripReason
from breaker.uuid7 import uuid7
from configuration.breakers import async_breaker_of, make_or_store_trip, requested_trip, waiting_incident
from configuration.reasons import MIN_REASON, checked_reason
from configuration.settings import Settings
from console.auth.permissions import Identity, Permission
from ledger.errors import LedgerError
from ledger.record import DENIED, OK, AuditRecord
from ledger.recorder import Recorder
from tasks.checks.conditions import measure_conditions
from tasks.checks.measurement import Colour, Measurement

_log = logging.getLogger(__name__)


class Denied(BreakerError):
    """Whoever asks lacks the permission. On record; nothing else changed."""

    def __init__(self, identity: Identity, permission: Permission) -> None:
        super().__init__(
            f"This needs the permission {permission}, which {identity.user} ({identity.role}) doesn't have; nothing "
            "changed. An admin can change the role: `breaker user role`."
            if identity.confirmed
            else f"This needs the permission {permission}, which can't be confirmed while the database is away; "
            "nothing changed. Halting works."
        )
        self.permission = permission


class ConditionsRed(BreakerError):
    """A reset was refused because of conditions that are red. Nothing changed."""

    def __init__(self, red: list[Measurement]) -> None:
        self.red = red
        names = ", ".join(measurement.name for measurement in red)
        super().__init__(
            f"Not reset: {names} {'is' if len(red) == 1 else 'are'} red. Nothing changed. "
            "Put that right, or override it explicitly; an override is recorded."
        )


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, from where (an address), and by which way in: `console` or `api`."""

    identity: Identity
    address: str | None
    source: str

    @property
    def user(self) -> str:
        return self.identity.user

    @property
    def shortest_reason(self) -> int:
        """Characters of a reason to halt: pages keep people to the runbook's; no command fails for a short one."""
        return MIN_REASON if self.source == "console" else 1


def event_id_of(caller: Caller, key: str) -> str:
    """The event id that a caller's idempotency key stands for, so that Redis itself refuses to do it twice."""
    return str(uuid5(NAMESPACE_URL, f"breaker:{caller.source}:{caller.user}:{key}"))


def usable_event_id(text: str) -> str:
    """The id that a form came with, or a new one if it isn't one."""
    try:
        return str(UUID(text))
    except ValueError:
        return uuid7()


class Actions:
    """`changed` is called after every transition, so that pages learn of it at once."""

    def __init__(self, settings: Settings, redis: Redis, recorder: Recorder, changed: Callable[[], None]) -> None:
        self._settings = settings
        self._redis = redis
        self._recorder = recorder
        self._changed = changed
        self._breakers: dict[tuple[str, str], AsyncCircuitBreaker] = {}

    def breaker(self, scope: str, source: str) -> AsyncCircuitBreaker:
        """The breaker of `scope`. Raises InvalidInput for what is no scope."""
        key = (scope, source)
        if key not in self._breakers:
            made = async_breaker_of(self._settings, scope, source=source, redis=self._redis)
            if len(self._breakers) >= 100:  # a caller may name any scope, but not make us keep them all
                return made
            self._breakers[key] = made
        return self._breakers[key]

    async def require(self, caller: Caller, permission: Permission) -> None:
        """Raises Denied, which is on record by then."""
        if caller.identity.may(permission):
            return
        await self.record(caller, "PERMISSION_DENIED", {"permission": permission}, outcome=DENIED)
        raise Denied(caller.identity, permission)

    async def record(
        self,
        caller: Caller,
        action: str,
        details: Mapping[str, Any],
        *,
        outcome: str = OK,
        scope: str = "global",
        incident_id: str | None = None,
    ) -> None:
        """Keep that somebody did something."""
        await self.keep(
            AuditRecord(
                action=action,
                source=caller.source,
                user_id=caller.user,
                details=details,
                ip_address=caller.address,
                outcome=outcome,
                scope=scope,
                incident_id=incident_id,
            )
        )

    async def keep(self, record: AuditRecord) -> None:
        """Keep it in the ledger, or in the spool. Where neither takes it, it is in the log."""
        try:
            await asyncio.to_thread(self._recorder.record, record)
        except LedgerError as error:
            _log.error("not recorded: %s", error)

    async def trip(self, caller: Caller, scope: str, reason: str, event_id: str | None = None) -> Status:
        """Halt. Raises Denied, InvalidInput, and NotHalted where Redis could not be told."""
        await self.require(caller, Permission.TRIP_CIRCUIT)
        why = checked_reason(reason, caller.shortest_reason)
        return await self.make_trip(self.requested_trip(caller, TripReason.MANUAL, scope, why, event_id))

    def requested_trip(self, caller: Caller, reason: str, scope: str, why: str, event_id: str | None) -> PendingTrip:
        """The trip that a caller asks for, by the code `reason`."""
        return requested_trip(
            reason,
            operator=caller.user,
            why=why,
            scope=scope,
            source=caller.source,
            event_id=event_id,
            incident_id=waiting_incident(self._settings, scope),
            ip_address=caller.address,
        )

    async def make_trip(self, trip: PendingTrip) -> Status:
        """Raises NotHalted: it waits on this host's disk until Redis is back. Raises InvalidInput."""
        try:
            return await make_or_store_trip(self._settings, trip, self.breaker(trip.scope, trip.source))
        finally:
            self._changed()

    async def reset(
        self,
        caller: Caller,
        scope: str,
        reason: str,
        *,
        expected_epoch: int | None = None,
        override: bool = False,
        event_id: str | None = None,
    ) -> Status:
        """Let trading resume, if it is tripped and no condition is red at this moment, or with an explicit override.

        Raises Denied, InvalidInput, ConditionsRed, and what the breaker's own `reset` raises: NotTripped,
        ResetRateLimited, StateConflict if the state isn't the one that was looked at.
        """
        await self.require(caller, Permission.RESET_CIRCUIT)
        why = checked_reason(reason)
        breaker = self.breaker(scope, caller.source)
        before = await breaker.get_status()
        red: list[Measurement] = []
        if before.state is State.TRIPPED:
            measured = await measure_conditions(self._settings, scope)
            red = [measurement for measurement in measured if measurement.colour is Colour.RED]
        if red and not override:
            raise ConditionsRed(red)
        if red:
            details = {"reason": why, "red": [measurement.as_dict() for measurement in red]}
            incident = before.incident_id
            await self.record(caller, "RESET_CONDITIONS_OVERRIDDEN", details, scope=scope, incident_id=incident)
        try:
            return await breaker.reset(
                reset_by=caller.user,
                reason=why,
                event_id=event_id,
                expected_epoch=expected_epoch if expected_epoch is not None else before.epoch,
                ip_address=caller.address,
            )
        finally:
            self._changed()
