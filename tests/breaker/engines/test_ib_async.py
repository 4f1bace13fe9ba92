"""ib_async behind the gate, against a TWS: what passes when, what leaves whole, and what the rules are told."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from decimal import Decimal
from functools import partial
from typing import Any

import ib_async
import pytest
import redis
from ib_async import LimitOrder, MarketOrder, Option, Order, StopOrder

from breaker import CircuitBreaker
from breaker.engines import OrderRefused
from breaker.gate import Gate, Reason
from breaker.limits import Limits
from breaker.rules import Rules
from sandbox.exchange.server import PaperExchangeThread
from tests.breaker.engines.ib_under_guard import AAPL, LONG, PRICES, connected, refusal, sent, told, trip, until
from tests.helpers import eventually


@pytest.fixture(scope="module")
def tws() -> Iterator[PaperExchangeThread]:
    with PaperExchangeThread() as exchange:
        yield exchange


@pytest.fixture
def cb(redis_client: redis.Redis) -> Iterator[CircuitBreaker]:
    breaker = CircuitBreaker(redis_client, quiet_period=0, reset_interval=0)
    breaker.initialize_state()
    yield breaker
    breaker.close()


@pytest.fixture
def gate(cb: CircuitBreaker, redis_server: Any) -> Iterator[Gate]:
    with Gate(redis_server.url, max_staleness=30) as gate:
        eventually(lambda: gate.is_open)
        yield gate


async def test_orders_flow_while_trading_is_open_and_only_exits_pass_when_it_is_not(
    tws: PaperExchangeThread, cb: CircuitBreaker, gate: Gate
) -> None:
    async with connected(tws, gate) as ib:
        trade = ib.placeOrder(AAPL, MarketOrder("BUY", 10))
        assert isinstance(trade, ib_async.Trade)
        await told(trade, "Filled")
        await until(lambda: ib.positions()[0].position == 110)
        await trip(cb, gate)
        before = sent(tws)

        assert "adds to a position of 110" in refusal(lambda: ib.placeOrder(AAPL, MarketOrder("BUY", 1)))
        assert "could cross zero" in refusal(lambda: ib.placeOrder(AAPL, MarketOrder("SELL", 111)))
        assert "no position in TSLA" in refusal(
            lambda: ib.placeOrder(ib_async.Stock("TSLA", "SMART", "USD"), MarketOrder("SELL", 1))
        )
        assert sent(tws) == before and len(ib.openTrades()) == 0
        first = ib.placeOrder(AAPL, MarketOrder("SELL", 60))
        assert "50.0 of it" in refusal(lambda: ib.placeOrder(AAPL, MarketOrder("SELL", 60)))
        await told(first, "Filled")
        assert "could cross zero" in refusal(lambda: ib.placeOrder(AAPL, MarketOrder("SELL", 60)))
        await told(ib.placeOrder(AAPL, MarketOrder("SELL", 50)), "Filled")
        await until(lambda: not ib.positions())


async def test_a_fill_that_the_positions_do_not_show_yet_counts(
    tws: PaperExchangeThread, cb: CircuitBreaker, gate: Gate
) -> None:
    """TWS tells a fill and the position that it leaves in two messages."""
    async with connected(tws, gate) as ib:
        ib.wrapper.position = lambda *_: None  # type: ignore[method-assign]  # the second one never comes
        await told(ib.placeOrder(AAPL, MarketOrder("SELL", 100)), "Filled")
        assert ib.positions()[0].position == 100
        await trip(cb, gate)
        assert "could cross zero" in refusal(lambda: ib.placeOrder(AAPL, MarketOrder("SELL", 100)))


async def test_a_change_may_only_make_an_order_smaller(
    tws: PaperExchangeThread, cb: CircuitBreaker, gate: Gate
) -> None:
    """The engine writes into the order that it has, so what it was before is in no object of ib_async's."""
    async with connected(tws, gate) as ib:
        trade = ib.placeOrder(AAPL, LimitOrder("BUY", 10, 100))
        await told(trade, "Submitted")
        await trip(cb, gate)
        trade.order.lmtPrice = 300
        assert "adds to a position" in refusal(lambda: ib.placeOrder(AAPL, trade.order))
        trade.order.lmtPrice, trade.order.totalQuantity = 100, 11
        assert "adds to a position" in refusal(lambda: ib.placeOrder(AAPL, trade.order))
        trade.order.totalQuantity, trade.order.transmit = 5, False
        assert "adds to a position" in refusal(lambda: ib.placeOrder(AAPL, trade.order))
        trade.order.transmit = True
        assert ib.placeOrder(AAPL, trade.order) is trade
        await until(lambda: trade.orderStatus.remaining == 5)
        other = LimitOrder("BUY", 4, 300, orderId=trade.order.orderId)
        assert "adds to a position" in refusal(lambda: ib.placeOrder(AAPL, other))
        assert ib.cancelOrder(trade.order) is trade
        await told(trade, "Cancelled")


async def test_a_bracket_is_refused_whole(tws: PaperExchangeThread, cb: CircuitBreaker, gate: Gate) -> None:
    async with connected(tws, gate) as ib:
        await trip(cb, gate)
        before = sent(tws)
        bracket = ib.bracketOrder("BUY", 10, 150, 250, 140)
        for part in bracket:  # the exits by themselves would only reduce the 100 that are held
            assert refusal(partial(ib.placeOrder, AAPL, part))
        assert sent(tws) == before


async def test_a_trip_in_the_middle_of_a_bracket_takes_back_what_tws_has_of_it(
    tws: PaperExchangeThread, cb: CircuitBreaker, gate: Gate
) -> None:
    """The last message releases the entry, so that is where it would leave."""
    async with connected(tws, gate) as ib:
        entry, takes_profit, stops_loss = ib.bracketOrder("BUY", 10, 300, 350, 140)
        first = ib.placeOrder(AAPL, entry)
        second = ib.placeOrder(AAPL, takes_profit)
        await until(lambda: sent(tws) == 2)
        await trip(cb, gate)
        assert "adds to a position" in refusal(lambda: ib.placeOrder(AAPL, stops_loss))
        assert first.orderStatus.status == second.orderStatus.status == "Cancelled"
        await until(lambda: sent(tws, "TWS cancelOrder") == 2)
        assert refusal(lambda: ib.placeOrder(AAPL, stops_loss)), "its entry was refused"
        report = tws.report()
        assert report["orders_created"]["client"] == 0 and report["requests"]["TWS placeOrder"] == 2


async def test_the_exits_of_an_entry_that_works_pass_and_no_more_than_it_opens(
    tws: PaperExchangeThread, cb: CircuitBreaker, gate: Gate
) -> None:
    async with connected(tws, gate, PRICES) as ib:
        entry = ib.placeOrder(AAPL, LimitOrder("BUY", 10, 150))
        await told(entry, "Submitted")
        await trip(cb, gate)
        number = entry.order.orderId
        assert refusal(lambda: ib.placeOrder(AAPL, StopOrder("SELL", 11, 140, parentId=number)))
        assert refusal(lambda: ib.placeOrder(AAPL, StopOrder("BUY", 10, 160, parentId=number)))
        assert refusal(lambda: ib.placeOrder(AAPL, StopOrder("SELL", 10, 140)))
        ib.placeOrder(AAPL, StopOrder("SELL", 10, 140, parentId=number))
        entry.order.totalQuantity = 5
        assert refusal(lambda: ib.placeOrder(AAPL, entry.order)), "its exit would close more than it opens"


async def test_an_exit_does_not_transmit_a_change_that_tws_keeps(
    tws: PaperExchangeThread, cb: CircuitBreaker, gate: Gate
) -> None:
    """A larger entry was written, and not transmitted, before the trip; what is attached to it would take it along."""
    async with connected(tws, gate, PRICES) as ib:
        entry = ib.placeOrder(AAPL, LimitOrder("BUY", 10, 150))
        await told(entry, "Submitted")
        entry.order.totalQuantity, entry.order.transmit = 1000, False
        ib.placeOrder(AAPL, entry.order)
        await trip(cb, gate)
        assert refusal(lambda: ib.placeOrder(AAPL, StopOrder("SELL", 10, 140, parentId=entry.order.orderId)))
        await told(entry, "Cancelled")


async def test_of_exits_of_which_one_cancels_the_others_the_largest_counts(
    tws: PaperExchangeThread, cb: CircuitBreaker, gate: Gate
) -> None:
    async with connected(tws, gate) as ib:
        await trip(cb, gate)
        both: list[Order] = [LimitOrder("SELL", 100, 250), StopOrder("SELL", 100, 150)]
        for order in ib.oneCancelsAll(both, "exits", 1):
            ib.placeOrder(AAPL, order)
        assert "0.0 of it" in refusal(lambda: ib.placeOrder(AAPL, MarketOrder("SELL", 1)))
        ib.reqGlobalCancel()  # type: ignore[no-untyped-call]
        await until(lambda: not ib.openTrades())
        overfills: list[Order] = [LimitOrder("SELL", 100, 250), StopOrder("SELL", 100, 150)]
        first, second = ib.oneCancelsAll(overfills, "may both fill", 3)
        ib.placeOrder(AAPL, first)
        assert "could cross zero" in refusal(lambda: ib.placeOrder(AAPL, second))


async def test_what_is_not_known_any_more_is_no_position(
    tws: PaperExchangeThread, cb: CircuitBreaker, gate: Gate
) -> None:
    async with connected(tws, gate) as ib:
        await trip(cb, gate)
        ib.wrapper.error(-1, 1100, "Connectivity has been lost", "")
        assert "position is not known" in refusal(lambda: ib.placeOrder(AAPL, MarketOrder("SELL", 10)))
        ib.wrapper.error(-1, 1102, "Connectivity has been restored", "")
        assert refusal(lambda: ib.placeOrder(AAPL, MarketOrder("SELL", 10))), "nothing has been read again"
        await until(lambda: ib._live.positions_known and ib._live.orders_known)
        ib.placeOrder(AAPL, MarketOrder("SELL", 10))
        ib.disconnect()
        with pytest.raises(ConnectionError):
            ib.placeOrder(AAPL, MarketOrder("SELL", 10))


async def test_exercises_are_judged_by_what_they_bring_and_lapses_pass(
    tws: PaperExchangeThread, cb: CircuitBreaker, gate: Gate
) -> None:
    option = "AAPL261218C00150000"
    held = f'[[positions]]\nsymbol = "{option}"\nqty = 2\n'
    call = Option("AAPL", "20261218", 150, "C", "SMART", "100", "USD", tradingClass="AAPL")
    async with connected(tws, gate, f"{LONG.replace('TSLA = 100', f'{option} = 50')}{held}") as ib:
        await trip(cb, gate)
        assert "adds to a position of 100" in refusal(lambda: ib.exerciseOptions(call, 1, 1, "", 0))
        assert sent(tws, "TWS 21") == 0
        ib.exerciseOptions(call, 2, 1, "", 0)
        await until(lambda: sent(tws, "TWS 21") == 1)


async def test_what_an_order_would_cost_may_be_asked(tws: PaperExchangeThread, cb: CircuitBreaker, gate: Gate) -> None:
    async with connected(tws, gate) as ib:
        await trip(cb, gate)
        ib.whatIfOrderAsync(AAPL, MarketOrder("BUY", 10))
        await until(lambda: sent(tws) == 1)
        assert refusal(lambda: ib.placeOrder(AAPL, MarketOrder("BUY", 10, whatIf=1)))


async def test_orders_that_wait_in_the_throttle_do_not_leave_after_a_trip(
    tws: PaperExchangeThread, cb: CircuitBreaker, gate: Gate
) -> None:
    async with connected(tws, gate) as ib:
        ib.client.MaxRequests = 1  # from now on everything waits for a second
        buys = [ib.placeOrder(AAPL, LimitOrder("BUY", 1, 150)) for _ in range(20)]
        assert all(trade.orderStatus.status == "PendingSubmit" for trade in buys)
        before = sent(tws)
        await trip(cb, gate)
        ib.client.MaxRequests = 10
        exit_ = ib.placeOrder(AAPL, MarketOrder("SELL", 100))
        await told(exit_, "Filled")
        await until(lambda: all(trade.isDone() or trade.orderStatus.permId for trade in buys))
        refused = [trade for trade in buys if trade.orderStatus.status == "Cancelled"]
        assert len(refused) >= 19 and "TRIPPED" in refused[0].log[-1].message
        assert sent(tws) - before <= 2


async def test_an_order_in_the_throttle_is_judged_by_what_it_said_then(
    tws: PaperExchangeThread, cb: CircuitBreaker, gate: Gate
) -> None:
    async with connected(tws, gate) as ib:
        ib.client.MaxRequests = 1
        trade = ib.placeOrder(AAPL, MarketOrder("SELL", 150))
        trade.order.totalQuantity = 1
        await trip(cb, gate)
        ib.client.MaxRequests = 10
        await told(trade, "Cancelled")
        assert "could cross zero" in trade.log[-1].message
        assert tws.report()["positions"] == {"AAPL": "100"}


async def test_the_rules_are_told_of_orders_errors_latency_and_equity(
    tws: PaperExchangeThread, cb: CircuitBreaker, gate: Gate, redis_client: redis.Redis
) -> None:
    said: list[tuple[Any, ...]] = []

    class Recorder(Rules):
        def __getattribute__(self, name: str) -> Any:
            if name.startswith("record_"):
                return lambda *values, **_: said.append((name, *values))
            return super().__getattribute__(name)

    def count(name: str) -> int:
        return sum(each[0] == name for each in said)

    async with connected(tws, gate, rules=Recorder(redis_client, limits=Limits(api_latency=60))) as ib:
        await until(lambda: count("record_equity") > 0)
        assert next(each for each in said if each[0] == "record_equity")[1] > Decimal(1_000)
        await told(ib.placeOrder(AAPL, LimitOrder("BUY", 1, 150)), "Submitted")
        await until(lambda: count("record_latency") == count("record_order_accepted") == 1)
        ib.placeOrder(AAPL, LimitOrder("BUY", 1, 150.001))
        await until(lambda: count("record_order_rejected") == 1)
        assert count("record_order_sent") == 2 and count("record_api_error") == 0
        ib.wrapper.error(-1, 1100, "Connectivity has been lost", "")
        await until(lambda: count("record_api_error") == 1)
        await trip(cb, gate)
        assert refusal(lambda: ib.placeOrder(AAPL, MarketOrder("BUY", 1)))
    assert count("record_order_rejected") == 1, "what the gate refuses is no rejection of the venue's"


async def test_an_order_of_several_accounts_or_a_hedge_is_refused_unless_trading_is_open(
    tws: PaperExchangeThread, cb: CircuitBreaker, gate: Gate
) -> None:
    async with connected(tws, gate) as ib:
        ib.placeOrder(AAPL, LimitOrder("BUY", 1, 150, hedgeType="D", hedgeParam="1"))
        await trip(cb, gate)
        for more, why in (
            ({"faGroup": "all"}, "several accounts"),
            ({"hedgeType": "D"}, "hedge"),
            ({"scalePriceIncrement": 1.0}, "scale order"),
        ):
            order = MarketOrder("SELL", 1, **more)
            with pytest.raises(OrderRefused, match=why) as refused:
                ib.placeOrder(AAPL, order)
            assert refused.value.decision.reason is Reason.INVALID_ORDER


async def test_no_entry_leaves_later_than_the_gates_bound_after_another_process_has_tripped(
    tws: PaperExchangeThread, cb: CircuitBreaker, redis_server: Any
) -> None:
    """An engine at the full speed that ib_async allows, with a queue of seconds behind its throttle."""
    bound = 2.0
    tripping = (
        "import redis, sys, time; from breaker import CircuitBreaker; "
        "CircuitBreaker(redis.Redis.from_url(sys.argv[1])).trip('MANUAL'); print(time.time())"
    )
    with Gate(redis_server.url, max_staleness=bound) as gate:
        await until(lambda: gate.is_open)
        async with connected(tws, gate) as ib:
            leaving: list[tuple[float, bytes]] = []
            socket = ib.client.conn._connection  # type: ignore[attr-defined]  # what comes behind the guard
            write = socket.sendMsg

            def record(message: bytes) -> None:
                leaving.append((time.time(), message))
                write(message)

            socket.sendMsg = record
            tripped = subprocess.Popen(
                [sys.executable, "-c", tripping, redis_server.url], stdout=subprocess.PIPE, text=True
            )
            placed = 0
            while gate.status().reason is not Reason.TRIPPED:
                if placed < 400:
                    placed += not refusal(lambda: ib.placeOrder(AAPL, LimitOrder("BUY", 1, 150)))
                await until(lambda: True)
            acknowledged = float(tripped.communicate(timeout=30)[0])
            exit_ = ib.placeOrder(AAPL, MarketOrder("SELL", 100))
            await told(exit_, "Filled")
            await until(lambda: not ib.openTrades() or all(t.orderStatus.permId for t in ib.openTrades()))
            entries = [at for at, message in leaving if b"\0BUY\0" in message]
            assert entries and placed > len(entries), "none waited in the throttle"
            assert max(entries) <= acknowledged + bound
            report = tws.report()
            assert report["orders_created"]["client"] == len(entries) + 1
            assert report["positions"] == {}
