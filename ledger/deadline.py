"""Limit each exchange with a database server from the client's side.

A server's own limits (`statement_timeout`, `lock_timeout`) need a server that runs. One that is frozen, or whose host
has vanished without a word, would hold its client for ever, as libpq waits without limit for an answer. Here one thread
per process shuts the socket of an exchange that takes too long, upon which the driver reports a lost connection.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import threading
import time
from collections.abc import Iterator


class SocketDeadlines:
    """Shuts the sockets whose exchange has not ended in time."""

    def __init__(self) -> None:
        self._numbers = itertools.count()
        self._forget()
        # A fork takes the object along, perhaps locked, but not its thread.
        os.register_at_fork(after_in_child=self._forget)

    def _forget(self) -> None:
        self._lock = threading.Condition()
        self._running: dict[int, tuple[float, socket.socket]] = {}
        self._wakes_at = float("inf")
        self._thread: threading.Thread | None = None

    @contextlib.contextmanager
    def within(self, seconds: float, connection: socket.socket) -> Iterator[None]:
        """Shut `connection` unless the block ends within `seconds`."""
        end = time.monotonic() + seconds
        with self._lock:
            self._ensure_thread()
            number = next(self._numbers)
            self._running[number] = (end, connection)
            if end < self._wakes_at:
                self._lock.notify()
        try:
            yield
        finally:
            with self._lock:
                self._running.pop(number, None)

    def _ensure_thread(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._watch, name="ledger-deadlines", daemon=True)
            self._thread.start()

    def _watch(self) -> None:
        with self._lock:
            while True:
                now = time.monotonic()
                for number, (end, connection) in list(self._running.items()):
                    if end <= now:
                        del self._running[number]
                        with contextlib.suppress(OSError):  # already closed, which is what is wanted
                            connection.shutdown(socket.SHUT_RDWR)
                self._wakes_at = min((end for end, _ in self._running.values()), default=float("inf"))
                idle = self._wakes_at == float("inf")
                self._lock.wait(None if idle else max(0.0, self._wakes_at - now))


deadlines = SocketDeadlines()
