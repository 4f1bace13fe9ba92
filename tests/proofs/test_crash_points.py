"""Killed at any I/O and started again, it ends as if nothing had happened: a sample of what `make faults` tries."""

from __future__ import annotations

import os
from collections.abc import Iterator
from random import Random

import pytest

from proofs.crash_points.boundary import Death, Point, Side
from proofs.crash_points.campaign import Trial, attempt, deaths, record
from proofs.crash_points.environment import CrashEnvironment
from proofs.crash_points.procedures import FIRST_KILL, KILL, KILL_PROTECTED, LAST_RESORT, LAST_RESORT_PROTECTED, RESET

SEED = int(os.environ.get("BREAKER_CRASH_SEED", "1"))
KINDS = 4


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CrashEnvironment]:
    with CrashEnvironment(tmp_path_factory.mktemp("crash")) as running:
        yield running


def test_promise_6_and_8_a_kill_switch_killed_at_any_io_and_started_again(environment: CrashEnvironment) -> None:
    points, random = record(environment, KILL), Random(SEED)
    kinds = random.sample(sorted({point.label for point in points}), KINDS)
    for kind in kinds:
        death = random.choice(deaths(point for point in points if point.label == kind))
        outcome = attempt(environment, Trial(KILL, death))
        assert not outcome.faults, f"seed {SEED}: {outcome.trial}: {outcome.faults}"


@pytest.mark.parametrize(
    "trial",
    [
        Trial(FIRST_KILL, Death(Point("database CREATE TABLE audit_log", 1), Side.AFTER)),
        Trial(KILL, Death(Point("venue POST /v2/orders", 2), Side.AFTER)),
        Trial(RESET, Death(Point("Redis EVALSHA reset", 1), Side.AFTER)),
        Trial(LAST_RESORT, Death(Point("venue body", 1), Side.AFTER)),
    ],
    ids=str,
)
def test_promise_6_and_8_killed_where_it_would_hurt_most(environment: CrashEnvironment, trial: Trial) -> None:
    outcome = attempt(environment, trial)
    assert outcome.reached
    assert not outcome.faults


@pytest.mark.parametrize(
    "death",
    [
        Death(Point("venue DELETE /v2/orders/{id}", 3), Side.BEFORE),
        Death(Point("venue DELETE /v2/orders/{id}", 5), Side.AFTER),
        Death(Point("venue POST /v2/orders", 2), Side.AFTER),
        Death(Point("venue GET /v2/orders", 14), Side.BEFORE),
    ],
    ids=str,
)
def test_promise_6_no_position_is_without_stop_and_close_for_longer_than_its_close_takes(
    environment: CrashEnvironment, death: Death
) -> None:
    """A sample of what `make stops` tries, of the places where a stop goes and a close comes or works."""
    outcome = attempt(environment, Trial(KILL_PROTECTED, death))
    assert not outcome.faults, f"{outcome.trial}: {outcome.faults}"


def test_promise_6_the_last_resort_leaves_closes_at_work_that_it_sent_before(environment: CrashEnvironment) -> None:
    outcome = attempt(
        environment, Trial(LAST_RESORT_PROTECTED, Death(Point("venue GET /v2/positions", 6), Side.BEFORE))
    )
    assert not outcome.faults, outcome.faults
