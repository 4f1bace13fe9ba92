"""python-binance, another unmodified client, agrees."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal

import pytest
from binance import Client
from binance.exceptions import BinanceAPIException

from sandbox.exchange.server import PaperExchangeThread
from tests.sandbox.exchange.binance.conftest import FUTURES, SPOT

Venue = Callable[[str], PaperExchangeThread]
LIMIT = {
    "symbol": "BTCUSDT",
    "side": "BUY",
    "type": "LIMIT",
    "timeInForce": "GTC",
    "quantity": "0.01",
    "price": "80000",
}


def refused(call: Callable[[], object]) -> tuple[int, int]:
    with pytest.raises(BinanceAPIException) as error:
        call()
    return error.value.status_code, error.value.code


def test_futures_are_traded(venue: Venue, second: Client) -> None:
    exchange = venue(FUTURES + '[[positions]]\nsymbol = "BTCUSDT"\nqty = 0.5\n')
    listed = {each["symbol"] for each in second.futures_exchange_info()["symbols"]}
    assert {"BTCUSDT", "ETHUSDT"} <= listed
    (held,) = second.futures_position_information()
    assert (held["positionAmt"], held["positionSide"]) == ("0.500", "BOTH")
    assert Decimal(second.futures_account()["totalMarginBalance"]) > 0
    assert second.futures_account_balance()[0]["asset"] == "USDT"
    placed = [second.futures_create_order(**LIMIT, newClientOrderId=f"mine-{index}") for index in range(3)]
    assert len(second.futures_get_open_orders(symbol="BTCUSDT")) == 3
    found = second.futures_get_order(symbol="BTCUSDT", origClientOrderId="mine-0")
    assert found["orderId"] == placed[0]["orderId"]
    assert second.futures_cancel_order(symbol="BTCUSDT", orderId=found["orderId"])["status"] == "CANCELED"
    answers = second.futures_cancel_orders(symbol="BTCUSDT", orderidlist=[placed[1]["orderId"], 1])
    assert (answers[0]["status"], answers[1]["code"]) == ("CANCELED", -2011)
    assert second.futures_cancel_all_open_orders(symbol="BTCUSDT")["code"] == 200
    second.futures_create_order(symbol="BTCUSDT", side="SELL", type="MARKET", quantity="0.5", reduceOnly="true")
    assert second.futures_position_information() == []
    (trade,) = second.futures_account_trades(symbol="BTCUSDT")
    assert trade["qty"] == "0.500"
    assert exchange.report()["is_flat"] is True
    assert refused(lambda: second.futures_get_order(symbol="BTCUSDT", orderId=1)) == (400, -2013)


def test_algo_orders_and_the_countdown(venue: Venue, second: Client) -> None:
    exchange = venue(FUTURES + '[[positions]]\nsymbol = "BTCUSDT"\nqty = 0.5\n')
    stop = second.futures_create_algo_order(
        symbol="BTCUSDT", side="SELL", type="STOP_MARKET", triggerPrice="90000", closePosition="true"
    )
    assert (stop["algoStatus"], stop["closePosition"], stop["orderType"]) == ("NEW", True, "STOP_MARKET")
    assert second.futures_get_open_orders() == []
    assert [each["algoId"] for each in second.futures_get_open_algo_orders()] == [stop["algoId"]]
    answer = second.futures_cancel_algo_order(algoId=stop["algoId"])
    assert answer == {"algoId": stop["algoId"], "clientAlgoId": stop["clientAlgoId"], "code": "200", "msg": "success"}
    assert second.futures_get_algo_order(algoId=stop["algoId"])["algoStatus"] == "CANCELED"
    assert second.futures_cancel_all_algo_open_orders(symbol="BTCUSDT")["code"] == 200
    assert second.futures_countdown_cancel_all(symbol="BTCUSDT", countdownTime=120000)["countdownTime"] == "120000"
    assert list(exchange.report()["dead_man"]["armed"]) == ["BTCUSDT"]


def test_hedge_mode(venue: Venue, second: Client) -> None:
    exchange = venue(FUTURES)
    assert refused(lambda: second.futures_create_order(**LIMIT, positionSide="LONG")) == (400, -4061)
    second.futures_change_position_mode(dualSidePosition="true")
    assert second.futures_get_position_mode() == {"dualSidePosition": True}
    order = {"symbol": "BTCUSDT", "type": "MARKET", "quantity": "0.1"}
    second.futures_create_order(**order, side="BUY", positionSide="LONG")
    second.futures_create_order(**order, side="SELL", positionSide="SHORT")
    assert exchange.report()["positions"] == {"BTCUSDT long": "0.1", "BTCUSDT short": "-0.1"}
    legs = {each["positionSide"]: each["positionAmt"] for each in second.futures_position_information()}
    assert legs == {"LONG": "0.100", "SHORT": "-0.100"}
    second.futures_create_order(**order, side="SELL", positionSide="LONG")
    second.futures_create_order(**order, side="BUY", positionSide="SHORT")
    assert exchange.report()["is_flat"] is True


def test_spot_is_traded(venue: Venue, second: Client) -> None:
    exchange = venue(SPOT + 'account.cash = 10000\n[[positions]]\nsymbol = "BTC/USDT"\nqty = 0.5\n')
    assert second.ping() == {}
    info = second.get_symbol_info("BTCUSDT")
    assert info is not None and info["filters"][1]["stepSize"] == "0.00001000"
    assert second.get_asset_balance("BTC") == {"asset": "BTC", "free": "0.50000000", "locked": "0.00000000"}
    resting = second.create_order(**LIMIT)
    assert [each["orderId"] for each in second.get_open_orders()] == [resting["orderId"]]
    assert second.cancel_order(symbol="BTCUSDT", orderId=resting["orderId"])["status"] == "CANCELED"
    sold = second.order_market_sell(symbol="BTCUSDT", quantity="0.5")
    assert (sold["status"], sold["fills"][0]["qty"]) == ("FILLED", "0.50000000")
    bought = second.order_market_buy(symbol="ETHUSDT", quoteOrderQty="7000")
    assert bought["executedQty"] == "2.00000000"
    assert exchange.report()["positions"] == {"ETHUSDT": "2"}
    assert refused(lambda: second.order_market_sell(symbol="ETHUSDT", quantity="3")) == (400, -2010)


def test_wrong_keys(venue: Venue, second: Client) -> None:
    venue(SPOT + 'account.secret = "another"\n')
    assert refused(second.get_account) == (400, -1022)
    venue(SPOT + 'account.key = "another"\n')
    assert refused(second.get_account) == (401, -2015)
    venue(SPOT + "clock_ahead_ms = 60000\n")
    assert refused(second.get_account) == (400, -1021)
