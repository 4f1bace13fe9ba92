"""Which request each idempotency key was used for, so that using it for another one is noticed by every console."""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

KEPT = 3_600
"""Seconds; as long as Redis knows the events that the keys stand for."""
WITHIN = 0.25
"""Seconds that Redis may take, so that a trip is not held up: what it asks comes before it."""
_REQUEST = "circuit_breaker:api_request:"
_MOST = 10_000


class Requests:
    """In Redis, and in this process for as long as Redis is away."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._used: OrderedDict[str, str] = OrderedDict()

    async def is_the_same(self, event_id: str, request: str) -> bool:
        """Whether the key that stands for this event was used for this very request, or never before."""
        asked = hashlib.sha256(request.encode()).hexdigest()
        first = await self._first(event_id, asked) or self._used.get(event_id, asked)
        self._used[event_id] = first
        while len(self._used) > _MOST:
            self._used.popitem(last=False)
        return first == asked

    async def _first(self, event_id: str, asked: str) -> str | None:
        """What the key was used for first; None if Redis can't say."""
        key = f"{_REQUEST}{event_id}"
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.set(key, self._used.get(event_id, asked), nx=True, ex=KEPT)
        pipeline.get(key)
        try:
            async with asyncio.timeout(WITHIN):
                replies: list[Any] = await pipeline.execute()
        except (RedisError, OSError):
            return None
        return replies[1].decode() if isinstance(replies[1], bytes) else None
