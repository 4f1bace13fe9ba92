"""Trips from the command line: made at once, or kept on this host's disk until Redis can be told."""

from __future__ import annotations

import sys

from breaker.errors import BreakerError, BreakerUnavailable, RedisRefused
from breaker.pending_trips import PendingTrip, apply_pending_trips, keep_untold
from breaker.settings import Settings
from breaker.state import Status
from cli.options import connect, redis_of


def make_trip(settings: Settings, trip: PendingTrip) -> Status:
    """Trip the breaker; an older trip that waits on this host is made too.

    Raises NotHalted, whose line says whether the trip is kept and made later.
    """
    try:
        status = trip.make(connect(settings, trip.scope, trip.source))
    except (BreakerUnavailable, RedisRefused) as error:
        raise keep_untold(settings, trip, error) from None
    if status.unconfirmed:
        sys.stderr.write(f"breaker: tripped, but not known to outlive a crash of Redis: {status.unconfirmed}\n")
    try:
        tell_of_pending_trips(settings)
    except BreakerError as error:
        sys.stderr.write(f"breaker: an older trip still waits on this host: {error}\n")
    return status


def tell_of_pending_trips(settings: Settings) -> bool:
    """Make the trips that wait on this host, and say so. True if there were any.

    Raises BreakerUnavailable or RedisRefused: they still wait.
    """
    made = apply_pending_trips(settings, lambda: redis_of(settings))
    for trip, status in ((applied.trip, applied.status) for applied in made):
        sys.stderr.write(
            f"breaker: tripped {trip.scope}, asked for on this host at {trip.asked_at} by {trip.tripped_by} while "
            f"Redis could not be reached; it is {status.state} now, incident {status.incident_id}\n"
        )
    return bool(made)
