"""Exchange requests and replies with Redis within one deadline, whatever the caller's client is set to.

redis-py's own pool waits 5 s a step and tries again ten times. Here a request has one deadline, and connections of its
own: each attempt gets half of what is left of it, so that one dead connection can't use it up, and a new attempt always
goes over a fresh one.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    ConnectionError,
    RedisError,
    ResponseError,
)
from redis.retry import Retry

from breaker.errors import InvalidInput
from breaker.redis_url import unreadable_file
from breaker.request_attempts import NotSent, RequestAttempts
from breaker.requests import Command, Request, encode_command

if TYPE_CHECKING:
    from redis import Redis
    from redis.asyncio import Redis as AsyncRedis

_MAX_IDLE = 8

# Settings of the caller's pool that belong to its pool and to how it tries again.
_NOT_COPIED = frozenset(
    {
        "retry",
        "retry_on_timeout",
        "retry_on_error",
        "parser_class",
        "himport_registry",
        "maint_notifications_config",
        "maint_notifications_pool_handler",
        "oss_cluster_maint_notifications_handler",
        "orig_host_address",
        "orig_socket_timeout",
        "orig_socket_connect_timeout",
    }
)
# Errors that Redis replied with; redis-py has some of them as ConnectionErrors.
_REPLY_ERRORS = (ResponseError, BusyLoadingError, AuthenticationError, AuthorizationError)

_LIMIT_ANEW = 0.005
"""Seconds after which the socket's limit is set to what is left: each reply of thousands has no need of its own."""


def address_of(client: Any) -> str:
    """Where `client` connects to, without credentials. Raises InvalidInput for what is no plain Redis client."""
    pool = getattr(client, "connection_pool", None)
    settings = getattr(pool, "connection_kwargs", None)
    if not isinstance(settings, dict):
        raise InvalidInput(
            f"{type(client).__name__} is no redis.Redis client, so no breaker can use it. "
            "For a cluster, connect to one plain Redis or a Sentinel master."
        )
    if "path" in settings:
        return str(settings["path"])
    if "host" not in settings:
        return f"Sentinel's {getattr(pool, 'service_name', 'master')}"
    return f"{settings['host']}:{settings.get('port', 6379)}"


def connection_settings(pool: Any, timeout: float, retry: Any) -> dict[str, Any]:
    """What a connection of our own is made with: the pool's address, credentials and TLS, our limits, and RESP2.

    Raises ConnectionError for a file that TLS needs and that is not there, which redis-py would not name.
    """
    if (problem := unreadable_file(pool.connection_kwargs)) is not None:
        raise ConnectionError(problem)
    copied = {name: value for name, value in pool.connection_kwargs.items() if name not in _NOT_COPIED}
    return copied | {
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        "retry": retry,
        "decode_responses": False,
        "encoding": "utf-8",
        "health_check_interval": 0,
        "protocol": 2,
    }


class DeadlineClient:
    """Executes requests on the server that `client` is for, blocking. Threads may share it; a fork starts afresh.

    `timeout`: seconds after which each request has ended. Raises InvalidInput if `client` is no plain Redis client.
    """

    def __init__(self, client: Redis, timeout: float, refusal_patience: float = float("inf")) -> None:
        self.address = address_of(client)
        self._timeout = timeout
        self._refusal_patience = refusal_patience
        self._pool = client.connection_pool
        self._idle: deque[Any] = deque()
        self._pid = os.getpid()

    def execute(self, request: Request, *, by: float | None = None) -> Sequence[Any]:
        """The replies to `request`. Raises BreakerUnavailable after `timeout` seconds, RedisRefused at once.

        `by`: the monotonic time to give up at instead, for a request that is part of a longer call.
        """
        deadline = time.monotonic() + self._timeout if by is None else by
        attempts = RequestAttempts(
            request, self.address, deadline, self._timeout, time.monotonic() + self._refusal_patience
        )
        while True:
            commands, until = attempts.next_attempt(time.monotonic())
            try:
                replies = self._round_trip(commands, until)
            except (NotSent, RedisError, OSError) as error:
                self.close()  # what else is open may lead to the same dead server
                time.sleep(attempts.delay_after_failure(error, time.monotonic()))
                continue
            delay = attempts.delay_after_replies(replies, time.monotonic())
            if delay is None:
                return replies
            if delay:
                self.close()  # They may lead to a demoted server; a new connection asks anew where to go.
            time.sleep(delay)

    def close(self) -> None:
        """Close the idle connections."""
        while self._idle:
            self._idle.pop().disconnect()

    def _round_trip(self, commands: Sequence[Command], until: float) -> list[Any]:
        connection = self._acquire(until)
        try:
            connection.update_current_socket_timeout(_seconds_left(until))
            connection.send_packed_command([_encoded(commands)], check_health=False)
            replies = _read_replies(connection, len(commands), until)
        except BaseException:
            connection.disconnect()
            raise
        if len(self._idle) < _MAX_IDLE and self._pid == os.getpid():
            self._idle.append(connection)
        else:
            connection.disconnect()
        return replies

    def _acquire(self, until: float) -> Any:
        if self._pid != os.getpid():
            self._idle, self._pid = deque(), os.getpid()
        with contextlib.suppress(IndexError):
            while True:
                connection = self._idle.pop()
                if _is_reusable(connection):
                    return connection
                connection.disconnect()
        return self._connect(until)

    def _connect(self, until: float) -> Any:
        """A new connection. In a thread, since looking up a name, Sentinel and TLS have waits that no option bounds."""
        opening = _ConnectInThread(self._pool, _seconds_left(until))
        thread = threading.Thread(target=opening.run, name="breaker-connect", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # No more threads, or the interpreter is on its way out: better unbounded than not at all.
            opening.run()
        return opening.result(until)


class _ConnectInThread:
    """A connection that another thread makes, and closes itself if nobody waits for it any longer."""

    def __init__(self, pool: Any, timeout: float) -> None:
        self._pool = pool
        self._timeout = timeout
        self._lock = threading.Lock()
        self._done = threading.Event()
        self._abandoned = False
        self._connection: Any = None
        self._error: Exception | None = None

    def run(self) -> None:
        connection = None
        try:
            retry = Retry(NoBackoff(), 0)
            connection = self._pool.connection_class(**connection_settings(self._pool, self._timeout, retry))
            connection.connect()
        except Exception as error:  # whatever it was, result reports it
            self._error = error
        with self._lock:
            if self._abandoned and connection is not None:
                connection.disconnect()
            self._connection = connection
            self._done.set()

    def result(self, until: float) -> Any:
        self._done.wait(_seconds_left(until))
        with self._lock:
            self._abandoned = not self._done.is_set()
        if self._abandoned:
            raise NotSent from TimeoutError("no connection in time")
        if self._error is not None:
            raise NotSent from self._error
        return self._connection


def _is_reusable(connection: Any) -> bool:
    """False if the server has closed the connection meanwhile, or sent what nobody asked for."""
    try:
        return not connection.can_read()
    except (RedisError, OSError):
        return False


def _encoded(commands: Sequence[Command]) -> bytes:
    """Without the client library's way of it, which costs more than all else where there are thousands."""
    return b"".join([encode_command(*command) for command in commands])


def _read_replies(connection: Any, count: int, until: float) -> list[Any]:
    replies: list[Any] = []
    limited = float("-inf")
    for _ in range(count):
        if (now := time.monotonic()) - limited >= _LIMIT_ANEW:
            connection.update_current_socket_timeout(_seconds_left(until))
            limited = now
        try:
            replies.append(connection.read_response(disconnect_on_error=False))
        except _REPLY_ERRORS as error:
            replies.append(error)
    return replies


def _seconds_left(until: float) -> float:
    """Seconds until then, never 0, which would mean "don't wait at all" to a socket."""
    return max(until - time.monotonic(), 0.001)


class AsyncDeadlineClient:
    """`DeadlineClient` for asyncio. Connections belong to the event loop that made them; another loop starts afresh."""

    def __init__(self, client: AsyncRedis, timeout: float, refusal_patience: float = float("inf")) -> None:
        self.address = address_of(client)
        self._timeout = timeout
        self._refusal_patience = refusal_patience
        self._pool = client.connection_pool
        self._idle: deque[Any] = deque()
        self._owner: tuple[int, object] | None = None

    async def execute(self, request: Request, *, by: float | None = None) -> Sequence[Any]:
        """The replies to `request`; see DeadlineClient."""
        deadline = time.monotonic() + self._timeout if by is None else by
        attempts = RequestAttempts(
            request, self.address, deadline, self._timeout, time.monotonic() + self._refusal_patience
        )
        while True:
            commands, until = attempts.next_attempt(time.monotonic())
            try:
                replies = await self._round_trip(commands, until)
            except (NotSent, RedisError, OSError) as error:
                await self.close()
                await asyncio.sleep(attempts.delay_after_failure(error, time.monotonic()))
                continue
            delay = attempts.delay_after_replies(replies, time.monotonic())
            if delay is None:
                return replies
            if delay:
                await self.close()
            await asyncio.sleep(delay)

    async def close(self) -> None:
        """Close the idle connections."""
        while self._idle:
            await self._idle.pop().disconnect(nowait=True)

    async def _round_trip(self, commands: Sequence[Command], until: float) -> list[Any]:
        connection = await self._acquire(until)
        try:
            async with asyncio.timeout(_seconds_left(until)):
                await connection.send_packed_command([_encoded(commands)], check_health=False)
                replies = [await _read_reply_async(connection) for _ in commands]
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        if len(self._idle) < _MAX_IDLE:
            self._idle.append(connection)
        else:
            await connection.disconnect(nowait=True)
        return replies

    async def _acquire(self, until: float) -> Any:
        owner = (os.getpid(), asyncio.get_running_loop())
        if self._owner != owner:
            self._idle, self._owner = deque(), owner
        while self._idle:
            connection = self._idle.pop()
            if await _is_reusable_async(connection):
                return connection
            await connection.disconnect(nowait=True)
        return await self._connect(until)

    async def _connect(self, until: float) -> Any:
        try:
            settings = connection_settings(self._pool, self._timeout, AsyncRetry(NoBackoff(), 0))
        except ConnectionError as error:
            raise NotSent from error
        # The limit is ours, around each round trip: with one of its own redis-py writes by `asyncio.wait_for`, which
        # before Python 3.12 may lose a cancellation, and so somebody's Ctrl-C.
        connection: Any = self._pool.connection_class(**settings | {"socket_timeout": None})
        try:
            async with asyncio.timeout(_seconds_left(until)):
                await connection.connect()
        except Exception as error:
            await connection.disconnect(nowait=True)
            raise NotSent from error
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        return connection


async def _is_reusable_async(connection: Any) -> bool:
    can_read = getattr(connection, "can_read", None) or connection.can_read_destructive  # its name in redis-py 7
    try:
        return not await can_read()
    except (RedisError, OSError):
        return False


async def _read_reply_async(connection: Any) -> Any:
    try:
        return await connection.read_response(disconnect_on_error=False)
    except _REPLY_ERRORS as error:
        return error
