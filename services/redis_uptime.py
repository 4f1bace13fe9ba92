"""Ask Redis for how long it has run: what it has from before that may come from a copy of the past."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from redis.exceptions import ResponseError

if TYPE_CHECKING:
    from redis.asyncio import Redis


async def redis_uptime(redis: Redis) -> float:
    """Whole seconds; infinite where it doesn't say. Raises RedisError, OSError where it doesn't answer."""
    try:
        server: Any = await redis.info("server")
    except ResponseError:
        return float("inf")
    return float(server.get("uptime_in_seconds", "inf"))
