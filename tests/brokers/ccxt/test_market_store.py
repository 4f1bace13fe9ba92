"""What an exchange lists is kept on disk, and whatever is wrong with that harms nothing."""

from __future__ import annotations

import gzip
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from brokers.ccxt import market_store
from brokers.ccxt.market_store import KeptMarkets, MarketStore

NOW = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
BTC = {
    "id": "BTCUSDT",
    "symbol": "BTC/USDT:USDT",
    "info": {"orderTypes": ["LIMIT"]},
    "limits": {"amount": {"min": "1"}},
}
KEPT = KeptMarkets(NOW, "4.5", [BTC, {**BTC, "id": "ETHUSDT", "symbol": "ETH/USDT:USDT"}], {"byName": {"a": "b"}})


def written(path: Path, *lines: object) -> None:
    path.write_bytes(gzip.compress("\n".join(json.dumps(line) for line in lines).encode()))


def head(**more: object) -> dict[str, object]:
    return {"read_at": NOW.isoformat(), "ccxt": "4.5", "markets": 1, "helpers": {}, **more}


def test_a_list_is_read_back_as_it_was_and_the_newest_wins(tmp_path: Path) -> None:
    store = MarketStore(tmp_path / "markets", "binanceusdm", "swap")
    store.write(KEPT)
    assert store.read() == KEPT
    newer = KeptMarkets(NOW + timedelta(hours=1), "4.6", [BTC], {})
    store.write(newer)
    assert store.read() == newer
    assert [file.name for file in store.directory.iterdir()] == ["binanceusdm-swap.jsonl.gz"]
    assert (store.path.stat().st_mode & 0o777, store.directory.stat().st_mode & 0o777) == (0o600, 0o700)


def test_each_exchange_market_and_place_has_its_own_and_the_name_tells_nothing_of_the_place(tmp_path: Path) -> None:
    stores = [
        MarketStore(tmp_path, exchange, market, place)
        for exchange in ("bybit", "okx")
        for market in ("spot", "swap")
        for place in ("", '{"urls": "http://desk:secret@host"}')
    ]
    assert len({store.path for store in stores}) == len(stores)
    assert not any("secret" in store.path.name or "host" in store.path.name for store in stores)


@pytest.mark.parametrize(
    ("age", "version", "at_once"),
    [
        (timedelta(hours=24), "4.5", True),
        (timedelta(hours=24, seconds=1), "4.5", False),
        (timedelta(seconds=-1), "4.5", False),
        (timedelta(0), "4.6", False),
    ],
)
def test_up_to_a_day_it_serves_at_once(age: timedelta, version: str, at_once: bool) -> None:
    assert KEPT.serves_at_once(NOW + age, version) is at_once


def test_what_can_not_be_read_is_as_if_it_were_not_there(tmp_path: Path) -> None:
    store = MarketStore(tmp_path, "bybit", "spot")
    assert store.read() is None
    store.write(KEPT)
    whole = store.path.read_bytes()
    for content in (b"", b"not gzip", whole[:-20], whole[:40], whole[:60] + b"\xff\xff" + whole[62:]):
        store.path.write_bytes(content)
        assert store.read() is None, content
    cases: tuple[list[object], ...] = (
        [],
        [[]],
        [head()],
        [head(markets=2), BTC],
        [head(read_at="yesterday"), BTC],
        [head(read_at="2026-01-02T03:04:00"), BTC],
        [head(helpers=1), BTC],
        [head(), 7],
        [head(), {"symbol": "BTC/USDT"}],
        [head(), {"symbol": None, "id": "BTCUSDT"}],
    )
    for lines in cases:
        written(store.path, *lines)
        assert store.read() is None, lines
    written(store.path, head(), BTC)
    assert store.read() == KeptMarkets(NOW, "4.5", [BTC], {})


def test_one_that_is_too_long_is_neither_kept_nor_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = MarketStore(tmp_path, "bybit", "spot")
    store.write(KEPT)
    before = store.path.read_bytes()
    monkeypatch.setattr(market_store, "MOST_BYTES", 300)
    with pytest.raises(ValueError, match="more than the 300 that are kept"):
        store.write(KEPT)
    assert store.path.read_bytes() == before
    assert store.read() is None
