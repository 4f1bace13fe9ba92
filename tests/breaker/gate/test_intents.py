"""What may be asked of a gate, and what it answers in each state: the table of docs/reference/gate.md, row by row."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from breaker.gate import CancelIntent, Gate, ListKind, OrderIntent, OrderList, Permit, Reason, ReplaceIntent
from breaker.gate.decision import Decision
from breaker.gate.intents import why_malformed
from breaker.gate.judge import judge, judge_permit
from breaker.gate.lease import Lease, ScopeState, ScopeView, StateReading, StoredState
from breaker.gate.order_terms import InvalidOrder
from breaker.gate.quiet_period import OrderRateLimiter, QuietPeriod, QuietPeriodLimits
from breaker.gate.reservations import Reservations
from breaker.gate.risk_reduction import new_risk
from breaker.orders import Order, OrderStatus, OrderType, Position, Side, TimeInForce, Unreadable

QUIET = QuietPeriod(ends=110.0, length=100.0)
"""At 10.0 a tenth of normal size passes."""
LIMITS = QuietPeriodLimits(normal_quantity={"*": Decimal(100)}, orders_per_minute=60)


def lease(state: ScopeState, *more: ScopeView) -> Lease:
    reading = StateReading(StoredState.OPEN, epoch=1, quiet_period=QUIET)
    return Lease(0.2, (ScopeView("global", state, reading), *more), deadline=10.1)


def ask(
    intent: Any,
    state: ScopeState = ScopeState.TRIPPED,
    position: Any = None,
    working: Any = (),
    rate: OrderRateLimiter | None = None,
) -> Decision:
    return judge(lease(state), None, 10.0, intent, position, working, LIMITS, rate or OrderRateLimiter())


def answers(intent: Any, position: Any, working: Any = ()) -> tuple[Reason, Reason, Reason]:
    states = (ScopeState.OPEN, ScopeState.TRIPPED, ScopeState.QUIET_PERIOD)
    open_, tripped, quiet = (ask(intent, state, position, working) for state in states)
    return open_.reason, tripped.reason, quiet.reason


def working(side: str, quantity: int, order_id: str = "w1", symbol: str = "X", **more: Any) -> Order:
    return Order(
        order_id, f"c-{order_id}", symbol, Side(side), Decimal(quantity), Decimal(0), OrderStatus.NEW, OrderType.LIMIT,
        TimeInForce.DAY, **more,
    )  # fmt: skip


def position(symbol: str, quantity: int, side: Any = None) -> Position:
    return Position(symbol, Decimal(quantity), abs(Decimal(quantity)), Decimal(1), position_side=side)


N, T, R, C = Reason.OPEN, Reason.TRIPPED, Reason.REDUCES_RISK, Reason.CANCEL
Q, QS = Reason.QUIET_PERIOD, Reason.QUIET_SIZE
BUY, SELL = OrderIntent("X", "buy", 10), OrderIntent("X", "sell", 10)
LONG_SELL = OrderIntent("X", "sell", 10, position_side="long")
SHORT_BUY = OrderIntent("X", "buy", 10, position_side="short")
HEDGED = [position("X", 10, "long"), position("X", -4, "short")]
CALL, HIGHER_CALL = "AAPL261218C00200000", "AAPL261218C00210000"
SPREAD = [position(CALL, 10), position(HIGHER_CALL, -10)]


@pytest.mark.parametrize(
    ("intent", "held", "orders", "expected"),
    [
        pytest.param(SELL, 10, (), (N, R, R), id="an order that reduces"),
        pytest.param(BUY, 10, (), (N, T, Q), id="an order that adds"),
        pytest.param(OrderIntent("X", "sell", 11), 10, (), (N, T, QS), id="an order that crosses zero"),
        pytest.param(CancelIntent("w1"), None, (), (C, C, C), id="a cancel"),
        pytest.param(CancelIntent(), None, (), (C, C, C), id="a cancel of all"),
        # A replacement: what it adds to the old order, which is no longer counted.
        pytest.param(ReplaceIntent("w1", SELL), 10, [working("sell", 10)], (N, R, R), id="an exit at another price"),
        pytest.param(ReplaceIntent("c-w1", SELL), 10, [working("sell", 4)], (N, R, R), id="an exit made larger"),
        pytest.param(ReplaceIntent("w1", SELL), 8, [working("sell", 8)], (N, T, Q), id="an exit made too large"),
        pytest.param(ReplaceIntent("gone", SELL), 10, [working("sell", 4)], (N, T, Q), id="of an order not listed"),
        pytest.param(
            ReplaceIntent("w1", SELL), 10, [working("sell", 10), working("sell", 5, "w2")], (N, T, Q), id="beside one"
        ),
        pytest.param(ReplaceIntent("w1", BUY), 0, [working("buy", 20)], (N, T, Q), id="an entry at another price"),
        pytest.param(
            ReplaceIntent("w1", BUY, only_quantity=True), 0, [working("buy", 20)], (N, R, R), id="an entry made smaller"
        ),
        pytest.param(
            ReplaceIntent("w1", BUY, only_quantity=True), 0, [working("buy", 5)], (N, T, Q), id="an entry made larger"
        ),
        pytest.param(
            ReplaceIntent("w1", OrderIntent("X", "buy", 40)), 0, [working("buy", 5)], (N, T, QS), id="and by too much"
        ),
        # Lists: whole or not at all.
        pytest.param(OrderList([SELL, SELL]), 20, (), (N, R, R), id="two exits"),
        pytest.param(OrderList([SELL, SELL]), 19, (), (N, T, Q), id="two exits that cross zero together"),
        pytest.param(OrderList([SELL, BUY]), 20, (), (N, T, Q), id="an exit and an entry"),
        pytest.param(OrderList([SELL, OrderIntent("X", "buy", 11)]), 20, (), (N, T, QS), id="one of them too large"),
        pytest.param(OrderList([SELL, SELL], ListKind.OCO), 10, (), (N, R, R), id="an OCO counts once"),
        pytest.param(
            OrderList([SELL, OrderIntent("X", "sell", 12)], ListKind.OCO), 11, (), (N, T, QS), id="an OCO at its larger"
        ),
        pytest.param(
            OrderList([BUY, OrderList([SELL, SELL], ListKind.OCO)], ListKind.OTO), 0, (), (N, T, Q), id="a bracket"
        ),
        # Several legs: each.
        pytest.param(
            OrderList([OrderIntent(HIGHER_CALL, "buy", 10), OrderIntent(CALL, "sell", 10)], ListKind.LEGS),
            SPREAD, (), (N, R, R), id="a spread closed whole",
        ),
        pytest.param(
            OrderList([OrderIntent(HIGHER_CALL, "buy", 10), OrderIntent(CALL, "buy", 10)], ListKind.LEGS),
            SPREAD, (), (N, T, Q), id="one leg that adds",
        ),
        pytest.param(OrderIntent(CALL, "sell", 10), SPREAD, (), (N, T, Q), id="the long leg of a spread first"),
        pytest.param(OrderIntent(HIGHER_CALL, "buy", 10), SPREAD, (), (N, R, R), id="the short leg of a spread first"),
        # Hedge mode: by position side.
        pytest.param(LONG_SELL, HEDGED, (), (N, R, R), id="closes the long position"),
        pytest.param(SHORT_BUY, HEDGED, (), (N, T, Q), id="more than the short position"),
        pytest.param(SELL, HEDGED, (), (N, T, Q), id="does not say which"),
        pytest.param(OrderIntent("X", "sell", 4, position_side="short"), HEDGED, (), (N, T, Q), id="adds to the short"),
        pytest.param(
            LONG_SELL, HEDGED, [working("sell", 10, position_side=None)], (N, T, Q), id="working, on whichever side"
        ),
        pytest.param(
            OrderIntent("X", "buy", 4, position_side="SHORT"), HEDGED, [working("buy", 9, position_side="long")],
            (N, R, R), id="working on the other side",
        ),
        # For an amount of money.
        pytest.param(OrderIntent("X", "buy", notional=500), 0, (), (N, T, QS), id="an amount"),
        pytest.param(OrderIntent("X", "sell", notional=500), 10, (), (N, T, QS), id="an amount, to reduce"),
        pytest.param(
            OrderIntent("X", "sell", notional=500, reduce_only=True), 10, (), (N, R, R), id="an amount, reduce-only"
        ),
        pytest.param(
            OrderIntent("X", "sell", notional=500, reduce_only=True), 10, [working("sell", 1)], (N, T, QS),
            id="an amount, reduce-only, beside an order that is not",
        ),
        pytest.param(
            OrderIntent("X", "sell", notional=500, reduce_only=True), 10, [working("sell", 9, reduce_only=True)],
            (N, R, R), id="an amount, reduce-only, beside one that is",
        ),
        pytest.param(SELL, 10, [working("sell", 1, by_amount=True)], (N, T, Q), id="beside an amount"),
        pytest.param(SELL, 10, [working("buy", 1, by_amount=True)], (N, R, R), id="beside an amount that adds"),
    ],
)  # fmt: skip
def test_what_is_asked_and_what_is_answered(
    intent: Any, held: Any, orders: Any, expected: tuple[Reason, Reason, Reason]
) -> None:
    assert answers(intent, held, orders) == expected


@pytest.mark.parametrize(
    "intent",
    [
        OrderIntent("X", "buy"),
        OrderIntent("X", "buy", notional=0),
        OrderIntent("X", "buy", 1, position_side="up"),
        ReplaceIntent("", SELL),
        ReplaceIntent("w1", OrderIntent("X", "sell", 0)),
        OrderList([]),
        OrderList([SELL, OrderIntent("X", "sell", -1)]),
        OrderList([SELL, CancelIntent("w1")]),
        OrderList([OrderList([SELL, None])]),
        OrderList([SELL], "either"),  # type: ignore[arg-type]
        OrderList("XY"),
    ],
)
def test_what_makes_no_sense_is_known_when_it_is_made_and_refused_in_every_state(intent: Any) -> None:
    assert intent.malformed
    assert ask(intent, ScopeState.OPEN).reason is Reason.INVALID_ORDER
    assert not ask(intent, ScopeState.QUIET_PERIOD, 10)
    assert not ask(intent, ScopeState.TRIPPED, 10)


@settings(deadline=None)
@given(
    st.sampled_from(["X", "", " ", "BTC/USD", 5, None]),
    st.sampled_from(["buy", "SELL", Side.BUY, "hold", None, []]),
    st.sampled_from([1, 0, -1, True, "2", "x", None, Decimal("NaN"), Decimal("sNaN"), Decimal("Infinity"), 0.5, []]),
)
def test_the_short_way_to_make_an_intent_finds_what_the_long_one_does(symbol: Any, side: Any, quantity: Any) -> None:
    @dataclass
    class Alike:
        symbol: Any
        side: Any
        quantity: Any

    assert OrderIntent(symbol, side, quantity).malformed == why_malformed(Alike(symbol, side, quantity))


def test_positions_come_as_a_number_one_all_of_them_or_by_symbol() -> None:
    pair = OrderIntent("BTC/USD", "sell", 5)
    known: list[Any] = [5, "5", position("BTCUSD", 5), [position("ETHUSD", 1), position("BTCUSD", 5)], {"BTCUSD": 5}]
    known += [iter([position("BTCUSD", 5)]), {"BTC/USD": position("BTC/USD", 5)}]
    assert [ask(pair, position=held).reason for held in known] == [R] * len(known)
    not_enough: list[Any] = [None, 4, [], {}, [position("ETHUSD", 9)], {"BTCUSD": None}, [position("BTCUSD", 5)] * 2]
    assert not any(ask(pair, position=held) for held in not_enough)
    both = OrderList([SELL, OrderIntent("Y", "sell", 1)])
    assert ask(both, position={"X": 10, "Y": 1}).reason is R
    assert "bare number" in ask(both, position=10).sentence


def test_one_position_that_can_not_be_read_blocks_its_own_symbol_only() -> None:
    held = [Unreadable("position", "Y", "", "its quantity is empty"), position("X", 10)]
    assert ask(SELL, position=held).reason is R
    assert "not a number" in ask(OrderIntent("Y", "sell", 1), position=held).sentence
    options = [*SPREAD[:1], Unreadable("position", HIGHER_CALL, "", "its quantity is empty")]
    assert "can be read" in ask(OrderIntent(CALL, "sell", 1), position=options).sentence
    assert ask(OrderIntent("MSFT261218C00200000", "sell", 1), position=[*options, position("MSFT261218C00200000", 1)])


def test_working_siblings_count_once_where_they_come_as_a_list() -> None:
    stop, target = working("sell", 6, "w1"), working("sell", 6, "w2")
    exit_order = OrderIntent("X", "sell", 4)
    assert ask(exit_order, position=10, working=[OrderList([stop, target], ListKind.OCO)]).reason is R
    assert not ask(exit_order, position=10, working=[stop, target])


def test_a_list_belongs_to_the_breakers_of_each_of_its_orders() -> None:
    alpha = ScopeView("account:ALPHA", ScopeState.TRIPPED, StateReading(StoredState.TRIPPED, epoch=1))
    orders = [OrderIntent("X", "buy", 1, account=name) for name in ("BETA", "ALPHA")]

    def asked(intent: Any) -> Decision:
        opened = lease(ScopeState.OPEN, alpha)
        return judge(opened, None, 10.0, intent, 0, (), LIMITS, OrderRateLimiter())

    assert asked(orders[0]) and not asked(orders[1])
    assert asked(OrderList(orders)).scope == "account:ALPHA"
    assert asked(ReplaceIntent("w1", orders[1])).scope == "account:ALPHA"
    assert asked(CancelIntent("w1")).reason is C


def test_in_the_quiet_period_each_order_of_a_list_counts_or_none_does() -> None:
    rate = OrderRateLimiter()  # at the start of the ramp, six a minute

    def asked(intent: Any) -> Reason:
        return ask(intent, ScopeState.QUIET_PERIOD, 0, rate=rate).reason

    assert asked(OrderList([BUY] * 7)) is Reason.QUIET_RATE
    assert asked(OrderList([BUY] * 4)) is Q
    assert asked(OrderList([BUY] * 3)) is Reason.QUIET_RATE
    assert asked(OrderList([BUY, OrderIntent("Y", "sell", 10)], ListKind.LEGS)) is Q, "one order"
    assert asked(OrderList([BUY, OrderList([SELL, SELL], ListKind.OCO)], ListKind.OTO)) is Q, "its exits add nothing"
    assert asked(BUY) is Reason.QUIET_RATE


# Reservations


class Reserving:
    """A halted gate's judgement and reservations, on a clock that the test sets."""

    def __init__(self, seconds: float = 10.0) -> None:
        self.reservations = Reservations(seconds)
        self.now = 0.0

    def ask(self, intent: Any, held: Any, orders: Any = (), state: ScopeState = ScopeState.TRIPPED) -> Decision:
        active = self.reservations.active(self.now)
        decision = judge(lease(state), None, self.now, intent, held, orders, LIMITS, OrderRateLimiter(), active)
        return self.reservations.reserve(decision, intent, self.now)


def permit_of(decision: Decision) -> Permit:
    assert decision.permit is not None
    return decision.permit


def test_promise_6_two_full_closes_asked_one_after_the_other_do_not_both_pass() -> None:
    desk = Reserving()
    first = desk.ask(SELL, 10)
    assert first.reason is R
    refused = desk.ask(SELL, 10)
    assert not refused and "10 by orders let through just now (`gate.settle` ends that)" in refused.sentence
    assert desk.ask(OrderIntent("Y", "sell", 10), position("Y", 10)), "another symbol"
    assert desk.ask(OrderIntent("X", "buy", 10), -10), "the other direction"
    desk.reservations.settle(permit_of(first).reservation, 0)
    assert desk.ask(SELL, 10)


def test_a_reservation_ends_with_its_permit_and_the_permit_with_it() -> None:
    desk = Reserving()
    permit = permit_of(desk.ask(SELL, 10))
    assert permit.deadline == 10.0
    tripped = lease(ScopeState.TRIPPED)
    desk.now = 9.999
    assert not desk.ask(SELL, 10)
    assert judge_permit(permit, tripped, None, desk.now, SELL)
    desk.now = 10.0
    assert judge_permit(permit, tripped, None, desk.now, SELL).reason is Reason.PERMIT_EXPIRED
    assert desk.ask(SELL, 10)


def test_what_remains_of_an_order_goes_on_counting() -> None:
    desk = Reserving()
    permit = permit_of(desk.ask(SELL, 10))
    desk.reservations.settle(permit.reservation, "4")
    assert not desk.ask(SELL, 10)
    assert desk.ask(OrderIntent("X", "sell", 6), 10)
    desk.reservations.settle(permit.reservation, 100)
    assert not desk.ask(OrderIntent("X", "sell", 1), 10), "never more than was let through"
    for wrong in (-1, "x", float("nan")):
        with pytest.raises(ValueError, match="what remains is"):
            desk.reservations.settle(permit.reservation, wrong)
    desk.reservations.settle("", 0)
    several = permit_of(desk.ask(OrderList([OrderIntent("Y", "sell", 1)] * 2), {"Y": 2}))
    with pytest.raises(InvalidOrder, match="which remains"):
        desk.reservations.settle(several.reservation, 1)


def test_once_it_is_among_the_working_orders_under_its_name_only_that_counts() -> None:
    desk = Reserving()
    assert desk.ask(OrderIntent("X", "sell", 6, client_order_id="c-w1"), 10)
    assert not desk.ask(OrderIntent("X", "sell", 5, client_order_id="other"), 10)
    partly_filled = working("sell", 2)
    assert desk.ask(OrderIntent("X", "sell", 5, client_order_id="other"), 7, [partly_filled])


def test_a_name_that_an_order_in_another_symbol_has_too_is_not_its_own() -> None:
    desk = Reserving()
    assert desk.ask(OrderIntent("X", "sell", 10, client_order_id="c-w1"), 10)
    assert desk.ask(OrderIntent("Y", "sell", 10, client_order_id="c-w1"), position("Y", 10))
    assert not desk.ask(OrderIntent("X", "sell", 1), 10, [working("sell", 1, symbol="Y")])
    assert not desk.ask(OrderIntent("X", "sell", 10, client_order_id="c-w1"), 10), "nor does asking twice make it two"


def test_a_replacement_on_its_way_and_the_order_that_it_replaces_count_once_at_the_larger() -> None:
    desk = Reserving()
    assert desk.ask(ReplaceIntent("w1", OrderIntent("X", "sell", 6)), 10, [working("sell", 4)])
    assert desk.ask(OrderIntent("X", "sell", 4), 10, [working("sell", 4)])
    assert not desk.ask(OrderIntent("X", "sell", 1), 10, [working("sell", 4)])
    assert not desk.ask(OrderIntent("X", "sell", 1), 10), "nor once the old one is no longer listed"


def test_an_account_has_its_own_reservations_and_an_order_without_one_shares_all() -> None:
    desk = Reserving()
    assert desk.ask(OrderIntent("X", "sell", 10, account="ALPHA"), 10)
    assert desk.ask(OrderIntent("X", "sell", 10, account="BETA"), 10)
    assert not desk.ask(SELL, 10)


def test_what_reduces_within_a_list_in_the_quiet_period_counts_too() -> None:
    desk = Reserving()
    mixed = OrderList([SELL, OrderIntent("Y", "buy", 1)])
    assert desk.ask(mixed, {"X": 10, "Y": 0}, state=ScopeState.QUIET_PERIOD).reason is Q
    assert not desk.ask(SELL, {"X": 10})


@pytest.fixture
def halted() -> Any:
    """A gate that never reaches any Redis: only reductions pass, as while it is tripped."""
    with Gate("redis://127.0.0.1:1/0", report=False) as gate:
        yield gate


def test_of_many_threads_that_close_at_once_one_passes(halted: Gate) -> None:
    passed: list[Decision] = []
    ready = threading.Barrier(8)

    def close() -> None:
        ready.wait(10)
        for _ in range(20):
            passed.extend(decision for decision in [halted.check(SELL, 10)] if decision)

    threads = [threading.Thread(target=close) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(passed) == 1
    permit = permit_of(passed[0])
    assert halted.recheck(permit, SELL)
    halted.settle(permit)
    assert halted.check(SELL, 10)


def test_every_kind_is_answered_by_a_halted_gate_and_by_a_forked_one(halted: Gate) -> None:
    assert halted.check(CancelIntent("1")).reason is C
    assert halted.recheck(permit_of(halted.check(CancelIntent("1"))))
    assert halted.check(OrderList([SELL, SELL], ListKind.OCO), 10).reason is R
    with halted.guard(OrderIntent("Z", "sell", 1), 1) as permit:
        assert permit.reservation
    halted._reservations.lock.acquire()  # as another thread of the parent may have at that moment
    child = os.fork()
    if child == 0:
        asked: list[bool] = []
        thread = threading.Thread(target=lambda: asked.append(bool(halted.check(SELL, 10))))
        thread.start()
        thread.join(10)
        os._exit(0 if asked == [False] and halted.check(CancelIntent("1")) else 1)
    halted._reservations.lock.release()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_time_that_makes_no_sense_is_refused() -> None:
    for seconds in (0, -1, 601, float("nan")):
        with pytest.raises(ValueError, match="reserve_for"):
            Gate("redis://127.0.0.1:1/0", reserve_for=seconds)


def test_an_odd_position_is_refused() -> None:
    for held in (True, {"X": "a lot"}, object(), float("nan"), [position("X", 10, "up")], [position("X", -10, "long")]):
        assert not ask(LONG_SELL, position=held)
        assert not ask(SELL, position=held)


# What of an intent adds risk, which is all that a quiet period limits


def added(intent: Any, held: Any, orders: Any = ()) -> list[tuple[str, str, Decimal | None]]:
    return [(terms.symbol, str(terms.side), terms.quantity) for terms in new_risk(intent, held, orders, ())]


def sell(quantity: Any, symbol: str = "X", **more: Any) -> OrderIntent:
    return OrderIntent(symbol, "sell", quantity, **more)


def buy(quantity: Any, symbol: str = "X", **more: Any) -> OrderIntent:
    return OrderIntent(symbol, "buy", quantity, **more)


@pytest.mark.parametrize(
    ("intent", "held", "orders", "expected"),
    [
        pytest.param(buy(4), 10, (), ["buy 4"], id="an entry"),
        pytest.param(sell(4), 10, (), [], id="an exit"),
        pytest.param(OrderList([sell(10), buy(4)]), 20, (), ["buy 4"], id="an exit and an entry"),
        pytest.param(OrderList([sell(10), sell(9), buy(1)]), 15, (), ["sell 9", "buy 1"], id="exits that are too much"),
        pytest.param(OrderList([sell(10), buy(4)]), "a lot", (), ["sell 10", "buy 4"], id="nobody knows what is held"),
        pytest.param(ReplaceIntent("w1", buy(10)), 0, [working("buy", 4)], ["buy 6"], id="an entry made larger"),
        pytest.param(ReplaceIntent("w1", buy("4.5")), 0, [working("buy", 4)], ["buy 0.5"], id="by less than one"),
        pytest.param(ReplaceIntent("w1", buy(4)), 0, [working("buy", 4)], [], id="at another price"),
        pytest.param(ReplaceIntent("w1", buy("3.5")), 0, [working("buy", 4)], [], id="made smaller"),
        pytest.param(ReplaceIntent("w2", buy(10)), 0, [working("buy", 4)], ["buy 10"], id="of what is not there"),
        pytest.param(
            ReplaceIntent("w1", buy(10)), 0, [working("buy", 4, by_amount=True)], ["buy 10"], id="of an amount of money"
        ),
        pytest.param(
            ReplaceIntent("w1", buy(None, notional=500)), 0, [working("buy", 4)], ["buy None"], id="by an amount"
        ),
        pytest.param(
            OrderList([buy(10), OrderList([sell(10), sell(10)], ListKind.OCO)], ListKind.OTO), 0, (), ["buy 10"],
            id="a bracket",
        ),
        pytest.param(OrderList([buy(10), sell(10)]), 0, (), ["buy 10", "sell 10"], id="no bracket"),
        pytest.param(OrderList([buy(10), sell(12)], ListKind.OTO), 0, (), ["buy 10", "sell 12"], id="exits more"),
        pytest.param(OrderList([buy(10), sell(6), sell(4)], ListKind.OTO), 0, (), ["buy 10"], id="exits in two parts"),
        pytest.param(
            OrderList([buy(10), sell(6), sell(5)], ListKind.OTO), 0, (), ["buy 10", "sell 5"], id="parts that are more"
        ),
        pytest.param(OrderList([buy(10), sell(5, "Y")], ListKind.OTO), {}, (), ["buy 10", "sell 5"], id="in another"),
        pytest.param(OrderList([buy(10), buy(5)], ListKind.OTO), 0, (), ["buy 10", "buy 5"], id="more of the same"),
        pytest.param(
            OrderList([buy(10, position_side="long"), sell(5, position_side="short")], ListKind.OTO), [], (),
            ["buy 10", "sell 5"], id="of the other side",
        ),
        pytest.param(
            OrderList([buy(10), sell(None, notional=5)], ListKind.OTO), 0, (), ["buy 10", "sell None"],
            id="exits for money",
        ),
        pytest.param(
            OrderList([buy(None, notional=5), sell(5)], ListKind.OTO), 0, (), ["buy None", "sell 5"],
            id="entry for money",
        ),
    ],
)  # fmt: skip
def test_what_of_an_intent_adds_risk(intent: Any, held: Any, orders: Any, expected: list[str]) -> None:
    assert [f"{side} {quantity}" for _, side, quantity in added(intent, held, orders)] == expected


# Reductions, where several orders and what the venue holds for them come together

HOLDS = Position("X", Decimal(10), Decimal(4), Decimal(1))
"""Of the 10 the venue holds 6 for orders."""
BY_AMOUNT = working("sell", 4, by_amount=True)


@pytest.mark.parametrize(
    ("intent", "held", "orders", "reduces"),
    [
        pytest.param(sell(4), HOLDS, [working("sell", 6)], True, id="what the venue holds is counted once"),
        pytest.param(sell(5), HOLDS, [working("sell", 6)], False, id="and no less than once"),
        pytest.param(sell(10, reduce_only=True), -10, (), False, id="a reduce-only sale of a short position"),
        pytest.param(buy(10, reduce_only=True), -10, (), True, id="a reduce-only purchase of a short position"),
        pytest.param(
            sell(6, reduce_only=True), 10, [working("sell", 5, reduce_only=True), working("sell", 5, "w2")], False,
            id="reduce-only beside one that is and one that is not",
        ),
        pytest.param(
            ReplaceIntent("w1", sell(10)), Position("X", Decimal(10), Decimal(0), Decimal(1)), [working("sell", 10)],
            True, id="a replacement may take what the venue holds for the old one",
        ),
        pytest.param(
            ReplaceIntent("w1", sell(10)), HOLDS, [working("sell", 10, symbol="Y")], False,
            id="not what it holds for an order in another symbol that has the same name",
        ),
        pytest.param(ReplaceIntent("w1", sell(4)), HOLDS, [BY_AMOUNT], True, id="of an order for an amount of money"),
        pytest.param(
            ReplaceIntent("w1", buy(20), only_quantity=True), 0, [working("buy", 20)], True, id="nothing is changed"
        ),
        pytest.param(
            ReplaceIntent("w1", buy(20), only_quantity=True), 0, [working("buy", 20, by_amount=True)], False,
            id="nobody knows whether an amount of money is more",
        ),
        pytest.param(
            ReplaceIntent("w1", buy(None, notional=9), only_quantity=True), 0, [working("buy", 20)], False,
            id="nor whether it is less",
        ),
        pytest.param(sell(10, CALL), SPREAD, [working("buy", 10, symbol=CALL)], False, id="bought is not held"),
        pytest.param(
            buy(10, HIGHER_CALL), [position(HIGHER_CALL, -10), Unreadable("position", CALL, "", "?")], (), True,
            id="a short leg is bought back beside what can't be read",
        ),
        pytest.param(
            OrderList([buy(10, HIGHER_CALL), sell(10, CALL)]), SPREAD, (), False, id="a spread closed by two orders"
        ),
    ],
)  # fmt: skip
def test_what_reduces_beside_other_orders(intent: Any, held: Any, orders: Any, reduces: bool) -> None:
    decision = ask(intent, position=held, working=orders)
    assert bool(decision) is reduces, decision.sentence
    assert "let through just now" not in decision.sentence


@pytest.mark.parametrize("number", [10, 10.0, "10", Decimal(10)])
def test_a_number_alone_is_no_position_for_a_list_over_two_symbols(number: Any) -> None:
    assert "bare number" in ask(OrderList([sell(1), sell(1, "Y")]), position=number).sentence


def test_what_is_on_its_way_takes_of_what_the_venue_calls_available() -> None:
    desk = Reserving()
    large = Position("X", Decimal(20), Decimal(4), Decimal(1))
    assert desk.ask(sell(3), large)
    assert not desk.ask(sell(2), large)
    assert desk.ask(sell(1), large)


def test_a_replacement_of_what_is_on_its_way_frees_nothing_that_the_venue_holds() -> None:
    desk = Reserving()
    assert desk.ask(sell(4, client_order_id="c1"), HOLDS)
    assert not desk.ask(ReplaceIntent("c1", sell(5)), HOLDS)


def test_a_replacement_under_the_same_name_counts_for_what_it_adds_to_the_order_that_is_listed() -> None:
    desk = Reserving()
    assert desk.ask(ReplaceIntent("c-w1", sell(6, client_order_id="c-w1")), 10, [working("sell", 4)])
    assert not desk.ask(sell(5), 10, [working("sell", 4)])
    assert desk.ask(sell(4), 10, [working("sell", 4)])


def test_an_order_that_has_become_the_only_one_listed_is_no_longer_on_its_way() -> None:
    desk = Reserving()
    assert desk.ask(sell(6, client_order_id="c1"), 10)
    listed = Order(
        "", "c1", "X", Side.SELL, Decimal(6), Decimal(4), OrderStatus.NEW, OrderType.LIMIT, TimeInForce.DAY
    )  # fmt: skip
    assert desk.ask(sell(4), 6, [listed])


def test_a_replacement_on_its_way_takes_nothing_off_an_order_in_another_symbol_of_that_name() -> None:
    desk = Reserving()
    elsewhere = [working("sell", 6, symbol="Y")]
    assert desk.ask(ReplaceIntent("w1", sell(6)), 10, elsewhere)
    assert not desk.ask(sell(5), 10, elsewhere)


def test_a_replacement_on_its_way_of_or_by_an_amount_of_money_leaves_other_symbols_alone() -> None:
    for new, old in ((sell(4), BY_AMOUNT), (sell(None, notional=9, reduce_only=True), working("sell", 4))):
        desk = Reserving()
        assert desk.ask(ReplaceIntent("w1", new), 10, [old])
        assert not desk.ask(sell(1), 10, [old])
        assert desk.ask(sell(1, "Y"), position("Y", 1), [old])
