"""Fire the dead-man's switches that were not renewed in time: trip their scope, or flatten its accounts too.

One that Redis has from a copy of its data (restored, restarted, failed over) may have been released since: it trips.
"""

from __future__ import annotations

import asyncio

import structlog

from breaker.deadman import KILL, TRIP, OverdueSwitch, Renewal, overdue_switches, unregister_fired
from breaker.errors import BreakerError, InvalidInput
from breaker.pending_trips import PendingTrip
from breaker.trip_reasons import TripReason
from configuration.redis_clients import redis_client
from configuration.running import RunningConfiguration
from flows.kill_start import coverage_now
from services.kill_executor import KillExecutor
from services.kill_request import KillRequest

log = structlog.get_logger(__name__)


class DeadManWatch:
    def __init__(self, running: RunningConfiguration, executor: KillExecutor) -> None:
        self._running = running
        self._executor = executor
        self._redis = redis_client(running.settings, timeout=running.settings.redis_timeout)

    async def fire_overdue(self) -> None:
        """Raises BreakerUnavailable or RedisRefused: what could not be fired is overdue still."""
        for overdue in await asyncio.to_thread(overdue_switches, self._redis):
            await self._fire(overdue)

    def close(self) -> None:
        self._redis.close()

    async def _fire(self, overdue: OverdueSwitch) -> None:
        """Forgotten only when it is done: dying before means doing it again, with the same ids."""
        renewal, trip = overdue.renewal, _trip_of(overdue)
        kills = renewal.action == KILL and not self._may_be_of_the_past(overdue) and self._covers_something(renewal)
        if kills and not self._executor.claim(renewal.event_id):
            return
        log.error("dead-man's switch fired", switch=renewal.name, scope=renewal.scope, does=KILL if kills else TRIP)
        if kills:
            self._executor.begin(self._kill(overdue, trip))
        else:
            await trip.make(self._executor.breaker(renewal.scope, "rule"))
            await asyncio.to_thread(unregister_fired, self._redis, overdue)

    def _may_be_of_the_past(self, overdue: OverdueSwitch) -> bool:
        """Whether Redis has it from a copy, in which it may have been released since: then its silence only trips."""
        if overdue.is_of_another_run:
            log.error(
                "a silent switch flattens nothing: Redis was restored, restarted or failed over since its renewal",
                switch=overdue.renewal.name,
                next_step="close by hand with `breaker kill` what has to be closed; the next renewal arms it again",
            )
        return overdue.is_of_another_run

    def _covers_something(self, renewal: Renewal) -> bool:
        """Whether the scope covers any account here. Not where nobody can tell: then its silence only trips."""
        try:
            return bool(coverage_now(self._running.present(), renewal.scope).accounts)
        except InvalidInput as error:
            log.warning("a silent switch flattens nothing here", switch=renewal.name, why=str(error))
            return False

    async def _kill(self, overdue: OverdueSwitch, trip: PendingTrip) -> None:
        request = KillRequest(
            reason=f"{trip.tripped_by} was silent for {overdue.renewal.within:g} s",
            operator=trip.tripped_by,
            scope=trip.scope,
            event_id=trip.event_id,
            incident_id=trip.incident_id,
        )
        await self._executor.kill(request, "rule", lambda _: None, trip=trip)
        try:
            await asyncio.to_thread(unregister_fired, self._redis, overdue)
        except BreakerError as error:
            log.warning("a switch that fired is still registered", switch=overdue.renewal.name, error=str(error))


def _trip_of(overdue: OverdueSwitch) -> PendingTrip:
    renewal = overdue.renewal
    return PendingTrip(
        reason=TripReason.DEAD_MAN,
        details={
            "switch": renewal.name,
            "within": renewal.within,
            "action": renewal.action,
            **({"only_trips": "Redis is another than took the renewal"} if overdue.is_of_another_run else {}),
        },
        tripped_by=f"dead-man's switch {renewal.name}",
        scope=renewal.scope,
        source="rule",
        event_id=renewal.event_id,
        incident_id=renewal.incident_id,
    )
