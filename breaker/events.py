"""Read one transition of a breaker, as history and outbox keep it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from breaker.redis_time import to_datetime
from breaker.state import parse_time


class Transition(StrEnum):
    """What a transition did."""

    TRIP = "TRIP"
    RESET = "RESET"
    INITIALIZE = "INITIALIZE"
    QUIET_PERIOD_END = "QUIET_PERIOD_END"


@dataclass(frozen=True, slots=True)
class TransitionEvent:
    """One recorded transition.

    Attributes:
        event_id: UUID of this transition; it happens, and is recorded, once.
        transition: What it did.
        scope: The breaker's scope.
        from_state: A `State`'s word, or `MISSING`.
        to_state: A `State`'s word.
        at: When Redis executed it, by its own clock, UTC-aware.
        by: Who asked for it.
        reason: Why; for a trip a `breaker.trip_reasons.TripReason` or any other text. Empty when none was given.
        details: What the caller added.
        source: Which way in it came, such as `cli` or `rule`.
        ip_address: The caller's, where it is known.
        incident_id: The incident that it belongs to.
        epoch: The state's epoch after it.
        raw: The JSON text as it is stored, byte for byte.

    Example:
        >>> _ = breaker.trip("DRAWDOWN", tripped_by="risk engine")
        >>> newest = breaker.get_history(1)[0]
        >>> newest.transition, newest.from_state, newest.to_state, newest.by
        (<Transition.TRIP: 'TRIP'>, 'OPEN', 'TRIPPED', 'risk engine')
    """

    event_id: str
    transition: Transition
    scope: str
    from_state: str
    to_state: str
    at: datetime
    by: str
    reason: str
    details: Mapping[str, Any]
    source: str
    ip_address: str | None
    incident_id: str | None
    epoch: int
    raw: str = field(repr=False, compare=False)

    @classmethod
    def from_json(cls, raw: str | bytes) -> TransitionEvent:
        """Read a member of the history or the `event` field of an outbox entry.

        Args:
            raw: The JSON text.

        Returns:
            The transition.

        Raises:
            ValueError: the text is no transition event, such as one added by hand.
        """
        text = raw.decode() if isinstance(raw, bytes) else raw
        try:
            fields = json.loads(text)
            return cls(
                event_id=str(fields["event_id"]),
                transition=Transition(fields["transition"]),
                scope=str(fields["scope"]),
                from_state=str(fields["from_state"]),
                to_state=str(fields["to_state"]),
                at=_time(fields["at"]),
                by=str(fields["by"]),
                reason=str(fields["reason"]),
                details=dict(fields["details"]),
                source=str(fields["source"]),
                ip_address=fields["ip_address"],
                incident_id=fields["incident_id"],
                epoch=int(fields["epoch"]),
                raw=text,
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"This is no transition event ({error}): {text!r:.120}") from error


def _time(value: object) -> datetime:
    microseconds = parse_time(value)
    if microseconds is None:
        raise ValueError(f"'at' is no time: {value!r:.40}")
    return to_datetime(microseconds)
