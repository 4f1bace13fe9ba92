"""Readings wait for cancels and closes, and never the other way round."""

from __future__ import annotations

import pytest

from brokers.ccxt.errors import RateLimited
from brokers.ccxt.throttle import BAN, READING_SHARE, WINDOW, Throttle, changes_something


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


async def test_a_window_used_up_by_readings_still_lets_cancels_through_at_once(clock: Clock) -> None:
    throttle = Throttle("ALPHA", 100, clock)
    for _ in range(int(100 * READING_SHARE)):
        await throttle(1)
    with pytest.raises(RateLimited, match=r"ALPHA: .* used up, it may be asked again in 60\.0 s"):
        await throttle(1)
    token = changes_something.set(True)
    try:
        for _ in range(25):
            await throttle(1)
        with pytest.raises(RateLimited):
            await throttle(1)
    finally:
        changes_something.reset(token)


async def test_what_was_used_is_free_again_after_the_window(clock: Clock) -> None:
    throttle = Throttle("ALPHA", 100, clock)
    await throttle(75)
    assert throttle.wait(1, urgent=False) == WINDOW
    clock.now += WINDOW
    assert throttle.wait(75, urgent=False) == 0


async def test_only_as_much_is_waited_for_as_the_request_needs(clock: Clock) -> None:
    throttle = Throttle("ALPHA", 100, clock)
    await throttle(40)
    clock.now += 20
    await throttle(30)
    assert throttle.wait(10, urgent=False) == 40
    assert throttle.wait(30, urgent=True) == 0


def test_a_single_request_dearer_than_the_window_is_sent_when_nothing_else_was(clock: Clock) -> None:
    assert Throttle("ALPHA", 20, clock).wait(40, urgent=False) == 0


@pytest.mark.parametrize(
    ("status", "retry_after", "pause"), [(429, "7", 7.0), (429, None, 1.0), (418, None, BAN), (418, "soon", BAN)]
)
def test_after_a_refusal_nothing_is_sent_until_the_venue_may_be_asked(
    clock: Clock, status: int, retry_after: str | None, pause: float
) -> None:
    throttle = Throttle("ALPHA", 100, clock)
    throttle.refused(status, retry_after)
    assert throttle.wait(1, urgent=True) == throttle.paused_for == pause
    clock.now += pause
    assert throttle.wait(1, urgent=True) == 0
