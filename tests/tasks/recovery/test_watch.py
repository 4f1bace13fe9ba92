"""The watch after a reset, on a real breaker and a real ledger."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import redis
from redis.asyncio import Redis

from breaker import CircuitBreaker
from breaker.settings import Settings
from deployments.child_process import free_port
from flows.kill_context import async_breaker
from ledger.configured import open_ready_ledger, open_spool
from ledger.recorder import Recorder
from tasks.recovery import steps
from tasks.recovery.desk import RecoveryDesk, current_desk
from tasks.recovery.state import RecoveryState
from tests.tasks.recovery.conftest import Configure

RUN = "6b7a6a4e-0000-4000-8000-000000000001"


@pytest.fixture
async def desk(configure: Configure, redis_client: redis.Redis) -> AsyncIterator[RecoveryDesk]:
    """Of an incident that was tripped and reset a moment ago, without a quiet period; one service is down."""
    settings: Settings = configure(
        quiet_period=0,
        recovery={"watch": 5, "services": {"gateway": {"url": f"http://127.0.0.1:{free_port()}/"}}},
    )
    breaker = CircuitBreaker(redis_client, quiet_period=0)
    incident = breaker.trip("MANUAL", tripped_by="ada").incident_id
    breaker.reset(reset_by="cyd", reason="the cause was found and put right")
    client = Redis.from_url(settings.redis_url.get_secret_value())
    ledger = open_ready_ledger(settings)
    asynchronous = async_breaker(settings)
    state = RecoveryState(incident_id=str(incident), scope="global", flow_run_id=RUN)
    opened = RecoveryDesk(settings, client, asynchronous, Recorder(ledger, open_spool(settings)), state, "ada")
    token = current_desk.set(opened)
    yield opened
    current_desk.reset(token)
    await asynchronous.close()
    await client.aclose()
    ledger.close()


async def test_a_watch_longer_than_the_quiet_period_trips_the_same_incident_again(
    desk: RecoveryDesk, redis_client: redis.Redis
) -> None:
    before = CircuitBreaker(redis_client).get_status()
    assert before.state.value == "OPEN" and before.epoch is not None
    why = await steps.watch.fn(1, 1.0, before.epoch)
    assert why is not None and "gateway" in why
    after = CircuitBreaker(redis_client).get_status()
    assert (after.state.value, after.trip_reason) == ("TRIPPED", "WATCH_FAILED")
    assert after.incident_id == desk.state.incident_id
