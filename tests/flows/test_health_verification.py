"""The scheduled verification, on a real Prefect server, Redis and ledger: what it finds, and whom it tells how often."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Completed, Running, Scheduled
from sqlalchemy import text

from breaker import AsyncCircuitBreaker, CircuitBreaker
from breaker.rules import Rules
from breaker.settings import load_settings
from breaker.uuid7 import uuid7
from deployments.child_process import free_port
from deployments.embedded_redis import EmbeddedRedis
from deployments.prefect_server import PrefectServer
from flows.health_verification import health_verification
from flows.kill_switch import kill_switch
from flows.recovery import recovery
from ledger.configured import open_ready_ledger
from tasks.health.last import KEY, Change, LastVerification, change
from tasks.health.steps import ARTIFACT
from tasks.recovery.conflicts import find_conflicts
from tasks.recovery.state import RecoveryState, key_of
from tests.tasks.web import Answer, Web

Configure = Callable[..., None]
OLD = datetime.now(UTC) - timedelta(hours=1)


@pytest.fixture
def web() -> Iterator[Web]:
    with Web(lambda _: Answer(202)) as server:
        yield server


@pytest.fixture
def configure(
    redis_server: EmbeddedRedis,
    redis_client: redis.Redis,
    web: Web,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Configure:
    """Writes the configuration: the session's Redis, emptied and initialised, and notifications to `web`."""
    for name in [name for name in os.environ if name.startswith("BREAKER_")]:
        monkeypatch.delenv(name)

    def write(more: str = "", redis_url: str = redis_server.url) -> None:
        path = tmp_path / "breaker.toml"
        path.write_text(
            f'redis_url = "{redis_url}"\nredis_timeout = 0.5\nstate_dir = "{tmp_path / "state"}"\n{more}\n'
            f'[notifications]\nslack = "{web.url}/hook"\ntimeout = 2\n'
        )
        monkeypatch.setenv("BREAKER_CONFIG", str(path))

    with CircuitBreaker(redis_client) if False else _closing(CircuitBreaker(redis_client)) as breaker:
        breaker.initialize_state(by="test")
    write()
    return write


async def verify(prefect: PrefectServer) -> State[Any]:
    with temporary_settings(updates={PREFECT_API_URL: prefect.api_url}):
        state: State[Any] = await health_verification(return_state=True)
    return state


def told(web: Web) -> list[str]:
    return [asked.json["text"] for asked in web.asked]
