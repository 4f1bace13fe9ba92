"""A real HTTP server that answers as an exchange does, and remembers what it was asked."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

from aiohttp import web
from aiohttp.test_utils import TestServer

from brokers.ccxt import CcxtBroker, from_settings
from configuration.accounts import AccountSettings

SECRET = "s3cr3t-that-nobody-may-see"
KEY = "public-half-of-it"


@dataclass(frozen=True)
class Asked:
    """One request."""

    method: str
    path: str
    params: Mapping[str, str]
    text: str = ""
    """Its body as it came."""

    @property
    def route(self) -> str:
        return f"{self.method} {self.path}"


@dataclass(frozen=True)
class Told:
    """An answer that is more than a body of status 200."""

    body: Any
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    after: float = 0.0
    """Seconds before it is sent."""
    breaks_off: bool = False
    """The connection is closed instead of an answer."""


Answer = Any | Told | Callable[[Asked], Any]


class LocalExchange:
    """Answers by `METHOD /path`; a route that has none is a mistake of the test's and answers 404."""

    def __init__(self, answers: Mapping[str, Answer]) -> None:
        self.answers = dict(answers)
        self.asked: list[Asked] = []
        self.answered: list[str] = []
        """Routes with their symbols, of what was answered before whoever asked had hung up."""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        text = await request.text()
        body = dict(parse_qsl(text, keep_blank_values=True))
        asked = Asked(request.method, request.path, {**request.query, **body}, text)
        self.asked.append(asked)
        answer = self.answers.get(asked.route, Told({"code": -404, "msg": f"no answer for {asked.route}"}, 404))
        if callable(answer) and not isinstance(answer, Told):
            answer = answer(asked)
        told = answer if isinstance(answer, Told) else Told(answer)
        await asyncio.sleep(told.after)
        if request.transport is not None and not request.transport.is_closing():
            self.answered.append(f"{asked.route} {asked.params.get('symbol', '')}".rstrip())
        if told.breaks_off:
            assert request.transport is not None
            request.transport.close()
            return web.Response()
        return web.Response(
            text=json.dumps(told.body), status=told.status, headers=dict(told.headers), content_type="application/json"
        )

    def of(self, route: str) -> list[Asked]:
        """What was asked of one route."""
        return [asked for asked in self.asked if asked.route == route]


@asynccontextmanager
async def serving(answers: Mapping[str, Answer]) -> AsyncIterator[tuple[LocalExchange, str]]:
    exchange = LocalExchange(answers)
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", exchange.handle)
    server = TestServer(app)
    await server.start_server(access_log=None)
    try:
        yield exchange, str(server.make_url("")).rstrip("/")
    finally:
        await server.close()


@asynccontextmanager
async def opened(url: str, **settings: Any) -> AsyncIterator[CcxtBroker]:
    """A broker of an account of these settings, at this address."""
    account = AccountSettings.model_validate(
        {
            "adapter": "ccxt",
            "exchange": "binanceusdm",
            "key_id": KEY,
            "secret_key": SECRET,
            "urls": url,
            "request_timeout": 2.0,
            **settings,
        }
    )
    broker = from_settings("ALPHA", account)
    try:
        yield broker
    finally:
        await broker.aclose()


def futures_market(symbol: str, base: str, **more: Any) -> dict[str, Any]:
    """One instrument of Binance's USDⓈ-M `exchangeInfo`."""
    return {
        "symbol": symbol,
        "pair": symbol,
        "contractType": "PERPETUAL",
        "deliveryDate": 4133404800000,
        "onboardDate": 1569398400000,
        "status": "TRADING",
        "baseAsset": base,
        "quoteAsset": "USDT",
        "marginAsset": "USDT",
        "pricePrecision": 2,
        "quantityPrecision": 3,
        "baseAssetPrecision": 8,
        "quotePrecision": 8,
        "filters": [
            {"filterType": "PRICE_FILTER", "minPrice": "0.10", "maxPrice": "4529764", "tickSize": "0.10"},
            {"filterType": "LOT_SIZE", "stepSize": "0.001", "maxQty": "1000", "minQty": "0.001"},
            {"filterType": "MARKET_LOT_SIZE", "stepSize": "0.001", "maxQty": "120", "minQty": "0.001"},
            {"filterType": "MIN_NOTIONAL", "notional": "100"},
        ],
        "orderTypes": ["LIMIT", "MARKET", "STOP", "STOP_MARKET", "TAKE_PROFIT", "TAKE_PROFIT_MARKET"],
        "timeInForce": ["GTC", "IOC", "FOK", "GTX"],
        **more,
    }


def spot_market(base: str, quote: str, least: str = "5.0", **more: Any) -> dict[str, Any]:
    """One pair of Binance's spot `exchangeInfo`; `least`: what an order must be worth."""
    return {
        "symbol": base + quote,
        "status": "TRADING",
        "baseAsset": base,
        "baseAssetPrecision": 8,
        "quoteAsset": quote,
        "quotePrecision": 8,
        "orderTypes": ["LIMIT", "LIMIT_MAKER", "MARKET", "STOP_LOSS_LIMIT", "TAKE_PROFIT_LIMIT"],
        "isSpotTradingAllowed": True,
        "isMarginTradingAllowed": True,
        "permissions": [],
        "filters": [
            {"filterType": "PRICE_FILTER", "minPrice": "0.01", "maxPrice": "1000000", "tickSize": "0.01"},
            {"filterType": "LOT_SIZE", "minQty": "0.00001", "maxQty": "9000", "stepSize": "0.00001"},
            {"filterType": "MARKET_LOT_SIZE", "minQty": "0.0", "maxQty": "120", "stepSize": "0.0"},
            {"filterType": "NOTIONAL", "minNotional": least, "applyMinToMarket": True, "maxNotional": "9000000"},
        ],
        **more,
    }
