"""Kill switches in processes of their own that use the session's Prefect server or must do without."""

from __future__ import annotations

import json
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import pytest

from proofs.fork_server import Forked, ForkServer
from sandbox.embedded_redis import EmbeddedRedis
from sandbox.exchange.scenario import parse
from sandbox.exchange.server import PaperExchange

CONFIGURATION = """\
redis_url = "{redis}"
redis_timeout = 0.5
state_dir = "{state}"
[kill]
poll_interval = 0.05
settle = 0.2
guard = 0.4
stuck_after = {stuck_after}
escalate_after = 6.0
retry_backoff = 0.2
retry_backoff_max = 1.0
orchestrator_wait = {wait}
record_wait = {record_wait}
[accounts.PAPER]
base_url = "{exchange}"
key_id = "key"
secret_key = "secret"
request_timeout = 2.0
"""
# As the command line sets them for itself, but for the time that an answer of Prefect's may take.
IMPATIENT = {
    "PREFECT_CLIENT_MAX_RETRIES": "0",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "60",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
}


@pytest.fixture(scope="session")
def paper() -> Iterator[PaperExchange]:
    with PaperExchange() as server:
        yield server


@dataclass
class KillProcess:
    """A kill switch that runs, and the lines that it says."""

    process: Forked
    output: IO[str]
    lines: queue.Queue[str] = field(default_factory=queue.Queue)

    def __post_init__(self) -> None:
        threading.Thread(target=self._read, daemon=True).start()

    def said(self, word: str, within: float = 60) -> dict[str, Any]:
        deadline = time.monotonic() + within
        while True:
            line = self.lines.get(timeout=max(0.01, deadline - time.monotonic()))
            if line.startswith("{"):
                said: dict[str, Any] = json.loads(line)
                if said["said"] == word:
                    return said

    def _read(self) -> None:
        with self.output:
            for line in self.output:
                self.lines.put(line)


Start = Callable[..., KillProcess]


@pytest.fixture
def start_kill(
    tmp_path: Path, paper: PaperExchange, redis_server: EmbeddedRedis, fork_server: ForkServer
) -> Iterator[Start]:
    """Start a kill switch on a book; `api` is Prefect's address, None configures none.

    `answers_within`: seconds that Prefect may take to answer; a hung one is given up after them, a busy one is not.
    """
    running: list[KillProcess] = []

    def start(
        incident: str,
        *,
        book: str | None = None,
        api: str | None,
        home: Path | None = None,
        redis_url: str | None = None,
        wait: float = 2.0,
        record_wait: float = 20.0,
        stuck_after: float = 8.0,
        answers_within: float = 30.0,
    ) -> KillProcess:
        if book is not None:
            paper.restart(parse(book))
        configuration = tmp_path / "breaker.toml"
        configuration.write_text(
            CONFIGURATION.format(
                redis=redis_url or redis_server.url,
                state=tmp_path / "state",
                exchange=paper.url,
                wait=wait,
                record_wait=record_wait,
                stuck_after=stuck_after,
            )
        )
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "BREAKER_"))
        }
        environment |= IMPATIENT | {"PREFECT_API_REQUEST_TIMEOUT": f"{answers_within:g}"}
        environment["BREAKER_CONFIG"] = str(configuration)
        environment["PREFECT_HOME"] = str(home or tmp_path / "home")
        if api is not None:
            environment["PREFECT_API_URL"] = api
        reading, writing = os.pipe()
        process = fork_server.start(
            "tests.flows.kill_process",
            incident,
            cwd=Path(__file__).parents[2],
            env=environment,
            stdout=writing,
            stderr=writing,
        )
        os.close(writing)
        running.append(KillProcess(process, os.fdopen(reading)))
        return running[-1]

    yield start
    for each in running:
        each.process.kill()
        each.process.wait()
