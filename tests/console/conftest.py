"""Settings on real servers: the session's Redis, and an SQLite ledger in a state directory of the test's own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import redis
from pydantic import SecretStr

from breaker.settings import Settings
from deployments.embedded_redis import EmbeddedRedis

MakeSettings = Callable[..., Settings]


@pytest.fixture
def make_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeSettings:
    """Settings that nothing around the test has a say in."""
    monkeypatch.chdir(tmp_path)

    def make(redis_url: str, **changes: object) -> Settings:
        values = {"redis_url": SecretStr(redis_url), "state_dir": tmp_path / "state", "redis_timeout": 1.0, **changes}
        return Settings.model_validate(values)

    return make


@pytest.fixture
def settings(make_settings: MakeSettings, redis_server: EmbeddedRedis, redis_client: redis.Redis) -> Settings:
    """On the session's Redis, emptied."""
    return make_settings(redis_server.url)
