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
from tasks.running_services import KEY, another_runs


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
