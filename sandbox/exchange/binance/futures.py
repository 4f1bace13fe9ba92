"""Answer USDⓈ-M futures' endpoints for orders and trades.

Source: developers.binance.com, "USDⓈ-M Futures", "Trade". A cancel is answered when it has taken effect; one that lost
the race against a fill is -2011. An order's client order id is free again once it is closed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final

from sandbox.exchange.binance import errors
from sandbox.exchange.binance.answers import Json
from sandbox.exchange.binance.endpoints import (
    Endpoint,
    always,
    by_symbol,
    listed_symbol,
    open_orders,
    submit,
    until_cancelled,
)
from sandbox.exchange.binance.errors import BinanceRefusal
from sandbox.exchange.binance.futures_answers import FuturesWriter
from sandbox.exchange.binance.lookup import cancel, closed_too, find, one_page, order_ids
from sandbox.exchange.binance.order_requests import futures_order, takes_though_it_must_rest
from sandbox.exchange.binance.parameters import Parameters, limit
from sandbox.exchange.orders import PaperOrder, Status
from sandbox.exchange.refusal import Refusal
from sandbox.exchange.venue import Venue

_MOST_CANCELLED: Final = 10
_MOST_PLACED: Final = 5
_DONE: Final = {"code": 200, "msg": "The operation of cancel all open order is done."}
_ACKNOWLEDGED: Final = {"status": "NEW", "avgPrice": "0.00", "executedQty": "0", "cumQty": "0", "cumQuote": "0"}
_LONGEST_COUNTDOWN: Final = 10**12


async def new_order(venue: Venue, parameters: Parameters) -> Json:
    """An ordinary order. Only `RESULT` tells how it stands when the market has seen it; `ACK`, that it was taken."""
    answer = FuturesWriter(venue).order(_place(venue, parameters))
    return answer if parameters.text("newOrderRespType") == "RESULT" else answer | _ACKNOWLEDGED


def _place(venue: Venue, parameters: Parameters) -> PaperOrder:
    symbol = listed_symbol(venue, parameters)
    request = futures_order(parameters, symbol)
    if takes_though_it_must_rest(parameters, request, venue.exchange.book.prices[symbol]):
        raise errors.would_not_rest()
    return submit(venue, request)


async def check_order(venue: Venue, parameters: Parameters) -> Json:
    """Look at its terms, and place nothing."""
    venue.exchange.check(futures_order(parameters, listed_symbol(venue, parameters)))
    return {}


async def new_orders(venue: Venue, parameters: Parameters) -> list[Json]:
    """Up to five; each is answered by itself, also where the venue refuses it."""
    try:
        wanted = json.loads(parameters.required("batchOrders"))
    except ValueError as error:
        raise errors.invalid_parameter("batchOrders") from error
    if not isinstance(wanted, list) or not 1 <= len(wanted) <= _MOST_PLACED:
        raise BinanceRefusal(-4082, "Invalid number of batch place orders.")
    answers: list[Json] = []
    for each in wanted:
        if not isinstance(each, Mapping):
            raise errors.invalid_parameter("batchOrders")
        try:
            order = _place(venue, Parameters({str(name): _plain(value) for name, value in each.items()}))
        except Refusal as refusal:
            answers.append(refusal.body)
        else:
            answers.append(FuturesWriter(venue).order(order))
    return answers


def _plain(value: object) -> str:
    """As a parameter would have it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


async def query_order(venue: Venue, parameters: Parameters) -> Json:
    """An ordinary order, open or closed; a conditional one has an endpoint of its own."""
    order = find(venue, parameters, listed_symbol(venue, parameters))
    if order is None or order.is_apart or (order.conditional and not order.triggered):
        raise errors.no_such_order()
    return FuturesWriter(venue).order(order)


async def query_open_order(venue: Venue, parameters: Parameters) -> Json:
    """An ordinary order while it is open."""
    order = find(venue, parameters, listed_symbol(venue, parameters))
    if order is None or not order.is_open or order.is_apart:
        raise errors.no_such_order()
    return FuturesWriter(venue).order(order)


async def list_open_orders(venue: Venue, parameters: Parameters) -> list[Json]:
    """Of a symbol or of all; what waits for its price is not among them."""
    writer = FuturesWriter(venue)
    return [writer.order(order) for order in open_orders(venue, parameters) if not order.is_apart]


async def list_orders(venue: Venue, parameters: Parameters) -> list[Json]:
    """Of a symbol, open and closed, the oldest first."""
    symbol = listed_symbol(venue, parameters)
    writer = FuturesWriter(venue)
    found = [order for order in closed_too(venue, parameters, symbol) if not order.conditional or order.triggered]
    return [writer.order(order) for order in found[-limit(parameters, 500, 1_000) :]]


async def cancel_order(venue: Venue, parameters: Parameters) -> Json:
    """An ordinary order."""
    order = find(venue, parameters, listed_symbol(venue, parameters))
    if order is None or order.is_apart:
        raise errors.unknown_order()
    await cancel(venue, order)
    return FuturesWriter(venue).order(order)


async def cancel_orders(venue: Venue, parameters: Parameters) -> list[Json]:
    """Up to ten of a symbol, by ids or client order ids; each is answered by itself."""
    symbol = listed_symbol(venue, parameters)
    wanted = order_ids(parameters)
    if len(wanted) > _MOST_CANCELLED:
        raise BinanceRefusal(-4032, "Exceed maximum cancel order size.")
    book, asked = venue.exchange.book, []
    for word in wanted:
        order = book.orders.get(word)
        if order is None and book.knows_client_order_id(word):
            order = book.order_by_client_id(word)
        asked.append(order if order and order.symbol == symbol and not order.is_apart else None)
    accepted = [order for order in asked if order is not None and _cancel_begins(venue, order)]
    await until_cancelled(venue, accepted)
    writer = FuturesWriter(venue)
    unknown = errors.unknown_order().body
    return [
        writer.order(order) if order in accepted and order is not None and order.status is Status.CANCELED else unknown
        for order in asked
    ]


def _cancel_begins(venue: Venue, order: PaperOrder) -> bool:
    try:
        venue.exchange.cancel(order.id)
    except Refusal:
        return False
    return True


async def cancel_all(venue: Venue, parameters: Parameters) -> Json:
    """All ordinary orders of a symbol; it is answered alike when there is none, or when some are left."""
    symbol = listed_symbol(venue, parameters)
    results = venue.exchange.cancel_all(lambda order: order.symbol == symbol and not order.is_apart)
    await until_cancelled(venue, [order for order, refusal in results if refusal is None])
    return dict(_DONE)


async def count_down(venue: Venue, parameters: Parameters) -> Json:
    """Cancel the symbol's ordinary orders when the countdown ends; 0 stops it.

    Whether conditional orders go with them since they are kept apart, the documentation doesn't say; here they stay.
    """
    symbol = listed_symbol(venue, parameters)
    wanted = parameters.required("countdownTime")
    milliseconds_left = parameters.integer("countdownTime") or 0
    if not 0 <= milliseconds_left <= _LONGEST_COUNTDOWN:
        raise errors.invalid_parameter("countdownTime")
    if milliseconds_left:
        venue.exchange.dead_man.arm(milliseconds_left / 1_000, symbol)
    else:
        venue.exchange.dead_man.disarm(symbol)
    return {"symbol": symbol, "countdownTime": wanted}


async def list_trades(venue: Venue, parameters: Parameters) -> list[Json]:
    """Executions of a symbol, the oldest first."""
    symbol = listed_symbol(venue, parameters)
    writer = FuturesWriter(venue)
    return [writer.trade(number, fill) for number, fill in one_page(venue, parameters, symbol, usual=500, most=1_000)]


async def list_income(venue: Venue, parameters: Parameters) -> list[Json]:
    """Transfers, funding and realised profit, the oldest first."""
    kind, symbol = parameters.text("incomeType"), parameters.text("symbol")
    earliest, latest = parameters.integer("startTime"), parameters.integer("endTime")
    found = [
        entry
        for entry in FuturesWriter(venue).income()
        if kind in {None, entry["incomeType"]}
        and symbol in {None, entry["symbol"]}
        and (earliest is None or int(str(entry["time"])) >= earliest)
        and (latest is None or int(str(entry["time"])) <= latest)
    ]
    size = limit(parameters, 100, 1_000)
    page = parameters.integer("page") or 1
    return found[(page - 1) * size : page * size]


FUTURES_TRADING: Final = [
    Endpoint("POST", "/fapi/v1/order", new_order, always(0)),
    Endpoint("POST", "/fapi/v1/order/test", check_order, always(0)),
    Endpoint("GET", "/fapi/v1/order", query_order, always(1)),
    Endpoint("DELETE", "/fapi/v1/order", cancel_order, always(1)),
    Endpoint("GET", "/fapi/v1/openOrder", query_open_order, always(1)),
    Endpoint("GET", "/fapi/v1/openOrders", list_open_orders, by_symbol(1, 40)),
    Endpoint("GET", "/fapi/v1/allOrders", list_orders, always(5)),
    Endpoint("DELETE", "/fapi/v1/allOpenOrders", cancel_all, always(1)),
    Endpoint("POST", "/fapi/v1/batchOrders", new_orders, always(5)),
    Endpoint("DELETE", "/fapi/v1/batchOrders", cancel_orders, always(1)),
    Endpoint("POST", "/fapi/v1/countdownCancelAll", count_down, always(10)),
    Endpoint("GET", "/fapi/v1/userTrades", list_trades, always(5)),
    Endpoint("GET", "/fapi/v1/income", list_income, always(30)),
]
"""With the weights of the documentation."""
