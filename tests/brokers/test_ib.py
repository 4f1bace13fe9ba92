"""The adapter for Interactive Brokers against a TWS: whose orders it cancels, what it believes, what it sends once."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from breaker.instruments import AssetClass, Session
from breaker.orders import OrderStatus, OrderType, Side, TimeInForce
from brokers.ib import IbBroker, connection, listener, logins, market, orders
from brokers.protocol import (
    Broker,
    BrokerRefused,
    BrokerUnavailable,
    CancelOutcome,
    CloseOrder,
    CloseOutcome,
    Refusal,
)
from brokers.registry import open_broker
from configuration.accounts import AccountSettings
from sandbox.child_process import free_port
from sandbox.exchange.server import PaperExchangeThread
from tests.brokers.conftest import Venue
from tests.helpers import PATIENCE, eventually, in_time

D = Decimal
LONG = 'enforce_available = false\n[prices]\nAAPL = 200\n[[positions]]\nsymbol = "AAPL"\nqty = 100\n'
RESTING = '[[orders]]\nsymbol = "AAPL"\nside = "buy"\nqty = 10\nlimit_price = 100\n'
STOP = '[[orders]]\nsymbol = "AAPL"\nside = "sell"\nqty = 100\ntype = "stop"\nstop_price = 150\n'
SELL = CloseOrder("AAPL", Side.SELL, D(100), "incident-AAPL-1")
BROKERED = (
    'enforce_available = false\n[[positions]]\nsymbol = "ESZ6"\nqty = -2\nprice = 6800\n'
    '[[positions]]\nsymbol = "EUR.USD"\nqty = 5000\nprice = 1.15\n'
)
BUY_FUTURE = CloseOrder("ESZ6", Side.BUY, D(2), "incident-ESZ6-1")
SELL_PAIR = CloseOrder("EUR.USD", Side.SELL, D(5_000), "incident-EUR.USD-1")
BANDED = LONG + "[assets.AAPL]\nprice_bands = [[0, 0.01], [150, 0.05]]\n"
ENGINE = 7


@contextlib.asynccontextmanager
async def opened(exchange: PaperExchangeThread, *, timeout: float = 5.0, **more: Any) -> AsyncIterator[IbBroker]:
    broker = IbBroker("IB", "127.0.0.1", exchange.tws_port, more.pop("client_id", 911), timeout=timeout, **more)
    try:
        yield broker
    finally:
        await broker.aclose()


@contextlib.asynccontextmanager
async def connected(exchange: PaperExchangeThread, client_id: int) -> AsyncIterator[connection.Connection]:
    """Somebody else's client of TWS."""
    other = connection.Connection("OTHER", "127.0.0.1", exchange.tws_port, PATIENCE)
    await other.open(client_id)
    try:
        yield other
    finally:
        other.close()


async def report(exchange: PaperExchangeThread) -> dict[str, Any]:
    return await asyncio.to_thread(exchange.report)


async def until(exchange: PaperExchangeThread, holds: Callable[[dict[str, Any]], bool]) -> None:
    await asyncio.to_thread(eventually, lambda: holds(exchange.report()), exchange.report)


def test_it_is_a_broker() -> None:
    assert isinstance(IbBroker("IB", "127.0.0.1", 1, 911), Broker)


# Reading


async def test_positions_have_their_steps_prices_and_the_session_of_their_market(venue: Venue) -> None:
    exchange = venue(
        LONG + '[[positions]]\nsymbol = "AAPL261218C00150000"\nqty = -3\nprice = 51.5\n'
        '[[positions]]\nsymbol = "BTC/USD"\nqty = 0.5\n'
    )
    async with opened(exchange) as broker:
        held = {position.symbol: position for position in await broker.positions()}
    stock, option, coin = held["AAPL"], held["AAPL261218C00150000"], held["BTCUSD"]
    assert (stock.quantity, stock.current_price, stock.instrument.asset_class) == (D(100), D(200), AssetClass.EQUITY)
    assert (option.quantity, option.average_entry_price, option.instrument.multiplier) == (D(-3), D("51.5"), D(100))
    assert option.notional == D("15450")
    assert coin.instrument.quantity_increment == D("1E-9") and coin.available == D("0.5")
    assert all(position.market and position.market.is_open for position in held.values())


async def test_orders_of_all_clients_and_by_hand_are_listed_with_what_has_filled(venue: Venue) -> None:
    exchange = venue(LONG + RESTING + STOP + "[tws]\nby_hand = 1\n")
    async with opened(exchange) as broker:
        by_hand, stop = await broker.open_orders()
    assert (by_hand.limit_price, by_hand.side, by_hand.quantity) == (D(100), Side.BUY, D(10))
    assert (stop.type, stop.stop_price, stop.time_in_force) == (OrderType.STOP, D(150), TimeInForce.GTC)
    assert len({by_hand.id, stop.id}) == 2


async def test_a_combination_is_its_legs_and_an_amount_of_money_has_no_quantity(venue: Venue) -> None:
    exchange = venue("enforce_available = false\n[book]\npositions = 1\noptions = 1\nmulti_leg = 1\nnotional = 1\n")
    async with opened(exchange) as broker:
        orders = list(await broker.open_orders())
        legs = [order for order in orders if order.parent_id]
        assert {leg.side for leg in legs} == {Side.BUY, Side.SELL} and len({leg.cancel_id for leg in legs}) == 1
        assert sum(order.by_amount for order in orders) == 1
        assert (await broker.cancel(legs[0].cancel_id)).outcome is CancelOutcome.ACCEPTED


async def test_what_cannot_be_decoded_is_named_and_can_be_cancelled(venue: Venue) -> None:
    exchange = venue(
        "enforce_available = false\n"
        "[book]\norders = 3\npositions = 2\nunreadable_orders = 1\nunreadable_positions = 1\n"
    )
    async with opened(exchange) as broker:
        orders, positions = await broker.open_orders(), await broker.positions()
        (order,), (position,) = orders.unreadable, positions.unreadable
        assert len(orders.items) == 2 and order.symbol
        assert position.symbol in exchange.report()["positions"] and len(positions.items) == 1
        assert (await broker.cancel(order.id)).outcome is CancelOutcome.ACCEPTED


async def test_only_the_accounts_own_orders_and_positions_are_told(venue: Venue) -> None:
    exchange = venue(LONG + RESTING + '[tws]\naccounts = ["U1000001", "U1000002"]\n')
    async with opened(exchange, ib_account="U1000002") as broker:
        assert not len(await broker.positions()) and not len(await broker.open_orders())
    async with opened(exchange, ib_account="U1000001") as broker:
        assert len(await broker.positions()) == len(await broker.open_orders()) == 1


@pytest.mark.parametrize("session", ["open", "extended", "closed"])
async def test_the_clock_is_that_of_what_is_held(venue: Venue, session: str) -> None:
    exchange = venue(f'{LONG}[market]\nsession = "{session}"\n')
    async with opened(exchange) as broker:
        await broker.positions()
        clock = await broker.clock()
    assert clock.is_open is (session == "open")
    assert (clock.next_open is None) is (session == "open")


async def test_the_account_is_read_as_often_as_a_monitor_does_on_one_connection(venue: Venue) -> None:
    async with opened(venue(LONG)) as broker:
        equities = [(await broker.account()).equity for _ in range(4)]
        equities += [account.equity for account in await asyncio.gather(*(broker.account() for _ in range(4)))]
    assert len({*equities}) == 1 and len(equities) == 8


async def test_the_account_is_read_in_its_currency(venue: Venue) -> None:
    async with opened(venue(LONG)) as broker:
        account = await broker.account()
    assert (account.id, account.currency, account.equity) == ("DU1234567", "USD", D(10_020_000))
    assert account.maintenance_margin == D(5_000)


async def test_executions_carry_their_order_and_commission(venue: Venue) -> None:
    async with opened(venue(LONG)) as broker:
        assert (await broker.close(SELL)).outcome is CloseOutcome.ACCEPTED
        begun = datetime(2020, 1, 1, tzinfo=UTC)
        async with asyncio.timeout(PATIENCE):
            while not (fills := list(await broker.fills(begun))):
                await asyncio.sleep(0.02)
    (fill,) = fills
    assert (fill.symbol, fill.side, fill.quantity, fill.client_order_id) == (
        "AAPL",
        Side.SELL,
        D(100),
        "incident-AAPL-1",
    )
    assert (fill.fee, fill.fee_currency) == (D(1), "USD")


# Cancelling


async def test_one_request_cancels_everybodys_orders(venue: Venue) -> None:
    exchange = venue(LONG + RESTING + STOP + "[tws]\nby_hand = 1\n")
    async with connected(exchange, ENGINE), opened(exchange) as broker:
        await broker.open_orders()
        results = await broker.cancel_all()
        assert [result.outcome for result in results] == [CancelOutcome.ACCEPTED] * 2
        await until(exchange, lambda seen: not seen["open_orders"])
    assert (await report(exchange))["requests"]["TWS reqGlobalCancel"] == 1


async def test_a_login_with_several_accounts_never_cancels_them_all(venue: Venue) -> None:
    exchange = venue(LONG + RESTING + RESTING + '[tws]\naccounts = ["U1000001", "U1000002"]\n')
    async with opened(exchange, ib_account="U1000001") as broker:
        results = await broker.cancel_all()
        assert [result.outcome for result in results] == [CancelOutcome.ACCEPTED] * 2
        await until(exchange, lambda seen: not seen["open_orders"])
    assert "TWS reqGlobalCancel" not in (await report(exchange))["requests"]


async def test_an_order_of_a_client_that_has_left_is_cancelled_in_its_place(venue: Venue) -> None:
    exchange = venue(LONG + RESTING)
    async with opened(exchange) as broker:
        (order,) = await broker.open_orders()
        assert (await broker.cancel(order.id)).outcome is CancelOutcome.ACCEPTED
        await until(exchange, lambda seen: not seen["open_orders"])
        async with asyncio.timeout(PATIENCE):  # what TWS says late of the first is heard as the second one's answer
            while (again := (await broker.cancel(order.id)).outcome) is CancelOutcome.ACCEPTED:
                pass
        assert again is CancelOutcome.NOT_OPEN


async def test_an_order_of_a_connected_client_is_one_that_only_a_cancel_of_all_takes(venue: Venue) -> None:
    exchange = venue(LONG + RESTING)
    async with connected(exchange, ENGINE), opened(exchange) as broker:
        (order,) = await broker.open_orders()
        result = await broker.cancel(order.id)
    assert (result.outcome, result.only_in_bulk) == (CancelOutcome.REFUSED, True)
    assert "only client 7 of TWS" in result.reason


@pytest.mark.parametrize(
    ("placed", "who"),
    [("by_hand = 1", "the person who placed it in TWS"), ("other_login = 1", "the TWS through which it was sent")],
)
async def test_orders_without_a_client_here_are_cancelled_as_client_0_where_nobody_is(
    venue: Venue, placed: str, who: str
) -> None:
    exchange = venue(f"{LONG}{RESTING}[tws]\n{placed}\n")
    async with opened(exchange) as broker:
        (order,) = await broker.open_orders()
        async with connected(exchange, 0):
            result = await broker.cancel(order.id)
            assert (result.outcome, result.only_in_bulk) == (CancelOutcome.REFUSED, True)
            assert f"only {who} can take it back" in result.reason
    async with opened(exchange) as broker:
        assert (await broker.cancel(order.id)).outcome is CancelOutcome.ACCEPTED
        await until(exchange, lambda seen: not seen["open_orders"])


@pytest.mark.parametrize("client_id", [0, 911])
async def test_many_orders_by_hand_are_bound_once_and_cancelled_by_their_negative_numbers(
    venue: Venue, client_id: int
) -> None:
    exchange = venue(LONG + RESTING * 6 + "[tws]\nby_hand = 6\n")
    async with opened(exchange, client_id=client_id) as broker:
        orders = await broker.open_orders()
        results = await asyncio.gather(*(broker.cancel(order.id) for order in orders))
        assert {result.outcome for result in results} == {CancelOutcome.ACCEPTED}
        await until(exchange, lambda seen: not seen["open_orders"])
    requests = (await report(exchange))["requests"]
    assert requests["TWS reqOpenOrders"] == 1 and "TWS reqGlobalCancel" not in requests


async def test_a_cancel_that_the_venue_will_not_do_now_is_refused_in_its_words(venue: Venue) -> None:
    exchange = venue("[book]\norders = 1\npending_replace = 1\n")
    async with opened(exchange) as broker:
        (order,) = await broker.open_orders()
        result = await broker.cancel(order.id)
    assert result.outcome is CancelOutcome.REFUSED and "not in a cancellable state" in result.reason


async def test_a_cancel_without_an_answer_is_unknown(venue: Venue) -> None:
    exchange = venue(LONG + RESTING + '[[trouble]]\nkind = "timeout"\nroutes = ["TWS cancelOrder"]\n')
    async with opened(exchange, timeout=0.5) as broker:
        (order,) = await broker.open_orders()
        assert (await broker.cancel(order.id)).outcome is CancelOutcome.UNKNOWN


# Closing


async def test_a_close_is_sent_once_also_by_another_process(venue: Venue) -> None:
    exchange = venue(LONG)
    async with opened(exchange) as broker:
        assert (await broker.close(SELL)).outcome is CloseOutcome.ACCEPTED
        assert (await broker.close(SELL)).outcome is CloseOutcome.DUPLICATE
        async with asyncio.timeout(PATIENCE):
            while (order := await broker.order("incident-AAPL-1")) is None or order.status is not OrderStatus.FILLED:
                await asyncio.sleep(0.02)
        assert order.filled_quantity == 100
        assert await broker.order("incident-AAPL-2") is None
    async with opened(exchange) as other:
        await other.open_orders()
        await other.fills(datetime(2020, 1, 1, tzinfo=UTC))  # from which it knows the contract: the position has gone
        assert (await other.close(SELL)).outcome is CloseOutcome.DUPLICATE
    seen = await report(exchange)
    assert seen["is_flat"] and seen["closes"] == {"AAPL": 1} and not seen["sign_changes"]


async def test_two_processes_never_place_closes_at_once(venue: Venue) -> None:
    exchange = venue(LONG)
    async with opened(exchange) as first, opened(exchange) as second:
        await first.not_permitted()  # by which it has the client id
        await second.positions()
        refused = await second.close(SELL)
        assert refused.outcome is CloseOutcome.REFUSED and "client id 911 is in use" in refused.reason
        assert (await first.close(SELL)).outcome is CloseOutcome.ACCEPTED
        await first.aclose()
        async with asyncio.timeout(PATIENCE):
            while (second_try := await second.close(SELL)).outcome is CloseOutcome.REFUSED:
                await asyncio.sleep(0.05)
        assert second_try.outcome is CloseOutcome.DUPLICATE


async def test_a_client_id_that_stays_taken_stops_no_close(venue: Venue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logins, "OTHERS_PATIENCE", 0.0)
    exchange = venue(LONG)
    async with connected(exchange, 911), opened(exchange) as broker:
        assert (await broker.close(SELL)).outcome is CloseOutcome.ACCEPTED
        assert (await broker.close(SELL)).outcome is CloseOutcome.DUPLICATE
    assert (await report(exchange))["closes"] == {"AAPL": 1}


async def test_a_close_has_a_higher_number_than_every_order_that_its_connection_has_listed(
    venue: Venue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As TWS wants it of whoever has asked for all orders: it takes the close for one sent before otherwise (103)."""
    monkeypatch.setattr(logins, "OTHERS_PATIENCE", 0.0)
    exchange = venue(LONG + RESTING * 60)
    async with connected(exchange, 911), opened(exchange) as broker:
        assert len(await broker.open_orders()) == 60
        result = await broker.close(SELL)
    assert result.outcome is CloseOutcome.ACCEPTED, result


async def test_a_connection_that_idles_gives_its_client_id_back(venue: Venue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logins, "IDLE", 0.05)
    exchange = venue(LONG)
    async with opened(exchange) as broker:
        await broker.not_permitted()
        async with asyncio.timeout(PATIENCE):
            while True:
                try:
                    async with connected(exchange, 911):
                        break
                except BrokerUnavailable:
                    await asyncio.sleep(0.02)
        assert await broker.not_permitted() == []


@pytest.mark.parametrize("kind", ["timeout", "drop"])
async def test_a_lost_answer_is_looked_up(venue: Venue, kind: str) -> None:
    lost = f'[[trouble]]\nkind = "{kind}"\napplied = true\nroutes = ["TWS placeOrder"]\n'
    exchange = venue(LONG + lost)
    async with opened(exchange, timeout=0.5) as broker:
        await broker.positions()
        result = await broker.close(SELL)
    assert result.outcome is CloseOutcome.ACCEPTED
    assert (await report(exchange))["closes"] == {"AAPL": 1}


async def test_a_close_that_never_arrived_is_unknown_and_may_be_sent_again(venue: Venue) -> None:
    lost = '[[trouble]]\nkind = "drop"\nroutes = ["TWS placeOrder"]\nfirst = 1\n'
    exchange = venue(LONG + lost)
    async with opened(exchange, timeout=1.0) as broker:
        await broker.positions()
        result = await broker.close(SELL)
        assert result.outcome is CloseOutcome.UNKNOWN and "does not list the order" in result.reason
        async with asyncio.timeout(PATIENCE):
            while (again := await broker.close(SELL)).outcome is CloseOutcome.REFUSED:  # TWS has not noticed yet
                await asyncio.sleep(0.05)
        assert again.outcome is CloseOutcome.ACCEPTED


@pytest.mark.parametrize(
    ("toml", "close", "refusal", "words"),
    [
        ('[[halts]]\nsymbol = "AAPL"\n', SELL, Refusal.OTHER, "trading is halted"),
        ("[tws]\nread_only = true\n", SELL, Refusal.OTHER, "untick 'Read-Only API'"),
        ("", CloseOrder("NOSUCH", Side.SELL, D(1), "i-1"), Refusal.OTHER, "no position in NOSUCH"),
    ],
    ids=["halt", "read only", "unknown"],
)
async def test_a_refusal_is_told_in_words(
    venue: Venue, toml: str, close: CloseOrder, refusal: Refusal, words: str
) -> None:
    exchange = venue(LONG + toml)
    async with opened(exchange) as broker:
        await broker.positions()
        result = await broker.close(close)
    assert (result.outcome, result.refusal) == (CloseOutcome.REFUSED, refusal)
    assert words in result.reason


async def test_a_limit_outside_the_session_fills_there(venue: Venue) -> None:
    exchange = venue(LONG + '[market]\nsession = "extended"\n')
    close = CloseOrder("AAPL", Side.SELL, D(100), "i-1", OrderType.LIMIT, D(190), extended_hours=True)
    async with opened(exchange) as broker:
        (position,) = await broker.positions()
        assert position.market is not None and not position.market.is_open
        assert (await broker.close(close)).outcome is CloseOutcome.ACCEPTED
        await until(exchange, lambda seen: bool(seen["is_flat"]))


async def test_the_price_of_what_is_being_closed_is_followed(venue: Venue) -> None:
    exchange = venue(LONG + '[[halts]]\nsymbol = "AAPL"\nmode = "hold"\n')
    async with opened(exchange) as broker:
        await broker.positions()
        await broker.close(SELL)
        await asyncio.to_thread(exchange.control, "price", {"symbol": "AAPL", "price": "150"})
        async with asyncio.timeout(PATIENCE):
            while (await broker.positions()).items[0].current_price != 150:
                await asyncio.sleep(0.02)


# Futures and pairs of currencies


async def test_futures_and_pairs_have_their_units_steps_and_hours(venue: Venue) -> None:
    exchange = venue(BROKERED + '[market]\nsession = "extended"\n')
    async with opened(exchange) as broker:
        held = {position.symbol: position for position in await broker.positions()}
    future, pair = held["ESZ6"], held["EUR.USD"]
    told = future.instrument
    assert (told.asset_class, told.multiplier, told.price_increment) == (AssetClass.FUTURE, D(50), D("0.25"))
    assert (future.average_entry_price, future.current_price, future.notional) == (D(6800), D(6800), D(680_000))
    assert (pair.instrument.asset_class, pair.instrument.quantity_increment) == (AssetClass.FOREX, D(1))
    assert pair.quantity == 5_000 and pair.current_price == D("1.15")
    assert all(position.market and position.market.is_open for position in held.values())


@pytest.mark.parametrize("session", ["open", "extended"])
async def test_futures_and_pairs_are_closed_at_their_own_exchange_day_and_night(venue: Venue, session: str) -> None:
    exchange = venue(f'{BROKERED}[market]\nsession = "{session}"\n')
    async with opened(exchange) as broker:
        await broker.positions()
        for close in (BUY_FUTURE, SELL_PAIR):
            result = await broker.close(close)
            assert result.outcome is CloseOutcome.ACCEPTED, result
        await until(exchange, lambda seen: bool(seen["is_flat"]))


async def test_a_limit_for_a_future_is_on_its_tick(venue: Venue) -> None:
    exchange = venue(BROKERED)
    async with opened(exchange) as broker:
        (future,) = (position for position in await broker.positions() if position.symbol == "ESZ6")
        price = future.instrument.price(D("6834.03"), up=True)
        close = CloseOrder("ESZ6", Side.BUY, D(2), "i-1", OrderType.LIMIT, price)
        assert price == D("6834.25") and (await broker.close(close)).outcome is CloseOutcome.ACCEPTED


async def test_out_of_their_hours_futures_and_pairs_wait_for_the_open(venue: Venue) -> None:
    exchange = venue(BROKERED + '[market]\nsession = "closed"\n')
    async with opened(exchange) as broker:
        held = await broker.positions()
    assert {position.instrument.session for position in held} == {Session.REGULAR}
    assert all(p.market and not p.market.is_open and p.market.next_open for p in held)


async def test_a_future_is_not_sent_where_nobody_tells_its_exchange(
    venue: Venue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(market, "ROUTE_WITHIN", 0.1)
    silent = '[[trouble]]\nkind = "timeout"\nroutes = ["TWS reqContractDetails"]\n'
    exchange = venue(BROKERED + silent)
    async with opened(exchange) as broker:
        held = {position.symbol: position for position in await broker.positions()}
        assert held["ESZ6"].instrument.session is Session.ALWAYS
        refused = await broker.close(BUY_FUTURE)
        assert refused.outcome is CloseOutcome.REFUSED and "at which exchange ESZ6 trades" in refused.reason
        assert (await broker.close(SELL_PAIR)).outcome is CloseOutcome.ACCEPTED


async def test_a_currency_that_is_kept_is_no_position(venue: Venue) -> None:
    exchange = venue(BROKERED + '[[positions]]\nsymbol = "GBP.USD"\nqty = 700\nprice = 1.3\n')
    account = AccountSettings(adapter="ib", port=exchange.tws_port, keep=("EUR",))
    broker = open_broker("IB", account)
    try:
        assert {position.symbol for position in await broker.positions()} == {"ESZ6", "GBP.USD"}
    finally:
        await broker.aclose()


async def test_an_expired_future_is_named_and_not_sent(venue: Venue) -> None:
    exchange = venue(BROKERED + "[assets.ESZ6]\nlast_trade = 2020-12-18\n")
    async with opened(exchange) as broker:
        await broker.positions()
        refused = await broker.close(BUY_FUTURE)
    assert refused.outcome is CloseOutcome.REFUSED and "ESZ6 traded last on 2020-12-18" in refused.reason
    assert "TWS placeOrder" not in (await report(exchange))["requests"]


# What TWS says that is not so, or not all of it


@pytest.mark.parametrize("code", [399, 404, 10349, 2109])
async def test_a_notice_about_an_order_that_is_taken_is_no_refusal(venue: Venue, code: int) -> None:
    exchange = venue(f"{LONG}[tws]\nnotices = [{code}]\n")
    async with opened(exchange) as broker:
        await broker.positions()
        assert (await broker.close(SELL)).outcome is CloseOutcome.ACCEPTED
    requests = (await report(exchange))["requests"]
    assert requests["TWS placeOrder"] == 1 and requests["TWS reqCompletedOrders"] == 1  # before it, not to look it up


async def test_an_error_that_is_not_known_is_looked_up_before_it_is_believed(venue: Venue) -> None:
    exchange = venue(f"{LONG}[tws]\nnotices = [10999]\n")
    async with opened(exchange) as broker:
        await broker.positions()
        assert (await broker.close(SELL)).outcome is CloseOutcome.ACCEPTED
        assert (await broker.close(SELL)).outcome is CloseOutcome.DUPLICATE


@pytest.mark.parametrize(
    ("code", "words", "refusal", "reason"),
    [
        (383, "The order size exceeds the Size Limit of 500.", Refusal.OTHER, "tick 'Bypass Order Precautions"),
        (163, "It would violate the percentage constraint of 3%.", Refusal.OTHER, "tick 'Bypass Order Precautions"),
        (388, "Order size 1 is smaller than the minimum required size of 5.", Refusal.BELOW_MINIMUM, "smaller than"),
        (321, "cause - Order size does not conform to market rule", Refusal.FRACTION, "does not conform"),
        (460, "No trading permissions.", Refusal.OTHER, "No trading permissions"),
        (463, "You must enter a valid price.", Refusal.OTHER, "valid price"),
        (201, "Order rejected - reason:The contract is close only", Refusal.OTHER, "The contract is close only"),
    ],
)
async def test_what_tws_refuses_is_told_in_its_words_with_what_to_do(
    venue: Venue, code: int, words: str, refusal: Refusal, reason: str
) -> None:
    exchange = venue(f'{LONG}[[tws.refusals]]\ncode = {code}\nwords = "{words}"\n')
    async with opened(exchange) as broker:
        await broker.positions()
        result = await broker.close(SELL)
        assert (result.outcome, result.refusal, result.code) == (CloseOutcome.REFUSED, refusal, str(code))
        assert reason in result.reason and "\n" not in result.reason
        assert (await broker.close(SELL)).outcome is CloseOutcome.ACCEPTED


async def test_an_order_whose_number_tws_has_seen_goes_again_under_another(venue: Venue) -> None:
    exchange = venue(f'{LONG}[[tws.refusals]]\ncode = 103\nwords = "Duplicate order id"\n')
    async with opened(exchange) as broker:
        await broker.positions()
        assert (await broker.close(SELL)).outcome is CloseOutcome.ACCEPTED
    seen = await report(exchange)
    assert seen["requests"]["TWS reqIds"] == 1 and seen["closes"] == {"AAPL": 1}
    exchange = venue(f'{LONG}[[tws.refusals]]\ncode = 103\nwords = "Duplicate order id"\nfirst = 2\n')
    async with opened(exchange) as broker:
        await broker.positions()
        assert (await broker.close(SELL)).outcome is CloseOutcome.REFUSED


async def test_an_order_that_never_leaves_tws_is_working_until_it_is_cancelled(venue: Venue) -> None:
    exchange = venue(LONG + "[tws]\nstuck = 1\n")
    async with opened(exchange, timeout=0.5) as broker:
        await broker.positions()
        assert (await broker.close(SELL)).outcome is CloseOutcome.ACCEPTED
        (order,) = await broker.open_orders()
        assert order.status is OrderStatus.NEW and order.remaining == 100
        assert (await broker.cancel(order.id)).outcome is CancelOutcome.ACCEPTED
        await until(exchange, lambda seen: not seen["open_orders"])


async def test_an_order_that_was_set_aside_holds_up_nothing_once_it_cannot_be_cancelled(venue: Venue) -> None:
    exchange = venue(LONG + "[tws]\ninactive = 1\n")
    async with opened(exchange) as broker:
        await broker.positions()
        result = await broker.close(SELL)
        assert result.outcome is CloseOutcome.ACCEPTED and result.order is not None
        (order,) = await broker.open_orders()
        assert order.status is OrderStatus.HELD and order.remaining == 100
        assert (await broker.cancel(order.id)).outcome is CancelOutcome.REFUSED
        assert not len(await broker.open_orders())
        assert (await broker.close(replace(SELL, client_order_id="i-2"))).outcome is CloseOutcome.ACCEPTED
        await until(exchange, lambda seen: not seen["positions"])


async def test_a_cancelled_order_is_not_over_while_its_fills_may_come(
    venue: Venue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orders, "FILLS_COME_WITHIN", 1_000.0)
    exchange = venue(LONG + "[cancels]\nlate_fill_probability = 1\nrace_fraction = 0.4\n[fills]\ndelay = 1000\n")
    async with opened(exchange) as broker:
        await broker.positions()
        await broker.close(SELL)
        (order,) = await broker.open_orders()
        assert (await broker.cancel(order.id)).outcome is CancelOutcome.ACCEPTED
        await until(exchange, lambda seen: seen["positions"] == {"AAPL": "60"})
        told = await broker.order(SELL.client_order_id)
        assert told is not None and (told.status, told.filled_quantity) == (OrderStatus.PENDING_CANCEL, D(40))
        monkeypatch.setattr(orders, "FILLS_COME_WITHIN", 0.0)
        told = await broker.order(SELL.client_order_id)
        assert told is not None and (told.status, told.filled_quantity) == (OrderStatus.CANCELED, D(40))


async def test_nothing_is_available_to_a_close_while_a_cancelled_order_may_have_filled(
    venue: Venue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orders, "FILLS_COME_WITHIN", 1_000.0)
    reducing = RESTING.replace("buy", "sell").replace("100\n", "300\n")
    exchange = venue(LONG + reducing + "[cancels]\nlate_fill_probability = 1\nlate_fill_after = 1000\n")
    async with opened(exchange) as broker:
        (order,) = await broker.open_orders()
        assert (await broker.positions()).items[0].available == 100
        assert (await broker.cancel(order.id)).outcome is CancelOutcome.ACCEPTED
        async with asyncio.timeout(PATIENCE):
            while len(await broker.open_orders()):
                await asyncio.sleep(0.02)
        assert (await broker.positions()).items[0].available == 0
        monkeypatch.setattr(orders, "FILLS_COME_WITHIN", 0.0)
        assert (await broker.positions()).items[0].available == 100


# Price steps


async def test_a_limit_is_on_the_step_of_its_price_band(venue: Venue) -> None:
    exchange = venue(BANDED)
    async with opened(exchange) as broker:
        (position,) = await broker.positions()
        told = position.instrument
        assert (told.tick(D(200)), told.tick(D("149.99")), told.tick(D("0.5"))) == (D("0.05"), D("0.01"), D("0.01"))
        price = told.price(D("190.03"), up=False)
        close = CloseOrder("AAPL", Side.SELL, D(100), "i-1", OrderType.LIMIT, price)
        assert price == D(190) and (await broker.close(close)).outcome is CloseOutcome.ACCEPTED
    assert not (await report(exchange))["rules_broken"]


async def test_a_rule_is_asked_for_once_for_all_that_go_by_it(venue: Venue) -> None:
    exchange = venue("enforce_available = false\n[book]\npositions = 30\n")
    async with opened(exchange) as broker:
        await broker.positions()
        async with asyncio.timeout(PATIENCE):
            while not all(position.instrument.price_bands for position in await broker.positions()):
                await asyncio.sleep(0.02)
    assert (await report(exchange))["requests"]["TWS reqMarketRule"] == 1


@pytest.mark.parametrize(("side", "price"), [(Side.SELL, D("200.05")), (Side.BUY, D("200.1"))])
async def test_a_price_that_tws_refuses_is_put_on_the_step_that_it_tells_then(
    venue: Venue, side: Side, price: Decimal
) -> None:
    silent = '[[trouble]]\nkind = "timeout"\nroutes = ["TWS reqMarketRule"]\nfirst = 1\n'
    exchange = venue(BANDED.replace("AAPL = 200", "AAPL = 200.075") + silent)
    async with opened(exchange) as broker:
        await broker.positions()
        result = await broker.close(CloseOrder("AAPL", side, D(100), "i-1", OrderType.LIMIT, D("200.07")))
        assert result.outcome is CloseOutcome.ACCEPTED, result
        async with asyncio.timeout(PATIENCE):
            while (order := await broker.order("i-1")) is None:
                await asyncio.sleep(0.02)
        assert order.limit_price == price
    seen = await report(exchange)
    assert seen["rules_broken"] == {"price step": 1} and seen["requests"]["TWS placeOrder"] == 2


async def test_a_price_step_that_tws_never_tells_is_refused_as_such_once(venue: Venue) -> None:
    silent = '[[trouble]]\nkind = "500"\nroutes = ["TWS reqMarketRule"]\n'
    exchange = venue(BANDED + silent)
    async with opened(exchange) as broker:
        await broker.positions()
        result = await broker.close(CloseOrder("AAPL", Side.SELL, D(100), "i-1", OrderType.LIMIT, D("199.99")))
    assert (result.outcome, result.refusal) == (CloseOutcome.REFUSED, Refusal.PRICE_STEP)
    assert (await report(exchange))["requests"]["TWS placeOrder"] == 1


# What TWS may not be able to say


async def test_a_list_that_is_overdue_is_not_taken_for_the_next_one(venue: Venue) -> None:
    exchange = venue(LONG + '[[trouble]]\nkind = "timeout"\nroutes = ["TWS reqPositions"]\nfirst = 1\n')
    async with opened(exchange, timeout=0.5) as broker:
        with in_time(0.5), pytest.raises(BrokerUnavailable, match=r"positions at TWS .*no answer within 0.5 s"):
            await broker.positions()
        assert len(await broker.positions()) == 1
    assert (await report(exchange))["requests"]["TWS startApi"] == 2


NO_VENUE = r"lost its connection to the venue|has been lost \(1100\)|restored automatically \(2110\)"


async def lose_venue(exchange: PaperExchangeThread, broker: IbBroker) -> None:
    """TWS loses it, and the account's connection hears so."""
    await asyncio.to_thread(exchange.control, "tws", {"event": "1100"})
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(BrokerUnavailable, match=NO_VENUE):
            while True:
                await broker.positions()
    # What TWS goes on telling is not so any more.
    await asyncio.to_thread(exchange.control, "late-fill", {"symbol": "AAPL", "side": "sell", "qty": "40"})
    await until(exchange, lambda seen: seen["positions"] == {"AAPL": "60"})


async def believed(broker: IbBroker) -> list[Decimal]:
    """The quantities held, once any are told."""
    async with asyncio.timeout(PATIENCE):
        while True:
            with contextlib.suppress(BrokerUnavailable):
                return [position.quantity for position in await broker.positions()]
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("event", ["1101", "1102"])
async def test_nothing_is_believed_while_tws_has_lost_the_venue_and_all_is_read_again_then(
    venue: Venue, event: str
) -> None:
    exchange = venue(LONG + RESTING + '[[halts]]\nsymbol = "AAPL"\nmode = "hold"\n')
    async with opened(exchange) as broker:
        await broker.positions()
        await broker.close(SELL)
        await lose_venue(exchange, broker)
        with pytest.raises(BrokerUnavailable, match="lost its connection to the venue"):
            await broker.close(replace(SELL, client_order_id="i-2"))
        assert (await broker.cancel("1")).outcome is CancelOutcome.UNKNOWN
        with pytest.raises(BrokerUnavailable):
            await broker.cancel_all()
        await asyncio.to_thread(exchange.control, "price", {"symbol": "AAPL", "price": "150"})
        await asyncio.to_thread(exchange.control, "tws", {"event": event})
        assert await believed(broker) == [D(60)]
        (position,) = await broker.positions()
        assert position.current_price == 150
        assert (await broker.close(SELL)).outcome is CloseOutcome.DUPLICATE
    assert (await report(exchange))["closes"] == {"AAPL": 1}


async def test_a_new_connection_believes_no_more_than_the_one_that_was_told(
    venue: Venue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logins, "ASK_FOR_VENUE", 0.0)
    monkeypatch.setattr(connection, "TOLD_WITHIN", 0.05)
    exchange = venue(LONG)
    async with opened(exchange) as broker:
        await broker.positions()
        await lose_venue(exchange, broker)
        for _ in range(3):
            with pytest.raises(BrokerUnavailable, match=NO_VENUE):
                await broker.positions()
    async with opened(exchange) as another:  # which has heard nothing before
        with pytest.raises(BrokerUnavailable, match=NO_VENUE):
            await another.positions()
    assert (await report(exchange))["requests"]["TWS startApi"] >= 5


async def test_a_venue_that_is_back_without_a_word_is_found_out_by_another_connection(
    venue: Venue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logins, "ASK_FOR_VENUE", 0.05)
    exchange = venue(LONG)
    async with opened(exchange) as broker:
        assert await broker.not_permitted() == []  # by which the connection that trades has been told, too
        await broker.positions()
        await lose_venue(exchange, broker)
        await asyncio.to_thread(exchange.control, "tws", {"event": "unsaid"})
        assert await believed(broker) == [D(60)]
        assert (await broker.close(replace(SELL, quantity=D(60)))).outcome is CloseOutcome.ACCEPTED
        await until(exchange, lambda seen: bool(seen["is_flat"]))


async def test_a_new_connection_that_is_told_nothing_doubts_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "TOLD_WITHIN", 0.01)
    monkeypatch.setattr(connection, "TOLD_TOGETHER", 0.0)
    link = listener.VenueLink()
    link.lose()
    assert link.lost_at is not None
    for doubt, lost in ((60.0, True), (0.0, False)):
        monkeypatch.setattr(connection, "DOUBT_LASTS", doubt)
        silent = connection.Connection("IB", "127.0.0.1", 1, 1.0, link)
        await silent._ask_for_the_venue(link.lost_at - 1)
        assert (link.lost_at is not None) is lost


async def test_the_nightly_reset_is_outlived(venue: Venue) -> None:
    exchange = venue(LONG)
    async with opened(exchange) as broker:
        await broker.positions()
        await asyncio.to_thread(exchange.control, "tws", {"event": "reset", "seconds": 0.3})
        told = []
        async with asyncio.timeout(PATIENCE):
            while True:
                try:
                    assert len(await broker.positions()) == 1
                    break
                except BrokerUnavailable as error:
                    told.append(str(error))
                    await asyncio.sleep(0.02)
        assert told and all("\n" not in line for line in told)


async def test_too_many_messages_are_told_as_such(venue: Venue) -> None:
    exchange = venue(LONG + '[[trouble]]\nkind = "429"\nroutes = ["TWS reqAllOpenOrders"]\n')
    async with opened(exchange) as broker:
        with pytest.raises(BrokerUnavailable, match="Max rate of messages"):
            await broker.open_orders()


async def test_a_broker_serves_one_loop_after_another(venue: Venue) -> None:
    exchange = venue(LONG)
    broker = IbBroker("IB", "127.0.0.1", exchange.tws_port, 911)

    async def read() -> int:
        return len(await broker.positions())

    assert await read() == 1
    assert await asyncio.to_thread(lambda: asyncio.run(read())) == 1
    await broker.aclose()


# Bad input: one line each


async def test_tws_that_does_not_listen() -> None:
    broker = IbBroker("IB", "127.0.0.1", free_port(), 911, timeout=2.0)
    with pytest.raises(BrokerUnavailable, match="nothing listens there: start TWS or IB Gateway") as told:
        await broker.positions()
    assert "\n" not in str(told.value)
    assert "nothing listens" in (await broker.cancel("1")).reason


async def test_something_else_that_listens() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    listening = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    broker = IbBroker("IB", "127.0.0.1", port, 911, timeout=0.3)
    with in_time(1.0), pytest.raises(BrokerUnavailable, match=r"no answer within 0.3 s; is it TWS that listens there,"):
        await broker.positions()
    await broker.aclose()
    listening.close()


@pytest.mark.parametrize(
    ("account", "words"),
    [
        (None, "several accounts; set ib_account to one of U1, U2"),
        ("U3", "does not manage U3; set ib_account to one of"),
    ],
)
async def test_an_account_that_the_login_does_not_have(venue: Venue, account: str | None, words: str) -> None:
    exchange = venue(LONG + '[tws]\naccounts = ["U1", "U2"]\n')
    async with opened(exchange, ib_account=account) as broker:
        with pytest.raises(BrokerRefused, match=words):
            await broker.positions()


async def test_a_read_only_tws_is_found_out_without_an_order(venue: Venue) -> None:
    exchange = venue(LONG + "[tws]\nread_only = true\n")
    async with opened(exchange) as broker:
        (problem,) = await broker.not_permitted()
        assert "untick 'Read-Only API'" in problem
        assert {result.outcome for result in await broker.cancel_all()} <= {CancelOutcome.REFUSED}
    assert "TWS placeOrder" not in (await report(exchange))["requests"]


async def test_prices_that_cannot_be_had_are_no_answer_to_a_cancel_of_all() -> None:
    ear = listener.Listener()
    ear.watch(7, con_id=265598)
    ear.error(7, 354, "Requested market data is not subscribed.")
    assert ear.last_error is None
    ear.error(-1, 321, "Error validating request: the API is in Read-Only mode.")
    assert ear.last_error is not None and ear.last_error.code == 321


async def test_a_missing_extra_is_told_in_pips_words(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(connection, "import_module", missing)
    broker = open_broker("IB", AccountSettings(adapter="ib", port=4002))
    with pytest.raises(BrokerRefused, match=r'IB: .*pip install "trading-breaker-ops\[ib\]"'):
        await broker.positions()


def test_opening_it_needs_no_network() -> None:
    broker = open_broker("IB", AccountSettings(adapter="ib", port=4002, ib_account="U1234567"))
    assert repr(broker) == "IbBroker('IB', '127.0.0.1:4002')"


async def test_nothing_is_logged_but_what_we_say(venue: Venue, caplog: pytest.LogCaptureFixture) -> None:
    exchange = venue(LONG + RESTING)
    with caplog.at_level(logging.DEBUG, logger="ib_async"):
        logging.getLogger("ib_async").setLevel(logging.CRITICAL)
        async with opened(exchange) as broker:
            await broker.cancel_all()
            await broker.cancel("99")
    assert not [record for record in caplog.records if record.name.startswith("ib_async")]


def test_the_protocol_of_an_adapter_is_read_without_the_extra() -> None:
    """What the settings and the registry import must not need ib_async."""
    assert importlib.import_module("brokers.ib.reading").READ_ONLY
