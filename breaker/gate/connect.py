"""Connect a gate to Redis: the same address and credentials as the engine's Redis client, limits of its own.

redis-py resolves (Sentinel too), connects, encrypts and authenticates; from then on the socket is the gate's, which
reads and writes it without ever blocking.
"""

from __future__ import annotations

import inspect
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import redis


@dataclass(frozen=True, slots=True)
class GateConnection:
    """An open connection that has said HELLO 3. Closing it more than once does no harm."""

    socket: socket.socket
    encrypted: bool
    _connection: Any
    """Kept alive: redis-py closes the socket when its connection object goes."""

    def close(self) -> None:
        self.socket.close()


def connector(source: redis.Redis | str, timeout: float, name: str) -> Callable[[], GateConnection]:
    """How to connect to where `source` (a client or a URL) points, each step within `timeout` seconds.

    The returned function raises `OSError` or `redis.RedisError`. `name` is shown by `CLIENT LIST`. Raises TypeError
    for a client of redis.asyncio, whose connections belong to an event loop.
    """
    if not isinstance(source, str) and inspect.iscoroutinefunction(source.connection_pool.connection_class.connect):
        raise TypeError(
            "A gate can't share an asyncio client's settings; give it the URL, it serves coroutines as well."
        )

    def connect() -> GateConnection:
        from redis.backoff import NoBackoff  # noqa: PLC0415 -- redis costs 100 ms to import; the engine may not need it
        from redis.connection import SSLConnection  # noqa: PLC0415
        from redis.maint_notifications import MaintNotificationsConfig  # noqa: PLC0415
        from redis.retry import Retry  # noqa: PLC0415

        from breaker.deadline_client import connection_settings  # noqa: PLC0415
        from breaker.redis_clients import open_redis  # noqa: PLC0415

        pool = (open_redis(source) if isinstance(source, str) else source).connection_pool
        settings = connection_settings(pool, timeout, Retry(NoBackoff(), 0)) | {
            "protocol": 3,
            "client_name": name,
            "maint_notifications_config": MaintNotificationsConfig(enabled=False),
        }
        connection = pool.connection_class(**settings)
        connection.connect()
        # redis-py has no public way to take the socket over.
        open_socket: socket.socket = connection._sock
        open_socket.setblocking(False)
        return GateConnection(open_socket, isinstance(connection, SSLConnection), connection)

    return connect
