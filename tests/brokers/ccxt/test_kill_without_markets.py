"""Promise 5 through ccxt: an exchange that doesn't tell what it lists, and takes orders, is flattened all the same."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from brokers.ccxt import from_settings, place_of
from brokers.ccxt.market_store import MarketStore
from sandbox.embedded_redis import EmbeddedRedis
from sandbox.exchange.server import PaperExchange
from tests.brokers.ccxt.kills import HEDGED, ONE_WAY, SPOT, Market, account_of, run
from tests.tasks.campaign import kill_settings, scale_time, scaled

pytestmark = [pytest.mark.usefixtures("scaled_time"), pytest.mark.timeout(120)]

BOOK = "latency_ms = 5\n[book]\norders = 8\npositions = 4\n"
DOWN = '[[trouble]]\nkind = "{}"\nroutes = ["GET */exchangeInfo"]\n'


@pytest.fixture(scope="module")
def exchange() -> Iterator[PaperExchange]:
    with PaperExchange() as server:
        yield server


@pytest.fixture
def scaled_time(monkeypatch: pytest.MonkeyPatch) -> None:
    scale_time(monkeypatch)


async def known_list(exchange: PaperExchange, market: Market, directory: Path) -> MarketStore:
    """What a process that has ended has kept of this exchange, made two days old."""
    exchange.restart(scaled(market.toml + BOOK, 1))
    account = account_of(exchange, market)
    broker = from_settings("PAPER", account, directory)
    await broker.clock()
    await broker.aclose()
    store = MarketStore(directory, market.settings["exchange"], market.settings["market"], place_of(account))
    kept = store.read()
    assert kept is not None
    store.write(replace(kept, read_at=kept.read_at - timedelta(days=2)))
    return store


@pytest.mark.parametrize("trouble", ["503", "timeout"])
@pytest.mark.parametrize("market", [HEDGED, SPOT], ids=lambda market: market.name)
async def test_promise_5_an_account_is_flattened_though_its_exchange_does_not_tell_its_markets(
    market: Market, trouble: str, exchange: PaperExchange, redis_server: EmbeddedRedis, tmp_path: Path
) -> None:
    await known_list(exchange, market, tmp_path)
    toml = BOOK + DOWN.format(trouble)
    outcome = await run(exchange, redis_server.url, market, toml, seed=1, markets_dir=tmp_path)
    assert outcome.faults() == []
    assert outcome.said_flat and outcome.is_flat, outcome.stuck or outcome.venue


async def test_a_position_in_what_was_listed_since_is_named_and_the_others_are_closed(
    exchange: PaperExchange, redis_server: EmbeddedRedis, tmp_path: Path
) -> None:
    store = await known_list(exchange, ONE_WAY, tmp_path)
    held = sorted(exchange.report()["positions"])
    kept = store.read()
    assert kept is not None
    store.write(replace(kept, markets=[each for each in kept.markets if each["id"] != held[0]]))
    impatient = kill_settings(deadline=20.0, stuck_after=5.0)
    toml = BOOK + DOWN.format("503")
    outcome = await run(exchange, redis_server.url, ONE_WAY, toml, 1, impatient, markets_dir=tmp_path)
    assert not outcome.said_flat
    assert sorted(outcome.venue["positions"]) == held[:1]
    (account,) = outcome.report.accounts
    assert held[0] in str(account)
