"""Route Alpaca's market data: the latest quotes of stocks, pairs of currencies and options."""

from __future__ import annotations

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from sandbox.exchange.alpaca.answers import Writer
from sandbox.exchange.venue import Host


def add_market_data_routes(app: FastAPI, host: Host) -> None:
    """At Alpaca they have an address of their own; here they are beside the trading API."""

    @app.get("/v2/stocks/quotes/latest")
    @app.get("/v1beta3/crypto/us/latest/quotes")
    @app.get("/v1beta1/options/quotes/latest")
    async def latest_quotes(request: Request) -> Response:
        """Of the symbols that are listed; others are left out, as Alpaca does."""
        exchange = host.venue.exchange
        writer = Writer(exchange, host.venue.opened_at)
        asked = request.query_params.get("symbols", "").split(",")
        return JSONResponse(
            {"quotes": {symbol: writer.quote(listed) for symbol in asked if (listed := exchange.book.listed(symbol))}}
        )
