"""The one watcher of a console: reads every breaker ten times a second and tells all pages when anything changes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from breaker import AsyncCircuitBreaker, Status
from breaker.keys import GLOBAL
from breaker.state import unknown_status

EVERY = 0.1
"""Seconds between two readings; a page learns of a trip from elsewhere in about half of it more than it takes."""
TIMEOUT = 1.0
"""Seconds after which a state that can't be read is shown as UNKNOWN."""


@dataclass(frozen=True, slots=True)
class WatchedState:
    """One breaker's state, and when this console read it."""

    scope: str
    status: Status
    at: datetime
    monotonic: float

    @property
    def age(self) -> float:
        """Seconds since it was read."""
        return time.monotonic() - self.monotonic


MOST_ASKED = 50
"""Breakers without a state that are watched because somebody asked for them."""


class Watcher:
    """`tell` is called with the breakers whose state has changed since it was told last."""

    def __init__(self, make: Callable[[str], AsyncCircuitBreaker], tell: Callable[[list[WatchedState]], None]) -> None:
        self._make = make
        self._tell = tell
        self._breakers: dict[str, AsyncCircuitBreaker] = {}
        self._readings: dict[str, WatchedState] = {}
        self._now = asyncio.Event()
        self._kept: set[str] = set()
        self.keep([GLOBAL])

    def keep(self, scopes: Iterable[str]) -> None:
        """Watch these for ever: they exist."""
        scopes = tuple(scopes)
        self._kept.update(scopes)
        self.watch(scopes)

    def watch(self, scopes: Iterable[str]) -> None:
        """Watch these too, as long as not too many others are asked for: anybody who may look can name any breaker."""
        for scope in scopes:
            # Whatever was asked for last comes last, and what nobody asks for any more is first to go.
            known = self._breakers.pop(scope) if scope in self._breakers else self._make(scope)
            self._breakers[scope] = known
        asked = [scope for scope in self._breakers if scope not in self._kept]
        for scope in asked[: max(0, len(asked) - MOST_ASKED)]:
            del self._breakers[scope]
            self._readings.pop(scope, None)

    @property
    def scopes(self) -> list[str]:
        return sorted(self._breakers, key=lambda scope: (scope != GLOBAL, scope))

    def reading(self, scope: str) -> WatchedState:
        """The last one; UNKNOWN if there is none yet."""
        return self._readings.get(scope) or WatchedState(
            scope, unknown_status("It has not been read yet; wait a second."), datetime.now(UTC), time.monotonic()
        )

    async def fresh(self, scope: str) -> WatchedState:
        """Read now; other pages are told by the next round."""
        self.watch([scope])
        return await self._read(scope, self._breakers[scope])

    def soon(self) -> None:
        """Don't wait for the next round."""
        self._now.set()

    async def run(self) -> None:
        while True:
            self._now.clear()
            found = await asyncio.gather(*(self._read(*item) for item in list(self._breakers.items())))
            changed = [reading for reading in found if self._is_news(reading)]
            self._readings.update((reading.scope, reading) for reading in found if reading.scope in self._breakers)
            if changed:
                self._tell(changed)
            try:
                async with asyncio.timeout(EVERY):
                    await self._now.wait()
            except TimeoutError:
                continue

    async def _read(self, scope: str, breaker: AsyncCircuitBreaker) -> WatchedState:
        return WatchedState(scope, await breaker.get_status(), datetime.now(UTC), time.monotonic())

    def _is_news(self, reading: WatchedState) -> bool:
        before = self._readings.get(reading.scope)
        return before is None or dict(before.status) != dict(reading.status)
