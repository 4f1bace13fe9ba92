"""Trip and reset for people and programs, the same for pages and API: checked, authorised and on record."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from redis.asyncio import Redis

from breaker import AsyncCircuitBreaker, BreakerError, State, Status
from breaker.pending_trips import PendingTrip
from breaker.trip_reasons import TripReason
from configuration.breakers import async_breaker_of, make_or_store_trip, requested_trip, waiting_incident
from configuration.reasons import checked_reason
from configuration.settings import Settings
from console.actions.authorization import Authorization, Caller
from console.auth.permissions import Permission
from ledger.errors import LedgerError
from tasks.checks.conditions import measure_conditions
from tasks.checks.measurement import Colour, Measurement
from tasks.checks.pending_exits import CONDITION
from tasks.kill.exit_records import drop_exits

_log = logging.getLogger(__name__)


class ConditionsRed(BreakerError):
    """A reset was refused because of conditions that are red. Nothing changed."""

    def __init__(self, red: list[Measurement]) -> None:
        self.red = red
        names = ", ".join(measurement.name for measurement in red)
        super().__init__(
            f"Not reset: {names} {'is' if len(red) == 1 else 'are'} red. Nothing changed. "
            "Put that right, or override it explicitly; an override is recorded."
        )


class TripReset:
    """`changed` is called after every transition, so that pages learn of it at once."""

    def __init__(
        self, settings: Settings, redis: Redis, authorization: Authorization, changed: Callable[[], None]
    ) -> None:
        self._settings = settings
        self._redis = redis
        self._authorization = authorization
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

    async def trip(self, caller: Caller, scope: str, reason: str, event_id: str | None = None) -> Status:
        """Halt. Raises Denied, InvalidInput, and NotHalted where Redis could not be told."""
        await self._authorization.require(caller, Permission.TRIP_CIRCUIT)
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
        await self._authorization.require(caller, Permission.RESET_CIRCUIT)
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
            await self._authorization.record(
                caller, "RESET_CONDITIONS_OVERRIDDEN", details, scope=scope, incident_id=incident
            )
        try:
            after = await breaker.reset(
                reset_by=caller.user,
                reason=why,
                event_id=event_id,
                expected_epoch=expected_epoch if expected_epoch is not None else before.epoch,
                ip_address=caller.address,
            )
        finally:
            self._changed()
        if any(measurement.name == CONDITION for measurement in red):
            await self._drop_exits(caller, scope, why)
        return after

    async def _drop_exits(self, caller: Caller, scope: str, reason: str) -> None:
        """What a kill switch could not close and an override leaves open. It stays pending if it can't be recorded."""
        try:
            await asyncio.to_thread(
                drop_exits,
                self._settings,
                scope,
                reason=reason,
                by=caller.user,
                source=caller.source,
                ip_address=caller.address,
            )
        except LedgerError as error:
            _log.error("pending exits are not dropped: %s", error)
