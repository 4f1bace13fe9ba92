"""Answer the spot API's endpoints.

Source: developers.binance.com, "Spot", REST API. What is held is a balance; an order locks what it may sell or spend.
"""

from __future__ import annotations

from typing import Final

from sandbox.exchange.binance import errors
from sandbox.exchange.binance.answers import Json
from sandbox.exchange.binance.endpoints import (
    Endpoint,
    Security,
    always,
    by_symbol,
    listed_symbol,
    open_orders,
    submit,
    until_cancelled,
)
from sandbox.exchange.binance.lookup import cancel, closed_too, find, one_page
from sandbox.exchange.binance.market_data import is_served, market_data
from sandbox.exchange.binance.order_requests import spot_order, takes_though_it_must_rest
from sandbox.exchange.binance.parameters import Parameters, limit
from sandbox.exchange.binance.signing import venue_milliseconds
from sandbox.exchange.binance.spot_answers import SpotWriter
from sandbox.exchange.orders import PaperOrder, Status
from sandbox.exchange.scenario import Protocol
from sandbox.exchange.venue import Venue


async def exchange_info(venue: Venue, parameters: Parameters) -> Json:
    """What is listed with its filters: all of it, or what `symbol` or `symbols` name."""
    writer = SpotWriter(venue)
    symbols = sorted(venue.exchange.book.prices) if is_served(venue, Protocol.BINANCE_SPOT) else []
    if parameters.text("symbol"):
        symbols = [listed_symbol(venue, parameters)]
    elif named := parameters.items("symbols"):
        symbols = [listed_symbol(venue, Parameters({"symbol": each})) for each in named]
    return {
        "timezone": "UTC",
        "serverTime": venue_milliseconds(venue.scenario.clock_ahead_ms),
        "rateLimits": [
            {
                "rateLimitType": "REQUEST_WEIGHT",
                "interval": "MINUTE",
                "intervalNum": 1,
                "limit": venue.rate_limit.limit,
            },
            {"rateLimitType": "ORDERS", "interval": "SECOND", "intervalNum": 10, "limit": venue.order_limit.limit},
            {"rateLimitType": "ORDERS", "interval": "DAY", "intervalNum": 1, "limit": 200_000},
        ],
        "exchangeFilters": [],
        "symbols": [writer.listed(symbol) for symbol in symbols],
    }


async def account(venue: Venue, parameters: Parameters) -> Json:
    return SpotWriter(venue).account(with_empty=not parameters.flag("omitZeroBalances"))


async def new_order(venue: Venue, parameters: Parameters) -> Json:
    """It is answered as it stands when the market has seen it."""
    symbol = listed_symbol(venue, parameters)
    request = spot_order(parameters, symbol)
    if takes_though_it_must_rest(parameters, request, venue.exchange.book.prices[symbol]):
        raise errors.would_take()
    order = submit(venue, request)
    usual = "FULL" if request.stop_price is None else "ACK"
    return SpotWriter(venue).placed(order, parameters.text("newOrderRespType") or usual)


async def check_order(venue: Venue, parameters: Parameters) -> Json:
    """Look at its terms, and place nothing."""
    venue.exchange.check(spot_order(parameters, listed_symbol(venue, parameters)))
    return {}


async def query_order(venue: Venue, parameters: Parameters) -> Json:
    order = find(venue, parameters, listed_symbol(venue, parameters))
    if order is None:
        raise errors.no_such_order()
    return SpotWriter(venue).order(order)


async def list_open_orders(venue: Venue, parameters: Parameters) -> list[Json]:
    writer = SpotWriter(venue)
    return [writer.order(order) for order in open_orders(venue, parameters)]


async def list_orders(venue: Venue, parameters: Parameters) -> list[Json]:
    """Of a symbol, open and closed, the oldest first."""
    writer = SpotWriter(venue)
    found = closed_too(venue, parameters, listed_symbol(venue, parameters))
    return [writer.order(order) for order in found[-limit(parameters, 500, 1_000) :]]


async def cancel_order(venue: Venue, parameters: Parameters) -> Json:
    order = find(venue, parameters, listed_symbol(venue, parameters))
    if order is None:
        raise errors.unknown_order()
    await cancel(venue, order)
    return _cancelled(venue, order)


async def cancel_all(venue: Venue, parameters: Parameters) -> list[Json]:
    """All of a symbol; -2011 when there is none. What could not be cancelled is not in the answer."""
    symbol = listed_symbol(venue, parameters)
    results = venue.exchange.cancel_all(lambda order: order.symbol == symbol)
    if not results:
        raise errors.unknown_order()
    accepted = [order for order, refusal in results if refusal is None]
    await until_cancelled(venue, accepted)
    return [_cancelled(venue, order) for order in accepted if order.status is Status.CANCELED]


def _cancelled(venue: Venue, order: PaperOrder) -> Json:
    return SpotWriter(venue).cancelled(order, venue.exchange.new_id())


async def list_trades(venue: Venue, parameters: Parameters) -> list[Json]:
    """Executions of a symbol, the oldest first."""
    symbol = listed_symbol(venue, parameters)
    writer = SpotWriter(venue)
    return [writer.trade(number, fill) for number, fill in one_page(venue, parameters, symbol, usual=500, most=1_000)]


def _my_trades_weight(parameters: Parameters) -> int:
    return 5 if parameters.text("orderId") else 20


SPOT: Final = [
    *market_data("/api/v3", Protocol.BINANCE_SPOT),
    Endpoint("GET", "/api/v3/exchangeInfo", exchange_info, always(20), Security.PUBLIC),
    Endpoint("GET", "/api/v3/account", account, always(20)),
    Endpoint("POST", "/api/v3/order", new_order, always(1)),
    Endpoint("POST", "/api/v3/order/test", check_order, always(1)),
    Endpoint("GET", "/api/v3/order", query_order, always(4)),
    Endpoint("DELETE", "/api/v3/order", cancel_order, always(1)),
    Endpoint("GET", "/api/v3/openOrders", list_open_orders, by_symbol(6, 80)),
    Endpoint("DELETE", "/api/v3/openOrders", cancel_all, always(1)),
    Endpoint("GET", "/api/v3/allOrders", list_orders, always(20)),
    Endpoint("GET", "/api/v3/myTrades", list_trades, _my_trades_weight),
]
"""With the weights of the documentation."""
