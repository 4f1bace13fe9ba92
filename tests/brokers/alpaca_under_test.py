"""Make the venue that the contract suite checks the Alpaca adapter against."""

from __future__ import annotations

from brokers.alpaca import AlpacaBroker
from sandbox.exchange.venue_under_test import ALPACA, SandboxVenue


def make() -> SandboxVenue:
    return SandboxVenue(
        lambda url, key, secret, timeout: AlpacaBroker("ALPHA", url, key, secret, timeout=timeout), ALPACA
    )
