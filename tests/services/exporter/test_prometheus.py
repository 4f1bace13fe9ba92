"""Prometheus itself, scraping the exporter and firing what the runbook says. It waits for alerts as people would, which
takes two minutes, so it runs when BREAKER_PROMETHEUS=1 asks for it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import redis

from breaker import CircuitBreaker
from sandbox.child_process import free_port, spawn
from sandbox.embedded_redis import EmbeddedRedis
from tests.console.test_commands import start
from tests.helpers import eventually

CONFIGURATION = Path(__file__).parents[3] / "deployments" / "prometheus"

pytestmark = [
    pytest.mark.skipif(os.environ.get("BREAKER_PROMETHEUS") != "1", reason="BREAKER_PROMETHEUS=1 runs it"),
    pytest.mark.timeout(240),
]


def test_alerts_fire_within_their_time(own_server: EmbeddedRedis, tmp_path: Path) -> None:
    program = shutil.which("prometheus")
    assert program, "prometheus is missing: apt install prometheus"
    CircuitBreaker(redis.Redis.from_url(own_server.url)).initialize_state()
    metrics_port, port = free_port(), free_port()
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("BREAKER_", "PREFECT_"))},
        "PYTHONPATH": str(CONFIGURATION.parents[1]),
        "BREAKER_REDIS_URL": own_server.url,
        "BREAKER_STATE_DIR": str(tmp_path / "state"),
        "BREAKER_CONSOLE__METRICS_PORT": str(metrics_port),
    }
    shutil.copy(CONFIGURATION / "rules.yml", tmp_path)
    text = (CONFIGURATION / "prometheus.yml").read_text().replace("localhost:8503", f"localhost:{metrics_port}")
    (tmp_path / "prometheus.yml").write_text(text)
    exporter = start(environment, tmp_path, "services.exporter")
    prometheus = spawn(
        [
            program,
            f"--config.file={tmp_path / 'prometheus.yml'}",
            f"--storage.tsdb.path={tmp_path / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
        ]
    )
    try:
        eventually(lambda: query(port, "cb_staleness_seconds") == [0.0], within=60)
        assert firing(port) == set()
        killed_at = kill_an_engine(own_server.url)
        eventually(lambda: "CBGateLost" in firing(port), within=60)
        print(f"CBGateLost {time.monotonic() - killed_at:.0f} s after an engine was killed")
        redis.Redis.from_url(own_server.url).delete("circuit_breaker:gates")
        eventually(lambda: firing(port) == set(), within=30)
        stopped_at = time.monotonic()
        own_server.stop()
        eventually(lambda: "CBVerificationFailed" in firing(port), within=40)
        print(f"CBVerificationFailed {time.monotonic() - stopped_at:.0f} s after Redis stopped")
        own_server.start()
        eventually(lambda: firing(port) == set(), within=30)
        stopped_at = time.monotonic()
        exporter.send_signal(signal.SIGTERM)
        exporter.wait(15)
        eventually(lambda: "CBMetricMissing" in firing(port), within=70)
        print(f"CBMetricMissing {time.monotonic() - stopped_at:.0f} s after the exporter stopped")
        assert "CBVerificationFailed" not in firing(port)
    finally:
        for process in (exporter, prometheus):
            process.terminate()
            process.wait(15)


def kill_an_engine(url: str) -> float:
    """Start a process with a gate, kill it once it has reported, and say when."""
    engine = spawn(
        [sys.executable, "-c", f"from breaker.gate import Gate; gate = Gate({url!r}); import time; time.sleep(600)"]
    )
    client = redis.Redis.from_url(url)
    eventually(lambda: client.zcard("circuit_breaker:gates") == 1)
    engine.kill()
    engine.wait(15)
    return time.monotonic()


def firing(port: int) -> set[str]:
    return {alert["labels"]["alertname"] for alert in _get(port, "alerts")["alerts"] if alert["state"] == "firing"}


def query(port: int, expression: str) -> list[float]:
    return [float(found["value"][1]) for found in _get(port, f"query?query={expression}")["result"]]


def _get(port: int, path: str) -> Any:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/{path}", timeout=5) as answer:
            return json.load(answer)["data"]
    except OSError:
        return {"alerts": [], "result": []}
