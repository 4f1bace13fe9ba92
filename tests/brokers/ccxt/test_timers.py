"""Exchanges' own dead-man timers over HTTP, by unmodified ccxt: armed, verified by what is answered, and taken away."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from brokers.ccxt import CcxtBroker
from brokers.protocol import BrokerRefused, BrokerUnavailable, NotOffered
from tests.brokers.ccxt.exchange_answers import BINANCE_COIN_M, PERPETUAL, market
from tests.brokers.ccxt.local_exchange import Asked, LocalExchange, opened, serving

MINUTE = timedelta(seconds=60)
WALLET = {"key_id": "0x14dC79964da2C08b23698B3D3cc7Ca32193d9955", "secret_key": "0x" + "11" * 32}
SIGNING = {"secret_key": "c2VjcmV0LXRoYXQtbm9ib2R5LW1heS1zZWU="}
BEGIN = datetime(2026, 3, 2, 6, 0, tzinfo=UTC)


def seconds_asked(asked: Asked) -> int:
    """What the request asks for, under whichever name, in seconds."""
    told = asked.params if "{" not in asked.text else json.loads(asked.text)
    return int(told["timeout"] if "timeout" in told else told["timeOut"])


def iso(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")


def kraken(asked: Asked) -> Any:
    return {"error": [], "result": times(seconds_asked(asked))}


def kraken_futures(asked: Asked) -> Any:
    return {"result": "success", "serverTime": iso(BEGIN), "status": times(seconds_asked(asked))}


def times(seconds: int) -> dict[str, str]:
    return {"currentTime": iso(BEGIN), "triggerTime": iso(BEGIN + timedelta(seconds=seconds)) if seconds else "0"}


def okx(asked: Asked) -> Any:
    seconds, now = seconds_asked(asked), int(BEGIN.timestamp() * 1000)
    return {
        "code": "0",
        "msg": "",
        "data": [{"triggerTime": str(now + seconds * 1000 if seconds else 0), "ts": str(now)}],
    }


ACCOUNTS: Mapping[str, tuple[dict[str, Any], str, Any]] = {
    "kraken": ({"market": "spot", **SIGNING}, "POST /0/private/CancelAllOrdersAfter", kraken),
    "krakenfutures": (SIGNING, "POST /derivatives/api/v3/cancelallordersafter", kraken_futures),
    "okx": ({"password": "phrase"}, "POST /api/v5/trade/cancel-all-after", okx),
}
"""By exchange: the account's settings, the route, and what answers there."""


@asynccontextmanager
async def account(
    exchange: str, answers: Mapping[str, Any], **settings: Any
) -> AsyncIterator[tuple[CcxtBroker, LocalExchange]]:
    async with serving(answers) as (local, url), opened(url, exchange=exchange, **settings) as broker:
        (await broker._connection._made()).set_markets([market(PERPETUAL, "BTCUSD_PERP")])
        yield broker, local


@pytest.mark.parametrize("exchange", [*ACCOUNTS])
async def test_it_is_armed_and_taken_away_for_the_account_and_the_answer_says_so(exchange: str) -> None:
    settings, route, answer = ACCOUNTS[exchange]
    async with account(exchange, {route: answer}, **settings) as (broker, local):
        assert broker.capabilities.safety_net
        before = datetime.now(UTC)
        for _ in ("armed", "renewed"):
            net = await broker.arm_safety_net(MINUTE)
            assert net.verified and net.armed_until is not None and net.covers == ()
            assert before + MINUTE <= net.armed_until <= datetime.now(UTC) + MINUTE
        assert await broker.safety_net() == net
        await broker.disarm_safety_net()
        off = await broker.safety_net()
        assert off.armed_until is None and off.verified
    assert [seconds_asked(asked) for asked in local.of(route)] == [60, 60, 0]


@pytest.mark.parametrize("exchange", [*ACCOUNTS])
async def test_an_answer_that_says_another_time_or_none_at_all_verifies_nothing(exchange: str) -> None:
    settings, route, answer = ACCOUNTS[exchange]

    def sooner(asked: Asked) -> Any:
        return answer(Asked(asked.method, asked.path, {"timeout": "30", "timeOut": "30"}))

    async with account(exchange, {route: sooner}, **settings) as (broker, local):
        assert not (await broker.arm_safety_net(MINUTE)).verified
        local.answers[route] = {"error": [], "result": "success", "code": "0"}
        net = await broker.arm_safety_net(MINUTE)
    assert not net.verified and net.armed_until is not None, "it may run"


@pytest.mark.parametrize("exchange", [*ACCOUNTS])
async def test_one_that_the_exchange_did_not_take_or_still_has_is_told(exchange: str) -> None:
    settings, route, answer = ACCOUNTS[exchange]
    as_asked_for = {
        seconds: answer(Asked("POST", "", {"timeout": str(seconds), "timeOut": str(seconds)})) for seconds in (0, 60)
    }
    async with account(exchange, {route: as_asked_for[0]}, **settings) as (broker, local):
        refused = await broker.arm_safety_net(MINUTE)
        assert refused.armed_until is None and refused.verified
        local.answers[route] = as_asked_for[60]
        await broker.arm_safety_net(MINUTE)
        with pytest.raises(BrokerUnavailable, match="its timer runs for 60 s"):
            await broker.disarm_safety_net()
        assert (await broker.safety_net()).armed_until is not None


TAKEN = {"status": "ok", "response": {"type": "default"}}


@pytest.mark.parametrize("exchange", [*ACCOUNTS])
async def test_a_request_to_take_it_away_whose_answer_says_nothing_of_it_is_not_verified(exchange: str) -> None:
    settings, route, answer = ACCOUNTS[exchange]
    silent = {"error": [], "result": "success", "code": "0", "data": [{}]} if exchange != "kraken" else {"error": []}

    def told(asked: Asked) -> Any:
        return answer(asked) if seconds_asked(asked) else silent

    async with account(exchange, {route: told}, **settings) as (broker, _):
        assert (await broker.arm_safety_net(MINUTE)).verified
        await broker.disarm_safety_net()
        off = await broker.safety_net()
        assert off.armed_until is None and not off.verified


async def test_hyperliquids_is_set_to_a_time_and_taken_away_by_an_action_without_one() -> None:
    async with account("hyperliquid", {"POST /exchange": TAKEN}, **WALLET) as (broker, local):
        before = datetime.now(UTC)
        net = await broker.arm_safety_net(MINUTE)
        assert net.verified and net.armed_until is not None
        await broker.disarm_safety_net()
        assert (await broker.safety_net()).armed_until is None
    armed, off = [json.loads(asked.text) for asked in local.of("POST /exchange")]
    assert armed["action"]["type"] == off["action"]["type"] == "scheduleCancel"
    fires = datetime.fromtimestamp(armed["action"]["time"] / 1000, UTC)
    assert before + MINUTE - timedelta(seconds=1) <= fires <= datetime.now(UTC) + MINUTE
    assert "time" not in off["action"] and off["signature"]["r"] and off["nonce"] > armed["nonce"]


async def test_a_subaccounts_at_hyperliquid_is_its_own() -> None:
    address = "0x" + "ab" * 20
    async with account("hyperliquid", {"POST /exchange": TAKEN}, **WALLET, subaccount=address) as (broker, local):
        await broker.arm_safety_net(MINUTE)
        await broker.disarm_safety_net()
    assert {json.loads(asked.text)["vaultAddress"].removeprefix("0x") for asked in local.of("POST /exchange")} == {
        "ab" * 20
    }


async def test_what_hyperliquid_refuses_is_told_in_its_words() -> None:
    said = "Cannot set scheduled cancel time until enough volume traded. Required: $1000000. Traded: $10"
    async with account("hyperliquid", {"POST /exchange": {"status": "err", "response": said}}, **WALLET) as (broker, _):
        with pytest.raises((BrokerRefused, BrokerUnavailable), match="until enough volume traded"):
            await broker.arm_safety_net(MINUTE)


async def test_binances_coin_futures_have_one_for_each_symbol() -> None:
    route = "POST /dapi/v1/countdownCancelAll"

    def answer(asked: Asked) -> Any:
        return {"symbol": asked.params["symbol"], "countdownTime": asked.params["countdownTime"]}

    (resting,) = BINANCE_COIN_M.answers["openOrders"]
    orders = {"GET /dapi/v1/openOrders": [resting], "GET /dapi/v1/openAlgoOrders": []}
    async with account("binancecoinm", {route: answer, **orders}) as (broker, local):
        net = await broker.arm_safety_net(MINUTE)
        await broker.disarm_safety_net()
    assert net.verified and net.covers == (PERPETUAL,)
    assert [(asked.params["symbol"], asked.params["countdownTime"]) for asked in local.of(route)] == [
        ("BTCUSD_PERP", "60000"),
        ("BTCUSD_PERP", "0"),
    ]


@pytest.mark.parametrize("exchange", ["bybit", "deribit"])
async def test_one_that_goes_by_a_connection_is_not_pretended_to_be_armed(exchange: str) -> None:
    async with account(exchange, {}) as (broker, local):
        assert not broker.capabilities.safety_net
        with pytest.raises(NotOffered, match="no timer"):
            await broker.arm_safety_net(MINUTE)
    assert not any("cancel" in asked.path for asked in local.asked)
