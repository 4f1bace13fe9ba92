"""The console reads what Redis says was written, and not all breakers over and over."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping

import redis
from redis.asyncio import Redis

from breaker import CircuitBreaker, State, Status
from breaker.status_reader import AsyncStatusReader
from console.live.state_watcher import StateWatcher, WatchedState
from tests.helpers import eventually

SCOPES = [f"account:A{number}" for number in range(5)]


async def test_a_state_that_is_written_is_read_by_itself_and_published(redis_client: redis.Redis) -> None:
    for scope in ("global", *SCOPES):
        CircuitBreaker(redis_client, scope).initialize_state()
    asked: list[set[str]] = []
    published: list[WatchedState] = []
    kwargs = redis_client.connection_pool.connection_kwargs
    async with Redis(host=kwargs["host"], port=kwargs["port"]) as client:
        reader = AsyncStatusReader(client)

        async def read(scopes: Iterable[str]) -> Mapping[str, Status]:
            asked.append(set(scopes))
            return await reader.read(asked[-1])

        watcher = StateWatcher(read, published.extend)
        watcher.watch_always(SCOPES)
        changes = watcher.listen(redis_client, 2.0)
        running = asyncio.create_task(watcher.run())
        try:
            await asyncio.to_thread(eventually, lambda: {"global"} in asked, "it goes on reading all of them")
            CircuitBreaker(redis_client, "account:A3").trip("MANUAL")
            await asyncio.to_thread(eventually, lambda: any(each.status.state is State.TRIPPED for each in published))
            assert {"global", "account:A3"} in asked
            redis_client.delete("circuit_breaker:state:account:A1")
            await asyncio.to_thread(eventually, lambda: any(each.status.state is State.UNKNOWN for each in published))
            changes.stop()
            await asyncio.to_thread(changes.join)
            asked.clear()
            everything = {"global", *SCOPES}
            await asyncio.to_thread(eventually, lambda: asked.count(everything) >= 2, "nobody tells of changes now")
        finally:
            changes.stop()
            running.cancel()
            await reader.close()
