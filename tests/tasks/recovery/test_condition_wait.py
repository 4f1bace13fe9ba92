"""A recovery waits for conditions that may get better by themselves, and asks people about what they decide."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from tasks.checks.measurement import Colour, Measurement
from tasks.recovery.steps import waiting_may_help


def measured(**colours: Colour) -> list[Measurement]:
    now = datetime.now(UTC)
    return [Measurement(name, colour, "", "", "", now) for name, colour in colours.items()]


@pytest.mark.parametrize(
    ("found", "helps"),
    [
        (measured(drawdown=Colour.GREEN, redis=Colour.YELLOW), False),
        (measured(drawdown=Colour.GREEN, redis=Colour.RED), True),
        (measured(drawdown=Colour.RED, redis=Colour.RED), True),
        (measured(drawdown=Colour.RED, redis=Colour.GREEN), False),
    ],
)
def test_nobody_is_kept_waiting_for_a_drawdown_that_a_new_mark_ends(found: list[Measurement], helps: bool) -> None:
    assert waiting_may_help(found) is helps
