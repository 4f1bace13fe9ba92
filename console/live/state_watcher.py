"""Watch every breaker, and publish what has changed, for all pages: read what Redis says was written, at once.

All of them are read now and then besides; ten times a second where Redis doesn't tell.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from redis import Redis

from breaker import State, Status
from breaker.keys import GLOBAL, check_scope
from breaker.state import unknown_status
from breaker.state_changes import StateChanges

EVERY = 0.1
"""Seconds between two readings where nobody tells of changes; a page learns of a trip in about half of it more than it
takes.
"""
PER_BREAKER = 0.0004
"""Seconds between two readings for each breaker, where that comes to more: from 250 on it takes a few percent of a
processor, however many there are."""
PUSHED_EVERY = 0.5
"""Seconds between two readings of the global breaker, and of any that time alone may change, where Redis tells of the
others.
"""
ALL_EVERY = 3.0
"""Seconds between two readings of all breakers there: a push may be lost."""
AT_LEAST = 0.01
"""Seconds between two readings, however much is pushed."""
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
        self._written: set[str] = set()
        self._all_read_at = float("-inf")
        self._changes: StateChanges | None = None
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

    def wake(self, scopes: Iterable[str] | None = None) -> None:
        """Read these now, or all of them; don't wait for the next round."""
        if scopes is None:
            self._all_read_at = float("-inf")
        else:
            self._written.update(scopes)
        self._woken.set()

    def listen(self, redis: Redis, timeout: float) -> StateChanges:
        """Have Redis tell of changes from now on, which the caller ends by `stop`."""
        loop = asyncio.get_running_loop()

        def changed(scopes: frozenset[str] | None) -> None:
            with suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(self.wake, scopes)

        self._changes = StateChanges(redis, changed, timeout=timeout)
        self._changes.start()
        return self._changes

    async def run(self) -> None:
        while True:
            self._woken.clear()
            found = await self._read(self._due())
            changed = [reading for reading in found if self._has_changed(reading)]
            self._readings.update((reading.scope, reading) for reading in found if reading.scope in self._scopes)
            self._round_read.set()
            if changed:
                self._publish(changed)
            await asyncio.sleep(AT_LEAST)
            every = PUSHED_EVERY if self._is_pushed else max(EVERY, PER_BREAKER * len(self._scopes))
            with suppress(TimeoutError):
                async with asyncio.timeout(every):
                    await self._woken.wait()

    @property
    def _is_pushed(self) -> bool:
        return self._changes is not None and self._changes.is_listening

    def _due(self) -> list[str]:
        """What the next round reads."""
        now, written = time.monotonic(), self._written
        self._written = set()
        if not self._is_pushed or now - self._all_read_at >= ALL_EVERY:
            self._all_read_at = now
            return list(self._scopes)
        return [scope for scope in self._scopes if scope == GLOBAL or scope in written or self._may_change(scope)]

    def _may_change(self, scope: str) -> bool:
        """Without being written: a quiet period ends by time, and what can't be told may be told again."""
        reading = self._readings.get(scope)
        return reading is None or reading.status.state not in (State.OPEN, State.TRIPPED)

    async def _read(self, scopes: list[str]) -> list[WatchedState]:
        statuses = await self._read_states(scopes)
        at, monotonic = datetime.now(UTC), time.monotonic()
        return [WatchedState(scope, statuses[scope], at, monotonic) for scope in scopes]

    def _has_changed(self, reading: WatchedState) -> bool:
        before = self._readings.get(reading.scope)
        return before is None or dict(before.status) != dict(reading.status)
