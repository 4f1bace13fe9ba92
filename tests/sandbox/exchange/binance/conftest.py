"""Binance's own clients against the paper exchange on a thread of this process; they only get other URLs."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import ccxt.async_support as ccxt
import httpx
import pytest
from binance import Client

from sandbox.exchange.binance.acceptance import FuturesAcceptance, SpotAcceptance
from sandbox.exchange.exchange import Exchange
from sandbox.exchange.opening import open_exchange
from sandbox.exchange.scenario import Protocol, parse
from sandbox.exchange.server import PaperExchangeThread
from sandbox.exchange.venue_record import VenueRecord

FUTURES = 'protocol = "binance-futures"\nprices = { BTCUSDT = 95000, ETHUSDT = 3500, DOGEUSDT = 0.15 }\n'
SPOT = 'protocol = "binance-spot"\nprices = { "BTC/USDT" = 95000, "ETH/USDT" = 3500, "DOGE/USDT" = 0.15 }\n'
RULES = {Protocol.BINANCE_FUTURES: FuturesAcceptance, Protocol.BINANCE_SPOT: SpotAcceptance}


@pytest.fixture(scope="session")
def thread() -> Iterator[PaperExchangeThread]:
    with PaperExchangeThread() as exchange:
        yield exchange


@pytest.fixture
def venue(thread: PaperExchangeThread) -> Callable[[str], PaperExchangeThread]:
    """The server, started over with the scenario in this TOML."""

    def start(toml: str) -> PaperExchangeThread:
        thread.restart(parse(toml))
        return thread

    return start


@pytest.fixture
def market() -> Callable[[str], Exchange]:
    """An exchange in memory, without a server, its clock in the test's hand."""

    def start(toml: str) -> Exchange:
        scenario = parse(toml)
        return open_exchange(scenario, VenueRecord(), RULES[scenario.protocol])

    return start


def elsewhere(exchange: Any, url: str) -> Any:
    """The ccxt client with all its addresses at `url`."""
    api = exchange.urls["api"]
    for name, address in api.items():
        if isinstance(address, str):
            api[name] = url + urlsplit(address).path
    return exchange


def made(kind: str, url: str, **more: object) -> Any:
    options = {"fetchMarkets": {"types": ["linear" if kind == "binanceusdm" else "spot"]}}
    terms = {"apiKey": "key", "secret": "secret", "enableRateLimit": False, "options": options}
    exchange = elsewhere(getattr(ccxt, kind)({**terms, **more}), url)
    exchange.options["warnOnFetchOpenOrdersWithoutSymbol"] = False
    return exchange


@pytest.fixture
async def futures(thread: PaperExchangeThread) -> AsyncIterator[Any]:
    exchange = made("binanceusdm", thread.url)
    yield exchange
    await exchange.close()


@pytest.fixture
async def spot(thread: PaperExchangeThread) -> AsyncIterator[Any]:
    exchange = made("binance", thread.url)
    yield exchange
    await exchange.close()


@pytest.fixture
def second(thread: PaperExchangeThread) -> Iterator[Client]:
    """python-binance's client."""
    client = Client("key", "secret", ping=False)
    client.API_URL, client.FUTURES_URL = f"{thread.url}/api", f"{thread.url}/fapi"
    yield client
    client.close_connection()


@pytest.fixture
def http(thread: PaperExchangeThread) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=thread.url, headers={"X-MBX-APIKEY": "key"}, timeout=5) as client:
        yield client


def code_of(error: BaseException) -> int:
    """Binance's code in what a ccxt exception says; 0 where it says only the message."""
    _, brace, rest = str(error).partition("{")
    return int(json.loads(brace + rest)["code"]) if brace else 0
