"""Make the venue that the contract suite checks the adapter for Interactive Brokers against: the TWS API."""

from __future__ import annotations

from brokers.ib import IbBroker
from sandbox.exchange.venue_under_test import KEY, TWS, SandboxVenue


def opened(address: str, key: str, _secret: str, timeout: float) -> IbBroker:
    """There are no keys: what stands for wrong ones is an account that the login does not manage."""
    host, _, port = address.partition(":")
    account = "DU1234567" if key == KEY else "DU7654321"
    return IbBroker("IB", host, int(port), 911, account, timeout=timeout)


def make() -> SandboxVenue:
    return SandboxVenue(opened, TWS)
