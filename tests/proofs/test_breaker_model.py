"""The breaker's promises hold in every world that can be reached, and the search would have found them broken.

`make models` (MODEL=full) searches larger worlds, which takes minutes.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import pytest

from proofs.models.breaker_model import BEGIN, LIMIT, QUIET, SOUND, Behaviour, Left, World, search
from proofs.models.breaker_rules import Held, Initialize, Reset, Trip, apply

EVERYTHING = os.environ.get("MODEL") == "full"


def after(*calls: Initialize | Trip | Reset) -> dict[str, object]:
    """What Redis holds after these, and who knows what of it."""
    held = Held()
    for call in calls:
        _, held = apply(held, call, BEGIN)
    trips = tuple(call.event_id for call in calls if isinstance(call, Trip))
    decided = bool(calls) and not isinstance(calls[-1], Trip)
    return {
        "redis": held,
        "outbox": held.recorded,
        "on_disk": (held, held.recorded),
        "trips": trips,
        "decided": decided,
    }


NEW = after()
RUNNING = after(Initialize("begin"))
HALTED = after(Initialize("begin"), Trip("halt", "halt"))
COOLING = after(Initialize("begin"), Trip("halt", "halt"), Reset("resume", QUIET, LIMIT))


@dataclass(frozen=True, slots=True)
class Small:
    """A world small enough to search in seconds, and what of it is larger when there is time."""

    start: dict[str, object]
    kinds: tuple[str, ...]
    left: Left
    larger: Left
    comes_about: frozenset[str]

    def world(self, *, larger: bool = False) -> World:
        return World(self.larger if larger else self.left, **self.start)  # type: ignore[arg-type]


def small(start: dict[str, object], kinds: str, left: Left, larger: Left, comes_about: str) -> Small:
    return Small(start, tuple(kinds.split()), left, larger, frozenset(comes_about.split()))


WORLDS = {
    "callers and time": small(
        HALTED, "trip reset end", Left(3, 0, ticks=1), Left(4, 0, ticks=2), "TRIP RESET QUIET_PERIOD_END"
    ),
    "callers and retries": small(HALTED, "trip reset end init", Left(2, 1), Left(3, 2), "TRIP RESET QUIET_PERIOD_END"),
    "a new breaker": small(
        NEW, "trip init", Left(2, 1, flushes=1, drains=1), Left(3, 1, flushes=1, drains=2), "TRIP INITIALIZE"
    ),
    "a reader, and a Redis that loses what it had": small(
        COOLING, "trip reset end", Left(2, 0, crashes=1, reads=2), Left(3, 1, 1, crashes=1, reads=3), "TRIP"
    ),
    "a reader, and a flush": small(
        RUNNING, "trip init", Left(2, 0, flushes=1, reads=2), Left(3, 1, flushes=1, reads=3), "TRIP INITIALIZE"
    ),
    "states written by hand": small(
        RUNNING, "trip reset force", Left(2, 0, overrides=1), Left(3, 1, 0, overrides=1, reads=1), "TRIP RESET"
    ),
    "trips kept on disk": small(HALTED, "trip reset", Left(2, 0, pending=2), Left(3, 0, 1, pending=3), "TRIP RESET"),
    "the drain": small(RUNNING, "trip reset", Left(2, 0, drains=2), Left(3, 1, drains=3, flushes=1), "TRIP RESET"),
}


@pytest.mark.timeout(3600 if EVERYTHING else 120)
@pytest.mark.parametrize("name", WORLDS)
def test_promises_1_2_4_8_and_9_hold_in_every_world_that_can_be_reached(name: str) -> None:
    of = WORLDS[name]
    result = search(SOUND, of.world(larger=EVERYTHING), of.kinds)
    print(f"{name}: {result.states} states, {result.steps} steps")
    assert result.violation is None, "\n".join(result.violation or ())
    assert result.recorded >= of.comes_about


TIME, RETRIES, NEWLY, CRASH = (*WORLDS,)[:4]
HAND, DISK, DRAIN = (*WORLDS,)[5:]
MUTANTS = {
    "a reset is for whatever it meets": (Behaviour(pins_resets=False), RETRIES, "1, 2"),
    "a retry has an event id of its own": (Behaviour(reuses_event_id=False), RETRIES, "8"),
    "the end of a quiet period looks at nothing": (Behaviour(end_looks=False), TIME, "2"),
    "the end of a quiet period is written by who finds it": (Behaviour(expiry_writes=True), TIME, "4"),
    "history is written after the state": (Behaviour(records_with_state=False), RETRIES, "4"),
    "a failed reset uses up the limit": (Behaviour(failed_reset_takes_token=True), HAND, "9"),
    "resets are not limited": (Behaviour(limits_resets=False), TIME, "9"),
    "a constructor creates OPEN": (Behaviour(creates_when_missing=True), NEWLY, "1, 2"),
    "a trip needs a state": (Behaviour(trips_when_missing=False), NEWLY, "2"),
    "a second trip is dropped": (Behaviour(keeps_second_trip=False), RETRIES, "8"),
    "an open breaker can be reset": (Behaviour(resets_only_trips=False), HAND, "9"),
    "the drain deletes before it appends": (Behaviour(appends_before_deleting=False), DRAIN, "8"),
    "the drain appends what is there already": (Behaviour(appends_once=False), DRAIN, "8"),
    "the drain deletes what it has not read": (Behaviour(deletes_only_what_it_read=False), DRAIN, "8"),
    "a kept trip is forgotten when it is sent": (Behaviour(forgets_after_answer=False), DISK, "5"),
    "a reader remembers nothing": (Behaviour(reader_remembers=False), CRASH, "1, 2"),
    "a reader compares epochs only": (Behaviour(reader_compares_halts=False), CRASH, "1, 2"),
    "epochs begin with one": (Behaviour(epochs_begin_with_time=False), NEWLY, "4"),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_search_finds_what_is_wrong_with_a_mutant(mutant: str) -> None:
    behaviour, name, promise = MUTANTS[mutant]
    of = WORLDS[name]
    result = search(behaviour, of.world(), of.kinds)
    assert result.violation is not None
    assert result.violation[-1].startswith(f"{promise}:"), result.violation
