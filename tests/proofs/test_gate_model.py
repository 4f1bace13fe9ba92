"""The guarantee holds in every state that can be reached, and the search would have found it broken.

Where there are many states only those of the first steps are searched here; `make models` (MODEL=full) searches all.
"""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from breaker.gate.lease import Lease, ScopeState, StateReading, heartbeat_confirmed
from proofs.models.gate_model import Behaviour, search

EVERYTHING = os.environ.get("MODEL") == "full"


def test_promise_3_holds_for_one_gate() -> None:
    result = search(Behaviour(), staleness=2, gates=1, in_flight=1, resets=1)
    assert result.violation is None
    assert result.opened, "it was open before the trip"
    assert result.reopened, "and after the reset"
    assert result.states > 5_000


def test_promise_3_holds_for_one_gate_with_two_heartbeats_in_flight() -> None:
    staleness, within = (2, None) if EVERYTHING else (1, 12)
    result = search(Behaviour(), staleness=staleness, gates=1, in_flight=2, resets=1, within=within)
    assert result.violation is None
    assert result.opened
    assert result.reopened
    assert result.states > 10_000


@pytest.mark.timeout(3600 if EVERYTHING else 120)
def test_promise_3_holds_for_two_gates() -> None:
    staleness, resets, within = (2, 1, None) if EVERYTHING else (1, 0, 10)
    result = search(Behaviour(), staleness=staleness, gates=2, in_flight=1, resets=resets, within=within)
    assert result.violation is None
    assert result.opened
    assert result.states > 8_000


def confirmed_at_receipt(lease: Lease, replicas: int) -> Lease:
    """Mutant: the lease begins when the answer comes (now, which is 0 in the model), not when it was asked for."""
    confirmed = heartbeat_confirmed(lease, replicas)
    return replace(confirmed, deadline=lease.max_staleness) if replicas >= lease.replicas else confirmed


def read_without_epochs(lease: Lease, readings: tuple[StateReading, ...]) -> Lease:
    """Mutant: whatever was read last is believed."""
    views = tuple(
        replace(view, state=ScopeState(reading.state), reading=reading)
        for view, reading in zip(lease.views, readings, strict=True)
    )
    return replace(lease, views=views)


@pytest.mark.parametrize(
    ("mutant", "told"),
    [
        (Behaviour(confirmed=confirmed_at_receipt), "ticks after the trip"),
        (Behaviour(replicas=0), "ticks after the trip"),
        (Behaviour(read=read_without_epochs), "although it has read the trip"),
    ],
    ids=["lease from the time of receipt", "read-only heartbeat under failover", "no epoch check"],
)
def test_the_search_finds_what_is_wrong_with_a_mutant(mutant: Behaviour, told: str) -> None:
    result = search(mutant, staleness=1, gates=2 if EVERYTHING else 1, in_flight=1, resets=0)
    assert result.violation is not None
    assert told in result.violation[-1]


def test_pushes_only_make_closing_faster() -> None:
    """The promise rests on heartbeats alone: a gate that hears no push keeps it too."""
    assert search(Behaviour(pushed=lambda lease: lease), staleness=1, gates=1, in_flight=1, resets=1).violation is None
