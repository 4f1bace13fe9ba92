"""Both breakers behind one face, so that what holds for one is asked of the other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
import redis.asyncio

from breaker import AsyncCircuitBreaker, CircuitBreaker

MakeBreaker = Callable[..., Any]


class Blocking:
    """An AsyncCircuitBreaker whose methods are run to their end, on one event loop."""

    def __init__(self, runner: asyncio.Runner, url: str, **settings: Any) -> None:
        self._runner = runner
        self._client = redis.asyncio.Redis.from_url(url)
        self._breaker = AsyncCircuitBreaker(self._client, **settings)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._breaker, name)
        return lambda *args, **kwargs: self._runner.run(method(*args, **kwargs))

    def dispose(self) -> None:
        self._runner.run(self._breaker.close())
        self._runner.run(self._client.aclose())


@pytest.fixture(params=["blocking", "asyncio"])
def make_breaker(request: pytest.FixtureRequest) -> Iterator[MakeBreaker]:
    """Makes a breaker at a URL: the blocking one, and then the async one, for the same test."""
    made: list[Any] = []
    with asyncio.Runner() as runner:

        def make(url: str, **settings: Any) -> Any:
            if request.param == "asyncio":
                made.append(Blocking(runner, url, **settings))
                return made[-1]
            return CircuitBreaker(redis.Redis.from_url(url), **settings)

        yield make
        for breaker in made:
            breaker.dispose()


@pytest.fixture
def cb(make_breaker: MakeBreaker, redis_server: Any, redis_client: redis.Redis) -> Any:
    """A breaker on an empty server, not initialised, whose resets are not limited."""
    return make_breaker(redis_server.url, reset_interval=0)
