"""Send each event, rendered once, to every page that listens: server-sent events with the newest of each topic.

A slow listener misses what was overtaken, never the last word. Used from the event loop only.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection


def encode(topic: str, data: str) -> bytes:
    """One server-sent event. Pure."""
    lines = "\n".join(f"data: {line}" for line in data.splitlines() or [""])
    return f"event: {topic}\n{lines}\n\n".encode()


class Broadcast:
    """`listeners` is how many pages listen at the moment."""

    def __init__(self) -> None:
        self.listeners = 0
        self._newest: dict[str, tuple[int, bytes]] = {}
        self._number = 0
        self._changed = asyncio.Event()
        self._closed = False

    def publish(self, topic: str, data: str) -> None:
        self._number += 1
        self._newest[topic] = (self._number, encode(topic, data))
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def close(self) -> None:
        """End every listener's stream."""
        self._closed = True
        self._changed.set()

    async def listen(self, topics: Collection[str]) -> AsyncIterator[bytes]:
        """What there is of `topics`, then what is published."""
        self.listeners += 1
        seen = 0
        try:
            while not self._closed:
                changed = self._changed
                known = [self._newest[topic] for topic in topics if topic in self._newest]
                new = sorted(entry for entry in known if entry[0] > seen)
                if new:
                    seen = new[-1][0]
                    yield b"".join(data for _, data in new)
                else:
                    await changed.wait()
        finally:
            self.listeners -= 1

    async def listen_while(
        self, topics: Collection[str], holds: Callable[[], Awaitable[bool]], every: float
    ) -> AsyncIterator[bytes]:
        """`listen`, until `holds`, which is asked again every `every` seconds, says that it must end."""
        ask_at = time.monotonic() + every
        async for data in self.listen(topics):
            yield data
            if time.monotonic() > ask_at:
                if not await holds():
                    return
                ask_at = time.monotonic() + every
