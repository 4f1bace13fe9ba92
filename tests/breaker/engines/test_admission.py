"""An engine's orders are admitted by what the account holds, which is read only when it matters."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
import redis

from breaker import CircuitBreaker
from breaker.engines import Admission, AsyncAdmission, Book
from breaker.gate import Gate, OrderIntent, OrderRefused, Reason
from tests.helpers import eventually


class Account:
    """An account whose readings are counted."""

    def __init__(self) -> None:
        self.held: dict[str, int] = {"AAPL": 100}
        self.working: list[Any] = []
        self.readings = 0
        self.problem: Exception | None = None

    def read(self) -> Book:
        self.readings += 1
        if self.problem is not None:
            raise self.problem
        return Book(dict(self.held), list(self.working))

    async def read_async(self) -> Book:
        return self.read()


def sell(quantity: int, name: str = "") -> OrderIntent:
    return OrderIntent("AAPL", "sell", quantity, client_order_id=name)


BUY = OrderIntent("AAPL", "buy", 1)


@pytest.fixture
def cb(redis_client: redis.Redis) -> Iterator[CircuitBreaker]:
    breaker = CircuitBreaker(redis_client, quiet_period=0, reset_interval=0)
    breaker.initialize_state()
    yield breaker
    breaker.close()


@pytest.fixture
def gate(cb: CircuitBreaker, redis_server: Any) -> Iterator[Gate]:
    with Gate(redis_server.url, max_staleness=30, heartbeat=0.05) as gate:
        eventually(lambda: gate.is_open)
        yield gate


@pytest.fixture
def account() -> Account:
    return Account()


@pytest.fixture(params=["blocking", "asyncio"])
def admit(request: pytest.FixtureRequest, gate: Gate, account: Account) -> Iterator[Any]:
    """Both admissions behind one face, which believe a reading for ten seconds."""
    if request.param == "blocking":
        yield Admission(gate, account.read, max_age=10)
        return
    with asyncio.Runner() as runner:
        admission = AsyncAdmission(gate, account.read_async, max_age=10)

        def run(method: Callable[..., Any]) -> Callable[..., Any]:
            return lambda *args: runner.run(method(*args))

        yield SimpleNamespace(
            admit=run(admission.admit),
            confirm=run(admission.confirm),
            answered=admission.answered,
            not_sent=admission.not_sent,
            forget=admission.forget,
        )


def trip(cb: CircuitBreaker, gate: Gate) -> None:
    cb.trip("MANUAL")
    eventually(lambda: gate.status().reason is Reason.TRIPPED)


def test_an_open_gate_reads_nothing(admit: Any, account: Account) -> None:
    for _ in range(5):
        admit.admit(BUY)
    assert account.readings == 0


def test_what_can_be_no_order_is_refused_without_a_look_at_the_account(admit: Any, account: Account) -> None:
    with pytest.raises(OrderRefused) as refused:
        admit.admit(OrderIntent("AAPL", "buy", -1))
    assert refused.value.decision.reason is Reason.INVALID_ORDER
    assert account.readings == 0


def test_a_trip_refuses_new_risk_and_lets_exits_pass_with_one_reading(
    admit: Any, account: Account, cb: CircuitBreaker, gate: Gate
) -> None:
    trip(cb, gate)
    for _ in range(3):
        with pytest.raises(OrderRefused, match="adds to a position of 100"):
            admit.admit(BUY)
    admit.admit(sell(60))
    assert account.readings == 1


def test_two_full_closes_never_both_pass(admit: Any, cb: CircuitBreaker, gate: Gate, account: Account) -> None:
    trip(cb, gate)
    first = admit.admit(sell(100))
    admit.answered(first)
    with pytest.raises(OrderRefused, match="could cross zero"):
        admit.admit(sell(1))
    account.held["AAPL"] = 0
    admit.forget()
    with pytest.raises(OrderRefused, match="no position in AAPL"):
        admit.admit(sell(1))


def test_an_order_that_the_venue_answered_counts_once_the_account_is_read_again(
    admit: Any, cb: CircuitBreaker, gate: Gate, account: Account
) -> None:
    trip(cb, gate)
    admit.answered(admit.admit(sell(60)))
    account.held["AAPL"] = 40  # it has filled
    admit.forget()
    admit.admit(sell(40))


def test_an_order_without_an_answer_counts_although_the_account_is_read_again(
    admit: Any, cb: CircuitBreaker, gate: Gate
) -> None:
    trip(cb, gate)
    admit.admit(sell(60))
    admit.forget()
    with pytest.raises(OrderRefused, match="60 by orders let through just now"):
        admit.admit(sell(60))


def test_an_order_that_the_venue_refused_is_free_again_at_once(admit: Any, cb: CircuitBreaker, gate: Gate) -> None:
    trip(cb, gate)
    admit.not_sent(admit.admit(sell(100)))
    admit.admit(sell(100))


def test_an_account_that_cant_be_read_lets_nothing_pass_and_is_not_asked_for_each_order(
    admit: Any, cb: CircuitBreaker, gate: Gate, account: Account
) -> None:
    trip(cb, gate)
    account.problem = TimeoutError("the venue does not answer")
    for _ in range(3):
        with pytest.raises(OrderRefused, match="position is not known") as refused:
            admit.admit(sell(1))
        assert refused.value.__cause__ is account.problem
    assert account.readings == 1


def test_what_was_admitted_before_a_trip_is_judged_anew_at_the_wire(admit: Any, cb: CircuitBreaker, gate: Gate) -> None:
    entry, leaving = admit.admit(BUY), admit.admit(sell(100))
    assert admit.confirm(entry, BUY) is entry
    trip(cb, gate)
    with pytest.raises(OrderRefused):
        admit.confirm(entry, BUY)
    permit = admit.confirm(leaving, sell(100))
    assert permit.reduces
    assert admit.confirm(permit, sell(100)) is permit, "and counts once, however often it is asked about"


def test_many_threads_share_one_reading(cb: CircuitBreaker, gate: Gate, account: Account) -> None:
    admission = Admission(gate, account.read, max_age=10)
    trip(cb, gate)
    start = threading.Barrier(8)

    def one(_: int) -> bool:
        start.wait(30)
        try:
            admission.admit(sell(30))
        except OrderRefused:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        passed = list(pool.map(one, range(8)))
    assert (sum(passed), account.readings) == (3, 1)


@pytest.mark.parametrize("max_age", [-1, 11])
def test_an_age_that_makes_no_sense_is_refused(gate: Gate, account: Account, max_age: float) -> None:
    with pytest.raises(ValueError, match="max_age"):
        Admission(gate, account.read, max_age=max_age)
