"""Ask once more where an HTTP request goes onto its open connection, for clients that use requests.

Preparing a request takes a fraction of a millisecond; opening a connection may take minutes, and nobody who asked
before it began knows what has happened meanwhile.
"""

from __future__ import annotations

import functools
import threading
import weakref
from collections.abc import Callable
from typing import Any

from requests.adapters import BaseAdapter, HTTPAdapter

_POOL_OF = (
    "get_connection_with_tls_context" if hasattr(HTTPAdapter, "get_connection_with_tls_context") else "get_connection"
)
"""The method by which an adapter takes the pool of a request's host; requests before 2.32 has the second."""
_asking: weakref.WeakSet[BaseAdapter] = weakref.WeakSet()


class _ThisThread(threading.local):
    ask: Callable[[], None] | None = None


this_thread = _ThisThread()
"""`ask` is called before each request that this thread sends; what it raises keeps the request from being sent."""


def ask_at_socket(adapter: BaseAdapter) -> bool:
    """Let the adapter's connections call `this_thread.ask` once they are open, before the first byte is sent.

    False for one that has no such connections. Where a thread has set nothing, nothing is called.
    """
    if adapter in _asking:
        return True
    if not isinstance(adapter, HTTPAdapter):
        return False
    setattr(adapter, _POOL_OF, _with_asking_connections(getattr(adapter, _POOL_OF)))
    _asking.add(adapter)
    return True


def _with_asking_connections(pool_of: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(pool_of)
    def asking_pool_of(*args: Any, **kwargs: Any) -> Any:
        pool = pool_of(*args, **kwargs)
        pool.ConnectionCls = _asking_kind(pool.ConnectionCls)
        return pool

    return asking_pool_of


@functools.cache
def _asking_kind(kind: type[Any]) -> type[Any]:
    return kind if issubclass(kind, _AsksFirst) else type(kind.__name__, (_AsksFirst, kind), {})


class _AsksFirst:
    """Mixed into urllib3's connections."""

    sock: Any
    connect: Callable[[], None]

    def request(self, *args: Any, **kwargs: Any) -> None:
        ask = this_thread.ask
        if ask is not None:
            if self.sock is None:
                self.connect()
            ask()
        super().request(*args, **kwargs)  # type: ignore[misc]  # the connection's own
