"""Arm, renew and take away an exchange's own dead-man timer, by ccxt's call or, at Binance, by the exchange's own."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from brokers.ccxt.connection import Connection
from brokers.ccxt.venues import Venue
from brokers.protocol import NotOffered, SafetyNet

_BY_SYMBOL = "fapiPrivatePostCountdownCancelAll"
"""Binance USDⓈ-M, auto-cancel all open orders: a countdown for each symbol, renewed by being sent again; 0 ends it."""
_BY_SYMBOL_DETAIL = "it cancels the orders of each symbol that had some when it was renewed; positions stay"
_ACCOUNT_DETAIL = "it cancels the orders of the whole account; positions stay"


async def arm(connection: Connection, venue: Venue, timeout: timedelta, symbols: Sequence[str]) -> SafetyNet:
    """Arm or renew it. `symbols` are those that it is armed for where the exchange has one for each."""
    milliseconds = int(timeout.total_seconds() * 1000)
    if venue.safety_net == "account":
        sent = datetime.now(UTC)
        await connection.change("safety net", lambda asked: asked.cancel_all_orders_after(milliseconds))
        return SafetyNet(sent + timeout, verified=True, detail=_ACCOUNT_DETAIL)
    if venue.safety_net == "symbol":
        sent = datetime.now(UTC)
        told = await asyncio.gather(*(_count_down(connection, symbol, milliseconds) for symbol in symbols))
        return SafetyNet(sent + timeout if symbols else None, tuple(symbols), all(told), detail=_BY_SYMBOL_DETAIL)
    raise NotOffered(f"{connection.name}: no timer of {connection.exchange_id} is armed here", account=connection.name)


async def disarm(connection: Connection, venue: Venue, symbols: Sequence[str]) -> None:
    """Take it away."""
    if venue.safety_net == "account":
        await connection.change("safety net", lambda asked: asked.cancel_all_orders_after(0))
    elif venue.safety_net == "symbol":
        await asyncio.gather(*(_count_down(connection, symbol, 0) for symbol in symbols))


async def _count_down(connection: Connection, symbol: str, milliseconds: int) -> bool:
    """Whether the exchange's answer repeats what it was told."""

    async def ask(exchange: Any) -> Any:
        request = {"symbol": exchange.market(symbol)["id"], "countdownTime": milliseconds}
        return await getattr(exchange, _BY_SYMBOL)(request)

    answer = await connection.change(f"safety net of {symbol}", ask)
    return str(answer.get("countdownTime")) == str(milliseconds)
