"""What monitoring 100 accounts takes: of a processor, of the venue's requests, and of Redis's memory."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from pydantic import SecretStr

from benchmarks.rows import Row
from benchmarks.servers import bench
from configuration.accounts import AccountSettings
from configuration.redis_clients import redis_client
from configuration.settings import GivenSettings, Settings
from sandbox.exchange.scenario import parse
from sandbox.exchange.server import PaperExchange
from services.account_monitor import MonitorThread
from tasks.monitor.measurements import measurements_key

ACCOUNTS = 100
_POSITIONS = 20
_WATCHED = 60.0
"""Seconds, after the first reading of each."""
_A_WEEK = 7 * 24 * 60 * 4
"""Measurements of one account at an interval of 15 s."""


def run() -> list[Row]:
    with _desk() as (settings, venue):
        monitor = MonitorThread(settings)
        monitor.start()
        with redis_client(settings) as redis:
            while any(not redis.xlen(measurements_key(name)) for name in settings.accounts):
                time.sleep(0.1)
            begun, used, asked = time.perf_counter(), time.process_time(), _asked(venue)
            time.sleep(_WATCHED)
            took = time.perf_counter() - begun
            share = 100 * (time.process_time() - used) / took
            each = (_asked(venue) - asked) / ACCOUNTS * 60 / took
            bytes_each = _bytes_of_a_week(settings) / _A_WEEK
        monitor.stop()
    name = f"monitor of {ACCOUNTS} accounts"
    return [
        Row("monitor", f"{name}, {_POSITIONS} positions each", share, "% of a core", "", "≤ 25", share <= 25),
        Row("monitor", f"{name}, requests of each", each, "a minute", "limit 200", "≤ 20", each <= 20),
        Row("monitor", "a measurement in Redis, of a week's", bytes_each, "bytes", f"{_A_WEEK:,} a week"),
    ]


@contextlib.contextmanager
def _desk() -> Iterator[tuple[Settings, PaperExchange]]:
    """That many accounts at one venue, which has one book for all of them."""
    book = parse(f"rate_limit = 1000000\n[book]\npositions = {_POSITIONS}\n")
    with bench() as here, PaperExchange(book) as venue, tempfile.TemporaryDirectory() as folder:
        account = AccountSettings(base_url=venue.url, key_id=SecretStr("key"), secret_key=SecretStr("secret"))
        accounts = {f"A{number}": account for number in range(ACCOUNTS)}
        yield (
            GivenSettings(redis_url=SecretStr(here.server.url), state_dir=Path(folder) / "state", accounts=accounts),
            venue,
        )


def _asked(venue: PaperExchange) -> int:
    return sum(venue.report()["requests"].values())


def _bytes_of_a_week(settings: Settings) -> int:
    """What Redis needs for a stream of a week, written as the monitor does."""
    with redis_client(settings) as redis:
        fields = redis.xrange(measurements_key("A0"), count=1)[0][1]
        with redis.pipeline(transaction=False) as together:
            for place in range(_A_WEEK):
                together.xadd("week", fields, id=f"{1_790_000_000_000 + place * 15_000}-0")
            together.execute()
        return int(redis.memory_usage("week", samples=0) or 0)
