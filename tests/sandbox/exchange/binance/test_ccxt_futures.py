"""An unmodified ccxt client trades USDⓈ-M futures at the paper exchange."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import ccxt
import pytest

from sandbox.exchange.server import PaperExchangeThread
from tests.helpers import eventually
from tests.sandbox.exchange.binance.conftest import FUTURES, code_of

Venue = Callable[[str], PaperExchangeThread]
BTC = "BTC/USDT:USDT"
ETH = "ETH/USDT:USDT"
LONG = FUTURES + '[[positions]]\nsymbol = "BTCUSDT"\nqty = 0.5\n'
HEDGED = FUTURES + (
    "account.hedge_mode = true\n"
    '[[positions]]\nsymbol = "BTCUSDT"\nqty = 0.5\n[[positions]]\nsymbol = "BTCUSDT"\nqty = -0.2\n'
)


async def refused(call: Any) -> tuple[type[BaseException], int]:
    with pytest.raises(ccxt.BaseError) as error:
        await call
    return type(error.value), code_of(error.value)


async def test_it_starts_and_reads_the_account(venue: Venue, futures: Any) -> None:
    venue(LONG + "[account]\nequity = 100000\n" + '[[positions]]\nsymbol = "ETHUSDT"\nqty = -3\n')
    markets = await futures.load_markets()
    btc = markets[BTC]
    assert (btc["type"], btc["linear"], btc["active"], btc["contractSize"]) == ("swap", True, True, 1)
    assert (btc["precision"]["amount"], btc["precision"]["price"]) == (0.001, 0.1)
    assert btc["limits"]["amount"]["min"] == 0.001 and btc["limits"]["cost"]["min"] == 100
    balance = await futures.fetch_balance()
    assert balance["USDT"]["total"] == 100_000
    positions = {each["symbol"]: (each["side"], each["contracts"]) for each in await futures.fetch_positions()}
    assert positions == {BTC: ("long", 0.5), ETH: ("short", 3)}
    older = {each["symbol"]: each["side"] for each in await futures.fetch_positions(params={"useV2": True})}
    assert older == {BTC: "long", ETH: "short"}
    assert await futures.fetch_open_orders() == []
    assert (await futures.fetch_position_mode())["hedged"] is False
    book = await futures.fetch_order_book(BTC)
    assert book["bids"][0][0] == 95_000 < book["asks"][0][0]
    assert abs(await futures.fetch_time() - futures.milliseconds()) < 10_000


async def test_an_order_rests_is_found_and_is_cancelled(venue: Venue, futures: Any) -> None:
    exchange = venue(FUTURES)
    placed = await futures.create_order(BTC, "limit", "buy", 0.01, 80_000, {"clientOrderId": "mine"})
    assert (placed["status"], placed["clientOrderId"], placed["amount"], placed["filled"]) == ("open", "mine", 0.01, 0)
    (listed,) = await futures.fetch_open_orders()
    found = await futures.fetch_order(None, BTC, {"origClientOrderId": "mine"})
    assert listed["id"] == found["id"] == placed["id"]
    cancelled = await futures.cancel_order(placed["id"], BTC)
    assert cancelled["status"] == "canceled"
    assert await futures.fetch_open_orders() == []
    assert await refused(futures.cancel_order(placed["id"], BTC)) == (ccxt.OrderNotFound, -2011)
    assert await refused(futures.fetch_order("1", BTC)) == (ccxt.OrderNotFound, -2013)
    assert exchange.report()["is_flat"] is True


async def test_a_reduce_only_close_makes_it_flat_and_a_second_one_has_nothing_to_reduce(
    venue: Venue, futures: Any
) -> None:
    exchange = venue(LONG)
    closing = await futures.create_order(BTC, "market", "sell", 0.5, None, {"reduceOnly": True})
    assert (closing["status"], closing["filled"], closing["average"]) == ("closed", 0.5, 95_000)
    assert await futures.fetch_positions() == []
    again = futures.create_order(BTC, "market", "sell", 0.5, None, {"reduceOnly": True})
    assert (await refused(again))[1] == -2022
    report = exchange.report()
    assert report["is_flat"] is True and report["violations"] == [] and report["closes"] == {"BTCUSDT": 1}


async def test_a_reduce_only_order_is_trimmed_to_the_position(venue: Venue, futures: Any) -> None:
    exchange = venue(LONG)
    closing = await futures.create_order(BTC, "market", "sell", 0.8, None, {"reduceOnly": True})
    assert (closing["amount"], closing["filled"]) == (0.5, 0.5)
    report = exchange.report()
    assert report["positions"] == {}
    assert report["violations"] == ["a close of 0.8 BTCUSDT was larger than the position of 0.5"]


async def test_without_reduce_only_a_position_can_be_turned_over_and_the_report_says_so(
    venue: Venue, futures: Any
) -> None:
    exchange = venue(LONG)
    await futures.create_order(BTC, "market", "sell", 0.8, None, {"clientOrderId": "too-much"})
    report = exchange.report()
    assert report["positions"] == {"BTCUSDT": "-0.3"}
    assert report["violations"][1:] == ["BTCUSDT turned from long to short (-0.3) by the order too-much"]


@pytest.mark.parametrize(
    ("terms", "kind", "code"),
    [
        ({"quantity": "0.0015"}, ccxt.BadRequest, -1111),
        ({"quantity": "0"}, ccxt.BadRequest, -4003),
        ({"quantity": "2000"}, ccxt.BaseError, -4005),
        ({"quantity": "0.001"}, ccxt.BaseError, -4164),
        ({"price": "80000.05"}, ccxt.BadRequest, -4014),
        ({"price": "80000.123"}, ccxt.BadRequest, -1111),
        ({"symbol": "NOPEUSDT"}, ccxt.BadSymbol, -1121),
        ({"positionSide": "LONG"}, ccxt.BaseError, -4061),
        ({"newClientOrderId": "x" * 37}, ccxt.BadRequest, -4015),
        ({"newClientOrderId": "taken"}, ccxt.BaseError, -4116),
        ({"type": "STOP_MARKET", "stopPrice": "70000"}, ccxt.BaseError, -4120),
        ({"type": "AUCTION"}, ccxt.BadRequest, -1116),
        ({"timeInForce": "DAY"}, ccxt.BadRequest, -1115),
        ({"timeInForce": "GTX", "price": "95000"}, ccxt.BaseError, -5022),
        ({"quantity": "120", "price": "94000"}, ccxt.BaseError, -2019),
        ({"quantity": None}, ccxt.BadRequest, -1102),
    ],
    ids=lambda value: str(value) if isinstance(value, int) else "",
)
async def test_what_breaks_a_rule_is_refused_in_binances_words(
    venue: Venue, futures: Any, terms: dict[str, str | None], kind: type[BaseException], code: int
) -> None:
    exchange = venue(FUTURES + "[account]\nequity = 1000000\nmultiplier = 1\n")
    good = {"symbol": "BTCUSDT", "side": "BUY", "type": "LIMIT", "timeInForce": "GTC", "quantity": "0.01"}
    await futures.fapiPrivatePostOrder({**good, "price": "80000", "newClientOrderId": "taken"})
    asked = {name: value for name, value in {**good, "price": "80000", **terms}.items() if value is not None}
    raised, found = await refused(futures.fapiPrivatePostOrder(asked))
    assert found == code and issubclass(raised, kind)
    assert exchange.report()["open_orders"] == 1


async def test_in_hedge_mode_each_side_is_closed_by_itself(venue: Venue, futures: Any) -> None:
    exchange = venue(HEDGED)
    held = {each["side"]: each["contracts"] for each in await futures.fetch_positions()}
    assert held == {"long": 0.5, "short": 0.2}
    assert all(each["hedged"] for each in await futures.fetch_positions())
    assert (await futures.fetch_position_mode())["hedged"] is True
    assert exchange.report()["positions"] == {"BTCUSDT long": "0.5", "BTCUSDT short": "-0.2"}

    assert (await refused(futures.create_order(BTC, "market", "sell", 0.5)))[1] == -4061
    long, short = {"positionSide": "LONG"}, {"positionSide": "SHORT"}
    both = {**long, "reduceOnly": True}
    assert await refused(futures.create_order(BTC, "market", "sell", 0.5, None, both)) == (ccxt.BadRequest, -1106)
    assert (await refused(futures.create_order(BTC, "market", "sell", 0.6, None, long)))[1] == -2022

    await futures.create_order(BTC, "market", "buy", 0.2, None, short)
    assert exchange.report()["positions"] == {"BTCUSDT long": "0.5"}
    await futures.create_order(BTC, "market", "sell", 0.5, None, {"hedged": True, "reduceOnly": True})
    report = exchange.report()
    assert report["is_flat"] is True and report["violations"] == []
    assert report["closes"] == {"BTCUSDT short": 1, "BTCUSDT long": 1}


async def test_what_opens_one_side_does_not_touch_the_other(venue: Venue, futures: Any) -> None:
    exchange = venue(HEDGED)
    await futures.create_order(BTC, "market", "sell", 1, None, {"positionSide": "SHORT"})
    report = exchange.report()
    assert report["positions"] == {"BTCUSDT long": "0.5", "BTCUSDT short": "-1.2"}
    assert report["violations"] == [] and report["closes"] == {}


async def test_the_position_mode_changes_only_without_orders_and_positions(venue: Venue, futures: Any) -> None:
    venue(LONG)
    assert (await refused(futures.set_position_mode(True)))[1] == -4068
    venue(FUTURES)
    assert (await refused(futures.set_position_mode(False)))[1] == -4059
    placed = await futures.create_order(BTC, "limit", "buy", 0.01, 80_000)
    assert (await refused(futures.set_position_mode(True)))[1] == -4067
    await futures.cancel_order(placed["id"], BTC)
    await futures.set_position_mode(True)
    await futures.create_order(BTC, "market", "buy", 0.01, None, {"positionSide": "LONG"})
    assert [each["side"] for each in await futures.fetch_positions()] == ["long"]


TAKE_PROFIT = (
    '[[orders]]\nsymbol = "BTCUSDT"\nside = "sell"\nqty = 0.5\nlimit_price = 110000\nclient_order_id = "profit"\n'
)


async def test_a_resting_reduce_only_order_holds_the_quantity(venue: Venue, futures: Any) -> None:
    exchange = venue(LONG + TAKE_PROFIT + "reduce_only = true\n")
    close = {"reduceOnly": True}
    assert (await refused(futures.create_order(BTC, "market", "sell", 0.5, None, close)))[1] == -4118
    (resting,) = await futures.fetch_open_orders(BTC)
    assert resting["reduceOnly"] is True
    await futures.cancel_all_orders(BTC)
    await futures.create_order(BTC, "market", "sell", 0.5, None, close)
    assert exchange.report()["is_flat"] is True


async def test_what_may_only_reduce_ends_with_its_position(venue: Venue, futures: Any) -> None:
    venue(LONG + TAKE_PROFIT + "reduce_only = true\n")
    await futures.create_order(BTC, "market", "sell", 0.5)
    assert await futures.fetch_open_orders(BTC) == []
    assert (await futures.fetch_order(None, BTC, {"origClientOrderId": "profit"}))["status"] == "expired"


async def test_several_are_cancelled_in_one_request_and_each_is_answered(venue: Venue, futures: Any) -> None:
    exchange = venue(FUTURES)
    placed = [await futures.create_order(BTC, "limit", "buy", 0.01, 80_000 + index) for index in range(3)]
    ids = [placed[0]["id"], "1", placed[2]["id"]]
    # ccxt's own cancel_orders leaves out what was refused.
    answers = await futures.fapiPrivateDeleteBatchOrders({"symbol": "BTCUSDT", "orderidlist": ids})
    assert [each.get("status") or each["code"] for each in answers] == ["CANCELED", -2011, "CANCELED"]
    named = await futures.cancel_orders([], BTC, {"clientOrderIds": [placed[1]["clientOrderId"], "unknown"]})
    assert [each["status"] for each in named] == ["canceled"]
    assert exchange.report()["open_orders"] == 0
    too_many = [str(index) for index in range(11)]
    assert (await refused(futures.cancel_orders(too_many, BTC)))[1] == -4032


async def test_several_are_placed_in_one_request_and_each_is_answered(venue: Venue, futures: Any) -> None:
    exchange = venue(FUTURES)
    good = {"symbol": BTC, "type": "limit", "side": "buy", "amount": 0.01, "price": 80_000}
    answers = await futures.create_orders([good, {**good, "amount": 0.001}])
    assert sorted(each["status"] for each in answers) == ["open", "rejected"]
    assert exchange.report()["open_orders"] == 1


async def test_all_of_a_symbol_are_cancelled_and_no_others(venue: Venue, futures: Any) -> None:
    venue(FUTURES)
    for symbol, price in ((BTC, 80_000), (BTC, 81_000), (ETH, 3_000)):
        await futures.create_order(symbol, "limit", "buy", 0.1, price)
    await futures.cancel_all_orders(BTC)
    assert [each["symbol"] for each in await futures.fetch_open_orders()] == [ETH]
    await futures.cancel_all_orders(BTC)


async def test_conditional_orders_are_listed_and_cancelled_apart(venue: Venue, futures: Any) -> None:
    exchange = venue(LONG)
    stop = await futures.create_order(BTC, "market", "sell", 0.5, None, {"stopLossPrice": 90_000, "reduceOnly": True})
    assert await futures.fetch_open_orders() == []
    (listed,) = await futures.fetch_open_orders(params={"trigger": True})
    assert (listed["id"], listed["triggerPrice"], listed["status"]) == (stop["id"], 90_000, "open")
    assert await refused(futures.cancel_order(stop["id"], BTC)) == (ccxt.OrderNotFound, -2011)
    await futures.cancel_all_orders(BTC)
    assert exchange.report()["open_orders"] == 1, "the ordinary cancel leaves it"
    await futures.cancel_order(stop["id"], BTC, {"trigger": True})
    assert exchange.report()["open_orders"] == 0
    assert (await futures.fetch_order(stop["id"], BTC, {"trigger": True}))["status"] == "canceled"
    await futures.create_order(BTC, "market", "sell", 0.5, None, {"takeProfitPrice": 99_000, "reduceOnly": True})
    await futures.cancel_all_orders(BTC, {"trigger": True})
    assert exchange.report()["open_orders"] == 0


async def test_a_conditional_order_whose_price_is_reached_becomes_an_ordinary_one(venue: Venue, futures: Any) -> None:
    exchange = venue(LONG)
    stop = {"triggerPrice": 90_000, "reduceOnly": True}
    placed = await futures.create_order(BTC, "limit", "sell", 0.5, 92_000, stop)
    await futures.create_order(BTC, "market", "sell", 0.5, None, {"triggerPrice": 80_000, "closePosition": True})
    exchange.control("price", {"symbol": "BTCUSDT", "price": 89_000})
    assert [each["id"] for each in await futures.fetch_open_orders(BTC)] == [placed["id"]]
    assert len(await futures.fetch_open_orders(BTC, params={"trigger": True})) == 1
    assert (await refused(futures.cancel_order(placed["id"], BTC, {"trigger": True})))[1] == -2011
    await futures.cancel_order(placed["id"], BTC)
    exchange.control("price", {"symbol": "BTCUSDT", "price": 79_000})
    assert exchange.report()["is_flat"] is True
    assert (await refused(futures.create_order(BTC, "limit", "sell", 0.5, 90_000, stop)))[1] == -2021


async def test_a_countdown_cancels_a_symbols_orders_without_another_request(venue: Venue, futures: Any) -> None:
    exchange = venue("time_scale = 20\n" + FUTURES)
    for symbol in (BTC, ETH):
        await futures.create_order(symbol, "limit", "buy", 0.1, 3_000)
    answer = await futures.fapiPrivatePostCountdownCancelAll({"symbol": "BTCUSDT", "countdownTime": 10_000})
    assert answer == {"symbol": "BTCUSDT", "countdownTime": "10000"}
    eventually(lambda: exchange.report()["open_orders"] == 1)
    assert [each["symbol"] for each in await futures.fetch_open_orders()] == [ETH]
    timers = exchange.report()["dead_man"]
    (firing,) = timers["fired"]
    assert (firing["symbol"], firing["cancelled"]) == ("BTCUSDT", 1) and firing["at"] >= 10 and timers["armed"] == {}


async def test_a_countdown_is_put_off_and_turned_off(venue: Venue, futures: Any) -> None:
    exchange = venue(FUTURES)
    await futures.create_order(BTC, "limit", "buy", 0.1, 3_000)
    for left in (1_000_000, 2_000_000):
        await futures.fapiPrivatePostCountdownCancelAll({"symbol": "BTCUSDT", "countdownTime": left})
    assert exchange.report()["dead_man"]["armed"]["BTCUSDT"] > 1_500
    await futures.fapiPrivatePostCountdownCancelAll({"symbol": "BTCUSDT", "countdownTime": 0})
    assert exchange.report()["dead_man"] == {"armed": {}, "fired": []}
    assert exchange.report()["open_orders"] == 1


async def test_executions_and_transfers_are_told(venue: Venue, futures: Any) -> None:
    exchange = venue(LONG)
    exchange.control("transfer", {"amount": 250})
    exchange.control("price", {"symbol": "BTCUSDT", "price": 96_000})
    closing = await futures.create_order(BTC, "market", "sell", 0.5, None, {"reduceOnly": True})
    (trade,) = await futures.fetch_my_trades(BTC)
    assert (trade["order"], trade["amount"], trade["price"], trade["side"]) == (closing["id"], 0.5, 96_000, "sell")
    assert trade["info"]["realizedPnl"] == "500.00000000"
    incomes = {each["incomeType"]: Decimal(each["income"]) for each in await futures.fapiPrivateGetIncome()}
    assert incomes == {"TRANSFER": 250, "REALIZED_PNL": 500}
    (transfer,) = await futures.fapiPrivateGetIncome({"incomeType": "TRANSFER"})
    assert transfer["asset"] == "USDT"


async def test_a_client_order_id_is_free_again_once_its_order_is_closed(venue: Venue, futures: Any) -> None:
    exchange = venue(LONG)
    for _ in range(2):
        await futures.create_order(BTC, "market", "sell", 0.1, None, {"clientOrderId": "same", "reduceOnly": True})
    assert exchange.report()["positions"] == {"BTCUSDT": "0.3"}


async def test_an_order_can_be_tried_without_being_placed(venue: Venue, futures: Any) -> None:
    exchange = venue(FUTURES)
    small = {"symbol": "BTCUSDT", "side": "SELL", "type": "MARKET", "quantity": "0.001"}
    assert (await refused(futures.fapiPrivatePostOrderTest(small)))[1] == -4164
    assert await futures.fapiPrivatePostOrderTest({**small, "reduceOnly": "true"}) == {}
    report = exchange.report()
    assert report["orders_created"]["client"] == 0 and report["positions"] == {}


async def test_an_acknowledgement_tells_nothing_of_what_became_of_the_order(venue: Venue, futures: Any) -> None:
    exchange = venue(LONG)
    close = {"symbol": "BTCUSDT", "side": "SELL", "type": "MARKET", "quantity": "0.5", "reduceOnly": "true"}
    answer = await futures.fapiPrivatePostOrder(close)
    assert (answer["status"], answer["executedQty"]) == ("NEW", "0")
    assert exchange.report()["is_flat"] is True
