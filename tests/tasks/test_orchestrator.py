"""Which flow runs are started again by themselves."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from prefect.client.schemas.objects import State, StateType

from tasks.orchestrator import FAILED_FOR, SILENT_FOR, is_failed_or_crashed, is_lost

NOW = datetime(2026, 11, 24, 16, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("kind", "ago", "again"),
    [
        (StateType.CRASHED, timedelta(0), True),
        (StateType.FAILED, timedelta(seconds=1), False),
        (StateType.FAILED, FAILED_FOR, True),
        (StateType.PAUSED, timedelta(days=1), False),
        (StateType.CANCELLED, timedelta(days=1), False),
        (StateType.COMPLETED, timedelta(days=1), False),
        (StateType.RUNNING, timedelta(days=1), False),
    ],
)
def test_what_broke_off_is_started_again_and_what_waits_ended_or_was_cancelled_is_not(
    kind: StateType, ago: timedelta, again: bool
) -> None:
    assert is_failed_or_crashed(State[None](type=kind, timestamp=NOW - ago), NOW) is again


@pytest.mark.parametrize(
    ("kind", "ago", "again"),
    [
        (StateType.RUNNING, timedelta(seconds=5), False),
        (StateType.RUNNING, SILENT_FOR, True),
        (StateType.PENDING, timedelta(seconds=5), False),
        (StateType.PENDING, SILENT_FOR, True),
        (StateType.SCHEDULED, timedelta(days=1), False),
        (StateType.PAUSED, timedelta(days=1), False),
        (StateType.COMPLETED, timedelta(days=1), False),
    ],
)
def test_without_a_sign_of_life_what_runs_or_was_submitted_for_long_has_no_process(
    kind: StateType, ago: timedelta, again: bool
) -> None:
    assert is_lost(State[None](type=kind, timestamp=NOW - ago), NOW) is again
