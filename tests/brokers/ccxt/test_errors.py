"""What ccxt raises, sorted by its class: refused, unavailable or unknown; and worded without keys."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import pytest
from aiohttp import ClientPayloadError

from brokers.ccxt.errors import SORTS, Sort, code_of, reason_of, sort_of, without_secrets
from brokers.protocol import BrokerUnavailable
from tests.brokers.ccxt.local_exchange import Told, opened, serving

errors = import_module("ccxt.base.errors")  # by name, as `ccxt.base` is a list once ccxt is imported


def classes() -> list[type[Exception]]:
    """Every exception of ccxt's hierarchy."""
    found = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.BaseError)]
    assert len(found) > 30
    return found


def test_every_class_of_ccxts_hierarchy_is_in_the_table_and_nothing_else() -> None:
    assert {kind.__name__ for kind in classes()} == {*SORTS}


def test_the_page_has_the_same_table() -> None:
    page = (Path(__file__).parents[3] / "docs" / "reference" / "ccxt.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \| ([a-z ]+) \|$", page, re.MULTILINE))
    assert rows == {name: sort.value for name, sort in SORTS.items()}


@pytest.mark.parametrize("kind", classes())
def test_each_is_sorted_as_the_table_says(kind: type[Exception]) -> None:
    assert sort_of(kind("binance something")) is (
        Sort.UNAVAILABLE if kind.__name__ == "InvalidNonce" else SORTS[kind.__name__]
    )


def test_a_class_that_a_later_ccxt_adds_goes_by_the_one_above_it() -> None:
    newer = type("QuotaUsedUp", (errors.RateLimitExceeded,), {"__module__": "ccxt.base.errors"})
    assert sort_of(newer("wait")) is Sort.UNAVAILABLE


def test_nothing_is_refused_or_unavailable_where_it_may_have_happened() -> None:
    for kind in (errors.RequestTimeout, errors.ExchangeNotAvailable, errors.BadResponse, errors.NetworkError):
        assert sort_of(kind("okx POST")) is Sort.UNKNOWN
    assert sort_of(KeyError("orderId")) is Sort.UNKNOWN


def test_an_answer_that_broke_off_is_unknown_though_ccxt_calls_it_an_error_of_the_exchange() -> None:
    error = errors.ExchangeError("binance POST https://fapi.binance.com/fapi/v1/order")
    error.__cause__ = ClientPayloadError("broken")
    assert sort_of(error) is Sort.UNKNOWN


def test_keys_that_may_not_do_this_are_refused_also_where_ccxt_calls_it_a_rate_limit() -> None:
    """ccxt does so of Binance's −2015 after the same keys were let read."""
    body = 'binance {"code":-2015,"msg":"Invalid API-key, IP, or permissions for action."}'
    assert sort_of(errors.DDoSProtection(body)) is sort_of(errors.AuthenticationError(body)) is Sort.KEYS


@pytest.mark.parametrize("code", [-1000, -1001, -1006, -1007])
def test_what_binance_itself_does_not_know_is_unknown(code: int) -> None:
    body = f'binance {{"code":{code},"msg":"Internal error; unable to process your request. Please try again."}}'
    assert sort_of(errors.ExchangeError(body)) is Sort.UNKNOWN


@pytest.mark.parametrize(
    "error",
    [
        errors.ExchangeError('bybit {"retCode":5004,"retMsg":"Server Timeout","result":null}'),
        errors.ExchangeError('bybit {"retCode":10016,"retMsg":"System error. Please try again later."}'),
        errors.InvalidOrder('bybit {"retCode":170146,"retMsg":"Order creation timeout."}'),
        errors.BadRequest('kucoin {"code":"408000","msg":"Network timeout, please try again later"}'),
        errors.ExchangeError('mexc {"code":500,"msg":"Internal error"}'),
        errors.ExchangeError('deribit {"error":{"message":"internal_server_error","code":11094}}'),
    ],
)
def test_what_an_exchange_does_not_know_itself_is_unknown_whatever_ccxt_raises(error: Exception) -> None:
    assert sort_of(error) is Sort.UNKNOWN


@pytest.mark.parametrize(
    "error",
    [
        errors.InvalidOrder('bybit {"retCode":110017,"retMsg":"current position is zero"}'),
        errors.ExchangeError('okx {"code":"51000","msg":"Parameter posSide error"}'),
    ],
)
def test_a_plain_no_stays_one(error: Exception) -> None:
    assert sort_of(error) is Sort.REFUSED


@pytest.mark.parametrize("code", [-1003, -1008, -1015])
def test_what_binance_does_not_do_for_now_is_worth_another_try(code: int) -> None:
    assert sort_of(errors.ExchangeError(f'binance {{"code":{code},"msg":"overloaded"}}')) is Sort.UNAVAILABLE


def test_a_clock_that_is_off_is_worth_another_try_whatever_class_it_comes_as() -> None:
    said = 'binance {"code":-1021,"msg":"Timestamp for this request is outside of the recvWindow."}'
    assert sort_of(errors.BadRequest(said)) is Sort.UNAVAILABLE


@pytest.mark.parametrize(
    ("body", "code", "reason"),
    [
        ('binanceusdm {"code":-2022,"msg":"ReduceOnly Order is rejected."}', "-2022", "ReduceOnly Order is rejected."),
        ('bybit {"retCode":110017,"retMsg":"position is zero","result":{}}', "110017", "position is zero"),
        ('okx {"code":"1","data":[{"sCode":"51169","sMsg":"no positions"}],"msg":""}', "51169", "no positions"),
        ("kraken EOrder:Unknown order", "", "kraken EOrder:Unknown order"),
    ],
)
def test_the_exchanges_own_code_and_words_are_found(body: str, code: str, reason: str) -> None:
    assert (code_of(body), reason_of(body)) == (code, reason)


def test_neither_signatures_nor_keys_are_told() -> None:
    said = "binance GET https://fapi.binance.com/fapi/v1/order?timestamp=1&signature=abc\n  apiKey=my-key secret"
    told = without_secrets(said, ["my-key", "", "secret"])
    assert told == "binance GET https://fapi.binance.com/fapi/v1/order apiKey=… …"
    assert len(without_secrets("x" * 5000, [])) < 300


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("http://127.0.0.1:1", "no connection ("),
        ("http://nowhere.invalid", "its name is not found; see that this host reaches it"),
    ],
)
async def test_an_exchange_that_is_not_reached_is_told_with_the_cause_and_what_to_look_at(url: str, told: str) -> None:
    async with opened(url, request_timeout=0.3) as broker:
        with pytest.raises(BrokerUnavailable) as raised:
            await broker.positions()
    assert told in str(raised.value) and "the account's `urls`" in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (Told("down", 503), "the exchange is out of order: see its own status page"),
        (Told("", breaks_off=True), "the connection broke off (Server disconnected)"),
    ],
)
async def test_an_exchange_that_is_out_of_order_is_told_as_that(answer: Told, told: str) -> None:
    async with (
        serving({"GET /fapi/v1/exchangeInfo": answer}) as (_, url),
        opened(url, request_timeout=0.3) as broker,
    ):
        with pytest.raises(BrokerUnavailable, match=re.escape(told)):
            await broker.positions()
