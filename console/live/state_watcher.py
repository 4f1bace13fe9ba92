"""Watch every breaker: read all of them at once, ten times a second, and publish what has changed, for all pages."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from breaker import Status
from breaker.keys import GLOBAL, check_scope
from breaker.state import unknown_status

EVERY = 0.1
"""Seconds between two readings; a page learns of a trip from elsewhere in about half of it more than it takes."""
PER_BREAKER = 0.0004
"""Seconds between two readings for each breaker, where that comes to more: from 250 on it takes a few percent of a
processor, however many there are."""
TIMEOUT = 1.0
"""Seconds after which a state that can't be read is shown as UNKNOWN."""
MOST_ASKED = 50
"""Breakers without a state that are watched because somebody asked for them."""


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


class StateWatcher:
    """`publish` is called with the breakers whose state is not what it was at the last reading."""

    def __init__(
        self,
        read: Callable[[Iterable[str]], Awaitable[Mapping[str, Status]]],
        publish: Callable[[list[WatchedState]], None],
    ) -> None:
        self._read_states = read
        self._publish = publish
        self._scopes: dict[str, None] = {}
        """In the order in which they were last asked for."""
        self._readings: dict[str, WatchedState] = {}
        self._woken = asyncio.Event()
        self._round_read = asyncio.Event()
        self._always: set[str] = set()
        self.watch_always([GLOBAL])

    def watch_always(self, scopes: Iterable[str]) -> None:
        """These exist, and are watched for ever."""
        scopes = tuple(scopes)
        self._always.update(scopes)
        self.watch(scopes)

    def watch(self, scopes: Iterable[str]) -> None:
        """Watch these too, as long as not too many others are asked for: anybody who may look can name any breaker."""
        for scope in scopes:
            # Whatever was asked for last comes last, and what nobody asks for any more is first to go.
            check_scope(scope)
            self._scopes.pop(scope, None)
            self._scopes[scope] = None
        asked = [scope for scope in self._scopes if scope not in self._always]
        for scope in asked[: max(0, len(asked) - MOST_ASKED)]:
            del self._scopes[scope]
            self._readings.pop(scope, None)

    @property
    def scopes(self) -> list[str]:
        return sorted(self._scopes, key=lambda scope: (scope != GLOBAL, scope))

    def latest(self, scope: str) -> WatchedState:
        """The last reading; UNKNOWN if there is none yet."""
        return self._readings.get(scope) or WatchedState(
            scope, unknown_status("It has not been read yet; wait a second."), datetime.now(UTC), time.monotonic()
        )

    def all(self) -> list[WatchedState]:
        """The last reading of each."""
        return [self.latest(scope) for scope in self.scopes]

    def existing(self) -> list[WatchedState]:
        """The last reading of each breaker that exists.

        What somebody only asked for is not among them, nor one found so lately that it has not been read.
        """
        return [self.latest(scope) for scope in self.scopes if scope in self._always and scope in self._readings]

    async def first_round(self) -> None:
        """Wait until each breaker known at the start was read, or couldn't be: pages before that know nothing."""
        with suppress(TimeoutError):
            async with asyncio.timeout(2 * TIMEOUT):
                await self._round_read.wait()

    async def read(self, scope: str) -> WatchedState:
        """Read now; other pages learn of it by the next round."""
        self.watch([scope])
        (found,) = await self._read([scope])
        return found

    def wake(self) -> None:
        """Don't wait for the next round."""
        self._woken.set()

    async def run(self) -> None:
        while True:
            self._woken.clear()
            found = await self._read(list(self._scopes))
            changed = [reading for reading in found if self._has_changed(reading)]
            self._readings.update((reading.scope, reading) for reading in found if reading.scope in self._scopes)
            self._round_read.set()
            if changed:
                self._publish(changed)
            try:
                async with asyncio.timeout(max(EVERY, PER_BREAKER * len(self._scopes))):
                    await self._woken.wait()
            except TimeoutError:
                continue

    async def _read(self, scopes: list[str]) -> list[WatchedState]:
        statuses = await self._read_states(scopes)
        at, monotonic = datetime.now(UTC), time.monotonic()
        return [WatchedState(scope, statuses[scope], at, monotonic) for scope in scopes]

    def _has_changed(self, reading: WatchedState) -> bool:
        before = self._readings.get(reading.scope)
        return before is None or dict(before.status) != dict(reading.status)
