"""How the cost grows with accounts, orders and gates: processor time of the program at several sizes, and the exponent.

Of the program alone, without the venues and Redis, as a machine that is busy otherwise says nothing about this. What
grows with breakers is in `many_scopes`.
"""

from __future__ import annotations

import contextlib
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.rows import Row, growth
from benchmarks.servers import Bench, bench, kill_environment
from breaker.gate import Gate
from deployments.account_sections import alpaca_section
from sandbox.child_process import free_port
from sandbox.embedded_redis import EmbeddedRedis
from sandbox.exchange.scenario import parse
from sandbox.exchange.server import PaperExchangeThread

ACCOUNTS = (1, 10, 50, 100)
ORDERS = (50, 500, 2_000, 10_000)
GATES = (1, 10, 100, 500)
HEARTBEAT = 0.5
"""Seconds; ten times as long as by default, as the most of them would leave one processor no time otherwise."""
_WATCHED = 3.0
"""Seconds."""


def run() -> list[Row]:
    return [
        growth("kills of accounts of 50 orders, 20 positions", {size: _kill(size, 50) for size in ACCOUNTS}, "s"),
        growth("kills of one account, by orders", {size: _kill(1, size) for size in ORDERS}, "s"),
        growth("gates in one process, of a second", {size: _gates(size) for size in GATES}, "s"),
    ]


def _kill(accounts: int, orders: int) -> float:
    """Seconds of processor time of `breaker kill`, without an orchestrator."""
    book = parse(f"[book]\norders = {orders}\npositions = 20\n")
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        redis = stack.enter_context(EmbeddedRedis(directory / "redis"))
        venues = [stack.enter_context(PaperExchangeThread(book)) for _ in range(accounts)]
        nowhere = {"PREFECT_API_URL": f"http://127.0.0.1:{free_port()}/api", "PREFECT_HOME": str(directory / "prefect")}
        sections = [alpaca_section(f"A{number}", venue.url) for number, venue in enumerate(venues)]
        environment = kill_environment(directory, redis.url, sections, "", nowhere)
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        command = [sys.executable, "-m", "cli", "kill", "--yes", "--json", "--operator", "bench"]
        ended = subprocess.run(command, env=environment, capture_output=True, check=False, timeout=600)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        if not json.loads(ended.stdout)["flat"]:
            raise RuntimeError("the venue is not flat")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _gates(size: int) -> float:
    """Seconds of processor time that so many gates take in one, while nothing happens."""
    with bench() as here, _open_gates(here, size):
        time.sleep(1.0)  # connecting is over
        begun, used = time.monotonic(), time.process_time()
        time.sleep(_WATCHED)
        return (time.process_time() - used) / (time.monotonic() - begun)


@contextlib.contextmanager
def _open_gates(here: Bench, size: int) -> Iterator[None]:
    gates = [Gate(here.server.url, max_staleness=30.0, heartbeat=HEARTBEAT) for _ in range(size)]
    try:
        if not all(gate.wait_until_open(60) for gate in gates):
            raise RuntimeError("a gate did not open")
        yield
    finally:
        with ThreadPoolExecutor(50) as closing:  # each waits for its own next heartbeat
            list(closing.map(Gate.close, gates))
