"""From the configuration to a run: which accounts, and which incident."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import redis
from pydantic import SecretStr

from breaker import CircuitBreaker
from breaker.errors import InvalidInput
from brokers.sweep import SweepResult
from configuration.accounts import AccountSettings
from configuration.settings import Settings
from flows.kill_context import open_kill_run, record_sweep
from sandbox.embedded_redis import EmbeddedRedis
from tests.helpers import PATIENCE, eventually


@pytest.fixture
def settings(redis_server: EmbeddedRedis, redis_client: redis.Redis, tmp_path: Path) -> Settings:
    account = AccountSettings.model_validate({"base_url": "http://127.0.0.1:1", "key_id": "k", "secret_key": "s"})
    return Settings.model_validate(
        {"redis_url": redis_server.url, "state_dir": tmp_path, "accounts": {"ALPHA": account, "BETA": account}}
    )


async def test_a_new_run_joins_the_incident_of_a_tripped_breaker(settings: Settings, redis_client: redis.Redis) -> None:
    CircuitBreaker(redis_client).initialize_state()
    async with open_kill_run(reason="r", operator="o", settings=settings) as before:
        pass
    tripped = CircuitBreaker(redis_client).trip("MANUAL")
    async with open_kill_run(reason="r", operator="o", settings=settings) as first:
        pass
    async with open_kill_run(reason="r", operator="o", settings=settings) as second:
        pass
    assert before.incident_id != tripped.incident_id == first.incident_id == second.incident_id


async def test_without_redis_a_run_has_an_incident_of_its_own(settings: Settings) -> None:
    nowhere = settings.model_copy(update={"redis_url": SecretStr("redis://127.0.0.1:1/0"), "redis_timeout": 0.2})
    async with open_kill_run(reason="r", operator="o", settings=nowhere) as run:
        assert len(run.incident_id) == 36


async def test_only_the_accounts_asked_for(settings: Settings) -> None:
    async with open_kill_run(reason="r", operator="o", accounts=["BETA"], settings=settings) as run:
        assert list(run.brokers) == list(run.progress) == ["BETA"]
    with pytest.raises(InvalidInput, match=r"No account GAMMA is configured .*ALPHA, BETA.*nothing changed"):
        async with open_kill_run(reason="r", operator="o", accounts=["BETA", "GAMMA"], settings=settings):
            pytest.fail("it must not open")


async def test_orders_count_as_open_until_the_venue_lists_them_no_more(settings: Settings) -> None:
    async with open_kill_run(reason="r", operator="o", settings=settings) as run:
        record_sweep(run, [SweepResult("ALPHA", accepted=40, refused=2)], 0.1)
        assert (run.progress["ALPHA"].orders_open, run.progress["ALPHA"].orders_at_start) == (42, 42)
        assert run.progress["ALPHA"].done == 0


async def test_promise_10_no_account_waits_beyond_the_deadline_for_a_first_sweep_that_an_adapter_holds(
    settings: Settings,
) -> None:
    async with open_kill_run(reason="r", operator="o", settings=settings) as run:
        run.clock.deadline = 0.0
        run.sweeping["ALPHA"] = asyncio.create_task(asyncio.sleep(2 * PATIENCE))
        await asyncio.wait_for(run.swept("ALPHA"), PATIENCE)
        assert not run.sweeping["ALPHA"].done()
        run.sweeping["ALPHA"].cancel()


async def test_a_process_of_many_runs_keeps_no_connection_of_any(settings: Settings, redis_client: redis.Redis) -> None:
    """A console and a standby live for months."""

    before = max(int(client["id"]) for client in redis_client.client_list())

    def connected() -> int:
        """Of those that have come since."""
        return sum(int(client["id"]) > before for client in redis_client.client_list())

    for _ in range(3):
        async with open_kill_run(reason="r", operator="o", settings=settings) as run:
            await run.breaker.get_status()
            assert connected() > 0
    await asyncio.to_thread(eventually, lambda: connected() == 0)
