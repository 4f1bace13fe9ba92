"""From the key to a flat book: 1,000 orders and 200 positions, beside the least that any program needs at that venue.

The venue has a latency, a rate limit, cancels that take effect a while after they are accepted, and fills that take
time; see `BOOK`. The ideal is a bare program on an open connection, started and imported before the clock runs, which
sends nothing but the fewest requests that get there: cancel all in bulk, look until no order is open, close all in
bulk, look until no position is left. It reads one page, once, and asks nothing twice. Ours is counted from the start of
the process `breaker kill --yes`: interpreter, imports, halting, records, every page, second opinions.

Both are timed by the venue's own report, and both prove it by the same rule, `kill.settle` and `kill.guard` as they
are by default.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

import httpx

from benchmarks.rows import Row
from benchmarks.servers import kill_environment, standby
from configuration.settings import KillSettings
from deployments.account_sections import alpaca_section
from sandbox.child_process import free_port
from sandbox.embedded_redis import EmbeddedRedis
from sandbox.exchange.scenario import parse
from sandbox.exchange.server import PaperExchange
from sandbox.prefect_server import PrefectServer

TIMES = 3
TARGET = 1.3
"""Most that ours may take of the ideal until the venue is flat."""
BOOK = parse(
    """
    rate_limit = 200
    latency_ms = { low = 60, high = 140 }
    [book]
    orders = 1000
    positions = 200
    [cancels]
    delay = { median = 0.25, sigma = 0.5, cap = 2.0 }
    [fills]
    delay = { median = 0.25, sigma = 0.5, cap = 2.0 }
    """
)
KEYS = {"APCA-API-KEY-ID": "key", "APCA-API-SECRET-KEY": "secret"}


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds from the start, the first two by the venue's report."""

    no_orders: float
    flat: float
    proven: float


def run() -> list[Row]:
    with (
        tempfile.TemporaryDirectory() as name,
        EmbeddedRedis(Path(name) / "redis") as redis,
        PaperExchange(BOOK) as venue,
        PrefectServer(Path(name) / "prefect-server") as prefect,
    ):
        directory = Path(name)
        down = {"PREFECT_API_URL": f"http://127.0.0.1:{free_port()}/api", "PREFECT_HOME": str(directory / "prefect")}
        section, ideal, ours = alpaca_section("PAPER", venue.url), _ideal_times(venue), {}
        for orchestrator, address in (("Prefect down", down), ("with Prefect", prefect.environment)):
            environment = kill_environment(directory, redis.url, [section], "record_wait = 0.2", address)
            ours[f"cold, {orchestrator}"] = _times(venue, partial(_kill, environment))
            with standby(directory, environment):
                ours[f"standby, {orchestrator}"] = _times(venue, partial(_kill, environment))
    return [row for name, measured in ours.items() for row in _rows(name, measured, ideal)]


def _ideal_times(venue: PaperExchange) -> Times:
    return _times(venue, lambda _: asyncio.run(_ideal(venue.url)))


def _rows(name: str, ours: Times, ideal: Times) -> Iterator[Row]:
    for what, value, least in (
        ("no open order", ours.no_orders, ideal.no_orders),
        ("flat", ours.flat, ideal.flat),
        ("proven flat", ours.proven, ideal.proven),
    ):
        judged = what == "flat"
        yield Row(
            "1,000 orders, 200 positions",
            f"{name}: {what}",
            round(value, 2),
            "s",
            baseline=f"{least:.2f} s ideal; {value / least:.2f} times that",
            target=f"at most {TARGET:g} times" if judged else "",
            met=value / least <= TARGET if judged else None,
        )


def _times(venue: PaperExchange, flatten: Callable[[float], tuple[float, float]]) -> Times:
    """Medians of `TIMES` runs; `flatten` is given when it starts and returns its start and when it had its proof."""
    runs = [_timed(venue, flatten) for _ in range(TIMES)]
    return Times(*(median(getattr(run, name) for run in runs) for name in ("no_orders", "flat", "proven")))


def _timed(venue: PaperExchange, flatten: Callable[[float], tuple[float, float]]) -> Times:
    venue.restart(BOOK)
    opened = time.monotonic() - venue.report()["now"]
    started, proven = flatten(time.monotonic())
    report = venue.report()
    if not report["is_flat"] or report["violations"]:
        raise RuntimeError(f"the venue is not flat, or was harmed: {report['violations']}")
    since = opened - started
    return Times(report["first_no_open_orders_at"] + since, report["first_flat_at"] + since, proven - started)


async def _ideal(url: str) -> tuple[float, float]:
    rules = KillSettings()
    async with httpx.AsyncClient(base_url=f"{url}/v2", headers=KEYS) as client:
        await client.get("/clock")  # the connection is open
        started = time.monotonic()
        await client.delete("/orders")
        await _until_none(client, "/orders?status=open&limit=500")
        await client.delete("/positions")
        await _until_none(client, "/positions")
        for wait in (rules.settle, rules.guard):
            await asyncio.sleep(wait)
            await _until_none(client, "/orders?status=open&limit=500")
            await _until_none(client, "/positions")
    return started, time.monotonic()


async def _until_none(client: httpx.AsyncClient, path: str) -> None:
    while (await client.get(path)).raise_for_status().json():
        pass


def _kill(environment: dict[str, str], started: float) -> tuple[float, float]:
    command = [sys.executable, "-m", "cli", "kill", "--yes", "--json", "--operator", "bench"]
    ended = subprocess.run(command, env=environment, capture_output=True, check=True, timeout=120)
    return started, started + json.loads(ended.stdout)["finished_after"]
