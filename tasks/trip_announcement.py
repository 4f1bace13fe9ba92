"""Announce trips, wherever they came from, by the event that starts their recovery.

Level-triggered: what counts is that the breaker is tripped and its incident has no recovery yet, not who noticed the
moment. So a trip is announced whoever made it, also when the orchestrator was down at that time; and the recovery
itself makes sure that there is one for an incident, however often it was announced.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from prefect.events import emit_event
from redis import Redis

from breaker.state import State, Status
from tasks.recovery.state import claim_key

TRIPPED = "circuit-breaker.tripped"
"""The event's name; its resource is `circuit-breaker.{scope}`, its payload names incident, scope and reason."""
REPEAT_AFTER = 20
"""Seconds after which an announcement that no recovery followed is made again."""


@dataclass(frozen=True, slots=True)
class AnnouncedTrip:
    scope: str
    incident_id: str


def announce_trips(redis: Redis, statuses: Mapping[str, Status]) -> list[AnnouncedTrip]:
    """Emit the event for each tripped breaker whose incident has no recovery. Raises what redis-py raises."""
    tripped = [
        (scope, status, status.incident_id)
        for scope, status in statuses.items()
        if status.state is State.TRIPPED and status.incident_id is not None
    ]
    if not tripped:
        return []
    with redis.pipeline(transaction=False) as pipe:
        for _, _, incident in tripped:
            pipe.exists(claim_key(incident))
        claimed = pipe.execute()
    announced = []
    for (scope, status, incident), has_recovery in zip(tripped, claimed, strict=True):
        if has_recovery:
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
