"""The HTTP API: Alpaca's routes onto the exchange, trouble around them, and `/_paper` for tests and demos."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from decimal import Decimal
from functools import partial
from typing import Annotated, Final, Literal
from urllib.parse import unquote

from fastapi import Body, FastAPI, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field, ValidationError
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from breaker.orders import OrderType, Side, TimeInForce
from sandbox.exchange.alpaca.wire import (
    Json,
    Writer,
    asset,
    asset_id,
    configurations,
    flag,
    is_uuid,
    moment,
    number,
    read_client_order_id,
    read_object,
    read_order,
    word,
)
from sandbox.exchange.matching import Exchange
from sandbox.exchange.orders import Resubmission, PaperPosition, OrderRequest, PaperOrder, Refusal, Session, invalid, not_found
from sandbox.exchange.scenario import Scenario, ScenarioError, Trouble, parse
from sandbox.exchange.venue import Venue

_DEFAULT_PAGE: Final = 50
_LARGEST_PAGE: Final = 500
_ERROR_BODIES: Final[dict[str, Json]] = {
    "429": {"code": 42910000, "message": "rate limit exceeded"},
    "500": {"code": 50010000, "message": "internal server error occurred"},
    "502": {"message": "Bad Gateway"},
    "503": {"code": 50310000, "message": "service unavailable"},
    "504": {"code": 50410000, "message": "request timed out"},
}

Disconnect = Callable[[Scope], None]
"""Closes the connection that a request came in on, without an answer."""


class Host:
    """Holds the venue being served, so that a test can put another scenario in its place."""

    def __init__(self, scenario: Scenario) -> None:
        self.venue = Venue(scenario)

    def restart(self, scenario: Scenario) -> None:
        self.venue = Venue(scenario)


def create_app(host: Host, disconnect: Disconnect) -> ASGIApp:
    """The whole server as an ASGI application."""
    app = FastAPI(title="Paper exchange", openapi_url=None)
    app.add_exception_handler(Refusal, _refused)
    _add_account_routes(app, host)
    _add_order_routes(app, host)
    _add_position_routes(app, host)
    _add_control_routes(app, host)
    return _Edge(app, host, disconnect)


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)  # noqa: S101 - registered for nothing else
    return JSONResponse(error.body, error.status)


# Account, clock, assets


def _add_account_routes(app: FastAPI, host: Host) -> None:
    @app.get("/v2/account")
    async def account() -> Response:
        return JSONResponse(host.venue.writer.account(host.venue.scenario.account))

    @app.get("/v2/account/configurations")
    async def account_configurations() -> Response:
        return JSONResponse(configurations())

    @app.get("/v2/clock")
    async def clock() -> Response:
        return JSONResponse(host.venue.writer.clock(host.venue.scenario.market))

    @app.get("/v2/assets")
    async def assets() -> Response:
        return JSONResponse([asset(symbol) for symbol in sorted(host.venue.exchange.prices)])

    @app.get("/v2/assets/{symbol:path}")
    async def one_asset(symbol: str) -> Response:
        return JSONResponse(asset(_symbol(host, symbol, f"asset not found for {symbol}")))


def _symbol(host: Host, symbol_or_id: str, missing: str) -> str:
    """The symbol meant by a path, which may hold an asset's id instead."""
    prices = host.venue.exchange.prices
    if symbol_or_id in prices:
        return symbol_or_id
    if is_uuid(symbol_or_id):
        for symbol in prices:
            if asset_id(symbol) == symbol_or_id:
                return symbol
    raise not_found(missing)


# Orders


def _add_order_routes(app: FastAPI, host: Host) -> None:
    @app.post("/v2/orders")
    async def create(request: Request) -> Response:
        order = host.venue.exchange.submit(read_order(read_object(await request.body())))
        return JSONResponse(host.venue.writer.order(order))

    @app.get("/v2/orders")
    async def listed(request: Request) -> Response:
        return JSONResponse(_list_orders(host.venue, dict(request.query_params)))

    @app.get("/v2/orders:by_client_order_id")
    async def by_client_order_id(request: Request) -> Response:
        wanted = request.query_params.get("client_order_id")
        if not wanted:
            raise invalid("client_order_id is required")
        return JSONResponse(host.venue.writer.order(host.venue.exchange.order_by_client_id(wanted)))

    @app.get("/v2/orders/{order_id}")
    async def one(order_id: str, request: Request) -> Response:
        nested = flag(dict(request.query_params), "nested")
        order = host.venue.exchange.order(_order_id(order_id))
        return JSONResponse(host.venue.writer.order(order, legs=nested or order.parent is None))

    @app.patch("/v2/orders/{order_id}")
    async def replaced(order_id: str, request: Request) -> Response:
        body = read_object(await request.body())
        try:
            time_in_force = TimeInForce(str(body["time_in_force"])) if body.get("time_in_force") else None
        except ValueError as error:
            raise invalid("invalid time_in_force") from error
        order = host.venue.exchange.replace(
            _order_id(order_id),
            qty=number(body, "qty"),
            time_in_force=time_in_force,
            limit_price=number(body, "limit_price"),
            stop_price=number(body, "stop_price"),
            trail=number(body, "trail"),
            client_order_id=read_client_order_id(body),
        )
        return JSONResponse(host.venue.writer.order(order))

    @app.delete("/v2/orders/{order_id}")
    async def cancel(order_id: str) -> Response:
        host.venue.exchange.cancel(_order_id(order_id))
        return Response(status_code=204)

    @app.delete("/v2/orders")
    async def cancel_all() -> Response:
        return JSONResponse([_cancelled(*result) for result in host.venue.exchange.cancel_all()], 207)


def _cancelled(order: PaperOrder, refusal: Refusal | None) -> Json:
    # The reference: "If an order is no longer cancelable, the server will respond with status 500".
    return {"id": order.id, "status": 200} if refusal is None else {"id": order.id, "status": 500, "body": refusal.body}


def _order_id(text: str) -> str:
    if not is_uuid(text):
        raise invalid("order_id is missing")
    return text


def _list_orders(venue: Venue, query: dict[str, str]) -> list[Json]:
    status = word(query, "status", ("open", "closed", "all"))
    newest_first = word(query, "direction", ("desc", "asc")) == "desc"
    nested = flag(query, "nested")
    wanted = _filter(venue.writer, query, status)
    exchange = venue.exchange
    source = list((exchange.open_orders if status == "open" else exchange.orders).values())
    source.sort(key=lambda order: order.submitted_at)
    if newest_first:
        source.reverse()
    page: list[PaperOrder] = []
    limit = _page_size(query)
    for order in source:
        if len(page) == limit:
            break
        if wanted(order) and not (nested and order.parent is not None and wanted(order.parent)):
            page.append(order)
    return [venue.writer.order(order, legs=nested) for order in page]


def _filter(writer: Writer, query: dict[str, str], status: str) -> Callable[[PaperOrder], bool]:
    after, until = moment(query, "after"), moment(query, "until")
    earliest = float("-inf") if after is None else writer.seconds(after)
    latest = float("inf") if until is None else writer.seconds(until)
    symbols = set(query["symbols"].split(",")) if query.get("symbols") else None
    side = word(query, "side", ("", "buy", "sell"))

    def wanted(order: PaperOrder) -> bool:
        return (
            (status == "all" or order.is_open == (status == "open"))
            and earliest < round(order.submitted_at, 6) < latest
            and (symbols is None or order.symbol in symbols)
            and (not side or order.side == side)
        )

    return wanted


def _page_size(query: dict[str, str]) -> int:
    text = query.get("limit", str(_DEFAULT_PAGE))
    if not text.isdecimal() or not 1 <= int(text) <= _LARGEST_PAGE:
        raise invalid(f"limit must be between 1 and {_LARGEST_PAGE}")
    return int(text)


# Positions


def _add_position_routes(app: FastAPI, host: Host) -> None:
    @app.get("/v2/positions")
    async def listed() -> Response:
        venue = host.venue
        return JSONResponse([venue.writer.position(holding) for holding in venue.exchange.positions.values()])

    @app.get("/v2/positions/{symbol:path}")
    async def one(symbol: str) -> Response:
        return JSONResponse(host.venue.writer.position(_position(host, symbol)))

    @app.delete("/v2/positions/{symbol:path}")
    async def close(symbol: str, request: Request) -> Response:
        query = dict(request.query_params)
        qty, percentage = number(query, "qty"), number(query, "percentage")
        if qty is not None and percentage is not None:
            raise invalid("only one of qty or percentage is accepted")
        if percentage is not None and percentage > 100:
            raise invalid("percentage must be between 0 and 100")
        order = host.venue.exchange.close_position(_position(host, symbol).symbol, qty, percentage)
        return JSONResponse(host.venue.writer.order(order))

    @app.delete("/v2/positions")
    async def close_all(request: Request) -> Response:
        cancel_orders = flag(dict(request.query_params), "cancel_orders")
        results = host.venue.exchange.close_all(cancel_orders=cancel_orders)
        return JSONResponse([_closed(host.venue.writer, *result) for result in results], 207)


def _position(host: Host, symbol: str) -> PaperPosition:
    missing = "position does not exist"
    return host.venue.exchange.position(_symbol(host, symbol, missing))


def _closed(writer: Writer, symbol: str, result: PaperOrder | Refusal) -> Json:
    if isinstance(result, Refusal):
        return {"symbol": symbol, "status": result.status, "body": result.body}
    return {"symbol": symbol, "status": 200, "body": writer.order(result)}


# Control


class _Symbol(BaseModel):
    symbol: str


class _Halt(_Symbol):
    mode: Literal["reject", "hold"] = "reject"
    status: Literal[403, 422] = 422
    seconds: float | None = Field(default=None, ge=0)


class _Price(_Symbol):
    price: Decimal = Field(gt=0)


class _Market(BaseModel):
    session: Session


class _Fill(_Symbol):
    side: Side
    qty: Decimal = Field(gt=0)
    after: float = Field(default=0, ge=0)


class _Stubborn(_Symbol):
    side: Side
    qty: Decimal = Field(gt=0)
    limit_price: Decimal | None = Field(default=None, gt=0)
    times: int = Field(default=3, ge=0)
    seconds: float = Field(default=float("inf"), ge=0)
    delay: float = Field(default=0.2, ge=0)


def _add_control_routes(app: FastAPI, host: Host) -> None:
    @app.get("/_paper/report")
    async def report() -> Response:
        return JSONResponse(host.venue.report())

    @app.post("/_paper/scenario")
    async def scenario(request: Request) -> Response:
        """Start over with the scenario in the body: TOML text, or JSON."""
        body = (await request.body()).decode()
        try:
            new = Scenario.model_validate_json(body) if body.lstrip().startswith("{") else parse(body)
        except (ScenarioError, ValidationError) as error:
            raise Refusal(422, 0, str(error)) from error
        host.restart(new)
        return Response(status_code=204)

    @app.post("/_paper/halt")
    async def halt(halt: _Halt) -> Response:
        exchange = _known(host, halt.symbol)
        exchange.halt(halt.symbol, rejects=halt.mode == "reject", status=halt.status)
        if halt.seconds is not None:
            exchange.after(halt.seconds, partial(exchange.resume, halt.symbol))
        return Response(status_code=204)

    @app.post("/_paper/resume")
    async def resume(which: _Symbol) -> Response:
        _known(host, which.symbol).resume(which.symbol)
        return Response(status_code=204)

    @app.post("/_paper/price")
    async def price(move: _Price) -> Response:
        host.venue.exchange.set_price(move.symbol, move.price)
        return Response(status_code=204)

    @app.post("/_paper/market")
    async def market(market: _Market) -> Response:
        host.venue.exchange.change_session(market.session)
        return Response(status_code=204)

    @app.post("/_paper/trouble")
    async def add_trouble(rule: Trouble) -> Response:
        host.venue.trouble.add_rule(rule)
        return Response(status_code=204)

    @app.delete("/_paper/trouble")
    async def end_trouble() -> Response:
        host.venue.trouble.replace_rules(())
        return Response(status_code=204)

    @app.post("/_paper/strategy-order")
    async def strategy_order(stubborn: _Stubborn) -> Response:
        exchange = _known(host, stubborn.symbol)
        request = OrderRequest(
            stubborn.symbol,
            stubborn.side,
            OrderType.MARKET if stubborn.limit_price is None else OrderType.LIMIT,
            TimeInForce.DAY,
            qty=stubborn.qty,
            limit_price=stubborn.limit_price,
        )
        again = Resubmission(stubborn.times, exchange.now + stubborn.seconds, stubborn.delay)
        return JSONResponse(host.venue.writer.order(exchange.submit_strategy_order(request, again)))

    @app.post("/_paper/late-fill")
    async def late_fill(fill: _Fill) -> Response:
        exchange = _known(host, fill.symbol)
        exchange.after(fill.after, partial(exchange.late_fill, fill.symbol, fill.side, fill.qty))
        return Response(status_code=204)

    @app.post("/_paper/fast-market")
    async def fast_market(symbol: Annotated[str | None, Body(embed=True)] = None) -> Response:
        host.venue.exchange.fast_market(symbol)
        return Response(status_code=204)


# Around every request


class _Edge:
    """What stands between the wire and the exchange: counting, keys, trouble, rate limit and latency."""

    def __init__(self, app: ASGIApp, host: Host, disconnect: Disconnect) -> None:
        self._app = app
        self._host = host
        self._disconnect = disconnect

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith("/v2"):
            if scope["type"] == "http":
                self._host.venue.advance()
            await self._app(scope, receive, send)
            return
        venue = self._host.venue
        route = _route(scope["method"], scope["path"])
        venue.record.requested(route, venue.now())
        plan = venue.trouble.plan(route, venue.now())
        await _pause(venue, plan.latency / 2)
        answer = await self._answer(venue, scope, receive, plan.trouble)
        await _pause(venue, plan.latency / 2)
        if isinstance(answer, Response):
            answer.headers.update(venue.rate_limit_headers())
            venue.record.responses[answer.status_code] += 1
            await answer(scope, receive, send)
        else:
            await self._leave_unanswered(scope, receive, answer)

    async def _answer(self, venue: Venue, scope: Scope, receive: Receive, trouble: Trouble | None) -> Response | str:
        """The answer, or how to leave the request without one."""
        if not _authorised(venue, scope):
            return JSONResponse({"code": 40110000, "message": "request is not authorized"}, 401)
        if not venue.rate_limit.take(venue.now()):
            return JSONResponse(_ERROR_BODIES["429"], 429)
        if trouble is None:
            return await self._apply(venue, scope, receive)
        venue.record.trouble[trouble.kind + (" applied" if trouble.applied else "")] += 1
        if trouble.applied:
            await self._apply(venue, scope, receive)
        body = _ERROR_BODIES.get(trouble.kind)
        return JSONResponse(body, int(trouble.kind)) if body else trouble.kind

    async def _apply(self, venue: Venue, scope: Scope, receive: Receive) -> Response:
        """Run the request against the exchange and keep its answer."""
        venue.advance()
        status, parts = 500, []

        async def keep(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            else:
                parts.append(message.get("body", b""))

        try:
            await self._app(scope, receive, keep)
        except ClientDisconnect:
            return Response(status_code=400)  # it went away before its request was whole: nothing to act on
        body = b"".join(parts)
        return Response(body, status, media_type="application/json" if body else None)

    async def _leave_unanswered(self, scope: Scope, receive: Receive, how: str) -> None:
        """Drop the connection, or say nothing until the client gives up."""
        if how == "drop":
            self._disconnect(scope)
        while (await receive())["type"] != "http.disconnect":
            pass


async def _pause(venue: Venue, seconds: float) -> None:
    if seconds > 0:
        await asyncio.sleep(seconds / venue.scenario.time_scale)


def _authorised(venue: Venue, scope: Scope) -> bool:
    headers = dict(scope["headers"])
    account = venue.scenario.account
    return (
        headers.get(b"apca-api-key-id") == account.key.encode()
        and headers.get(b"apca-api-secret-key") == account.secret.encode()
    )


def _route(method: str, path: str) -> str:
    """Method and path with what varies replaced, as reports and trouble rules name it."""
    parts = unquote(path).strip("/").split("/")
    if len(parts) > 2 and parts[1] in {"orders", "positions", "assets"}:
        parts[2:] = ["{id}" if parts[1] == "orders" else "{symbol}"]
    return f"{method} /{'/'.join(parts)}"


def _known(host: Host, symbol: str) -> Exchange:
    if symbol not in host.venue.exchange.prices:
        raise not_found(f"asset not found for {symbol}")
    return host.venue.exchange
