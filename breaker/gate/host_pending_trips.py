"""Make the trips that wait on this host's disk (`breaker.pending_trips`) before a gate of the host may open.

Redis can come back with an OPEN from before a trip that it could not be told of. A gate that is given the directory
opens on no connection before what waits there is made, and lets go of a connection as soon as something waits. What is
for another Redis by its id is left alone; what is so by its address alone keeps the gate closed, as a Redis can have
several.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from breaker.errors import BreakerError
from breaker.pending_trips import PendingTrips

if TYPE_CHECKING:
    import redis


class TripPending(Exception):
    """Something waits, or whether it does can't be seen; until that is over the gate must not open."""


class HostPendingTrips:
    """What waits in one directory, for the Redis that `source` (a client or a URL) points to."""

    def __init__(self, directory: Path, source: redis.Redis | str) -> None:
        self._pending = PendingTrips(directory)
        self._source = source

    def apply(self) -> None:
        """Make all that waits. Raises `TripPending` when that is not possible."""
        try:
            if self._pending.any_pending():
                self._apply()
                self.raise_if_pending()
        except (BreakerError, OSError) as error:
            raise TripPending(
                f"whether a trip waits in {self._pending.directory} can't be seen, or it can't be made: {error}"
            ) from error

    def raise_if_pending(self) -> None:
        """Raises `TripPending` when something waits, or when that can't be seen. Costs one look into the directory."""
        try:
            waiting = self._pending.any_pending()
        except OSError as error:
            raise TripPending(f"whether a trip waits in {self._pending.directory} can't be seen: {error}") from error
        if waiting:
            raise TripPending(
                f"a trip waits in {self._pending.directory} and is made first, unless it is for a Redis elsewhere"
            )

    def _apply(self) -> None:
        if not isinstance(self._source, str):
            self._pending.apply(self._source)
            return
        from breaker.redis_clients import open_redis  # noqa: PLC0415 -- seldom needed

        with open_redis(self._source) as client:
            self._pending.apply(client)
