"""Ask a standby for a kill switch: the request, and where in Redis requests and their answers stand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from breaker.pending_trips import PendingTrip, check_pending_trip
from breaker.trip_reasons import TripReason
from breaker.uuid7 import uuid7
from configuration.breakers import requested_trip

REQUESTS = "circuit_breaker:kill_requests"
"""The stream; its field `request` is a KillRequest as JSON."""
ANSWER = "circuit_breaker:kill_answer:"
"""Before the request's event id: who took it and how it ended, kept for a day."""


class KillRequest(BaseModel):
    """What is asked for. Ids that the asker has decided make doing it twice the same as doing it once."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    reason: str = Field(default="kill switch, no reason given", min_length=1, max_length=500)
    operator: str = Field(min_length=1, max_length=128)
    login: str = Field(default="", max_length=128)
    """Whose process asks, where `operator` is a name that was typed."""
    sudo: str = Field(default="", max_length=256)
    """What is known of who is behind `login`."""
    scope: str = "global"
    accounts: tuple[str, ...] = ()
    """All of them when none is named."""
    started: float | None = None
    """When it was asked for, on this host's monotonic clock."""
    event_id: str = Field(default_factory=uuid7)
    incident_id: str = Field(default_factory=uuid7)

    @model_validator(mode="after")
    def _a_breaker_takes_it(self) -> Self:
        check_pending_trip(self.trip("cli"))
        return self

    def trip(self, source: str, closes: Sequence[str] = ()) -> PendingTrip:
        """The trip that it begins with, by the way in `source`. `closes`: as for `requested_trip`."""
        return requested_trip(
            TripReason.KILL_SWITCH,
            operator=self.operator,
            login=self.login,
            sudo=self.sudo,
            why=self.reason,
            scope=self.scope,
            source=source,
            event_id=self.event_id,
            incident_id=self.incident_id,
            closes=closes,
        )
