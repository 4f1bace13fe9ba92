"""Exchanges beside Binance's spot and USDⓈ-M, through unmodified ccxt: all is read, and none of it is dropped."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

import ccxt.async_support as ccxt
import pytest

from breaker.orders import OrderType, PositionSide
from brokers.protocol import CancelOutcome, CloseOrder, CloseOutcome
from tests.brokers.ccxt.answering import exchange_of
from tests.brokers.ccxt.exchange_answers import CASES, Case


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.exchange)
async def test_every_open_order_is_listed(case: Case) -> None:
    async with exchange_of(case) as (broker, _):
        listed = await broker.open_orders()
    assert [str(item) for item in listed.unreadable] == []
    assert {each.id: each.remaining for each in listed.items} == {
        name: Decimal(left) for name, left in case.orders.items()
    }
    assert all(each.status.is_open for each in listed.items)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.exchange)
async def test_every_position_is_listed_in_the_exchanges_contracts(case: Case) -> None:
    async with exchange_of(case) as (broker, _):
        listed = await broker.positions()
        sizes = {market["symbol"]: Decimal(market["contractSize"]) for market in case.markets}
    assert [str(item) for item in listed.unreadable] == []
    assert {(each.symbol, each.position_side): each.quantity for each in listed.items} == case.quantities()
    assert all(each.instrument.multiplier == sizes[each.symbol] for each in listed.items)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.exchange)
async def test_a_close_is_taken_and_an_order_is_cancelled(case: Case) -> None:
    async with exchange_of(case) as (broker, answering):
        position = next(each for each in await broker.positions() if each.symbol == case.close)
        limited = not broker.capabilities.market_orders
        result = await broker.close(
            CloseOrder(
                position.symbol,
                position.closing_side,
                abs(position.quantity),
                "incident1" if "-" not in broker.capabilities.client_order_ids.alphabet else "incident-1",
                type=OrderType.LIMIT if limited else OrderType.MARKET,
                limit_price=Decimal(32000) if limited else None,
                position_side=position.position_side,
                reduce_only=True,
            )
        )
        sent = answering.asked[-1]
        ordinary = next(
            name
            for name in case.orders
            if name.endswith(case.close) or not broker._open_orders.view(name.rpartition("@")[2]).conditional
        )
        cancelled = await broker.cancel(ordinary)
    assert result.outcome is CloseOutcome.ACCEPTED, result
    if result.order is not None:
        assert result.order.id.startswith(f"{case.closed_as}@")
    assert case.reduces in sent.replace('": ', '":'), sent
    assert cancelled.outcome is CancelOutcome.ACCEPTED, cancelled


async def test_a_list_of_positions_that_cannot_be_had_keeps_nothing_of_the_others_from_being_closed() -> None:
    case = next(case for case in CASES if case.exchange == "bybit")
    async with exchange_of(case) as (broker, answering):
        everything = {position.symbol for position in await broker.positions()}

        async def some(url: str, *rest: Any) -> Any:
            if "inverse" in url:
                raise ccxt.ExchangeError('bybit {"retCode":10020,"retMsg":"not in this account"}')
            return await answering(url, *rest)

        broker._connection._exchange.fetch = some
        listed = await broker.positions()
    assert {position.symbol for position in listed.items} == {symbol for symbol in everything if ":USD" in symbol}
    assert {position.symbol for position in listed.items} < everything
    (unread,) = listed.unreadable
    assert (unread.what, unread.symbol) == ("position", "") and "the list of inverse can't be had" in str(unread)


@pytest.mark.parametrize(
    ("size", "reduces", "leg"),
    [
        (5, False, PositionSide.LONG),
        (-5, True, PositionSide.LONG),
        (-5, False, PositionSide.SHORT),
        (5, True, PositionSide.SHORT),
    ],
)
async def test_an_order_of_a_hedged_account_that_names_no_position_is_for_the_one_that_it_opens_or_reduces(
    size: int, reduces: bool, leg: PositionSide
) -> None:
    case = next(case for case in CASES if case.exchange == "gate")
    (order,) = case.answers["/futures/usdt/orders"]
    told = {**order, "size": size, "left": size, "is_reduce_only": reduces}
    async with exchange_of(replace(case, answers={**case.answers, "/futures/usdt/orders": [told]})) as (broker, _):
        await broker.positions()
        sides = {each.symbol: each.position_side for each in await broker.open_orders()}
    assert sides[case.close] is leg
    assert {side for symbol, side in sides.items() if symbol != case.close} == {None}, "the account nets there"
