"""Measure what looks at every breaker beside 1, 100 and 1,000 of them: the cost must not grow with the desk."""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr

from benchmarks.rows import Row, growth
from benchmarks.servers import bench
from breaker import CircuitBreaker
from breaker.status_reader import AsyncStatusReader
from configuration.redis_clients import async_redis_client, redis_client
from configuration.settings import Settings
from console.live.state_watcher import StateWatcher
from ledger.configured import open_ready_ledger
from ledger.outbox import drain_outbox, known_scopes
from services.exporter.exporter import Exporter
from services.notification_watch import NotificationWatch
from services.trip_watch import TripWatch
from services.unwatched_resets import ResetWatch
from tasks.checks.stores import check_drain, check_reconciliation, check_states, open_stores
from tasks.verification.recoveries import check_recoveries
from tasks.verification.resets import check_resets

SIZES = (1, 100, 1_000)
_WATCHED = 5.0
"""Seconds; a watch looks after recoveries once in them."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds of one call, by the clock and of this process's processor time."""

    wall: float
    processor: float


def run() -> list[Row]:
    rows: list[Row] = []
    scrapes, verifications = dict[int, Row](), dict[int, Row]()
    for size in SIZES:
        with _desk(size) as settings:
            scrapes[size] = _scrape(settings, size)
            verifications[size] = _verification(settings, size)
            rows += [scrapes[size], verifications[size]]
            rows.append(_console(settings, size))
            rows.append(_share("trip watch", size, TripWatch(settings)))
            rows.append(_share("reset watch", size, ResetWatch(settings)))
            _age(settings)
            told = settings.notifications.model_copy(update={"slack": SecretStr("http://127.0.0.1:1/")})
            watch = NotificationWatch(settings.model_copy(update={"notifications": told}))
            rows.append(_share("notification watch", size, watch))
    for what, measured in ("scrapes of breakers", scrapes), ("health verifications of breakers", verifications):
        costs = {size: row.value for size, row in measured.items() if isinstance(row.value, float)}
        rows.append(growth(what, costs, "ms"))
    return rows


def _row(what: str, size: int, cost: Cost, target: float) -> Row:
    """Judged by the processor's time, as a machine that is busy otherwise says nothing about this."""
    value = 1000 * cost.processor
    told = f"{1000 * cost.wall:.3g} ms by the clock"
    return Row("scopes", f"{what}, {size:,} breakers", value, "ms", told, f"≤ {target:g}", value <= target)


@contextlib.contextmanager
def _desk(size: int) -> Iterator[Settings]:
    """That many open breakers, whose transitions are in the ledger."""
    with bench() as here, tempfile.TemporaryDirectory() as folder:
        settings = Settings.model_validate({"redis_url": here.server.url, "state_dir": Path(folder) / "state"})
        scopes = ["global", *(f"strategy:s{number}" for number in range(1, size))]
        for scope in scopes:
            with contextlib.closing(CircuitBreaker(here.client, scope)) as breaker:
                breaker.initialize_state()
        with contextlib.closing(open_ready_ledger(settings)) as ledger:
            drain_outbox(here.client, ledger, scopes)
        yield settings


def _scrape(settings: Settings, size: int) -> Row:
    exporter = Exporter(settings)
    with contextlib.closing(open_ready_ledger(settings)) as ledger, contextlib.closing(exporter):
        exporter._scopes = known_scopes(exporter._redis, ledger)
        cost = _cost(exporter.scrape)
        if b"cb_staleness_seconds 0.0" not in exporter.scrape():
            return Row("scopes", f"scrape of the exporter, {size:,} breakers", "999999: a false alarm", met=False)
    return _row("scrape of the exporter", size, cost, 100)


def _verification(settings: Settings, size: int) -> Row:
    """What of the health verification looks at every breaker, without the orchestrator."""

    def run() -> None:
        with open_stores(settings) as stores:
            check_states(stores)
            check_drain(stores)
            check_reconciliation(stores, None)
            check_resets(stores)
            asyncio.run(check_recoveries(stores))

    return _row("health verification", size, _cost(run, 1), 2_000)


def _console(settings: Settings, size: int) -> Row:
    """What the console's watch over all states takes of one processor while nothing happens."""

    async def watched() -> float:
        async with async_redis_client(settings) as redis:
            reader = AsyncStatusReader(redis)
            watcher = StateWatcher(reader.read, lambda _: None)
            watcher.watch_always(f"strategy:s{number}" for number in range(1, size))
            with contextlib.closing(redis_client(settings)) as listening:
                changes = watcher.listen(listening, settings.redis_timeout)
            running = asyncio.create_task(watcher.run())
            await watcher.first_round()
            await asyncio.sleep(1)
            begun, used = time.perf_counter(), time.process_time()
            await asyncio.sleep(_WATCHED)
            share = 100 * (time.process_time() - used) / (time.perf_counter() - begun)
            running.cancel()
            changes.stop()
            await reader.close()
            return share

    share = asyncio.run(watched())
    return Row("scopes", f"console's states, {size:,} breakers", share, "% of a core", "", "≤ 5", share <= 5)


def _age(settings: Settings) -> None:
    """Make the breakers' transitions hours old: of new ones people are told."""
    with redis_client(settings) as client:
        for key in client.scan_iter("circuit_breaker:history*"):
            members = client.zrange(key, 0, -1, withscores=True)
            client.zadd(key, {member: score - 7_200 for member, score in members})


def _share(what: str, size: int, watch: TripWatch | ResetWatch | NotificationWatch) -> Row:
    """How much of one processor it takes while nothing happens, after it has found and compared the breakers."""
    watch.start()
    time.sleep(3)
    busy_until = time.perf_counter() + 30
    while _used_in(1) > 0.2 and time.perf_counter() < busy_until:
        pass
    begun, used = time.perf_counter(), time.process_time()
    time.sleep(_WATCHED)
    share = 100 * (time.process_time() - used) / (time.perf_counter() - begun)
    watch.stop()
    return Row("scopes", f"{what}, {size:,} breakers", share, "% of a core", "", "≤ 5", share <= 5)


def _used_in(seconds: float) -> float:
    """Seconds of the processor that this process takes in so many by the clock."""
    used = time.process_time()
    time.sleep(seconds)
    return time.process_time() - used


def _cost(work: Callable[[], object], times: int = 5) -> Cost:
    """The median of so many, after one that counts for nothing."""
    work()
    costs = []
    for _ in range(times):
        begun, used = time.perf_counter(), time.process_time()
        work()
        costs.append((time.perf_counter() - begun, time.process_time() - used))
    wall, processor = (statistics.median(each) for each in zip(*costs, strict=True))
    return Cost(wall, processor)
