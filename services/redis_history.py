"""Ask Redis for how long what it tells is its own: what it has from before may come from a copy of the past."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from redis.exceptions import ResponseError

if TYPE_CHECKING:
    from redis.asyncio import Redis

FAILED_OVER = 60.0
"""Seconds back to which a primary that was a replica is believed: a failover takes less, and nobody has reset a breaker
and traded on by then. One that lagged behind, or was cut off, tells of what is over long since."""


async def believed_for(redis: Redis) -> float:
    """Seconds back to which it tells what was so: whole ones since it began, and no more than `FAILED_OVER` where it
    was a replica once, or may not be asked. Raises RedisError, OSError where it doesn't answer.
    """
    try:
        server: Any = await redis.info("server")
        replication: Any = await redis.info("replication")
    except ResponseError:
        return FAILED_OVER
    uptime = float(server.get("uptime_in_seconds", FAILED_OVER))
    return min(uptime, FAILED_OVER) if replication.get("second_repl_offset", 0) != -1 else uptime
