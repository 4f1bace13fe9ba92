"""What each adapter costs a kill: its library's import, and from the shell to the first cancel at its venue."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

import redis

from benchmarks.rows import Row
from benchmarks.servers import kill_environment, standby
from breaker import CircuitBreaker
from deployments.account_sections import alpaca_section, ib_section, perpetuals_section
from sandbox.child_process import free_port
from sandbox.embedded_redis import EmbeddedRedis
from sandbox.exchange.scenario import parse
from sandbox.exchange.server import PaperExchange

TIMES: Final = 5
BOOK: Final = "rate_limit = 100000\n[book]\norders = 20\npositions = 5\nreducing = 0.0\n"
"""None of its orders protects a position: all go at once, by what each venue has for that."""
PACE: Final = "settle = 0.05\nguard = 0.05\npoll_interval = 0.05\nrecord_wait = 0.2"
LIBRARIES: Final = {"alpaca": "httpx", "ccxt": "ccxt.async_support", "ib": "ib_async"}
MOST_LATER: Final = 0.1
"""Seconds by which the first cancel of one account may come later for what others import."""
HALTED_WITHIN: Final = 0.4
IMPORT: Final = """\
import resource, sys, time
from importlib import import_module
from pathlib import Path
used = lambda: int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
begun, before = time.perf_counter(), used()
import_module(sys.argv[1])
print(time.perf_counter() - begun, (used() - before) / 1e6)
"""
"""Seconds, and megabytes of memory that is in use (Linux)."""


@dataclass(frozen=True, slots=True)
class Place:
    """An adapter's account, and its venue."""

    adapter: str
    section: str
    exchange: PaperExchange
    protocol: str = "alpaca"

    def open(self) -> float:
        """Begin with the book anew; the moment of our clock at which its own was zero."""
        self.exchange.restart(parse(f'protocol = "{self.protocol}"\n{BOOK}'))
        before = time.monotonic()
        now = float(self.exchange.report()["now"])
        return (before + time.monotonic()) / 2 - now


Seconds = Mapping[str, float]
"""Until halted (`""`), and until the first cancel was at the venue of each adapter."""


def run() -> list[Row]:
    rows = [row for adapter, library in LIBRARIES.items() for row in _import_rows(adapter, library)]
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = stack.enter_context(EmbeddedRedis(directory / "redis"))
        client = stack.enter_context(redis.Redis.from_url(server.url))
        places = _places(stack)
        alone: dict[str, Seconds] = {}
        for place in places:
            environment = _environment(directory, server, [place])
            cold = alone[place.adapter] = _measured(environment, client, [place])
            with standby(directory, environment):
                warm = _measured(environment, client, [place])
            rows += [_halted(place.adapter, cold), *_first_cancels(place.adapter, cold, warm)]
        together = _measured(_environment(directory, server, places), client, places)
    return [*rows, _halted("all three", together), _beside(together, alone["alpaca"])]


def _places(stack: ExitStack) -> list[Place]:
    alpaca, futures = (stack.enter_context(PaperExchange()) for _ in range(2))
    tws = stack.enter_context(PaperExchange(tws_port=0))
    return [
        Place("alpaca", alpaca_section("ALPACA", alpaca.url), alpaca),
        Place("ccxt", perpetuals_section("PERPS", futures.url), futures, "binance-futures"),
        Place("ib", ib_section("IB", tws.tws_port or 0), tws),
    ]


def _environment(directory: Path, server: EmbeddedRedis, places: Sequence[Place]) -> dict[str, str]:
    down = {"PREFECT_API_URL": f"http://127.0.0.1:{free_port()}/api", "PREFECT_HOME": str(directory / "prefect")}
    return kill_environment(directory, server.url, [place.section for place in places], PACE, down)


def _measured(environment: Mapping[str, str], client: redis.Redis, places: Sequence[Place]) -> Seconds:
    """Medians of some kills of these accounts."""
    runs = [_kill(environment, client, places) for _ in range(TIMES)]
    return {name: median(run[name] for run in runs) for name in runs[0]}


def _kill(environment: Mapping[str, str], client: redis.Redis, places: Sequence[Place]) -> Seconds:
    client.flushall()  # an incident of its own: of one that goes on, what was closed is remembered
    CircuitBreaker(client).initialize_state()
    zeros = {place.adapter: place.open() for place in places}
    command = [sys.executable, "-m", "cli", "kill", "--yes", "--operator", "bench"]
    begun = time.monotonic()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    halted, said = 0.0, ""
    for line in process.stderr:
        said += line
        if "HALTED" in line:
            halted = halted or time.monotonic() - begun
    if process.wait(60):
        raise RuntimeError(f"the kill did not end flat: {said}")
    reports = {place.adapter: place.exchange.report() for place in places}
    return {"": halted} | {
        name: zeros[name] + float(report["first_cancel_all_at"]) - begun for name, report in reports.items()
    }


def _import_rows(adapter: str, library: str) -> list[Row]:
    runs = [_import(library) for _ in range(TIMES)]
    what = f"{adapter}: import of {library.partition('.')[0]}"
    return [
        Row("adapters", what, round(median(run[0] for run in runs) * 1000), "ms"),
        Row("adapters", f"{what}, memory", round(median(run[1] for run in runs)), "MB"),
    ]


def _import(library: str) -> tuple[float, float]:
    ran = subprocess.run([sys.executable, "-c", IMPORT, library], check=True, capture_output=True, text=True)
    seconds, megabytes = ran.stdout.split()
    return float(seconds), float(megabytes)


def _halted(adapter: str, cold: Seconds) -> Row:
    return Row(
        "adapters",
        f"{adapter}: halted, cold",
        round(cold[""] * 1000),
        "ms",
        target=f"under {HALTED_WITHIN * 1000:g} ms, whatever the adapter",
        met=cold[""] < HALTED_WITHIN,
    )


def _first_cancels(adapter: str, cold: Seconds, warm: Seconds) -> list[Row]:
    return [
        Row("adapters", f"{adapter}: first cancel at the venue, {how}", round(seconds[adapter] * 1000), "ms")
        for how, seconds in (("cold", cold), ("with a standby", warm))
    ]


def _beside(together: Seconds, alone: Seconds) -> Row:
    later = together["alpaca"] - alone["alpaca"]
    return Row(
        "adapters",
        "alpaca beside ccxt and ib in one kill: first cancel at the venue, cold",
        round(together["alpaca"] * 1000),
        "ms",
        baseline=f"{alone['alpaca'] * 1000:.0f} ms by itself; ccxt's there after {together['ccxt'] * 1000:.0f} ms",
        target=f"at most {MOST_LATER * 1000:g} ms later than by itself",
        met=later <= MOST_LATER,
    )
