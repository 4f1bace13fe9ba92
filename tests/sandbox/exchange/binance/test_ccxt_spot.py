"""An unmodified ccxt client trades spot at the paper exchange: what is held is a balance."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ccxt
import pytest

from sandbox.exchange.server import PaperExchangeThread
from tests.sandbox.exchange.binance.conftest import SPOT, code_of

Venue = Callable[[str], PaperExchangeThread]
BTC = "BTC/USDT"
_AT_MARKET = {"type": "MARKET", "timeInForce": None, "price": None}
HELD = SPOT + 'account.cash = 10000\n[[positions]]\nsymbol = "BTC/USDT"\nqty = 0.5\n'


async def refused(call: Any) -> tuple[type[BaseException], int]:
    with pytest.raises(ccxt.BaseError) as error:
        await call
    return type(error.value), code_of(error.value)


async def test_it_starts_and_reads_balances_with_what_orders_lock(venue: Venue, spot: Any) -> None:
    venue(HELD)
    markets = await spot.load_markets()
    assert markets[BTC]["spot"] is True and markets[BTC]["limits"]["cost"]["min"] == 5
    assert markets["DOGE/USDT"]["precision"]["amount"] == 1
    await spot.create_order(BTC, "limit", "sell", 0.2, 110_000)
    await spot.create_order(BTC, "limit", "buy", 0.01, 80_000)
    balance = await spot.fetch_balance()
    assert (balance["BTC"]["free"], balance["BTC"]["used"]) == (0.3, 0.2)
    assert (balance["USDT"]["free"], balance["USDT"]["used"]) == (9_200, 800)
    assert len(await spot.fetch_open_orders()) == 2


async def test_what_is_held_is_sold_and_paid_for(venue: Venue, spot: Any) -> None:
    exchange = venue(HELD)
    sold = await spot.create_order(BTC, "market", "sell", 0.5)
    assert (sold["status"], sold["filled"], sold["cost"]) == ("closed", 0.5, 47_500)
    assert [trade["amount"] for trade in sold["trades"]] == [0.5]
    balance = await spot.fetch_balance()
    assert (balance["USDT"]["free"], balance["BTC"]["total"]) == (57_500, 0)
    report = exchange.report()
    assert report["is_flat"] is True and report["closes"] == {"BTCUSDT": 1} and report["violations"] == []
    (trade,) = await spot.fetch_my_trades(BTC)
    assert (trade["order"], trade["side"], trade["amount"]) == (sold["id"], "sell", 0.5)


async def test_more_than_is_free_cannot_be_sold_or_spent(venue: Venue, spot: Any) -> None:
    exchange = venue(HELD)
    resting = await spot.create_order(BTC, "limit", "sell", 0.3, 110_000)
    for symbol, side, amount in ((BTC, "sell", 0.3), (BTC, "buy", 0.2), ("ETH/USDT", "sell", 1)):
        with pytest.raises(ccxt.InsufficientFunds, match="insufficient balance"):
            await spot.create_order(symbol, "market", side, amount)
    cancelled = await spot.cancel_order(resting["id"], BTC)
    assert cancelled["status"] == "canceled"
    await spot.create_order(BTC, "market", "sell", 0.5)
    assert exchange.report()["is_flat"] is True


@pytest.mark.parametrize(
    ("terms", "kind", "code", "words"),
    [
        ({"quantity": "0.000001"}, ccxt.InvalidOrder, -1013, "LOT_SIZE"),
        ({"quantity": "0.1234567"}, ccxt.InvalidOrder, -1013, "LOT_SIZE"),
        ({"quantity": "0.123456789"}, ccxt.BadRequest, -1111, "too much precision"),
        ({"quantity": "0.00005"}, ccxt.BadRequest, -1013, "NOTIONAL"),
        ({"price": "80000.05"}, ccxt.InvalidOrder, -1013, "PRICE_FILTER"),
        ({"symbol": "NOPEUSDT"}, ccxt.BadSymbol, -1121, "Invalid symbol."),
        ({"newClientOrderId": "not allowed"}, ccxt.BadRequest, -1100, "Illegal characters"),
        ({"newClientOrderId": "taken"}, ccxt.BaseError, -2010, "Duplicate order sent."),
        ({"type": "LIMIT_MAKER", "timeInForce": None, "price": "95000"}, ccxt.InvalidOrder, 0, "immediately match"),
        ({**_AT_MARKET, "quantity": "200"}, ccxt.InvalidOrder, -1013, "MARKET_LOT_SIZE"),
        ({"price": None}, ccxt.BadRequest, -1102, "'price'"),
    ],
    ids=lambda value: str(value) if isinstance(value, int | str) else "",
)
async def test_what_a_filter_stops_is_refused_in_binances_words(
    venue: Venue, spot: Any, terms: dict[str, str | None], kind: type[BaseException], code: int, words: str
) -> None:
    venue(SPOT)
    good = {"symbol": "BTCUSDT", "side": "BUY", "type": "LIMIT", "timeInForce": "GTC", "quantity": "0.01"}
    await spot.privatePostOrder({**good, "price": "80000", "newClientOrderId": "taken"})
    asked = {name: value for name, value in {**good, "price": "80000", **terms}.items() if value is not None}
    with pytest.raises(ccxt.BaseError, match=words) as error:
        await spot.privatePostOrder(asked)
    assert issubclass(type(error.value), kind) and code_of(error.value) == code


async def test_dust_can_be_seen_and_not_sold(venue: Venue, spot: Any) -> None:
    exchange = venue(SPOT + '[[positions]]\nsymbol = "BTC/USDT"\nqty = 0.000004\n' + _DOGE)
    assert (await spot.fetch_balance())["BTC"]["free"] == 0.000004
    assert exchange.report()["closable"] == {}
    # What a client rounds to nothing, it refuses by itself; the venue's filters stop the rest.
    raw = {"symbol": "BTCUSDT", "side": "SELL", "type": "MARKET", "quantity": "0.000004"}
    assert await refused(spot.privatePostOrder(raw)) == (ccxt.InvalidOrder, -1013)
    assert (await refused(spot.create_order("DOGE/USDT", "market", "sell", 9)))[1] == -1013
    assert exchange.report()["rules_broken"] == {"LOT_SIZE": 1, "NOTIONAL": 1}


_DOGE = '[[positions]]\nsymbol = "DOGE/USDT"\nqty = 9.5\n'


async def test_the_part_below_a_step_is_left(venue: Venue, spot: Any) -> None:
    exchange = venue(SPOT + '[[positions]]\nsymbol = "DOGE/USDT"\nqty = 1000.25\n')
    assert exchange.report()["closable"] == {"DOGEUSDT": "1000"}
    await spot.create_order("DOGE/USDT", "market", "sell", 1000)
    report = exchange.report()
    assert report["positions"] == {"DOGEUSDT": "0.25"} and report["closable"] == {}


async def test_two_hops_where_no_pair_leads_to_the_accounts_currency(venue: Venue, spot: Any) -> None:
    exchange = venue(_KEY)
    await spot.create_order("KEY/BTC", "market", "sell", 1000)
    assert exchange.report()["positions"] == {"BTCUSDT": "0.1"}
    await spot.create_order(BTC, "market", "sell", 0.1)
    assert exchange.report()["is_flat"] is True
    assert (await spot.fetch_balance())["USDT"]["total"] == 9_500


_KEY = (
    'protocol = "binance-spot"\naccount.cash = 0\nprices = { "BTC/USDT" = 95000, "KEY/BTC" = 0.0001 }\n'
    '[[positions]]\nsymbol = "KEY/BTC"\nqty = 1000\n'
)


async def test_all_of_a_pair_are_cancelled_and_none_is_an_error(venue: Venue, spot: Any) -> None:
    exchange = venue(HELD)
    for price in (110_000, 120_000):
        await spot.create_order(BTC, "limit", "sell", 0.1, price)
    assert [each["status"] for each in await spot.cancel_all_orders(BTC)] == ["canceled", "canceled"]
    assert await refused(spot.cancel_all_orders(BTC)) == (ccxt.OrderNotFound, -2011)
    assert exchange.report()["open_orders"] == 0


async def test_stops_are_ordinary_orders_that_lock_what_they_would_sell(venue: Venue, spot: Any) -> None:
    exchange = venue(HELD)
    await spot.create_order(BTC, "limit", "sell", 0.5, 89_000, {"stopLossPrice": 90_000})
    (listed,) = await spot.fetch_open_orders()
    assert (listed["triggerPrice"], listed["info"]["type"]) == (90_000, "STOP_LOSS_LIMIT")
    with pytest.raises(ccxt.InsufficientFunds):
        await spot.create_order(BTC, "market", "sell", 0.5)
    exchange.control("price", {"symbol": BTC, "price": 89_500})
    assert exchange.report()["is_flat"] is True


async def test_keys_of_the_other_market_have_no_permission(venue: Venue, spot: Any, futures: Any) -> None:
    venue(SPOT)
    assert await refused(futures.fapiPrivateGetOpenOrders()) == (ccxt.AuthenticationError, -2015)
    venue('protocol = "binance-futures"\n')
    assert await refused(spot.privateGetAccount()) == (ccxt.AuthenticationError, -2015)


async def test_money_in_and_out_is_told(venue: Venue, spot: Any) -> None:
    exchange = venue(HELD)
    exchange.control("transfer", {"amount": 500})
    exchange.control("transfer", {"amount": -200})
    (deposit,), (withdrawal,) = await spot.fetch_deposits(), await spot.fetch_withdrawals()
    assert (deposit["amount"], deposit["currency"], deposit["status"]) == (500, "USDT", "ok")
    assert (withdrawal["amount"], withdrawal["currency"], withdrawal["status"]) == (200, "USDT", "ok")
    assert abs(withdrawal["timestamp"] - deposit["timestamp"]) < 10_000
    assert (await spot.fetch_balance())["USDT"]["free"] == 10_300
