"""What the watch's own gate says of a breaker, as engines' gates would."""

from __future__ import annotations

import time

import pytest
import redis

from breaker import CircuitBreaker
from configuration.settings import Settings
from sandbox.embedded_redis import EmbeddedRedis
from tasks.checks.measurement import Colour
from tasks.recovery.gate_probe import GateProbe


@pytest.fixture
def settings(redis_server: EmbeddedRedis, redis_client: redis.Redis) -> Settings:
    return Settings(redis_url=redis_server.url)


async def test_in_the_quiet_period_it_says_how_much_is_admitted(settings: Settings, redis_client: redis.Redis) -> None:
    breaker = CircuitBreaker(redis_client, quiet_period=60)
    breaker.trip("MANUAL")
    breaker.reset(reset_by="ada")
    with GateProbe(settings, "global") as gate:
        found = await gate.measure()
    assert found.colour is Colour.GREEN
    assert "of normal" in found.value


async def test_open_is_green_and_halted_is_red(settings: Settings, redis_client: redis.Redis) -> None:
    breaker = CircuitBreaker(redis_client)
    breaker.initialize_state(by="tests")
    with GateProbe(settings, "global") as gate:
        assert (await gate.measure()).colour is Colour.GREEN
        breaker.trip("MANUAL")
        deadline = time.monotonic() + 5  # a gate hears of it within its staleness, if it gets its turn
        while (found := await gate.measure()).colour is not Colour.RED:
            assert time.monotonic() < deadline
    assert found.colour is Colour.RED
    assert found.problem


async def test_a_gate_that_hears_nothing_is_red(settings: Settings, redis_client: redis.Redis) -> None:
    with GateProbe(
        settings.model_copy(update={"redis_url": type(settings.redis_url)("redis://127.0.0.1:1")}), "global"
    ) as gate:
        found = await gate.measure()
    assert found.colour is Colour.RED
