"""Read which kill switches were confirmed and have not begun, so that somebody else begins them.

The trip itself keeps each of them in Redis, in the script that halts, and its run's first sign of life takes it out
(tasks/kill/status_feed.py). What is left there belongs to a host that died in between.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from breaker.events import TransitionEvent
from breaker.keys import ASKED_KILLS
from breaker.state import State, Status
from configuration.redis_clients import redis_client

if TYPE_CHECKING:
    from configuration.settings import Settings

CLAIM = "circuit_breaker:kill_taken_over:"
"""Before the id of a run, or of the trip of one that never began: which host takes it over, until that shows."""
_WITHDRAWN, _WITHDRAWN_FOR = "withdrawn", 86_400


@dataclass(frozen=True, slots=True)
class AskedKill:
    """A kill switch that was asked for, by the trip that it began with."""

    trip: TransitionEvent
    closes: tuple[str, ...]
    """The accounts that it is about."""

    @property
    def reason(self) -> str:
        return str(self.trip.details.get("reason", ""))

    def waited(self, now: datetime) -> float:
        """Seconds since its trip, at `now` by Redis's clock."""
        return (now - self.trip.at).total_seconds()

    def is_in_force(self, status: Status) -> bool:
        """Whether its breaker is halted in its incident, and was not reset since."""
        same = status.state is State.TRIPPED and status.incident_id == self.trip.incident_id
        return same and not (status.reset_at is not None and status.reset_at > self.trip.at)


def read_asked_kills(kept: Iterable[bytes]) -> list[AskedKill]:
    """What the values of Redis's `ASKED_KILLS` tell, oldest first. Pure.

    What is no trip, or names nothing, asks for nothing.
    """
    found = []
    for raw in kept:
        with suppress(ValueError):
            trip = TransitionEvent.from_json(raw)
            if closes := _names(trip.details.get("closes")):
                found.append(AskedKill(trip, closes))
    return sorted(found, key=lambda asked: asked.trip.at)


def withdraw(settings: Settings, event_id: str, run_id: str = "") -> str:
    """Let nobody begin it any more: whoever asked for it has broken it off, maybe before its trip has come to Redis.
    Nor is its run taken over, which may have had no time to say that it has ended.

    Returns which host has begun it just now, and goes on; empty if none has. Raises RedisError, OSError.
    """
    with redis_client(settings, timeout=settings.redis_timeout) as redis:
        claims = [f"{CLAIM}{each}" for each in (event_id, run_id) if each]
        before: list[Any] = [redis.set(claim, _WITHDRAWN, ex=_WITHDRAWN_FOR, get=True) for claim in claims]
        redis.hdel(ASKED_KILLS, event_id)
    hosts = [each.decode("utf-8", "replace") for each in before if each is not None]
    return next((host for host in hosts if host != _WITHDRAWN), "")


def _names(value: object) -> tuple[str, ...]:
    named: Iterable[object] = value if isinstance(value, list) else ()
    return tuple(name for name in named if isinstance(name, str))
