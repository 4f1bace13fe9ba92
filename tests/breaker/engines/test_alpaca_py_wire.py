"""What leaves a guarded alpaca-py client, when, and what the rules are told of it."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest
import redis
import requests
from alpaca.common.exceptions import APIError
from alpaca.trading.client import TradingClient
from alpaca.trading.requests import ReplaceOrderRequest
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection

from breaker import CircuitBreaker
from breaker.engines import OrderRefused, RulesFeed
from breaker.gate import Gate, Reason
from sandbox.exchange.server import PaperExchangeThread
from tests.breaker.engines.alpaca_engine import BUY, LONG, PRICES, SELL, Desk, Told, limit, market
from tests.helpers import PATIENCE, eventually


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


def between_attempts(monkeypatch: pytest.MonkeyPatch, happen: Callable[[], object]) -> None:
    """In place of the SDK's three seconds."""
    monkeypatch.setattr("alpaca.common.rest.time", SimpleNamespace(sleep=lambda _: happen()))


def as_it_connects(monkeypatch: pytest.MonkeyPatch, happen: Callable[[], object]) -> None:
    """While the next connection is being opened, once."""
    connect = HTTPConnection.connect

    def slowly(connection: HTTPConnection) -> None:
        monkeypatch.setattr(HTTPConnection, "connect", connect)
        happen()
        connect(connection)

    monkeypatch.setattr(HTTPConnection, "connect", slowly)


def trouble(kind: str, *, first: int | None = 1, applied: bool = False, route: str = "POST /v2/orders") -> str:
    times = "" if first is None else f"first = {first}\n"
    return f'[[trouble]]\nkind = "{kind}"\nroutes = ["{route}"]\napplied = {str(applied).lower()}\n{times}'


def test_an_order_that_waits_for_its_next_attempt_when_a_trip_comes_never_leaves(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.open(LONG + trouble("429"))
    between_attempts(monkeypatch, desk.trip)
    with pytest.raises(OrderRefused):
        desk.client().submit_order(market(BUY))
    assert desk.requests("POST /v2/orders") == 1 and not desk.orders()


def test_an_order_that_waits_is_asked_about_though_a_signal_s_handler_sends_meanwhile(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.open(LONG + trouble("429"))
    guarded = desk.client()

    def handle() -> None:
        guarded.close_all_positions()
        desk.trip()

    between_attempts(monkeypatch, handle)
    with pytest.raises(OrderRefused):
        guarded.submit_order(market(BUY))
    assert desk.requests("POST /v2/orders") == 1


def test_an_order_whose_connection_is_being_opened_when_a_trip_comes_never_leaves(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_it_connects(monkeypatch, desk.trip)
    with pytest.raises(OrderRefused):
        desk.client(bare=TradingClient("key", "secret", url_override=desk.exchange.url)).submit_order(market(BUY))
    assert desk.requests("POST /v2/orders") == 0


def test_an_exit_asked_for_before_a_trip_leaves_after_it_and_counts(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    guarded = desk.client(bare=TradingClient("key", "secret", url_override=desk.exchange.url))
    as_it_connects(monkeypatch, desk.trip)
    guarded.submit_order(limit(SELL, 250, 100))
    with pytest.raises(OrderRefused, match="could cross zero"):
        guarded.submit_order(market(SELL, 1))


def test_where_connections_are_the_engine_s_own_it_is_asked_before_each_attempt(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Own(requests.adapters.BaseAdapter):
        def __init__(self) -> None:
            super().__init__()
            self.inner = HTTPAdapter()

        def send(self, *args: Any, **kwargs: Any) -> requests.Response:
            return self.inner.send(*args, **kwargs)

        def close(self) -> None:
            self.inner.close()

    desk.bare._session.mount("http://", Own())
    guarded = desk.client()
    guarded.submit_order(limit(BUY, 150))
    desk.open(LONG + trouble("429"))
    between_attempts(monkeypatch, desk.trip)
    with pytest.raises(OrderRefused):
        guarded.submit_order(market(BUY))
    assert not desk.orders()


def test_what_is_tried_again_is_taken_once(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.open(LONG + trouble("504", applied=True))
    between_attempts(monkeypatch, lambda: None)
    told = Told()
    feed = RulesFeed(told, "alpaca")  # type: ignore[arg-type]
    guarded = desk.client(feed)
    with pytest.raises(APIError, match="client_order_id must be unique"):
        guarded.submit_order(limit(SELL, 250, 100))
    assert len(desk.orders()) == 1
    feed.close()
    assert (told.times("api_error"), told.times("order_rejected")) == (1, 0)
    desk.trip()
    with pytest.raises(OrderRefused, match="could cross zero"):
        guarded.submit_order(market(SELL, 1))


@pytest.mark.parametrize("applied", [True, False])
def test_an_order_without_an_answer_counts_whether_the_venue_lists_it_or_not(desk: Desk, applied: bool) -> None:
    desk.open(LONG + trouble("drop", applied=applied))
    guarded = desk.client(max_age=0)
    with pytest.raises(requests.ConnectionError):
        guarded.submit_order(limit(SELL, 250, 60))
    desk.trip()
    with pytest.raises(OrderRefused, match="40 of it not being closed yet"):
        guarded.submit_order(market(SELL, 41))
    guarded.submit_order(market(SELL, 40))


@pytest.mark.parametrize("halted", [True, False])
def test_what_never_left_is_free_again_at_once(desk: Desk, monkeypatch: pytest.MonkeyPatch, halted: bool) -> None:
    guarded = desk.client(bare=TradingClient("key", "secret", url_override=desk.exchange.url), max_age=10)
    if halted:
        desk.trip()
        with pytest.raises(OrderRefused):  # reads the account
            guarded.submit_order(market(BUY))
        guarded._session.close()

    def refused() -> None:
        raise ConnectionRefusedError

    as_it_connects(monkeypatch, refused)
    with pytest.raises(requests.ConnectionError):
        guarded.submit_order(market(SELL, 90))
    if not halted:
        desk.trip()
    guarded.submit_order(market(SELL, 90))


def test_an_exit_that_the_venue_refuses_is_free_again_at_once(desk: Desk) -> None:
    guarded = desk.client()
    desk.open(LONG + '[[halts]]\nsymbol = "AAPL"\nmode = "reject"\n')
    desk.trip()
    for _ in range(2):
        with pytest.raises(APIError):
            guarded.submit_order(market(SELL, 100))


def test_orders_of_a_breaker_s_own_account_and_strategy_are_held_by_it(
    desk: Desk, redis_client: redis.Redis, redis_server: Any
) -> None:
    scopes = ("account:ALPHA", "strategy:meanrev")
    own = [CircuitBreaker(redis_client, scope=scope) for scope in scopes]
    for breaker in own:
        breaker.initialize_state()
    with Gate(redis_server.url, scopes=scopes, max_staleness=30, heartbeat=0.05) as gate:
        eventually(lambda: gate.is_open)
        desk.gate = gate
        of = {name: desk.client(account=name, strategy=name.lower()) for name in ("ALPHA", "BETA", "MEANREV")}
        own[0].trip("MANUAL")
        own[1].trip("MANUAL")
        eventually(lambda: sum(state == "TRIPPED" for state in gate.status().scopes.values()) == 2)
        for name in ("ALPHA", "MEANREV"):
            with pytest.raises(OrderRefused) as refused:
                of[name].submit_order(market(BUY))
            assert refused.value.decision.scope == scopes[name == "MEANREV"]
        of["BETA"].submit_order(market(BUY))
        order = of["BETA"].submit_order(limit(BUY, 150))
        of["BETA"].replace_order_by_id(order.id, ReplaceOrderRequest(qty=20))
    for breaker in own:
        breaker.close()


def broken(symbol: str) -> Any:
    raise LookupError(symbol)


@pytest.mark.parametrize("normal", [{"AAPL": 100, "*": 1}, {"AAPL": "100"}.get, broken])
def test_in_the_quiet_period_an_order_is_as_large_as_its_normal_size_lets_it(desk: Desk, normal: Any) -> None:
    guarded = desk.client(normal_quantity=normal)
    desk.trip()
    desk.cb.reset(reset_by="ada", reason="only trying out what the breaker does")
    eventually(lambda: desk.gate.status().reason is Reason.QUIET_PERIOD)
    with pytest.raises(OrderRefused) as refused:
        guarded.submit_order(market(BUY, 90))
    assert refused.value.decision.reason is Reason.QUIET_SIZE
    guarded.submit_order(market(SELL, 50))
    if normal is not broken:
        guarded.submit_order(market(BUY, 5))


def test_the_rules_are_told_what_the_client_sees(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.open(LONG + trouble("503") + trouble("drop", route="GET /v2/clock"))
    between_attempts(monkeypatch, lambda: None)
    told = Told()
    feed = RulesFeed(told, "alpaca")  # type: ignore[arg-type]
    guarded = desk.client(feed)
    for _ in range(2):
        try:
            guarded.submit_order(market(BUY))
        except APIError as error:
            assert error.status_code == 503
    with pytest.raises(APIError, match="insufficient buying power"):
        guarded.submit_order(market(BUY, 1_000_000))
    with pytest.raises(requests.ConnectionError):
        guarded.get_clock()
    equity = Decimal(guarded.get_account().equity)
    guarded.cancel_orders()
    guarded.close_all_positions()
    feed.close()
    assert [name for (name,) in told.of("api_error")] == ["alpaca"] * 2
    assert told.of("order_sent") == [("submit_order",)] * 3 + [("cancel",), ("close_all_positions",)]
    assert (told.times("order_accepted"), len(told.of("order_rejected"))) == (2, 1)
    assert "insufficient buying power" in told.of("order_rejected")[0][0]
    assert told.of("equity")[0][0] == equity
    assert all(0 <= seconds < PATIENCE for seconds, _ in told.of("latency")) and told.times("latency") >= 5


TRIP = """
import sys, time, redis
from breaker import CircuitBreaker
client = redis.Redis.from_url(sys.argv[1])
breaker = CircuitBreaker(client)
sys.stdin.readline()
breaker.trip("MANUAL", tripped_by="another process")
print(time.time(), flush=True)
breaker.close()
"""


def test_orders_at_full_speed_end_with_another_process_s_trip(cb: CircuitBreaker, redis_server: Any) -> None:
    """Whatever was asked for later than the bound after the trip was acknowledged is not at the exchange."""
    staleness = 0.2
    accepted: dict[str, float] = {}
    refused_once = [threading.Event() for _ in range(4)]
    over = threading.Event()

    def trade(guarded: Any, refused: threading.Event) -> None:
        while not over.is_set():
            asked = time.time()
            try:
                order = guarded.submit_order(market(BUY, 1))
            except OrderRefused:
                refused.set()
            else:
                accepted[order.client_order_id] = asked

    with PaperExchangeThread() as exchange, Gate(redis_server.url, max_staleness=staleness) as gate:
        desk = Desk(cb, gate, exchange).open("rate_limit = 1000000\n" + PRICES)
        guarded = desk.client()
        process = subprocess.Popen(
            [sys.executable, "-c", TRIP, redis_server.url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert process.stdin is not None and process.stdout is not None
        eventually(lambda: gate.is_open)
        threads = [threading.Thread(target=trade, args=(guarded, each), daemon=True) for each in refused_once]
        for thread in threads:
            thread.start()
        eventually(lambda: len(accepted) >= 20)
        process.stdin.write("\n")
        process.stdin.flush()
        tripped_at = float(process.stdout.readline())
        for each in refused_once:
            assert each.wait(PATIENCE)
        position = int(desk.position() or 0)
        over.set()
        for thread in threads:
            thread.join(PATIENCE)
        at_exchange = {order.client_order_id: order.submitted_at for order in desk.orders()}
        late = datetime.fromtimestamp(tripped_at, UTC) + timedelta(seconds=staleness)
        assert position >= 20 and accepted.keys() <= at_exchange.keys()
        assert all(accepted.get(name, 0.0) <= tripped_at + staleness for name, at in at_exchange.items() if at > late)
        assert sum(at > late for at in at_exchange.values()) <= len(threads), "each had one under way at most"
        guarded.close_all_positions(cancel_orders=True)
        eventually(lambda: desk.position() is None)
    assert process.wait(PATIENCE) == 0
