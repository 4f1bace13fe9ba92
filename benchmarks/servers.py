"""What one measurement needs running: a server and an open breaker, a sidecar, a standby and its configuration."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import redis

from breaker import CircuitBreaker
from breaker.gate import Gate
from sandbox.embedded_redis import EmbeddedRedis
from tests.helpers import eventually

BACKENDS = ("thread", "drain", "shm")
ROOT = Path(__file__).parents[1]


@dataclass(frozen=True, slots=True)
class Bench:
    server: EmbeddedRedis
    client: redis.Redis
    breaker: CircuitBreaker
    folder: Path

    @property
    def shared_memory(self) -> Path:
        return self.folder / "shared_memory"


@contextlib.contextmanager
def bench(durable: bool = False) -> Iterator[Bench]:
    """A server without disk writes unless `durable`, and an open breaker without quiet period."""
    config = {} if durable else {"appendonly": "no"}
    with tempfile.TemporaryDirectory() as name, EmbeddedRedis(Path(name) / "redis", config=config) as server:
        client = redis.Redis.from_url(server.url)
        breaker = CircuitBreaker(client, quiet_period=0, reset_interval=0)
        breaker.initialize_state()
        yield Bench(server, client, breaker, Path(name))


@contextlib.contextmanager
def sidecar(url: str, shared_memory: Path) -> Iterator[None]:
    command = [sys.executable, "-m", "breaker.gate.sidecar", "--redis", url, "--shared-memory", str(shared_memory)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait(5)


@contextlib.contextmanager
def open_gate(url: str, backend: str, shared_memory: Path, *, max_staleness: float = 0.2) -> Iterator[Gate]:
    """A gate that has opened, with its sidecar where it needs one; `max_staleness` is of one that needs none."""
    with contextlib.ExitStack() as stack:
        if backend == "shm":
            stack.enter_context(sidecar(url, shared_memory))
            gate = stack.enter_context(Gate(backend="shm", shared_memory=shared_memory))
        else:
            gate = stack.enter_context(
                Gate(url, backend=backend, max_staleness=max_staleness, heartbeat=0.05)  # type: ignore[arg-type]
            )
        if not gate.wait_until_open(10):
            raise RuntimeError(f"the {backend} gate did not open: {gate.status().sentence}")
        yield gate


def kill_environment(
    directory: Path, redis_url: str, accounts: Iterable[str], pace: str, prefect: dict[str, str]
) -> dict[str, str]:
    """For `breaker kill` on these accounts, which are their sections of the configuration; with this `[kill]` section
    and these variables for Prefect.
    """
    configuration = directory / "breaker.toml"
    configuration.write_text(
        f'redis_url = "{redis_url}"\nstate_dir = "{directory / "state"}"\n[kill]\n{pace}\n{"".join(accounts)}'
    )
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("BREAKER_", "PREFECT_"))}
    return {**kept, **prefect, "BREAKER_CONFIG": str(configuration), "PYTHONPATH": str(ROOT)}


@contextlib.contextmanager
def standby(directory: Path, environment: dict[str, str]) -> Iterator[None]:
    """A standby of the configuration in `directory`, ready."""
    command = [sys.executable, "-m", "cli", "standby"]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        socket = directory / "state" / "standby.sock"
        eventually(lambda: process.poll() is not None or socket.exists(), within=60, every=0.05)
        if process.poll() is not None:
            raise RuntimeError("the standby did not start")
        time.sleep(1.0)  # its connections are opened beside
        yield
    finally:
        process.terminate()
        process.wait(30)
