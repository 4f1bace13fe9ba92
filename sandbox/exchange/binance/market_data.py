"""Answer what anybody may ask of either market: the time, prices, and a book with one price.

The market has one price: it is the best bid, and the best ask is a tick above it. A symbol whose quotes stand still has
an old time stamp. No price of the past is kept: each candle is the one price that there is.
"""

from __future__ import annotations

from decimal import Decimal
from functools import partial
from typing import Final

from sandbox.exchange.binance.answers import Json, decimals_of, fixed, milliseconds, symbol_of, tick_of
from sandbox.exchange.binance.endpoints import (
    Endpoint,
    Handler,
    Security,
    Weight,
    always,
    by_symbol,
    listed_symbol,
    listed_symbols,
)
from sandbox.exchange.binance.errors import BinanceRefusal
from sandbox.exchange.binance.parameters import Parameters, limit
from sandbox.exchange.binance.signing import venue_milliseconds
from sandbox.exchange.scenario import Protocol
from sandbox.exchange.venue import Venue

_SIZE: Final = Decimal(1_000)
_LEVELS: Final = 5
_MINUTE: Final = 60_000
_INTERVALS: Final = {"m": _MINUTE, "h": 60 * _MINUTE, "d": 1_440 * _MINUTE}
"""Milliseconds by the letter of a candle's interval."""


def market_data(prefix: str, protocol: Protocol) -> list[Endpoint]:
    """The endpoints that the two APIs have alike, below this path."""

    def public(path: str, handler: Handler, weight: Weight) -> Endpoint:
        return Endpoint("GET", f"{prefix}/{path}", handler, weight, Security.PUBLIC)

    return [
        public("ping", _ping, always(1)),
        public("time", _time, always(1)),
        public("depth", partial(_depth, protocol), always(5)),
        public("klines", partial(_candles, protocol), always(2)),
        public("ticker/price", partial(_prices, protocol), by_symbol(1, 2)),
        public("ticker/bookTicker", partial(_quotes, protocol), by_symbol(2, 5)),
        public("ticker/24hr", partial(_day, protocol), by_symbol(1, 40)),
    ]


async def _ping(_venue: Venue, _parameters: Parameters) -> Json:
    return {}


async def _time(venue: Venue, _parameters: Parameters) -> Json:
    return {"serverTime": venue_milliseconds(venue.scenario.clock_ahead_ms)}


def is_served(venue: Venue, protocol: Protocol) -> bool:
    """Whether the exchange is this market; the other one lists nothing."""
    return venue.scenario.protocol is protocol


def quoted_at(venue: Venue, symbol: str) -> int:
    """When the symbol was quoted last."""
    return milliseconds(venue, venue.exchange.book.silent_since.get(symbol, venue.exchange.now))


async def _depth(protocol: Protocol, venue: Venue, parameters: Parameters) -> Json:
    symbol = listed_symbol(venue, parameters)
    tick = tick_of(venue.exchange.book.asset(symbol))
    price = venue.exchange.book.prices[symbol]
    bids = [price - level * tick for level in range(_LEVELS) if price > level * tick]
    asks = [price + level * tick for level in range(1, _LEVELS + 1)]
    answer: Json = {
        "lastUpdateId": quoted_at(venue, symbol),
        "bids": [[_text(venue, symbol, each), f"{_SIZE:f}"] for each in bids],
        "asks": [[_text(venue, symbol, each), f"{_SIZE:f}"] for each in asks],
    }
    if protocol is Protocol.BINANCE_FUTURES:
        answer |= {"E": quoted_at(venue, symbol), "T": quoted_at(venue, symbol)}
    return answer


async def _candles(protocol: Protocol, venue: Venue, parameters: Parameters) -> object:
    symbol = listed_symbol(venue, parameters)
    interval = _interval(parameters.required("interval"))
    most = limit(parameters, 500, 1_000 if protocol is Protocol.BINANCE_SPOT else 1_500)
    now = venue_milliseconds(venue.scenario.clock_ahead_ms)
    until = min(parameters.integer("endTime") or now, now)
    newest = until // interval * interval
    since = parameters.integer("startTime")
    first = newest - (most - 1) * interval if since is None else -(-since // interval) * interval
    price = _text(venue, symbol, venue.exchange.book.prices[symbol])
    return [
        [opened, price, price, price, price, "1000", opened + interval - 1, "1000", 10, "500", "500", "0"]
        for opened in range(first, newest + 1, interval)[:most]
    ]


def _interval(said: str) -> int:
    """In milliseconds. Raises `BinanceRefusal`."""
    number, letter = said[:-1], said[-1:]
    if not number.isdecimal() or letter not in _INTERVALS:
        raise BinanceRefusal(-1120, "Invalid interval.")
    return int(number) * _INTERVALS[letter]


async def _prices(protocol: Protocol, venue: Venue, parameters: Parameters) -> object:
    def price(symbol: str) -> Json:
        return {
            "symbol": symbol_of(symbol),
            "price": _text(venue, symbol, venue.exchange.book.prices[symbol]),
            "time": quoted_at(venue, symbol),
        }

    return _one_or_all(protocol, venue, parameters, [price(symbol) for symbol in listed_symbols(venue, parameters)])


async def _quotes(protocol: Protocol, venue: Venue, parameters: Parameters) -> object:
    def quote(symbol: str) -> Json:
        price = venue.exchange.book.prices[symbol]
        tick = tick_of(venue.exchange.book.asset(symbol))
        return {
            "symbol": symbol_of(symbol),
            "bidPrice": _text(venue, symbol, price),
            "bidQty": f"{_SIZE:f}",
            "askPrice": _text(venue, symbol, price + tick),
            "askQty": f"{_SIZE:f}",
            "time": quoted_at(venue, symbol),
        }

    return _one_or_all(protocol, venue, parameters, [quote(symbol) for symbol in listed_symbols(venue, parameters)])


async def _day(protocol: Protocol, venue: Venue, parameters: Parameters) -> object:
    def day(symbol: str) -> Json:
        price = _text(venue, symbol, venue.exchange.book.prices[symbol])
        closed = quoted_at(venue, symbol)
        return {
            "symbol": symbol_of(symbol),
            "priceChange": "0",
            "priceChangePercent": "0",
            "weightedAvgPrice": price,
            "lastPrice": price,
            "lastQty": "1",
            "bidPrice": price,
            "bidQty": f"{_SIZE:f}",
            "askPrice": price,
            "askQty": f"{_SIZE:f}",
            "openPrice": price,
            "highPrice": price,
            "lowPrice": price,
            "volume": "1000",
            "quoteVolume": "1000",
            "openTime": closed - 86_400_000,
            "closeTime": closed,
            "firstId": 1,
            "lastId": 2,
            "count": 2,
        }

    return _one_or_all(protocol, venue, parameters, [day(symbol) for symbol in listed_symbols(venue, parameters)])


def _one_or_all(protocol: Protocol, venue: Venue, parameters: Parameters, found: list[Json]) -> object:
    if parameters.text("symbol"):
        return found[0]
    return found if is_served(venue, protocol) else []


def _text(venue: Venue, symbol: str, price: Decimal) -> str:
    return fixed(price, decimals_of(tick_of(venue.exchange.book.asset(symbol))))
