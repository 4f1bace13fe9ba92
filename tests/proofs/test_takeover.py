"""A machine is lost for good in the middle of a kill switch; the same command on another one ends it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from proofs.crash_points.boundary import Death, Point, Side
from proofs.crash_points.campaign import Trial, attempt
from proofs.crash_points.environment import CrashEnvironment
from proofs.crash_points.procedures import TAKEOVER


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CrashEnvironment]:
    with CrashEnvironment(tmp_path_factory.mktemp("takeover")) as running:
        yield running


@pytest.mark.parametrize(
    "point",
    [Point("Redis EVALSHA trip", 1), Point("venue body", 2), Point("database INSERT INTO audit_log", 2)],
    ids=str,
)
def test_promise_6_another_host_takes_over_with_the_same_command(environment: CrashEnvironment, point: Point) -> None:
    outcome = attempt(environment, Trial(TAKEOVER, Death(point, Side.AFTER)))
    assert outcome.reached
    assert not outcome.faults
