"""Turn idempotency keys into event ids, and notice on every console when one is used for another request.

Redis itself refuses to do an event twice.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid5

from redis.asyncio import Redis
from redis.exceptions import RedisError

from breaker.uuid7 import uuid7
from console.actions.authorization import Caller

KEPT = 3_600
"""Seconds; as long as Redis knows the events that the keys stand for."""
WITHIN = 0.25
"""Seconds that Redis may take, so that a trip is not held up: what it asks comes before it."""
_REQUEST = "circuit_breaker:api_request:"
_MOST = 10_000


def event_id_of(caller: Caller, key: str) -> str:
    """The event id that a caller's idempotency key stands for."""
    return str(uuid5(NAMESPACE_URL, f"breaker:{caller.source}:{caller.user}:{key}"))


def usable_event_id(text: str) -> str:
    """The id that a form came with, or a new one if it isn't one."""
    try:
        return str(UUID(text))
    except ValueError:
        return uuid7()


class IdempotencyKeys:
    """In Redis, and in this process for as long as Redis is away."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._used: OrderedDict[str, str] = OrderedDict()

    async def used_for_same(self, event_id: str, request: str) -> bool:
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
