"""Keep trips that Redis could not be told of on this host's disk, until the first process that reaches it makes them.

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
from breaker.errors import BreakerError, BreakerUnavailable, InvalidInput, RedisRefused
from breaker.keys import GLOBAL
from breaker.store_identity import StoreIdentity, read_identity
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
    """A breaker, blocking or not; `trip` as `CircuitBreaker` has it."""

    def trip(
        self,
        reason: str,
        details: Mapping[str, Any] | None = None,
        *,
        tripped_by: str | None = None,
        event_id: str | None = None,
        incident_id: str | None = None,
        ip_address: str | None = None,
    ) -> _Outcome_co:
        """See `CircuitBreaker.trip`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingTrip:
    """A trip, as `CircuitBreaker.trip` takes it, with its ids decided before it is tried.

    Attributes:
        reason: As for `CircuitBreaker.trip`.
        tripped_by: Who.
        scope: Whose breaker.
        details: As for `CircuitBreaker.trip`.
        source: Which way in it came.
        event_id: Makes it happen once, whoever makes it, however often.
        incident_id: Used if it begins an incident.
        asked_at: When it was asked for, by this host's clock; ISO 8601, UTC. Redis's own time is of when it was told.
        ip_address: The caller's.
        meant_for: The Redis that could not be told; None in a file of an older version, which is for any.

    Example:
        >>> from breaker.pending_trips import PendingTrip
        >>> PendingTrip(reason="MANUAL", tripped_by="ada").make(breaker).tripped_by
        'ada'
    """

    reason: str
    tripped_by: str
    scope: str = GLOBAL
    details: Mapping[str, Any] = field(default_factory=dict)
    source: str = "library"
    event_id: str = field(default_factory=uuid7)
    incident_id: str = field(default_factory=uuid7)
    asked_at: str = field(default_factory=_now)
    ip_address: str | None = None
    meant_for: StoreIdentity | None = None

    def is_for(self, here: StoreIdentity) -> bool:
        """Whether a Redis is the one that could not be told.

        Args:
            here: The Redis.

        Returns:
            True if so, or if nothing is known of the one that could not be told.
        """
        return self.meant_for is None or self.meant_for.is_same(here)

    def make(self, breaker: SupportsTrip[_Outcome_co]) -> _Outcome_co:
        """Trip a breaker. Raises what its `trip` raises.

        Args:
            breaker: A `CircuitBreaker` or `AsyncCircuitBreaker`.

        Returns:
            What its `trip` returns: a status, or an awaitable of one.
        """
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
    """A pending trip that was made.

    Attributes:
        trip: The trip.
        status: The state after it.

    Example:
        >>> trip = PendingTrip(reason="MANUAL", tripped_by="ada")
        >>> AppliedTrip(trip, trip.make(breaker)).status.trip_reason
        'MANUAL'
    """

    trip: PendingTrip
    status: Status


class PendingTrips:
    """The pending trips in one directory, usually `pending_trips` in the state directory. Safe to share.

    Args:
        directory: Where they are; made when the first one is saved.

    Example:
        >>> from breaker.pending_trips import PendingTrip, PendingTrips
        >>> pending = PendingTrips(directory)
        >>> _ = pending.save(PendingTrip(reason="MANUAL", tripped_by="ada"))
        >>> [str(applied.status.state) for applied in pending.apply(client)]
        ['TRIPPED']
        >>> pending.load()
        []
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._of_others: frozenset[str] = frozenset()

    def save(self, trip: PendingTrip) -> Path:
        """Write a trip down, and return once it is on the disk.

        Args:
            trip: The trip.

        Returns:
            The file that keeps it.

        Raises:
            OSError: the disk refused.
        """
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = self._path(trip)
        write_atomically(path, json.dumps(asdict(trip)))
        return path

    def any_pending(self) -> bool:
        """Whether anything waits, a file that can't be read included.

        What `apply` has found to be for another Redis, by their ids, doesn't count any more.

        Returns:
            True if so.

        Raises:
            OSError: the directory can't be read.
        """
        try:
            with os.scandir(self.directory) as entries:
                return any(entry.name.endswith(".json") and entry.name not in self._of_others for entry in entries)
        except FileNotFoundError:
            return False

    def load(self) -> list[PendingTrip]:
        """What waits, oldest first. A file that can't be read is a trip of everything.

        Returns:
            The trips, in the order in which they were asked for.
        """
        return [trip for _, trip in self._read()]

    def incident_of(self, scope: str, here: StoreIdentity | None = None) -> str | None:
        """The incident that the oldest trip waiting for a scope begins; a later one belongs to it too.

        Args:
            scope: The scope.
            here: The Redis that is meant; any, unless given.

        Returns:
            The incident's id; None when no trip waits for that scope.
        """
        waiting = (trip for trip in self.load() if trip.scope == scope and (here is None or trip.is_for(here)))
        return next((trip.incident_id for trip in waiting), None)

    def apply(
        self,
        redis: Redis,
        *,
        timeout: float = 2.0,
        durability: Durability | None = None,
        environment: str | None = None,
    ) -> Sequence[AppliedTrip]:
        """Make every trip that waits for this Redis, and delete its file. One that is meant for another is left.

        Costs one look into the directory when there is none.

        Args:
            redis: A client of the Redis that could not be told.
            timeout: Seconds after which each trip has ended.
            durability: How far each trip is followed; as for `CircuitBreaker`.
            environment: What the caller's configuration calls its environment; what Redis calls it, unless given.

        Returns:
            What was made, in the order in which it was asked for.

        Raises:
            BreakerUnavailable, RedisRefused: what could not be made still waits. One trip that is refused keeps no
                other from being made; without an answer of Redis nothing more is tried.
        """
        from breaker.circuit import CircuitBreaker  # noqa: PLC0415  a look into the directory needs no redis
        from breaker.durability import DEFAULT_DURABILITY  # noqa: PLC0415

        done: list[AppliedTrip] = []
        refused: RedisRefused | None = None
        if not (waiting := self._read()):
            return done
        here = read_identity(redis, environment=environment, timeout=timeout)
        self._of_others = frozenset(
            path.name for path, trip in waiting if trip.meant_for and trip.meant_for.is_surely_another(here)
        )
        for path, trip in waiting:
            if not trip.is_for(here):
                continue
            breaker = CircuitBreaker(
                redis, trip.scope, timeout=timeout, source=trip.source, durability=durability or DEFAULT_DURABILITY
            )
            try:
                with contextlib.closing(breaker):
                    status = _with_asked_at(trip).make(breaker)
            except BreakerUnavailable:
                raise
            except BreakerError as error:
                refused = refused or RedisRefused(f"The trip that waits in {path} is refused: {error}")
                continue
            # One that can't be removed is made again, which changes nothing: the same event acts once.
            with contextlib.suppress(OSError):
                path.unlink()
            done.append(AppliedTrip(trip, status))
        if refused is not None:
            raise refused
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
        kept = json.loads(path.read_bytes())
        if kept.get("meant_for") is not None:
            kept["meant_for"] = StoreIdentity.from_json(kept["meant_for"])
        trip = PendingTrip(**kept)
        check_pending_trip(trip)
    except FileNotFoundError:
        raise
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        return PendingTrip(
            reason=TripReason.PENDING_TRIP_UNREADABLE,
            tripped_by=f"the file {path.name}"[:128],
            details={"problem": f"{type(error).__name__}: {error}"[:500]},
            event_id=str(uuid5(_NAMESPACE, path.name)),
            incident_id=str(uuid5(_NAMESPACE, f"incident of {path.name}")),
        )
    return trip


def check_pending_trip(trip: PendingTrip) -> None:
    """Make sure that a breaker would take a trip.

    Args:
        trip: The trip.

    Raises:
        InvalidInput: it would not. InvalidInput is a ValueError.

    Example:
        >>> from breaker.pending_trips import PendingTrip, check_pending_trip
        >>> check_pending_trip(PendingTrip(reason="", tripped_by="ada"))
        Traceback (most recent call last):
        ...
        breaker.errors.InvalidInput: reason is empty; nothing was changed. Say in 1 to 200 characters why or who.
    """
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
