"""Something that costs requests to find out, found out again and again while somebody looks, and not otherwise."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Generic, TypeVar

T = TypeVar("T")

INTEREST = 15.0
"""Seconds for which one look keeps the readings going."""


@dataclass(frozen=True, slots=True)
class Seen(Generic[T]):
    """A reading and when it was finished."""

    value: T
    at: datetime = field(default_factory=lambda: datetime.now(UTC))
    monotonic: float = field(default_factory=time.monotonic)

    @property
    def age(self) -> float:
        """Seconds since."""
        return time.monotonic() - self.monotonic


class Poller(Generic[T]):
    """Reads by `read`, which doesn't raise and ends in time, every `every` seconds, and tells `tell`."""

    def __init__(
        self, read: Callable[[], Awaitable[T]], every: float, tell: Callable[[Seen[T]], None] = lambda _: None
    ) -> None:
        self._read = read
        self._every = every
        self._tell = tell
        self._wanted_until = 0.0
        self._wanted = asyncio.Event()
        self._one = asyncio.Lock()
        self.latest: Seen[T] | None = None

    def look(self) -> Seen[T] | None:
        """What was seen last; readings go on for a while."""
        self._wanted_until = time.monotonic() + INTEREST
        self._wanted.set()
        return self.latest

    async def fresh(self) -> Seen[T]:
        """A reading that began after this call."""
        async with self._one:
            self.latest = Seen(await self._read())
        self._tell(self.latest)
        return self.latest

    async def run(self) -> None:
        while True:
            if time.monotonic() >= self._wanted_until:
                self._wanted.clear()
                await self._wanted.wait()
            await self.fresh()
            await asyncio.sleep(self._every)
