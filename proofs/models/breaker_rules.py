"""One breaker as a sequential machine: what each call does to what Redis holds. Written from the rules, in no Lua.

Times are Redis's own, in Unix microseconds. One call is one step, since a script is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

MISSING, GARBAGE, OPEN, TRIPPED, QUIET_PERIOD = "MISSING", "UNKNOWN", "OPEN", "TRIPPED", "QUIET_PERIOD"
TRIP, RESET, INITIALIZE, END = "TRIP", "RESET", "INITIALIZE", "QUIET_PERIOD_END"

DONE, REPEATED, UNCHANGED = "DONE", "REPEATED", "UNCHANGED"
"""The outcomes that are no refusal."""
QUIET_DEFAULT = 300_000_000
"""Microseconds that a quiet period lasts from its reset where the state does not say until when."""


@dataclass(frozen=True, slots=True)
class Trip:
    event_id: str
    incident: str
    reason: str = "MANUAL"


@dataclass(frozen=True, slots=True)
class Reset:
    """`quiet` and `interval` in microseconds; `epoch` and `incident`: those of the state that is meant."""

    event_id: str
    quiet: int
    interval: int
    epoch: int | str = ""
    """'' for any, 'none' for a state without one."""
    incident: str = ""


@dataclass(frozen=True, slots=True)
class Initialize:
    event_id: str
    force: bool = False


@dataclass(frozen=True, slots=True)
class EndQuietPeriod:
    event_id: str
    epoch: int


@dataclass(frozen=True, slots=True)
class ApiError:
    """One error, of which `limit` may be within a window that is longer than any history."""

    event_id: str
    incident: str
    limit: int


@dataclass(frozen=True, slots=True)
class Override:
    """A person's SET, past every script. `word` may be GARBAGE, and is for a quiet period without `reset_at`."""

    word: str
    epoch: int | None = None
    reset_at: int | None = None
    """Of a quiet period whose end is left out: it lasts `QUIET_DEFAULT` from here."""


@dataclass(frozen=True, slots=True)
class Flush:
    """Everything is gone."""


Transition = Trip | Reset | Initialize | EndQuietPeriod
Call = Transition | ApiError | Override | Flush


class Record(NamedTuple):
    """One transition, as history and outbox have it."""

    event_id: str
    transition: str
    origin: str
    to: str
    epoch: int
    incident: str | None
    at: int


class Held(NamedTuple):
    """What Redis holds of one breaker. `word` is the stored one; `word_at` says what it means."""

    word: str = MISSING
    epoch: int | None = None
    incident: str | None = None
    reason: str | None = None
    trips: int = 0
    quiet_until: int = 0
    limited_until: int = 0
    recorded: tuple[Record, ...] = ()
    errors: frozenset[str] = frozenset()

    def word_at(self, now: int) -> str:
        """A quiet period that is over is OPEN, without anything being written."""
        return OPEN if self.word == QUIET_PERIOD and self.quiet_until <= now else self.word

    def has(self, event_id: str) -> bool:
        return any(record.event_id == event_id for record in self.recorded)

    def next_epoch(self, now: int) -> int:
        """One more than the highest known; Unix milliseconds where none is known, so that none comes twice."""
        known = [record.epoch for record in self.recorded] + ([] if self.epoch is None else [self.epoch])
        return max(known) + 1 if known else now // 1000


def apply(held: Held, call: Call, now: int) -> tuple[str, Held]:
    """The outcome's word, and what Redis holds then. A refusal changes nothing."""
    match call:
        case Override(word, epoch, reset_at):
            until = 0 if reset_at is None else reset_at + QUIET_DEFAULT
            gone = held._replace(incident=None, reason=None, trips=0, quiet_until=until)
            return DONE, gone._replace(word=word, epoch=epoch)
        case Flush():
            return DONE, Held()
        case ApiError():
            return _api_error(held, call, now)
    if held.has(call.event_id):
        return REPEATED, held
    match call:
        case Trip(event_id, incident, reason):
            return DONE, _tripped(held, event_id, incident, reason, now)
        case Reset():
            return _reset(held, call, now)
        case Initialize():
            return _initialize(held, call, now)
        case EndQuietPeriod(event_id, epoch):
            if held.epoch != epoch:
                return "EPOCH_DIFFERS", held
            if held.word != QUIET_PERIOD:
                return "NOT_QUIET", held
            ended = held._replace(word=OPEN, quiet_until=0)
            return DONE, _recorded(held, ended, END, event_id, QUIET_PERIOD, held.incident, now)


def _tripped(held: Held, event_id: str, incident: str, reason: str, now: int) -> Held:
    word = held.word_at(now)
    same = held.incident if word in (TRIPPED, QUIET_PERIOD) else None
    kept = held.reason if word == TRIPPED else None
    tripped = held._replace(
        word=TRIPPED, incident=same or incident, reason=kept or reason, trips=held.trips + 1, quiet_until=0
    )
    return _recorded(held, tripped, TRIP, event_id, word, tripped.incident, now)


def _reset(held: Held, call: Reset, now: int) -> tuple[str, Held]:
    if held.word != TRIPPED:
        return "NOT_TRIPPED", held
    if call.epoch not in ("", "none" if held.epoch is None else held.epoch):
        return "EPOCH_DIFFERS", held
    if call.incident not in ("", held.incident):
        return "INCIDENT_DIFFERS", held
    if now < held.limited_until:
        return "RATE_LIMITED", held
    reset = held._replace(
        word=QUIET_PERIOD if call.quiet else OPEN,
        quiet_until=now + call.quiet if call.quiet else 0,
        limited_until=_limited_until(now, call.interval) if call.interval else held.limited_until,
    )
    return DONE, _recorded(held, reset, RESET, call.event_id, TRIPPED, held.incident, now)


def _limited_until(now: int, interval: int) -> int:
    """A key's expiry counts whole milliseconds, and includes its last one."""
    return (now // 1000 + interval // 1000 + 1) * 1000


def _initialize(held: Held, call: Initialize, now: int) -> tuple[str, Held]:
    word = held.word_at(now)
    if word in (TRIPPED, QUIET_PERIOD):
        return ("IN_FORCE" if call.force else UNCHANGED), held
    if word == OPEN and not call.force:
        return UNCHANGED, held
    if word == GARBAGE and not call.force:
        return "GARBAGE", held
    fresh = held._replace(word=OPEN, incident=None, reason=None, trips=0, quiet_until=0)
    least = now // 1000 if call.force else 0
    return DONE, _recorded(held, fresh, INITIALIZE, call.event_id, word, None, now, least)


def _api_error(held: Held, call: ApiError, now: int) -> tuple[str, Held]:
    counted = held._replace(errors=held.errors | {call.event_id})
    if len(counted.errors) <= call.limit:
        return "WITHIN", counted
    if counted.word == TRIPPED:
        return "ALREADY_TRIPPED", counted
    if held.has(call.event_id):
        return TRIPPED, counted
    return TRIPPED, _tripped(counted, call.event_id, call.incident, "API_ERRORS", now)


def _recorded(
    before: Held,
    after: Held,
    transition: str,
    event_id: str,
    origin: str,
    incident: str | None,
    now: int,
    least: int = 0,
) -> Held:
    epoch = max(before.next_epoch(now), least)
    record = Record(event_id, transition, origin, after.word, epoch, incident, now)
    return after._replace(epoch=epoch, recorded=(*before.recorded, record))
