"""What a call of ccxt's asks for, and what an exchange answers of its account, is read as the gate judges it."""

from __future__ import annotations

from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import ccxt
import pytest

from breaker.engines.ccxt_book import held_of, working_of
from breaker.engines.ccxt_calls import camel_case, cancels_orders, order_endpoints, places_orders, snake_case
from breaker.engines.ccxt_orders import NotUnderstood, Owner, asked_by, intent_of
from breaker.engines.ccxt_telling import is_api_error, is_refusal, is_turned_away
from breaker.gate.intents import ListKind, OrderIntent, OrderList, ReplaceIntent
from breaker.orders import PositionSide

SWAP = {"symbol": "BTC/USDT:USDT", "contract": True, "spot": False}
SPOT = {"symbol": "BTC/USDT", "contract": False, "spot": True}


def read(
    name: str,
    market: Any = SWAP,
    *,
    exchange: str = "binanceusdm",
    options: Any = None,
    by_mode: bool = False,
    **given: Any,
) -> Any:
    (asked,) = asked_by(name, {"symbol": market["symbol"], **given})
    known = SimpleNamespace(id=exchange, options=options or {})
    return intent_of(asked, market, known, Owner(), by_mode=by_mode)


@pytest.mark.parametrize(
    ("name", "places", "cancels"),
    [
        ("create_order", True, False),
        ("createOrdersWs", True, False),
        ("editContractOrder", True, False),
        ("close_all_positions", True, False),
        ("create_convert_trade", True, False),
        ("create_order_request", False, False),
        ("createDepositAddress", False, False),
        ("fetch_order", False, False),
        ("cancelAllOrdersAfter", False, True),
        ("close", False, False),
    ],
)
def test_a_method_is_known_by_its_name(name: str, places: bool, cancels: bool) -> None:
    assert (places_orders(name), cancels_orders(name)) == (places, cancels)
    assert snake_case(camel_case(snake_case(name))) == snake_case(name)


@pytest.mark.parametrize("name", ["alpaca", "binance", "bybit", "deribit", "kraken", "okx"])
def test_endpoints_for_orders_are_found_and_those_that_ccxt_reads_and_cancels_by_are_not(name: str) -> None:
    endpoints = {(path.lower(), method) for path, _, method in order_endpoints(getattr(ccxt, name))}
    entries = {
        "alpaca": ("v2/orders", "POST"),
        "binance": ("order", "POST"),
        "bybit": ("v5/order/create", "POST"),
        "deribit": ("buy", "GET"),
        "kraken": ("addorder", "POST"),
        "okx": ("trade/order", "POST"),
    }
    assert entries[name] in endpoints
    assert not [path for path, method in endpoints if method == "DELETE" and "order" in path]
    assert not endpoints & {("openorders", "POST"), ("cancelorder", "POST"), ("trade/cancel-order", "POST")}


def test_an_order_by_place_and_by_name_of_the_method() -> None:
    assert read("create_order", type="market", side="BUY", amount=Decimal("0.5")) == OrderIntent(
        "BTC/USDT:USDT", "buy", Decimal("0.5"), reduce_only=False
    )
    assert read("createLimitSellOrder", amount="2", price=1).side == "sell"
    assert read(
        "create_order", SPOT, type="market", side="sell", amount=1, params={"clientOrderId": "a"}
    ) == OrderIntent("BTC/USDT", "sell", 1, client_order_id="a")


def test_an_order_for_money_has_no_quantity() -> None:
    for given in (
        {"cost": 100},
        {"amount": 100, "params": {"quoteOrderQty": 100}},
        {"amount": 1, "params": {"cost": 9}},
    ):
        intent = read("create_market_buy_order_with_cost", SPOT, **given)
        assert intent.quantity is None and intent.notional
    by_cost = {"createMarketBuyOrderRequiresPrice": False}
    assert read("create_market_buy_order", SPOT, amount=100, params=by_cost).notional == 100
    assert read("create_market_buy_order", SPOT, amount=100, options=by_cost).notional == 100
    assert read("create_market_sell_order", SPOT, amount=100, options=by_cost).quantity == 100


@pytest.mark.parametrize(
    ("side", "params", "leg"),
    [
        ("buy", {"hedged": True}, PositionSide.LONG),
        ("sell", {"hedged": True, "reduceOnly": True}, PositionSide.LONG),
        ("sell", {"hedged": True}, PositionSide.SHORT),
        ("buy", {"hedged": True, "reduceOnly": True}, PositionSide.SHORT),
        ("sell", {"positionSide": "LONG"}, PositionSide.LONG),
        ("buy", {"posSide": "short"}, PositionSide.SHORT),
        ("buy", {"positionIdx": 2}, PositionSide.SHORT),
        ("buy", {"positionSide": "BOTH", "positionIdx": 0}, None),
    ],
)
def test_which_position_of_a_hedged_symbol(side: str, params: Any, leg: PositionSide | None) -> None:
    assert read("create_order", type="market", side=side, amount=1, params=params).position_side is leg


def test_exits_that_an_order_brings_along_belong_to_it() -> None:
    given: dict[str, Any] = {"type": "market", "side": "buy", "amount": 2}
    whole = read("create_order_with_take_profit_and_stop_loss", **given, takeProfit=9, stopLoss=1)
    assert isinstance(whole, OrderList) and whole.kind is ListKind.OTO
    entry, exits = whole.orders
    assert (entry.side, exits.kind) == ("buy", ListKind.OCO)
    assert [(each.side, each.quantity) for each in exits.orders] == [("sell", 2), ("sell", 2)]
    params = {"stopLoss": {"triggerPrice": 1, "amount": 3}}
    assert read("create_order", **given, params=params).orders[1].orders[0].quantity == 3


def test_a_change_names_the_order_that_it_replaces() -> None:
    given: dict[str, Any] = {"type": "limit", "side": "sell", "amount": 1}
    smaller = read("edit_order", id="7", **given)
    assert smaller == ReplaceIntent("7", OrderIntent("BTC/USDT:USDT", "sell", 1), only_quantity=True)
    assert not read("edit_order", id="7", price=9, **given).only_quantity
    assert read("edit_order_with_client_order_id", clientOrderId="mine", **given).order_id == "mine"
    with pytest.raises(NotUnderstood, match="which order"):
        read("edit_order", id="", **given)


@pytest.mark.parametrize(
    ("market", "more", "why"),
    [
        (SWAP, {"params": {"quantity": 5}}, "'quantity'"),
        (SWAP, {"params": {"reduceOnly": "perhaps"}}, "reduceOnly"),
        (SWAP, {"params": {"positionSide": "LONG", "posSide": "short"}}, "both"),
        (SWAP, {"params": {"closePosition": True}}, "closePosition"),
        (SWAP, {"params": {"closePosition": True, "stopPrice": 1}, "exchange": "okx"}, "closePosition"),
        (SWAP, {"by_mode": True}, "reduceOnly"),
        (SWAP, {"by_mode": True, "params": {"positionSide": "LONG"}}, "reduceOnly"),
        (SPOT, {"params": {"reduceOnly": True}}, "'reduceOnly'"),
        (SPOT, {"params": {"leverage": 3}}, "'leverage'"),
        (SPOT, {"options": {"createOrder": {"marginMode": "cross"}}}, "margin"),
        (SPOT, {"options": {"portfolioMargin": True}}, "margin"),
        (SWAP, {"iceberg": 2}, "'iceberg'"),
        ({"symbol": "X", "contract": False, "spot": False}, {}, "neither"),
        (SWAP, {"amount": None}, "neither an amount"),
        (SWAP, {"params": [1]}, "no dictionary"),
    ],
)
def test_what_may_be_another_order_than_it_seems_is_not_judged(market: Any, more: dict[str, Any], why: str) -> None:
    with pytest.raises(NotUnderstood, match=why):
        read("create_order", market, **{"type": "market", "side": "sell", "amount": 1, **more})


def test_binances_conditional_order_for_all_that_is_left_only_reduces() -> None:
    params = {"closePosition": True, "stopLossPrice": 9}
    intent = read("create_order", type="market", side="sell", amount=None, params=params)
    assert intent.reduce_only and intent.quantity is None


def position(**more: Any) -> dict[str, Any]:
    return {"symbol": "BTC/USDT:USDT", "contracts": 2.5, "side": "short", "hedged": False, "info": {}, **more}


def test_a_position_is_in_contracts_and_signed() -> None:
    assert held_of(position()).quantity == Decimal("-2.5")  # type: ignore[union-attr]
    assert held_of(position(contracts=0)) is None
    leg = held_of(position(side="long", hedged=None, info={"positionSide": "LONG"}))
    assert leg is not None and leg.position_side is PositionSide.LONG
    for broken in ({"contracts": None}, {"side": None}, {"contracts": "many"}):
        with pytest.raises(ValueError, match="position"):
            held_of(position(**broken))


def test_an_open_order_that_says_too_little_blocks_its_symbol() -> None:
    order = {"symbol": "X", "id": "1", "side": "sell", "amount": 3, "filled": 1, "remaining": None}
    assert working_of(order, "X", hedged=False).remaining == 2
    assert working_of({**order, "amount": None}, "X", hedged=False).by_amount
    assert working_of({**order, "reduceOnly": True}, "X", hedged=True).position_side is PositionSide.LONG
    assert working_of(order, "X", hedged=True).position_side is PositionSide.SHORT
    all_of_it = working_of({**order, "info": {"closePosition": "true"}}, "X", hedged=False)
    assert all_of_it.by_amount and all_of_it.reduce_only


@pytest.mark.parametrize(
    ("error", "refusal", "turned_away", "api"),
    [
        (ccxt.InsufficientFunds("no"), True, False, False),
        (ccxt.BadSymbol("no"), True, False, False),
        (ccxt.RequestTimeout("slow"), False, False, True),
        (ccxt.ExchangeNotAvailable("502"), False, False, True),
        (ccxt.RateLimitExceeded("429"), False, True, True),
        (ccxt.InvalidNonce("ahead"), False, True, True),
        (ccxt.ExchangeError('x {"code":-1008,"msg":"overloaded"}'), False, True, True),
        (ccxt.ExchangeError("internal server error"), False, False, True),
        (KeyError("id"), False, False, False),
    ],
)
def test_what_ccxt_raises_is_sorted_by_what_it_says_of_the_order(
    error: Exception, refusal: bool, turned_away: bool, api: bool
) -> None:
    assert (is_refusal(error), is_turned_away(error), is_api_error(error)) == (refusal, turned_away, api)
