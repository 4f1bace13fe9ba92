"""Route Alpaca's Trading API v2 onto the exchange."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from breaker.instruments import AssetClass
from breaker.orders import TimeInForce
from sandbox.exchange.alpaca.account import add_account_routes
from sandbox.exchange.alpaca.answers import Json, Writer, asset, asset_id
from sandbox.exchange.alpaca.market_data import add_market_data_routes
from sandbox.exchange.alpaca.requests import (
    flag,
    is_uuid,
    moment,
    number,
    read_client_order_id,
    read_object,
    read_order,
    word,
)
from sandbox.exchange.assets import in_positions
from sandbox.exchange.orders import OrderClass, OrderRequest, PaperOrder, PaperPosition
from sandbox.exchange.refusal import Refusal, invalid, not_found
from sandbox.exchange.venue import Host, Venue

_DEFAULT_PAGE: Final = 50
_LARGEST_PAGE: Final = 500


def add_alpaca_routes(app: FastAPI, host: Host) -> None:
    """Alpaca's paths onto the host's venue."""
    app.add_exception_handler(Refusal, _refused)
    add_account_routes(app, host)
    add_market_data_routes(app, host)
    _add_asset_routes(app, host)
    _add_order_routes(app, host)
    _add_position_routes(app, host)


def _writer(venue: Venue) -> Writer:
    return Writer(venue.exchange, venue.opened_at)


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)  # noqa: S101 - registered for nothing else
    return JSONResponse(error.body, error.status)


# Assets


def _add_asset_routes(app: FastAPI, host: Host) -> None:
    @app.get("/v2/assets")
    async def assets() -> Response:
        book = host.venue.exchange.book
        listed = [book.asset(symbol) for symbol in sorted(book.prices)]
        return JSONResponse([asset(each) for each in listed if each.asset_class is not AssetClass.OPTION])

    @app.get("/v2/assets/{symbol:path}")
    async def one_asset(symbol: str) -> Response:
        listed = _symbol(host, symbol, f"asset not found for {symbol}")
        return JSONResponse(asset(host.venue.exchange.book.asset(listed)))


def _symbol(host: Host, symbol_or_id: str, missing: str) -> str:
    """The symbol meant by a path, which may hold an asset's id instead."""
    book = host.venue.exchange.book
    if listed := book.listed(symbol_or_id):
        return listed
    if is_uuid(symbol_or_id):
        for symbol in book.prices:
            if asset_id(symbol) == symbol_or_id:
                return symbol
    raise not_found(missing)


def _as_listed(host: Host, order: OrderRequest) -> OrderRequest:
    """With its symbols as orders have them; an unknown one stays as it is."""
    book = host.venue.exchange.book
    legs = tuple(replace(leg, symbol=book.listed(leg.symbol) or leg.symbol) for leg in order.legs)
    return replace(order, symbol=book.listed(order.symbol) or order.symbol, legs=legs)


# Orders


def _add_order_routes(app: FastAPI, host: Host) -> None:
    @app.post("/v2/orders")
    async def create(request: Request) -> Response:
        order = host.venue.exchange.submit(_as_listed(host, read_order(read_object(await request.body()))))
        return JSONResponse(_writer(host.venue).order(order))

    @app.get("/v2/orders")
    async def listed(request: Request) -> Response:
        return JSONResponse(_list_orders(host.venue, dict(request.query_params)))

    @app.get("/v2/orders:by_client_order_id")
    async def by_client_order_id(request: Request) -> Response:
        wanted = request.query_params.get("client_order_id")
        if not wanted:
            raise invalid("client_order_id is required")
        return JSONResponse(_writer(host.venue).order(host.venue.exchange.book.order_by_client_id(wanted)))

    @app.get("/v2/orders/{order_id}")
    async def one(order_id: str, request: Request) -> Response:
        nested = flag(dict(request.query_params), "nested")
        order = host.venue.exchange.book.order(_order_id(order_id))
        return JSONResponse(_writer(host.venue).order(order, legs=nested or order.parent is None))

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
        return JSONResponse(_writer(host.venue).order(order))

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
    book, writer = venue.exchange.book, _writer(venue)
    wanted = _filter(venue, query, status)
    source = book.listed_as_open if status == "open" else list(book.orders.values())
    source.sort(key=lambda order: order.submitted_at)
    if newest_first:
        source.reverse()
    page: list[PaperOrder] = []
    limit = _page_size(query)
    apart = venue.scenario.legs_listed_apart and not nested
    for order in source:
        if len(page) == limit:
            break
        with_parent = nested or (order.goes_with_parent and not apart)
        if wanted(order) and not (with_parent and order.parent is not None and wanted(order.parent)):
            page.append(order)
    return [writer.order(order, legs=nested or (bool(order.joint_legs) and not apart)) for order in page]


def _filter(venue: Venue, query: dict[str, str], status: str) -> Callable[[PaperOrder], bool]:
    writer, book = _writer(venue), venue.exchange.book
    after, until = moment(query, "after"), moment(query, "until")
    earliest = float("-inf") if after is None else writer.seconds(after)
    latest = float("inf") if until is None else writer.seconds(until)
    named = query["symbols"].split(",") if query.get("symbols") else []
    symbols = {book.listed(symbol) or symbol for symbol in named}
    side = word(query, "side", ("", "buy", "sell"))

    def wanted(order: PaperOrder) -> bool:
        return (
            (status == "all" or order.is_listed_as_open == (status == "open"))
            and earliest < round(order.submitted_at, 6) < latest
            and (not symbols or any(each.symbol in symbols for each in (order, *order.joint_legs)))
            and (not side or (order.side == side and order.order_class is not OrderClass.MLEG))
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
        writer = _writer(venue)
        return JSONResponse([writer.position(position) for position in venue.exchange.book.positions.values()])

    @app.get("/v2/positions/{symbol:path}")
    async def one(symbol: str) -> Response:
        return JSONResponse(_writer(host.venue).position(_position(host, symbol)))

    @app.delete("/v2/positions/{symbol:path}")
    async def close(symbol: str, request: Request) -> Response:
        query = dict(request.query_params)
        qty, percentage = number(query, "qty"), number(query, "percentage")
        if qty is not None and percentage is not None:
            raise invalid("only one of qty or percentage is accepted")
        if percentage is not None and percentage > 100:
            raise invalid("percentage must be between 0 and 100")
        order = host.venue.exchange.close_position(_position(host, symbol).symbol, qty, percentage)
        return JSONResponse(_writer(host.venue).order(order))

    @app.delete("/v2/positions")
    async def close_all(request: Request) -> Response:
        cancel_orders = flag(dict(request.query_params), "cancel_orders")
        results = host.venue.exchange.close_all(cancel_orders=cancel_orders)
        return JSONResponse([_closed(_writer(host.venue), *result) for result in results], 207)


def _position(host: Host, symbol: str) -> PaperPosition:
    missing = "position does not exist"
    return host.venue.exchange.book.position(_symbol(host, symbol, missing))


def _closed(writer: Writer, symbol: str, result: PaperOrder | Refusal) -> Json:
    symbol = in_positions(symbol)
    if isinstance(result, Refusal):
        return {"symbol": symbol, "status": result.status, "body": result.body}
    return {"symbol": symbol, "status": 200, "body": writer.order(result)}
