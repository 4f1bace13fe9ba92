"""The example order service as the gate's real client: a real Redis, the paper exchange, HTTP from outside."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import redis
import uvicorn

from breaker import CircuitBreaker
from breaker.rules import Limits
from brokers.alpaca import AlpacaBroker
from examples.order_gateway import create_app
from sandbox.embedded_redis import EmbeddedRedis
from sandbox.exchange.scenario import parse
from sandbox.exchange.server import PaperExchange
from tests.helpers import eventually

BOOK = """
[[positions]]
symbol = "AAPL"
qty = "100"
price = "200"
"""


@pytest.fixture
def exchange() -> Iterator[PaperExchange]:
    with PaperExchange(parse(BOOK)) as server:
        yield server


@pytest.fixture
def breaker(redis_client: redis.Redis) -> CircuitBreaker:
    cb = CircuitBreaker(redis_client, quiet_period=0, reset_interval=0)
    cb.initialize_state()
    return cb


@pytest.fixture
def gateway(exchange: PaperExchange, redis_server: EmbeddedRedis, breaker: CircuitBreaker) -> Iterator[httpx.Client]:
    broker = AlpacaBroker("ALPHA", exchange.url, "key", "secret", timeout=0.3)
    app = create_app(redis_server.url, broker, limits=Limits(api_errors=2), equity_every=0.1)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    eventually(lambda: server.started)
    port = server.servers[0].sockets[0].getsockname()[1]
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10) as client:
        yield client
    server.should_exit = True
    thread.join()


def send(gateway: httpx.Client, side: str, quantity: int, **more: Any) -> tuple[int, dict[str, Any]]:
    response = gateway.post("/orders", json={"symbol": "AAPL", "side": side, "quantity": quantity, **more})
    return response.status_code, response.json()


def until_halted(gateway: httpx.Client) -> str:
    eventually(lambda: gateway.get("/health").json()["reason"] == "TRIPPED")
    return str(gateway.get("/health").json()["reason"])


def test_orders_pass_while_open_and_only_reductions_while_tripped(
    gateway: httpx.Client, breaker: CircuitBreaker
) -> None:
    assert send(gateway, "buy", 1)[0] == 201
    breaker.trip("MANUAL", tripped_by="me")
    until_halted(gateway)
    status, refusal = send(gateway, "buy", 1)
    assert (status, refusal["reason"]) == (423, "TRIPPED")
    assert "MANUAL" in refusal["sentence"]
    assert send(gateway, "sell", 5000)[0] == 423
    assert send(gateway, "sell", 1)[0] == 201
    breaker.reset(reset_by="me")
    eventually(lambda: send(gateway, "buy", 1)[0] == 201)


def test_an_account_has_a_breaker_of_its_own(gateway: httpx.Client, redis_client: redis.Redis) -> None:
    CircuitBreaker(redis_client, "account:ALPHA").trip("MANUAL")
    until_halted(gateway)
    status, refusal = send(gateway, "buy", 1)
    assert (status, refusal["scope"]) == (423, "account:ALPHA")


def test_a_venue_that_fails_trips_the_breaker(
    gateway: httpx.Client, exchange: PaperExchange, breaker: CircuitBreaker
) -> None:
    exchange.stop()
    assert {send(gateway, "buy", 1)[0] for _ in range(3)} <= {502, 423}
    assert until_halted(gateway) == "TRIPPED"
    assert breaker.get_status().trip_reason == "API_ERRORS"


def test_a_drawdown_trips_the_breaker(
    gateway: httpx.Client, redis_client: redis.Redis, breaker: CircuitBreaker
) -> None:
    eventually(lambda: redis_client.hexists("circuit_breaker:equity", "high_water"))
    redis_client.hset("circuit_breaker:equity", "high_water", "999999999")
    until_halted(gateway)
    assert breaker.get_status().trip_reason == "DRAWDOWN"


def test_an_order_that_makes_no_sense_never_reaches_the_gate(gateway: httpx.Client) -> None:
    assert send(gateway, "hold", 1)[0] == 422
    assert send(gateway, "buy", -1)[0] == 422
