"""What an order costs more that goes through the gateway, beside the same order sent to the venue itself."""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from benchmarks.rows import Row, quantile, spread
from benchmarks.servers import ROOT, Bench, bench
from sandbox.child_process import end, spawn
from sandbox.exchange.scenario import parse
from sandbox.exchange.server import PaperExchange
from tests.helpers import eventually

_ORDERS = 1000
_KEYS = {"APCA-API-KEY-ID": "key", "APCA-API-SECRET-KEY": "secret"}
_SCENARIO = 'rate_limit = 1000000\n[[positions]]\nsymbol = "AAPL"\nqty = "100"\nprice = "200"\n'
_ORDER = {"symbol": "AAPL", "qty": "1", "side": "buy", "type": "market", "time_in_force": "day"}


def run() -> list[Row]:
    with bench() as here, PaperExchange(parse(_SCENARIO)) as exchange, _gateway(here, exchange.url) as url:
        direct, through = _costs(exchange.url, url)
    beside = f"straight to the venue {spread(direct, 1e3)}"
    added = [1e3 * (of(through) - of(direct)) for of in (statistics.median, lambda costs: quantile(costs, 0.99))]
    return [
        Row("gateway", "an order through it, p50 / p99 / max", spread(through, 1e3), "ms", beside),
        Row("gateway", "what it adds, p50 / p99", " / ".join(f"{each:.3g}" for each in added), "ms"),
    ]


def _costs(*urls: str) -> list[list[float]]:
    """By turns, so that what else the machine does falls on each alike."""
    clients = [httpx.Client(base_url=url, headers=_KEYS, timeout=20) for url in urls]
    costs: list[list[float]] = [[] for _ in urls]
    for i in range(_ORDERS):
        for client, known in zip(clients, costs, strict=True):
            begin = time.perf_counter()
            answer = client.post("/v2/orders", json=_ORDER)
            if i >= _ORDERS // 10:
                known.append(time.perf_counter() - begin)
            answer.raise_for_status()
    for client in clients:
        client.close()
    return costs


@contextmanager
def _gateway(here: Bench, venue: str) -> Iterator[str]:
    configuration, said = here.folder / "breaker.toml", here.folder / "said"
    configuration.write_text(
        f'redis_url = "{here.server.url}"\nstate_dir = "{here.folder / "state"}"\n[accounts.ALPHA]\n'
        f'base_url = "{venue}"\nkey_id = "key"\nsecret_key = "secret"\n'
    )
    environment = {**os.environ, "BREAKER_CONFIG": str(configuration), "PYTHONPATH": str(ROOT)}
    with said.open("wb") as output:
        process = spawn([sys.executable, "-m", "cli", "gateway", "--port", "0"], env=environment, output=output)
    try:
        url = eventually(lambda: _address(said)) or ""
        eventually(lambda: httpx.get(f"{url}/_breaker/health").json()["is_open"])
        yield url
    finally:
        end(process, within=10)


def _address(said: Path) -> str | None:
    return next((word for word in said.read_text().split() if word.startswith("http://")), None)
