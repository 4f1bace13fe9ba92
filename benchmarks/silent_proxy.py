"""A TCP proxy of our own that can swallow bytes without a word, as a broken network does, or lead somewhere else."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from typing import Self

_CHUNK = 65_536


class SilentProxy:
    """Listens on 127.0.0.1 and forwards to `target` (a port there). A context manager."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._dropping = False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._open: list[socket.socket] = []
        self._closed = False
        threading.Thread(target=self._accept, name="silent-proxy", daemon=True).start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def drop_silently(self) -> None:
        """From now on swallow everything, both ways, and keep the connections open."""
        self._dropping = True

    def heal(self) -> None:
        """Forward again. What was swallowed stays lost, so connections from before are of no use."""
        self._dropping = False

    def cut(self) -> None:
        """Close all connections."""
        for connection in self._open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._open.clear()

    def lead_to(self, target: int) -> None:
        """Cut all connections, and forward the next ones to another port: an address that has failed over."""
        self._target = target
        self.cut()

    def close(self) -> None:
        self._closed = True
        self._listener.close()
        self.cut()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()

    def _accept(self) -> None:
        while not self._closed:
            try:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                continue
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._open += [client, server]
            threading.Thread(target=self._forward, args=(client, server), name="silent-proxy", daemon=True).start()

    def _forward(self, client: socket.socket, server: socket.socket) -> None:
        other = {client: server, server: client}
        with client, server, contextlib.suppress(OSError):
            while True:
                for end in select.select([client, server], [], [])[0]:
                    data = end.recv(_CHUNK)
                    if not data:
                        return
                    if not self._dropping:
                        other[end].sendall(data)
