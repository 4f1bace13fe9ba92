"""Settings on real servers: the session's Redis, and an SQLite ledger in a state directory of the test's own."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from argon2 import PasswordHasher
from prefect.context import refresh_global_settings_context
from pydantic import SecretStr

from configuration.settings import Settings
from console.auth import passwords
from console.serve import prepare
from sandbox.embedded_redis import EmbeddedRedis
from tasks.recovery import watch_here
from tests.console.harness import Console
from tests.helpers import PATIENT_RECOVERY


@pytest.fixture(scope="session", autouse=True)
def quick_passwords() -> Iterator[None]:
    """Hashing them as in production would take most of these tests' time; what production does has its own test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(passwords, "_hasher", PasswordHasher(time_cost=1, memory_cost=8, parallelism=1))
        yield


@pytest.fixture(scope="module", autouse=True)
def resets_are_left_to_services() -> Iterator[None]:
    """A console that watches a reset may trip again; where that is tried it is patched anew."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(watch_here, "WATCHED_WITHIN", 3_600.0)
        yield


@pytest.fixture
def no_orchestrator() -> Iterator[None]:
    """None is configured, rather than one that refuses and makes every reset's measurements red."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PREFECT_API_URL", raising=False)
        refresh_global_settings_context()
        yield
    refresh_global_settings_context()


MakeSettings = Callable[..., Settings]


@pytest.fixture
def make_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeSettings:
    """Settings that nothing around the test has a say in."""
    monkeypatch.chdir(tmp_path)

    def make(redis_url: str, **changes: object) -> Settings:
        values = {
            "redis_url": SecretStr(redis_url),
            "state_dir": tmp_path / "state",
            "redis_timeout": 1.0,
            "recovery": PATIENT_RECOVERY,
            **changes,
        }
        return Settings.model_validate(values)

    return make


@pytest.fixture
def settings(make_settings: MakeSettings, redis_server: EmbeddedRedis, redis_client: redis.Redis) -> Settings:
    """On the session's Redis, emptied."""
    return make_settings(redis_server.url)


@pytest.fixture(scope="session")
def prepared_database(tmp_path_factory: pytest.TempPathFactory, quick_passwords: None) -> Path:
    """What a first start makes, made once: migrating takes longer than most of these tests."""
    directory = tmp_path_factory.mktemp("prepared")
    prepare(Settings(state_dir=directory))
    return directory / "audit.db"


@pytest.fixture
def console(settings: Settings, prepared_database: Path) -> Iterator[Console]:
    """A console on the session's Redis, emptied, without accounts at a venue."""
    settings.state_dir.mkdir(parents=True)
    shutil.copy(prepared_database, settings.state_dir)
    with Console(settings) as running:
        yield running
