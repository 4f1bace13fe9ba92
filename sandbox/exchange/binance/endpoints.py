"""Tell an endpoint by method and path: who may ask it, what it weighs, and who answers; and put it on the server.

A request to the API of a market that the account isn't at is turned away as one with a key that has no permission
for it, which is what the venue does; so is one that changes something with a key that may only read.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Final

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from sandbox.exchange.binance.errors import BinanceRefusal, bad_key, invalid_symbol, too_many_orders
from sandbox.exchange.binance.parameters import Parameters
from sandbox.exchange.binance.signing import check_key, check_signature, venue_milliseconds
from sandbox.exchange.orders import OrderRequest, PaperOrder, Status
from sandbox.exchange.scenario import Protocol
from sandbox.exchange.venue import Host, Venue

Handler = Callable[[Venue, Parameters], Awaitable[object]]
Weight = Callable[[Parameters], int]

_CANCEL_LIMIT: Final = 5.0
"""Seconds that a cancel is waited for before the venue says that it doesn't know."""
_LOOK_EVERY: Final = 0.002


class Security(Enum):
    """Who may ask."""

    PUBLIC = "public"
    SIGNED = "signed"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One method of one path; `weight` is of the request limit of a minute."""

    method: str
    path: str
    handler: Handler
    weight: Weight
    security: Security = Security.SIGNED


def always(weight: int) -> Weight:
    """The same whatever is asked."""
    return lambda _: weight


def by_symbol(one: int, all_of_them: int) -> Weight:
    """Less for one symbol than for all."""
    return lambda parameters: one if parameters.text("symbol") else all_of_them


def add_endpoints(app: FastAPI, host: Host, protocol: Protocol | None, endpoints: Iterable[Endpoint]) -> None:
    """Serve them as the API of this market, or of both."""
    for endpoint in endpoints:
        answer = partial(_answer, host, protocol, endpoint)
        app.router.add_route(endpoint.path, _as_route(answer), methods=[endpoint.method])


def weights(endpoints: Iterable[Endpoint]) -> Mapping[tuple[str, str], Weight]:
    """By method and path."""
    return {(endpoint.method, endpoint.path): endpoint.weight for endpoint in endpoints}


def _as_route(answer: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
    async def route(request: Request) -> Response:
        return await answer(request)

    return route


async def _answer(host: Host, protocol: Protocol | None, endpoint: Endpoint, request: Request) -> Response:
    venue = host.venue
    query, body = request.url.query, (await request.body()).decode("latin-1")
    parameters = Parameters.read(query, body)
    if endpoint.security is Security.SIGNED:
        account = venue.scenario.account
        check_key(account, request.headers.get("X-MBX-APIKEY"))
        may_not_trade = endpoint.method != "GET" and not account.key_may_trade
        if protocol not in {None, venue.scenario.protocol} or may_not_trade:
            raise bad_key()
        check_signature(account, query, body, parameters, venue_milliseconds(venue.scenario.clock_ahead_ms))
    return JSONResponse(await endpoint.handler(venue, parameters))


def listed_symbol(venue: Venue, parameters: Parameters, name: str = "symbol") -> str:
    """The symbol that is asked for, as the book has it. Raises `BinanceRefusal` for one that isn't listed."""
    listed = venue.exchange.book.listed(parameters.required(name))
    if listed is None:
        raise invalid_symbol()
    return listed


def listed_symbols(venue: Venue, parameters: Parameters) -> list[str]:
    """The symbol that is asked for, or all."""
    if parameters.text("symbol"):
        return [listed_symbol(venue, parameters)]
    return sorted(venue.exchange.book.prices)


def open_orders(venue: Venue, parameters: Parameters) -> list[PaperOrder]:
    """Those of the symbol that is asked for, or all, the oldest first."""
    if parameters.text("symbol"):
        symbol = listed_symbol(venue, parameters)
        return [order for order in venue.exchange.book.listed_as_open if order.symbol == symbol]
    return venue.exchange.book.listed_as_open


def submit(venue: Venue, request: OrderRequest) -> PaperOrder:
    """The order as it stands when the market has seen it. Raises `Refusal`."""
    if not venue.order_limit.admit(venue.now()):
        raise too_many_orders(venue.order_limit.limit)
    order = venue.exchange.submit(request)
    venue.advance()
    return order


async def until_cancelled(venue: Venue, orders: list[PaperOrder]) -> None:
    """The venue answers a cancel when it has taken effect. Raises `BinanceRefusal` (504) when that takes too long."""
    deadline = time.monotonic() + _CANCEL_LIMIT
    while True:
        venue.advance()
        if not any(order.status is Status.PENDING_CANCEL for order in orders):
            return
        if time.monotonic() > deadline:
            message = "Timeout waiting for response from backend server. Send status unknown; execution status unknown."
            raise BinanceRefusal(-1007, message, 504)
        await asyncio.sleep(_LOOK_EVERY)
