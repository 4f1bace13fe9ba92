"""Put Binance's two APIs on the server."""

from __future__ import annotations

from fastapi import FastAPI

from sandbox.exchange.binance.conventions import FUTURES_ENDPOINTS
from sandbox.exchange.binance.endpoints import add_endpoints
from sandbox.exchange.binance.spot import SPOT
from sandbox.exchange.binance.wallet import WALLET
from sandbox.exchange.scenario import Protocol
from sandbox.exchange.venue import Host


def add_binance_routes(app: FastAPI, host: Host) -> None:
    """Binance's paths onto the host's venue; refusals are answered as the server answers all."""
    add_endpoints(app, host, Protocol.BINANCE_SPOT, SPOT)
    add_endpoints(app, host, Protocol.BINANCE_FUTURES, FUTURES_ENDPOINTS)
    add_endpoints(app, host, None, WALLET)
