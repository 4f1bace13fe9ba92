"""Trip and reset for people and programs, the same for pages and API: checked, authorised and on record."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from redis.asyncio import Redis

from breaker import AsyncCircuitBreaker, Status
from breaker.pending_trips import PendingTrip
from breaker.trip_reasons import TripReason
from configuration.breakers import async_breaker_of, make_or_store_trip, requested_trip, waiting_incident
from configuration.reasons import checked_reason
from configuration.settings import Settings
from console.actions.authorization import Authorization, Caller
from console.auth.permissions import Permission
from tasks.checks.measurement import Measurement
from tasks.recovery.approval_rules import Approval
from tasks.recovery.reset import ResetOutcome, ResetRequest, measure_for_reset, reset_breaker
from tasks.recovery.watch_here import watch_unless_watched

_log = logging.getLogger(__name__)


class TripReset:
    """`changed` is called after every transition, so that pages learn of it at once.

    `start` runs what goes on beside: the watch after a reset, where no service keeps it.
    """

    def __init__(
        self,
        settings: Settings,
        redis: Redis,
        authorization: Authorization,
        changed: Callable[[], None],
        start: Callable[[Coroutine[Any, Any, None]], None],
    ) -> None:
        self._settings = settings
        self._redis = redis
        self._authorization = authorization
        self._changed = changed
        self._start = start
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
        why = self._authorization.reason_of_halt(caller, reason)
        return await self.make_trip(self.requested_trip(caller, TripReason.MANUAL, scope, why, event_id))

    def requested_trip(
        self,
        caller: Caller,
        reason: str,
        scope: str,
        why: str,
        event_id: str | None,
        closes: Sequence[str] = (),
    ) -> PendingTrip:
        """The trip that a caller asks for, by the code `reason`; of a kill switch that `closes` these accounts."""
        return requested_trip(
            reason,
            operator=caller.user,
            why=why,
            scope=scope,
            source=caller.source,
            event_id=event_id,
            incident_id=waiting_incident(self._settings, scope),
            ip_address=caller.address,
            closes=closes,
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
        acknowledge: bool,
        override_reason: str = "",
        rebase_equity: bool = False,
        expected_epoch: int | None = None,
        event_id: str | None = None,
    ) -> ResetOutcome:
        """Let trading resume, by the same rules as everywhere.

        Raises InvalidInput, Denied while the database can't confirm the caller, and what
        `tasks.recovery.reset.reset_breaker` raises.
        """
        if not caller.identity.confirmed:  # not one that lacks the permission, but one that nobody can confirm now
            await self._authorization.require(caller, Permission.RESET_CIRCUIT)
        why = checked_reason(reason)
        override = checked_reason(override_reason) if override_reason.strip() else ""
        request = ResetRequest(
            scope=scope,
            answer=Approval(caller.user, why, acknowledge, override, rebase_equity),
            permissions=caller.identity.permissions,
            source=caller.source,
            ip_address=caller.address,
            expected_epoch=expected_epoch,
            event_id=event_id,
        )

        async def measure(incident_id: str, _: str | None) -> list[Measurement]:
            # On a thread with its own loop: it imports the orchestrator's client, which would hold up every page.
            return await asyncio.to_thread(asyncio.run, measure_for_reset(self._settings, scope, incident_id))

        try:
            outcome = await reset_breaker(
                self._settings, self.breaker(scope, caller.source), request, measure, self._authorization.keep
            )
        finally:
            self._changed()
        self._start(self._see_to_watch(scope))
        if outcome.undropped:
            _log.error("pending exits are not dropped: %s", outcome.undropped)
        for problem in outcome.locked:
            _log.error("reset, but %s", problem)
        if outcome.unrebased:
            _log.error("reset, but %s", outcome.unrebased)
        return outcome

    async def _see_to_watch(self, scope: str) -> None:
        """Watch the reset from here, unless a service does."""
        holder = f"console on {socket.gethostname()}"
        await watch_unless_watched(self._settings, scope, holder, self._authorization.keep, _log.info)
