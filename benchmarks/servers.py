"""A server, an open breaker and, where needed, a sidecar for one measurement."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import redis

from breaker import CircuitBreaker
from breaker.gate import Gate
from deployments.embedded_redis import EmbeddedRedis

BACKENDS = ("thread", "drain", "shm")


@dataclass(frozen=True, slots=True)
class Bench:
    server: EmbeddedRedis
    client: redis.Redis
    breaker: CircuitBreaker
    folder: Path

    @property
    def board(self) -> Path:
        return self.folder / "board"


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
def sidecar(url: str, board: Path) -> Iterator[None]:
    command = [sys.executable, "-m", "breaker.gate_sidecar", "--redis", url, "--board", str(board)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait(5)


@contextlib.contextmanager
def open_gate(url: str, backend: str, board: Path) -> Iterator[Gate]:
    """A gate that has opened, with its sidecar where it needs one."""
    with contextlib.ExitStack() as stack:
        if backend == "shm":
            stack.enter_context(sidecar(url, board))
            gate = stack.enter_context(Gate(backend="shm", board=board))
        else:
            gate = stack.enter_context(Gate(url, backend=backend))  # type: ignore[arg-type]
        if not gate.wait_until_open(10):
            raise RuntimeError(f"the {backend} gate did not open: {gate.status().sentence}")
        yield gate
