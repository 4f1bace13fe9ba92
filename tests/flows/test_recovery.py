"""What a recovery does that begins too late, and what it asks whoever approves."""

from __future__ import annotations

from pathlib import Path

import pytest
import redis
from prefect.settings import PREFECT_API_URL, temporary_settings
from pydantic import SecretStr

from breaker import CircuitBreaker
from breaker.rules import Rules, Verdict
from breaker.uuid7 import uuid7
from configuration.settings import RecoverySettings, Settings
from flows.drivers import run_directly
from flows.recovery import FormT, _approved_reset, open_recovery, recovery
from sandbox.embedded_redis import EmbeddedRedis
from sandbox.prefect_server import PrefectServer
from tasks.recovery.context import RecoveryContext, current_recovery
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


async def test_whoever_approves_is_told_in_the_form_that_a_drawdown_trips_again(
    redis_server: EmbeddedRedis, redis_client: redis.Redis, tmp_path: Path
) -> None:
    settings = Settings(
        redis_url=SecretStr(redis_server.url),
        state_dir=tmp_path / "state",
        recovery=RecoverySettings(people={"cyd": ["RESET_CIRCUIT", "APPROVE_RECOVERY"]}),
    )
    CircuitBreaker(redis_client).initialize_state()
    rules = Rules(redis_client)
    rules.record_equity("100000")
    rules.record_equity("94000")
    incident = str(CircuitBreaker(redis_client).get_status().incident_id)
    asked: list[str] = []

    async def ask(
        context: RecoveryContext, form: type[FormT], waiting_for: str, question: str, description: str
    ) -> FormT:
        asked.append(description)
        why = "the loss is taken, the desk goes on from here"
        said = {"reason": why, "acknowledge": True, "override_reason": why, "rebase_equity": True}
        return form.model_validate({"approver": "cyd", **said})

    async with open_recovery(settings, incident, "global", flow_run_id=uuid7()) as context:
        token = current_recovery.set(context)
        try:
            with temporary_settings(updates={PREFECT_API_URL: None}):
                await _approved_reset(context, 1, run_directly, ask)
        finally:
            current_recovery.reset(token)
    assert "**Re-base? Equity 94000 is 6.00% below the high-water mark 100000 (limit 5.0%)" in asked[0]
    assert rules.record_equity("94000").verdict is Verdict.WITHIN, "what was answered was done"
