"""One transition of a breaker, as history and outbox keep it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

from breaker.state import parse_time

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Transition(StrEnum):
    TRIP = "TRIP"
    RESET = "RESET"
    INITIALIZE = "INITIALIZE"
    QUIET_PERIOD_END = "QUIET_PERIOD_END"


@dataclass(frozen=True, slots=True)
class TransitionEvent:
    """One recorded transition. `from_state` may also be MISSING or UNKNOWN; `at` is Redis's own time, UTC."""

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
    """The JSON text as it is stored, byte for byte."""

    @classmethod
    def from_json(cls, raw: str | bytes) -> TransitionEvent:
        """Read a member of the history or the `event` field of an outbox entry.

        Raises ValueError for text that is no transition event, such as one added by hand.
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
    return _EPOCH + timedelta(microseconds=microseconds)
