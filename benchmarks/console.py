"""The console under load: pages, live updates to many, the API's trip beside listeners, and the exporter.

Console and exporter are processes of their own, on a ledger in SQLite and an embedded Redis; who asks is this process.
"""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from benchmarks.rows import Row, quantile, spread
from benchmarks.servers import Bench, bench
from configuration.settings import Settings
from console.auth.identities import Identities
from console.auth.permissions import Permission
from console.serve import FIRST_ADMIN, prepare
from ledger.configured import open_ready_ledger
from sandbox.child_process import free_port
from tests.helpers import eventually

PAGES = 50
CLIENTS = 200
TRIPS = 100
_START_LIMIT = 60.0
_REASON = {"reason": "Measuring how long a trip takes", "acknowledge": True}


@dataclass(frozen=True, slots=True)
class _Site:
    """A console and an exporter that run, and what it takes to use them."""

    port: int
    metrics_port: int
    cookie: str
    token: str

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


def run() -> list[Row]:
    with bench(durable=True) as here, _site(here) as site:
        return [
            *_page(site),
            *asyncio.run(_live(here, site)),
            *asyncio.run(_trips(site)),
            *_metrics(site),
        ]


def _page(site: _Site) -> Iterator[Row]:
    with httpx.Client(base_url=site.url, headers={"Cookie": site.cookie}) as browser:
        page = browser.get("/circuit-breaker")
        loaded = set(re.findall(r'(?:src|href)="(/static/[^"]+)"', page.text))
        size = len(page.content) + sum(len(browser.get(path).content) for path in loaded)
        first_bytes = []
        for _ in range(100):
            begun = time.perf_counter()
            with browser.stream("GET", "/circuit-breaker") as answer:
                next(answer.iter_raw())
                first_bytes.append(time.perf_counter() - begun)
    yield Row(
        "console", "Circuit Breaker page with all it loads", round(size / 1000, 1), "kB", "", "< 60", size < 60_000
    )
    met = quantile(first_bytes, 0.99) < 0.05
    yield Row("console", "its first byte, p50 / p99 / max", spread(first_bytes, 1e3), "ms", "", "p99 < 50", met)


async def _live(here: Bench, site: _Site) -> list[Row]:
    """From before a trip elsewhere is asked for until each page has been told."""
    async with _Listeners(site, PAGES) as pages:
        delays: list[float] = []
        for number in range(20):
            pages.forget()
            begun = time.perf_counter()
            await asyncio.to_thread(here.breaker.trip, f"BENCH_{number}")
            await pages.all_heard()
            delays += [at - begun for at in pages.heard.values()]
    met = quantile(delays, 0.99) < 0.3
    what = f"a transition elsewhere until it is on {PAGES} open pages, p50 / p99 / max"
    return [Row("console", what, spread(delays, 1e3), "ms", "", "p99 < 300", met)]


async def _trips(site: _Site) -> list[Row]:
    alone = await _trip_costs(site)
    async with _Listeners(site, CLIENTS):
        beside = await _trip_costs(site)
    met = quantile(beside, 0.99) < 0.05
    what = f"a trip through the API beside {CLIENTS} listeners, p50 / p99 / max"
    return [Row("console", what, spread(beside, 1e3), "ms", f"no listener: {spread(alone, 1e3)}", "p99 < 50", met)]


async def _trip_costs(site: _Site) -> list[float]:
    costs = []
    async with httpx.AsyncClient(base_url=f"{site.url}/api/v1", headers={"Authorization": site.token}) as api:
        await api.get("/circuit-breaker")
        for _ in range(TRIPS):
            begun = time.perf_counter()
            answer = await api.post("/circuit-breaker/trip", json=_REASON)
            costs.append(time.perf_counter() - begun)
            answer.raise_for_status()
            await asyncio.sleep(0.03)  # so that the listeners are told of each, not of the last one
    return costs


def _metrics(site: _Site) -> Iterator[Row]:
    costs = []
    with httpx.Client(base_url=f"http://127.0.0.1:{site.metrics_port}") as prometheus:
        prometheus.get("/metrics")
        for _ in range(100):
            begun = time.perf_counter()
            prometheus.get("/metrics").raise_for_status()
            costs.append(time.perf_counter() - begun)
    met = quantile(costs, 0.99) < 0.02
    yield Row("console", "/metrics, p50 / p99 / max", spread(costs, 1e3), "ms", "", "p99 < 20", met)


@dataclass
class _Listeners:
    """Pages that listen for the state, each on a connection of its own."""

    site: _Site
    count: int
    heard: dict[int, float] = field(default_factory=dict)
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def __aenter__(self) -> _Listeners:
        self._tasks = [asyncio.create_task(self._listen(number)) for number in range(self.count)]
        await self.all_heard()
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def forget(self) -> None:
        self.heard.clear()

    async def all_heard(self) -> None:
        async with asyncio.timeout(30):
            while len(self.heard) < self.count:
                self._changed.clear()
                await self._changed.wait()

    async def _listen(self, number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.site.port)
        try:
            path, cookie = "/events?topics=banner,state:global", f"Cookie: {self.site.cookie}"
            asked = (f"GET {path} HTTP/1.1", "Host: localhost", cookie)
            writer.write("\r\n".join([*asked, "", ""]).encode())
            while line := await reader.readline():
                if line.startswith(b"event: state:global"):
                    self.heard.setdefault(number, time.perf_counter())
                    self._changed.set()
        finally:
            writer.close()


@contextmanager
def _site(here: Bench) -> Iterator[_Site]:
    port, metrics_port = free_port(), free_port()
    ours = {
        "BREAKER_REDIS_URL": here.server.url,
        "BREAKER_STATE_DIR": str(here.folder / "state"),
        "BREAKER_CONSOLE__PORT": str(port),
        "BREAKER_CONSOLE__METRICS_PORT": str(metrics_port),
    }
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("BREAKER_", "PREFECT_"))}
    settings = Settings(state_dir=here.folder / "state")
    password = prepare(settings) or ""
    ledger = open_ready_ledger(settings)
    token, _ = Identities(ledger).tokens.create(FIRST_ADMIN, "benchmark", list(Permission), 1)
    ledger.close()
    with ExitStack() as started:
        for module in ("console", "services.exporter"):
            started.enter_context(_process(module, {**kept, **ours}))
        eventually(lambda: _answers(f"http://127.0.0.1:{port}/alive"), within=_START_LIMIT, every=0.05)
        eventually(lambda: _answers(f"http://127.0.0.1:{metrics_port}/metrics"), within=_START_LIMIT, every=0.05)
        yield _Site(port, metrics_port, _sign_in(port, password), f"Bearer {token}")


@contextmanager
def _process(module: str, environment: dict[str, str]) -> Iterator[None]:
    process = subprocess.Popen(
        [sys.executable, "-m", module], env=environment, cwd=Path(__file__).parents[1], stderr=subprocess.DEVNULL
    )
    try:
        yield
    finally:
        process.terminate()
        process.wait(30)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except (urllib.error.URLError, OSError):
        return False


def _sign_in(port: int, password: str) -> str:
    with httpx.Client(base_url=f"http://127.0.0.1:{port}") as browser:
        found = re.search(r'name="csrf" value="([^"]+)"', browser.get("/login").text)
        form = {"user": FIRST_ADMIN, "password": password, "csrf": found[1] if found else ""}
        browser.post("/login", data=form)
        return f"breaker_session={browser.cookies['breaker_session']}"
