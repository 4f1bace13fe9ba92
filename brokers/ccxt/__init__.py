"""The adapter for the exchanges that ccxt speaks to; of `ccxt` nothing is imported before the first call."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from brokers.ccxt.adapter import KEEP, CcxtBroker
from brokers.ccxt.connection import Connection
from brokers.ccxt.market_store import MarketStore
from brokers.ccxt.venue_table import venue_of
from brokers.ccxt.venues import Venue
from configuration.settings import ConfigurationError

if TYPE_CHECKING:
    from configuration.accounts import AccountSettings

__all__ = ["CcxtBroker", "from_settings"]

_WALLETS = frozenset({"hyperliquid", "dydx", "paradex", "lighter"})
"""Exchanges whose keys are a wallet's address and its private key."""
_SUBACCOUNTS = {"hyperliquid": "subAccountAddress"}


def from_settings(name: str, account: AccountSettings, markets_dir: Path | None = None) -> CcxtBroker:
    """The entry point of adapter `ccxt`. Nothing is imported or asked yet: what is wrong is told by the first call.

    Args:
        name: the account's name in the configuration.
        account: its settings.
        markets_dir: where exchanges' lists of markets are kept; None: nowhere.
    """
    exchange, key_id, secret_key = account.exchange, account.key_id, account.secret_key
    assert exchange and key_id and secret_key  # noqa: S101 - the settings of this adapter are not valid without them
    venue = venue_of(exchange, account.market)
    check_left_out(name, account.leave_out, venue)
    wallet = exchange in _WALLETS
    credentials = {
        "walletAddress" if wallet else "apiKey": key_id.get_secret_value(),
        "privateKey" if wallet else "secret": secret_key.get_secret_value(),
    }
    if account.password is not None:
        credentials["password"] = account.password.get_secret_value()
    limit = account.requests_per_minute if "requests_per_minute" in account.model_fields_set else None
    options = {"defaultType": account.market, **venue.options, **account.options}
    if account.subaccount:
        options[_SUBACCOUNTS[exchange]] = account.subaccount
    connection = Connection(
        name,
        exchange,
        credentials,
        options=options,
        urls=account.urls,
        timeout=account.request_timeout,
        requests_per_minute=limit or venue.requests_per_minute,
        market_store=None
        if markets_dir is None
        else MarketStore(markets_dir, exchange, account.market, place_of(account)),
    )
    return CcxtBroker(
        name,
        exchange,
        account.market,
        connection,
        keep=account.keep or KEEP,
        requests_per_minute=limit,
        leave_out=account.leave_out,
    )


def check_left_out(name: str, left_out: Sequence[str], venue: Venue) -> None:
    """Raises ConfigurationError where there is no such product line, or where nothing would be left."""
    unknown = [line for line in left_out if line not in venue.lines]
    if not unknown and (not left_out or len({*left_out}) < len(venue.lines)):
        return
    there = f"are {', '.join(venue.lines)}" if venue.lines else "is none that can be left out"
    said = f"has no {', '.join(unknown)}" if unknown else "would have nothing left"
    raise ConfigurationError(f"accounts.{name}.leave_out: the account {said}; of what it reads there {there}")


def place_of(account: AccountSettings) -> str:
    """What the list of markets depends on beside exchange and market: another address, or what ccxt is told."""
    asked = {"urls": account.urls, "options": dict(account.options)}
    return json.dumps(asked, sort_keys=True, default=str) if any(asked.values()) else ""
