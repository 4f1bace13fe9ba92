"""Offer pytest the fixtures of `breaker.testing`. Imports nothing that takes time before a test asks for it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from breaker.testing.embedded import EmbeddedBreaker, EmbeddedServer
    from breaker.testing.fake_gate import FakeGate


@pytest.fixture
def breaker_gate() -> Iterator[FakeGate]:
    """A gate without Redis, open until the test trips it."""
    from breaker.testing.fake_gate import FakeGate  # noqa: PLC0415

    with FakeGate() as gate:
        yield gate


@pytest.fixture
def tripped(breaker_gate: FakeGate) -> FakeGate:
    """The same gate as `breaker_gate`, tripped."""
    breaker_gate.trip()
    return breaker_gate


@pytest.fixture(scope="session")
def _breaker_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    from breaker.testing.embedded import EmbeddedServer, ServerMissing  # noqa: PLC0415

    try:
        server = EmbeddedServer(tmp_path_factory.mktemp("breaker"))
    except ServerMissing as problem:
        pytest.skip(str(problem))
    with server:
        yield server


@pytest.fixture
def embedded_breaker(_breaker_server: EmbeddedServer) -> Iterator[EmbeddedBreaker]:
    """A real breaker, open, on a real server that holds nothing else. Skips where there is no server to start."""
    import redis  # noqa: PLC0415

    from breaker.circuit import CircuitBreaker  # noqa: PLC0415
    from breaker.testing.embedded import EmbeddedBreaker  # noqa: PLC0415

    with redis.Redis.from_url(_breaker_server.url) as client:
        client.flushall()
        breaker = CircuitBreaker(client, quiet_period=0, reset_interval=0)
        breaker.initialize_state(by="test")
        yield EmbeddedBreaker(_breaker_server.url, client, breaker)
        breaker.close()
