"""An exchange whose list of markets is slow, or isn't told at all, stops no reading, cancel or close."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from brokers.ccxt import CcxtBroker, from_settings, markets, place_of
from brokers.ccxt.market_store import MarketStore
from brokers.protocol import BrokerUnavailable, CancelOutcome, CloseOutcome
from configuration.accounts import AccountSettings
from tests.brokers.ccxt.local_exchange import KEY, SECRET, LocalExchange, Told, futures_market, serving
from tests.brokers.ccxt.test_binance_futures import (
    ALGOS,
    BTC,
    CANCEL,
    ORDERS,
    PLACE,
    POSITIONS,
    SELL,
    answers,
    order,
    position,
)
from tests.helpers import PATIENCE, in_time

LISTED = "GET /fapi/v1/exchangeInfo"
BOTH = {"symbols": [futures_market("BTCUSDT", "BTC"), futures_market("NEWUSDT", "NEW")]}
NEW = "NEW/USDT:USDT"
DOWN = Told({"code": -1, "msg": "down"}, 503)
NEVER = Told({}, after=3600.0)
TIMEOUT = 1.0


class Account:
    """One account at a local exchange, opened as often as a process begins anew."""

    def __init__(self, exchange: LocalExchange, url: str, directory: Path) -> None:
        self.exchange = exchange
        self.settings = AccountSettings.model_validate(
            {
                "adapter": "ccxt",
                "exchange": "binanceusdm",
                "key_id": KEY,
                "secret_key": SECRET,
                "urls": url,
                "request_timeout": TIMEOUT,
            }
        )
        self.directory = directory

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[CcxtBroker]:
        broker = from_settings("ALPHA", self.settings, self.directory)
        try:
            yield broker
        finally:
            await broker.aclose()

    @property
    def store(self) -> MarketStore:
        return MarketStore(self.directory, "binanceusdm", "swap", place_of(self.settings))

    def lists_asked_for(self) -> int:
        return len(self.exchange.of(LISTED))

    def age(self, by: timedelta) -> None:
        """Make what is kept older."""
        kept = self.store.read()
        assert kept is not None
        self.store.write(replace(kept, read_at=kept.read_at - by))


@asynccontextmanager
async def account(directory: Path, **given: Any) -> AsyncIterator[Account]:
    """An account whose exchange's list was read, and kept, by a process that has ended."""
    at_first = {**answers(), LISTED: {"symbols": [futures_market("BTCUSDT", "BTC")]}}
    async with serving(at_first) as (exchange, url):
        found = Account(exchange, url, directory / "markets")
        async with found.opened() as broker:
            await broker.clock()
        exchange.asked.clear()
        exchange.answers |= given
        yield found


async def until(holds: Any) -> None:
    async with asyncio.timeout(PATIENCE):
        while not await holds():
            await asyncio.sleep(0.01)


async def test_a_list_of_today_is_used_at_once_and_the_exchange_is_not_asked_for_it(tmp_path: Path) -> None:
    async with account(tmp_path, **{CANCEL: order(1, status="CANCELED")}) as known, known.opened() as broker:
        assert (await broker.cancel(f"1@{BTC}")).outcome is CancelOutcome.ACCEPTED
        assert [asked.route for asked in known.exchange.asked] == [CANCEL]
        assert await broker.instruments([BTC]), "with all that the exchange has said of it"


async def test_it_is_replaced_beside_everything_else_after_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(markets, "REFRESHED_AFTER", 0.0)
    async with account(tmp_path, **{LISTED: Told(BOTH, after=0.2)}) as known:
        before = known.store.read()
        async with known.opened() as broker:

            async def newer() -> bool:
                return NEW in await broker.instruments([NEW])

            assert not await newer(), "nobody waits for it"
            await until(newer)
        after = known.store.read()
        assert before is not None and after is not None
        assert (len(before.markets), len(after.markets), known.lists_asked_for()) == (1, 2, 1)
        assert after.read_at > before.read_at


async def test_a_list_of_yesterday_waits_for_the_exchanges_newer_one(tmp_path: Path) -> None:
    async with account(tmp_path, **{LISTED: BOTH}) as known:
        known.age(timedelta(hours=25))
        async with known.opened() as broker:
            assert {*await broker.instruments([BTC, NEW])} == {BTC, NEW}


@pytest.mark.parametrize(
    "listed", [DOWN, NEVER, Told({"symbols": []}), Told("nonsense")], ids=["503", "never", "empty", "senseless"]
)
async def test_however_old_it_is_used_when_the_exchange_can_not_answer_and_one_line_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, listed: Told
) -> None:
    given = {LISTED: listed, CANCEL: order(1, status="CANCELED"), PLACE: order(2), POSITIONS: [position("0.5")]}
    async with account(tmp_path, **given) as known:
        known.age(timedelta(days=40))
        caplog.clear()
        with in_time(5 * TIMEOUT):
            async with known.opened() as broker:
                assert (await broker.cancel(f"1@{BTC}")).outcome is CancelOutcome.ACCEPTED
                assert [held.symbol for held in await broker.positions()] == [BTC]
                assert (await broker.close(SELL)).outcome is CloseOutcome.ACCEPTED
    (line,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert line.startswith("ALPHA: ") and "list of markets" in line and "\n" not in line
    assert f"its list of {known.store.read().read_at:%Y-%m-%d %H:%M} UTC is used" in line  # type: ignore[union-attr]


async def test_without_any_list_a_cold_start_says_that_the_exchange_can_not_tell_it(tmp_path: Path) -> None:
    async with account(tmp_path, **{LISTED: DOWN}) as known:
        known.store.path.write_bytes(b"damaged")
        async with known.opened() as broker:
            with pytest.raises(BrokerUnavailable, match="ALPHA: list of markets at binanceusdm"):
                await broker.positions()


async def test_a_damaged_list_is_as_none(tmp_path: Path) -> None:
    async with account(tmp_path) as known:
        known.store.path.write_bytes(known.store.path.read_bytes()[:-30])
        async with known.opened() as broker:
            assert BTC in await broker.instruments([BTC])
        assert known.lists_asked_for() == 1
        assert known.store.read() is not None, "and the next one is kept"


async def test_one_that_ccxt_can_make_nothing_of_is_as_none(tmp_path: Path) -> None:
    async with account(tmp_path) as known:
        kept = known.store.read()
        assert kept is not None
        known.store.write(replace(kept, markets=[{"symbol": BTC, "id": ["BTCUSDT"]}]))
        async with known.opened() as broker:
            assert BTC in await broker.instruments([BTC])
        assert known.lists_asked_for() == 1


@pytest.mark.parametrize("listed", [DOWN, NEVER], ids=["503", "never"])
async def test_a_position_in_what_is_not_in_the_list_is_named_and_the_others_are_there(
    tmp_path: Path, listed: Told
) -> None:
    given = {
        LISTED: listed,
        POSITIONS: [position("0.5"), position("7", symbol="NEWUSDT")],
        CANCEL: order(1, status="CANCELED"),
    }
    async with account(tmp_path, **given) as known, known.opened() as broker:
        await broker.positions()
        assert (await broker.cancel(f"1@{BTC}")).outcome is CancelOutcome.ACCEPTED, "no request waits for the list"
        for _ in range(3):
            with in_time(2 * TIMEOUT):
                positions = await broker.positions()
            assert [held.symbol for held in positions.items] == [BTC]
            assert "NEWUSDT" in str(positions.unreadable[0])
        assert known.lists_asked_for() == 1, "and the exchange isn't asked for its list each time"


async def test_once_the_exchange_tells_it_a_new_market_has_positions_and_orders_that_go(tmp_path: Path) -> None:
    given = {
        LISTED: Told(BOTH, after=0.2),
        POSITIONS: [position("7", symbol="NEWUSDT")],
        ORDERS: [order(1, symbol="NEWUSDT")],
        ALGOS: [],
        CANCEL: order(1, symbol="NEWUSDT", status="CANCELED"),
    }
    async with account(tmp_path, **given) as known, known.opened() as broker:
        (unknown,) = await broker.open_orders()
        refused = await broker.cancel(unknown.id)
        assert refused.outcome is CancelOutcome.REFUSED and "NEWUSDT" in refused.reason

        async def listed() -> bool:
            return {each.symbol for each in await broker.open_orders()} == {NEW}

        await until(listed)
        (known_now,) = await broker.open_orders()
        assert (await broker.cancel(known_now.id)).outcome is CancelOutcome.ACCEPTED
        assert [held.symbol for held in await broker.positions()] == [NEW]
        assert known.lists_asked_for() == 1


async def test_a_disk_that_takes_nothing_stops_nothing_and_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with account(tmp_path) as known:
        (tmp_path / "file").write_text("")
        known.directory = tmp_path / "file"
        async with known.opened() as broker:
            assert BTC in await broker.instruments([BTC])
    assert "could not be written, so that a list of markets is not kept" in caplog.text


async def test_nothing_of_the_account_is_kept_and_a_process_that_ends_leaves_nothing_under_way(tmp_path: Path) -> None:
    async with account(tmp_path, **{LISTED: NEVER}) as known:
        known.age(timedelta(days=2))
        async with known.opened() as broker:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(broker.positions(), TIMEOUT / 10)
        assert [task for task in asyncio.all_tasks() if "arkets" in repr(task.get_coro())] == []
        kept = gzip.decompress(known.store.path.read_bytes()).decode() + known.store.path.name
    assert KEY not in kept and SECRET not in kept and "127.0.0.1" not in kept
