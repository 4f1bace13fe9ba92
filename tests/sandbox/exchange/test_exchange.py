"""The rules of the exchange, in memory and with a clock in the test's hand."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from breaker.orders import ZERO, OrderType, Side, TimeInForce
from sandbox.exchange.exchange import Exchange
from sandbox.exchange.opening import open_exchange
from sandbox.exchange.orders import OrderClass, OrderRequest, PaperOrder, Status
from sandbox.exchange.refusal import Refusal
from sandbox.exchange.scenario import Session, parse
from sandbox.exchange.venue_record import VenueRecord

Market = Callable[..., Exchange]
PRICES = "[prices]\nAAPL = 200\nMSFT = 400\n"
LONG = PRICES + '[[positions]]\nsymbol = "AAPL"\nqty = 100\n'


def order(side: Side, qty: str, limit: str | None = None, **fields: object) -> OrderRequest:
    terms: dict[str, object] = {
        "symbol": "AAPL",
        "side": side,
        "type": OrderType.MARKET if limit is None else OrderType.LIMIT,
        "time_in_force": TimeInForce.DAY,
        "qty": Decimal(qty),
        "limit_price": None if limit is None else Decimal(limit),
    }
    return OrderRequest(**terms | fields)  # type: ignore[arg-type]


def quantity(exchange: Exchange, symbol: str = "AAPL") -> Decimal:
    position = exchange.book.positions.get(symbol)
    return ZERO if position is None else position.qty


def state(each: PaperOrder) -> tuple[Status, object]:
    return each.status, each.filled_qty


def test_a_fill_waits_for_the_fill_delay(market: Market) -> None:
    exchange = market(PRICES + "[fills]\ndelay = 2\n")
    exchange.submit(order(Side.BUY, "10"))
    exchange.advance(1.9)
    assert quantity(exchange) == 0
    exchange.advance(2)
    assert quantity(exchange) == 10


def test_partial_fills_add_up_in_whole_shares(market: Market) -> None:
    exchange = market(PRICES + "[fills]\npartial_probability = 1\npause = 1\n")
    bought = exchange.submit(order(Side.BUY, "10"))
    exchange.advance(0)
    assert state(bought) == (Status.PARTIALLY_FILLED, 5)
    exchange.advance(100)
    assert state(bought)[0] is Status.FILLED
    pieces = [fill.qty for fill in exchange.book.fills]
    assert len(pieces) > 2
    assert sum(pieces) == 10
    assert all(piece == int(piece) for piece in pieces)


def test_market_orders_fill_worse_by_the_slippage_in_whole_price_steps(market: Market) -> None:
    exchange = market(PRICES + "[fills]\nslippage_bp = 10\n")
    price = exchange.book.prices["AAPL"]
    exchange.submit(order(Side.BUY, "10"))
    exchange.advance(1)
    exchange.submit(order(Side.SELL, "10"))
    exchange.advance(2)
    worse = (price / 1000).quantize(Decimal("0.01"))
    assert [fill.price for fill in exchange.book.fills] == [price + worse, price - worse]


def test_a_stalled_order_stays_partial_until_cancelled(market: Market) -> None:
    exchange = market(PRICES + "[fills]\npartial_probability = 1\nstall_probability = 1\n")
    bought = exchange.submit(order(Side.BUY, "10"))
    exchange.advance(1_000)
    assert state(bought) == (Status.PARTIALLY_FILLED, 5)
    exchange.cancel(bought.id)
    exchange.advance(1_000)
    assert state(bought)[0] is Status.CANCELED
    assert quantity(exchange) == 5


def test_a_limit_fills_when_the_market_comes_to_it(market: Market) -> None:
    exchange = market(PRICES)
    bought = exchange.submit(order(Side.BUY, "10", "190"))
    exchange.advance(10)
    assert state(bought)[0] is Status.NEW
    exchange.matching.set_price("AAPL", Decimal(189))
    exchange.advance(10)
    assert state(bought)[0] is Status.FILLED
    assert exchange.book.fills[-1].price == 189


def test_a_trailing_stop_follows_the_market_and_triggers(market: Market) -> None:
    exchange = market(LONG)
    stop = exchange.submit(order(Side.SELL, "100", type=OrderType.TRAILING_STOP, trail_price=Decimal(10)))
    exchange.matching.set_price("AAPL", Decimal(230))
    exchange.advance(1)
    assert (state(stop)[0], str(stop.stop_price)) == (Status.NEW, "220.00")
    exchange.matching.set_price("AAPL", Decimal(219))
    exchange.advance(2)
    assert state(stop)[0] is Status.FILLED


def test_immediate_or_cancel_and_fill_or_kill(market: Market) -> None:
    exchange = market(PRICES + "[fills]\npartial_probability = 1\n")
    some = exchange.submit(order(Side.BUY, "10", time_in_force=TimeInForce.IOC))
    every = exchange.submit(order(Side.BUY, "10", time_in_force=TimeInForce.FOK))
    none = exchange.submit(order(Side.BUY, "10", "1", time_in_force=TimeInForce.FOK))
    exchange.advance(1)
    assert state(some) == (Status.CANCELED, 5)
    assert (every.status, none.status) == (Status.FILLED, Status.CANCELED)


def test_a_cancel_takes_its_time_and_holds_the_quantity_until_then(market: Market) -> None:
    exchange = market(LONG + "[cancels]\ndelay = 5\n")
    resting = exchange.submit(order(Side.SELL, "60", "300"))
    exchange.cancel(resting.id)
    exchange.advance(4)
    assert state(resting)[0] is Status.PENDING_CANCEL
    assert exchange.book.available(exchange.book.position("AAPL")) == 40
    with pytest.raises(Refusal, match='already in "pending_cancel" state'):
        exchange.cancel(resting.id)
    exchange.advance(5)
    assert state(resting)[0] is Status.CANCELED
    assert exchange.book.available(exchange.book.position("AAPL")) == 100


def test_a_fill_can_win_the_race_against_a_cancel(market: Market) -> None:
    exchange = market(LONG + "[cancels]\ndelay = 5\nrace_probability = 1\n")
    resting = exchange.submit(order(Side.SELL, "60", "300"))
    exchange.cancel(resting.id)
    exchange.advance(5)
    assert state(resting)[0] is Status.FILLED
    assert quantity(exchange) == 40
    assert exchange.record.raced_cancels == 1


def test_a_race_may_fill_a_part(market: Market) -> None:
    exchange = market(LONG + "[cancels]\ndelay = 5\nrace_probability = 1\nrace_fraction = 0.25\n")
    resting = exchange.submit(order(Side.SELL, "60", "300"))
    exchange.cancel(resting.id)
    while not exchange.book.fills:
        exchange.advance(exchange.now + 0.01)
    assert state(resting) == (Status.PENDING_CANCEL, 15)
    exchange.advance(5)
    assert state(resting) == (Status.CANCELED, 15)
    assert quantity(exchange) == 85


@pytest.mark.parametrize(("pending", "then"), [("pending_replace", Status.NEW), ("pending_cancel", Status.CANCELED)])
def test_pending_orders_refuse_cancels_until_they_are_released(market: Market, pending: str, then: Status) -> None:
    exchange = market(f"[book]\norders = 1\n{pending} = 1\n{pending}_for = 30\n")
    (stuck,) = exchange.book.open_orders.values()
    exchange.advance(29)
    with pytest.raises(Refusal, match=pending):
        exchange.cancel(stuck.id)
    exchange.advance(30)
    assert stuck.status is then


def test_a_pending_order_that_filled_meanwhile_is_not_brought_back(market: Market) -> None:
    exchange = market(
        LONG + '[[orders]]\nsymbol = "AAPL"\nside = "sell"\nqty = 5\nlimit_price = 300\n'
        'status = "pending_replace"\nstatus_for = 30\n'
    )
    (stuck,) = exchange.book.open_orders.values()
    exchange.matching.set_price("AAPL", Decimal(301))
    exchange.advance(60)
    assert state(stuck) == (Status.FILLED, 5)
    assert quantity(exchange) == 95
    assert not exchange.book.open_orders


def test_pending_orders_without_an_end_stay(market: Market) -> None:
    exchange = market("[book]\norders = 3\npending_replace = 1\n")
    exchange.cancel_all()
    exchange.advance(1e9)
    assert [each.status for each in exchange.book.open_orders.values()] == [Status.PENDING_REPLACE]


def test_a_halted_symbol_rejects_and_a_held_one_never_fills(market: Market) -> None:
    exchange = market(LONG + '[[halts]]\nsymbol = "AAPL"\nuntil = 10\n[[halts]]\nsymbol = "MSFT"\nmode = "hold"\n')
    with pytest.raises(Refusal, match="trading is halted"):
        exchange.close_position("AAPL")
    held = exchange.submit(order(Side.BUY, "1", symbol="MSFT"))
    exchange.advance(1_000)
    assert state(held)[0] is Status.NEW
    exchange.close_position("AAPL")
    exchange.advance(1_000)
    assert quantity(exchange) == 0
    exchange.matching.resume("MSFT")
    exchange.advance(1_000)
    assert state(held)[0] is Status.FILLED


def test_what_was_accepted_before_a_halt_waits_for_its_end(market: Market) -> None:
    exchange = market(LONG + "[fills]\ndelay = 5\n")
    closing = exchange.close_position("AAPL")
    exchange.matching.halt("AAPL", rejects=True)
    exchange.advance(60)
    assert state(closing)[0] is Status.NEW
    exchange.matching.resume("AAPL")
    exchange.advance(65)
    assert state(closing)[0] is Status.FILLED


def test_a_closed_market_queues_orders_until_the_open(market: Market) -> None:
    exchange = market(LONG + '[market]\nsession = "closed"\nopens_after = 60\n')
    closing = exchange.close_position("AAPL")
    exchange.advance(59)
    assert (state(closing)[0], int(quantity(exchange))) == (Status.ACCEPTED, 100)
    exchange.advance(60)
    assert (state(closing)[0], int(quantity(exchange))) == (Status.FILLED, 0)


def test_day_orders_expire_at_the_close(market: Market) -> None:
    exchange = market(LONG + "[market]\ncloses_after = 60\n")
    day = exchange.submit(order(Side.SELL, "10", "300"))
    lasting = exchange.submit(order(Side.SELL, "10", "300", time_in_force=TimeInForce.GTC))
    exchange.advance(60)
    assert (day.status, lasting.status) == (Status.EXPIRED, Status.NEW)
    assert exchange.matching.session is Session.CLOSED


def test_exits_are_refused_by_rule_for_a_time(market: Market) -> None:
    exchange = market(LONG + '[[exit_refusals]]\nuntil = 10\n[[exit_refusals]]\nfirst = 1\nreason = "buying_power"\n')
    with pytest.raises(Refusal, match="pattern day trading") as refusal:
        exchange.close_position("AAPL")
    assert (refusal.value.status, refusal.value.body["code"]) == (403, 40310100)
    exchange.submit(order(Side.BUY, "1"))
    exchange.advance(10)
    with pytest.raises(Refusal, match="insufficient buying power"):
        exchange.close_position("AAPL")
    exchange.close_position("AAPL")
    exchange.advance(10)
    assert quantity(exchange) == 0


def test_an_exit_may_be_rejected_after_it_was_accepted(market: Market) -> None:
    exchange = market(LONG + "[[exit_refusals]]\nlater = true\n")
    closing = exchange.close_position("AAPL")
    exchange.advance(1)
    assert state(closing)[0] is Status.REJECTED
    assert quantity(exchange) == 100


def test_a_strategy_places_its_order_again_as_often_as_told(market: Market) -> None:
    exchange = market(
        PRICES
        + '[[orders]]\nsymbol = "AAPL"\nside = "buy"\nqty = 5\nlimit_price = 100\nagain = {times = 2, delay = 1}\n'
    )
    for at in (0, 1, 2):
        exchange.advance(at)
        assert len(exchange.book.open_orders) == 1
        exchange.cancel_all()
    exchange.advance(100)
    assert not exchange.book.open_orders


def test_a_fill_arrives_late_once(market: Market) -> None:
    exchange = market(LONG + '[late_fill]\nafter_flat = 3\nsymbol = "MSFT"\nside = "sell"\nqty = 4\n')
    exchange.close_position("AAPL")
    exchange.advance(2.9)
    assert not exchange.book.positions
    exchange.advance(3)
    assert quantity(exchange, "MSFT") == -4
    exchange.close_position("MSFT")
    exchange.advance(1_000)
    assert not exchange.book.positions
    assert exchange.record.times_flat == 2


def test_both_legs_fill_in_a_fast_market_and_turn_the_position(market: Market) -> None:
    exchange = market("[book]\nbrackets = 1\n[brackets]\nboth_fill_at = 5\n")
    ((symbol, before),) = [(p.symbol, p.qty) for p in exchange.book.positions.values()]
    exchange.advance(5)
    assert quantity(exchange, symbol) == -before
    assert not exchange.book.open_orders


def test_a_cancel_may_be_answered_by_both_legs_filling(market: Market) -> None:
    exchange = market("[book]\nbrackets = 1\n[brackets]\nboth_fill_probability = 1\n[cancels]\ndelay = 1\n")
    ((symbol, before),) = [(p.symbol, p.qty) for p in exchange.book.positions.values()]
    exchange.cancel_all()
    exchange.advance(1)
    assert quantity(exchange, symbol) == -before


def test_a_leg_that_fills_cancels_the_other(market: Market) -> None:
    exchange = market("[book]\nbrackets = 1\n")
    profit, loss = exchange.book.open_orders.values()
    exchange.matching.set_price(profit.symbol, profit.limit_price or ZERO)
    exchange.advance(0)
    assert (profit.status, loss.status) == (Status.FILLED, Status.CANCELED)
    assert not exchange.book.positions


def test_what_is_bought_is_paid_for(market: Market) -> None:
    exchange = market(PRICES + "[account]\nequity = 10000\n")
    exchange.submit(order(Side.BUY, "10"))
    exchange.advance(0)
    assert exchange.book.cash == 8_000
    assert exchange.book.equity == 10_000
    exchange.matching.set_price("AAPL", Decimal(210))
    exchange.close_position("AAPL")
    exchange.advance(0)
    assert exchange.book.cash == exchange.book.equity == 10_100


def test_cancelling_an_entry_cancels_its_legs(market: Market) -> None:
    exchange = market(PRICES)
    entry = exchange.submit(
        order(Side.BUY, "10", "150", order_class=OrderClass.BRACKET, take_profit=Decimal(250), stop_loss=Decimal(140))
    )
    assert len(exchange.book.open_orders) == 3
    exchange.cancel(entry.id)
    exchange.advance(0)
    assert {each.status for each in (entry, *entry.legs)} == {Status.CANCELED}


def test_a_one_cancels_other_pair_holds_its_quantity_once(market: Market) -> None:
    exchange = market(LONG)
    pair = exchange.submit(
        order(Side.SELL, "60", "250", order_class=OrderClass.OCO, take_profit=Decimal(250), stop_loss=Decimal(150))
    )
    assert exchange.book.available(exchange.book.position("AAPL")) == 40
    exchange.cancel_all()
    exchange.advance(0)
    assert {each.status for each in (pair, *pair.legs)} == {Status.CANCELED}


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (order(Side.BUY, "0.5", time_in_force=TimeInForce.GTC), "fractional orders must be DAY orders"),
        (order(Side.SELL, "0.5"), "fractional orders cannot be sold short"),
        (order(Side.BUY, "1", extended_hours=True), "extended hours order must be DAY limit orders"),
        (order(Side.BUY, "1", symbol="NOPE"), 'asset "NOPE" not found'),
    ],
)
def test_orders_against_the_rules_are_refused(market: Market, request_: OrderRequest, message: str) -> None:
    exchange = market(PRICES)
    with pytest.raises(Refusal, match=message):
        exchange.submit(request_)
    assert not exchange.book.orders


def test_an_order_that_would_cross_zero_is_refused_unless_the_venue_lets_it(market: Market) -> None:
    with pytest.raises(Refusal, match=r"requested: 101, available: 100"):
        market(LONG).submit(order(Side.SELL, "101"))
    lenient = market("enforce_available = false\n" + LONG)
    lenient.submit(order(Side.SELL, "150"))
    lenient.advance(0)
    assert quantity(lenient) == -50


def test_the_book_is_as_described_and_the_same_for_the_same_seed(market: Market) -> None:
    toml = "[book]\norders = 300\npositions = 100\nbrackets = 5\nshort = 0.3\nfractional = 0.5\nstrategies = 7\n"
    exchange, again, other = market(toml), market(toml), market("seed = 2\n" + toml)
    quantities = [p.qty for p in exchange.book.positions.values()]
    assert len(quantities) == 100
    assert any(q < 0 for q in quantities)
    assert any(q != int(q) for q in quantities)
    assert not any(q < 0 and q != int(q) for q in quantities)
    assert len(exchange.book.open_orders) == 310
    assert sum(each.resubmission is not None for each in exchange.book.open_orders.values()) == 7
    assert exchange.book.positions == again.book.positions
    assert list(exchange.book.orders) == list(again.book.orders)
    assert exchange.book.positions != other.book.positions
    exchange.advance(1_000)
    assert not exchange.book.fills


def test_the_orders_of_a_generated_book_never_hold_more_than_there_is(market: Market) -> None:
    exchange = market("[book]\norders = 500\npositions = 20\nbrackets = 3\nreducing = 1\n")
    for position in exchange.book.positions.values():
        held = [
            each.holds
            for each in exchange.book.open_orders.values()
            if each.symbol == position.symbol and each.side is position.closing_side
        ]
        assert 0 < sum(held) <= abs(position.qty)


def test_a_crowded_timestamp_is_shared_by_as_many_orders_as_told(market: Market) -> None:
    exchange = market("[book]\norders = 90\norders_per_timestamp = 30\n")
    assert len({each.submitted_at for each in exchange.book.open_orders.values()}) == 3


# Whatever happens, the books must balance.

TROUBLED = """
[prices]
AAPL = 200
MSFT = 400
[[positions]]
symbol = "AAPL"
qty = 100
[[positions]]
symbol = "MSFT"
qty = -40
[book]
orders = 10
positions = 4
[fills]
delay = {low = 0, high = 2}
partial_probability = 0.4
stall_probability = 0.1
[cancels]
delay = {low = 0, high = 3}
race_probability = 0.4
race_fraction = 0.7
"""
actions = st.one_of(
    st.tuples(
        st.just("submit"),
        st.sampled_from(["AAPL", "MSFT", "NVDA"]),
        st.sampled_from(list(Side)),
        st.integers(1, 60),
        st.sampled_from([None, 1, 150, 300, 500]),
    ),
    st.tuples(st.just("cancel"), st.integers(0, 50)),
    st.tuples(st.just("replace"), st.integers(0, 50), st.integers(1, 80)),
    st.tuples(st.just("close"), st.sampled_from(["AAPL", "MSFT", "NVDA"]), st.integers(1, 100)),
    st.tuples(st.just("price"), st.sampled_from(["AAPL", "MSFT"]), st.integers(100, 500)),
    st.tuples(st.just("close all"), st.booleans()),
    st.tuples(st.just("wait"), st.floats(0, 4)),
)


def act(exchange: Exchange, action: tuple[object, ...]) -> None:
    open_orders = list(exchange.book.open_orders.values())
    match action:
        case "submit", str(symbol), Side() as side, int(qty), limit:
            exchange.submit(order(side, str(qty), None if limit is None else str(limit), symbol=symbol))
        case "cancel", int(index) if open_orders:
            exchange.cancel(open_orders[index % len(open_orders)].id)
        case "replace", int(index), int(qty) if open_orders:
            exchange.replace(open_orders[index % len(open_orders)].id, qty=Decimal(qty))
        case "close", str(symbol), int(percentage):
            exchange.close_position(symbol, percentage=Decimal(percentage))
        case "price", str(symbol), int(price):
            exchange.matching.set_price(symbol, Decimal(price))
        case "close all", bool(cancel_orders):
            exchange.close_all(cancel_orders=cancel_orders)
        case "wait", float(seconds):
            exchange.advance(exchange.now + seconds)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 10_000), st.lists(actions, max_size=40))
def test_the_books_balance_whatever_happens(seed: int, steps: list[tuple[object, ...]]) -> None:
    exchange = open_exchange(parse(f"seed = {seed}\n{TROUBLED}"), VenueRecord())
    start = {position.symbol: position.qty for position in exchange.book.positions.values()}
    closed: dict[str, tuple[Status, Decimal]] = {}
    for step in [*steps, ("wait", 60.0)]:
        with suppress(Refusal):
            act(exchange, step)
        check_conservation(exchange, start)
        check_holds(exchange)
        check_finality(exchange, closed)


def check_conservation(exchange: Exchange, start: dict[str, Decimal]) -> None:
    expected: dict[str, Decimal] = defaultdict(Decimal, start)
    by_order: dict[str, Decimal] = defaultdict(Decimal)
    for fill in exchange.book.fills:
        expected[fill.symbol] += fill.side.sign * fill.qty
        by_order[fill.order_id] += fill.qty
    assert {s: q for s, q in expected.items() if q} == {p.symbol: p.qty for p in exchange.book.positions.values()}
    assert all(exchange.book.orders[order_id].filled_qty == qty for order_id, qty in by_order.items())
    assert all(ZERO <= each.filled_qty <= each.qty for each in exchange.book.orders.values())


def check_holds(exchange: Exchange) -> None:
    for position in exchange.book.positions.values():
        held = sum(
            (
                each.remaining
                for each in exchange.book.open_orders.values()
                if each.symbol == position.symbol and each.side is position.closing_side
            ),
            ZERO,
        )
        assert exchange.book.available(position) == max(abs(position.qty) - held, ZERO)


def check_finality(exchange: Exchange, closed: dict[str, tuple[Status, Decimal]]) -> None:
    """What is closed stays closed, with what it had filled."""
    now: dict[str, PaperOrder] = {each.id: each for each in exchange.book.orders.values() if not each.is_open}
    for order_id, (status, filled) in closed.items():
        assert (now[order_id].status, now[order_id].filled_qty) == (status, filled)
    closed.update({order_id: (each.status, each.filled_qty) for order_id, each in now.items()})
    assert set(exchange.book.open_orders) == {each.id for each in exchange.book.orders.values() if each.is_open}


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10_000), st.lists(actions, max_size=30))
def test_closing_what_is_available_never_turns_a_position(seed: int, steps: list[tuple[object, ...]]) -> None:
    """On a venue that enforces it, a reducing order never does, whatever else is at work."""
    record = VenueRecord()
    exchange = open_exchange(parse(f"seed = {seed}\n{TROUBLED}"), record)
    for step in steps:
        if step[0] in {"submit", "replace"}:
            continue
        with suppress(Refusal):
            act(exchange, step)
    exchange.advance(exchange.now + 60)
    assert record.as_dict()["violations"] == []
    assert record.as_dict()["sign_changes"] == []
