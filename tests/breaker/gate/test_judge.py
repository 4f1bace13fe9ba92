"""One order, what is known, a time: yes or no."""

from __future__ import annotations

from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from breaker.gate.decision import EXPIRED, Decision, Permit, Reason
from breaker.gate.intents import ListKind, OrderIntent, OrderList, ReplaceIntent
from breaker.gate.judge import Halt, blanket_decision, judge, judge_permit
from breaker.gate.lease import Lease, ScopeState, ScopeView, StateReading, StoredState
from breaker.gate.quiet_period import OrderRateLimiter, QuietPeriod, QuietPeriodLimits
from breaker.orders import Position

LIMITS = QuietPeriodLimits(normal_quantity={"AAPL": Decimal(100)})


def view(scope: str, state: ScopeState, quiet_period: QuietPeriod | None = None) -> ScopeView:
    return ScopeView(
        scope, state, StateReading(StoredState.OPEN, epoch=1, quiet_period=quiet_period, problem="It is gone.")
    )


def ask(
    order: Any,
    *views: ScopeView,
    position: Any = 0,
    now: float = 10.0,
    deadline: float = 10.1,
    halt: Halt | None = None,
    limits: QuietPeriodLimits = LIMITS,
    rate: OrderRateLimiter | None = None,
) -> Decision:
    return judge(
        Lease(0.2, views, deadline=deadline), halt, now, order, position, (), limits, rate or OrderRateLimiter()
    )


GLOBAL_OPEN = view("global", ScopeState.OPEN)


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        (ScopeState.TRIPPED, Reason.TRIPPED),
        (ScopeState.MISSING, Reason.STATE_MISSING),
        (ScopeState.UNREADABLE, Reason.STATE_UNREADABLE),
        (ScopeState.OUTDATED, Reason.STATE_OUTDATED),
    ],
)
def test_a_halt_lets_only_reductions_through_and_says_why(state: ScopeState, reason: Reason) -> None:
    refused = ask(OrderIntent("AAPL", "buy", 1), view("global", state))
    assert (refused.allowed, refused.reason, refused.scope) == (False, reason, "global")
    assert "no position in AAPL" in refused.sentence
    assert ask(OrderIntent("AAPL", "buy", 1), view("global", state), position=-1).reason is Reason.REDUCES_RISK


def test_a_lease_that_has_run_out_halts_whatever_was_known() -> None:
    order = OrderIntent("AAPL", "buy", 1)
    assert ask(order, GLOBAL_OPEN, deadline=10.1, now=10.0999)
    assert ask(order, GLOBAL_OPEN, deadline=10.1, now=10.1).reason is Reason.STALE
    assert ask(order, GLOBAL_OPEN, halt=Halt(Reason.FORKED, "Forked.")).reason is Reason.FORKED


@pytest.mark.parametrize(
    ("order", "passes"),
    [
        (OrderIntent("AAPL", "buy", 1, account="ALPHA"), False),
        (OrderIntent("AAPL", "buy", 1, account="BETA"), True),
        (OrderIntent("AAPL", "buy", 1), False),
        (OrderIntent("AAPL", "sell", 1, account="ALPHA"), False),
    ],
)
def test_an_order_is_held_by_the_breakers_that_it_belongs_to(order: OrderIntent, passes: bool) -> None:
    assert bool(ask(order, GLOBAL_OPEN, view("account:ALPHA", ScopeState.TRIPPED))) is passes


@pytest.mark.parametrize(
    ("scope", "symbol", "passes"),
    [
        ("symbol:AAPL", "AAPL", False),
        ("symbol:AAPL", "AAPL261218C00200000", False),
        ("symbol:AAPL261218C00200000", "AAPL", True),
        ("symbol:BTCUSD", "BTC/USD", False),
        ("symbol:BRK.B", "BRKB261218P00400000", False),
        ("symbol:AAPL", "AAP", True),
    ],
)
def test_the_breaker_of_a_symbol_holds_every_spelling_of_it_and_the_options_on_it(
    scope: str, symbol: str, passes: bool
) -> None:
    assert bool(ask(OrderIntent(symbol, "buy", 1), GLOBAL_OPEN, view(scope, ScopeState.TRIPPED))) is passes


def test_the_strictest_scope_wins() -> None:
    quiet = view("strategy:s", ScopeState.QUIET_PERIOD, QuietPeriod(ends=100.0, length=100.0))
    order = OrderIntent("AAPL", "buy", 20, account="A", strategy="s")
    assert ask(order, GLOBAL_OPEN, quiet, view("account:A", ScopeState.TRIPPED)).reason is Reason.TRIPPED
    nearly_over = view("account:A", ScopeState.QUIET_PERIOD, QuietPeriod(ends=11.0, length=100.0))
    decision = ask(order, GLOBAL_OPEN, nearly_over, quiet)
    assert (decision.reason, decision.scope) == (Reason.QUIET_SIZE, "strategy:s")
    assert ask(OrderIntent("MSFT", "buy", 20), GLOBAL_OPEN, view("symbol:AAPL", ScopeState.TRIPPED))
    assert ask(order, GLOBAL_OPEN, view("symbol:MSFT", ScopeState.NEVER_INITIALISED))


def test_a_quiet_period_ramps_from_a_tenth_to_all_of_normal_size() -> None:
    quiet = view("global", ScopeState.QUIET_PERIOD, QuietPeriod(ends=110.0, length=100.0))

    def most(now: float) -> int:
        sizes = range(1, 102)
        return max(
            (q for q in sizes if ask(OrderIntent("AAPL", "buy", q), quiet, now=now, deadline=now + 1)), default=0
        )

    assert [most(now) for now in (10.0, 60.0, 109.999, 130.0)] == [10, 55, 99, 100]


def test_a_quiet_period_needs_a_normal_size_and_the_orders_own_wins() -> None:
    quiet = view("global", ScopeState.QUIET_PERIOD, QuietPeriod(ends=110.0, length=None))
    refused = ask(OrderIntent("TSLA", "buy", 1), quiet)
    assert refused.reason is Reason.QUIET_SIZE
    assert "no normal size is known for TSLA" in refused.sentence
    assert ask(OrderIntent("TSLA", "buy", 1, normal_quantity=10), quiet).reason is Reason.QUIET_PERIOD
    assert ask(OrderIntent("TSLA", "buy", 1, normal_quantity="x"), quiet).reason is Reason.INVALID_ORDER
    assert ask(OrderIntent("TSLA", "sell", 5000), quiet, position=5000).reason is Reason.REDUCES_RISK


def test_a_quiet_period_limits_the_rate_of_new_orders_and_of_nothing_else() -> None:
    quiet = view("global", ScopeState.QUIET_PERIOD, QuietPeriod(ends=1e6, length=None))
    rate, limits = OrderRateLimiter(), QuietPeriodLimits(orders_per_minute=30, normal_quantity={"*": Decimal(100)})

    def at(now: float, order: OrderIntent, position: int = 0) -> Decision:
        return ask(order, quiet, now=now, deadline=now + 1, limits=limits, rate=rate, position=position)

    buy = OrderIntent("AAPL", "buy", 1)
    assert [bool(at(10.0 + i, buy)) for i in range(5)] == [True, True, True, False, False]
    assert at(15.0, buy).reason is Reason.QUIET_RATE
    assert at(15.0, OrderIntent("AAPL", "sell", 1), position=1)
    assert at(70.5, buy), "the first of them is a minute ago"


@given(st.floats(0, 200), st.floats(0, 200), st.floats(1, 100))
def test_the_ramp_never_falls(first: float, second: float, length: float) -> None:
    quiet_period, start = QuietPeriod(ends=100.0, length=length), Decimal("0.1")
    earlier, later = sorted((first, second))
    assert start <= quiet_period.fraction(earlier, start) <= quiet_period.fraction(later, start) <= 1


@dataclass
class Hostile:
    """Attributes that are something else than what they should be."""

    symbol: Any
    side: Any
    quantity: Any
    account: Any = None
    normal_quantity: Any = None


anything = st.one_of(
    st.none(), st.text(max_size=5), st.floats(), st.integers(), st.binary(max_size=5), st.lists(st.none())
)


@given(st.builds(Hostile, anything, anything, anything, anything, anything), anything, st.sampled_from(ScopeState))
def test_no_order_or_position_whatever_raises(order: Hostile, position: Any, state: ScopeState) -> None:
    quiet_period = QuietPeriod(100.0, 10.0) if state is ScopeState.QUIET_PERIOD else None
    decision = ask(order, view("global", state, quiet_period), position=position)
    assert decision.reason in Reason
    assert "\n" not in decision.sentence or "\n" in str(order)


NO_ORDERS = [
    (OrderIntent("AAPL", "buy", 0), "quantity is not positive: 0"),
    (OrderIntent("AAPL", "buy", "-0.0"), "quantity is not positive"),
    (OrderIntent("AAPL", "buy", -5), "quantity is not positive: -5"),
    (OrderIntent("AAPL", "buy", float("nan")), "quantity is not finite"),  # type: ignore[arg-type]
    (OrderIntent("AAPL", "buy", Decimal("Infinity")), "quantity is not finite"),
    (OrderIntent("AAPL", "buy", "a lot"), "quantity is not a number"),
    (OrderIntent("AAPL", "buy", True), "quantity is not a number"),
    (OrderIntent("AAPL", "hold", 1), "side is 'hold'"),
    (OrderIntent("AAPL", "", 1), "side is ''"),
    (OrderIntent("", "buy", 1), "names no symbol"),
    (OrderIntent(" / ", "buy", 1), "names no symbol"),
    (Hostile("AAPL", "buy", 0), "quantity is not positive: 0"),
    (Hostile("AAPL", "buy", None), "quantity is not a number"),
    (None, "names no symbol"),
]


@pytest.mark.parametrize(("order", "why"), NO_ORDERS)
def test_what_can_not_be_an_order_is_refused_while_open_too_and_says_why(order: Any, why: str) -> None:
    decision = ask(order, GLOBAL_OPEN)
    assert (decision.allowed, decision.reason, decision.permit) == (False, Reason.INVALID_ORDER, None)
    assert why in decision.sentence and "nothing was sent" in decision.sentence
    assert not ask(order, view("global", ScopeState.TRIPPED), position=-5)


@given(st.builds(Hostile, anything, anything, anything), anything, anything)
def test_an_intent_knows_when_it_is_made_what_its_check_would_find(order: Hostile, symbol: Any, side: Any) -> None:
    for asked in (order, Hostile(symbol, "sell", 3), Hostile("X", side, 3)):
        intent = OrderIntent(asked.symbol, asked.side, asked.quantity)
        assert bool(ask(asked, GLOBAL_OPEN)) is bool(ask(intent, GLOBAL_OPEN)) is (intent.malformed is None)


@pytest.mark.parametrize("fraction", [Decimal("-0.1"), Decimal("1.1")])
def test_limits_that_make_no_sense_are_refused(fraction: Decimal) -> None:
    with pytest.raises(ValueError, match="start_fraction"):
        QuietPeriodLimits(start_fraction=fraction)
    with pytest.raises(ValueError, match="orders_per_minute"):
        QuietPeriodLimits(orders_per_minute=-1)


# What holds for every order, and what was decided before


FORKED = Halt(Reason.FORKED, "Forked.")


def test_one_answer_holds_for_every_order_only_while_all_is_clear_and_until_the_lease_ends() -> None:
    clear = Lease(0.2, (GLOBAL_OPEN, view("account:A", ScopeState.NEVER_INITIALISED)), deadline=10.1)
    passes = blanket_decision(clear, None)
    assert (passes.allowed, passes.deadline) == (True, 10.1)
    assert passes.permit == Permit({"global": 1, "account:A": 1}, 10.1)
    tripped = Lease(0.2, (GLOBAL_OPEN, view("account:A", ScopeState.TRIPPED)), deadline=10.1)
    for refused in (blanket_decision(tripped, None), blanket_decision(clear, FORKED)):
        assert (refused.allowed, refused.permit, refused.deadline) == (False, None, EXPIRED)
    assert blanket_decision(clear, FORKED).reason is Reason.FORKED


def again(
    permit: Permit, *views: ScopeView, now: float = 10.0, order: Any = None, halt: Halt | None = None
) -> Decision:
    return judge_permit(permit, Lease(0.2, views, deadline=10.1), halt, now, order)


def test_a_permit_stands_while_the_breakers_of_its_order_have_not_changed() -> None:
    permit = Permit({"global": 1}, 10.05)
    stands = again(permit, GLOBAL_OPEN)
    assert (stands.allowed, stands.permit) == (True, Permit({"global": 1}, 10.1))
    for decision, reason in (
        (again(Permit({"global": 0}, 10.05), GLOBAL_OPEN), Reason.PERMIT_EXPIRED),
        (again(permit, GLOBAL_OPEN, view("account:A", ScopeState.OPEN)), Reason.PERMIT_EXPIRED),
        (again(permit, GLOBAL_OPEN, now=10.1), Reason.STALE),
        (again(permit, GLOBAL_OPEN, halt=FORKED), Reason.FORKED),
        (again(permit, view("global", ScopeState.TRIPPED)), Reason.TRIPPED),
    ):
        assert (decision.allowed, decision.reason, decision.permit) == (False, reason, None)
    elsewhere = view("account:A", ScopeState.TRIPPED)
    assert again(permit, GLOBAL_OPEN, elsewhere, order=OrderIntent("AAPL", "buy", 1, account="B"))


def test_a_permit_to_reduce_stands_until_its_own_end_whatever_the_breakers_say() -> None:
    permit = Permit({"global": 1}, 10.05, reduces=True)
    tripped = view("global", ScopeState.TRIPPED)
    assert again(permit, tripped, now=10.04)
    over = again(permit, tripped, now=10.05)
    assert (over.allowed, over.reason) == (False, Reason.PERMIT_EXPIRED)


def test_a_state_that_was_never_read_is_being_read_and_not_stale() -> None:
    assert ask(OrderIntent("AAPL", "buy", 1), GLOBAL_OPEN, deadline=EXPIRED).reason is Reason.BEING_READ


def test_what_halts_is_said_in_words() -> None:
    buy, tripped = OrderIntent("AAPL", "buy", 1), view("global", ScopeState.TRIPPED)
    assert "The global breaker is TRIPPED; until its reset" in ask(buy, tripped).sentence
    named = replace(tripped, reading=replace(tripped.reading, trip_reason="MANUAL"))
    assert "The global breaker is TRIPPED (MANUAL); until its reset" in ask(buy, named).sentence
    assert "breaker (epoch 1) that is older" in ask(buy, view("global", ScopeState.OUTDATED)).sentence
    assert ask(buy, view("global", ScopeState.MISSING)).sentence.startswith("It is gone. Until then")


def test_what_passes_as_a_reduction_says_of_what_kind_it_is() -> None:
    tripped = view("global", ScopeState.TRIPPED)
    sell = OrderIntent("AAPL", "sell", 1)
    assert ask(sell, tripped, position=2).sentence == "The order only reduces the position."
    assert "Each order of the list" in ask(OrderList((sell, sell), ListKind.LEGS), tripped, position=2).sentence
    assert "The replacement only" in ask(ReplaceIntent("1", sell), tripped, position=2).sentence


def test_positions_that_come_as_an_iterator_are_read_as_often_as_they_are_needed() -> None:
    held = [Position("AAPL", Decimal(5), Decimal(5), Decimal(1)), Position("MSFT", Decimal(5), Decimal(5), Decimal(1))]
    both = OrderList((OrderIntent("MSFT", "sell", 5), OrderIntent("AAPL", "sell", 5)), ListKind.LEGS)
    assert ask(both, view("global", ScopeState.TRIPPED), position=iter(held)).reason is Reason.REDUCES_RISK


def test_a_scope_of_another_kind_holds_only_orders_that_name_it_or_say_nothing() -> None:
    halted = view("symbol:AAPL", ScopeState.TRIPPED)
    assert ask(OrderIntent("MSFT", "buy", 1), GLOBAL_OPEN, halted)
    named = view("account:BTC/USD", ScopeState.TRIPPED)
    assert ask(OrderIntent("AAPL", "buy", 1, account="BTCUSD"), GLOBAL_OPEN, named)


def test_a_permit_that_knows_nothing_of_a_breaker_does_not_stand_even_at_its_first_epoch() -> None:
    first = replace(GLOBAL_OPEN, reading=StateReading(StoredState.OPEN, epoch=0))
    assert again(Permit({}, 10.05), first).reason is Reason.PERMIT_EXPIRED


def test_a_halt_comes_before_what_is_wrong_with_the_order() -> None:
    assert ask(OrderIntent("AAPL", "hold", 1), view("global", ScopeState.TRIPPED)).reason is Reason.TRIPPED


def test_in_a_quiet_period_each_order_of_a_list_is_held_against_normal_size() -> None:
    quiet = view("global", ScopeState.QUIET_PERIOD, QuietPeriod(ends=110.0, length=None))
    small, large = OrderIntent("AAPL", "buy", 1), OrderIntent("AAPL", "buy", 90)
    assert ask(OrderList((small, large)), quiet).reason is Reason.QUIET_SIZE
    assert not ask(OrderIntent("TSLA", "buy", 1, normal_quantity="x"), quiet).allowed
