"""Binance USDⓈ-M through unmodified ccxt, against a real HTTP server: one-way and hedge mode, algo orders, refusals."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from breaker.instruments import AssetClass
from breaker.orders import OrderStatus, OrderType, PositionSide, Side
from brokers.ccxt import CcxtBroker
from brokers.ccxt.adapter import MOST_SYMBOLS
from brokers.protocol import (
    BrokerRefused,
    BrokerUnavailable,
    CancelOutcome,
    CloseOrder,
    CloseOutcome,
    Refusal,
)
from tests.brokers.ccxt.local_exchange import (
    KEY,
    SECRET,
    Answer,
    Asked,
    LocalExchange,
    Told,
    futures_market,
    opened,
    serving,
)
from tests.helpers import in_time

BTC = "BTC/USDT:USDT"
ORDERS, ALGOS = "GET /fapi/v1/openOrders", "GET /fapi/v1/openAlgoOrders"
POSITIONS = "GET /fapi/v3/positionRisk"
PLACE, CANCEL, LOOK_UP = "POST /fapi/v1/order", "DELETE /fapi/v1/order", "GET /fapi/v1/order"
SELL = CloseOrder(BTC, Side.SELL, Decimal("0.5"), "incident-1", reduce_only=True)


def order(number: int, **more: Any) -> dict[str, Any]:
    return {
        "orderId": number,
        "symbol": "BTCUSDT",
        "status": "NEW",
        "clientOrderId": f"engine-{number}",
        "price": "30000.00",
        "avgPrice": "0.00",
        "origQty": "0.200",
        "executedQty": "0.000",
        "cumQuote": "0.00",
        "timeInForce": "GTC",
        "type": "LIMIT",
        "reduceOnly": False,
        "closePosition": False,
        "side": "BUY",
        "positionSide": "BOTH",
        "stopPrice": "0.00",
        "origType": "LIMIT",
        "time": 1764500000000 + number,
        "updateTime": 1764500000000 + number,
        **more,
    }


def algo(number: int, **more: Any) -> dict[str, Any]:
    return {
        "algoId": number,
        "clientAlgoId": f"stop-{number}",
        "algoType": "CONDITIONAL",
        "orderType": "STOP_MARKET",
        "symbol": "BTCUSDT",
        "side": "SELL",
        "positionSide": "BOTH",
        "timeInForce": "GTC",
        "quantity": "0.300",
        "algoStatus": "NEW",
        "triggerPrice": "28000.00",
        "price": "0.00",
        "closePosition": False,
        "reduceOnly": True,
        "createTime": 1764500000500,
        "updateTime": 1764500000500,
        "triggerTime": 0,
        **more,
    }


def position(amount: str, side: str = "BOTH", **more: Any) -> dict[str, Any]:
    return {
        "symbol": "BTCUSDT",
        "positionSide": side,
        "positionAmt": amount,
        "entryPrice": "31000.0",
        "markPrice": "30500.00",
        "unRealizedProfit": "-10",
        "liquidationPrice": "0",
        "isolatedMargin": "0",
        "notional": f"{Decimal(amount) * 30500:f}",
        "isolatedWallet": "0",
        "updateTime": 1764500000000,
        "initialMargin": "100",
        "maintMargin": "10",
        **more,
    }


def error(code: int, message: str, status: int = 400) -> Told:
    return Told({"code": code, "msg": message}, status)


def answers(**more: Answer) -> dict[str, Answer]:
    return {
        "GET /fapi/v1/exchangeInfo": {
            "symbols": [futures_market("BTCUSDT", "BTC"), futures_market("ETHUSDT", "ETH")],
            "rateLimits": [],
        },
        "GET /fapi/v1/time": {"serverTime": 1764500000000},
        ORDERS: [],
        ALGOS: [],
        POSITIONS: [],
        **more,
    }


@asynccontextmanager
async def venue(given: Mapping[str, Answer], **settings: Any) -> AsyncIterator[tuple[CcxtBroker, LocalExchange]]:
    async with serving({**answers(), **given}) as (exchange, url), opened(url, **settings) as broker:
        yield broker, exchange


async def test_ordinary_and_algo_orders_are_all_listed_each_with_what_cancels_it() -> None:
    async with venue({ORDERS: [order(1), order(2, side="SELL", reduceOnly=True)], ALGOS: [algo(9)]}) as (broker, _):
        listed = await broker.open_orders()
    assert not listed.unreadable
    found = {each.id: each for each in listed}
    assert {*found} == {f"1@{BTC}", f"2@{BTC}", f"9@{BTC}@algo"}
    stop = found[f"9@{BTC}@algo"]
    assert (stop.type, stop.stop_price, stop.reduce_only) == (OrderType.STOP, Decimal(28000), True)
    assert found[f"2@{BTC}"].reduce_only
    assert found[f"1@{BTC}"].client_order_id == "engine-1"


async def test_an_algo_order_that_closes_the_position_has_no_known_quantity() -> None:
    whole = algo(9, quantity="0.000", closePosition=True, reduceOnly=False)
    async with venue({ALGOS: [whole]}) as (broker, _):
        (stop,) = (await broker.open_orders()).items
    assert stop.by_amount and stop.reduce_only and stop.status.is_open


async def test_an_algo_order_that_has_only_left_its_list_is_not_gone() -> None:
    async with venue({ALGOS: [algo(9)]}) as (broker, exchange):
        await broker.open_orders()
        exchange.answers[ALGOS] = []
        exchange.answers["GET /fapi/v1/algoOrder"] = algo(9, algoStatus="TRIGGERING")
        assert [each.id for each in await broker.open_orders()] == [f"9@{BTC}@algo"]
        exchange.answers["GET /fapi/v1/algoOrder"] = algo(9, algoStatus="CANCELED")
        assert not await asyncio.wait_for(broker.open_orders(), 30)
        asked = len(exchange.of("GET /fapi/v1/algoOrder"))
        assert not await broker.open_orders()
        assert len(exchange.of("GET /fapi/v1/algoOrder")) == asked, "one that has ended is not asked for again"


async def test_a_list_that_cannot_be_had_keeps_nothing_of_the_others_from_being_cancelled() -> None:
    everything = "DELETE /fapi/v1/allOpenOrders"
    given = {ORDERS: [order(1)], ALGOS: [algo(9)], everything: {"code": 200, "msg": "done"}}
    async with venue(given, request_timeout=0.3) as (broker, exchange):
        assert len((await broker.open_orders()).items) == 2
        exchange.answers[ALGOS] = error(-4000, "This list is away.")
        listed = await broker.open_orders()
        assert {each.id for each in listed.items} == {f"1@{BTC}", f"9@{BTC}@algo"}, "what was there is not gone"
        assert ["list of algo orders" in str(item) for item in listed.unreadable] == [True]
        await broker.cancel_all()
        assert len(exchange.of(everything)) == 1
        exchange.answers[ORDERS] = error(-4000, "And this one.")
        with pytest.raises(BrokerRefused):
            await broker.open_orders()


async def test_one_order_that_makes_no_sense_blocks_only_itself() -> None:
    odd = order(3, symbol="ETHUSDT", origQty="many")
    async with venue({ORDERS: [order(1), odd]}) as (broker, _):
        listed = await broker.open_orders()
    assert [each.id for each in listed.items] == [f"1@{BTC}"]
    (unread,) = listed.unreadable
    assert "ETH" in unread.symbol and unread.id.startswith("3@")


async def test_a_one_way_account_has_one_position_with_its_steps_and_its_contracts() -> None:
    async with venue({POSITIONS: [position("-0.500")]}) as (broker, exchange):
        (short,) = (await broker.positions()).items
        assert "leverageBracket" not in " ".join(asked.path for asked in exchange.asked)
    assert (short.symbol, short.quantity, short.position_side) == (BTC, Decimal("-0.500"), None)
    assert short.market_value == Decimal(-15250) and short.current_price == Decimal(30500)
    steps = short.instrument
    assert (steps.asset_class, steps.quantity_increment, steps.price_increment, steps.maximum_quantity) == (
        AssetClass.PERPETUAL,
        Decimal("0.001"),
        Decimal("0.1"),
        Decimal(120),
    )


async def test_a_hedged_account_has_each_leg_by_itself() -> None:
    legs = [position("0.500", "LONG"), position("-0.200", "SHORT")]
    async with venue({POSITIONS: legs}) as (broker, _):
        found = {each.position_side: each.quantity for each in await broker.positions()}
    assert found == {PositionSide.LONG: Decimal("0.500"), PositionSide.SHORT: Decimal("-0.200")}


async def test_a_position_of_a_delisted_symbol_is_named_and_the_others_are_listed() -> None:
    async with venue({POSITIONS: [position("0.5"), position("1", symbol="LUNAUSDT")]}) as (broker, _):
        listed = await broker.positions()
    assert [each.symbol for each in listed.items] == [BTC]
    (unread,) = listed.unreadable
    assert "LUNAUSDT" in str(unread) and "close it at the exchange" in str(unread)


async def test_a_delisted_symbol_of_which_nothing_is_held_is_no_position() -> None:
    async with venue({POSITIONS: [position("0.000", symbol="LUNAUSDT")]}) as (broker, _):
        assert not await broker.positions()


async def test_a_one_way_close_is_reduce_only_under_its_own_name() -> None:
    done = order(5, type="MARKET", side="SELL", status="FILLED", executedQty="0.500", origQty="0.500")
    async with venue({PLACE: done}) as (broker, exchange):
        result = await broker.close(SELL)
        (asked,) = exchange.of(PLACE)
    assert result.outcome is CloseOutcome.ACCEPTED
    assert result.order is not None and result.order.status is OrderStatus.FILLED
    sent = asked.params
    assert (sent["quantity"], sent["side"], sent["type"]) == ("0.5", "SELL", "MARKET")
    assert (sent["reduceOnly"].lower(), sent["newClientOrderId"]) == ("true", "incident-1")
    assert sent.get("positionSide", "BOTH") == "BOTH"


@pytest.mark.parametrize(("side", "leg"), [(Side.SELL, PositionSide.LONG), (Side.BUY, PositionSide.SHORT)])
async def test_a_hedged_close_names_its_leg(side: Side, leg: PositionSide) -> None:
    close = CloseOrder(BTC, side, Decimal("0.2"), "incident-1", position_side=leg, reduce_only=True)
    async with venue({PLACE: order(5)}) as (broker, exchange):
        await broker.close(close)
        (asked,) = exchange.of(PLACE)
    assert asked.params["positionSide"] == leg.value.upper()
    assert "reduceOnly" not in asked.params, "Binance refuses it beside a position's side (-1106)"


REFUSALS = {
    -2022: ("ReduceOnly Order is rejected.", Refusal.NOTHING_LEFT, "nothing of it is left"),
    -4118: (
        "ReduceOnly Order Failed. Please check your existing position and open orders",
        Refusal.HELD,
        "other orders",
    ),
    -4164: ("Order's notional must be no smaller than 100", Refusal.BELOW_MINIMUM, "notional"),
    -4014: ("Price not increased by tick size.", Refusal.PRICE_STEP, "tick size"),
    -4061: ("Order's position side does not match user's setting.", Refusal.OTHER, "hedge mode"),
    -2023: ("User in liquidation mode now.", Refusal.OTHER, "liquidation"),
}


@pytest.mark.parametrize("code", REFUSALS)
async def test_what_a_refusal_means_is_told(code: int) -> None:
    message, refusal, words = REFUSALS[code]
    async with venue({PLACE: error(code, message)}) as (broker, exchange):
        result = await broker.close(SELL)
        assert len(exchange.of(PLACE)) == 1
    if code == -2023:  # Binance calls it a failure of its own, so that it may have happened
        assert result.outcome in (CloseOutcome.REFUSED, CloseOutcome.UNKNOWN)
        return
    assert (result.outcome, result.refusal, result.code) == (CloseOutcome.REFUSED, refusal, str(code))
    assert words in result.reason


async def test_a_name_that_was_used_before_is_a_duplicate() -> None:
    async with venue({PLACE: error(-4116, "ClientOrderId is duplicated.")}) as (broker, _):
        assert (await broker.close(SELL)).outcome is CloseOutcome.DUPLICATE


@pytest.mark.parametrize(
    "lost", [Told({}, breaks_off=True), Told("busy", 503), error(-1007, "execution status unknown.")]
)
async def test_a_close_whose_answer_was_lost_is_looked_up_and_never_sent_again(lost: Told) -> None:
    taken = order(5, side="SELL", clientOrderId="incident-1")
    async with venue({PLACE: lost, LOOK_UP: taken}) as (broker, exchange):
        result = await broker.close(SELL)
        assert len(exchange.of(PLACE)) == 1
        assert exchange.of(LOOK_UP)[0].params["origClientOrderId"] == "incident-1"
    assert result.outcome is CloseOutcome.ACCEPTED and result.order is not None
    async with venue({PLACE: lost, LOOK_UP: error(-2013, "Order does not exist.")}) as (broker, _):
        result = await broker.close(SELL)
    assert result.outcome is CloseOutcome.UNKNOWN and "does not know the order (yet)" in result.reason


async def test_a_close_whose_answer_was_lost_and_that_makes_no_sense_when_found_is_unknown() -> None:
    odd = order(5, side="SELL", clientOrderId="incident-1", origQty="many")
    async with venue({PLACE: Told({}, breaks_off=True), LOOK_UP: odd}) as (broker, _):
        assert (await broker.close(SELL)).outcome is CloseOutcome.UNKNOWN
        with pytest.raises(BrokerUnavailable, match="can't be read"):
            await broker.order("incident-1")


async def test_a_close_has_a_deadline() -> None:
    slow = Told(order(5), after=30)
    async with venue({PLACE: slow, LOOK_UP: slow}, request_timeout=0.3) as (broker, _):
        await broker.clock()
        with in_time(3.0):
            assert (await broker.close(SELL)).outcome is CloseOutcome.UNKNOWN


@pytest.mark.parametrize("status", [429, 418])
async def test_a_rate_limit_is_no_answer_to_the_close_and_is_kept_to(status: int) -> None:
    limited = Told({"code": -1003, "msg": "Too many requests."}, status, {"Retry-After": "20"})
    async with venue({PLACE: limited}) as (broker, exchange):
        with pytest.raises(BrokerUnavailable, match="ALPHA"):
            await broker.close(SELL)
        with pytest.raises(BrokerUnavailable, match=r"asked again in (20\.0|19\.\d) s"):
            await broker.close(SELL)
        assert len(exchange.of(PLACE)) == 1, "nothing is sent before the venue may be asked again"


async def test_a_clock_that_is_off_is_set_by_the_exchanges_and_the_reading_repeated() -> None:
    seen: list[str] = []

    def skewed(asked: Any) -> Any:
        seen.append(asked.params["timestamp"])
        return error(-1021, "Timestamp for this request is outside of the recvWindow.") if len(seen) == 1 else []

    async with venue({ORDERS: skewed}) as (broker, exchange):
        assert not await broker.open_orders()
        assert exchange.of("GET /fapi/v1/time")
    assert int(seen[1]) < int(seen[0]) - 1_000_000_000, "the second is by the exchange's clock, of a year before"


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (order(1, status="CANCELED"), CancelOutcome.ACCEPTED),
        (error(-2011, "Unknown order sent."), CancelOutcome.NOT_OPEN),
        (error(-4000, "Invalid order status."), CancelOutcome.REFUSED),
        (Told({}, breaks_off=True), CancelOutcome.UNKNOWN),
    ],
)
async def test_what_became_of_a_cancel(answer: Answer, outcome: CancelOutcome) -> None:
    async with venue({CANCEL: answer}) as (broker, exchange):
        result = await broker.cancel(f"1@{BTC}")
        assert exchange.of(CANCEL)[0].params["orderId"] == "1"
    assert (result.order_id, result.outcome) == (f"1@{BTC}", outcome)


async def test_a_symbol_whose_cancel_is_refused_outright_keeps_none_of_the_others_from_going() -> None:
    def answer(asked: Asked) -> Any:
        if asked.params["symbol"] == "BTCUSDT":
            return error(-2015, "Invalid API-key, IP, or permissions for action.", 401)
        return Told({"code": 200, "msg": "done"}, after=0.3)

    listed = [order(1), order(2, symbol="ETHUSDT")]
    async with venue({ORDERS: listed, "DELETE /fapi/v1/allOpenOrders": answer}) as (broker, exchange):
        with pytest.raises(BrokerRefused):
            await broker.cancel_all()
    assert "DELETE /fapi/v1/allOpenOrders ETHUSDT" in exchange.answered


async def test_an_algo_order_is_cancelled_by_its_own_call() -> None:
    done = {"algoId": 9, "clientAlgoId": "stop-9", "code": "200", "msg": "success"}
    async with venue({"DELETE /fapi/v1/algoOrder": done}) as (broker, exchange):
        assert (await broker.cancel(f"9@{BTC}@algo")).outcome is CancelOutcome.ACCEPTED
        assert not exchange.of(CANCEL)


async def test_all_orders_go_by_one_request_for_each_symbol_and_kind() -> None:
    orders = [order(1), order(2), order(3, symbol="ETHUSDT")]
    done = {"code": 200, "msg": "The operation of cancel all open order is done."}
    given = {
        ORDERS: orders,
        ALGOS: [algo(9)],
        "DELETE /fapi/v1/allOpenOrders": done,
        "DELETE /fapi/v1/algoOpenOrders": error(-1000, "An unknown error occurred while processing the request."),
    }
    async with venue(given) as (broker, exchange):
        results = {result.order_id: result.outcome for result in await broker.cancel_all()}
        assert len(exchange.of("DELETE /fapi/v1/allOpenOrders")) == 2
    assert results[f"9@{BTC}@algo"] is CancelOutcome.UNKNOWN
    others = [f"1@{BTC}", f"2@{BTC}", "3@ETH/USDT:USDT"]
    assert [results[name] for name in others] == [CancelOutcome.ACCEPTED] * 3


async def test_a_failed_item_of_a_batch_is_a_failure() -> None:
    batch = [order(1, status="CANCELED"), {"code": -2011, "msg": "Unknown order sent."}, {"code": -4000, "msg": "no"}]
    async with venue({"DELETE /fapi/v1/batchOrders": batch}) as (broker, _):
        results = await broker.cancel_many([f"{number}@{BTC}" for number in (1, 2, 3)])
    # ccxt leaves them out of what it hands on, so that nothing more is known of them.
    outcomes = [CancelOutcome.ACCEPTED, CancelOutcome.UNKNOWN, CancelOutcome.UNKNOWN]
    assert [result.outcome for result in results] == outcomes


async def test_fills_are_listed_for_every_symbol_that_was_seen() -> None:
    fill = {
        "symbol": "BTCUSDT",
        "id": 700,
        "orderId": 5,
        "side": "SELL",
        "price": "30100.0",
        "qty": "0.500",
        "realizedPnl": "1",
        "quoteQty": "15050",
        "commission": "6.02",
        "commissionAsset": "USDT",
        "time": 1764500001000,
        "positionSide": "BOTH",
        "buyer": False,
        "maker": False,
    }
    given = {POSITIONS: [position("0.5")], "GET /fapi/v1/userTrades": [fill]}
    async with venue(given) as (broker, _):
        await broker.positions()
        (found,) = (await broker.fills(datetime(2025, 11, 30, tzinfo=UTC))).items
    assert (found.order_id, found.side, found.quantity, found.price) == (
        f"5@{BTC}",
        Side.SELL,
        Decimal("0.500"),
        Decimal("30100.0"),
    )
    assert (found.fee, found.fee_currency) == (Decimal("6.02"), "USDT")


async def test_only_money_that_was_moved_is_a_transfer() -> None:
    def income(number: int, kind: str, amount: str) -> dict[str, Any]:
        return {
            "symbol": "",
            "incomeType": kind,
            "income": amount,
            "asset": "USDT",
            "info": kind,
            "time": 1764500000000 + number,
            "tranId": number,
            "tradeId": "",
        }

    listed = [income(1, "TRANSFER", "250"), income(2, "COMMISSION", "-1"), income(3, "TRANSFER", "-40.5")]
    async with venue({"GET /fapi/v1/income": listed}) as (broker, _):
        transfers = await broker.transfers(datetime(2025, 11, 30, tzinfo=UTC))
    assert [(each.id, each.amount) for each in transfers] == [("1", Decimal(250)), ("3", Decimal("-40.5"))]


async def test_equity_is_the_exchanges_own_figure() -> None:
    balance = {
        "totalMarginBalance": "10250.75",
        "totalWalletBalance": "10000",
        "assets": [
            {"asset": "USDT", "walletBalance": "10000", "marginBalance": "10250.75", "availableBalance": "9000"}
        ],
        "positions": [],
    }
    async with venue({"GET /fapi/v3/account": balance, "GET /fapi/v2/account": balance}) as (broker, _):
        account = await broker.account()
    assert (account.equity, account.currency, account.untrusted) == (Decimal("10250.75"), "USD", "")


async def test_an_order_of_somebody_elses_is_looked_for_at_no_more_symbols_than_the_closes_can_spare() -> None:
    names = [f"C{number}USDT" for number in range(20)]
    markets = {"symbols": [futures_market(name, name.removesuffix("USDT")) for name in names]}
    held = [position("1", symbol=name) for name in names]
    unknown = error(-2013, "Order does not exist.")
    given = {"GET /fapi/v1/exchangeInfo": markets, POSITIONS: held, LOOK_UP: unknown}
    async with venue(given) as (broker, exchange):
        assert await broker.order("nobodys-1") is None
        assert len(exchange.of(LOOK_UP)) == MOST_SYMBOLS
        await broker.order("nobodys-2")
        assert len(exchange.of(POSITIONS)) == 1, "the book was read already"


async def test_an_order_of_somebody_elses_is_looked_for_where_it_was_sent() -> None:
    def theirs(asked: Asked) -> Any:
        found = asked.params["symbol"] == "ETHUSDT" and asked.params["origClientOrderId"] == "theirs-1"
        return order(9, symbol="ETHUSDT", clientOrderId="theirs-1") if found else error(-2013, "Order does not exist.")

    async with venue({LOOK_UP: theirs}) as (broker, exchange):
        found = await broker.order("theirs-1", "ETH/USDT:USDT")
        assert found is not None and found.symbol == "ETH/USDT:USDT"
        assert await broker.order("theirs-1", BTC) is None
        assert [asked.params["symbol"] for asked in exchange.of(LOOK_UP)] == ["ETHUSDT", "BTCUSDT"]
        assert not exchange.of(POSITIONS), "the book need not be read for it"
        assert await broker.order("theirs-1", "BTC loan") is None, "a repayment is no order"


async def test_the_countdown_is_armed_for_every_symbol_and_verified_by_the_answer() -> None:
    def count_down(asked: Any) -> Any:
        return {"symbol": asked.params["symbol"], "countdownTime": asked.params["countdownTime"]}

    given = {ORDERS: [order(1), order(2, symbol="ETHUSDT")], "POST /fapi/v1/countdownCancelAll": count_down}
    async with venue(given) as (broker, exchange):
        await broker.open_orders()
        net = await broker.arm_safety_net(timedelta(seconds=60))
        assert net.verified and net.covers == (BTC, "ETH/USDT:USDT") and net.armed_until is not None
        assert await broker.safety_net() == net
        await broker.disarm_safety_net()
        assert (await broker.safety_net()).armed_until is None
        times = [asked.params["countdownTime"] for asked in exchange.of("POST /fapi/v1/countdownCancelAll")]
    assert times == ["60000", "60000", "0", "0"]


async def test_wrong_keys_are_told_in_one_line_without_them(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    wrong = error(-2015, f"Invalid API-key {KEY}, IP, or permissions for action.", 401)
    async with venue({ORDERS: wrong, ALGOS: wrong, PLACE: wrong}) as (broker, _):
        with pytest.raises(BrokerRefused) as told:
            await broker.open_orders()
        with pytest.raises(BrokerRefused, match="may read and trade in this market"):
            await broker.close(SELL)
        assert SECRET not in repr(broker) + repr(broker._connection)
    line = str(told.value)
    assert "\n" not in line and line.startswith("ALPHA: binanceusdm refuses the keys")
    for secret in (SECRET, KEY, "signature="):
        assert secret not in line + caplog.text


async def test_an_exchange_that_ccxt_does_not_know_is_told_with_the_nearest() -> None:
    async with opened("http://127.0.0.1:1", exchange="binanceusd") as broker:
        with pytest.raises(BrokerRefused, match=r"ALPHA: ccxt knows no exchange 'binanceusd'; is it binanceus(dm)?\?"):
            await broker.positions()


async def test_an_exchange_that_does_not_answer_is_unavailable_and_its_markets_are_asked_for_again() -> None:
    async with venue({"GET /fapi/v1/exchangeInfo": Told("down", 502)}) as (broker, exchange):
        with pytest.raises(BrokerUnavailable, match="ALPHA"):
            await broker.cancel(f"1@{BTC}")
        exchange.answers |= {**answers(), CANCEL: order(1, status="CANCELED")}
        assert (await broker.cancel(f"1@{BTC}")).outcome is CancelOutcome.ACCEPTED


async def test_whoever_gives_up_waiting_for_the_markets_leaves_them_loading() -> None:
    listed = answers()["GET /fapi/v1/exchangeInfo"]
    async with venue({"GET /fapi/v1/exchangeInfo": Told(listed, after=0.4)}) as (broker, exchange):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(broker.positions(), 0.05)
        assert not await broker.positions()
        assert len(exchange.of("GET /fapi/v1/exchangeInfo")) == 1
