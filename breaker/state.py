"""Judge what a breaker's stored state means at a given moment. Pure: no I/O, no clock of its own."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from breaker.keys import GLOBAL, of_scope, scope_of_state
from breaker.redis_time import to_datetime, to_microseconds

_DAY = 86_400_000_000
_LAST_SECOND = 253_402_300_799  # 9999-12-31T23:59:59Z
_MAX_EPOCH = 2**53 - 2
_QUIET_PERIOD = 300_000_000
"""Microseconds from its reset that a quiet period lasts whose state does not say until when: five minutes."""
_TIME = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})[T ]([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.([0-9]{1,9}))?"
    r"(?:Z|([+-])([0-9]{2}):?([0-9]{2}))"
)


class State(StrEnum):
    """Whether trading is allowed, in the words of the operations runbook (*States*).

    Example:
        >>> breaker.get_state()
        <State.OPEN: 'OPEN'>
        >>> breaker.get_state() == "OPEN"
        True
    """

    OPEN = "OPEN"
    """Trading is allowed: the market is open to the engine. Beware of the word: in resilience4j, pybreaker and their
    like an OPEN breaker is an open electrical circuit, which lets nothing through; here it is the opposite."""
    TRIPPED = "TRIPPED"
    """Halted: only orders that reduce risk may be sent. What resilience4j calls OPEN."""
    QUIET_PERIOD = "QUIET_PERIOD"
    """Cooling down after a reset: new risk is limited in size and rate. Close to resilience4j's HALF_OPEN."""
    UNKNOWN = "UNKNOWN"
    """Never stored: missing, unreadable, unreachable or outdated. To be treated as TRIPPED."""


_STORED = frozenset({State.OPEN, State.TRIPPED, State.QUIET_PERIOD})


class Status(Mapping[str, Any]):
    """A breaker's state at one moment.

    As a mapping it holds what is stored, with times as ISO 8601 text and without fields that are None, so that
    `dict(status)` can go to `json.dumps` as it is. The attributes give the same in Python's types; times are
    UTC-aware. A quiet period that has ended by Redis's clock reads as OPEN, unless only its watch may end it, and
    `trip_count_today` is 0 once the UTC day has changed.

    Attributes:
        state: Whether trading is allowed.
        problem: Why the state is UNKNOWN, as a sentence for the operator; None otherwise.
        as_of: Redis's time at which this was true; None if Redis didn't answer.
        unconfirmed: Why the trip that led here is not known to outlive a crash of Redis; None if it is, or if nobody
            asked.

    Example:
        >>> status = breaker.trip("MANUAL", details={"operator": "ada"})
        >>> status["state"], status.tripped_by, status.trip_details["operator"]
        ('TRIPPED', 'ada', 'ada')
        >>> status.get("reset_by", "N/A")
        'N/A'
    """

    __slots__ = ("_fields", "as_of", "problem", "state", "unconfirmed")

    def __init__(
        self,
        state: State,
        fields: Mapping[str, Any] | None = None,
        *,
        problem: str | None = None,
        as_of: datetime | None = None,
        unconfirmed: str | None = None,
    ) -> None:
        self.state = state
        self.problem = problem
        self.as_of = as_of
        self.unconfirmed = unconfirmed
        known = {name: value for name, value in (fields or {}).items() if value is not None and name != "state"}
        notes = {"problem": problem, "unconfirmed": unconfirmed}
        self._fields = {"state": state.value, **known, **{name: text for name, text in notes.items() if text}}

    def with_unconfirmed(self, why: str | None) -> Status:
        """The same, with what is not known about its durability.

        Args:
            why: As `unconfirmed`; None for a trip that is durable, or about which nobody asked.

        Returns:
            Another status.
        """
        return Status(self.state, self._fields, problem=self.problem, as_of=self.as_of, unconfirmed=why)

    def at(self, as_of: datetime) -> Status:
        """The same at another moment, for one at which nothing of it has changed.

        Args:
            as_of: Redis's time at which this was true.

        Returns:
            Another status.
        """
        status = Status.__new__(Status)
        status.state, status.problem, status.unconfirmed = self.state, self.problem, self.unconfirmed
        status._fields, status.as_of = self._fields, as_of
        return status

    def __getitem__(self, name: str) -> Any:
        return self._fields[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)

    def __repr__(self) -> str:
        return f"Status({self._fields!r})"

    @property
    def is_tripped(self) -> bool:
        """True for TRIPPED and for UNKNOWN."""
        return self.state in (State.TRIPPED, State.UNKNOWN)

    @property
    def tripped_at(self) -> datetime | None:
        """When the trip that began this incident happened."""
        return self._time("tripped_at")

    @property
    def last_trip_at(self) -> datetime | None:
        """When the newest trip happened; later than `tripped_at` if an already tripped breaker was tripped again."""
        return self._time("last_trip_at")

    @property
    def reset_at(self) -> datetime | None:
        """When the newest reset happened."""
        return self._time("reset_at")

    @property
    def quiet_until(self) -> datetime | None:
        """When the quiet period ends; None outside one."""
        return self._time("quiet_until")

    @property
    def ends_watched(self) -> bool:
        """Whether the quiet period ends by its watch alone, and goes on past `quiet_until` while nobody watches."""
        return self.state is State.QUIET_PERIOD and self._fields.get("ends_watched") is True

    @property
    def trip_reason(self) -> str | None:
        """Why it was tripped: a `breaker.trip_reasons.TripReason`, or an engine's own words."""
        return self._text("trip_reason")

    @property
    def tripped_by(self) -> str | None:
        """Who made the trip that began this incident."""
        return self._text("tripped_by")

    @property
    def reset_by(self) -> str | None:
        """Who made the newest reset."""
        return self._text("reset_by")

    @property
    def reset_reason(self) -> str | None:
        """Why the newest reset was made."""
        return self._text("reset_reason")

    @property
    def incident_id(self) -> str | None:
        """The incident that runs from a trip until the watch after its reset; on every record of it."""
        return self._text("incident_id")

    @property
    def trip_details(self) -> Mapping[str, Any]:
        """What the trip's caller added; empty when there is none."""
        details = self._fields.get("trip_details")
        return details if isinstance(details, dict) else {}

    @property
    def trip_count_today(self) -> int:
        """How many trips there were on this UTC day."""
        return usable_count(self._fields.get("trip_count_today")) or 0

    @property
    def epoch(self) -> int | None:
        """Counts transitions; None in a state written by hand without one."""
        return usable_count(self._fields.get("epoch"))

    def _time(self, name: str) -> datetime | None:
        microseconds = parse_time(self._fields.get(name))
        return None if microseconds is None else to_datetime(microseconds)

    def _text(self, name: str) -> str | None:
        value = self._fields.get(name)
        return value if isinstance(value, str) else None


def parse_time(value: object) -> int | None:
    """Unix microseconds of an ISO 8601 time with a zone, from 1970 to 9999; None for anything else.

    The grammar is exactly the scripts' own, since both must agree on when a quiet period ends.
    """
    match = _TIME.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        return None
    year, month, day, hour, minute, second = (int(part) for part in match.groups()[:6])
    fraction, sign, zone_hours, zone_minutes = match.groups()[6:]
    if int(zone_hours or 0) > 23 or int(zone_minutes or 0) > 59:
        return None
    try:
        local = datetime(year, month, day, hour, minute, second, tzinfo=UTC)
    except ValueError:
        return None
    offset = (int(zone_hours or 0) * 3600 + int(zone_minutes or 0) * 60) * (-1 if sign == "-" else 1)
    whole = to_microseconds(local) // 1_000_000 - offset
    if not 0 <= whole <= _LAST_SECOND:
        return None
    return whole * 1_000_000 + int((fraction or "").ljust(6, "0")[:6])


def usable_count(value: object) -> int | None:
    """`value` as a whole number from 0 on that Lua's doubles hold exactly; None if it isn't one."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _MAX_EPOCH:
        return None
    return int(value) if value == int(value) else None


def read_status(raw: bytes | None, now: int, *, key: str = "circuit_breaker:state") -> Status:
    """What the stored text means at `now`, Redis's own time in Unix microseconds. Never raises.

    `raw` is None when the key is missing. Anything but an object with a known `state` word is UNKNOWN.
    """
    as_of = to_datetime(now)
    if raw is None:
        return unknown_status(
            f"{key} is missing in Redis: never initialised, or flushed. Find out which, then run "
            f"`breaker init{of_scope(scope_of_state(key))}`.",
            as_of=as_of,
        )
    fields = _decode(raw)
    if fields is None:
        return unknown_status(_garbage(key, "holds no JSON object"), as_of=as_of)
    word = fields.get("state")
    if not isinstance(word, str) or word not in _STORED:
        return unknown_status(_garbage(key, f"names no known state ({word!r:.40})"), as_of=as_of)
    state = State(word)
    if state is State.QUIET_PERIOD:
        quiet_until = _quiet_until(fields)
        if quiet_until is None:
            return unknown_status(
                _garbage(key, "says QUIET_PERIOD, but neither quiet_until nor reset_at tells its end"), as_of=as_of
            )
        if quiet_until <= now and fields.get("ends_watched") is not True:
            state = State.OPEN
        if fields.get("quiet_until") is None:
            fields |= {"quiet_until": to_datetime(quiet_until).isoformat().replace("+00:00", "Z")}
    return Status(state, _count_of_today(fields, now), as_of=as_of)


def _quiet_until(fields: Mapping[str, Any]) -> int | None:
    """When a quiet period ends. What is left out is made up from the reset; what is there and no time is no end."""
    if fields.get("quiet_until") is not None:
        return parse_time(fields["quiet_until"])
    reset_at = parse_time(fields.get("reset_at"))
    return None if reset_at is None else min(reset_at + _QUIET_PERIOD, _LAST_SECOND * 1_000_000)


def unknown_status(problem: str, *, as_of: datetime | None = None) -> Status:
    """The status of a breaker whose state can't be told, and why."""
    return Status(State.UNKNOWN, problem=problem, as_of=as_of)


def wrong_type_status(key: str, now: int) -> Status:
    """The status when `key` holds something else than a string."""
    return unknown_status(_garbage(key, "is not a string"), as_of=to_datetime(now))


def is_older(status: Status, seen: Status) -> bool:
    """Whether `status` is older than `seen`: a lower epoch, or one that was TRIPPED and now is not.

    The latter is what comes of a copy from before that trip, counted on from there. Both have an epoch.
    """
    return _rank(status) < _rank(seen)


def _rank(status: Status) -> tuple[int, bool]:
    return (-1 if status.epoch is None else status.epoch), status.state is State.TRIPPED


def reject_older(status: Status, seen: Status | None, scope: str = GLOBAL) -> Status:
    """`status`, or UNKNOWN if it is older than one seen before: an older copy of the data is being served."""
    if seen is None or status.epoch is None or not is_older(status, seen):
        return status
    return unknown_status(
        f"The breaker was {seen.state} in epoch {seen.epoch} and now says {status.state} in epoch {status.epoch}: "
        "Redis serves an older copy of its data. "
        "Check for a failover or a restored backup, then trip, reset and run "
        f"`breaker init --force{of_scope(scope)}`.",
        as_of=status.as_of,
    )


def _garbage(key: str, what: str) -> str:
    return (
        f"{key} {what}. Trip the breaker, or look at it and run `breaker init --force{of_scope(scope_of_state(key))}`."
    )


def _decode(raw: bytes) -> dict[str, Any] | None:
    """The object in `raw`, as leniently as Redis's own decoder takes it; None if there is none."""
    text = raw.decode("utf-8", "replace")
    try:
        value = json.loads(text, strict=False)
        if "\\u" in text:  # A lone surrogate, which the scripts' decoder refuses.
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _count_of_today(fields: dict[str, Any], now: int) -> dict[str, Any]:
    """`fields` with `trip_count_today` set to 0 if the newest trip was on another UTC day."""
    last = parse_time(fields.get("last_trip_at")) or parse_time(fields.get("tripped_at"))
    if "trip_count_today" not in fields or last is None or last // _DAY == now // _DAY:
        return fields
    return fields | {"trip_count_today": 0}
