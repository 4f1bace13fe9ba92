"""The picture of a recovery, written by its steps and by what keeps its artifacts up to date, at once."""

from __future__ import annotations

import asyncio
import json

import redis
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import ConstantBackoff

from proofs.proxy import Fault, FaultProxy
from sandbox.embedded_redis import EmbeddedRedis
from tasks.recovery.context import RecoveryContext
from tasks.recovery.state import RecoveryState, state_key


async def test_a_write_that_an_outage_held_up_does_not_land_on_a_newer_one(
    redis_server: EmbeddedRedis, redis_client: redis.Redis
) -> None:
    with FaultProxy(("127.0.0.1", redis_server.port)) as proxy:
        patient = Redis(port=proxy.port, retry=Retry(ConstantBackoff(0.3), 20))
        state = RecoveryState(incident_id="an incident", scope="global", flow_run_id="a run")
        context = RecoveryContext(None, patient, None, None, state)  # type: ignore[arg-type]
        proxy.inject(Fault.REFUSED)
        held_up = asyncio.create_task(context.update(phase="gathering evidence"))
        await asyncio.sleep(0.05)  # it was refused, and waits before it tries again
        proxy.heal()
        await asyncio.wait_for(context.update(phase="waiting for a person"), 10)
        await asyncio.wait_for(held_up, 10)
        await patient.aclose()
    kept = redis_client.get(state_key("global"))
    assert isinstance(kept, bytes)
    assert json.loads(kept)["phase"] == "waiting for a person"
