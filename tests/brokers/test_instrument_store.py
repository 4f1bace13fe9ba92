"""What venues said of their instruments is kept on disk, and whatever is wrong with that harms nothing."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from breaker.instruments import CRYPTO, EQUITY, AssetClass, Instrument, Session
from brokers.instrument_store import InstrumentStore

_NUMBERS = st.none() | st.decimals(min_value="0.000000001", max_value=10**9, places=9)
_LOWEST = st.decimals(min_value=0, max_value=10**6, places=4)
_STEPS = st.decimals(min_value="0.0001", max_value=10, places=4)
INSTRUMENTS = st.builds(
    Instrument,
    st.sampled_from(AssetClass),
    multiplier=st.decimals(min_value="0.001", max_value=1000, places=3),
    price_increment=_NUMBERS,
    quantity_increment=_NUMBERS,
    minimum_quantity=_NUMBERS,
    maximum_quantity=_NUMBERS,
    minimum_notional=_NUMBERS,
    trades=st.none() | st.sampled_from(Session),
    price_bands=st.lists(st.tuples(_LOWEST, _STEPS), max_size=3).map(tuple),
    inverse=st.booleans(),
)


@given(st.dictionaries(st.text(min_size=1), INSTRUMENTS, max_size=4))
def test_every_instrument_is_read_back_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, found: dict[str, Instrument]
) -> None:
    store = InstrumentStore(tmp_path_factory.mktemp("state") / "instruments", "ALPHA/1")
    store.add(found)
    assert store.read() == found


def test_what_is_learnt_later_stands_beside_what_was_known_and_in_the_place_of_what_it_replaces(tmp_path: Path) -> None:
    store = InstrumentStore(tmp_path, "ALPHA")
    store.add({"BTCUSD": CRYPTO, "ETHUSD": CRYPTO})
    finer = Instrument(AssetClass.CRYPTO, price_increment=Decimal("0.01"))
    store.add({"BTCUSD": finer})
    assert store.read() == {"BTCUSD": finer, "ETHUSD": CRYPTO}
    assert InstrumentStore(tmp_path, "BETA").read() == {}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff",
        b"[]",
        b'{"A": 1}',
        b'{"A": {}}',
        b'{"A": {"asset_class": "tulips"}}',
        b'{"A": {"asset_class": "crypto", "price_increment": "0"}}',
        b'{"A": {"asset_class": "crypto", "price_increment": "NaN"}}',
        b'{"A": {"asset_class": "equity", "price_bands": "0:0"}}',
        b'{"A": {"asset_class": "equity", "price_bands": "0 0.01"}}',
        b'{"A": {"asset_class": "equity", "price_bands": "0:NaN"}}',
        b'{"A": {"asset_class": "crypto", "of_a_newer_version": "1"}}',
    ],
)
def test_what_can_not_be_read_is_as_if_it_were_not_there(tmp_path: Path, content: bytes) -> None:
    store = InstrumentStore(tmp_path, "ALPHA")
    store.path.write_bytes(content)
    assert store.read() == {}
    store.add({"AAPL": EQUITY})
    assert store.read() == {"AAPL": EQUITY}


def test_a_position_says_more_than_what_is_kept_and_what_is_assumed_says_less() -> None:
    kept = Instrument(AssetClass.CRYPTO, price_increment=Decimal("0.01"), minimum_quantity=Decimal(1))
    own = Instrument(AssetClass.CRYPTO, price_increment=Decimal("0.5"))
    completed = own.completed_by(kept)
    assert (completed.price_increment, completed.minimum_quantity) == (Decimal("0.5"), Decimal(1))
    assert EQUITY.completed_by(kept) == kept
    bands = ((Decimal(0), Decimal("0.0001")), (Decimal(1), Decimal("0.05")))
    assert own.completed_by(replace(kept, price_bands=bands)).price_bands == bands


def test_where_the_step_depends_on_the_price_a_limit_is_on_the_step_of_its_band() -> None:
    bands = ((Decimal(0), Decimal("0.0001")), (Decimal(1), Decimal("0.05")))
    stock = Instrument(price_increment=Decimal("0.0001"), price_bands=bands)
    assert stock.price(Decimal("0.99995"), up=True) == 1 and stock.price(Decimal("1.04"), up=False) == 1
    assert stock.price(Decimal("1.01"), up=True) == Decimal("1.05")
    assert stock.price(Decimal("0.00001"), up=False) == Decimal("0.0001")
