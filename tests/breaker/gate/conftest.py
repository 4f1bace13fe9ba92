"""Gates of every backend on a real server."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from breaker import CircuitBreaker
from breaker.gate import Gate
from tests.breaker.gate.harness import BACKENDS, UNHURRIED, Sidecar

MakeGate = Callable[..., Gate]


@pytest.fixture
def make_gate(tmp_path: Path) -> Iterator[MakeGate]:
    """Makes a gate of any backend at a URL, with a sidecar of its own where it needs one."""
    with contextlib.ExitStack() as stack:

        def make(url: str, backend: str = "thread", **settings: Any) -> Gate:
            if "max_staleness" not in settings:
                settings |= {"max_staleness": UNHURRIED} | ({} if backend == "shm" else {"heartbeat": 0.05})
            if backend == "shm":
                scopes, topology = settings.get("scopes", ()), settings.pop("topology", None)
                arguments = [word for scope in scopes for word in ("--scope", scope)]
                arguments += ["--max-staleness", str(settings["max_staleness"])]
                arguments += ["--replicas", str(topology.replicas)] if topology else []
                directory = settings.pop("pending_trips", None)
                arguments += ["--pending-trips", str(directory)] if directory else []
                shared_memory = tmp_path / "shared_memory"
                stack.callback(Sidecar(url, shared_memory, *arguments).stop)
                gate = Gate(backend="shm", shared_memory=shared_memory, **settings)
            else:
                gate = Gate(url, backend=backend, **settings)  # type: ignore[arg-type]
            stack.callback(gate.close)
            return gate

        yield make


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def cb(redis_client: redis.Redis) -> Iterator[CircuitBreaker]:
    """An open breaker without quiet period, whose resets are not limited."""
    breaker = CircuitBreaker(redis_client, quiet_period=0, reset_interval=0)
    breaker.initialize_state()
    yield breaker
    breaker.close()
