"""Each kind of trouble that Binance can be in really happens on the wire, as ccxt's own exceptions."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import ccxt
import httpx
import pytest

from sandbox.exchange.rate_limit import RateLimit
from sandbox.exchange.server import PaperExchangeThread
from tests.sandbox.exchange.binance.conftest import FUTURES, SPOT, code_of

Venue = Callable[[str], PaperExchangeThread]
BTC = "BTC/USDT:USDT"
RESTING = (
    FUTURES + '[[orders]]\nsymbol = "BTCUSDT"\nside = "buy"\nqty = 0.01\nlimit_price = 80000\nclient_order_id = "one"\n'
)


def trouble(kind: str, route: str = "*", **more: object) -> str:
    words = "".join(f"{name} = {str(value).lower()}\n" for name, value in more.items())
    return f'[[trouble]]\nkind = "{kind}"\nroutes = ["{route}"]\nfirst = 1\n{words}'


@pytest.mark.parametrize(
    ("kind", "raised", "code"),
    [
        ("401", ccxt.AuthenticationError, -2015),
        ("418", ccxt.DDoSProtection, -1003),
        ("429", ccxt.DDoSProtection, -1003),
        ("500", ccxt.BaseError, -1000),
        ("503", ccxt.BaseError, -1008),
        ("504", ccxt.BaseError, -1007),
    ],
)
async def test_a_status_is_told_with_binances_code(
    venue: Venue, futures: Any, kind: str, raised: type[BaseException], code: int
) -> None:
    exchange = venue(FUTURES + trouble(kind, "GET /fapi/v3/positionRisk"))
    await futures.load_markets()
    with pytest.raises(ccxt.BaseError) as error:
        await futures.fetch_positions()
    assert issubclass(type(error.value), raised) and code_of(error.value) == code
    assert await futures.fetch_positions() == []
    assert exchange.report()["trouble"] == {kind: 1}


@pytest.mark.parametrize("kind", ["403", "502"])
async def test_a_gateway_answers_in_html(venue: Venue, futures: Any, kind: str) -> None:
    venue(FUTURES + trouble(kind, "GET /fapi/v1/openOrders"))
    with pytest.raises(ccxt.BaseError, match="html"):
        await futures.fetch_open_orders()


@pytest.mark.parametrize("kind", ["drop", "503", "504"])
async def test_a_lost_answer_has_its_effect(venue: Venue, futures: Any, kind: str) -> None:
    exchange = venue(FUTURES + trouble(kind, "POST /fapi/v1/order", applied=True))
    with pytest.raises(ccxt.BaseError):
        await futures.create_order(BTC, "limit", "buy", 0.01, 80_000, {"clientOrderId": "mine"})
    found = await futures.fetch_order(None, BTC, {"origClientOrderId": "mine"})
    assert found["status"] == "open" and exchange.report()["open_orders"] == 1
    with pytest.raises(ccxt.BaseError, match="-4116"):
        await futures.create_order(BTC, "limit", "buy", 0.01, 80_000, {"clientOrderId": "mine"})


async def test_a_dropped_request_changes_nothing(venue: Venue, futures: Any) -> None:
    exchange = venue(FUTURES + trouble("drop", "POST /fapi/v1/order"))
    with pytest.raises(ccxt.NetworkError):
        await futures.create_order(BTC, "limit", "buy", 0.01, 80_000)
    assert exchange.report()["open_orders"] == 0


def test_weights_are_counted_and_the_limit_holds(venue: Venue, http: httpx.Client) -> None:
    venue("rate_limit = 45\n" + FUTURES)
    used = [http.get("/fapi/v1/ticker/24hr").headers["X-MBX-USED-WEIGHT-1M"]]
    used += [http.get("/fapi/v1/time").headers["X-MBX-USED-WEIGHT-1M"] for _ in range(2)]
    assert used == ["40", "41", "42"]
    refused = http.get("/fapi/v1/ticker/24hr")
    assert refused.status_code == 429 and 0 < int(refused.headers["Retry-After"]) <= 61
    assert refused.json() == {
        "code": -1003,
        "msg": "Too many requests; current limit is 45 requests per minute. "
        "Please use the websocket for live updates to avoid polling the API.",
    }
    assert http.get("/fapi/v1/time").status_code == 200


def test_who_goes_on_over_the_limit_is_banned(venue: Venue, http: httpx.Client) -> None:
    venue("rate_limit = 1\nban_after = 2\nban_for = 600\n" + SPOT)
    statuses = [http.get("/api/v3/time").status_code for _ in range(5)]
    assert statuses == [200, 429, 429, 418, 418]
    banned = http.get("/api/v3/time")
    assert 590 < int(banned.headers["Retry-After"]) <= 601
    until = int(banned.json()["msg"].partition("banned until ")[2].partition(".")[0])
    assert banned.json()["code"] == -1003 and 590_000 < until - time.time() * 1000 <= 600_100


def test_a_ban_outlasts_the_minute_and_ends() -> None:
    limit = RateLimit(10, ban_after=1, ban_for=100)
    assert [limit.admit(1, 8), limit.admit(1, 8), limit.admit(1, 2)] == [True, False, True]
    assert limit.admit(2, 8) is False and limit.is_banned(2)
    assert limit.admit(70, 1) is False
    assert limit.admit(102, 8) is True and not limit.is_banned(102) and limit.used == 8


async def test_a_clock_that_differs_and_a_wrong_secret(venue: Venue, futures: Any) -> None:
    for ahead in (60_000, -60_000):
        venue(f"clock_ahead_ms = {ahead}\n" + FUTURES)
        with pytest.raises(ccxt.InvalidNonce, match="-1021"):
            await futures.fetch_balance()
    await futures.load_time_difference()
    futures.options["adjustForTimeDifference"] = True
    await futures.fetch_balance()
    venue('account.secret = "another"\n' + FUTURES)
    futures.options["timeDifference"] = 0
    with pytest.raises(ccxt.AuthenticationError, match="-1022"):
        await futures.fetch_balance()


async def test_a_key_that_may_only_read(venue: Venue, futures: Any) -> None:
    exchange = venue(RESTING.replace("prices =", "account.key_may_trade = false\nprices ="))
    assert len(await futures.fetch_open_orders()) == 1
    for call, *arguments in (
        (futures.cancel_all_orders, BTC),
        (futures.create_order, BTC, "market", "buy", 0.01),
        (futures.fapiPrivatePostOrderTest, {"symbol": "BTCUSDT"}),
    ):
        with pytest.raises(ccxt.AuthenticationError, match="-2015"):
            await call(*arguments)
    may = await futures.sapiGetAccountApiRestrictions()
    assert (may["enableReading"], may["enableFutures"]) == (True, False)
    assert exchange.report()["open_orders"] == 1


async def test_a_cancel_that_loses_the_race_finds_no_order(venue: Venue, futures: Any) -> None:
    exchange = venue(RESTING + "[cancels]\ndelay = 0.05\nrace_probability = 1\n")
    with pytest.raises(ccxt.OrderNotFound, match="-2011"):
        await futures.cancel_order(None, BTC, {"origClientOrderId": "one"})
    report = exchange.report()
    assert report["positions"] == {"BTCUSDT": "0.01"} and report["raced_cancels"] == 1


async def test_a_cancel_is_answered_when_it_has_taken_effect(venue: Venue, futures: Any) -> None:
    exchange = venue(RESTING + "[cancels]\ndelay = 0.1\n")
    cancelled = await futures.cancel_order(None, BTC, {"origClientOrderId": "one"})
    assert cancelled["status"] == "canceled" and exchange.report()["open_orders"] == 0


async def test_partial_fills_are_told(venue: Venue, futures: Any) -> None:
    venue(FUTURES + "[fills]\npartial_probability = 1\nstall_probability = 1\n")
    placed = await futures.create_order(BTC, "market", "buy", 0.011)
    assert (placed["status"], placed["filled"], placed["info"]["status"]) == ("open", 0.005, "PARTIALLY_FILLED")


async def test_a_bulk_cancel_may_leave_some_and_say_that_it_is_done(venue: Venue, futures: Any) -> None:
    more = RESTING.partition("[[orders]]")[2].replace("one", "two")
    venue(RESTING + "[[orders]]" + more + "[cancels]\nbulk_leaves = 1\n")
    await futures.cancel_all_orders(BTC)
    (left,) = await futures.fetch_open_orders()
    assert left["clientOrderId"] == "one"
    assert (await futures.cancel_order(left["id"], BTC))["status"] == "canceled"


@pytest.mark.parametrize(("reason", "code"), [("buying_power", "-2019"), ("day_trade", "-4131")])
async def test_an_exit_is_refused_by_rule(venue: Venue, futures: Any, reason: str, code: str) -> None:
    held = '[[positions]]\nsymbol = "BTCUSDT"\nqty = 1\n'
    exchange = venue(FUTURES + held + f'[[exit_refusals]]\nfirst = 1\nreason = "{reason}"\n')
    with pytest.raises(ccxt.BaseError, match=code):
        await futures.create_order(BTC, "market", "sell", 1, None, {"reduceOnly": True})
    await futures.create_order(BTC, "market", "sell", 1, None, {"reduceOnly": True})
    assert exchange.report()["exits_refused"] == 1 and exchange.report()["is_flat"] is True


async def test_a_halted_symbol(venue: Venue, futures: Any, spot: Any) -> None:
    venue(FUTURES + '[[halts]]\nsymbol = "BTCUSDT"\n')
    assert (await futures.load_markets())[BTC]["active"] is False
    with pytest.raises(ccxt.BaseError, match="-4141"):
        await futures.create_order(BTC, "market", "buy", 1)
    venue(SPOT + '[[halts]]\nsymbol = "BTC/USDT"\n')
    with pytest.raises(ccxt.MarketClosed):
        await spot.create_order("BTC/USDT", "market", "buy", 1)


async def test_what_nobody_can_read(venue: Venue, futures: Any) -> None:
    held = '[[positions]]\nsymbol = "BTCUSDT"\nqty = 1\nunreadable = true\n'
    venue(RESTING.replace('client_order_id = "one"', "unreadable = true") + held)
    (raw,) = await futures.fapiPrivateV3GetPositionRisk()
    assert raw["positionAmt"] == ""
    (order,) = await futures.fapiPrivateGetOpenOrders()
    assert order["price"] == ""


async def test_new_orders_are_counted_by_themselves(venue: Venue, futures: Any) -> None:
    exchange = venue("order_limit = 2\n" + FUTURES)
    for price in (80_000, 81_000):
        await futures.create_order(BTC, "limit", "buy", 0.01, price)
    with pytest.raises(ccxt.DDoSProtection, match="-1015"):
        await futures.create_order(BTC, "limit", "buy", 0.01, 82_000)
    assert len(await futures.fetch_open_orders()) == 2
    assert exchange.report()["open_orders"] == 2


async def test_the_venue_takes_from_a_side_while_it_is_being_closed(venue: Venue, futures: Any) -> None:
    held = '[[positions]]\nsymbol = "BTCUSDT"\nqty = 1\n[[positions]]\nsymbol = "BTCUSDT"\nqty = -1\n'
    exchange = venue(FUTURES + "account.hedge_mode = true\n" + held)
    taken = {"symbol": "BTCUSDT", "side": "sell", "qty": 0.4, "position_side": "long"}
    exchange.control("late-fill", taken)
    assert exchange.report()["positions"] == {"BTCUSDT long": "0.6", "BTCUSDT short": "-1"}
    long = {"positionSide": "LONG"}
    with pytest.raises(ccxt.BaseError, match="-2022"):
        await futures.create_order(BTC, "market", "sell", 1, None, long)
    await futures.create_order(BTC, "market", "sell", 0.6, None, long)
    report = exchange.report()
    assert report["positions"] == {"BTCUSDT short": "-1"} and report["violations"] == []
