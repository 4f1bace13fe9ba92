"""Make every Redis client from the settings, in one place: what holds for one connection holds for all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from redis import Redis
    from redis.asyncio import Redis as AsyncRedis

    from configuration.settings import Settings


def redis_client(settings: Settings, *, timeout: float | None = None, **options: Any) -> Redis:
    """A blocking client of the configured Redis; it connects when first used.

    `timeout`: seconds that connecting, and each answer, may take; redis-py's own limits unless given. `options` go to
    redis-py as they are. A breaker brings limits of its own, whatever its client has.
    """
    from redis import Redis  # noqa: PLC0415  `--help` and usage errors don't pay for it

    return Redis.from_url(settings.redis_url.get_secret_value(), **_limits(timeout), **options)


def async_redis_client(settings: Settings, *, timeout: float | None = None, **options: Any) -> AsyncRedis:
    """`redis_client` for coroutines."""
    from redis.asyncio import Redis  # noqa: PLC0415  the blocking paths don't pay for it

    return Redis.from_url(settings.redis_url.get_secret_value(), **_limits(timeout), **options)


def _limits(timeout: float | None) -> dict[str, Any]:
    return {} if timeout is None else {"socket_timeout": timeout, "socket_connect_timeout": timeout}
