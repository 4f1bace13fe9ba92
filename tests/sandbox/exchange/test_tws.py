"""The TWS API of the paper exchange, driven by unmodified ib_async: what it starts with, and what it trades by."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import ib_async
import pytest
from ib_async import IB, Contract, LimitOrder, MarketOrder, Order, StopOrder, Trade

from sandbox.exchange.scenario import parse
from sandbox.exchange.server import PaperExchange, PaperExchangeThread
from tests.helpers import PATIENCE, eventually

ALL_KINDS = (
    "enforce_available = false\n[book]\norders = 5\npositions = 3\nbrackets = 1\noptions = 1\nspreads = 1\n"
    "crypto = 1\nmulti_leg = 1\nnotional = 1\n"
)
LONG = 'enforce_available = false\n[prices]\nAAPL = 200\n[[positions]]\nsymbol = "AAPL"\nqty = 100\n'
RESTING = '[[orders]]\nsymbol = "AAPL"\nside = "buy"\nqty = 10\nlimit_price = 100\n'
STOCK = ib_async.Stock("AAPL", "SMART", "USD")
Venue = Callable[[str], PaperExchangeThread]


@pytest.fixture(scope="module")
def server() -> Iterator[PaperExchangeThread]:
    with PaperExchangeThread() as exchange:
        yield exchange


@pytest.fixture
def venue(server: PaperExchangeThread) -> Venue:
    def start(toml: str) -> PaperExchangeThread:
        server.restart(parse(toml))
        return server

    return start


@asynccontextmanager
async def client(exchange: PaperExchangeThread | PaperExchange, client_id: int = 3) -> AsyncIterator[IB]:
    ib = IB()
    await ib.connectAsync("127.0.0.1", exchange.tws_port or 0, clientId=client_id, timeout=PATIENCE)
    try:
        yield ib
    finally:
        ib.disconnect()


async def until(holds: Callable[[], object], what: str) -> None:
    async with asyncio.timeout(PATIENCE):
        while not holds():
            await asyncio.sleep(0.01)
    assert holds(), what


async def ended(trade: Trade) -> str:
    await until(trade.isDone, "the order stands")
    return trade.orderStatus.status


def said(trade: Trade) -> list[int]:
    return [entry.errorCode for entry in trade.log if entry.errorCode]


# The start


async def test_the_whole_start_up_of_ib_async_is_answered(venue: Venue) -> None:
    exchange = venue(ALL_KINDS)
    ib = IB()
    async with asyncio.timeout(PATIENCE):
        await ib.connectAsync("127.0.0.1", exchange.tws_port, clientId=0, timeout=PATIENCE, raiseSyncErrors=True)
    try:
        assert ib.managedAccounts() == ["DU1234567"]
        assert {position.contract.secType for position in ib.positions()} == {"STK", "OPT", "CRYPTO"}
        assert {item.contract.conId for item in ib.portfolio()} == {p.contract.conId for p in ib.positions()}
        assert float(next(v.value for v in ib.accountValues() if v.tag == "NetLiquidation")) > 0
    finally:
        ib.disconnect()


async def test_every_order_of_the_book_is_listed_with_its_terms(venue: Venue) -> None:
    exchange = venue(ALL_KINDS)
    async with client(exchange) as ib:
        trades = await ib.reqAllOpenOrdersAsync()
    listed = exchange.report()["open_order_ids"]
    combination = next(trade for trade in trades if trade.contract.secType == "BAG")
    assert len(trades) == len(listed) - 2  # the legs go with their order
    assert [(leg.ratio, leg.action) for leg in combination.contract.comboLegs or []] == [(1, "BUY"), (1, "SELL")]
    assert {trade.order.orderType for trade in trades} == {"LMT", "STP"}
    assert sum(trade.order.cashQty < 1e100 for trade in trades) == 1
    assert {trade.order.account for trade in trades} == {"DU1234567"}


async def test_a_child_process_speaks_it_on_a_port_of_its_own() -> None:
    with PaperExchange(parse(LONG), tws_port=0) as exchange:
        async with client(exchange) as ib:
            assert [position.position for position in ib.positions()] == [100]


async def test_a_client_id_is_one_clients_at_a_time(venue: Venue) -> None:
    exchange = venue(LONG)
    errors: list[int] = []
    async with client(exchange, 5):
        second = IB()
        second.errorEvent += lambda _id, code, *_: errors.append(code)
        with pytest.raises((TimeoutError, ConnectionError)):
            await second.connectAsync("127.0.0.1", exchange.tws_port, clientId=5, timeout=0.3)
    assert errors == [326]
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                async with client(exchange, 5) as third:
                    assert third.isConnected()
                    return
            except (ConnectionError, TimeoutError):
                await asyncio.sleep(0.05)


# Orders


async def test_a_market_order_fills_and_says_so_by_status_execution_and_commission(venue: Venue) -> None:
    exchange = venue(LONG)
    async with client(exchange) as ib:
        trade = ib.placeOrder(STOCK, MarketOrder("SELL", 100, orderRef="incident-AAPL-1"))
        assert await ended(trade) == "Filled"
        await until(lambda: trade.fills and trade.fills[0].commissionReport.execId, "no commission")
        (fill,) = await ib.reqExecutionsAsync()
        assert (fill.execution.side, fill.execution.shares, fill.execution.orderRef) == ("SLD", 100, "incident-AAPL-1")
        assert not await ib.reqPositionsAsync()
        completed = {done.order.orderRef: done for done in await ib.reqCompletedOrdersAsync(False)}
    assert completed["incident-AAPL-1"].order.filledQuantity == 100
    assert exchange.report()["is_flat"]


async def test_an_order_is_told_of_to_its_client_alone_and_cancelled_by_it_alone(venue: Venue) -> None:
    exchange = venue(LONG)
    async with client(exchange, 3) as ours, client(exchange, 4) as theirs:
        trade = ours.placeOrder(STOCK, LimitOrder("BUY", 5, 100.0, orderRef="resting"))
        await until(lambda: trade.orderStatus.status == "Submitted", "it does not work")
        (seen,) = await theirs.reqAllOpenOrdersAsync()
        assert not await theirs.reqOpenOrdersAsync()
        assert (seen.order.clientId, seen.order.orderRef) == (3, "resting")
        codes: list[int] = []
        theirs.errorEvent += lambda _id, code, *_: codes.append(code)
        theirs.client.cancelOrder(seen.order.orderId)
        await until(lambda: 10147 in codes, "another client's order could be cancelled")
        ours.cancelOrder(trade.order)
        assert await ended(trade) == "Cancelled"
        theirs.client.cancelOrder(trade.order.orderId)
        ours.client.cancelOrder(trade.order.orderId)
        await until(lambda: codes.count(10147) == 2, "no word of what is gone")


async def test_a_global_cancel_takes_everybodys_orders(venue: Venue) -> None:
    exchange = venue(ALL_KINDS + "[tws]\nby_hand = 2\n")
    async with client(exchange) as ib:
        by_hand = [trade for trade in await ib.reqAllOpenOrdersAsync() if trade.order.orderId <= 0]
        assert len(by_hand) == 2
        ib.reqGlobalCancel()
        await until(lambda: not exchange.report()["open_orders"], "orders are left")
        assert not await ib.reqAllOpenOrdersAsync()
    assert exchange.report()["first_cancel_all_at"] is not None


@pytest.mark.parametrize("placed", ["by_hand = 1", "other_login = 1"])
@pytest.mark.parametrize("negative", [True, False])
async def test_orders_without_a_client_here_are_bound_to_client_0(venue: Venue, placed: str, negative: bool) -> None:
    exchange = venue(f"{LONG}{RESTING}[tws]\n{placed}\nnegative_ids = {str(negative).lower()}\n")
    codes: list[int] = []
    async with client(exchange, 7) as engine:
        engine.errorEvent += lambda _id, code, *_: codes.append(code)
        (seen,) = await engine.reqAllOpenOrdersAsync()
        engine.client.cancelOrder(seen.order.orderId)
        await until(lambda: 10147 in codes, "it was cancelled without being bound")
    async with client(exchange, 0) as ib:
        (trade,) = await ib.reqOpenOrdersAsync()
        assert trade.order.clientId == 0 and (trade.order.orderId < 0) is negative and trade.order.orderId != 0
        ib.cancelOrder(trade.order)
        await until(lambda: not exchange.report()["open_orders"], "it is still there")


async def test_two_orders_may_have_the_same_reference(venue: Venue) -> None:
    exchange = venue(LONG)
    async with client(exchange) as ib:
        for _ in range(2):
            assert await ended(ib.placeOrder(STOCK, MarketOrder("SELL", 100, orderRef="the same"))) == "Filled"
        (short,) = await ib.reqPositionsAsync()
    assert short.position == -100
    assert [change["by"] for change in exchange.report()["sign_changes"]] == ["client"]


@pytest.mark.parametrize(
    ("toml", "order", "code"),
    [
        ("", LimitOrder("SELL", 100, 199.999), 110),
        ("", MarketOrder("SELL", 100, account="U999"), 435),
        ('[[halts]]\nsymbol = "AAPL"\n', MarketOrder("SELL", 100), 201),
        ("[tws]\nread_only = true\n", MarketOrder("SELL", 100), 321),
        ("", StopOrder("SELL", 100, 10.001), 110),
    ],
    ids=["price step", "account", "halt", "read only", "stop's step"],
)
async def test_what_is_refused_is_told_by_tws_code(venue: Venue, toml: str, order: Order, code: int) -> None:
    exchange = venue(LONG + toml)
    codes: list[int] = []
    async with client(exchange) as ib:
        ib.errorEvent += lambda _id, number, *_: codes.append(number)
        ib.placeOrder(STOCK, order)
        await until(lambda: code in codes, f"no {code}")
        assert not await ib.reqAllOpenOrdersAsync()


async def test_nothing_of_an_unknown_contract_is_known_or_taken(venue: Venue) -> None:
    exchange = venue(LONG)
    unknown = Contract(secType="STK", symbol="NOSUCH", exchange="SMART", currency="USD")
    async with client(exchange) as ib:
        assert not await ib.reqContractDetailsAsync(unknown)
        trade = ib.placeOrder(unknown, MarketOrder("BUY", 1))
        assert await ended(trade) == "Cancelled" and said(trade) == [200]


# Futures and pairs of currencies

FUTURE_AND_PAIR = (
    'enforce_available = false\n[[positions]]\nsymbol = "ESZ6"\nqty = -2\nprice = 6800\n'
    '[[positions]]\nsymbol = "EUR.USD"\nqty = 5000\nprice = 1.15\n'
)


async def test_positions_in_futures_and_pairs_come_without_their_exchange(venue: Venue) -> None:
    async with client(venue(FUTURE_AND_PAIR)) as ib:
        held = {position.contract.localSymbol: position for position in ib.positions()}
        future, pair = held["ESZ6"], held["EUR.USD"]
        assert (future.contract.secType, future.contract.multiplier, future.contract.exchange) == ("FUT", "50", "")
        assert (future.position, future.avgCost) == (-2, 340_000)
        assert (pair.contract.secType, pair.contract.symbol, pair.contract.currency) == ("CASH", "EUR", "USD")
        (details,) = await ib.reqContractDetailsAsync(Contract(conId=future.contract.conId))
    assert details.contract is not None
    assert (details.contract.exchange, details.minTick, details.sizeIncrement) == ("CME", 0.25, 1)
    assert details.realExpirationDate == details.contract.lastTradeDateOrContractMonth >= "20261218"


async def test_a_future_trades_at_its_own_exchange_only_and_in_whole_contracts(venue: Venue) -> None:
    exchange = venue(FUTURE_AND_PAIR)
    async with client(exchange) as ib:
        (con_id,) = (p.contract.conId for p in ib.positions() if p.contract.secType == "FUT")
        for route, order, code in (
            ("SMART", MarketOrder("BUY", 2), 200),
            ("CME", MarketOrder("BUY", 0.5), 10318),
            ("CME", LimitOrder("BUY", 2, 6800.1), 110),
        ):
            trade = ib.placeOrder(Contract(conId=con_id, secType="FUT", exchange=route), order)
            await until(lambda trade=trade, code=code: code in said(trade), f"no {code}")  # type: ignore[misc]
        trade = ib.placeOrder(Contract(conId=con_id, secType="FUT", exchange="CME"), MarketOrder("BUY", 2))
        assert await ended(trade) == "Filled"
    assert exchange.report()["positions"] == {"EUR.USD": "5000"}


async def test_an_odd_lot_of_currency_is_filled_and_said_to_be_one(venue: Venue) -> None:
    exchange = venue(FUTURE_AND_PAIR)
    async with client(exchange) as ib:
        trade = ib.placeOrder(ib_async.Forex("EURUSD"), MarketOrder("SELL", 5_000))
        await until(lambda: trade.orderStatus.status == "Filled", "it is not filled")
        assert said(trade) == [399]


async def test_what_has_expired_is_held_and_nothing_else(venue: Venue) -> None:
    exchange = venue(FUTURE_AND_PAIR + "[assets.ESZ6]\nlast_trade = 2020-12-18\n")
    async with client(exchange) as ib:
        (future,) = (p.contract for p in ib.positions() if p.contract.secType == "FUT")
        assert future.lastTradeDateOrContractMonth == "20201218"
        assert not await ib.reqContractDetailsAsync(Contract(conId=future.conId))
        trade = ib.placeOrder(Contract(conId=future.conId, exchange="CME"), MarketOrder("BUY", 2))
        await until(lambda: 200 in said(trade), "it is traded")


# What else there is to know


@pytest.mark.parametrize(
    ("session", "trades", "liquid"), [("open", True, True), ("extended", True, False), ("closed", False, False)]
)
async def test_hours_tell_the_session(venue: Venue, session: str, trades: bool, liquid: bool) -> None:
    exchange = venue(f'{LONG}[market]\nsession = "{session}"\n')
    async with client(exchange) as ib:
        (details,) = await ib.reqContractDetailsAsync(STOCK)
        now = await ib.reqCurrentTimeAsync()
    assert any(span.start <= now < span.end for span in details.tradingSessions()) is trades
    assert any(span.start <= now < span.end for span in details.liquidSessions()) is liquid


async def test_the_price_steps_of_a_market_rule_are_told_by_band(venue: Venue) -> None:
    exchange = venue(LONG + "[assets.AAPL]\nprice_bands = [[0, 0.01], [150, 0.05]]\n")
    codes: list[int] = []
    async with client(exchange) as ib:
        (details,) = await ib.reqContractDetailsAsync(STOCK)
        bands = await ib.reqMarketRuleAsync(int(details.marketRuleIds))
        assert [(each.lowEdge, each.increment) for each in bands or []] == [(0, 0.01), (150, 0.05)]
        assert details.minTick == 0.01
        ib.errorEvent += lambda _id, number, *_: codes.append(number)
        ib.client.reqMarketRule(99_999)
        await until(lambda: 321 in codes, "a rule that there is not was told")


async def test_prices_are_told_as_they_change_and_once_for_a_snapshot(venue: Venue) -> None:
    exchange = venue(LONG)
    async with client(exchange) as ib:
        await ib.qualifyContractsAsync(contract := ib_async.Stock("AAPL", "SMART", "USD"))
        ticker = ib.reqMktData(contract)
        await until(lambda: ticker.last == 200, "no price")
        await asyncio.to_thread(exchange.control, "price", {"symbol": "AAPL", "price": "150"})
        await until(lambda: ticker.last == 150, "the price stands")
        (snapshot,) = await ib.reqTickersAsync(contract)
        assert snapshot.last == 150


async def test_a_lost_venue_is_answered_for_from_what_was_known_and_told_to_who_comes(venue: Venue) -> None:
    exchange = venue(LONG + RESTING)
    codes: list[int] = []
    async with client(exchange) as ib:
        ib.errorEvent += lambda _id, number, *_: codes.append(number)
        await asyncio.to_thread(exchange.control, "tws", {"event": "1100"})
        await until(lambda: 1100 in codes, "no 1100")
        await asyncio.to_thread(exchange.control, "late-fill", {"symbol": "AAPL", "side": "sell", "qty": "40"})
        await asyncio.to_thread(eventually, lambda: exchange.report()["positions"] == {"AAPL": "60"}, exchange.report)
        assert [held.position for held in await ib.reqPositionsAsync()] == [100]
        other = IB()
        other.errorEvent += lambda _id, number, *_: codes.append(-number)
        await other.connectAsync("127.0.0.1", exchange.tws_port, clientId=4, timeout=PATIENCE)
        other.disconnect()
        assert -2110 in codes and -2104 not in codes
        await asyncio.to_thread(exchange.control, "tws", {"event": "1102"})
        await until(lambda: 1102 in codes, "no 1102")
        assert {held.position for held in await ib.reqPositionsAsync()} == {60}  # as TWS tells by itself, too


async def test_what_was_asked_for_without_a_venue_is_done_when_it_is_back(venue: Venue) -> None:
    exchange = venue(LONG + RESTING)
    async with client(exchange) as ib:
        await asyncio.to_thread(exchange.control, "tws", {"event": "1100"})
        trade = ib.placeOrder(STOCK, MarketOrder("SELL", 100))
        ib.reqGlobalCancel()
        await ib.reqPositionsAsync()  # behind which both have been taken
        assert exchange.report()["open_orders"] == 1 and trade.orderStatus.status == "PendingSubmit"
        await asyncio.to_thread(exchange.control, "tws", {"event": "1101"})
        assert await ended(trade) in {"Filled", "Cancelled"}
        await until(lambda: not exchange.report()["open_orders"], "it was not cancelled")


async def test_too_many_messages_in_a_second_are_told(venue: Venue) -> None:
    exchange = venue(LONG)
    codes: list[int] = []
    async with client(exchange) as ib:
        ib.errorEvent += lambda _id, number, *_: codes.append(number)
        ib.client.MaxRequests = 0
        for _ in range(60):
            ib.client.reqIds(1)
        await until(lambda: 100 in codes, "no 100")


async def test_a_lost_answer_takes_effect_all_the_same(venue: Venue) -> None:
    trouble = '[[trouble]]\nkind = "timeout"\napplied = true\nroutes = ["TWS placeOrder"]\n'
    exchange = venue(LONG + trouble)
    async with client(exchange) as ib:
        ib.placeOrder(STOCK, MarketOrder("SELL", 100))
        await until(lambda: exchange.report()["is_flat"], "it did not take effect")


async def test_what_speaks_something_else_is_let_go(server: PaperExchangeThread) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.tws_port)
    writer.write(b"GET / HTTP/1.1\r\n\r\n")
    assert await asyncio.wait_for(reader.read(), PATIENCE) == b""
    writer.close()


# Changes, and orders that TWS keeps


async def test_an_order_is_changed_under_its_number(venue: Venue) -> None:
    async with client(venue(LONG)) as ib:
        trade = ib.placeOrder(STOCK, LimitOrder("BUY", 10, 100.0))
        await until(lambda: trade.orderStatus.status == "Submitted", "it does not work")
        name = trade.order.permId
        trade.order.totalQuantity = 4
        ib.placeOrder(STOCK, trade.order)
        await until(lambda: trade.orderStatus.remaining == 4, "it was not changed")
        (listed,) = await ib.reqAllOpenOrdersAsync()
        assert listed is trade and trade.order.permId == name
        ib.cancelOrder(trade.order)
        assert await ended(trade) == "Cancelled"


async def test_a_bracket_is_kept_until_it_is_transmitted_and_its_exits_until_it_fills(venue: Venue) -> None:
    exchange = venue(LONG)
    async with client(exchange) as ib:
        entry, *exits = (ib.placeOrder(STOCK, part) for part in ib.bracketOrder("BUY", 5, 150.0, 300.0, 140.0))
        await until(lambda: entry.orderStatus.status == "Submitted", "it was not transmitted")
        assert exchange.report()["open_orders"] == 1
        entry.order.lmtPrice = 500.0
        ib.placeOrder(STOCK, entry.order)
        assert await ended(entry) == "Filled"
        await until(lambda: all(each.orderStatus.status == "Submitted" for each in exits), "the exits do not work")
        await until(lambda: ib.positions()[0].position == 105, "the position was not told")
        ib.reqGlobalCancel()
        await until(lambda: not ib.openTrades(), "orders are left")
        lonely = ib.placeOrder(STOCK, LimitOrder("BUY", 5, 150.0, transmit=False))
        ib.cancelOrder(lonely.order)
        assert await ended(lonely) == "Cancelled" and exchange.report()["open_orders"] == 0
