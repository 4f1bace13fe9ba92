"""Alpaca's own client, unmodified, through the command: only its base URL is another one."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from alpaca.common.exceptions import APIError
from alpaca.trading.client import TradingClient
from alpaca.trading.enums import OrderSide, QueryOrderStatus, TimeInForce
from alpaca.trading.requests import GetOrdersRequest, MarketOrderRequest

from breaker import CircuitBreaker
from sandbox.child_process import end, spawn
from sandbox.embedded_redis import EmbeddedRedis
from sandbox.exchange.scenario import parse
from sandbox.exchange.server import PaperExchange, listen
from tests.docs.pages import blocks
from tests.helpers import eventually
from tests.services.gateway.conftest import BOOK

ROOT = Path(__file__).parents[3]
MAX_STALENESS = 0.2
TRIP = """
import sys, time
import redis
from breaker import CircuitBreaker
client = redis.Redis.from_url(sys.argv[1])
CircuitBreaker(client).trip("MANUAL", tripped_by="ada")
print(time.time())
"""


@pytest.fixture
def exchange() -> Iterator[PaperExchange]:
    with PaperExchange(parse("rate_limit = 1000000\n" + BOOK)) as server:
        yield server


@pytest.fixture
def gateway_url(
    tmp_path: Path, redis_server: EmbeddedRedis, breaker: CircuitBreaker, exchange: PaperExchange
) -> Iterator[str]:
    (tmp_path / "breaker.toml").write_text(
        f'redis_url = "{redis_server.url}"\nstate_dir = "{tmp_path / "state"}"\n[accounts.ALPHA]\n'
        f'base_url = "{exchange.url}"\nkey_id = "key"\nsecret_key = "secret"\n'
    )
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("BREAKER_", "PREFECT_"))}
    environment = {**kept, "BREAKER_CONFIG": str(tmp_path / "breaker.toml"), "PYTHONPATH": str(ROOT)}
    said = tmp_path / "said"
    with said.open("wb") as output:
        process = spawn([sys.executable, "-m", "cli", "gateway", "--port", "0"], env=environment, output=output)
    try:
        eventually(lambda: "guards account ALPHA" in said.read_text() or process.poll() is not None)
        found = re.search(r"http://127\.0\.0\.1:\d+", said.read_text())
        assert found is not None, said.read_text()
        yield found.group()
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        lines = said.read_text().splitlines()
        assert len(lines) == 1, lines
        assert "secret" not in said.read_text()
    finally:
        end(process, within=5)


def client_of(url: str) -> TradingClient:
    return TradingClient("key", "secret", paper=True, url_override=url)


def market(side: OrderSide, quantity: float) -> MarketOrderRequest:
    return MarketOrderRequest(symbol="AAPL", qty=quantity, side=side, time_in_force=TimeInForce.DAY)


class Engine:
    """Buys as fast as it can, on threads, until it is told to stop."""

    def __init__(self, url: str) -> None:
        self.bought = 0
        self.refused: list[APIError] = []
        self.failed: list[Exception] = []
        self._url = url
        self._stopping = False
        self._threads = [threading.Thread(target=self._run) for _ in range(3)]

    def _run(self) -> None:
        client = client_of(self._url)
        while not self._stopping:
            try:
                client.submit_order(market(OrderSide.BUY, 1))
                self.bought += 1
            except APIError as error:
                self.refused.append(error)
            except Exception as error:
                self.failed.append(error)

    def __enter__(self) -> Engine:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self._stopping = True
        for thread in self._threads:
            thread.join(30)


def test_nothing_that_adds_risk_arrives_after_the_bound_and_exits_pass(
    gateway_url: str, exchange: PaperExchange, redis_server: EmbeddedRedis
) -> None:
    client = client_of(gateway_url)
    with Engine(gateway_url) as engine:
        eventually(lambda: engine.bought > 20, lambda: engine.failed or engine.refused)
        trip = subprocess.run(
            [sys.executable, "-c", TRIP, redis_server.url], cwd=ROOT, capture_output=True, text=True, check=True
        )
        acknowledged = float(trip.stdout)
        refused = len(engine.refused)
        eventually(lambda: len(engine.refused) > refused + 20)
    assert engine.failed == []
    refusal = engine.refused[-1]
    assert (refusal.status_code, refusal.code) == (403, 40310000)
    assert "TRIPPED" in refusal.message
    arrived = [each.submitted_at for each in buys(client_of(exchange.url))]
    assert len(arrived) >= 20
    late = [at for at in arrived if at > datetime.fromtimestamp(acknowledged + MAX_STALENESS, UTC)]
    assert late == []
    held = float(client.get_open_position("AAPL").qty)  # type: ignore[union-attr]
    client.submit_order(market(OrderSide.SELL, held - 1))
    eventually(lambda: client.get_open_position("AAPL").qty == "1")  # type: ignore[union-attr]
    client.close_all_positions(cancel_orders=True)
    eventually(lambda: exchange.report()["is_flat"])


def buys(client: TradingClient) -> list[Any]:
    """Every buy that the exchange has ever taken."""
    found: list[Any] = []
    until: datetime | None = None
    while True:
        asked = GetOrdersRequest(status=QueryOrderStatus.ALL, limit=500, side=OrderSide.BUY, until=until)
        page: list[Any] = client.get_orders(asked)  # type: ignore[assignment]
        found += page
        if len(page) < 500:
            return found
        until = page[-1].submitted_at


def test_time_is_told_by_one_clock(exchange: PaperExchange) -> None:
    """What the exchange writes on an order is this host's time."""
    before = time.time()
    order: Any = client_of(exchange.url).submit_order(market(OrderSide.BUY, 1))
    assert before - 0.05 < order.submitted_at.timestamp() < time.time() + 0.05


def test_the_program_of_the_page(gateway_url: str, breaker: CircuitBreaker) -> None:
    (program,) = blocks(ROOT / "docs" / "how-to" / "run-the-gateway.md", "python")
    assert program.count("http://127.0.0.1:8510") == 1
    program = program.replace("http://127.0.0.1:8510", gateway_url)

    def said() -> str:
        command = [sys.executable, "-c", program]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60).stdout

    assert said() == "sent AAPL\n"
    breaker.trip("MANUAL")
    assert said().startswith("refused 403 The global breaker is TRIPPED (MANUAL)")


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (("BETA",), "no account BETA is configured, only: ALPHA, IBKR"),
        ((), "say which account the gateway guards"),
        (("IBKR",), "reached through ib"),
        (("ALPHA", "--host", "0.0.0.0"), "keys would travel unencrypted"),
        (("ALPHA", "--tls-key", "key.pem"), "belong together"),
        (("ALPHA", "--normal-quantity", "AAPL"), "SYMBOL=N"),
        (("ALPHA", "--port", "{taken}"), "can't be had"),
    ],
)
def test_what_makes_no_sense_starts_nothing(tmp_path: Path, options: tuple[str, ...], problem: str) -> None:
    (tmp_path / "breaker.toml").write_text(
        '[accounts.ALPHA]\nbase_url = "http://127.0.0.1:1"\nkey_id = "key"\nsecret_key = "secret"\n'
        '[accounts.IBKR]\nadapter = "ib"\nport = 4002\n'
    )
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("BREAKER_", "PREFECT_"))}
    environment = {**kept, "BREAKER_CONFIG": str(tmp_path / "breaker.toml"), "PYTHONPATH": str(ROOT), "COLUMNS": "160"}
    with listen() as listener:
        arguments = [option.format(taken=listener.getsockname()[1]) for option in options]
        command = [sys.executable, "-m", "cli", "gateway", *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2, done.stderr
    assert problem in done.stderr
    assert "Traceback" not in done.stderr
