"""`breaker services` beside a work pool's workers: it is at it while it runs, and leaves no trace of having been."""

from __future__ import annotations

import json

import pytest
import redis

from breaker import CircuitBreaker
from proofs.fork_server import ForkServer
from tasks.running_services import KEY
from tests.cli.conftest import RunCli
from tests.helpers import eventually


def test_it_watches_until_it_is_told_to_stop(
    configured: redis.Redis, breaker_cli: RunCli, environment: dict[str, str], fork_server: ForkServer
) -> None:
    def watches() -> str:
        checks = json.loads(breaker_cli("doctor", "--json").stdout)["checks"]
        return next(str(check["colour"]) for check in checks if check["name"] == "watches")

    breaker_cli("init")
    assert watches() == "red"
    running = fork_server.start("cli", "services", env=environment)
    try:
        eventually(lambda: any("services@" in str(field) for field in configured.hkeys(KEY)))
        assert watches() == "green"
        breaker = CircuitBreaker(configured)
        breaker.trip("MANUAL")
        announced = f"circuit_breaker:recovery_announced:{breaker.get_status().incident_id}"
        eventually(lambda: configured.exists(announced))
        running.terminate()
        assert running.wait(30) == 0
    finally:
        running.kill()
    assert configured.hlen(KEY) == 0


@pytest.mark.usefixtures("configured", "no_orchestrator")
def test_without_an_orchestrator_there_is_nobody_to_announce_to(breaker_cli: RunCli) -> None:
    said = breaker_cli("services")
    assert said.returncode == 2
    assert "PREFECT_API_URL is not set" in said.stderr and said.stderr.count("\n") == 1
