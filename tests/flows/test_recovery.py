"""What a recovery does that begins too late."""

from __future__ import annotations

from pathlib import Path

import pytest
import redis
from prefect.settings import PREFECT_API_URL, temporary_settings

from breaker import CircuitBreaker
from breaker.uuid7 import uuid7
from flows.recovery import recovery
from sandbox.embedded_redis import EmbeddedRedis
from sandbox.prefect_server import PrefectServer
from tasks.recovery.state import RecoveryState, state_key


async def test_a_recovery_that_a_later_incident_overtook_leaves_the_picture_to_that_ones(
    prefect: PrefectServer,
    redis_server: EmbeddedRedis,
    redis_client: redis.Redis,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("BREAKER_REDIS_URL", redis_server.url)
    monkeypatch.setenv("BREAKER_STATE_DIR", str(tmp_path / "state"))
    current = str(CircuitBreaker(redis_client).trip("MANUAL", tripped_by="ada").incident_id)
    shown = RecoveryState(incident_id=current, scope="global", flow_run_id=uuid7(), waiting_for="root-cause")
    redis_client.set(state_key("global"), shown.to_json())
    with temporary_settings(updates={PREFECT_API_URL: prefect.api_url}):
        state = await recovery(incident_id=uuid7(), return_state=True)
    assert state.is_completed() and current in str(state.message)
    assert redis_client.get(state_key("global")) == shown.to_json().encode()
