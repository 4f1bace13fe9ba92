"""A made-up gate answers as a real one on a real Redis does, whatever it is asked in whatever state."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
import redis
from hypothesis import given, settings
from hypothesis import strategies as st

from breaker import CircuitBreaker, InvalidInput
from breaker.engines import Admission, Book
from breaker.gate import (
    CancelIntent,
    Decision,
    Gate,
    ListKind,
    OrderIntent,
    OrderList,
    OrderRefused,
    Permit,
    QuietPeriodLimits,
    Reason,
    ReplaceIntent,
)
from breaker.testing import FakeGate
from sandbox.embedded_redis import EmbeddedRedis
from tests.helpers import eventually

LIMITS = QuietPeriodLimits(normal_quantity={"AAPL": 105, "*": 55})
"""Quantities are multiples of ten, so that none lies on a border that moves between two questions."""
A_DAY = 86_400.0
STATES = ("open", "tripped", "quiet", "account tripped", "account reset")

QUANTITIES = st.integers(1, 12).map(lambda tens: Decimal(10 * tens))
SYMBOLS = st.sampled_from(["AAPL", "BTC/USD", "BTCUSD", "TSLA"])
ORDERS = st.builds(
    OrderIntent,
    SYMBOLS,
    st.sampled_from(["buy", "sell", "hold"]),
    st.one_of(QUANTITIES, st.just(Decimal(0))),
    st.sampled_from([None, "ALPHA", "BETA"]),
)
QUESTIONS = st.one_of(
    ORDERS,
    ORDERS,
    st.builds(CancelIntent, st.sampled_from(["", "7"])),
    st.builds(ReplaceIntent, st.sampled_from(["7", "8"]), ORDERS, st.booleans()),
    st.builds(OrderList, st.lists(ORDERS, max_size=2), st.sampled_from(ListKind)),
    st.sampled_from([None, "an order", 5]),
)
BOOKS = st.dictionaries(st.sampled_from(["AAPL", "BTCUSD", "TSLA"]), QUANTITIES.map(lambda q: q - 60))
WORKING = st.lists(st.builds(OrderIntent, SYMBOLS, st.sampled_from(["buy", "sell"]), QUANTITIES), max_size=2)
STEPS = st.lists(
    st.tuples(st.sampled_from(STATES), st.lists(st.tuples(QUESTIONS, BOOKS, WORKING), min_size=1, max_size=4)),
    min_size=1,
    max_size=3,
)


@pytest.fixture(scope="module")
def url(redis_server: EmbeddedRedis) -> str:
    return redis_server.url


class Pair:
    """A real gate on a real Redis, and a made-up one, brought into the same states."""

    def __init__(self, url: str) -> None:
        self._client = redis.Redis.from_url(url)
        self._client.flushall()
        self._everywhere, self._account, self._slowly = (
            CircuitBreaker(self._client, scope, quiet_period=period, reset_interval=0)
            for scope, period in (("global", 0), ("account:ALPHA", 0), ("global", A_DAY))
        )
        for breaker in (self._everywhere, self._account):
            breaker.initialize_state()
        scopes = ("account:ALPHA",)
        self.real = Gate(url, scopes=scopes, max_staleness=60, heartbeat=0.05, quiet_limits=LIMITS, report=False)
        self.fake = FakeGate(scopes, quiet_limits=LIMITS)

    def move(self, state: str) -> None:
        if state.startswith("account"):
            self._account.trip("MANUAL")
            self.fake.trip(scope="account:ALPHA")
        else:
            self._everywhere.trip("DRAWDOWN")
            self.fake.trip("DRAWDOWN")
        match state:
            case "open":
                self._everywhere.reset(reset_by="ada")
                self.fake.reset()
            case "quiet":
                self._slowly.reset(reset_by="ada")
                self.fake.cool_down(A_DAY)
            case "account reset":
                self._account.reset(reset_by="ada")
                self.fake.reset(scope="account:ALPHA")
        epochs = {"global": self._everywhere, "account:ALPHA": self._account}
        wanted = {scope: breaker.get_status().epoch for scope, breaker in epochs.items()}
        eventually(lambda: self.real.status().epochs == wanted and self.real.status().reason is not Reason.BEING_READ)

    def close(self) -> None:
        for each in (self.real, self.fake, self._everywhere, self._account, self._slowly, self._client):
            each.close()


def told(decision: Decision) -> tuple[Any, ...]:
    """All that an engine can act on; the real gate's permit ends with its lease, a made-up one's never."""
    permit = decision.permit
    about = None if permit is None else (permit.reduces, bool(permit.reservation))
    return decision.allowed, decision.reason, decision.sentence, decision.scope, about


@settings(max_examples=15)
@given(STEPS)
def test_it_answers_as_a_real_gate_on_a_real_redis(url: str, steps: list[Any]) -> None:
    pair = Pair(url)
    try:
        permits: list[tuple[Permit, Permit, Any]] = []
        for state, questions in steps:
            pair.move(state)
            assert pair.fake.status().reason is pair.real.status().reason
            assert pair.fake.is_open is pair.real.is_open
            for real, fake, order in permits:
                assert told(pair.fake.recheck(fake, order)) == told(pair.real.recheck(real, order))
            for order, book, working in questions:
                expected, answer = pair.real.check(order, book, working), pair.fake.check(order, book, working)
                assert told(answer) == told(expected)
                if answer.permit is not None and expected.permit is not None:
                    permits.append((expected.permit, answer.permit, order))
    finally:
        pair.close()


def test_it_records_what_it_was_asked_and_what_was_settled() -> None:
    gate = FakeGate.tripped("DRAWDOWN")
    sale = OrderIntent("AAPL", "sell", 100)
    first, second = gate.check(sale, position=100), gate.check(sale, position=100)
    assert (bool(first), bool(second)) == (True, False), "both together would be more than is held"
    assert first.permit is not None
    gate.recheck(first.permit, sale)
    gate.settle(first.permit)
    assert bool(gate.check(sale, position=100))
    assert [each.kind for each in gate.asked] == ["check", "check", "recheck", "check"]
    assert [each.order for each in gate.asked] == [sale] * 4
    assert gate.settled == [first.permit]


def test_a_script_moves_on_with_each_question_and_its_last_state_stays() -> None:
    gate = FakeGate.scripted("open", "disconnected", "tripped", "quiet", "open", "tripped")
    order = OrderIntent("AAPL", "buy", 10, normal_quantity=1000)
    reasons = [gate.check(order, position=0).reason for _ in range(7)]
    assert [str(reason) for reason in reasons] == [
        *("OPEN", "NOT_CONNECTED", "TRIPPED", "QUIET_PERIOD", "OPEN", "TRIPPED", "TRIPPED")
    ]
    with pytest.raises(ValueError, match="halted"):
        FakeGate.scripted("halted")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="nothing"):
        FakeGate.scripted()


@pytest.mark.parametrize("state", ["open", "quiet"])
def test_a_state_that_a_script_names_twice_stays(state: Any) -> None:
    gate = FakeGate.scripted(state, state, "tripped")
    order = OrderIntent("AAPL", "buy", 1, normal_quantity=10)
    permit = gate.check(order, 0).permit
    assert permit is not None
    assert gate.recheck(permit, order), "nothing has changed since the check"
    assert gate.recheck(permit, order).reason == "TRIPPED"


def test_as_in_redis_a_reset_while_open_changes_nothing_and_the_first_trip_has_the_reason() -> None:
    gate = FakeGate()
    order = OrderIntent("AAPL", "buy", 1)
    permit = gate.check(order).permit
    assert permit is not None
    gate.reset()
    assert gate.recheck(permit, order)
    gate.trip("DRAWDOWN")
    gate.trip("MANUAL")
    assert "(DRAWDOWN)" in gate.status().sentence


def test_a_quiet_period_lets_a_tenth_of_normal_pass() -> None:
    gate = FakeGate.quiet(normal_quantity=100, seconds=A_DAY)
    assert gate.check(OrderIntent("AAPL", "buy", 10), position=0).reason is Reason.QUIET_PERIOD
    assert gate.check(OrderIntent("AAPL", "buy", 11), position=0).reason is Reason.QUIET_SIZE


def test_without_redis_it_is_closed_and_comes_back_in_the_state_of_now() -> None:
    gate = FakeGate()
    gate.disconnect("Connection reset by peer")
    assert gate.status().problem == "Connection reset by peer"
    assert gate.check(OrderIntent("AAPL", "buy", 1), position=0).reason is Reason.NOT_CONNECTED
    gate.trip()
    assert gate.check(OrderIntent("AAPL", "buy", 1), position=0).reason is Reason.NOT_CONNECTED
    gate.reconnect()
    assert gate.status().reason is Reason.TRIPPED
    gate.reset()
    assert gate.wait_until_open(0)


def test_it_guards_functions_blocks_and_an_accounts_orders() -> None:
    gate = FakeGate()
    sent: list[OrderIntent] = []

    @gate.guard
    def submit(order: OrderIntent) -> None:
        sent.append(order)

    order = OrderIntent("AAPL", "buy", 1)
    submit(order)
    gate.trip()
    with pytest.raises(OrderRefused, match="TRIPPED"):
        submit(order)
    with pytest.raises(OrderRefused), gate.guard(order):
        sent.append(order)
    admission = Admission(gate, lambda: Book({"AAPL": -5}, ()))
    admission.admit(order)
    assert sent == [order]


def test_a_change_is_told_and_nothing_opens_it_once_it_is_closed() -> None:
    gate = FakeGate()
    heard: list[Reason] = []
    gate.on_change(lambda status: heard.append(status.reason))
    gate.trip()
    eventually(lambda: heard == [Reason.TRIPPED])
    gate.close()
    gate.reset()
    assert gate.check(OrderIntent("AAPL", "buy", 1), position=0).reason is Reason.CLOSED
    gate.restart()
    assert gate.is_open
    gate.close()


def test_a_scope_that_it_does_not_watch_is_named() -> None:
    with pytest.raises(ValueError, match="account:BETA"):
        FakeGate(["account:ALPHA"]).trip(scope="account:BETA")
    with pytest.raises(InvalidInput):
        FakeGate(["no scope"])
