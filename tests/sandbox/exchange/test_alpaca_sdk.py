"""Alpaca's own SDK, unchanged, goes through everything it offers for orders and positions."""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest
from alpaca.common.exceptions import APIError
from alpaca.trading.client import TradingClient
from alpaca.trading.enums import (
    AssetClass,
    OrderClass,
    OrderSide,
    OrderStatus,
    PositionIntent,
    QueryOrderStatus,
    TimeInForce,
)
from alpaca.trading.models import Order, TradeActivity
from alpaca.trading.requests import (
    ClosePositionRequest,
    GetOrdersRequest,
    LimitOrderRequest,
    MarketOrderRequest,
    OptionLegRequest,
    ReplaceOrderRequest,
    StopLimitOrderRequest,
    StopLossRequest,
    StopOrderRequest,
    TakeProfitRequest,
    TrailingStopOrderRequest,
)

from sandbox.exchange.server import PaperExchange

Venue = Callable[..., PaperExchange]
Sdk = Any  # The methods of its TradingClient are annotated as returning raw JSON as well.
PRICES = "[prices]\nAAPL = 200\nMSFT = 400\n"
LONG_AAPL = PRICES + '[[positions]]\nsymbol = "AAPL"\nqty = 100\n'


def market_order(side: OrderSide, **fields: object) -> MarketOrderRequest:
    return MarketOrderRequest(**{"symbol": "AAPL", "side": side, "time_in_force": TimeInForce.DAY} | fields)


def limit_order(side: OrderSide, price: float, **fields: object) -> LimitOrderRequest:
    terms = {"symbol": "AAPL", "side": side, "qty": 10, "time_in_force": TimeInForce.GTC, "limit_price": price}
    return LimitOrderRequest(**terms | fields)


def refusal(error: pytest.ExceptionInfo[APIError]) -> tuple[int, dict[str, object]]:
    return error.value.status_code, json.loads(str(error.value))


def test_account_clock_and_assets(venue: Venue, alpaca: Sdk) -> None:
    venue(PRICES + "[account]\nequity = 50000\n")
    account = alpaca.get_account()
    assert Decimal(account.equity) == 50_000
    assert Decimal(account.buying_power) == 200_000
    assert account.trading_blocked is False
    assert alpaca.get_account_configurations().suspend_trade is False
    clock = alpaca.get_clock()
    assert clock.is_open
    assert clock.timestamp < clock.next_close
    asset = alpaca.get_asset("AAPL")
    assert asset.symbol == alpaca.get_asset(asset.id).symbol == "AAPL"
    assert {"AAPL", "MSFT"} <= {each.symbol for each in alpaca.get_all_assets()}


def test_a_market_order_makes_a_position_and_a_close_ends_it(venue: Venue, alpaca: Sdk) -> None:
    venue(PRICES)
    bought = alpaca.submit_order(market_order(OrderSide.BUY, qty=10, client_order_id="mine"))
    assert bought.status in {OrderStatus.NEW, OrderStatus.ACCEPTED}

    filled = alpaca.get_order_by_client_id("mine")
    assert (filled.id, filled.status, filled.filled_qty) == (bought.id, OrderStatus.FILLED, "10")
    position = alpaca.get_open_position("AAPL")
    assert (position.qty, position.qty_available, position.avg_entry_price) == ("10", "10", "200")
    assert [p.symbol for p in alpaca.get_all_positions()] == ["AAPL"]

    closing = alpaca.close_position("AAPL")
    assert (closing.side, closing.qty) == (OrderSide.SELL, "10")
    assert alpaca.get_all_positions() == []
    with pytest.raises(APIError) as error:
        alpaca.get_open_position("AAPL")
    assert refusal(error) == (404, {"code": 40410000, "message": "position does not exist"})


def test_close_with_quantity_and_with_percentage(venue: Venue, alpaca: Sdk) -> None:
    venue(LONG_AAPL)
    alpaca.close_position("AAPL", ClosePositionRequest(qty="30"))
    assert alpaca.get_open_position("AAPL").qty == "70"
    alpaca.close_position("AAPL", ClosePositionRequest(percentage="50"))
    assert alpaca.get_open_position("AAPL").qty == "35"


def test_a_short_is_closed_by_buying(venue: Venue, alpaca: Sdk) -> None:
    venue(PRICES)
    alpaca.submit_order(market_order(OrderSide.SELL, qty=7))
    assert alpaca.get_open_position("AAPL").qty == "-7"
    assert alpaca.close_position("AAPL").side == OrderSide.BUY
    assert alpaca.get_all_positions() == []


def test_fractions_by_quantity_and_by_notional(venue: Venue, alpaca: Sdk) -> None:
    venue(PRICES)
    alpaca.submit_order(market_order(OrderSide.BUY, qty=0.5))
    by_notional = alpaca.submit_order(market_order(OrderSide.BUY, notional=50))
    assert (by_notional.qty, by_notional.notional) == (None, "50")
    assert alpaca.get_open_position("AAPL").qty == "0.75"
    with pytest.raises(APIError) as error:
        alpaca.submit_order(market_order(OrderSide.SELL, symbol="MSFT", qty=0.5))
    assert refusal(error) == (422, {"code": 42210000, "message": "fractional orders cannot be sold short"})


@pytest.mark.parametrize(
    "request_",
    [
        limit_order(OrderSide.BUY, 150),
        StopOrderRequest(symbol="AAPL", side=OrderSide.BUY, qty=10, time_in_force=TimeInForce.GTC, stop_price=250),
        StopLimitOrderRequest(
            symbol="AAPL", side=OrderSide.BUY, qty=10, time_in_force=TimeInForce.GTC, stop_price=250, limit_price=260
        ),
        TrailingStopOrderRequest(
            symbol="AAPL", side=OrderSide.BUY, qty=10, time_in_force=TimeInForce.GTC, trail_percent=5
        ),
    ],
    ids=lambda request: str(request.type.value),
)
def test_resting_orders_rest_until_cancelled(venue: Venue, alpaca: Sdk, request_: LimitOrderRequest) -> None:
    venue(PRICES)
    order = alpaca.submit_order(request_)
    assert alpaca.get_order_by_id(order.id).status == OrderStatus.NEW
    alpaca.cancel_order_by_id(order.id)
    cancelled = alpaca.get_order_by_id(order.id)
    assert cancelled.status == OrderStatus.CANCELED
    assert cancelled.canceled_at is not None
    assert alpaca.get_orders() == []


def test_cancelling_what_is_filled_or_unknown_is_refused(venue: Venue, alpaca: Sdk) -> None:
    venue(PRICES)
    order = alpaca.submit_order(market_order(OrderSide.BUY, qty=1))
    with pytest.raises(APIError) as error:
        alpaca.cancel_order_by_id(order.id)
    assert refusal(error) == (422, {"code": 42210000, "message": 'order is already in "filled" state'})
    with pytest.raises(APIError) as error:
        alpaca.cancel_order_by_id(uuid4())
    assert refusal(error)[0] == 404


def test_a_client_order_id_is_taken_once(venue: Venue, alpaca: Sdk) -> None:
    exchange = venue(PRICES)
    alpaca.submit_order(market_order(OrderSide.BUY, qty=1, client_order_id="once"))
    with pytest.raises(APIError) as error:
        alpaca.submit_order(market_order(OrderSide.BUY, qty=1, client_order_id="once"))
    assert refusal(error) == (422, {"code": 40010001, "message": "client_order_id must be unique"})
    assert alpaca.get_open_position("AAPL").qty == "1"
    assert exchange.report()["duplicate_client_order_ids_refused"] == ["once"]


def test_quantity_that_orders_hold_cannot_be_closed(venue: Venue, alpaca: Sdk) -> None:
    venue(LONG_AAPL)
    resting = alpaca.submit_order(limit_order(OrderSide.SELL, 250, qty=60))
    assert alpaca.get_open_position("AAPL").qty_available == "40"
    with pytest.raises(APIError) as error:
        alpaca.close_position("AAPL")
    status, body = refusal(error)
    assert status == 403
    assert body == {
        "code": 40310000,
        "message": "insufficient qty available for order (requested: 100, available: 40)",
        "symbol": "AAPL",
        "existing_qty": "100",
        "held_for_orders": "60",
        "available": "40",
        "related_orders": [str(resting.id)],
    }


def test_more_than_can_be_paid_is_refused(venue: Venue, alpaca: Sdk) -> None:
    venue(PRICES + "[account]\nequity = 1000\n")
    with pytest.raises(APIError) as error:
        alpaca.submit_order(market_order(OrderSide.BUY, qty=100))
    status, body = refusal(error)
    assert (status, body["code"], body["message"]) == (403, 40310000, "insufficient buying power")


def test_replacing_ends_the_old_order_and_links_both(venue: Venue, alpaca: Sdk) -> None:
    venue(PRICES)
    old = alpaca.submit_order(limit_order(OrderSide.BUY, 150))
    new = alpaca.replace_order_by_id(old.id, ReplaceOrderRequest(qty=4, limit_price=160))
    assert (new.qty, new.limit_price, new.replaces) == ("4", "160", old.id)
    replaced = alpaca.get_order_by_id(old.id)
    assert (replaced.status, replaced.replaced_by) == (OrderStatus.REPLACED, new.id)
    assert [order.id for order in alpaca.get_orders()] == [new.id]
    with pytest.raises(APIError) as error:
        alpaca.replace_order_by_id(old.id, ReplaceOrderRequest(qty=5))
    assert refusal(error)[1]["message"] == "cannot replace order in replaced status"


def test_a_list_has_50_orders_unless_asked_and_pages_by_time(venue: Venue, alpaca: Sdk) -> None:
    venue("[book]\norders = 1200\n")
    assert len(alpaca.get_orders()) == 50
    seen: list[Order] = []
    request = GetOrdersRequest(status=QueryOrderStatus.OPEN, limit=500)
    while page := alpaca.get_orders(request):
        assert [order.submitted_at for order in page] == sorted((o.submitted_at for o in page), reverse=True)
        seen += page
        request.until = page[-1].submitted_at
    assert len(seen) == len({order.id for order in seen}) == 1200


def test_a_list_filters_by_status_side_and_symbol(venue: Venue, alpaca: Sdk) -> None:
    venue(LONG_AAPL)
    alpaca.submit_order(market_order(OrderSide.BUY, qty=1))
    buy = alpaca.submit_order(limit_order(OrderSide.BUY, 150))
    sell = alpaca.submit_order(limit_order(OrderSide.SELL, 250))
    other = alpaca.submit_order(limit_order(OrderSide.BUY, 300, symbol="MSFT"))

    def ids(**filters: object) -> list[object]:
        return [order.id for order in alpaca.get_orders(GetOrdersRequest(**filters))]

    assert ids() == [other.id, sell.id, buy.id]
    assert ids(direction="asc") == [buy.id, sell.id, other.id]
    assert ids(side=OrderSide.SELL) == [sell.id]
    assert ids(symbols=["MSFT"]) == [other.id]
    assert ids(after=buy.submitted_at) == [other.id, sell.id]
    assert len(ids(status=QueryOrderStatus.ALL)) == 4
    assert len(ids(status=QueryOrderStatus.CLOSED)) == 1


def test_cancel_all_answers_for_each_order(venue: Venue, alpaca: Sdk) -> None:
    exchange = venue("[book]\norders = 20\npending_replace = 2\n")
    results = alpaca.cancel_orders()
    assert sorted(result.status for result in results) == [200] * 18 + [500] * 2
    refused = [result for result in results if result.status == 500]
    assert refused[0].body == {"code": 42210000, "message": "order is pending_replace, cannot be canceled"}
    assert {order.id for order in alpaca.get_orders()} == {result.id for result in refused}
    assert exchange.report()["first_cancel_all_at"] is not None


def test_close_all_with_cancel_orders_flattens_the_book(venue: Venue, alpaca: Sdk) -> None:
    exchange = venue("[book]\norders = 40\npositions = 20\nbrackets = 3\n")
    assert exchange.report()["is_flat"] is False
    results = alpaca.close_all_positions(cancel_orders=True)
    assert [result.status for result in results] == [200] * 20
    assert alpaca.get_all_positions() == []
    report = exchange.report()
    assert report["is_flat"] is True
    assert sum(report["closes"].values()) == 20
    assert report["violations"] == []


def test_close_all_without_cancelling_names_what_orders_hold(venue: Venue, alpaca: Sdk) -> None:
    venue(LONG_AAPL)
    alpaca.submit_order(limit_order(OrderSide.SELL, 250, qty=60))
    (result,) = alpaca.close_all_positions()
    assert (result.status, result.symbol, result.body.code) == (403, "AAPL", 40310000)
    assert (result.body.existing_qty, result.body.held_for_orders) == (100, 60)


def test_a_bracket_has_legs_and_one_cancels_the_other(venue: Venue, alpaca: Sdk) -> None:
    exchange = venue(PRICES)
    entry = alpaca.submit_order(
        market_order(
            OrderSide.BUY,
            qty=10,
            order_class=OrderClass.BRACKET,
            take_profit=TakeProfitRequest(limit_price=220),
            stop_loss=StopLossRequest(stop_price=190),
        )
    )
    assert [leg.status for leg in entry.legs or []] == [OrderStatus.HELD, OrderStatus.HELD]
    flat_list = alpaca.get_orders()
    assert [order.status for order in flat_list] == [OrderStatus.HELD, OrderStatus.NEW]
    assert alpaca.get_open_position("AAPL").qty_available == "0"

    exchange.control("price", {"symbol": "AAPL", "price": 189})
    assert alpaca.get_orders() == []
    assert alpaca.get_all_positions() == []
    (nested,) = alpaca.get_orders(GetOrdersRequest(status=QueryOrderStatus.ALL, nested=True))
    assert [leg.status for leg in nested.legs or []] == [OrderStatus.CANCELED, OrderStatus.FILLED]


def test_open_legs_of_a_filled_entry_are_listed_nested_or_not(venue: Venue, alpaca: Sdk) -> None:
    venue("[book]\nbrackets = 2\n")
    assert len(alpaca.get_orders()) == 4
    assert len(alpaca.get_orders(GetOrdersRequest(nested=True))) == 4


def test_outside_the_session_orders_wait_and_extended_hours_take_limits_only(venue: Venue, alpaca: Sdk) -> None:
    exchange = venue(LONG_AAPL + '[market]\nsession = "extended"\n')
    assert alpaca.get_clock().is_open is False
    queued = alpaca.submit_order(market_order(OrderSide.SELL, qty=30))
    assert alpaca.get_order_by_id(queued.id).status == OrderStatus.ACCEPTED
    with pytest.raises(APIError) as error:
        alpaca.submit_order(market_order(OrderSide.SELL, qty=10, extended_hours=True))
    assert refusal(error)[1]["message"] == "extended hours order must be DAY limit orders"
    limit = limit_order(OrderSide.SELL, 199, time_in_force=TimeInForce.DAY, extended_hours=True)
    alpaca.submit_order(limit)
    assert alpaca.get_open_position("AAPL").qty == "90"
    exchange.control("market", {"session": "open"})
    assert alpaca.get_open_position("AAPL").qty == "60"


def test_wrong_keys_are_refused(venue: Venue) -> None:
    exchange = venue()
    with pytest.raises(APIError) as error:
        TradingClient("key", "wrong", url_override=exchange.url).get_account()
    assert refusal(error) == (401, {"code": 40110000, "message": "request is not authorized"})


COINS = '[prices]\n"BTC/USD" = 95000\n[[positions]]\nsymbol = "BTCUSD"\nqty = 0.5\n'
CALL, HIGHER_CALL = "SPY261218C00600000", "SPY261218C00610000"
CALLS = f"[prices]\n{CALL} = 4\n{HIGHER_CALL} = 2.5\n"


@pytest.mark.parametrize("spelling", ["BTC/USD", "BTCUSD"])
def test_a_pair_is_taken_in_either_spelling_and_told_in_two(venue: Venue, alpaca: Sdk, spelling: str) -> None:
    venue(COINS + '[market]\nsession = "closed"\n')
    resting = alpaca.submit_order(limit_order(OrderSide.SELL, 99_000.5, symbol=spelling, qty=0.2))
    assert (resting.symbol, resting.asset_class) == ("BTC/USD", AssetClass.CRYPTO)
    position = alpaca.get_open_position(spelling)
    assert (position.symbol, position.qty, position.qty_available) == ("BTCUSD", "0.5", "0.3")
    assert (position.asset_class, position.market_value) == (AssetClass.CRYPTO, "47500")
    assert [order.id for order in alpaca.get_orders(GetOrdersRequest(symbols=[spelling]))] == [resting.id]
    asset = alpaca.get_asset(spelling)
    assert (asset.symbol, asset.price_increment, asset.min_order_size) == ("BTC/USD", 0.01, 0.00001)

    alpaca.cancel_orders()
    closing = alpaca.close_position(spelling)
    assert (closing.time_in_force, closing.qty) == (TimeInForce.GTC, "0.5")
    assert alpaca.get_all_positions() == []


def test_a_day_order_for_crypto_is_refused(venue: Venue, alpaca: Sdk) -> None:
    venue(COINS)
    with pytest.raises(APIError) as error:
        alpaca.submit_order(market_order(OrderSide.SELL, symbol="BTC/USD", qty=0.1))
    assert refusal(error) == (422, {"code": 42210000, "message": "invalid crypto time_in_force"})


def test_an_option_is_worth_a_hundred_of_its_price(venue: Venue, alpaca: Sdk) -> None:
    venue(CALLS + "AAPL = 200\n")
    alpaca.submit_order(market_order(OrderSide.BUY, symbol=CALL, qty=2))
    position = alpaca.get_open_position(CALL)
    assert (position.asset_class, position.market_value) == (AssetClass.US_OPTION, "800")
    assert CALL not in {asset.symbol for asset in alpaca.get_all_assets()}
    with pytest.raises(APIError) as error:
        alpaca.submit_order(market_order(OrderSide.SELL, symbol=CALL, qty=3))
    assert refusal(error)[0] == 403
    assert alpaca.close_position(CALL).asset_class == AssetClass.US_OPTION
    assert alpaca.get_all_positions() == []


def two_legs(price: float) -> LimitOrderRequest:
    return LimitOrderRequest(
        qty=2,
        order_class=OrderClass.MLEG,
        time_in_force=TimeInForce.DAY,
        limit_price=price,
        legs=[
            OptionLegRequest(symbol=CALL, ratio_qty=1, side=OrderSide.BUY),
            OptionLegRequest(symbol=HIGHER_CALL, ratio_qty=1, position_intent=PositionIntent.SELL_TO_OPEN),
        ],
    )


def test_an_order_with_legs_has_no_symbol_and_goes_whole(venue: Venue, alpaca: Sdk) -> None:
    venue(CALLS)
    resting = alpaca.submit_order(two_legs(0.5))
    for order in (resting, *alpaca.get_orders(), *alpaca.get_orders(GetOrdersRequest(nested=True))):
        assert (order.id, order.symbol, order.side, order.order_class) == (resting.id, None, None, OrderClass.MLEG)
        assert [(leg.symbol, leg.side, leg.qty) for leg in order.legs] == [
            (CALL, OrderSide.BUY, "2"),
            (HIGHER_CALL, OrderSide.SELL, "2"),
        ]
    with pytest.raises(APIError) as error:
        alpaca.cancel_order_by_id(resting.legs[1].id)
    assert refusal(error)[0] == 422
    assert [result.status for result in alpaca.cancel_orders()] == [200]
    assert alpaca.get_orders() == []

    alpaca.submit_order(two_legs(1.5))
    assert {p.symbol: p.qty for p in alpaca.get_all_positions()} == {CALL: "2", HIGHER_CALL: "-2"}
    with pytest.raises(APIError) as error:
        alpaca.close_position(CALL)
    message = "account not eligible to trade uncovered option contracts"
    assert refusal(error) == (403, {"code": 40310000, "message": message})
    alpaca.close_position(HIGHER_CALL)
    alpaca.close_position(CALL)
    assert alpaca.get_all_positions() == []


def test_legs_may_be_listed_apart_from_their_order(venue: Venue, alpaca: Sdk) -> None:
    venue("legs_listed_apart = true\n" + CALLS)
    alpaca.submit_order(two_legs(0.5))
    listed = alpaca.get_orders()
    assert sorted(str(order.symbol) for order in listed) == ["None", CALL, HIGHER_CALL]
    assert [order.legs for order in listed] == [None, None, None]
    (nested,) = alpaca.get_orders(GetOrdersRequest(nested=True))
    assert len(nested.legs) == 2


def test_suspending_trade_blocks_new_orders_and_is_read_back(venue: Venue, alpaca: Sdk) -> None:
    venue(LONG_AAPL)
    resting = alpaca.submit_order(limit_order(OrderSide.SELL, 250, qty=60))
    configuration = alpaca.get_account_configurations()
    configuration.suspend_trade = True
    assert alpaca.set_account_configurations(configuration).suspend_trade is True
    assert alpaca.get_account().trade_suspended_by_user is True
    with pytest.raises(APIError) as error:
        alpaca.close_position("AAPL")
    assert refusal(error) == (403, {"code": 40310000, "message": "new orders are rejected by user request"})
    alpaca.cancel_order_by_id(resting.id)

    configuration.suspend_trade, configuration.no_shorting = False, True
    alpaca.set_account_configurations(configuration)
    assert alpaca.get_account_configurations().no_shorting is True
    assert alpaca.get_account().trade_suspended_by_user is False
    alpaca.close_position("AAPL")
    assert alpaca.get_all_positions() == []


def test_fills_are_told_with_price_and_time_page_by_page(venue: Venue, alpaca: Sdk) -> None:
    exchange = venue(PRICES)
    bought = alpaca.submit_order(market_order(OrderSide.BUY, qty=3))
    exchange.control("price", {"symbol": "AAPL", "price": 190})
    for _ in range(3):
        sold = alpaca.submit_order(market_order(OrderSide.SELL, qty=1))
    account = {"account_id": str(alpaca.get_account().id)}

    def fills(**query: object) -> list[TradeActivity]:
        return [TradeActivity(**activity, **account) for activity in alpaca.get("/account/activities/FILL", query)]

    newest_first = fills()
    assert [(fill.side, fill.qty, fill.price) for fill in newest_first] == [(OrderSide.SELL, 1, 190)] * 3 + [
        (OrderSide.BUY, 3, 200)
    ]
    assert newest_first[0].order_id == sold.id
    assert (newest_first[0].cum_qty, newest_first[0].leaves_qty, newest_first[0].type) == (1, 0, "fill")
    assert newest_first == sorted(newest_first, key=lambda fill: fill.transaction_time, reverse=True)

    pages: list[list[TradeActivity]] = []
    token: dict[str, object] = {}
    while page := fills(direction="asc", page_size=3, **token):
        pages.append(page)
        token = {"page_token": page[-1].id}
    assert [len(page) for page in pages] == [3, 1]
    assert [fill for page in pages for fill in page] == newest_first[::-1]
    assert [fill.id for fill in fills(order_id=str(bought.id))] == [newest_first[-1].id]
    assert fills(after=newest_first[0].transaction_time.isoformat()) == []
