from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from prefect.settings import PREFECT_API_URL, temporary_settings

from configuration.settings import Settings
from sandbox.embedded_redis import EmbeddedRedis
from tasks.recovery import steps
from tasks.recovery.context import current_recovery
from tests.helpers import PATIENT_RECOVERY
from tests.tasks.web import Web

Configure = Callable[..., Settings]


@pytest.fixture
def configure(redis_server: EmbeddedRedis, redis_client: redis.Redis, tmp_path: Path) -> Configure:
    """Settings on the session's Redis, emptied, and a state directory of the test's own."""

    def make(**changes: Any) -> Settings:
        recovery = {**PATIENT_RECOVERY, **changes.pop("recovery", {})}
        values = {"redis_url": redis_server.url, "state_dir": tmp_path / "state", "recovery": recovery, **changes}
        return Settings(**values)

    return make


async def approve(answer: dict[str, Any]) -> dict[str, Any]:
    """Answer the approval that the recovery of this context asks for."""
    asked = await current_recovery.get().question("approval", 1)
    done: dict[str, Any] = await steps.reset.fn(1, asked.attempt, asked.name, answer)
    return done


@pytest.fixture
def web() -> Iterator[Web]:
    with Web() as server:
        yield server


@pytest.fixture(autouse=True)
def no_orchestrator_is_configured() -> Iterator[None]:
    """Where there is none, none is asked; elsewhere in the tests one is configured that refuses."""
    with temporary_settings(restore_defaults={PREFECT_API_URL}):
        yield
