"""Ask Sentinels where the primary is, all at once and anew for each connection; the first that knows is believed.

redis-py's own `Sentinel` asks one after the other, so that one on a host that is gone uses up the time of whoever asks,
and keeps its connections, which belong to one event loop. Of redis-py it needs nothing but connections.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from redis.asyncio.connection import Connection as AsyncConnection
from redis.asyncio.connection import SSLConnection as AsyncSSLConnection
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.connection import Connection, SSLConnection
from redis.exceptions import AuthenticationError, AuthorizationError, NoPermissionError, RedisError
from redis.retry import Retry
from redis.sentinel import MasterNotFoundError

from breaker.errors import one_line

Address: TypeAlias = tuple[str, int]
Answer: TypeAlias = "Address | Exception | None"
"""Where the primary is, why this one could not be asked, or None: it watches none of that name."""

_DENIED = (AuthenticationError, AuthorizationError, NoPermissionError)


class SentinelQuery:
    """What redis-py's `SentinelConnectionPool` asks where to connect to.

    `options` are what a connection to a Sentinel is made with, beside its address and limits; `encrypted` if by TLS.
    Each question has ended after `timeout` seconds.
    """

    def __init__(
        self, sentinels: Sequence[Address], options: Mapping[str, Any], timeout: float, *, encrypted: bool
    ) -> None:
        self.sentinels = tuple(sentinels)
        self._connection_class = SSLConnection if encrypted else Connection
        self._options = _settings(options, timeout, Retry(NoBackoff(), 0))
        self._timeout = timeout

    def discover_master(self, service_name: str) -> Address:
        """Raises ConnectionError, in one line that says which Sentinel answered what."""
        until = time.monotonic() + self._timeout
        answers: queue.SimpleQueue[tuple[Address, Answer]] = queue.SimpleQueue()
        for sentinel in self.sentinels:
            asking = threading.Thread(
                target=self._ask, args=(sentinel, service_name, answers), name="breaker-sentinel", daemon=True
            )
            try:
                asking.start()
            except RuntimeError:  # no more threads, or the interpreter is on its way out: better late than not at all
                asking.run()
        found: dict[Address, Answer] = {}
        with contextlib.suppress(queue.Empty):
            while len(found) < len(self.sentinels):
                sentinel, answer = answers.get(timeout=max(until - time.monotonic(), 0.001))
                if isinstance(answer, tuple):
                    return answer
                found[sentinel] = answer
        raise _not_found(service_name, self.sentinels, found)

    def _ask(self, sentinel: Address, name: str, answers: queue.SimpleQueue[tuple[Address, Answer]]) -> None:
        host, port = sentinel
        connection: Any = self._connection_class(host=host, port=port, **self._options)
        answer: Answer
        try:
            connection.connect()
            connection.send_command(*_question(name))
            answer = _read(connection.read_response())
        except (RedisError, OSError, ValueError, TypeError) as error:
            answer = error
        finally:
            connection.disconnect()
        answers.put((sentinel, answer))


class AsyncSentinelQuery:
    """`SentinelQuery` for asyncio."""

    def __init__(
        self, sentinels: Sequence[Address], options: Mapping[str, Any], timeout: float, *, encrypted: bool
    ) -> None:
        self.sentinels = tuple(sentinels)
        self._connection_class = AsyncSSLConnection if encrypted else AsyncConnection
        # No limit on each answer: all of them have one together, and redis-py's own way may lose a cancellation.
        self._options = _settings(options, timeout, AsyncRetry(NoBackoff(), 0)) | {"socket_timeout": None}
        self._timeout = timeout

    async def discover_master(self, service_name: str) -> Address:
        """As `SentinelQuery.discover_master`."""
        asked = [asyncio.create_task(self._ask(sentinel, service_name)) for sentinel in self.sentinels]
        found: dict[Address, Answer] = {}
        try:
            with contextlib.suppress(TimeoutError):
                for next_answer in asyncio.as_completed(asked, timeout=self._timeout):
                    sentinel, answer = await next_answer
                    if isinstance(answer, tuple):
                        return answer
                    found[sentinel] = answer
        finally:
            for each in asked:
                each.cancel()
            await asyncio.gather(*asked, return_exceptions=True)
        raise _not_found(service_name, self.sentinels, found)

    async def answers(self, service_name: str) -> dict[Address, Answer]:
        """What each has to say of it, of those that answer in time: for who wants to know whether they agree."""
        asked = [asyncio.create_task(self._ask(sentinel, service_name)) for sentinel in self.sentinels]
        done, late = await asyncio.wait(asked, timeout=self._timeout)
        for each in late:
            each.cancel()
        await asyncio.gather(*late, return_exceptions=True)
        return dict(each.result() for each in done)

    async def _ask(self, sentinel: Address, name: str) -> tuple[Address, Answer]:
        host, port = sentinel
        connection: Any = self._connection_class(host=host, port=port, **self._options)
        try:
            await connection.connect()
            await connection.send_command(*_question(name))
            return sentinel, _read(await connection.read_response())
        except (RedisError, OSError, ValueError, TypeError) as error:
            return sentinel, error
        finally:
            await connection.disconnect(nowait=True)


def _settings(options: Mapping[str, Any], timeout: float, retry: Any) -> dict[str, Any]:
    return {
        **options,
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        "retry": retry,
        "decode_responses": True,
        "protocol": 2,
    }


def _question(name: str) -> tuple[str, ...]:
    return ("SENTINEL", "get-master-addr-by-name", name)


def _read(reply: Any) -> Address | None:
    """Raises ValueError or TypeError for what no Sentinel answers."""
    if reply is None:
        return None
    host, port = reply
    return str(host), int(port)


def _not_found(name: str, sentinels: Sequence[Address], found: Mapping[Address, Answer]) -> Exception:
    """What to raise when nobody has named the primary; those that are not in `found` were silent."""
    asked = ", ".join(address_text(sentinel) for sentinel in sentinels)
    if None in found.values():
        return MasterNotFoundError(f"no Sentinel of {asked} watches a master named {name!r:.60}")
    for sentinel, answer in found.items():
        if isinstance(answer, _DENIED):
            return type(answer)(f"the Sentinel {address_text(sentinel)} does not let us ask: {one_line(answer)}")
    said = "; ".join(
        f"{address_text(sentinel)}: {_text(found.get(sentinel, TimeoutError()))}" for sentinel in sentinels
    )
    return MasterNotFoundError(f"no Sentinel answered ({said})")


def address_text(sentinel: Address) -> str:
    host, port = sentinel
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _text(answer: Answer) -> str:
    return "no answer in time" if isinstance(answer, TimeoutError) else one_line(Exception(answer))
