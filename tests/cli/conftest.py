"""The command line as a person uses it: a process of its own, a configuration file, a terminal or none."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from configuration.login import login_name
from proofs.fork_server import ForkServer
from sandbox.child_process import free_port
from sandbox.embedded_redis import EmbeddedRedis
from sandbox.exchange.scenario import parse
from sandbox.exchange.server import PaperExchangeThread
from tests.helpers import PATIENT_RECOVERY

ROOT = Path(__file__).parents[2]
Outcome = subprocess.CompletedProcess[str]
RunCli = Callable[..., Outcome]
WriteConfiguration = Callable[..., Path]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A home of its own and an orchestrator that refuses: what is tested here must work without one."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("BREAKER_", "PREFECT_"))}
    return {
        **kept,
        "HOME": str(tmp_path),
        "XDG_STATE_HOME": str(tmp_path / "state"),
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "PREFECT_API_URL": f"http://127.0.0.1:{free_port()}/api",
        "PYTHONPATH": str(ROOT),
        "COLUMNS": "160",
        **{f"BREAKER_RECOVERY__{name.upper()}": str(value) for name, value in PATIENT_RECOVERY.items()},
    }


@pytest.fixture
def write_configuration(tmp_path: Path, environment: dict[str, str]) -> WriteConfiguration:
    def write(text: str) -> Path:
        path = tmp_path / "breaker.toml"
        path.write_text(text, encoding="utf-8")
        environment["BREAKER_CONFIG"] = str(path)
        return path

    return write


MAY_RESET = f"""
[recovery]
two_person = false
watch = 0.3
watch_interval = 0.1
[recovery.people]
"{login_name()}" = ["RESET_CIRCUIT", "APPROVE_RECOVERY"]
"""
"""Whoever runs the tests may reset what they have tripped themselves."""


@pytest.fixture
def no_orchestrator(environment: dict[str, str]) -> None:
    """None is configured. One that refuses is red, and would have to be overridden at a reset."""
    del environment["PREFECT_API_URL"]


@pytest.fixture
def configured(
    redis_server: EmbeddedRedis, redis_client: redis.Redis, write_configuration: WriteConfiguration
) -> redis.Redis:
    """The session's Redis, emptied and configured; no broker."""
    write_configuration(f'redis_url = "{redis_server.url}"\n{MAY_RESET}')
    return redis_client


@pytest.fixture
def breaker_cli(environment: dict[str, str], tmp_path: Path, fork_server: ForkServer) -> RunCli:
    def run(*arguments: str) -> Outcome:
        return fork_server.run("cli", *arguments, env=environment, cwd=tmp_path, timeout=60)

    return run


@pytest.fixture
def exchange() -> Iterator[PaperExchangeThread]:
    with PaperExchangeThread(parse("[book]\norders = 40\npositions = 12\n")) as running:
        yield running
