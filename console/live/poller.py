"""Poll an expensive reading only while a page is watching it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Generic, TypeVar

T = TypeVar("T")

WATCHED_FOR = 15.0
"""Seconds for which one page that asks keeps the polling going."""


@dataclass(frozen=True, slots=True)
class Sample(Generic[T]):
    """A reading and when it was finished."""

    value: T
    at: datetime = field(default_factory=lambda: datetime.now(UTC))
    monotonic: float = field(default_factory=time.monotonic)

    @property
    def age(self) -> float:
        """Seconds since."""
        return time.monotonic() - self.monotonic


class Poller(Generic[T]):
    """Reads by `read`, which doesn't raise and ends in time, every `every` seconds; `publish` gets each sample."""

    def __init__(
        self, read: Callable[[], Awaitable[T]], every: float, publish: Callable[[Sample[T]], None] = lambda _: None
    ) -> None:
        self._read = read
        self._every = every
        self._publish = publish
        self._watched_until = 0.0
        self._watched = asyncio.Event()
        self._reading = asyncio.Lock()
        self._latest: Sample[T] | None = None

    def watch(self) -> Sample[T] | None:
        """The latest sample; polling goes on for a while."""
        self._watched_until = time.monotonic() + WATCHED_FOR
        self._watched.set()
        return self._latest

    async def sample(self) -> Sample[T]:
        """A new one, whose reading began after this call."""
        async with self._reading:
            self._latest = latest = Sample(await self._read())
        self._publish(latest)
        return latest

    async def run(self) -> None:
        while True:
            if time.monotonic() >= self._watched_until:
                self._watched.clear()
                await self._watched.wait()
            await self.sample()
            await asyncio.sleep(self._every)
