"""Make the trips that wait on this host, as every resident service does once Redis is back."""

from __future__ import annotations

import structlog

from configuration.breakers import apply_pending_trips
from configuration.settings import Settings

log = structlog.get_logger(__name__)


def make_pending_trips(settings: Settings) -> None:
    """Raises BreakerUnavailable or RedisRefused: what could not be made still waits."""
    for made in apply_pending_trips(settings):
        log.warning("pending trip made", scope=made.trip.scope, asked_at=made.trip.asked_at)
