"""A real Redis-protocol server for every test that needs one, and no orchestrator for any that doesn't start it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from sandbox.embedded_redis import EmbeddedRedis

# Nobody listens on port 1. Without an address Prefect would start a server of its own in this process, for ten seconds.
# Here and not in a fixture, as Prefect reads its settings when it is imported.
os.environ["PREFECT_API_URL"] = "http://127.0.0.1:1/api"


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedRedis]:
    """One server for the session. Tests that stop, stall or misconfigure a server start one of their own."""
    with EmbeddedRedis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def redis_client(redis_server: EmbeddedRedis) -> Iterator[redis.Redis]:
    """A client on an empty database 0."""
    client = redis.Redis.from_url(redis_server.url)
    client.flushall()
    yield client
    client.close()


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[EmbeddedRedis]:
    """A server that the test may break."""
    with EmbeddedRedis(tmp_path / "redis") as server:
        yield server
