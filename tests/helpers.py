"""Wait, with a deadline, for what another thread or process brings about."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
PATIENCE = 30.0
"""Seconds that a busy machine may take for anything: a limit on what never happens, no measure of how fast we are."""


def eventually(
    holds: Callable[[], T],
    what: str | Callable[[], object] = "it never happened",
    *,
    within: float = PATIENCE,
    every: float = 0.01,
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
