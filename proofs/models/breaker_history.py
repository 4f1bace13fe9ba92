"""What one client's operation on a breaker means to the sequential machine, given what the client was told."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from proofs.models.breaker_rules import (
    DONE,
    OPEN,
    QUIET_PERIOD,
    Call,
    Held,
    Record,
    apply,
)

CLOCK_SLACK = 5_000
"""Microseconds by which a client's reading of the host's clock may differ from the one that Redis made."""


class Moment(NamedTuple):
    """What Redis holds, and the latest time that it is known to have told. Its clock never goes back here."""

    held: Held = Held()
    clock: int = 0


@dataclass(frozen=True, slots=True)
class Between:
    """The host's clock around a call, in Unix microseconds."""

    earliest: int = 0
    latest: int = 2**62

    def moments(self, moment: Moment) -> Iterator[int]:
        """The times that can make a difference: the first possible, and each at which something runs out."""
        first = max(moment.clock, self.earliest - CLOCK_SLACK)
        last = self.latest + CLOCK_SLACK
        if first <= last:
            yield first
        for runs_out in {moment.held.quiet_until, moment.held.limited_until}:
            if first < runs_out <= last:
                yield runs_out


@dataclass(frozen=True, slots=True)
class Change:
    """A call that changed the breaker. `outcome`: what the caller was told; None for whatever it was.

    `at`: when, by the record; None if no record tells.
    """

    call: Call
    between: Between = Between()
    at: int | None = None
    outcome: str | None = DONE


@dataclass(frozen=True, slots=True)
class Refusal:
    """A call that was refused with one of `outcomes`, or had nothing to do."""

    call: Call
    outcomes: tuple[str, ...]
    between: Between = Between()


@dataclass(frozen=True, slots=True)
class Seen:
    """A reader's answer, judged by Redis's clock at `as_of`, which was read just before the state."""

    word: str
    epoch: int | None
    incident: str | None
    as_of: int
    between: Between = Between()


@dataclass(frozen=True, slots=True)
class Agreement:
    """State, newest history member and newest outbox entry, read in one step: stored word, epoch, two event ids."""

    word: str
    epoch: int | None
    in_history: str | None
    in_outbox: str | None


@dataclass(frozen=True, slots=True)
class Everything:
    """History and outbox from the first transition on, at the end."""

    history: tuple[Record, ...]
    outbox: tuple[Record, ...]


Action = Change | Refusal | Seen | Agreement | Everything


def step(moment: Moment, action: Action) -> Iterable[Moment]:
    """The moments that may follow; none if the caller can't have been told what it was."""
    held = moment.held
    match action:
        case Change():
            return _changed(moment, action)
        case Refusal(call, outcomes, between):
            return [Moment(held, now) for now in between.moments(moment) if _refuses(held, call, now, outcomes)]
        case Seen(word, epoch, incident, as_of, between):
            in_time = between.earliest - CLOCK_SLACK <= as_of <= between.latest + CLOCK_SLACK
            same = (word, epoch, incident) == _seen(held, as_of)
            return [Moment(held, max(moment.clock, as_of))] if in_time and same else []
        case Agreement(word, epoch, in_history, in_outbox):
            newest = held.recorded[-1].event_id if held.recorded else None
            return [moment] if (held.word, held.epoch, newest, newest) == (word, epoch, in_history, in_outbox) else []
        case Everything(history, outbox):
            return [moment] if held.recorded == history == outbox else []


def _changed(moment: Moment, change: Change) -> Iterator[Moment]:
    times = change.between.moments(moment) if change.at is None else [change.at]
    for now in times:
        if now < moment.clock or not _fits(change.between, now):
            continue
        outcome, held = apply(moment.held, change.call, now)
        told = change.outcome is None or outcome == change.outcome
        recorded = change.at is None or (held.recorded and held.recorded[-1].at == change.at)
        if told and recorded:
            yield Moment(held, now)


def _refuses(held: Held, call: Call, now: int, outcomes: tuple[str, ...]) -> bool:
    outcome, after = apply(held, call, now)
    return outcome in outcomes and after == held


def _fits(between: Between, now: int) -> bool:
    return between.earliest - CLOCK_SLACK <= now <= between.latest + CLOCK_SLACK


def _seen(held: Held, as_of: int) -> tuple[str, int | None, str | None]:
    """A reader is told no epoch and no incident of a state that it can't read."""
    word = held.word_at(as_of)
    if word in (OPEN, QUIET_PERIOD, "TRIPPED"):
        return word, held.epoch, held.incident
    return "UNKNOWN", None, None
