"""Every order that one of ccxt's exchanges is asked for passes the gate, whichever method asks, and at the wire too."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import aiohttp
import ccxt
import ccxt.async_support
import ccxt.pro
import pytest
import redis
import requests.adapters

from breaker import CircuitBreaker
from breaker.engines import OrderRefused, guard_exchange
from breaker.gate import Gate, Reason
from breaker.rules import Limits, Rules
from sandbox.exchange.scenario import parse
from sandbox.exchange.server import PaperExchangeThread
from tests.breaker.engines.ccxt_under_guard import BTC, ETH, FUTURES, HEDGED, SPOT, SPOT_BTC, Face, configured
from tests.helpers import PATIENCE, eventually

POST = "POST /fapi/v1/order"


@pytest.fixture(scope="module")
def thread() -> Iterator[PaperExchangeThread]:
    with PaperExchangeThread() as exchange:
        yield exchange


@pytest.fixture
def venue(thread: PaperExchangeThread) -> Callable[[str], PaperExchangeThread]:
    def start(toml: str) -> PaperExchangeThread:
        thread.restart(parse(toml))
        return thread

    return start


@pytest.fixture
def cb(redis_client: redis.Redis) -> Iterator[CircuitBreaker]:
    breaker = CircuitBreaker(redis_client, quiet_period=600, reset_interval=0)
    breaker.initialize_state()
    yield breaker
    breaker.close()


@pytest.fixture
def gate(cb: CircuitBreaker, redis_server: Any) -> Iterator[Gate]:
    with Gate(redis_server.url, max_staleness=30, heartbeat=0.05) as gate:
        eventually(lambda: gate.is_open)
        yield gate


@pytest.fixture(params=["blocking", "asyncio"])
def face(request: pytest.FixtureRequest) -> Iterator[Face]:
    with asyncio.Runner() as runner:
        face = Face(request.param == "asyncio", runner)
        yield face
        face.close()


@pytest.fixture
def trip(cb: CircuitBreaker, gate: Gate) -> Callable[[], None]:
    def now() -> None:
        cb.trip("MANUAL")
        eventually(lambda: gate.status().reason is Reason.TRIPPED)

    return now


@pytest.fixture
def futures(venue: Callable[[str], PaperExchangeThread], face: Face, gate: Gate) -> Any:
    """Long 0.1 of BTC at a futures account that nets."""
    client = face.guarded("binanceusdm", venue(FUTURES).url, gate, max_age=0)
    client.create_order(BTC, "market", "buy", 0.1)
    return client


def refused(call: Callable[[], Any], why: str = "") -> OrderRefused:
    with pytest.raises(OrderRefused, match=why or None) as error:
        call()
    return error.value


def held(client: Any, symbol: str = BTC) -> float:
    positions = client.fetch_positions([symbol])
    return float(sum(each["contracts"] * (1 if each["side"] == "long" else -1) for each in positions))


# Which methods are guarded


@pytest.mark.parametrize("module", [ccxt, ccxt.async_support, ccxt.pro])
@pytest.mark.parametrize("name", ["alpaca", "binance", "bybit", "coinbase", "deribit", "hyperliquid", "kraken", "okx"])
def test_every_method_that_creates_or_edits_orders_is_guarded(module: Any, name: str, gate: Gate) -> None:
    """Those left out make up a request, and send nothing."""
    kind = getattr(module, name)
    exchange = guard_exchange(kind(), gate)
    found, left_out = 0, set[str]()
    for method in dir(kind):
        words = method.lower()
        if not words.startswith(("create", "edit")) or "order" not in words:
            continue
        found += 1
        if getattr(type(exchange), method) is getattr(kind, method):
            left_out.add(method)
    assert found > 60
    sending = {each for each in left_out if not each.lower().rstrip("s").endswith("request")}
    assert not [each for each in sending if module is ccxt or inspect.iscoroutinefunction(getattr(kind, each))]
    for method in ("close_position", "closePosition", "close_all_positions", "closeAllPositions"):
        assert getattr(type(exchange), method) is not getattr(kind, method)


def test_what_a_later_ccxt_brings_is_guarded_too(gate: Gate) -> None:
    class Later(ccxt.binanceusdm):  # type: ignore[misc]  # ccxt has no types
        def create_iceberg_order(self, symbol: str, side: str, amount: float, params: Any = None) -> Any:
            return self.fapiPrivatePostOrder({})

        def create_pegged_order_ws(self, symbol: str) -> Any:
            return None

    guarded = guard_exchange(Later(), gate)
    for name in ("create_iceberg_order", "createIcebergOrder", "create_pegged_order_ws", "createPeggedOrderWs"):
        assert getattr(type(guarded), name) is not getattr(Later, name)


def test_it_stays_the_same_object_of_its_class(gate: Gate) -> None:
    exchange = ccxt.binanceusdm()
    assert guard_exchange(exchange, gate) is exchange
    assert isinstance(exchange, ccxt.binanceusdm) and type(exchange).__name__ == "binanceusdm"
    assert repr(exchange) == "ccxt.binanceusdm()"
    with pytest.raises(ValueError, match="guarded already"):
        guard_exchange(exchange, gate)
    assert type(ccxt.binanceusdm()) is ccxt.binanceusdm, "and no other is changed"


def test_a_method_put_on_the_object_is_guarded_too(
    gate: Gate, trip: Any, venue: Callable[[str], PaperExchangeThread]
) -> None:
    exchange = configured(ccxt.binanceusdm, venue(FUTURES).url)
    seen: list[Any] = []
    exchange.create_order = lambda symbol, type, side, amount, price=None, params=None: seen.append(symbol)
    guard_exchange(exchange, gate)
    exchange.create_order(BTC, "market", "buy", 1)
    trip()
    refused(lambda: exchange.create_order(BTC, "market", "buy", 1))
    assert seen == [BTC]


# While trading is open


def test_an_open_gate_reads_nothing(futures: Any, thread: PaperExchangeThread) -> None:
    before = thread.report()["requests"]
    for _ in range(3):
        futures.create_order(BTC, "market", "buy", 0.01)
    after = thread.report()["requests"]
    assert {route: count - before.get(route, 0) for route, count in after.items() if count != before.get(route, 0)} == {
        POST: 3
    }


# Futures that net


ADDING = {
    "create_order": (BTC, "market", "buy", 0.01),
    "createOrder": (BTC, "limit", "buy", 0.01, 90_000),
    "create_market_order": (BTC, "buy", 0.01),
    "create_limit_buy_order": (BTC, 0.01, 90_000),
    "createMarketBuyOrder": (BTC, 0.01),
    "create_stop_order": (BTC, "market", "buy", 0.01, None, 99_000),
    "create_stop_limit_order": (BTC, "buy", 0.01, 99_000, 98_000),
    "create_trigger_order": (BTC, "market", "buy", 0.01, None, 99_000),
    "create_take_profit_order": (BTC, "market", "buy", 0.01, None, 90_000),
    "create_trailing_percent_order": (BTC, "market", "buy", 0.01, None, 1),
    "create_post_only_order": (BTC, "limit", "buy", 0.01, 90_000),
    "create_reduce_only_order": (BTC, "market", "buy", 0.01),
    "create_order_with_take_profit_and_stop_loss": (BTC, "market", "buy", 0.01, None, 99_000, 90_000),
    "create_market_buy_order_with_cost": (BTC, 1000),
    "create_orders": ([{"symbol": BTC, "type": "market", "side": "buy", "amount": 0.01}],),
    "create_twap_order": (BTC, "buy", 0.01, 60_000),
}


@pytest.mark.parametrize("method", ADDING)
def test_what_adds_risk_is_refused_however_it_is_asked(
    method: str, futures: Any, trip: Any, thread: PaperExchangeThread
) -> None:
    trip()
    before = thread.report()["requests"]
    decision = refused(lambda: getattr(futures, method)(*ADDING[method])).decision
    assert decision.reason is Reason.TRIPPED
    after = thread.report()["requests"]
    assert {route for route in after if not route.startswith("GET")} <= set(before) and after[POST] == before[POST]


def test_exits_pass_and_never_cross_zero(futures: Any, trip: Any, thread: PaperExchangeThread) -> None:
    trip()
    refused(lambda: futures.create_order(BTC, "market", "sell", 0.11), "could cross zero")
    futures.create_order(BTC, "market", "sell", 0.04)
    futures.create_limit_sell_order(BTC, 0.03, 120_000)
    refused(lambda: futures.create_order(BTC, "market", "sell", 0.04), "0.03 of it not being closed yet")
    futures.cancel_all_orders(BTC)
    futures.create_order("BTCUSDT", "market", "sell", "0.06")
    assert held(futures) == 0
    refused(lambda: futures.create_order(BTC, "market", "sell", 0.001), "no position")
    assert thread.report()["violations"] == []


def test_conditional_orders_count_as_working_unless_all_only_reduce(futures: Any, trip: Any) -> None:
    futures.create_order(BTC, "market", "sell", 0.1, None, {"triggerPrice": 80_000})
    trip()
    refused(lambda: futures.create_order(BTC, "market", "sell", 0.1), "could cross zero")
    futures.cancel_all_orders(BTC, {"trigger": True})
    futures.create_order(BTC, "market", "sell", 0.1, None, {"stopLossPrice": 80_000, "reduceOnly": True})
    futures.create_order(BTC, "market", "sell", 0.1, None, {"reduceOnly": True})
    assert held(futures) == 0


def test_several_orders_pass_whole_or_not_at_all(futures: Any, trip: Any, thread: PaperExchangeThread) -> None:
    futures.create_order(ETH, "market", "sell", 1)
    trip()
    exits = [
        {"symbol": BTC, "type": "market", "side": "sell", "amount": 0.05},
        {"symbol": ETH, "type": "market", "side": "buy", "amount": 1},
    ]
    entry = {"symbol": ETH, "type": "market", "side": "buy", "amount": 1}
    refused(lambda: futures.create_orders([*exits, entry]))
    assert held(futures) == 0.1, "and nothing of it went"
    futures.create_orders(exits)
    assert (held(futures), held(futures, ETH)) == (0.05, 0)


def test_an_order_that_the_venue_refuses_is_free_again(futures: Any, trip: Any) -> None:
    trip()
    with pytest.raises(ccxt.BaseError) as error:
        futures.create_order(BTC, "limit", "sell", 0.1, 120_000, {"timeInForce": "nonsense"})
    assert not isinstance(error.value, OrderRefused)
    futures.create_order(BTC, "market", "sell", 0.1)
    assert held(futures) == 0


@pytest.mark.parametrize(
    "params",
    [
        {"closePosition": True},
        {"quantity": 5},
        {"symbol": "ETHUSDT"},
        {"side": "BUY"},
        {"positionSide": "sideways"},
        {"reduceOnly": 7},
    ],
)
def test_a_parameter_that_may_change_the_order_is_refused_only_while_halted(
    futures: Any, trip: Any, params: dict[str, Any]
) -> None:
    trip()
    key = next(iter(params))
    assert key in str(refused(lambda: futures.create_order(BTC, "market", "sell", 0.01, None, params)))


def test_a_changed_order_is_judged_by_what_it_adds(futures: Any, trip: Any) -> None:
    exit_ = futures.create_limit_sell_order(BTC, 0.05, 120_000)
    entry = futures.create_limit_buy_order(BTC, 0.05, 80_000)
    trip()
    with pytest.raises(ccxt.ExchangeNotAvailable):  # it has left: the sandbox has no such endpoint
        futures.edit_order(exit_["id"], BTC, "limit", "sell", 0.1, 121_000)
    refused(lambda: futures.edit_order(exit_["id"], BTC, "limit", "sell", 0.2, 121_000))
    refused(lambda: futures.edit_order(entry["id"], BTC, "limit", "buy", 0.05, 94_000))
    refused(lambda: futures.edit_orders([{"id": entry["id"], "symbol": BTC, "type": "limit", "side": "buy",
                                          "amount": 0.06, "price": 80_000}]))  # fmt: skip
    assert [order["price"] for order in futures.fetch_open_orders(BTC)] == [120_000, 80_000]
    futures.cancel_order(entry["id"], BTC)


def test_requests_of_the_exchanges_own_for_orders_are_let_through_only_while_open(
    futures: Any, trip: Any, thread: PaperExchangeThread
) -> None:
    order = {"symbol": "BTCUSDT", "side": "SELL", "type": "MARKET", "quantity": "0.01"}
    futures.fapiPrivatePostOrder(order)
    trip()
    before = thread.report()["requests"][POST]
    refused(lambda: futures.fapiPrivatePostOrder(order), "not one of ccxt's methods")
    refused(lambda: futures.fapiprivate_post_order(order))
    refused(lambda: futures.request("order", "fapiPrivate", "POST", order))
    refused(lambda: futures.fetch2("order", "fapiPrivate", "POST", order))
    futures.fapiPrivateGetOpenOrders({})
    futures.fapiPrivateDeleteAllOpenOrders({"symbol": "BTCUSDT"})
    assert thread.report()["requests"][POST] == before


def test_the_quiet_period_allows_a_fraction_of_the_normal_size(
    venue: Callable[[str], PaperExchangeThread], face: Face, gate: Gate, trip: Any, cb: CircuitBreaker
) -> None:
    client = face.guarded("binanceusdm", venue(FUTURES).url, gate, normal_quantity={BTC: 1}.get)
    trip()
    cb.reset(reset_by="risk")
    eventually(lambda: gate.status().reason is Reason.QUIET_PERIOD)
    client.create_order(BTC, "market", "buy", 0.05)
    decision = refused(lambda: client.create_order(BTC, "market", "buy", 0.9)).decision
    assert decision.reason is Reason.QUIET_SIZE
    assert refused(lambda: client.create_order(ETH, "market", "buy", 0.1)).decision.reason is Reason.QUIET_SIZE
    assert refused(lambda: client.fapiPrivatePostOrder({})).decision.reason is Reason.QUIET_SIZE


# Hedge mode


def test_each_side_of_a_hedged_symbol_is_judged_by_itself(
    venue: Callable[[str], PaperExchangeThread], face: Face, gate: Gate, trip: Any
) -> None:
    client = face.guarded("binanceusdm", venue(HEDGED).url, gate, max_age=0)
    client.create_order(BTC, "market", "buy", 0.1, None, {"positionSide": "LONG"})
    client.create_order(BTC, "market", "sell", 0.02, None, {"hedged": True})
    trip()
    refused(lambda: client.create_order(BTC, "market", "buy", 0.05, None, {"positionSide": "LONG"}), "adds to")
    refused(lambda: client.create_order(BTC, "market", "buy", 0.05, None, {"positionSide": "SHORT"}), "cross zero")
    refused(lambda: client.create_order(BTC, "market", "sell", 0.05, None, {"hedged": True}), "adds to")
    refused(lambda: client.create_order(BTC, "market", "sell", 0.05), "more than one position")
    client.create_order(BTC, "market", "sell", 0.06, None, {"positionSide": "LONG"})
    client.create_order(BTC, "market", "sell", 0.04, None, {"hedged": True, "reduceOnly": True})
    client.create_order(BTC, "market", "buy", 0.02, None, {"positionSide": "SHORT"})
    assert client.fetch_positions([BTC]) == []


# Spot


@pytest.fixture
def spot(venue: Callable[[str], PaperExchangeThread], face: Face, gate: Gate) -> Any:
    """A wallet with half a BTC."""
    client = face.guarded("binance", venue(SPOT).url, gate, max_age=0)
    client.create_order(SPOT_BTC, "market", "buy", 0.5)
    return client


def test_a_wallet_sells_what_is_free_and_what_a_changed_order_frees(
    spot: Any, trip: Any, thread: PaperExchangeThread
) -> None:
    resting = spot.create_limit_sell_order(SPOT_BTC, 0.3, 110_000)
    trip()
    refused(lambda: spot.create_order(SPOT_BTC, "market", "buy", 0.01), "adds to")
    refused(lambda: spot.create_market_buy_order_with_cost(SPOT_BTC, 100))
    refused(lambda: spot.create_market_order_with_cost(SPOT_BTC, "sell", 100), "amount of money")
    refused(lambda: spot.create_order("ETH/USDT", "market", "buy", 1), "no position")
    refused(lambda: spot.create_order(SPOT_BTC, "market", "sell", 0.21), "cross zero")
    spot.create_order(SPOT_BTC, "market", "sell", 0.2)
    spot.cancel_order(resting["id"], SPOT_BTC)
    spot.create_market_sell_order(SPOT_BTC, 0.3)
    assert spot.fetch_balance()["BTC"]["total"] == 0
    assert thread.report()["violations"] == []


@pytest.mark.parametrize("params", [{"marginMode": "cross"}, {"reduceOnly": True}, {"sideEffectType": "MARGIN_BUY"}])
def test_a_sale_that_may_borrow_is_no_exit_of_a_wallet(spot: Any, trip: Any, params: dict[str, Any]) -> None:
    trip()
    refused(lambda: spot.create_order(SPOT_BTC, "market", "sell", 0.1, None, params), next(iter(params)))


@pytest.mark.parametrize("options", [{"defaultType": "margin"}, {"defaultMarginMode": "cross"}])
def test_an_exchange_set_to_margin_sells_nothing_while_halted(spot: Any, trip: Any, options: dict[str, Any]) -> None:
    spot.exchange.options.update(options)
    trip()
    refused(lambda: spot.create_order(SPOT_BTC, "market", "sell", 0.1), "margin")


# At the wire


def in_the_midst(face: Face, trip: Callable[[], None]) -> Callable[..., Any]:
    """What an exchange calls in the middle of an order, and a trip comes."""
    calls = 0

    def once() -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            trip()

    def now(*_: Any) -> None:
        once()

    async def awaited(*_: Any) -> None:
        await asyncio.to_thread(once)

    return awaited if face.by_await else now


def test_a_trip_while_ccxt_waits_for_its_rate_limit_stops_the_order(
    venue: Callable[[str], PaperExchangeThread], face: Face, gate: Gate, trip: Any
) -> None:
    exchange = venue(FUTURES)
    client = face.of(guard_exchange(face.make("binanceusdm", exchange.url), gate, max_age=0))
    client.load_markets()
    client.exchange.enableRateLimit = True
    client.exchange.throttle = in_the_midst(face, trip)
    refused(lambda: client.create_order(BTC, "market", "buy", 0.1))
    assert POST not in exchange.report()["requests"]


def test_an_exit_asked_for_just_before_a_trip_passes(
    futures: Any, face: Face, trip: Any, thread: PaperExchangeThread
) -> None:
    futures.exchange.enableRateLimit = True
    futures.exchange.throttle = in_the_midst(face, trip)
    futures.create_order(BTC, "market", "sell", 0.1)
    assert held(futures) == 0


def test_a_repeated_request_is_judged_again(
    venue: Callable[[str], PaperExchangeThread], face: Face, gate: Gate, trip: Any
) -> None:
    exchange = venue(FUTURES)
    client = face.guarded("binanceusdm", exchange.url, gate, max_age=0)
    client.load_markets()
    client.exchange.options |= {"maxRetriesOnFailure": 2, "maxRetriesOnFailureDelay": 1}
    client.exchange.sleep = in_the_midst(face, trip)
    exchange.control("trouble", {"kind": "drop", "routes": [POST], "first": 1})
    refused(lambda: client.create_order(BTC, "market", "buy", 0.1))
    assert exchange.report()["requests"][POST] == 1


def test_a_repeated_exit_counts_what_was_sent_before(futures: Any, trip: Any, thread: PaperExchangeThread) -> None:
    """The first answer was lost, and the order filled: sent again it would turn the position over."""
    trip()
    futures.exchange.options |= {"maxRetriesOnFailure": 2, "maxRetriesOnFailureDelay": 1}
    thread.control("trouble", {"kind": "drop", "applied": True, "routes": [POST], "first": 1})
    refused(lambda: futures.create_order(BTC, "market", "sell", 0.06))
    assert held(futures) == 0.04
    assert thread.report()["violations"] == []


def with_slow_connections(face: Face, raw: Any, slow: Callable[..., Any]) -> None:
    if face.by_await:
        face.run(lambda: _with_slow_connections(raw, slow))
    else:
        raw.session = requests.Session()
        raw.session.mount("http://", SlowAdapter(slow))


def test_a_trip_while_a_connection_is_made_stops_the_order(
    venue: Callable[[str], PaperExchangeThread], face: Face, gate: Gate, trip: Any
) -> None:
    exchange = venue(FUTURES)
    raw = face.make("binanceusdm", exchange.url)
    face.of(raw).load_markets()
    with_slow_connections(face, raw, in_the_midst(face, trip))
    client = face.of(guard_exchange(raw, gate, max_age=0))
    refused(lambda: client.create_order(BTC, "market", "buy", 0.1))
    assert POST not in exchange.report()["requests"]


def test_an_exit_passes_though_a_trip_comes_while_its_connection_is_made(
    venue: Callable[[str], PaperExchangeThread], face: Face, gate: Gate, trip: Any
) -> None:
    raw = face.make("binanceusdm", venue(FUTURES).url)
    face.of(raw).create_order(BTC, "market", "buy", 0.1)
    with_slow_connections(face, raw, in_the_midst(face, trip))
    client = face.of(guard_exchange(raw, gate, max_age=0))
    client.create_order(BTC, "market", "sell", 0.1)
    assert held(client) == 0


def test_a_refused_repetition_leaves_the_symbol_to_exits(futures: Any, face: Face, trip: Any, thread: Any) -> None:
    """An entry without an answer counts as on its way, and takes nothing from the position."""
    futures.exchange.options |= {"maxRetriesOnFailure": 2, "maxRetriesOnFailureDelay": 1}
    futures.exchange.sleep = in_the_midst(face, trip)
    thread.control("trouble", {"kind": "drop", "routes": [POST], "first": 1})
    refused(lambda: futures.create_order(BTC, "market", "buy", 0.1))
    futures.create_order(BTC, "market", "sell", 0.1)
    assert held(futures) == 0


async def _with_slow_connections(exchange: Any, slow: Any) -> None:
    await exchange.session.close()
    trace = aiohttp.TraceConfig()
    trace.on_connection_create_start.append(slow)
    exchange.session = aiohttp.ClientSession(trace_configs=[trace])


@pytest.mark.parametrize("lost", [False, True])
def test_an_order_that_left_just_before_a_trip_counts_beside_a_later_close(
    gate: Gate, trip: Any, venue: Callable[[str], PaperExchangeThread], lost: bool
) -> None:
    class Besideusdm(ccxt.binanceusdm):  # type: ignore[misc]  # ccxt has no types
        """Does something while an order of its is on its way."""

        beside: Any = None

        def fetch(self, url: str, method: str = "GET", headers: Any = None, body: Any = None) -> Any:
            if method != "POST" or self.beside is None:
                return super().fetch(url, method, headers, body)
            beside, self.beside = self.beside, None
            beside()
            if lost:
                raise ccxt.RequestTimeout("no answer")
            return super().fetch(url, method, headers, body)

    client = guard_exchange(configured(Besideusdm, venue(FUTURES).url), gate, max_age=0)
    client.load_markets()
    client.create_order(BTC, "market", "buy", 0.1)
    told: list[str] = []

    def close_beside() -> None:
        trip()
        with ThreadPoolExecutor(1) as other:
            told.append(str(refused(lambda: other.submit(client.create_order, BTC, "market", "sell", 0.1).result())))

    client.beside = close_beside
    with pytest.raises(ccxt.RequestTimeout) if lost else contextlib.nullcontext():
        client.create_order(BTC, "market", "sell", 0.06)
    assert "position 0.1, 0.04 of it not being closed yet" in told[0]
    if lost:
        refused(lambda: client.create_order(BTC, "market", "sell", 0.05), "0.04 of it not being closed yet")
    client.create_order(BTC, "market", "sell", 0.04)
    assert held(client) == (0.06 if lost else 0)


class SlowAdapter(requests.adapters.HTTPAdapter):
    def __init__(self, slow: Callable[[], None]) -> None:
        super().__init__()
        pool: Any = self.poolmanager.pool_classes_by_scheme["http"]

        class Connection(pool.ConnectionCls):  # type: ignore[misc]  # the pool's own, whichever that is
            def connect(self) -> None:
                slow()
                super().connect()

        self.poolmanager.pool_classes_by_scheme = {"http": type("Pool", (pool,), {"ConnectionCls": Connection})}


async def test_what_is_sent_by_websocket_is_judged_where_it_is_sent(
    gate: Gate, trip: Any, venue: Callable[[str], PaperExchangeThread]
) -> None:
    exchange = guard_exchange(configured(ccxt.pro.binanceusdm, venue(FUTURES).url), gate, max_age=0)
    await exchange.load_markets()
    connection = exchange.client("ws://127.0.0.1/ws")
    sent: list[Any] = []

    class Socket:
        closed = False

        async def send_str(self, text: str) -> None:
            sent.append(text)
            if len(sent) == 2:
                await asyncio.to_thread(trip)

    connection.connection = Socket()
    connection.connected.resolve(None)
    exchange.urls["api"]["ws"]["ws-api"] = dict.fromkeys(exchange.urls["api"]["ws"]["ws-api"], "ws://127.0.0.1/ws")
    for _ in range(2):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await exchange.create_order_ws(BTC, "market", "buy", 0.01)
    with pytest.raises(OrderRefused):
        await exchange.create_order_ws(BTC, "market", "buy", 0.01)
    with pytest.raises(OrderRefused):
        await exchange.createOrderWs(BTC, "market", "buy", 0.01)
    assert len(sent) == 2
    await exchange.close()


# Trips of another process


TRIP = """
import sys, time
from breaker import CircuitBreaker
import redis
CircuitBreaker(redis.Redis.from_url(sys.argv[1])).trip("MANUAL")
print(time.time())
"""


@pytest.mark.parametrize(
    ("name", "toml", "symbol", "long"),
    [
        ("binanceusdm", FUTURES, BTC, {}),
        ("binanceusdm", HEDGED, BTC, {"positionSide": "LONG"}),
        ("binance", SPOT, SPOT_BTC, {}),
    ],
    ids=["nets", "hedged", "spot"],
)
def test_after_a_trip_of_another_process_no_order_adds_risk_and_exits_pass(
    venue: Callable[[str], PaperExchangeThread],
    face: Face,
    cb: CircuitBreaker,
    redis_server: Any,
    name: str,
    toml: str,
    symbol: str,
    long: dict[str, Any],
) -> None:
    exchange = venue(toml)
    with Gate(redis_server.url, max_staleness=2) as gate:
        eventually(lambda: gate.is_open)
        client = face.guarded(name, exchange.url, gate, max_age=0)
        buys = 0
        other: subprocess.Popen[str] | None = None
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            try:
                client.create_order(symbol, "market", "buy", 0.002, None, long)
            except OrderRefused:
                if cb.is_tripped():
                    break
                continue
            buys += 1
            if buys == 5:
                command = [sys.executable, "-c", TRIP, redis_server.url]
                other = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert other is not None
        acknowledged = float(other.communicate(timeout=PATIENCE)[0])
        for _ in range(20):
            refused(lambda: client.create_order(symbol, "market", "buy", 0.002, None, long))
        orders = client.fetch_orders(symbol, None, 500)
        assert max(order["timestamp"] for order in orders) / 1000 <= acknowledged + 2
        client.create_order(symbol, "market", "sell", 0.008, None, long)
        assert exchange.report()["violations"] == []


# What the rules hear


def test_errors_of_the_api_trip_and_refusals_of_the_venue_do_not(
    venue: Callable[[str], PaperExchangeThread], face: Face, gate: Gate, cb: CircuitBreaker, redis_client: redis.Redis
) -> None:
    exchange = venue(FUTURES)
    rules = Rules(redis_client, limits=Limits(api_errors=2, consecutive_rejections=50))
    client = face.guarded("binanceusdm", exchange.url, gate, rules)
    client.load_markets()
    for _ in range(5):
        with pytest.raises(ccxt.BadRequest):
            client.create_order(BTC, "limit", "buy", 0.01, 90_000, {"timeInForce": "nonsense"})
    exchange.control("trouble", {"kind": "503", "first": 3})
    for _ in range(3):
        with pytest.raises(ccxt.ExchangeError, match="-1008"):  # which ccxt takes for a refusal
            client.fetch_balance()
    eventually(cb.is_tripped)
    assert cb.get_status()["trip_reason"] == "API_ERRORS"


def test_rejections_in_a_row_trip(
    venue: Callable[[str], PaperExchangeThread], face: Face, gate: Gate, cb: CircuitBreaker, redis_client: redis.Redis
) -> None:
    rules = Rules(redis_client, limits=Limits(consecutive_rejections=2))
    client = face.guarded("binance", venue(SPOT).url, gate, rules)
    for _ in range(3):
        with pytest.raises(ccxt.InsufficientFunds):
            client.create_order(SPOT_BTC, "market", "sell", 1)
    eventually(cb.is_tripped)


def test_equity_trips_where_the_exchange_says_it_whole(
    venue: Callable[[str], PaperExchangeThread], face: Face, gate: Gate, cb: CircuitBreaker, redis_client: redis.Redis
) -> None:
    exchange = venue(f"{FUTURES}account.cash = 100000\n")
    client = face.guarded("binanceusdm", exchange.url, gate, Rules(redis_client))
    client.create_order(BTC, "market", "buy", 1)
    client.fetch_balance()
    exchange.control("price", {"symbol": "BTCUSDT", "price": 70_000})
    client.fetch_balance()
    eventually(cb.is_tripped)
    assert cb.get_status()["trip_reason"] == "DRAWDOWN"


def test_the_page_of_the_guard_holds_a_program_that_works(
    venue: Callable[[str], PaperExchangeThread],
    cb: CircuitBreaker,
    redis_server: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:
    page = Path("docs/how-to/guard-ccxt.md").read_text()
    program: dict[str, Any] = {"__name__": "program"}
    exec(page.partition("```python\n")[2].partition("```")[0], program)

    def printed() -> str:
        program["trade"](configured(ccxt.binanceusdm, venue(FUTURES).url), redis_server.url)
        return capsys.readouterr().out

    eventually(lambda: printed() == "bought\nsold\n")  # on a busy machine a gate may be closed for a moment
    cb.trip("MANUAL")
    assert printed() == "not bought: TRIPPED\n"
