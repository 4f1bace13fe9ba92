"""Announce trips, wherever they came from, by the event that starts their recovery.

Level-triggered: what counts is that the breaker is tripped and its incident has no recovery yet, not who noticed the
moment. So a trip is announced whoever made it, also when the orchestrator was down at that time; and the recovery
itself makes sure that there is one for an incident, however often it was announced.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from prefect.events import emit_event
from redis import Redis

from breaker.state import State
from configuration.breakers import breaker_of
from configuration.settings import Settings
from tasks.recovery.state import claim_key

TRIPPED = "circuit-breaker.tripped"
"""The event's name; its resource is `circuit-breaker.{scope}`, its payload names incident, scope and reason."""
REPEAT_AFTER = 20
"""Seconds after which an announcement that no recovery followed is made again."""


@dataclass(frozen=True, slots=True)
class AnnouncedTrip:
    scope: str
    incident_id: str


def announce_trips(settings: Settings, redis: Redis, scopes: Iterable[str]) -> list[AnnouncedTrip]:
    """Emit the event for each tripped breaker whose incident has no recovery. Raises what redis-py raises."""
    announced = []
    for scope in scopes:
        breaker = breaker_of(settings, scope, redis=redis)
        status = breaker.get_status()
        breaker.close()
        incident = status.incident_id
        if status.state is not State.TRIPPED or incident is None or redis.exists(claim_key(incident)):
            continue
        if not redis.set(f"circuit_breaker:recovery_announced:{incident}", scope, nx=True, ex=REPEAT_AFTER):
            continue
        emit_event(
            event=TRIPPED,
            resource={"prefect.resource.id": f"circuit-breaker.{scope}", "prefect.resource.name": scope},
            payload={"incident_id": incident, "scope": scope, "reason": status.trip_reason or ""},
        )
        announced.append(AnnouncedTrip(scope, incident))
    return announced
