"""Where the extra `ccxt` is not installed its accounts say so in a line, and the other accounts are closed."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from breaker.uuid7 import uuid7
from brokers.protocol import BrokerRefused
from brokers.registry import open_brokers
from configuration.accounts import AccountSettings
from proofs.tws_kills import kill
from sandbox.embedded_redis import EmbeddedRedis
from sandbox.exchange.server import PaperExchangeThread
from tests.brokers.ccxt.local_exchange import opened
from tests.brokers.ccxt.test_binance_futures import BTC, SELL
from tests.tasks.campaign import kill_settings, scale_time, scaled

SENTENCE = 'the adapter ccxt needs a package that is not installed: pip install "trading-breaker-ops[ccxt]"'


@pytest.fixture(autouse=True)
def _not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python's own way to say that there is no such module, whoever asks for it."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "ccxt"] + ["ccxt"]:
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "ccxt", None)


@pytest.fixture
def exchange(monkeypatch: pytest.MonkeyPatch) -> Iterator[PaperExchangeThread]:
    scale_time(monkeypatch)
    with PaperExchangeThread() as server:
        yield server


async def test_whatever_is_asked_is_refused_with_what_to_install() -> None:
    async with opened("http://127.0.0.1:1") as broker:
        for asked in (broker.open_orders, broker.positions, broker.account, broker.clock):
            with pytest.raises(BrokerRefused) as refused:
                await asked()
            assert SENTENCE in str(refused.value) and "\n" not in str(refused.value)
            assert str(refused.value).startswith("ALPHA: ")
        with pytest.raises(BrokerRefused, match="trading-breaker-ops"):
            await broker.cancel(f"1@{BTC}")
        with pytest.raises(BrokerRefused, match="trading-breaker-ops"):
            await broker.close(SELL)


async def test_the_other_accounts_are_closed(exchange: PaperExchangeThread, redis_server: EmbeddedRedis) -> None:
    exchange.restart(scaled("[book]\norders = 5\npositions = 4\n"))
    keys = {"key_id": "key", "secret_key": "secret", "requests_per_minute": 1_000_000}
    accounts = {
        "CRYPTO": {"adapter": "ccxt", "exchange": "binanceusdm", "urls": exchange.url, **keys},
        "PAPER": {"base_url": exchange.url, **keys},
    }
    brokers = open_brokers({name: AccountSettings.model_validate(given) for name, given in accounts.items()})
    report = await kill(brokers, redis_server.url, incident_id=uuid7(), settings=kill_settings(deadline=60.0))
    crypto, paper = sorted(report.accounts, key=lambda progress: progress.account)
    assert paper.flat and not crypto.flat and not report.flat
    assert SENTENCE in crypto.note and "\n" not in crypto.note
    assert not exchange.report()["positions"]
