"""A wallet's balances as positions: what goes, by which pair, what is dust, what is kept, what is owed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from breaker.instruments import AssetClass, Instrument
from breaker.orders import Side
from brokers.ccxt import CcxtBroker
from brokers.ccxt.spot import Balance, is_dust, positions_of, selling_pair
from brokers.protocol import CloseOrder, CloseOutcome, Refusal
from tests.brokers.ccxt.local_exchange import Answer, LocalExchange, Told, opened, serving, spot_market

KEEP = ("USDT", "USDC")
STEPS = Instrument(
    AssetClass.CRYPTO,
    quantity_increment=Decimal("0.001"),
    minimum_quantity=Decimal("0.01"),
    minimum_notional=Decimal(5),
)


def markets(*pairs: str, **more: Any) -> dict[str, dict[str, Any]]:
    return {pair: {"active": True, "spot": True, **more} for pair in pairs}


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        (("BTC/USDC", "BTC/USDT"), "BTC/USDT"),
        (("BTC/USDC", "BTC/EUR"), "BTC/USDC"),
        (("BTC/ETH", "ETH/USDT", "BTC/DOGE", "DOGE/USDT"), "BTC/ETH"),
        (("BTC/DOGE", "DOGE/USDT"), "BTC/DOGE"),
        (("BTC/DOGE",), ""),
        (("USDT/BTC",), ""),
    ],
)
def test_it_is_sold_by_the_pair_that_exists_or_by_way_of_another_that_does(
    pairs: tuple[str, ...], expected: str
) -> None:
    assert selling_pair("BTC", KEEP, markets(*pairs)) == expected


def test_a_pair_that_is_not_traded_now_is_none() -> None:
    assert selling_pair("BTC", KEEP, {**markets("BTC/USDT", active=False), **markets("BTC/USDC")}) == "BTC/USDC"


@pytest.mark.parametrize(
    ("quantity", "price", "dust"),
    [
        ("1", None, False),
        ("0.0009", None, True),
        ("0.009", None, True),
        ("0.01", None, False),
        ("0.01", Decimal(100), True),
        ("0.05", Decimal(100), False),
        ("0.0509", Decimal(98), True),
    ],
)
def test_dust_is_what_the_exchange_lets_nobody_sell(quantity: str, price: Decimal | None, dust: bool) -> None:
    assert is_dust(Decimal(quantity), STEPS, price) is dust


@pytest.mark.parametrize(
    ("held", "named"),
    [
        ("500", "buy USDT with it by hand (USDT/TRY), or add it to what the account is to keep"),
        ("5", "buy USDT with it by hand (USDT/TRY)"),
        ("4.99", ""),
        ("-3", "no pair there sells it"),
    ],
)
def test_promise_7_a_currency_that_only_others_are_priced_in_is_named_unless_it_buys_nothing(
    held: str, named: str
) -> None:
    balance = Balance("TRY", Decimal(held), max(Decimal(held), Decimal(0)))
    listed = positions_of([balance], KEEP, markets("USDT/TRY", "BTC/USDT"), lambda _: STEPS, {})
    assert not listed.items
    assert [item.symbol for item in listed.unreadable] == (["TRY"] if named else [])
    assert all(named in str(item) for item in listed.unreadable)


amounts = st.decimals(min_value=0, max_value=10**6, places=8)


@given(total=amounts, free=amounts, price=st.none() | st.decimals(min_value="0.01", max_value=10**5, places=2))
def test_no_more_than_is_held_is_ever_for_sale_and_nothing_that_is_kept(
    total: Decimal, free: Decimal, price: Decimal | None
) -> None:
    balances = [Balance(currency, total, min(free, total)) for currency in ("BTC", "USDT", "USDC")]
    prices = {} if price is None else {"BTC/USDT": price}
    listed = positions_of(balances, KEEP, markets("BTC/USDT", "USDC/USDT"), lambda _: STEPS, prices)
    assert all(each.symbol == "BTC/USDT" for each in listed)
    assert all(0 < each.quantity <= total and each.available <= free for each in listed)


def test_what_nothing_sells_is_named_with_what_to_do() -> None:
    listed = positions_of([Balance("LDBTC", Decimal(1), Decimal(1))], KEEP, {}, lambda _: STEPS, {})
    (unread,) = listed.unreadable
    assert "no pair there sells it for USDT or USDC" in str(unread) and "keep" in str(unread)


def test_a_loan_is_short_of_what_is_not_held_and_paid_with_what_is() -> None:
    owed = Balance("BTC", Decimal("0.2"), Decimal("0.2"), debt=Decimal("0.5"))
    listed = {each.symbol: each for each in positions_of([owed], KEEP, markets("BTC/USDT"), lambda _: STEPS, {})}
    assert listed["BTC/USDT"].quantity == Decimal("-0.3")
    loan = listed["BTC loan"]
    assert (loan.quantity, loan.available, loan.closing_side) == (Decimal("-0.5"), Decimal("0.2"), Side.BUY)


def test_what_is_owed_of_a_kept_currency_is_owed_all_the_same() -> None:
    owed = Balance("USDT", Decimal(0), Decimal(0), debt=Decimal(1000))
    (loan,) = positions_of([owed], KEEP, {}, lambda _: STEPS, {}).items
    assert (loan.symbol, loan.quantity, loan.available) == ("USDT loan", Decimal(-1000), Decimal(0))


TICKERS = [
    {
        "symbol": "BTCUSDT",
        "lastPrice": "30000.00",
        "bidPrice": "29999",
        "askPrice": "30001",
        "closeTime": 1764500000000,
    },
    {"symbol": "ETHBTC", "lastPrice": "0.06", "bidPrice": "0.06", "askPrice": "0.06", "closeTime": 1764500000000},
]


def balance(asset: str, free: str, locked: str = "0") -> dict[str, str]:
    return {"asset": asset, "free": free, "locked": locked}


@asynccontextmanager
async def venue(
    balances: list[dict[str, str]], given: Mapping[str, Answer] | None = None, **settings: Any
) -> AsyncIterator[tuple[CcxtBroker, LocalExchange]]:
    answers: dict[str, Answer] = {
        "GET /api/v3/exchangeInfo": {
            "symbols": [
                spot_market("BTC", "USDT"),
                spot_market("ETH", "BTC", least="0.0001"),
                spot_market("USDC", "USDT"),
            ]
        },
        "GET /api/v3/account": {"balances": balances, "updateTime": 1, "accountType": "SPOT"},
        "GET /api/v3/ticker/24hr": TICKERS,
        "GET /api/v3/openOrders": [],
        **(given or {}),
    }
    wallet = {"exchange": "binance", "market": "spot", **settings}
    async with serving(answers) as (exchange, url), opened(url, **wallet) as broker:
        yield broker, exchange


async def test_balances_become_positions_by_two_hops_where_one_does_not_exist_and_dust_does_not() -> None:
    held = [balance("BTC", "0.4", "0.1"), balance("ETH", "2"), balance("USDT", "500"), balance("USDC", "3")]
    async with venue([*held, balance("BNB", "0")]) as (broker, _):
        listed = {each.symbol: each for each in await broker.positions()}
    assert {*listed} == {"BTC/USDT", "ETH/BTC"}
    btc = listed["BTC/USDT"]
    assert (btc.quantity, btc.available, btc.current_price) == (Decimal("0.5"), Decimal("0.4"), Decimal(30000))
    async with venue([balance("BTC", "0.0001"), balance("ETH", "0.0000001")]) as (broker, _):
        assert not await broker.positions()


async def test_without_prices_everything_that_can_be_sold_is_still_sold() -> None:
    given = {"GET /api/v3/ticker/24hr": Told("down", 503)}
    async with venue([balance("BTC", "0.5")], given, request_timeout=0.3) as (broker, _):
        (btc,) = (await broker.positions()).items
    assert (btc.symbol, btc.current_price) == ("BTC/USDT", None)


async def test_a_close_sells_the_quantity_at_the_market_and_never_what_is_kept() -> None:
    done = {
        "symbol": "BTCUSDT",
        "orderId": 7,
        "clientOrderId": "incident-1",
        "transactTime": 1764500000000,
        "price": "0",
        "origQty": "0.50000",
        "executedQty": "0.50000",
        "cummulativeQuoteQty": "15000",
        "status": "FILLED",
        "timeInForce": "GTC",
        "type": "MARKET",
        "side": "SELL",
        "fills": [],
    }
    async with venue([balance("BTC", "0.5")], {"POST /api/v3/order": done}) as (broker, exchange):
        result = await broker.close(CloseOrder("BTC/USDT", Side.SELL, Decimal("0.5"), "incident-1", reduce_only=True))
        kept = await broker.close(CloseOrder("USDC/USDT", Side.SELL, Decimal(3), "incident-2"))
        (asked,) = exchange.of("POST /api/v3/order")
    assert result.outcome is CloseOutcome.ACCEPTED
    assert kept.outcome is CloseOutcome.REFUSED and "USDC is kept" in kept.reason
    assert (asked.params["quantity"], asked.params["type"], asked.params["newClientOrderId"]) == (
        "0.5",
        "MARKET",
        "incident-1",
    )
    assert not {"reduceOnly", "positionSide"} & {*asked.params}


async def test_less_than_the_exchange_lets_anybody_trade_is_dust_when_it_says_so() -> None:
    refused = Told({"code": -1013, "msg": "Filter failure: NOTIONAL"}, 400)
    async with venue([], {"POST /api/v3/order": refused}) as (broker, _):
        result = await broker.close(CloseOrder("BTC/USDT", Side.SELL, Decimal("0.0001"), "incident-1"))
    assert (result.outcome, result.refusal) == (CloseOutcome.REFUSED, Refusal.BELOW_MINIMUM)


@pytest.mark.parametrize(("held", "refusal"), [("0.5", Refusal.HELD), ("0.1", Refusal.NOTHING_LEFT)])
async def test_a_sale_without_the_funds_is_held_by_orders_or_has_nothing_left(held: str, refusal: Refusal) -> None:
    lacking = Told({"code": -2010, "msg": "Account has insufficient balance for requested action."}, 400)
    async with venue([balance("BTC", "0", held)], {"POST /api/v3/order": lacking}) as (broker, _):
        result = await broker.close(CloseOrder("BTC/USDT", Side.SELL, Decimal("0.5"), "incident-1"))
    assert (result.outcome, result.refusal) == (CloseOutcome.REFUSED, refusal)


async def test_a_balance_that_is_not_told_is_named_by_its_pair() -> None:
    async with venue([balance("BTC", ""), balance("ETH", "1")]) as (broker, _):
        listed = await broker.positions()
    assert [each.symbol for each in listed.items] == ["ETH/BTC"]
    assert [each.symbol for each in listed.unreadable] == ["BTC/USDT"]


async def test_the_wallet_is_worth_its_balances_at_last_prices() -> None:
    held = [balance("BTC", "0.5"), balance("ETH", "1"), balance("USDT", "100")]
    async with venue(held) as (broker, _):
        account = await broker.account()
    assert (account.equity, account.currency, account.untrusted) == (Decimal(16900), "USDT", "")


async def test_what_the_account_is_to_keep_is_configured() -> None:
    async with venue([balance("BTC", "0.5"), balance("ETH", "1")], keep=["BTC", "USDT"]) as (broker, _):
        assert [each.symbol for each in await broker.positions()] == ["ETH/BTC"]


async def test_a_loan_is_repaid_by_the_call_for_that() -> None:
    given = {
        "GET /sapi/v1/margin/account": {
            "userAssets": [
                {
                    "asset": "BTC",
                    "borrowed": "0.5",
                    "interest": "0.001",
                    "free": "0.6",
                    "locked": "0",
                    "netAsset": "0.099",
                }
            ]
        },
        "POST /sapi/v1/margin/borrow-repay": {"tranId": 12},
    }
    async with (
        serving(
            {
                "GET /api/v3/exchangeInfo": {"symbols": [spot_market("BTC", "USDT")]},
                "GET /api/v3/ticker/24hr": TICKERS,
                **given,
            }
        ) as (exchange, url),
        opened(url, exchange="binance", market="margin") as broker,
    ):
        listed = {each.symbol: each for each in await broker.positions()}
        loan = listed["BTC loan"]
        result = await broker.close(CloseOrder(loan.symbol, Side.BUY, loan.available, "incident-1"))
        (asked,) = exchange.of("POST /sapi/v1/margin/borrow-repay")
    assert loan.quantity == Decimal("-0.501")
    assert listed["BTC/USDT"].quantity == Decimal("0.099")
    assert result.outcome is CloseOutcome.ACCEPTED
    assert (asked.params["asset"], Decimal(asked.params["amount"])) == ("BTC", Decimal("0.501"))


@pytest.mark.parametrize(
    ("account_may", "keys_may", "missing"),
    [
        (True, True, []),
        (True, None, []),  # the test network doesn't tell
        (False, True, ["trade: the account may not"]),
        (True, False, ["trade in this market: these keys may only read"]),
    ],
)
async def test_keys_that_may_only_read_are_told_before_an_order_is_sent(
    account_may: bool, keys_may: bool | None, missing: list[str]
) -> None:
    answers: dict[str, Any] = {"GET /api/v3/account": {"balances": [], "canTrade": account_may, "updateTime": 1}}
    if keys_may is not None:
        answers["GET /sapi/v1/account/apiRestrictions"] = {"enableSpotAndMarginTrading": keys_may}
    async with venue([], answers) as (broker, exchange):
        assert [*await broker.not_permitted()] == missing
        assert not exchange.of("POST /api/v3/order")
