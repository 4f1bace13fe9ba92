"""Make every Redis client from the settings, in one place: what holds for one connection holds for all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from breaker.redis_clients import open_async_redis, open_redis

if TYPE_CHECKING:
    from redis import Redis
    from redis.asyncio import Redis as AsyncRedis

    from configuration.settings import Settings


def redis_client(settings: Settings, *, timeout: float | None = None, **options: Any) -> Redis:
    """A blocking client of the configured Redis; it connects when first used.

    `timeout`: seconds that connecting, and each answer, may take; redis-py's own limits unless given. `options` go to
    redis-py as they are. A breaker brings limits of its own, whatever its client has.
    """
    return open_redis(settings.redis_address.get_secret_value(), timeout=timeout, **options)


def async_redis_client(settings: Settings, *, timeout: float | None = None, **options: Any) -> AsyncRedis:
    """`redis_client` for coroutines."""
    return open_async_redis(settings.redis_address.get_secret_value(), timeout=timeout, **options)
