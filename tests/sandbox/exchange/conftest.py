from __future__ import annotations

from collections.abc import Callable, Iterator

import httpx
import pytest
from alpaca.trading.client import TradingClient

from sandbox.exchange.exchange import Exchange
from sandbox.exchange.opening import open_exchange
from sandbox.exchange.scenario import Scenario, parse
from sandbox.exchange.server import PaperExchange
from sandbox.exchange.venue_record import VenueRecord

KEYS = {"APCA-API-KEY-ID": "key", "APCA-API-SECRET-KEY": "secret"}


@pytest.fixture(scope="session")
def server() -> Iterator[PaperExchange]:
    with PaperExchange() as exchange:
        yield exchange


@pytest.fixture
def venue(server: PaperExchange) -> Callable[[str], PaperExchange]:
    """The real server, started over with the scenario in this TOML."""

    def start(toml: str = "") -> PaperExchange:
        server.restart(parse(toml))
        return server

    return start


@pytest.fixture
def http(server: PaperExchange) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, headers=KEYS, timeout=5) as client:
        yield client


@pytest.fixture
def alpaca(server: PaperExchange) -> TradingClient:
    return TradingClient("key", "secret", url_override=server.url)


@pytest.fixture
def market() -> Callable[[str], Exchange]:
    """An exchange in memory, without a server, its clock in the test's hand."""

    def start(toml: str = "") -> Exchange:
        scenario: Scenario = parse(toml)
        return open_exchange(scenario, VenueRecord())

    return start
