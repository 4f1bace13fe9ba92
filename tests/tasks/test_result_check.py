"""What `breaker doctor` says of where results are kept."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import redis

from configuration.settings import GivenSettings
from sandbox.embedded_redis import EmbeddedRedis
from tasks.checks.measurement import Colour
from tasks.doctor.orchestration import measure_results
from tasks.running_services import KEY, WATCHES, RunningService


def settings(redis_server: EmbeddedRedis, place: str) -> GivenSettings:
    return GivenSettings.model_validate({"redis_url": redis_server.url, "prefect": {"result_storage": place}})


async def test_a_place_that_can_be_written_is_green_and_one_that_cannot_is_red(
    redis_server: EmbeddedRedis, tmp_path: Path
) -> None:
    found = await measure_results(settings(redis_server, str(tmp_path / "results")))
    assert (found.colour, found.value) == (Colour.GREEN, str(tmp_path / "results"))
    (tmp_path / "file").touch()
    found = await measure_results(settings(redis_server, str(tmp_path / "file" / "results")))
    assert found.colour is Colour.RED and "does its steps again" in found.problem


@pytest.mark.parametrize(("hosts", "colour"), [(["a"], Colour.GREEN), (["a", "b"], Colour.YELLOW)])
async def test_each_hosts_own_is_yellow_once_there_are_several(
    redis_server: EmbeddedRedis, redis_client: redis.Redis, hosts: list[str], colour: Colour
) -> None:
    second, _ = redis_client.time()
    for host in hosts:
        said = RunningService(WATCHES, host, 1, "hash", changed=False, as_of=second)
        redis_client.hset(KEY, said.field, json.dumps(asdict(said)))
    found = await measure_results(settings(redis_server, ""))
    assert (found.colour, found.value) == (colour, "each host's own")
    assert ("prefect.result_storage" in found.problem) is (colour is Colour.YELLOW)
