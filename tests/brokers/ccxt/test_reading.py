"""What ccxt makes of an exchange's answers, where its words mean another thing from exchange to exchange."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import ccxt.async_support as ccxt
import pytest

from brokers.ccxt.reading import DECIMAL_PLACES, TICK_SIZE, failure_in, is_nothing, read_instrument, read_position
from brokers.ccxt.spot import is_dust

SIGNIFICANT_DIGITS = 3


def test_the_precision_modes_are_ccxts() -> None:
    assert (ccxt.DECIMAL_PLACES, ccxt.SIGNIFICANT_DIGITS, ccxt.TICK_SIZE) == (
        DECIMAL_PLACES,
        SIGNIFICANT_DIGITS,
        TICK_SIZE,
    )


@pytest.mark.parametrize(
    ("mode", "amount", "step"),
    [
        (TICK_SIZE, "0.001", Decimal("0.001")),
        (DECIMAL_PLACES, "4", Decimal("0.0001")),
        (DECIMAL_PLACES, "0", Decimal(1)),
        (SIGNIFICANT_DIGITS, "4", None),
        (TICK_SIZE, None, None),
    ],
)
def test_promise_7_a_number_of_digits_is_no_step_that_would_make_dust_of_what_is_held(
    mode: int, amount: str | None, step: Decimal | None
) -> None:
    instrument = read_instrument({"spot": True, "precision": {"amount": amount, "price": amount}}, mode)
    assert (instrument.quantity_increment, instrument.price_increment) == (step, step)
    assert not is_dust(Decimal(2), instrument, None)


def inverse(**more: Any) -> dict[str, Any]:
    return {"symbol": "BTC/USD:BTC", "side": "short", "contracts": "500", "hedged": False, "info": {}, **more}


@pytest.mark.parametrize(
    ("told", "worth"),
    [
        ({"notional": "0.83333", "markPrice": "60000"}, "49999.80"),
        ({"notional": "0.83333", "entryPrice": "60000"}, "49999.80"),
        ({"notional": "50001", "markPrice": "60000", "info": {"notionalUsd": "50001"}}, "50001.00"),
        ({"notional": None, "markPrice": "60000"}, "50000.00"),
        ({"notional": "0.83333"}, "50000.00"),
    ],
)
def test_an_inverse_position_is_worth_money_and_not_so_many_coins(told: dict[str, Any], worth: str) -> None:
    instrument = read_instrument({"swap": True, "inverse": True, "contractSize": "100", "precision": {}})
    held = read_position(inverse(**told), instrument)
    assert held is not None
    assert f"{held.notional:.2f}" == worth
    assert held.market_value is not None and held.market_value < 0


def test_nothing_is_only_what_says_so() -> None:
    assert is_nothing({"contracts": "0.0", "info": {"size": "0"}})
    assert not is_nothing({"contracts": None}) and not is_nothing({"contracts": "0", "info": {"size": ""}})
    assert not is_nothing({"contracts": "1"})


@pytest.mark.parametrize(
    ("body", "failed"),
    [
        ({"status": "500", "info": {}}, True),
        ({"status": "404", "info": {"msg": "no such order"}}, True),
        ({"status": "1", "info": {}}, False),
        ({"status": "30", "info": {}}, False),
        ({"status": "open", "info": {"code": 1000, "message": "OK"}}, False),
        ({"status": "open", "info": {"code": "SUCCESS"}}, False),
        ({"status": "open", "info": {"code": "51400", "msg": "cancelled already"}}, True),
        ({"status": "rejected"}, True),
    ],
)
def test_an_exchanges_own_word_for_how_an_order_stands_is_no_failure(body: dict[str, Any], failed: bool) -> None:
    assert bool(failure_in(body)) is failed
