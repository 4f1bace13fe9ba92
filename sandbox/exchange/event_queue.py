"""Keep the exchange's time: what happens when, in order, without a clock of its own."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable


class EventQueue:
    """Seconds since the exchange started, and what is due at which of them."""

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._sequence = itertools.count()

    def advance(self, now: float) -> None:
        """Let everything happen that is due until `now`; a moment already passed changes nothing."""
        while self._events and self._events[0][0] <= now:
            at, _, happen = heapq.heappop(self._events)
            self.now = max(self.now, at)
            happen()
        self.now = max(self.now, now)

    def after(self, delay: float, happen: Callable[[], None]) -> None:
        """Let this happen `delay` seconds from now."""
        heapq.heappush(self._events, (self.now + delay, next(self._sequence), happen))
