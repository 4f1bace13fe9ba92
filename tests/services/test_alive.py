"""A probe learns whether a resident process of its own host gives signs of life, and why it is not sure."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path

import pytest
import redis

from sandbox.child_process import free_port
from sandbox.embedded_redis import EmbeddedRedis
from services import alive
from tasks.running_services import KEY


@pytest.mark.parametrize(
    ("service", "host", "ago", "status"),
    [
        ("standby", socket.gethostname(), 0.0, 0),
        ("standby", socket.gethostname(), 59.0, 1),
        ("standby", "elsewhere", 0.0, 1),
        ("services", socket.gethostname(), 0.0, 1),
    ],
    ids=["it is", "it was", "another host's", "another kind"],
)
def test_it_is_alive_while_it_says_so(
    redis_server: EmbeddedRedis,
    redis_client: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    service: str,
    host: str,
    ago: float,
    status: int,
) -> None:
    monkeypatch.setenv("BREAKER_REDIS_URL", redis_server.url)
    monkeypatch.setenv("BREAKER_STATE_DIR", str(tmp_path))
    said = {"service": service, "host": host, "pid": 1, "configuration": "x", "changed": False}
    redis_client.hset(KEY, f"{service}@{host}:1", json.dumps({**said, "as_of": time.time() - ago}))
    assert alive.main(["standby"]) == status
    assert capsys.readouterr().err.count("\n") == status


@pytest.mark.parametrize("url", [f"redis://:s3cret@127.0.0.1:{free_port()}/0", "s3cret"], ids=["away", "no address"])
def test_it_is_not_taken_for_alive_without_redis_and_says_why_in_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], url: str
) -> None:
    monkeypatch.setenv("BREAKER_REDIS_URL", url)
    monkeypatch.setenv("BREAKER_REDIS_TIMEOUT", "0.3")
    monkeypatch.setenv("BREAKER_STATE_DIR", str(tmp_path))
    assert alive.main(["standby"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("alive: ") and said.count("\n") == 1
    assert "s3cret" not in said
