"""Between the decision and the wire lies a wait: what comes to pass meanwhile is asked for once more."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

import httpx
import pytest

from breaker.engines import OrderRefused, RulesFeed
from breaker.gate import Reason
from breaker.orders import Order, Position
from breaker.testing import FakeGate
from brokers.alpaca import AlpacaBroker
from brokers.protocol import Listed
from sandbox.exchange.server import PaperExchangeThread
from services.gateway.gatekeeper import Gatekeeper
from services.gateway.orders import read_request
from services.gateway.proxy import Gateway, Venue
from services.gateway.routes import Kind, Route
from tests.services.gateway.conftest import KEYS
from tests.services.gateway.test_proxy import created, order, resting


@asynccontextmanager
async def gateway_with(gate: FakeGate, exchange: PaperExchangeThread) -> AsyncIterator[httpx.AsyncClient]:
    """The application itself; what it sends goes to the exchange."""
    broker = AlpacaBroker("ALPHA", exchange.url, "key", "secret")
    venue = Venue("ALPHA", None, "key", exchange.url, exchange.url, 5.0)
    gateway = Gateway(venue, Gatekeeper(gate, broker, 5.0), RulesFeed(None, "ALPHA"))
    transport = httpx.ASGITransport(gateway)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway", headers=KEYS) as client:
        yield client
    await gateway.aclose()
    await broker.aclose()


async def test_an_entry_that_was_admitted_before_a_trip_does_not_leave_after_it(exchange: PaperExchangeThread) -> None:
    gate = FakeGate.scripted("open", "tripped")
    async with gateway_with(gate, exchange) as client:
        answer = await client.post("/v2/orders", json=order())
    assert (answer.status_code, answer.json()["breaker"]["reason"]) == (403, "TRIPPED")
    assert created(exchange) == 0
    assert [each.kind for each in gate.asked] == ["check", "recheck", "check"]


async def test_an_exit_that_was_admitted_before_a_trip_leaves_all_the_same(exchange: PaperExchangeThread) -> None:
    async with gateway_with(FakeGate.scripted("open", "tripped"), exchange) as client:
        assert (await client.post("/v2/orders", json=order("sell", "100"))).status_code == 200
    async with gateway_with(FakeGate.scripted("open", "tripped"), exchange) as client:
        assert (await client.delete("/v2/positions/BTCUSD")).status_code == 200


async def test_a_replacement_is_held_by_a_symbol_that_was_tripped_meanwhile(exchange: PaperExchangeThread) -> None:
    """Which symbol it is of is not known while nothing is read."""
    async with gateway_with(FakeGate(), exchange) as client:
        working = (await client.post("/v2/orders", json=resting("buy", "3"))).json()["id"]
    gate = FakeGate(["symbol:AAPL"])
    told = gate.check

    def trip_after_it(*asked: Any, **named: Any) -> Any:
        decision = told(*asked, **named)
        if len(gate.asked) == 1:
            gate.trip(scope="symbol:AAPL")
        return decision

    gate.check = trip_after_it  # type: ignore[method-assign]
    async with gateway_with(gate, exchange) as client:
        answer = await client.patch(f"/v2/orders/{working}", json={"qty": "4"})
        assert (answer.status_code, answer.json()["breaker"]["scope"]) == (403, "symbol:AAPL")
        assert (await client.get(f"/v2/orders/{working}")).json()["qty"] == "3"
        other = {**resting("buy", "20"), "symbol": "BTCUSD"}  # the venue wants ten dollars at least
        assert (await client.post("/v2/orders", json=other)).status_code == 200, "another symbol's passes"
        assert (await client.post("/v2/trades", json={})).status_code == 403, "of what it is, isn't known"


async def test_two_closes_at_once_are_not_both_let_through(exchange: PaperExchangeThread) -> None:
    async with gateway_with(FakeGate.tripped(), exchange) as client:
        sale = resting("sell", "100")
        answers = await asyncio.gather(*(client.post("/v2/orders", json=sale) for _ in range(4)))
    assert sorted(answer.status_code for answer in answers) == [200, 403, 403, 403]


async def test_a_close_of_everything_takes_what_a_later_close_would(exchange: PaperExchangeThread) -> None:
    """The account was read before it, and that reading is still believed."""
    async with gateway_with(FakeGate.tripped(), exchange) as client:
        assert (await client.post("/v2/orders", json=order("sell", "1"))).status_code == 200
        assert (await client.delete("/v2/positions")).status_code == 207
        assert (await client.post("/v2/orders", json=order("sell", "99"))).status_code == 403
    assert exchange.report()["is_flat"]


async def test_what_is_on_its_way_when_a_breaker_trips_takes_what_a_later_close_would() -> None:
    """An entry for the gate, and so not reserved; the venue lists it only once it has come there."""
    gate, held = FakeGate(), Position("AAPL", Decimal(100), Decimal(100), Decimal(1))

    class Account:
        async def open_orders(self) -> Listed[Order]:
            return Listed((), ())

        async def positions(self) -> Listed[Position]:
            return Listed((held,), ())

    keeper = Gatekeeper(gate, Account(), 5.0)
    requests = [
        (Route(Kind.NEW), json.dumps(order("sell", "60")).encode()),
        (Route(Kind.CLOSE, "AAPL"), b""),
    ]
    close = read_request(Route(Kind.NEW), json.dumps(order("sell", "41")).encode(), b"", "ALPHA", None)
    for route, body in requests:
        gate.reset()
        first = await keeper.admit(read_request(route, body, b"", "ALPHA", None))
        await keeper.confirm(first)
        gate.trip()
        with pytest.raises(OrderRefused):
            await keeper.admit(close)
        keeper.refused(first)
        keeper.refused(await keeper.admit(close))


async def test_what_the_venue_has_answered_counts_once(exchange: PaperExchangeThread) -> None:
    gate = FakeGate()
    async with gateway_with(gate, exchange) as client:
        assert (await client.post("/v2/orders", json=resting("sell", "60"))).status_code == 200
        gate.trip()
        assert (await client.post("/v2/orders", json=order("sell", "41"))).status_code == 403
        assert (await client.post("/v2/orders", json=order("sell", "40"))).status_code == 200


@pytest.mark.parametrize("change", [{"client_order_id": 5}, {"notional": "99999"}])
async def test_a_replacement_that_can_not_be_read_is_answered_so_while_halted_too(
    exchange: PaperExchangeThread, change: dict[str, Any]
) -> None:
    async with gateway_with(FakeGate.tripped(), exchange) as client:
        working = (await client.post("/v2/orders", json=resting("sell", "3"))).json()["id"]
        answer = await client.patch(f"/v2/orders/{working}", json=change)
    assert (answer.status_code, answer.json()["code"]) == (422, 42210000)
    assert "nothing was sent" in answer.json()["message"]


async def test_cancels_and_closes_pass_though_the_account_can_not_be_read(exchange: PaperExchangeThread) -> None:
    gate = FakeGate.tripped()
    async with gateway_with(gate, exchange) as client:
        exchange.control("trouble", {"kind": "503", "routes": ["GET /v2/positions", "GET /v2/orders"]})
        assert (await client.delete("/v2/positions/AAPL")).status_code == 200
        assert (await client.delete("/v2/orders")).status_code == 207
        refusal = await client.post("/v2/orders", json=order("sell", "1"))
        assert (refusal.status_code, gate.asked[-1].decision.reason) == (403, Reason.TRIPPED)


@pytest.mark.parametrize("kind", ["500", "401", "429"])
async def test_what_the_venue_says_of_an_order_is_what_the_engine_hears(
    exchange: PaperExchangeThread, kind: str
) -> None:
    gate = FakeGate.tripped()
    async with gateway_with(gate, exchange) as client:
        exchange.control("trouble", {"kind": kind, "routes": ["POST /v2/orders"], "first": 1})
        answer = await client.post("/v2/orders", content=json.dumps(order("sell", "100")))
        assert answer.status_code == int(kind)
        again = await client.post("/v2/orders", json=order("sell", "100"))
        assert again.status_code == (403 if kind == "500" else 200), "after a 500 it may have been taken"
