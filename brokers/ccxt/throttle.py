"""Hold readings back so that cancels and closes never wait behind them.

ccxt counts what each request costs, in requests of weight one, and asks before it sends it. Its own throttle serves in
the order of asking: a list of all orders, which is dear, would then hold up the cancels that follow.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from contextvars import ContextVar

from brokers.ccxt.errors import RateLimited

WINDOW = 60.0
"""Seconds over which is counted."""
READING_SHARE = 0.75
"""Of what a window allows, what readings may use; the rest is for cancels and closes."""
LONGEST_WAIT = 1.0
"""Seconds that a reading waits; whoever would wait longer is told, and asks again on a newer plan."""
PAUSE = 1.0
"""Seconds after a 429 that doesn't say how long."""
BAN = 60.0
"""Seconds after a 418 that doesn't say how long; Binance bans for two minutes at least who goes on (limits)."""

changes_something: ContextVar[bool] = ContextVar("changes_something", default=False)
"""Whether what is asked for is a cancel or a close, and not a reading."""


class Throttle:
    """What one account's requests may cost. `per_minute` is in requests of weight one, as ccxt counts them."""

    def __init__(self, account: str, per_minute: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._account = account
        self._per_minute = per_minute
        self._clock = clock
        self._spent: deque[tuple[float, float]] = deque()
        self._paused_until = 0.0

    async def __call__(self, cost: float | None = None) -> None:
        """Take `cost`. Raises `RateLimited` where that would take longer than may be waited for."""
        weight = 1.0 if cost is None else float(cost)
        urgent = changes_something.get()
        wait = self.wait(weight, urgent=urgent)
        if wait > (0.0 if urgent else LONGEST_WAIT):
            raise self._limited(wait)
        if wait:
            await asyncio.sleep(wait)
        self._spent.append((self._clock(), weight))

    def wait(self, weight: float, *, urgent: bool) -> float:
        """Seconds until that much more fits into the window."""
        now = self._clock()
        while self._spent and self._spent[0][0] <= now - WINDOW:
            self._spent.popleft()
        most = self._per_minute if urgent else self._per_minute * READING_SHARE
        used = sum(spent for _, spent in self._spent)
        wait = max(0.0, self._paused_until - now)
        for at, spent in self._spent:
            if used + weight <= most:
                break
            used -= spent
            wait = max(wait, at + WINDOW - now)
        return wait

    def refused(self, status: int, retry_after: str | None) -> None:
        """The venue has answered 429 or 418: nothing is sent until it may be asked again."""
        try:
            pause = float(retry_after or "")
        except ValueError:
            pause = BAN if status == 418 else PAUSE
        self._paused_until = max(self._paused_until, self._clock() + pause)

    @property
    def paused_for(self) -> float:
        """Seconds for which the venue wants to hear nothing."""
        return max(0.0, self._paused_until - self._clock())

    def _limited(self, wait: float) -> RateLimited:
        return RateLimited(
            f"{self._account}: the venue's rate limit is used up, it may be asked again in {wait:.1f} s",
            account=self._account,
            retry_after=wait,
        )
