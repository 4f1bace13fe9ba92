"""Keep asynchronous clients of Redis from losing a cancellation, and with it somebody's Ctrl-C.

With a limit for each answer, redis-py writes by `asyncio.wait_for`, which before Python 3.12 returns as if nothing had
been asked where the write has just ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from functools import cache
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import TimeoutError as RedisTimeoutError


def cancellable(client: Redis) -> Redis:
    """The same client, whose connections are from now on such as lose no cancellation."""
    pool: Any = client.connection_pool
    pool.connection_class = _cancellable(pool.connection_class)
    return client


@cache
def _cancellable(connection_class: type[Any]) -> type[Any]:
    class CancellableConnection(connection_class):  # type: ignore[misc]  # whichever class the address asks for
        socket_timeout: float | None

        async def send_packed_command(self, command: bytes | str | Iterable[bytes], check_health: bool = True) -> None:
            limit, self.socket_timeout = self.socket_timeout, None
            try:
                async with asyncio.timeout(limit):
                    await super().send_packed_command(command, check_health)
            except TimeoutError:
                await self.disconnect(nowait=True)
                raise RedisTimeoutError("Timeout writing to socket") from None
            finally:
                self.socket_timeout = limit

    return CancellableConnection
