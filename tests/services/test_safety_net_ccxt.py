"""A timer for each symbol, by the adapter and the exchange that desks have: ccxt, at the sandbox's Binance USDⓈ-M."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import redis
from pydantic import SecretStr

from breaker import CircuitBreaker
from configuration.accounts import AccountSettings
from configuration.settings import GivenSettings
from sandbox.embedded_redis import EmbeddedRedis
from sandbox.exchange.scenario import parse
from sandbox.exchange.server import PaperExchangeThread
from services.safety_nets import SafetyNets
from tasks.safety_nets.decision import Standing
from tests.services.test_safety_nets import standing_so

BOOK = """
protocol = "binance-futures"
prices = { BTCUSDT = 95000, ETHUSDT = 3500, DOGEUSDT = 0.15 }
[[orders]]
symbol = "BTCUSDT"
side = "buy"
type = "limit"
qty = 0.1
limit_price = 50000
"""


def test_each_symbol_with_orders_is_armed_and_disarmed_at_the_end(
    redis_server: EmbeddedRedis, redis_client: redis.Redis, tmp_path: Path
) -> None:
    CircuitBreaker(redis_client).initialize_state()
    with PaperExchangeThread(parse(BOOK)) as exchange:
        account = AccountSettings(
            adapter="ccxt",
            exchange="binanceusdm",
            urls=exchange.url,
            key_id=SecretStr("key"),
            secret_key=SecretStr("secret"),
            safety_net=3_600,
            request_timeout=20,
        )
        nets = SafetyNets(
            GivenSettings(redis_url=SecretStr(redis_server.url), state_dir=tmp_path, accounts={"ALPHA": account}),
            every=0.1,
        )
        thread = threading.Thread(target=lambda: asyncio.run(nets.run()))
        thread.start()
        try:
            record = standing_so(redis_client, Standing.ARMED)
            assert record.covers == ("BTC/USDT:USDT",) and record.verified and record.seconds_left is not None
            assert list(exchange.report()["dead_man"]["armed"]) == ["BTCUSDT"]
        finally:
            nets.stop()
            thread.join(60)
        assert not thread.is_alive()
        assert exchange.report()["dead_man"] == {"armed": {}, "fired": []}
