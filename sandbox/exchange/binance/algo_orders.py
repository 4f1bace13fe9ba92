"""Answer the algo API of USDⓈ-M futures: conditional orders, which are kept apart from the others since 2025-12-09.

Source: developers.binance.com, "USDⓈ-M Futures", "New Algo Order" and its neighbours. One whose price is reached
becomes an ordinary order of the same id, and is cancelled as one from then on.
"""

from __future__ import annotations

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
from sandbox.exchange.binance.futures_answers import FuturesWriter
from sandbox.exchange.binance.lookup import cancel, closed_too, find
from sandbox.exchange.binance.order_requests import algo_order
from sandbox.exchange.binance.parameters import Parameters, limit
from sandbox.exchange.orders import PaperOrder
from sandbox.exchange.venue import Venue

_DONE: Final = {"code": 200, "msg": "The operation of cancel all open order is done."}


async def new_algo_order(venue: Venue, parameters: Parameters) -> Json:
    order = submit(venue, algo_order(parameters, listed_symbol(venue, parameters)))
    return FuturesWriter(venue).algo_order(order)


async def query_algo_order(venue: Venue, parameters: Parameters) -> Json:
    """Open or closed, triggered or not."""
    order = _find(venue, parameters)
    if order is None:
        raise errors.no_such_order()
    return FuturesWriter(venue).algo_order(order)


async def list_open_algo_orders(venue: Venue, parameters: Parameters) -> list[Json]:
    """Of a symbol or of all, those whose price has not been reached."""
    writer = FuturesWriter(venue)
    return [writer.algo_order(order) for order in open_orders(venue, parameters) if order.is_apart]


async def list_algo_orders(venue: Venue, parameters: Parameters) -> list[Json]:
    """Of a symbol, open and closed, the oldest first."""
    writer = FuturesWriter(venue)
    found = [order for order in closed_too(venue, parameters, listed_symbol(venue, parameters)) if order.conditional]
    return [writer.algo_order(order) for order in found[-limit(parameters, 500, 1_000) :]]


async def cancel_algo_order(venue: Venue, parameters: Parameters) -> Json:
    order = _find(venue, parameters)
    if order is None or not order.is_apart:
        raise errors.unknown_order()
    await cancel(venue, order)
    return {"algoId": int(order.id), "clientAlgoId": order.client_order_id, "code": "200", "msg": "success"}


async def cancel_all_algo_orders(venue: Venue, parameters: Parameters) -> Json:
    """All of a symbol; it is answered alike when there is none, or when some are left."""
    symbol = listed_symbol(venue, parameters)
    results = venue.exchange.cancel_all(lambda order: order.symbol == symbol and order.is_apart)
    await until_cancelled(venue, [order for order, refusal in results if refusal is None])
    return dict(_DONE)


def _find(venue: Venue, parameters: Parameters) -> PaperOrder | None:
    """By its id alone; the symbol is not needed."""
    symbols = [listed_symbol(venue, parameters)] if parameters.text("symbol") else list(venue.exchange.book.prices)
    for symbol in symbols:
        order = find(venue, parameters, symbol, by_id="algoId", by_client_id="clientAlgoId")
        if order is not None and order.conditional:
            return order
    return None


ALGO_ORDERS: Final = [
    Endpoint("POST", "/fapi/v1/algoOrder", new_algo_order, always(0)),
    Endpoint("GET", "/fapi/v1/algoOrder", query_algo_order, always(1)),
    Endpoint("DELETE", "/fapi/v1/algoOrder", cancel_algo_order, always(1)),
    Endpoint("GET", "/fapi/v1/openAlgoOrders", list_open_algo_orders, by_symbol(1, 40)),
    Endpoint("GET", "/fapi/v1/allAlgoOrders", list_algo_orders, always(5)),
    Endpoint("DELETE", "/fapi/v1/algoOpenOrders", cancel_all_algo_orders, always(1)),
]
