"""Name what Kraken's spot exchange holds on margin: it is in no balance, and a wallet without any other is not flat."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from breaker.orders import Unreadable
from brokers.ccxt.connection import Connection
from brokers.ccxt.reading import SENSELESS, decimal
from brokers.protocol import BrokerError

_CLOSE = "close it at the exchange, or by its settle-position order; nothing here does"


async def margin_positions(connection: Connection) -> tuple[Unreadable, ...]:
    """One for each that is open (Kraken, get open positions). Never raises: balances are sold whatever it says."""
    try:
        body = await connection.read("list of margin positions", lambda asked: asked.privatePostOpenPositions({}))
    except BrokerError as error:
        return (Unreadable("position", "", "", f"what is held on margin can't be told: {error}"),)
    told = body.get("result") if isinstance(body, Mapping) else None
    if not isinstance(told, Mapping):
        return (
            () if told == [] else (Unreadable("position", "", "", "the list of margin positions can't be understood"),)
        )
    return tuple(_named(name, each) for name, each in told.items())


def _named(name: str, body: Any) -> Unreadable:
    try:
        left = decimal(body["vol"]) - decimal(body.get("vol_closed") or 0)
        pair = str(body["pair"])
        return Unreadable("position", pair, "", f"{body['type']} of {left:f} {pair} on margin ({name}): {_CLOSE}")
    except SENSELESS:
        return Unreadable("position", "", "", f"margin position {name} can't be read: {_CLOSE}")
