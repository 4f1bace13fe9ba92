"""Nothing of an account is left out of what is read; and what is by design, or can't be read, is said."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import ccxt.async_support as ccxt
import pytest

from brokers.ccxt import hyperliquid
from brokers.ccxt.lists import described
from brokers.protocol import BrokerRefused, BrokerUnavailable
from configuration.settings import ConfigurationError
from tests.brokers.ccxt.answering import exchange_of
from tests.brokers.ccxt.exchange_answers import CASES, PERPETUAL, Case, market
from tests.brokers.ccxt.local_exchange import opened, serving


def case_of(exchange: str, answers: Mapping[str, Any] | None = None) -> Case:
    """That exchange's, with these answers before its own."""
    case = next(case for case in CASES if case.exchange == exchange)
    return replace(
        case, answers={**(answers or {}), **{k: v for k, v in case.answers.items() if k not in (answers or {})}}
    )


async def test_promise_7_an_account_with_nothing_but_bitgets_coin_futures_is_not_flat() -> None:
    nothing = {"code": "00000", "msg": "success", "data": {"entrustedList": None, "endId": ""}}
    none_of = {
        f"{route}…{product}": answer
        for product in ("USDT-FUTURES", "USDC-FUTURES")
        for route, answer in (("orders-", nothing), ("all-position", {"code": "00000", "data": []}))
    }
    async with exchange_of(case_of("bitget", none_of)) as (broker, answering):
        positions, orders = await broker.positions(), await broker.open_orders()
    assert {position.symbol for position in positions} == {order.symbol for order in orders} == {PERPETUAL}
    assert not positions.unreadable and not orders.unreadable
    asked = next(words for words in answering.asked if "all-position" in words and "COIN" in words)
    assert "marginCoin" not in asked, "of every coin, and not of one"


async def test_a_coin_future_of_bitgets_is_so_many_coins() -> None:
    async with exchange_of(case_of("bitget")) as (broker, _):
        position = next(each for each in await broker.positions() if each.symbol == PERPETUAL)
    assert position.market_value == Decimal("0.3") * 30500


REFUSED = ccxt.PermissionDenied('bybit {"retCode":10005,"retMsg":"Permission denied for current apikey.","result":{}}')


async def test_promise_7_a_product_line_that_the_keys_may_not_read_is_named_with_what_to_do() -> None:
    async with exchange_of(case_of("bybit", {"category=option": REFUSED})) as (broker, _):
        positions, orders = await broker.positions(), await broker.open_orders()
    for listed in (positions, orders):
        (unread,) = listed.unreadable
        assert "option" in str(unread) and 'leave_out = ["option"]' in str(unread)
        assert len(listed.items) >= 3, "the others are closed all the same"


async def test_a_product_line_that_the_account_leaves_out_is_not_asked_for_and_that_is_said() -> None:
    async with exchange_of(case_of("bybit", {"category=option": REFUSED}), leave_out=("option",)) as (
        broker,
        answering,
    ):
        positions, orders = await broker.positions(), await broker.open_orders()
    assert not positions.unreadable and not orders.unreadable
    private = [words for words in answering.asked if "order/realtime" in words or "position/list" in words]
    assert private and not any("category=option" in words for words in private)
    assert broker.capabilities.not_covered.startswith("option; ")


@pytest.mark.parametrize("left_out", [("options",), ("linear USDT", "linear USDC", "inverse", "option")])
async def test_a_product_line_that_there_is_not_or_all_of_them_can_not_be_left_out(left_out: tuple[str, ...]) -> None:
    with pytest.raises(
        ConfigurationError, match=r"accounts.ALPHA.leave_out: .*linear USDT, linear USDC, inverse, opti"
    ):
        async with exchange_of(case_of("bybit"), leave_out=left_out):
            raise AssertionError("it was opened")


async def test_positions_go_on_where_one_answer_is_full() -> None:
    def page(words: str) -> Any:
        first = "cursor=next" not in words
        one = case_of("bybit").answers["position/list…settleCoin=USDC"]["result"]["list"][0]
        held = [{**one, "symbol": f"X{n}PERP"} for n in (range(200) if first else range(200, 203))]
        return {"retCode": 0, "result": {"nextPageCursor": "next" if first else "", "list": held}, "time": 1}

    case = case_of("bybit", {"position/list…settleCoin=USDC": page})
    more = tuple(market(f"X{n}/USDC:USDC", f"X{n}PERP") for n in range(203))
    async with exchange_of(replace(case, markets=(*case.markets, *more))) as (broker, _):
        listed = await broker.positions()
    assert sum(position.symbol.startswith("X") for position in listed) == 203


NO_ACCOUNT = ccxt.AccountNotEnabled(
    'gate {"label":"USER_NOT_FOUND","message":"please transfer funds first to create futures account"}'
)


async def test_where_gate_has_no_account_of_a_currency_yet_there_is_nothing_in_it() -> None:
    async with exchange_of(case_of("gate", {"/futures/btc/": NO_ACCOUNT})) as (broker, answering):
        positions, orders = await broker.positions(), await broker.open_orders()
    assert not positions.unreadable and not orders.unreadable
    assert {position.symbol for position in positions} == {order.symbol for order in orders} == {"BTC/USDT:USDT"}
    assert sum("/futures/btc/positions" in words for words in answering.asked) == 1, "it is believed at once"
    asked = next(words for words in answering.asked if "/futures/usdt/positions" in words)
    assert "holding=true" in asked, "those that were closed long ago must not fill the answer"


POSITION = next(case for case in CASES if case.exchange == "okx").answers["account/positions"]["data"][0]
WRONG_PARAMETER = ccxt.BadRequest('okx {"code":"51000","data":[],"msg":"Parameter ordType error"}')


async def test_a_kind_of_order_that_okx_does_not_know_has_no_orders_but_one_that_it_must_know_has() -> None:
    async with exchange_of(case_of("okx", {"ordType=twap": WRONG_PARAMETER})) as (broker, _):
        assert not (await broker.open_orders()).unreadable
    async with exchange_of(case_of("okx", {"ordType=oco": WRONG_PARAMETER})) as (broker, _):
        (unread,) = (await broker.open_orders()).unreadable
    assert "the list of oco orders can't be had" in str(unread)


async def test_what_okx_holds_on_margin_in_a_pair_is_named_and_no_order_sells_the_wallet_for_it() -> None:
    on_margin = {**POSITION, "instType": "MARGIN", "instId": "ETH-USDT", "posCcy": "ETH", "posSide": "net"}
    case = case_of("okx", {"account/positions": {"code": "0", "msg": "", "data": [on_margin]}})
    pair = market("ETH/USDT", "ETH-USDT", type="spot", spot=True, margin=True, swap=False, contract=False)
    async with exchange_of(replace(case, markets=(*case.markets, pair))) as (broker, _):
        listed = await broker.positions()
    assert not listed.items
    assert "held on margin in the pair ETH/USDT" in str(listed.unreadable[0])


async def test_orders_at_hyperliquids_other_exchanges_are_looked_for_each_minute_and_where_something_was_each_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with exchange_of(case_of("hyperliquid")) as (broker, answering):

        async def asked_where() -> list[bool]:
            answering.asked.clear()
            await broker.open_orders()
            asked = [words for words in answering.asked if "frontendOpenOrders" in words]
            return [any(f'"dex":"{name}"' in words for words in asked) for name in ("xyz", "flx")]

        assert await asked_where() == [True, True]
        assert await asked_where() == [True, False], "something was found at the first"
        monkeypatch.setattr(hyperliquid, "LOOKED_AT_AGAIN", -1.0)
        assert await asked_where() == [True, True]


async def test_promise_7_an_exchange_at_hyperliquid_that_could_not_be_asked_is_asked_again() -> None:
    broken = {'frontendOpenOrders…"dex":"flx"': ccxt.BadResponse("hyperliquid nothing")}
    async with exchange_of(case_of("hyperliquid", broken), request_timeout=0.2) as (broker, _):
        for _ in range(2):
            listed = await broker.open_orders()
            assert ["flx" in str(item) for item in listed.unreadable] == [True]
            assert len(listed.items) == 3


async def test_promise_7_where_hyperliquid_does_not_tell_its_other_exchanges_nothing_is_flat() -> None:
    broken = {"perpDexs": ccxt.BadResponse("hyperliquid nothing")}
    async with exchange_of(case_of("hyperliquid", broken), request_timeout=0.2) as (broker, _):
        positions, orders = await broker.positions(), await broker.open_orders()
    for listed in (positions, orders):
        assert listed.items, "the main exchange is read all the same"
        assert "other exchanges" in str(listed.unreadable[0])


async def test_promise_7_what_a_reading_that_was_given_up_has_not_read_is_read_by_the_next_one() -> None:
    async with exchange_of(case_of("hyperliquid")) as (broker, answering):
        await broker.positions()  # by now it is known which exchanges there are
        fetch = broker._connection._exchange.fetch

        async def hangs(*asked: Any) -> Any:
            await asyncio.Event().wait()

        broker._connection._exchange.fetch = hangs
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(broker.open_orders(), 0.05)
        broker._connection._exchange.fetch = fetch
        answering.asked.clear()
        await broker.open_orders()
    assert sum("frontendOpenOrders" in words for words in answering.asked) == 3


@pytest.mark.parametrize("role", ["agent", "missing"])
async def test_promise_7_an_address_at_hyperliquid_that_is_no_accounts_is_refused_as_every_list_of_it_is_empty(
    role: str,
) -> None:
    async with exchange_of(case_of("hyperliquid", {"userRole": {"role": role}})) as (broker, _):
        for reading in (broker.positions, broker.open_orders):
            with pytest.raises(BrokerRefused, match="key_id"):
                await reading()


async def test_promise_7_a_unified_account_is_not_taken_for_another_since_the_question_once_failed() -> None:
    def settings(words: str) -> Any:
        kinds.append(words)
        if len(kinds) == 1:
            raise ccxt.RequestTimeout("bitget GET")
        return {"code": "00000", "data": {"uid": "1", "accountMode": "unified"}}

    kinds: list[str] = []
    classic = ccxt.ExchangeError('bitget {"code":"40085","msg":"classic calls are not for unified accounts"}')
    unified = {
        "v3/account/settings": settings,
        "v3/position/current-position": {"code": "00000", "data": {"list": []}},
        "v2/mix": classic,
    }
    async with exchange_of(case_of("bitget", unified), options={}) as (broker, _):
        with pytest.raises(BrokerRefused):
            await broker.positions()
        assert len(await broker.positions()) == 0
        await broker.positions()
    assert len(kinds) == 2, "it is asked until it is known"


OPEN_ON_MARGIN = {"TXID-1": {"pair": "XXBTZUSD", "type": "buy", "vol": "0.5", "vol_closed": "0.2", "posstatus": "open"}}


@pytest.mark.parametrize(
    ("answer", "named"),
    [
        ({"error": [], "result": {}}, []),
        ({"error": [], "result": OPEN_ON_MARGIN}, ["buy of 0.3 XXBTZUSD on margin"]),
        ({"error": ["EGeneral:Permission denied"]}, ["what is held on margin can't be told"]),
    ],
)
async def test_promise_7_what_kraken_holds_on_margin_is_in_no_balance_and_is_named(
    answer: Any, named: list[str]
) -> None:
    answers = {"POST /0/private/Balance": {"error": [], "result": {"ZUSD": "100.0"}}}
    answers |= {"POST /0/private/BalanceEx": {"error": [], "result": {"ZUSD": {"balance": "100.0", "hold_trade": "0"}}}}
    async with (
        serving({**answers, "POST /0/private/OpenPositions": answer}) as (_, url),
        opened(url, exchange="kraken", market="spot", secret_key="c2VjcmV0") as broker,
    ):
        made = await broker._connection._made()
        made.set_markets([market("BTC/USD", "XXBTZUSD", type="spot", spot=True, swap=False, contract=False)])
        listed = await broker.positions()
    assert [words in str(item) for words, item in zip(named, listed.unreadable, strict=True)] == [True] * len(named)
    assert not listed.items


BOTH = ("linear", "inverse")


@pytest.mark.parametrize(
    ("name", "kind", "apart", "contracts"),
    [
        ("woo", "swap", ("trigger", "trailing"), ("",)),
        ("htx", "swap", ("trigger", "trailing"), BOTH),
        ("mexc", "swap", ("trigger",), BOTH),
        ("bingx", "spot", (), ("",)),
    ],
)
async def test_of_an_exchange_without_an_entry_ccxts_own_description_says_which_lists_there_are(
    name: str, kind: str, apart: tuple[str, ...], contracts: tuple[str, ...]
) -> None:
    exchange = getattr(ccxt, name)()
    try:
        linear, inverse = market("BTC/USDT:USDT", "1"), market(PERPETUAL, "2")
        exchange.set_markets([linear] if name == "woo" else [linear, inverse])
        views = described(exchange, kind)
    finally:
        await exchange.close()
    conditional = [f"{each} {word}".strip() for each in contracts for word in apart]
    assert [(view.name, view.conditional) for view in views.orders] == [
        *((name, True) for name in conditional),
        *((each, False) for each in contracts),
    ]
    assert [view.line for view in views.positions] == [*contracts]


OPEN = {"symbol": "BTC-USDT", "orderId": 5, "side": "BUY", "type": "LIMIT", "origQty": "2", "price": "30000"}
HELD = {"symbol": "BTC-USDT", "positionSide": "LONG", "isolated": False, "positionAmt": "2", "avgPrice": "31000"}


async def test_what_an_exchange_tells_in_several_lists_is_told_once() -> None:
    answers = {
        "openOrders": {"code": 0, "data": {"orders": [{**OPEN, "executedQty": "0", "status": "NEW"}]}},
        "positions": {"code": 0, "data": [{**HELD, "markPrice": "30500", "leverage": 5}]},
    }
    case = Case("bingx", (market("BTC/USDT:USDT", "BTC-USDT"), market(PERPETUAL, "BTC-USD")), answers, {}, {})
    async with exchange_of(case) as (broker, answering):
        orders, positions = await broker.open_orders(), await broker.positions()
    assert sum("openOrders" in words for words in answering.asked) == 2
    assert [order.remaining for order in orders] == [Decimal(2)]
    assert [position.quantity for position in positions] == [Decimal(2)]


WITHOUT_A_LIST = {
    "binancecoinm": {"code": 0},
    "bybit": {"retCode": 0, "retMsg": "OK", "result": {"category": "linear"}, "time": 1},
    "okx": {"code": "0", "msg": ""},
    "krakenfutures": {"result": "success", "serverTime": "2026-03-02T06:10:31.955Z"},
    "hyperliquid": {"marginSummary": {"accountValue": "0.0"}, "time": 1},
    "deribit": {"jsonrpc": "2.0", "testnet": False},
    "gate": {"user": 1},
    "kucoinfutures": {"code": "200000", "msg": "ok"},
    "bitget": {"code": "00000", "msg": "success", "requestTime": 1},
}
LISTS = (
    *("orders", "order/realtime", "openorders", "OpenOrders", "Algo", "open_orders"),
    *("position", "clearinghouseState", "openpositions"),
)


@pytest.mark.parametrize("exchange", [*WITHOUT_A_LIST])
async def test_promise_7_an_answer_without_the_list_is_not_an_empty_one(exchange: str) -> None:
    odd = dict.fromkeys(LISTS, WITHOUT_A_LIST[exchange])
    async with exchange_of(case_of(exchange, odd), request_timeout=0.05) as (broker, _):
        for reading in (broker.open_orders, broker.positions):
            with suppress(BrokerUnavailable):
                assert (await reading()).unreadable


async def test_promise_7_a_wallet_whose_balances_are_not_told_is_not_an_empty_one() -> None:
    answers: dict[str, Any] = {"POST /0/private/OpenPositions": {"error": [], "result": {}}}
    async with (
        serving({**answers, "POST /0/private/BalanceEx": {"error": []}}) as (local, url),
        opened(url, exchange="kraken", market="spot", secret_key="c2VjcmV0", request_timeout=0.3) as broker,
    ):
        (await broker._connection._made()).set_markets([market("BTC/USD", "XXBTZUSD", type="spot", spot=True)])
        with pytest.raises(BrokerUnavailable, match="can't be understood"):
            await broker.positions()
        local.answers["POST /0/private/BalanceEx"] = {"error": [], "result": {}}
        assert len(await broker.positions()) == 0


NO_FILLS = {
    "bybit": ("execution/list", {"retCode": 0, "result": {"list": [], "nextPageCursor": ""}, "time": 1}, "100"),
    "bitget": ("order/fills", {"code": "00000", "data": {"fillList": None, "endId": ""}}, "100"),
    "gate": ("my_trades", [], "500"),
    "okx": ("trade/fills", {"code": "0", "msg": "", "data": []}, ""),
}


@pytest.mark.parametrize("exchange", [*NO_FILLS])
async def test_fills_of_every_product_line_are_asked_for_and_no_more_at_once_than_the_exchange_tells(
    exchange: str,
) -> None:
    route, answer, most = NO_FILLS[exchange]
    async with exchange_of(case_of(exchange, {route: answer})) as (broker, answering):
        held = {position.symbol for position in await broker.positions()}
        assert not await broker.fills(datetime.now(UTC) - timedelta(minutes=5))
    asked = [words for words in answering.asked if route in words]
    assert len(asked) == len(held)
    assert all(f"limit={most}" in words or not most for words in asked), asked


async def test_nothing_is_sent_at_hyperliquid_before_a_cancel_or_a_close() -> None:
    async with exchange_of(case_of("hyperliquid")) as (broker, answering):
        await broker.cancel("101@BTC/USDC:USDC")
    actions = [words for words in answering.asked if "/exchange" in words]
    assert len(actions) == 1 and '"type":"cancel"' in actions[0]
