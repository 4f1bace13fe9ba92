"""Look once more when a connection is there: it may take as long to be made as ccxt waits for an answer.

By what the HTTP clients beneath ccxt offer for it: aiohttp's tracing, and urllib3's classes of connections under
requests. Whatever is raised in there, the request that waited for the connection is not sent, and raises it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any


def watch_aiohttp(session: Any, at_wire: Callable[[], Awaitable[None]]) -> None:
    """Await `at_wire` whenever a request of this session has got a connection that it had to wait for.

    Args:
        session: An `aiohttp.ClientSession`.
        at_wire: May raise, and runs in the request's own context.
    """
    import aiohttp  # noqa: PLC0415 - ccxt brings it

    async def look(*_: object) -> None:
        await at_wire()

    trace = aiohttp.TraceConfig()
    trace.on_connection_create_end.append(look)
    trace.on_connection_queued_end.append(look)
    trace.freeze()
    session.trace_configs.append(trace)


def watch_requests(session: Any, at_wire: Callable[[], None]) -> None:
    """Call `at_wire` whenever a request of this session has got a connection that had to be made, proxied or not.

    Args:
        session: A `requests.Session`.
        at_wire: May raise, and runs in the request's own thread.
    """
    for adapter in getattr(session, "adapters", {}).values():  # somebody's own session may be of another kind
        manager = getattr(adapter, "poolmanager", None)
        if manager is not None:
            manager.pool_classes_by_scheme = _watched(manager.pool_classes_by_scheme, at_wire)
            manager.clear()
            adapter.proxy_manager_for = _watched_proxies(adapter, at_wire)


def _watched(pools: Mapping[str, Any], at_wire: Callable[[], None]) -> dict[str, Any]:
    return {scheme: _watched_pool(pool, at_wire) for scheme, pool in pools.items()}


def _watched_pool(pool: Any, at_wire: Callable[[], None]) -> Any:
    class Connection(pool.ConnectionCls):  # type: ignore[misc]
        def connect(self) -> None:
            super().connect()
            at_wire()

    class Pool(pool):  # type: ignore[misc]
        ConnectionCls = Connection

    return Pool


def _watched_proxies(adapter: Any, at_wire: Callable[[], None]) -> Callable[..., Any]:
    original = adapter.proxy_manager_for

    def proxy_manager_for(*args: Any, **kwargs: Any) -> Any:
        manager = original(*args, **kwargs)
        if not hasattr(manager, "breaker_watched"):
            manager.breaker_watched = True
            manager.pool_classes_by_scheme = _watched(manager.pool_classes_by_scheme, at_wire)
        return manager

    return proxy_manager_for
