"""From the shell to the halt and to the first cancel: `breaker kill --yes`, by itself and with a standby."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from benchmarks.rows import Row
from benchmarks.servers import kill_environment, standby
from deployments.account_sections import alpaca_section
from sandbox.child_process import free_port
from sandbox.embedded_redis import EmbeddedRedis
from sandbox.exchange.scenario import parse
from sandbox.exchange.server import PaperExchange

TIMES = 5
BOOK = parse("rate_limit = 100000\n[book]\norders = 40\npositions = 12\n")
PACE = "settle = 0.05\nguard = 0.05\npoll_interval = 0.05\nrecord_wait = 0.2"


def run() -> list[Row]:
    with (
        tempfile.TemporaryDirectory() as directory,
        EmbeddedRedis(Path(directory) / "redis") as redis,
        PaperExchange(BOOK) as venue,
    ):
        down = {
            "PREFECT_API_URL": f"http://127.0.0.1:{free_port()}/api",
            "PREFECT_HOME": str(Path(directory) / "prefect"),
        }
        section = alpaca_section("PAPER", venue.url)
        environment = kill_environment(Path(directory), redis.url, [section], PACE, down)
        cold = [_kill(environment, venue) for _ in range(TIMES)]
        with standby(Path(directory), environment):
            warm = [_kill(environment, venue) for _ in range(TIMES)]
        bare = [_bare() for _ in range(TIMES)]
    return [
        _row("halted", [run[0] for run in cold], bare, 400),
        _row("first cancel answered", [run[1] for run in cold], bare, 700),
        _row("halted, with a standby", [run[0] for run in warm], bare, 50),
        _row("first cancel answered, with a standby", [run[1] for run in warm], bare, 60),
    ]


def _row(what: str, seconds: list[float], bare: list[float], target: float) -> Row:
    value = round(median(seconds) * 1000, 1)
    return Row(
        "kill switch",
        what,
        value,
        "ms",
        baseline=f"{median(bare) * 1000:.0f} ms: an interpreter that does nothing",
        target=f"under {target:g} ms",
        met=value < target,
    )


def _kill(environment: dict[str, str], venue: PaperExchange) -> tuple[float, float]:
    """Seconds from the process's start until halted, and until the venue had answered the first sweep."""
    venue.restart(BOOK)
    command = [sys.executable, "-m", "cli", "kill", "--yes", "--json", "--operator", "bench"]
    ended = subprocess.run(command, env=environment, capture_output=True, check=True, timeout=60)
    report = json.loads(ended.stdout)
    return report["halted_after"], report["first_sweep_after"]


def _bare() -> float:
    begin = time.monotonic()
    subprocess.run([sys.executable, "-c", ""], check=True)
    return time.monotonic() - begin
