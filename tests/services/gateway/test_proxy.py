"""The gateway between an engine and the paper exchange: HTTP from outside, a real Redis, a real book."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from breaker import CircuitBreaker
from breaker.engines import RulesFeed
from breaker.testing import FakeGate
from brokers.alpaca import AlpacaBroker
from configuration.rules import RuleSettings
from sandbox.embedded_redis import EmbeddedRedis
from sandbox.exchange.scenario import parse
from sandbox.exchange.server import PaperExchangeThread
from services.gateway.gatekeeper import Gatekeeper
from services.gateway.proxy import Gateway, Venue
from tests.helpers import eventually
from tests.services.gateway.conftest import BOOK, KEYS, ServedGateway, settings_of


def order(side: str = "buy", quantity: Any = "1", **more: Any) -> dict[str, Any]:
    return {"symbol": "AAPL", "qty": quantity, "side": side, "type": "market", "time_in_force": "day", **more}


def resting(side: str, quantity: str, **more: Any) -> dict[str, Any]:
    price = "1" if side == "buy" else "9999"
    return order(side, quantity, type="limit", limit_price=price, time_in_force="gtc", **more)


def submit(gateway: httpx.Client, body: dict[str, Any]) -> httpx.Response:
    return gateway.post("/v2/orders", json=body)


def halted(gateway: httpx.Client, reason: str = "TRIPPED") -> None:
    eventually(lambda: gateway.get("/_breaker/health").json()["reason"] == reason)


def created(exchange: PaperExchangeThread) -> int:
    return int(exchange.report()["orders_created"]["client"])


def test_while_open_everything_passes_as_it_is(gateway: httpx.Client, exchange: PaperExchangeThread) -> None:
    with httpx.Client(base_url=exchange.url, headers=KEYS) as direct:
        for path in (
            "/v2/account",
            "/v2/positions",
            "/v2/positions/BTC%2FUSD",
            "/v2/orders?status=all&limit=7",
            "/v2/nothing",
        ):
            through, straight = gateway.get(path), direct.get(path)
            assert (through.status_code, through.json()) == (straight.status_code, straight.json()), path
    answer = submit(gateway, order(client_order_id="mine"))
    assert answer.status_code == 200
    assert "x-ratelimit-remaining" in answer.headers and "transfer-encoding" not in answer.headers
    found = gateway.get("/v2/orders:by_client_order_id", params={"client_order_id": "mine"}).json()
    assert found["id"] == answer.json()["id"]
    working = submit(gateway, resting("buy", "3")).json()["id"]
    assert gateway.patch(f"/v2/orders/{working}", json={"qty": "4"}).json()["qty"] == "4"
    assert {each["status"] for each in gateway.delete("/v2/orders").json()} <= {200}
    assert gateway.delete("/v2/positions/BTC%2FUSD").status_code == 200
    assert gateway.request("DELETE", "/v2/positions", params={"cancel_orders": "true"}).status_code == 207


def test_tripped_it_lets_out_and_not_in(
    gateway: httpx.Client, breaker: CircuitBreaker, exchange: PaperExchangeThread
) -> None:
    entry = submit(gateway, resting("buy", "3")).json()["id"]
    leaving = submit(gateway, resting("sell", "30")).json()["id"]
    before = created(exchange)
    breaker.trip("MANUAL", tripped_by="ada")
    halted(gateway)
    refusal = submit(gateway, order())
    assert refusal.status_code == 403
    said = refusal.json()
    assert said["code"] == 40310000
    assert "TRIPPED" in said["message"]
    assert said["breaker"] == {"allowed": False, "reason": "TRIPPED", "scope": "global"}
    bracket: dict[str, Any] = {
        "order_class": "bracket",
        "take_profit": {"limit_price": "999"},
        "stop_loss": {"stop_price": "1"},
    }
    for body in (order("sell", "71"), order(**bracket), {**order(), "qty": None, "notional": "5"}, order("buy", "0")):
        assert submit(gateway, body).status_code in (403, 422)
    assert gateway.patch(f"/v2/orders/{entry}", json={"qty": "4"}).status_code == 403
    assert gateway.patch(f"/v2/orders/{entry}", json={"limit_price": "2"}).status_code == 403
    assert gateway.post("/v9/orders/new", json=order()).status_code == 400
    assert gateway.post("/v9/trades", json=order()).status_code == 403
    assert created(exchange) == before, "nothing has reached the venue"
    assert gateway.patch(f"/v2/orders/{entry}", json={"qty": "2"}).status_code == 200, "smaller is no new risk"
    assert gateway.delete(f"/v2/orders/{leaving}").status_code == 204
    assert submit(gateway, order("sell", "40")).status_code == 200
    assert gateway.delete("/v2/positions/AAPL", params={"qty": "10"}).status_code == 200
    assert gateway.delete("/v2/positions/BTCUSD").status_code == 200
    assert gateway.request("DELETE", "/v2/positions", params={"cancel_orders": "true"}).status_code == 207
    eventually(lambda: exchange.report()["is_flat"])
    breaker.reset(reset_by="ada")
    halted(gateway, "OPEN")
    assert submit(gateway, order()).status_code == 200


def test_the_accounts_own_breaker_holds_it(gateway: httpx.Client, redis_client: redis.Redis) -> None:
    account = CircuitBreaker(redis_client, "account:ALPHA")
    account.trip("MANUAL")
    account.close()
    halted(gateway)
    assert submit(gateway, order()).json()["breaker"]["scope"] == "account:ALPHA"


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b'{"symbol": "AAPL", "qty": 1, "qty": 1000, "side": "buy"}', {}, 422),
        (b"symbol=AAPL&qty=1", {"Content-Type": "application/x-www-form-urlencoded"}, 422),
        (json.dumps(order()).encode(), {"Content-Encoding": "gzip"}, 415),
        (json.dumps(order()).encode(), {"X-HTTP-Method-Override": "PATCH"}, 400),
        (json.dumps(order()).encode(), {"Upgrade": "h2c", "Connection": "Upgrade"}, 501),
        (json.dumps(order(note="x" * 70_000)).encode(), {}, 413),
        (json.dumps(order()).encode(), {"APCA-API-KEY-ID": "another"}, 403),
        (json.dumps(order()).encode(), {"Authorization": "Basic b3RoZXI6c2VjcmV0"}, 403),
    ],
)
def test_what_can_not_be_judged_goes_nowhere_even_while_open(
    gateway: httpx.Client, exchange: PaperExchangeThread, body: bytes, headers: dict[str, str], status: int
) -> None:
    answer = gateway.post("/v2/orders", content=body, headers=headers)
    assert answer.status_code == status
    assert answer.json()["code"] == status * 100_000 + 10_000
    assert created(exchange) == 0


def test_a_body_in_chunks_is_judged_whole(gateway: httpx.Client, breaker: CircuitBreaker) -> None:
    text = json.dumps(order()).encode()

    def chunks() -> Any:
        yield text[:10]
        yield text[10:]

    assert gateway.post("/v2/orders", content=chunks()).status_code == 200
    breaker.trip("MANUAL")
    halted(gateway)
    assert gateway.post("/v2/orders", content=chunks()).status_code == 403


def raw(gateway: httpx.Client, request: bytes) -> bytes:
    """The answers to bytes as nobody's client sends them."""
    with socket.create_connection((gateway.base_url.host, gateway.base_url.port or 0), timeout=20) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while part := connection.recv(65536):
            answer += part
        return answer


@pytest.mark.parametrize(
    "framing", ["Transfer-Encoding: chunked\r\nContent-Length: 4", "Content-Length: 4\r\nContent-Length: 400"]
)
def test_a_request_within_a_request_reaches_no_venue(
    gateway: httpx.Client, exchange: PaperExchangeThread, breaker: CircuitBreaker, framing: str
) -> None:
    breaker.trip("MANUAL")
    halted(gateway)
    body = json.dumps(order())
    keys = "".join(f"{name}: {value}\r\n" for name, value in KEYS.items())
    inner = f"POST /v2/orders HTTP/1.1\r\nHost: venue\r\n{keys}Content-Length: {len(body)}\r\n\r\n{body}"
    outer = f"GET /v2/clock HTTP/1.1\r\nHost: venue\r\n{keys}{framing}\r\n\r\n0\r\n\r\n{inner}"
    raw(gateway, outer.encode())
    absolute = f"POST {exchange.url}/v2/orders HTTP/1.1"
    raw(gateway, inner.replace("POST /v2/orders HTTP/1.1", absolute).encode())
    assert created(exchange) == 0


def test_a_venue_that_is_down_is_told_in_a_line_and_counts(
    tmp_path: Path, redis_server: EmbeddedRedis, breaker: CircuitBreaker
) -> None:
    rules = {"global": RuleSettings(api_errors=3)}
    settings = settings_of(tmp_path, redis_server.url, "http://127.0.0.1:1", rules=rules)
    with ServedGateway(settings) as served, httpx.Client(base_url=served.url, headers=KEYS, timeout=20) as client:
        eventually(lambda: client.get("/_breaker/health").json()["is_open"])
        answer = submit(client, order())
        assert answer.status_code == 502
        assert "nothing was sent" in answer.json()["message"] and "\n" not in answer.json()["message"]
        assert client.get("/v2/account").status_code == 502
        for _ in range(2):
            client.get("/v2/clock")
        eventually(breaker.is_tripped)
        assert breaker.get_status()["trip_reason"] == "API_ERRORS"


@pytest.mark.parametrize(("kind", "read"), [("timeout", 504), ("drop", 502)])
def test_an_order_whose_answer_is_lost_is_not_called_untaken(
    gateway: httpx.Client, exchange: PaperExchangeThread, kind: str, read: int
) -> None:
    """Nor answered by a status for which Alpaca's own client sends it again (429, 504)."""
    exchange.control("trouble", {"kind": kind, "applied": True})
    answer = submit(gateway, order(client_order_id="mine"))
    assert answer.status_code == 502
    assert "isn't known" in answer.json()["message"]
    assert gateway.get("/v2/clock").status_code == read
    assert created(exchange) == 1


def test_what_the_venue_refuses_is_passed_on_and_rejections_trip(
    tmp_path: Path, redis_server: EmbeddedRedis, breaker: CircuitBreaker, exchange: PaperExchangeThread
) -> None:
    rules = {"global": RuleSettings(consecutive_rejections=1)}
    settings = settings_of(tmp_path, redis_server.url, exchange.url, rules=rules)
    with ServedGateway(settings) as served, httpx.Client(base_url=served.url, headers=KEYS, timeout=20) as client:
        eventually(lambda: client.get("/_breaker/health").json()["is_open"])
        with httpx.Client(base_url=exchange.url, headers=KEYS) as direct:
            straight = submit(direct, order(symbol="NOSUCH"))
        for _ in range(2):
            answer = submit(client, order(symbol="NOSUCH"))
            assert (answer.status_code, answer.json()) == (straight.status_code, straight.json())
        eventually(breaker.is_tripped)
        assert breaker.get_status()["trip_reason"] == "CONSECUTIVE_REJECTIONS"


def test_slow_answers_trip_where_that_is_asked_for(
    tmp_path: Path, redis_server: EmbeddedRedis, breaker: CircuitBreaker, exchange: PaperExchangeThread
) -> None:
    exchange.restart(parse("latency_ms = {fixed = 20}\n" + BOOK))
    rules = {"global": RuleSettings(api_latency=0.01)}
    settings = settings_of(tmp_path, redis_server.url, exchange.url, rules=rules)
    with ServedGateway(settings) as served, httpx.Client(base_url=served.url, headers=KEYS, timeout=20) as client:
        for _ in range(3):
            client.get("/v2/clock")
        eventually(breaker.is_tripped)
        assert breaker.get_status()["trip_reason"] == "API_LATENCY"


def test_without_redis_only_exits_pass(tmp_path: Path, exchange: PaperExchangeThread) -> None:
    settings = settings_of(tmp_path, "redis://127.0.0.1:1", exchange.url)
    with ServedGateway(settings) as served, httpx.Client(base_url=served.url, headers=KEYS, timeout=20) as client:
        health = client.get("/_breaker/health")
        assert (health.status_code, health.json()["reason"]) == (503, "NOT_CONNECTED")
        assert submit(client, order()).status_code == 403
        assert submit(client, order("sell", "100")).status_code == 200


def test_its_own_pages_are_not_the_venues(gateway: httpx.Client) -> None:
    assert gateway.get("/_breaker/health").json()["account"] == "ALPHA"
    assert gateway.post("/_breaker/health").status_code == 404
    assert "secret" not in gateway.get("/_breaker/health").text


def test_a_gateway_that_is_stopped_brings_orders_under_way_to_their_end(
    tmp_path: Path, redis_server: EmbeddedRedis, breaker: CircuitBreaker, exchange: PaperExchangeThread
) -> None:
    exchange.restart(parse("latency_ms = {fixed = 700}\n" + BOOK))
    served = ServedGateway(settings_of(tmp_path, redis_server.url, exchange.url))
    with ThreadPoolExecutor() as threads:
        with served, httpx.Client(base_url=served.url, headers=KEYS, timeout=20) as client:
            eventually(lambda: client.get("/_breaker/health").json()["is_open"])
            sent = threads.submit(httpx.post, f"{served.url}/v2/orders", headers=KEYS, json=order(), timeout=20)
            eventually(lambda: exchange.report()["requests"].get("POST /v2/orders"))
        assert sent.result().status_code == 200


Peer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def before(peer: Peer, answer_within: float = 20.0) -> AsyncIterator[tuple[Gateway, FakeGate]]:
    """A gateway before a venue of the test's own."""
    server = await asyncio.start_server(peer, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    gate, broker = FakeGate(), AlpacaBroker("ALPHA", url, "key", "secret")
    gateway = Gateway(
        Venue("ALPHA", None, "key", url, url, answer_within), Gatekeeper(gate, broker, 5.0), RulesFeed(None, "ALPHA")
    )
    try:
        yield gateway, gate
    finally:
        await gateway.aclose()
        await broker.aclose()
        server.close()


def client_of(gateway: Gateway) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(gateway), base_url="http://gateway", headers=KEYS)


async def test_a_venue_that_has_moved_is_no_way_around_the_gateway() -> None:
    async def moved(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"}")
        writer.write(
            b"HTTP/1.1 307 Moved\r\nLocation: https://elsewhere.example/v2/orders\r\nContent-Length: 0\r\n\r\n"
        )
        await writer.drain()
        writer.close()

    async with before(moved) as (gateway, _), client_of(gateway) as client:
        answer = await client.post("/v2/orders", json=order())
    assert answer.status_code == 502
    assert "location" not in answer.headers
    assert "https://elsewhere.example; nothing was done" in answer.json()["message"]


async def test_a_cancel_does_not_wait_for_connections_on_which_reading_is_stuck() -> None:
    stuck = 0
    over = asyncio.Event()

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal stuck
        head = await reader.readuntil(b"\r\n\r\n")
        if head.startswith(b"GET"):
            stuck += 1
            await over.wait()
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        await writer.drain()
        writer.close()

    async with before(slow) as (gateway, _), client_of(gateway) as client:
        reading = [asyncio.create_task(client.get("/v2/clock")) for _ in range(100)]
        while stuck < 100:
            await asyncio.sleep(0.01)
        cancelled = await client.delete("/v2/orders/7", timeout=None)
        over.set()
        await asyncio.gather(*reading)
    assert cancelled.status_code == 204


async def test_a_body_that_does_not_come_is_not_waited_for() -> None:
    async def nobody(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    said: list[Any] = []

    async def send(message: Any) -> None:
        said.append(message)

    first = [{"type": "http.request", "body": b"{", "more_body": True}]

    async def receive() -> Any:
        if first:
            return first.pop()
        return await asyncio.Event().wait()

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v2/orders",
        "raw_path": b"/v2/orders",
        "query_string": b"",
        "headers": [(b"apca-api-key-id", b"key"), (b"transfer-encoding", b"chunked")],
    }
    async with before(nobody, 0.05) as (gateway, _), asyncio.timeout(20):
        await gateway(scope, receive, send)
    assert said[0]["status"] == 408
