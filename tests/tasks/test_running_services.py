"""Resident processes know of each other by what each says of itself."""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path

import pytest
import redis

from configuration.settings import Settings
from sandbox.child_process import free_port
from sandbox.embedded_redis import EmbeddedRedis
from tasks.checks.measurement import Colour
from tasks.running_services import KEY, another_runs, measure_watches


def says(client: redis.Redis, service: str, host: str, pid: int, ago: float = 0.0) -> None:
    said = {"service": service, "host": host, "pid": pid, "configuration": "x", "changed": False}
    client.hset(KEY, f"{service}@{host}:{pid}", json.dumps({**said, "as_of": time.time() - ago}))


@pytest.mark.parametrize(
    ("service", "host", "pid", "ago", "relied_on"),
    [
        ("serve", "elsewhere", 1, 0.0, True),
        ("serve", socket.gethostname(), 1, 0.0, True),
        ("serve", socket.gethostname(), os.getpid(), 0.0, False),
        ("standby", "elsewhere", 1, 0.0, False),
        ("serve", "elsewhere", 1, 59.0, False),
    ],
    ids=["on another host", "beside this one", "this one itself", "another kind", "silent for a minute"],
)
def test_another_one_is_relied_on_while_it_gives_signs_of_life(
    redis_server: EmbeddedRedis,
    redis_client: redis.Redis,
    tmp_path: Path,
    service: str,
    host: str,
    pid: int,
    ago: float,
    relied_on: bool,
) -> None:
    says(redis_client, service, host, pid, ago)
    redis_client.hset(KEY, "odd", "not JSON")
    assert another_runs(Settings(redis_url=redis_server.url, state_dir=tmp_path), "serve") is relied_on


def test_without_redis_each_goes_by_itself(tmp_path: Path) -> None:
    away = Settings(redis_url=f"redis://127.0.0.1:{free_port()}/0", redis_timeout=0.3, state_dir=tmp_path)
    assert not another_runs(away, "serve")


@pytest.mark.parametrize(
    ("service", "ago", "colour"),
    [
        ("serve", 0.0, Colour.GREEN),
        ("services", 0.0, Colour.GREEN),
        ("services", 59.0, Colour.RED),
        ("standby", 0.0, Colour.RED),
    ],
)
async def test_somebody_has_to_announce_trips_and_to_watch_resets(
    redis_server: EmbeddedRedis, redis_client: redis.Redis, tmp_path: Path, service: str, ago: float, colour: Colour
) -> None:
    says(redis_client, service, "elsewhere", 1, ago)
    found = await measure_watches(Settings(redis_url=redis_server.url, state_dir=tmp_path))
    assert found.colour is colour
    assert ("run `breaker services`" in found.problem) is (colour is Colour.RED)


async def test_without_redis_nobody_can_tell_who_does(tmp_path: Path) -> None:
    away = Settings(redis_url=f"redis://127.0.0.1:{free_port()}/0", redis_timeout=0.3, state_dir=tmp_path)
    found = await measure_watches(away)
    assert (found.colour, found.value) == (Colour.RED, "not measured")
