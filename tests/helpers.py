"""Wait for what others bring about, and judge how long something took, beside whatever else the machine is doing."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

T = TypeVar("T")
PATIENT_RECOVERY = {"redis_latency": 5.0, "database_latency": 5.0}
"""Limits of a recovery that a busy machine keeps: how fast its stores answer is not what most tests are about."""
FULL = os.environ.get("BREAKER_TEST_SCALE") == "full"
"""Whether `make campaigns` asked for the size that takes hours."""
PATIENCE = 30.0
"""Seconds that a busy machine may take for anything: a limit on what never happens, no measure of how fast we are."""
BUSY = 10.0
"""Seconds that a busy machine may add to a limit of the code's own; what hangs, or waits for a minute, takes longer."""


def eventually(
    holds: Callable[[], T],
    what: str | Callable[[], object] = "it never happened",
    *,
    within: float = PATIENCE,
    every: float = 0.03,
) -> T:
    """The first answer of `holds` that is true; fails, saying `what`, when there is none `within` that many seconds.

    `what` may be a function, for what can be said only afterwards: the end of a log, what was seen last. On an event
    loop: `await asyncio.to_thread(eventually, …)`.
    """
    deadline = time.monotonic() + within
    while not (found := holds()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within:g} s: {what() if callable(what) else what}")
        time.sleep(every)
    return found


@contextlib.contextmanager
def in_time(limit: float) -> Iterator[None]:
    """Fails when what is done meanwhile takes longer than its own limit and what a busy machine may add to it."""
    begun = time.monotonic()
    yield
    took = time.monotonic() - begun
    assert took < limit + BUSY, f"it took {took:.1f} s, and was to end within {limit:g} s"


def at_best(measure: Callable[[], float], within: float, attempts: int = 10) -> None:
    """Fails unless one of several measurements is within so many seconds. A busy machine
    delays some of them, a wait in the code delays all."""
    seen: list[float] = []
    while not seen or (min(seen) >= within and len(seen) < attempts):
        seen.append(measure())
    assert min(seen) < within, f"{min(seen):.3f} s at best, in {attempts} attempts"


def seconds_of(call: Callable[[], object]) -> float:
    begun = time.monotonic()
    call()
    return time.monotonic() - begun


def shown_on(keyboard: int) -> str:
    """All that a terminal's programs show until the last of them has gone; closes it. `keyboard` is our end of it."""
    screen = b""
    with contextlib.suppress(OSError):  # what a terminal says when its last process has gone
        while shown := os.read(keyboard, 65536):
            screen += shown
    os.close(keyboard)
    return screen.decode()
