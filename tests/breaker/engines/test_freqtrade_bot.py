"""freqtrade itself, running the strategy of its how-to page, in dry-run and live, tripped by another process."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import ccxt
import pytest
import redis

from breaker import CircuitBreaker
from sandbox.exchange.scenario import parse
from sandbox.exchange.server import PaperExchangeThread
from tests.breaker.engines.engine_environments import environment, needs, page_program, program
from tests.helpers import PATIENCE, eventually

pytestmark = [needs("freqtrade", "freqtrade"), pytest.mark.timeout(300)]

SCENARIO = 'protocol = "binance-spot"\nrate_limit = 10000000\nprices = { "BTC/USDT" = 95000, "ETH/USDT" = 3500 }\n'
PAIRS = ["BTC/USDT", "ETH/USDT"]
BOUND = 1.0
"""Seconds: `max_staleness` of the bot's gate."""
TRIP = """
import sys, time
from breaker import CircuitBreaker, open_redis
CircuitBreaker(open_redis(sys.argv[1])).trip("MANUAL")
print(time.time())
"""


class Bot:
    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.log = directory / "log"

    def orders(self) -> list[tuple[str, float]]:
        """Of a dry run: side, and when it was made, in Unix seconds."""
        with closing(sqlite3.connect(self._directory / "trades.sqlite")) as database:
            rows = database.execute("SELECT ft_order_side, order_date FROM orders ORDER BY order_date").fetchall()
        return [(side, datetime.fromisoformat(date).replace(tzinfo=UTC).timestamp()) for side, date in rows]

    def said(self) -> str:
        return self.log.read_text(encoding="utf-8")


@pytest.fixture
def exchange() -> Iterator[PaperExchangeThread]:
    with PaperExchangeThread(parse(SCENARIO)) as exchange:
        yield exchange


@pytest.fixture
def run_bot(
    tmp_path: Path, redis_server: Any, redis_client: redis.Redis, exchange: PaperExchangeThread
) -> Iterator[Callable[..., Bot]]:
    CircuitBreaker(redis_client).initialize_state()
    processes: list[subprocess.Popen[bytes]] = []

    def run(*, dry_run: bool) -> Bot:
        strategies = tmp_path / "user_data" / "strategies"
        strategies.mkdir(parents=True)
        (strategies / "accumulate.py").write_text(page_program("guard-freqtrade.md"), encoding="utf-8")
        (tmp_path / "config.json").write_text(json.dumps(config(dry_run)), encoding="utf-8")
        options = ["--config", "config.json", "--userdir", "user_data", "--db-url", "sqlite:///trades.sqlite"]
        bot = Bot(tmp_path)
        with bot.log.open("wb") as log:
            command = [program("freqtrade", "freqtrade"), "trade", *options]
            processes.append(subprocess.Popen(command, cwd=tmp_path, env=environment(tmp_path), stdout=log, stderr=log))
        return bot

    def config(dry_run: bool) -> dict[str, Any]:
        api = {"public": "/api/v3", "private": "/api/v3", "sapi": "/sapi/v1"}
        urls = {"api": {name: exchange.url + path for name, path in api.items()}}
        market = {"enableRateLimit": False, "options": {"fetchMarkets": {"types": ["spot"]}}, "urls": urls}
        pricing = {"price_side": "other", "use_order_book": True, "order_book_top": 1}
        return {
            "bot_name": "bot",
            "strategy": "Accumulate",
            "dry_run": dry_run,
            "max_open_trades": 2,
            "stake_currency": "USDT",
            "stake_amount": 100,
            "hold_seconds": 15,
            "exchange": {
                "name": "binance",
                "key": "key",
                "secret": "secret",
                "enable_ws": False,
                "pair_whitelist": PAIRS,
                "ccxt_config": market,
            },
            "pairlists": [{"method": "StaticPairList"}],
            "entry_pricing": pricing,
            "exit_pricing": pricing,
            "order_types": {"entry": "market", "exit": "market", "stoploss": "market", "stoploss_on_exchange": False},
            "initial_state": "running",
            "internals": {"process_throttle_secs": 0},
            "breaker": {
                "redis_url": redis_server.url,
                "max_staleness": BOUND,
                "rules_scope": "account:BOT",
                "equity_every": 1,
            },
        }

    yield run
    for process in processes:
        process.terminate()
        process.wait(PATIENCE)


def trip_elsewhere(url: str) -> float:
    """When the trip was acknowledged to another process, by its clock."""
    tripped = subprocess.run([sys.executable, "-c", TRIP, url], check=True, capture_output=True, timeout=PATIENCE)
    return float(tripped.stdout)


def test_a_live_bot_buys_nothing_after_a_trip_and_sells_all_that_it_holds(
    run_bot: Callable[..., Bot], exchange: PaperExchangeThread, redis_server: Any, redis_client: redis.Redis
) -> None:
    bot = run_bot(dry_run=False)
    eventually(lambda: exchange.report()["orders_created"]["client"] >= 12, bot.said, within=120)
    acknowledged = trip_elsewhere(redis_server.url)

    def sold() -> list[float]:
        return [at for side, at in venue_orders(exchange.url) if side == "sell" and at > acknowledged]

    eventually(lambda: len(sold()) >= 2, bot.said, within=120, every=0.5)
    eventually(lambda: not exchange.report()["positions"], bot.said)
    bought = [at for side, at in venue_orders(exchange.url) if side == "buy"]
    assert max(bought) <= acknowledged + BOUND
    assert redis_client.hget("circuit_breaker:equity:account:BOT", "currency") == b"USDT"


def test_a_dry_run_does_as_a_live_bot_does(run_bot: Callable[..., Bot], redis_server: Any) -> None:
    bot = run_bot(dry_run=True)
    eventually(lambda: "Changing state to: RUNNING" in bot.said(), bot.said, within=120)
    eventually(lambda: len(bot.orders()) >= 12, bot.said, within=120)
    acknowledged = trip_elsewhere(redis_server.url)
    eventually(
        lambda: len([at for side, at in bot.orders() if side == "sell" and at > acknowledged]) >= 2,
        bot.said,
        within=120,
    )
    assert max(at for side, at in bot.orders() if side == "buy") <= acknowledged + BOUND
    eventually(lambda: "Global pairlock active" in bot.said(), bot.said)


def venue_orders(url: str) -> list[tuple[str, float]]:
    """Side of each order, and when the exchange took it, in Unix seconds."""
    client = ccxt.binance({"apiKey": "key", "secret": "secret", "options": {"fetchMarkets": {"types": ["spot"]}}})
    for name in ("public", "private"):
        client.urls["api"][name] = f"{url}/api/v3"
    client.urls["api"]["sapi"] = f"{url}/sapi/v1"
    orders = [order for pair in PAIRS for order in client.fetch_orders(pair)]
    return [(order["side"], order["timestamp"] / 1000) for order in orders]
