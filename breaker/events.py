"""Read the transitions of a breaker, as history and outbox keep them; name what is none."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from breaker.redis_time import to_datetime
from breaker.state import parse_time

_SHOWN = 120
"""How many characters of a member that can't be read are shown."""


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
        try:
            return _event(raw)
        except ValueError as error:
            raise ValueError(f"This is no transition event ({error}): {raw!r:.{_SHOWN}}") from error


@dataclass(frozen=True, slots=True)
class UnreadableEvent:
    """A member of a breaker's history that is no transition: somebody else's, or damaged.

    Attributes:
        member: The beginning of its text.
        problem: What about it makes no sense.

    Example:
        >>> str(UnreadableEvent("b'mine'", "it is no JSON"))
        "b'mine': it is no JSON"
    """

    member: str
    problem: str

    def __str__(self) -> str:
        return f"{self.member}: {self.problem}"


class History(list[TransitionEvent]):
    """The newest transitions of a breaker, newest first: a list, which knows what was left out of it.

    Args:
        events: The transitions.
        unreadable: What else is kept among them.

    Attributes:
        unreadable: Members that can't be read, newest first. They hide nothing else.

    Example:
        >>> _ = breaker.trip("MANUAL"), client.zadd(breaker.keys.history, {"mine": 1})
        >>> history = breaker.get_history()
        >>> [str(event.transition) for event in history], [bad.member for bad in history.unreadable]
        (['TRIP', 'INITIALIZE'], ["b'mine'"])
    """

    def __init__(self, events: Iterable[TransitionEvent] = (), unreadable: Iterable[UnreadableEvent] = ()) -> None:
        super().__init__(events)
        self.unreadable = tuple(unreadable)


def read_history(members: Iterable[str | bytes]) -> History:
    """What the members of a history tell. Never raises.

    Args:
        members: Their JSON texts.

    Returns:
        The transitions in the order of the members, and beside them what is none.

    Example:
        >>> history = read_history([b"mine"])
        >>> len(history), len(history.unreadable)
        (0, 1)
    """
    events, unreadable = [], []
    for member in members:
        try:
            events.append(_event(member))
        except ValueError as error:
            unreadable.append(UnreadableEvent(f"{member!r:.{_SHOWN}}", str(error)))
    return History(events, unreadable)


def _event(raw: str | bytes) -> TransitionEvent:
    """Raises ValueError, which says on one line what makes no sense."""
    try:
        text = raw.decode() if isinstance(raw, bytes) else raw
        fields = json.loads(text)
        if "\\u" in text:  # a lone surrogate, which could not be shown
            json.dumps(fields, ensure_ascii=False).encode()
        return TransitionEvent(
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
            ip_address=_text_or_none(fields["ip_address"]),
            incident_id=_text_or_none(fields["incident_id"]),
            epoch=int(fields["epoch"]),
            raw=text,
        )
    except KeyError as error:
        raise ValueError(f"it has no {error}") from None
    except json.JSONDecodeError:
        raise ValueError("it is no JSON") from None
    except UnicodeError:
        raise ValueError("it is no text") from None
    except (TypeError, OverflowError, RecursionError) as error:
        raise ValueError(f"it makes no sense ({type(error).__name__}: {error})") from None


def _text_or_none(value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value
    raise ValueError(f"{value!r:.40} is no text")


def _time(value: object) -> datetime:
    microseconds = parse_time(value)
    if microseconds is None:
        raise ValueError(f"'at' is no time: {value!r:.40}")
    return to_datetime(microseconds)
