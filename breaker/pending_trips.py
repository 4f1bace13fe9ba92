"""Trips that Redis could not be told of: kept on this host's disk, and made by the first process that reaches it.

Each is a file of its own, written whole and synced before it has its name, so that neither a crash nor a second writer
tears it. It carries the trip's event id: whoever makes it, however often, it happens once, and is in the ledger once.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar
from uuid import UUID, uuid5

from breaker.atomic_file import write_atomically
from breaker.errors import InvalidInput
from breaker.keys import GLOBAL
from breaker.trip_reasons import TripReason
from breaker.uuid7 import uuid7

if TYPE_CHECKING:
    from redis import Redis

    from breaker.durability import Durability
    from breaker.state import Status

_Outcome_co = TypeVar("_Outcome_co", covariant=True)
_NAMESPACE = UUID("0f5c8a0e-8a3f-5b61-9d0b-7f6f0c3f4a19")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


class SupportsTrip(Protocol[_Outcome_co]):
    """A breaker, blocking or not."""

    def trip(
        self,
        reason: str,
        details: Mapping[str, Any] | None = None,
        *,
        tripped_by: str | None = None,
        event_id: str | None = None,
        incident_id: str | None = None,
        ip_address: str | None = None,
    ) -> _Outcome_co: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingTrip:
    """A trip, as `CircuitBreaker.trip` takes it, with its ids decided before it is tried."""

    reason: str
    tripped_by: str
    scope: str = GLOBAL
    details: Mapping[str, Any] = field(default_factory=dict)
    source: str = "library"
    event_id: str = field(default_factory=uuid7)
    incident_id: str = field(default_factory=uuid7)
    asked_at: str = field(default_factory=_now)
    """When it was asked for, by this host's clock; Redis's own time is of when it was told."""
    ip_address: str | None = None

    def make(self, breaker: SupportsTrip[_Outcome_co]) -> _Outcome_co:
        """Trip that breaker; raises what its `trip` raises."""
        return breaker.trip(
            self.reason,
            self.details,
            tripped_by=self.tripped_by,
            event_id=self.event_id,
            incident_id=self.incident_id,
            ip_address=self.ip_address,
        )


@dataclass(frozen=True, slots=True)
class AppliedTrip:
    trip: PendingTrip
    status: Status
    """The state after it."""


class PendingTrips:
    """The pending trips in one directory, usually `pending_trips` in the state directory. Safe to share."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def save(self, trip: PendingTrip) -> Path:
        """Write it down, and return once it is on the disk. Raises OSError."""
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = self._path(trip)
        write_atomically(path, json.dumps(asdict(trip)))
        return path

    def any_pending(self) -> bool:
        """Whether anything waits, a file that can't be read included. Raises OSError when that can't be seen."""
        try:
            with os.scandir(self.directory) as entries:
                return any(entry.name.endswith(".json") for entry in entries)
        except FileNotFoundError:
            return False

    def load(self) -> list[PendingTrip]:
        """What waits, oldest first. A file that can't be read is a trip of everything."""
        return [trip for _, trip in self._read()]

    def incident_of(self, scope: str) -> str | None:
        """The incident that the oldest trip waiting for this scope begins; a later one belongs to it too."""
        return next((trip.incident_id for trip in self.load() if trip.scope == scope), None)

    def apply(
        self, redis: Redis, *, timeout: float = 2.0, durability: Durability | None = None
    ) -> Sequence[AppliedTrip]:
        """Make every trip that waits, and then forget it. Costs one look into the directory when there is none.

        Raises BreakerUnavailable or RedisRefused: what could not be made still waits.
        """
        from breaker.circuit import CircuitBreaker  # noqa: PLC0415  a look into the directory needs no redis
        from breaker.durability import DEFAULT_DURABILITY  # noqa: PLC0415

        done = []
        for path, trip in self._read():
            breaker = CircuitBreaker(
                redis, trip.scope, timeout=timeout, source=trip.source, durability=durability or DEFAULT_DURABILITY
            )
            with contextlib.closing(breaker):
                status = _with_asked_at(trip).make(breaker)
            path.unlink(missing_ok=True)
            done.append(AppliedTrip(trip, status))
        return done

    def _path(self, trip: PendingTrip) -> Path:
        return self.directory / f"{trip.event_id}.json"

    def _read(self) -> list[tuple[Path, PendingTrip]]:
        found = []
        for path in self.directory.glob("*.json"):
            with contextlib.suppress(FileNotFoundError):  # another process has just made it
                found.append((path, _parse(path)))
        return sorted(found, key=lambda item: item[1].asked_at)


def _with_asked_at(trip: PendingTrip) -> PendingTrip:
    """As Redis is told of it in the end: with the time at which it was asked for."""
    return replace(trip, details={**trip.details, "asked_at": trip.asked_at})


def _parse(path: Path) -> PendingTrip:
    try:
        trip = PendingTrip(**json.loads(path.read_bytes()))
        check_pending_trip(trip)
    except FileNotFoundError:
        raise
    except (OSError, ValueError, TypeError, AttributeError) as error:
        return PendingTrip(
            reason=TripReason.PENDING_TRIP_UNREADABLE,
            tripped_by=f"the file {path.name}"[:128],
            details={"problem": f"{type(error).__name__}: {error}"[:500]},
            event_id=str(uuid5(_NAMESPACE, path.name)),
            incident_id=str(uuid5(_NAMESPACE, f"incident of {path.name}")),
        )
    return trip


def check_pending_trip(trip: PendingTrip) -> None:
    """Raise InvalidInput, which is a ValueError, for what no breaker would take."""
    from breaker.requests import request_builder  # noqa: PLC0415

    if not isinstance(trip.asked_at, str):
        raise InvalidInput("asked_at is no text")
    request_builder(trip.scope, trip.source).trip(
        trip.reason,
        {**trip.details, "asked_at": trip.asked_at},
        trip.tripped_by,
        trip.event_id,
        trip.incident_id,
        trip.ip_address,
    )
