"""Open every Redis client from an address, in one place: what an address can say holds for whoever uses it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from breaker.redis_url import read_sentinel_url

if TYPE_CHECKING:
    from redis import Redis
    from redis.asyncio import Redis as AsyncRedis

_LONGEST_SEARCH = 1.0
"""Seconds that Sentinels get to name the primary; less where connecting has less."""
_NOT_OF_SERVERS = frozenset({"host", "port", "connection_class", "sentinel_username", "sentinel_password"})


def open_redis(url: str, *, timeout: float | None = None, **options: Any) -> Redis:
    """A blocking client of the Redis at `url`; it connects when first used.

    Args:
        url: `redis://`, `rediss://` (TLS) or `unix://`, with user, password and database if need be, and with options
            of redis-py behind a `?`, such as `ssl_ca_certs`. Or `redis+sentinel://USER:PASSWORD@HOST:PORT,HOST:PORT/
            MASTER/DATABASE` (`rediss+sentinel://` with TLS): the primary is asked of the Sentinels anew for each
            connection. User and password are the servers'; the Sentinels' own are `sentinel_username` and
            `sentinel_password`, behind the `?`.
        timeout: Seconds that connecting, and each answer, may take; redis-py's own limits unless given. Breakers,
            rules and gates bring limits of their own, whatever their client has.
        options: For redis-py, as they are.

    Returns:
        A plain `redis.Redis`.

    Raises:
        InvalidInput: `url` is no such address.

    Example:
        >>> from breaker import CircuitBreaker, open_redis
        >>> CircuitBreaker(open_redis(url)).get_state()
        <State.OPEN: 'OPEN'>
    """
    from redis import Redis  # noqa: PLC0415  whoever only imports `breaker` doesn't pay for it

    watched, options = read_sentinel_url(url), {**options, **_limits(timeout)}
    if watched is None:
        return Redis.from_url(url, **options)
    from redis.connection import parse_url  # noqa: PLC0415
    from redis.sentinel import SentinelConnectionPool  # noqa: PLC0415

    from breaker.sentinels import SentinelQuery  # noqa: PLC0415

    said: Any = parse_url(watched.servers)  # type: ignore[no-untyped-call]
    query = SentinelQuery(watched.sentinels, _of_sentinels(said), _search_limit(timeout), encrypted=watched.encrypted)
    settings = {**options, **_of_servers(said), "ssl": watched.encrypted}
    return Redis.from_pool(SentinelConnectionPool(watched.master, query, **settings))  # type: ignore[no-untyped-call]


def open_async_redis(url: str, *, timeout: float | None = None, **options: Any) -> AsyncRedis:
    """The same for asyncio: a client that belongs to the event loop in which it is first used.

    Args:
        url: As for `open_redis`.
        timeout: As for `open_redis`.
        options: For redis-py, as they are.

    Returns:
        A plain `redis.asyncio.Redis`.

    Raises:
        InvalidInput: `url` is no such address.

    Example:
        >>> from breaker import open_async_redis
        >>> async def ping() -> bool:
        ...     async with open_async_redis(url) as client:
        ...         return bool(await client.ping())
        >>> asyncio.run(ping())
        True
    """
    from redis.asyncio import Redis  # noqa: PLC0415  the blocking paths don't pay for it

    from breaker.cancellable_connection import cancellable  # noqa: PLC0415

    watched, options = read_sentinel_url(url), {**options, **_limits(timeout)}
    if watched is None:
        return cancellable(Redis.from_url(url, **options))
    from redis.asyncio.connection import parse_url  # noqa: PLC0415
    from redis.asyncio.sentinel import SentinelConnectionPool  # noqa: PLC0415

    from breaker.sentinels import AsyncSentinelQuery  # noqa: PLC0415

    said: Any = parse_url(watched.servers)
    query = AsyncSentinelQuery(
        watched.sentinels, _of_sentinels(said), _search_limit(timeout), encrypted=watched.encrypted
    )
    settings = {**options, **_of_servers(said), "ssl": watched.encrypted}
    pool: Any = SentinelConnectionPool(watched.master, query, **settings)  # type: ignore[no-untyped-call]
    return cancellable(Redis.from_pool(pool))


def _limits(timeout: float | None) -> dict[str, Any]:
    return {} if timeout is None else {"socket_timeout": timeout, "socket_connect_timeout": timeout}


def _search_limit(timeout: float | None) -> float:
    return _LONGEST_SEARCH if timeout is None else min(timeout / 2, _LONGEST_SEARCH)


def _of_servers(said: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in said.items() if name not in _NOT_OF_SERVERS}


def _of_sentinels(said: Mapping[str, Any]) -> dict[str, Any]:
    """They have users of their own; who vouches for them is the same."""
    own = {name: said.get(f"sentinel_{name}") for name in ("username", "password")}
    return own | {name: value for name, value in said.items() if name.startswith("ssl_")}
