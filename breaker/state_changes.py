"""Tell at once when a breaker's state has been written, by anybody: Redis pushes it, so that nobody has to poll for it.

One connection, on a thread of its own. `CLIENT TRACKING` in broadcasting mode names each key under the states' prefix
that is written, `redis-cli`'s writes included. A push may be lost with its connection, so whoever relies on this reads
everything again whenever it says that anything may have changed, and now and then besides.
"""

from __future__ import annotations

import select
import ssl
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from breaker.gate.connect import GateConnection, connector
from breaker.gate.resp3 import ErrorReply, Frame, Parser, ProtocolError, Push
from breaker.keys import GLOBAL, Keys, scope_of_state
from breaker.requests import encode_command

if TYPE_CHECKING:
    from redis import Redis

ALIVE_EVERY = 1.0
"""Seconds between two questions whether Redis is still there."""
SILENT = 3.0
"""Seconds without a byte after which the connection counts as dead."""
AGAIN_AFTER = 1.0
REFUSED_FOR = 30.0
"""Seconds after which a Redis is asked again that won't tell, as for want of a permission."""
_PREFIX = Keys.of(GLOBAL).state


class StateChanges(threading.Thread):
    """Runs until `stop`. Calls `changed`, on its own thread, with the breakers whose state was written; with None when
    any may have been: a connection was made or lost, or Redis was flushed.

    Args:
        redis: A plain `redis.Redis`, however it is set up.
        changed: Must not block and not raise.
        timeout: Seconds that each step of connecting may take.
    """

    def __init__(self, redis: Redis, changed: Callable[[frozenset[str] | None], None], *, timeout: float = 2.0) -> None:
        super().__init__(name="breaker state changes", daemon=True)
        self._connect = connector(redis, timeout, "breaker-state-changes")
        self._changed = changed
        self._stop_asked = threading.Event()
        self._listening = False

    @property
    def is_listening(self) -> bool:
        """Whether a change would be told now. False while there is no connection, or Redis refuses to tell."""
        return self._listening

    def stop(self) -> None:
        """Ask it to end, which takes a moment; nothing needs to wait for it."""
        self._stop_asked.set()

    def run(self) -> None:
        """Connect again and again, and listen."""
        from redis.exceptions import RedisError  # noqa: PLC0415  not needed before this runs

        while not self._stop_asked.is_set():
            try:
                connection = self._connect()
                try:
                    self._listen(connection)
                finally:
                    connection.close()
                pause = AGAIN_AFTER
            except (RedisError, OSError):  # whoever reads the states says so
                pause = AGAIN_AFTER
            except ProtocolError:
                pause = REFUSED_FOR
            if self._listening:
                self._listening = False
                self._changed(None)
            self._stop_asked.wait(pause)

    def _listen(self, connection: GateConnection) -> None:
        """Until the connection is lost, which raises OSError, or this is stopped."""
        parser, heard = Parser(), time.monotonic()
        connection.socket.sendall(encode_command("CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", _PREFIX))
        asked = time.monotonic()
        while not self._stop_asked.is_set():
            frames = [frame for data in _received(connection) for frame in parser.feed(data)]
            now = time.monotonic()
            if frames:
                heard = now
                self._take(frames)
            if now - heard > SILENT:
                raise TimeoutError
            if now - asked >= ALIVE_EVERY:
                asked = now
                connection.socket.sendall(encode_command("PING"))

    def _take(self, frames: list[Frame]) -> None:
        if any(isinstance(frame, ErrorReply) for frame in frames):
            raise ProtocolError("Redis refuses to tell of changes")
        if not self._listening:  # the first reply is the one to CLIENT TRACKING
            self._listening = True
            self._changed(None)
        written: set[str] = set()
        for frame in frames:
            if isinstance(frame, Push) and frame.kind == b"invalidate":
                keys = frame.content[0] if frame.content else None
                if not isinstance(keys, list):  # all of them: a flush
                    self._changed(None)
                    continue
                names = (key.decode("utf-8", "replace") for key in keys if isinstance(key, bytes))
                written.update(scope_of_state(name) for name in names if name == _PREFIX or name[len(_PREFIX)] == ":")
        if written:
            self._changed(frozenset(written))


def _received(connection: GateConnection) -> list[bytes]:
    """What has arrived, waiting for it for a moment. Raises OSError where the other end has closed."""
    encrypted = connection.socket if isinstance(connection.socket, ssl.SSLSocket) else None
    if encrypted is None or not encrypted.pending():
        poller = select.poll()
        poller.register(connection.socket, select.POLLIN)
        poller.poll(1000 * ALIVE_EVERY / 4)
    found: list[bytes] = []
    while True:
        try:
            data = connection.socket.recv(65_536)
        except (BlockingIOError, ssl.SSLWantReadError):
            return found
        if not data:
            raise ConnectionResetError("Redis closed the connection")
        found.append(data)
