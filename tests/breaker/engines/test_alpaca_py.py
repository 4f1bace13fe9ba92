"""A guarded alpaca-py client is the client, its orders pass the gate, and the rules are told what became of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
import redis
from alpaca.common.exceptions import APIError
from alpaca.trading.client import TradingClient
from alpaca.trading.enums import OrderClass, OrderSide, PositionIntent, QueryOrderStatus, TimeInForce
from alpaca.trading.requests import (
    ClosePositionRequest,
    LimitOrderRequest,
    OptionLegRequest,
    ReplaceOrderRequest,
    StopLimitOrderRequest,
    StopLossRequest,
    StopOrderRequest,
    TakeProfitRequest,
    TrailingStopOrderRequest,
)

from breaker import CircuitBreaker
from breaker.engines import GuardedTradingClient, OrderRefused
from breaker.gate import Gate, Reason
from sandbox.exchange.server import PaperExchangeThread
from tests.breaker.engines.alpaca_engine import BUY, LONG, SELL, Desk, limit, market, together
from tests.helpers import eventually

OPEN = QueryOrderStatus.OPEN
CALL, PUT = "AAPL261218C00200000", "AAPL261218P00200000"


@pytest.fixture(scope="module")
def exchange() -> Iterator[PaperExchangeThread]:
    with PaperExchangeThread() as running:
        yield running


@pytest.fixture
def cb(redis_client: redis.Redis) -> Iterator[CircuitBreaker]:
    breaker = CircuitBreaker(redis_client, quiet_period=300, reset_interval=0)
    breaker.initialize_state()
    yield breaker
    breaker.close()


@pytest.fixture
def desk(cb: CircuitBreaker, redis_server: Any, exchange: PaperExchangeThread) -> Iterator[Desk]:
    with Gate(redis_server.url, max_staleness=30, heartbeat=0.05) as gate:
        eventually(lambda: gate.is_open)
        yield Desk(cb, gate, exchange).open()


@pytest.fixture
def guarded(desk: Desk) -> Any:
    return desk.client(max_age=0)


# The client as it was


def test_it_is_the_client_and_all_else_of_it_works_as_before(desk: Desk, guarded: Any) -> None:
    assert issubclass(type(guarded), TradingClient)
    assert guarded.get_account().equity == desk.bare.get_account().equity
    assert guarded.get_all_positions() == desk.bare.get_all_positions()
    assert guarded.get_clock().is_open and guarded.get_asset("AAPL").symbol == "AAPL"
    order = guarded.submit_order(limit(BUY, 150, client_order_id="mine"))
    assert guarded.get_order_by_client_id("mine").id == guarded.get_order_by_id(order.id).id == order.id
    assert [each.id for each in guarded.get_orders()] == [order.id]
    guarded.cancel_order_by_id(order.id)
    eventually(lambda: not guarded.get_orders())


def test_a_raw_client_gets_raw_answers(desk: Desk) -> None:
    raw = TradingClient("key", "secret", url_override=desk.exchange.url, raw_data=True)
    guarded = desk.client(bare=raw)
    assert guarded.submit_order(market(BUY))["symbol"] == "AAPL"
    desk.trip()
    with pytest.raises(OrderRefused):
        guarded.submit_order(market(BUY))
    assert guarded.close_position("AAPL")["side"] == "sell"


def test_of_a_client_of_ones_own_the_guarded_one_is_one_too(desk: Desk) -> None:
    class Ours(TradingClient):
        attempts = 0

        def _one_request(self, method: str, url: str, opts: dict[str, Any], retry: int) -> Any:
            self.attempts += 1
            return super()._one_request(method, url, opts, retry)

    guarded = desk.client(bare=Ours("key", "secret", url_override=desk.exchange.url))
    guarded.submit_order(market(BUY))
    assert isinstance(guarded, Ours) and isinstance(guarded, GuardedTradingClient) and guarded.attempts == 1


@pytest.mark.parametrize("what", ["no client", None])
def test_what_is_no_client_is_not_guarded(desk: Desk, what: Any) -> None:
    with pytest.raises(TypeError, match="only a TradingClient"):
        GuardedTradingClient(what, desk.gate)
    with pytest.raises(TypeError, match="not guarded yet"):
        desk.client(bare=desk.client())
    with pytest.raises(ValueError, match="timeout"):
        desk.client(timeout=0)


def test_the_caller_s_client_order_id_stays_and_one_is_made_where_there_is_none(desk: Desk, guarded: Any) -> None:
    request = limit(BUY, 150)
    made = [guarded.submit_order(request).client_order_id for _ in range(2)]
    assert guarded.submit_order(limit(BUY, 150, client_order_id="ours")).client_order_id == "ours"
    assert len({*made}) == 2 and request.client_order_id is None


def test_while_open_nothing_is_read(desk: Desk, guarded: Any) -> None:
    guarded.submit_order(market(BUY))
    order = guarded.submit_order(limit(BUY, 150))
    guarded.replace_order_by_id(order.id, ReplaceOrderRequest(qty=20))
    guarded.close_position("AAPL")
    guarded.cancel_orders()
    assert (desk.requests("GET /v2/orders"), desk.requests("GET /v2/positions")) == (0, 0)


# While halted

TERMS: dict[str, Any] = {"symbol": "AAPL", "time_in_force": TimeInForce.GTC}
ENTRIES = {
    "market": market(BUY),
    "more than is held": market(SELL, 101),
    "notional": market(BUY, None, notional=500),
    "notional, for a sale": market(SELL, None, notional=500),
    "limit": limit(BUY, 150),
    "stop": StopOrderRequest(**TERMS, side=BUY, qty=10, stop_price=250),
    "stop-limit": StopLimitOrderRequest(**TERMS, side=BUY, qty=10, stop_price=250, limit_price=251),
    "trailing": TrailingStopOrderRequest(**TERMS, side=BUY, qty=10, trail_percent=5),
    "bracket": limit(
        BUY, 190, order_class=OrderClass.BRACKET,
        take_profit=TakeProfitRequest(limit_price=250), stop_loss=StopLossRequest(stop_price=150),
    ),
    "bracket that turns the position": market(
        SELL, 100, order_class=OrderClass.BRACKET,
        take_profit=TakeProfitRequest(limit_price=150), stop_loss=StopLossRequest(stop_price=250),
    ),
    "oto": limit(BUY, 190, order_class=OrderClass.OTO, stop_loss=StopLossRequest(stop_price=150)),
    "oco that buys": LimitOrderRequest(
        **TERMS, side=BUY, qty=10, order_class=OrderClass.OCO,
        take_profit=TakeProfitRequest(limit_price=150), stop_loss=StopLossRequest(stop_price=250),
    ),
    "legs": together(
        1,
        OptionLegRequest(symbol=CALL, ratio_qty=1, side=BUY),
        OptionLegRequest(symbol=PUT, ratio_qty=1, position_intent=PositionIntent.SELL_TO_OPEN),
    ),
    "another symbol": market(SELL, 1, symbol="MSFT"),
}  # fmt: skip
EXITS = {
    "market": market(SELL, 100),
    "a fraction": market(SELL, 0.5),
    "limit": limit(SELL, 210),
    "stop": StopOrderRequest(**TERMS, side=SELL, qty=100, stop_price=150),
    "stop-limit": StopLimitOrderRequest(**TERMS, side=SELL, qty=10, stop_price=150, limit_price=149),
    "trailing": TrailingStopOrderRequest(**TERMS, side=SELL, qty=10, trail_price=5),
    "oco": LimitOrderRequest(
        **TERMS, side=SELL, qty=100, order_class=OrderClass.OCO,
        take_profit=TakeProfitRequest(limit_price=250), stop_loss=StopLossRequest(stop_price=150),
    ),
}  # fmt: skip


def test_new_risk_is_refused_whatever_its_kind_and_cancels_pass(desk: Desk, guarded: Any) -> None:
    working = guarded.submit_order(limit(BUY, 150))
    desk.trip()
    for what, request in ENTRIES.items():
        with pytest.raises(OrderRefused) as refused:
            guarded.submit_order(request)
        assert refused.value.decision.reason is Reason.TRIPPED, what
    assert [order.id for order in desk.orders()] == [working.id], "nothing has reached the exchange"
    guarded.cancel_order_by_id(working.id)
    guarded.cancel_orders()
    eventually(lambda: not desk.orders(OPEN))


@pytest.mark.parametrize("what", EXITS)
def test_exits_pass_whatever_their_kind(desk: Desk, guarded: Any, what: str) -> None:
    desk.trip()
    assert guarded.submit_order(EXITS[what]).side is OrderSide.SELL


def test_legs_that_close_pass_together(desk: Desk, guarded: Any) -> None:
    held = f'[[positions]]\nsymbol = "{CALL}"\nqty = -1\n[[positions]]\nsymbol = "{PUT}"\nqty = 1\n'
    desk.open(f"[prices]\nAAPL = 200\n{CALL} = 12\n{PUT} = 9\n" + held)
    desk.trip()
    legs = [
        OptionLegRequest(symbol=CALL, ratio_qty=1, position_intent=PositionIntent.BUY_TO_CLOSE),
        OptionLegRequest(symbol=PUT, ratio_qty=1, side=SELL),
    ]
    with pytest.raises(OrderRefused, match="could cross zero"):
        guarded.submit_order(together(2, *legs))
    guarded.submit_order(together(1, *legs))
    eventually(lambda: not desk.exchange.report()["positions"])


def test_two_full_exits_never_both_pass(desk: Desk) -> None:
    guarded = desk.client(max_age=10)
    desk.trip()
    guarded.submit_order(limit(SELL, 250, 100))
    with pytest.raises(OrderRefused, match="could cross zero"):
        guarded.submit_order(market(SELL, 1))
    with pytest.raises(OrderRefused, match="could cross zero"):
        guarded.close_position("AAPL")
    guarded.cancel_orders()
    guarded.close_position("AAPL")
    eventually(lambda: desk.position() is None)


def test_what_a_bracket_s_two_exits_hold_counts_once(desk: Desk, guarded: Any) -> None:
    desk.open(LONG.replace("100", "200"))
    for _ in range(2):
        guarded.submit_order(EXITS["oco"].model_copy(update={"qty": 50}))
    desk.trip()
    guarded.submit_order(market(SELL, 100))
    with pytest.raises(OrderRefused, match="could cross zero"):
        guarded.submit_order(market(SELL, 1))


def test_a_replacement_may_make_an_exit_of_another_price_and_no_entry_larger(desk: Desk, guarded: Any) -> None:
    exit_, entry = guarded.submit_order(limit(SELL, 250, 60)), guarded.submit_order(limit(BUY, 150, 60))
    desk.trip()
    exit_ = guarded.replace_order_by_id(exit_.id, ReplaceOrderRequest(limit_price=240))
    exit_ = guarded.replace_order_by_id(exit_.id, ReplaceOrderRequest(qty=100))
    with pytest.raises(OrderRefused, match="could cross zero"):
        guarded.replace_order_by_id(exit_.id, ReplaceOrderRequest(qty=101))
    for change in ({"qty": 61}, {"limit_price": 199}, {"qty": 10, "limit_price": 199}, {"time_in_force": "day"}):
        with pytest.raises(OrderRefused):
            guarded.replace_order_by_id(entry.id, ReplaceOrderRequest(**change))
    smaller = guarded.replace_order_by_id(entry.id, ReplaceOrderRequest(qty=10))
    with pytest.raises(OrderRefused, match="not among the open ones"):
        guarded.replace_order_by_id(uuid4(), ReplaceOrderRequest(qty=1))
    assert {(order.side, order.qty) for order in desk.orders(OPEN)} == {(SELL, "100"), (BUY, smaller.qty)}


@pytest.mark.parametrize(
    ("options", "left"),
    [
        (None, None),
        (ClosePositionRequest(qty="30"), "70"),
        (ClosePositionRequest(percentage="25"), "75"),
        (ClosePositionRequest(qty="101"), OrderRefused),
    ],
)
@pytest.mark.parametrize("by", ["symbol", "id"])
def test_a_close_of_a_part_or_of_all_passes(desk: Desk, guarded: Any, options: Any, left: Any, by: str) -> None:
    of = "AAPL" if by == "symbol" else guarded.get_asset("AAPL").id
    desk.trip()
    if left is OrderRefused:
        with pytest.raises(OrderRefused, match="could cross zero"):
            guarded.close_position(of, options)
        return
    guarded.close_position(of, options)
    eventually(lambda: desk.position() == left)


@pytest.mark.parametrize("first", [True, False])
def test_a_close_of_everything_passes_and_counts(desk: Desk, guarded: Any, first: bool) -> None:
    desk.open(LONG + '[[positions]]\nsymbol = "MSFT"\nqty = -5\n')
    guarded.submit_order(limit(SELL, 250, 10))
    desk.trip()
    guarded.close_all_positions(cancel_orders=first)
    eventually(lambda: desk.position("MSFT") is None and desk.position() == (None if first else "100"))


def test_what_is_not_known_to_be_held_is_the_venue_s_to_refuse(desk: Desk, guarded: Any) -> None:
    desk.trip()
    with pytest.raises(APIError, match="position does not exist"):
        guarded.close_position("MSFT")
    desk.open(LONG + '[[trouble]]\nkind = "503"\nroutes = ["GET /v2/positions"]\n')
    with pytest.raises(OrderRefused, match="position is not known"):
        guarded.submit_order(market(SELL, 1))
    guarded.close_position("AAPL")


def test_a_share_of_a_position_that_is_no_number_is_refused(desk: Desk, guarded: Any) -> None:
    desk.trip()
    with pytest.raises(OrderRefused, match="not a number: 'half'"):
        guarded.close_position("AAPL", ClosePositionRequest(percentage="half"))


def test_an_exercise_buys_what_is_not_held(desk: Desk, guarded: Any) -> None:
    desk.trip()
    for contract in (CALL, PUT, uuid4()):
        with pytest.raises(OrderRefused):
            guarded.exercise_options_position(contract)


def test_the_paths_themselves_are_judged_too(desk: Desk, guarded: Any) -> None:
    desk.trip()
    order = {"symbol": "AAPL", "qty": "1", "side": "buy", "type": "market", "time_in_force": "day"}
    for path in ("/orders", "/orders/", "//orders"):
        with pytest.raises(OrderRefused):
            guarded.post(path, order)
    assert not desk.orders()


@pytest.mark.parametrize("halted", [True, False])
def test_what_is_not_understood_is_refused_with_what_it_is(desk: Desk, guarded: Any, halted: bool) -> None:
    if halted:
        desk.trip()
    for data, why in (
        ({"symbol": "AAPL", "qty": 1, "side": "sell", "order_class": "iceberg"}, "'iceberg' is no class of orders"),
        ({"symbol": "AAPL", "qty": 1, "side": "lend"}, "its side is 'lend'"),
        ("symbol=AAPL", "its data are 'symbol=AAPL'"),
        ({"qty": 1, "order_class": "mleg", "legs": [{"side": "sell"}]}, "legs of the order make no sense"),
    ):
        with pytest.raises(OrderRefused, match=why) as refused:
            guarded.post("/orders", data)
        assert refused.value.decision.reason is Reason.INVALID_ORDER
