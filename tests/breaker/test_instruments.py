"""What an instrument is worth, and gains: things and contracts by their price, inverse contracts by their coins."""

from __future__ import annotations

from decimal import Decimal

import pytest

from breaker.instruments import EQUITY, AssetClass, Instrument
from breaker.orders import Position

D = Decimal
INVERSE = Instrument(AssetClass.PERPETUAL, multiplier=D(100), inverse=True)
LINEAR = Instrument(AssetClass.PERPETUAL, multiplier=D("0.01"))


@pytest.mark.parametrize(
    ("instrument", "worth", "gain"),
    [(EQUITY, D(-600_000), D(-100_000)), (LINEAR, D(-6_000), D(-1_000)), (INVERSE, D(-1_000), D(-200))],
)
def test_ten_short_from_50000_at_60000(instrument: Instrument, worth: Decimal, gain: Decimal) -> None:
    assert instrument.worth(D(-10), D(60_000)) == worth
    assert instrument.gain(D(-10), D(50_000), D(60_000)) == gain


def test_what_an_inverse_contract_gains_are_the_coins_that_its_money_no_longer_buys() -> None:
    coins = 10 * D(100) * (1 / D(50_000) - 1 / D(40_000))
    assert INVERSE.gain(D(10), D(50_000), D(40_000)) == coins * 40_000


def test_a_value_in_money_tells_no_price_of_an_inverse_contract() -> None:
    held = Position("BTC/USD:BTC", D(50), D(50), D(50_000), market_value=D(5_001), instrument=INVERSE)
    assert held.market_price is None and held.notional == 5_001
    told = Position("BTC/USD:BTC", D(50), D(50), D(50_000), current_price=D(60_000), instrument=INVERSE)
    assert told.market_price == 60_000 and told.notional == 5_000
