"""Make the venues that the contract suite checks the ccxt adapter against: Binance's futures, both modes, and spot."""

from __future__ import annotations

from typing import Any

from brokers.ccxt import from_settings
from configuration.accounts import AccountSettings
from sandbox.exchange.venue_under_test import (
    BINANCE_FUTURES,
    BINANCE_HEDGE,
    BINANCE_SPOT,
    OpenBroker,
    SandboxVenue,
    SpokenProtocol,
)


def opening(exchange: str, market: str) -> OpenBroker:
    def broker(url: str, key: str, secret: str, timeout: float) -> Any:
        account = {
            "adapter": "ccxt",
            "exchange": exchange,
            "market": market,
            "key_id": key,
            "secret_key": secret,
            "urls": url,
            "request_timeout": timeout,
            "requests_per_minute": 1_000_000,
        }
        return from_settings("BINANCE", AccountSettings.model_validate(account))

    return broker


def futures(protocol: SpokenProtocol = BINANCE_FUTURES) -> SandboxVenue:
    return SandboxVenue(opening("binanceusdm", "swap"), protocol)


def hedge() -> SandboxVenue:
    return futures(BINANCE_HEDGE)


def spot() -> SandboxVenue:
    return SandboxVenue(opening("binance", "spot"), BINANCE_SPOT)
