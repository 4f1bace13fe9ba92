"""Arm, renew and take away an exchange's own dead-man timer, and read in its answer whether it runs.

Over REST, by ccxt's call where it has one for both. No exchange tells how its timer stands but in answer to a request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from brokers.ccxt.connection import Connection
from brokers.ccxt.reading import SENSELESS, at_path, decimal
from brokers.ccxt.venues import Timer, Venue
from brokers.protocol import BrokerUnavailable, NotOffered, SafetyNet

OFF_DETAIL = "taken away"
_BY_SYMBOL_DETAIL = "it cancels the orders of each symbol that had some when it was renewed; positions stay"
_ACCOUNT_DETAIL = "it cancels the orders of the whole account; positions stay"
_NEAR = timedelta(seconds=3)
"""By how much what an answer says may differ from what was asked: it counts whole seconds, on its own clock."""
_MILLISECONDS_FROM = 100_000_000_000
"""A number as large counts milliseconds: as seconds it would be in the year 5138."""


async def arm(connection: Connection, venue: Venue, timeout: timedelta, symbols: Sequence[str]) -> SafetyNet:
    """Arm or renew it. `symbols` are those that it is armed for where the exchange has one for each."""
    timer = _timer(connection, venue)
    milliseconds = int(timeout.total_seconds() * 1000)
    sent = datetime.now(UTC)
    if timer.per_symbol:
        told = await asyncio.gather(*(_count_down(connection, timer, symbol, milliseconds) for symbol in symbols))
        return SafetyNet(sent + timeout if symbols else None, tuple(symbols), all(told), detail=_BY_SYMBOL_DETAIL)
    answer = await connection.change("safety net", lambda asked: asked.cancel_all_orders_after(milliseconds))
    runs = _runs_for(timer, answer, sent)
    if runs is not None and runs <= timedelta(0):
        return SafetyNet(None, verified=True, detail=_ACCOUNT_DETAIL)
    verified = _is_taken(timer, answer) if not timer.fires_at else runs is not None and abs(runs - timeout) <= _NEAR
    return SafetyNet(sent + timeout, verified=verified, detail=_ACCOUNT_DETAIL)


async def disarm(connection: Connection, venue: Venue, symbols: Sequence[str]) -> SafetyNet:
    """Take it away. Raises `BrokerUnavailable` where the answer says that it runs all the same."""
    timer = _timer(connection, venue)
    sent = datetime.now(UTC)
    if timer.per_symbol:
        told = await asyncio.gather(*(_count_down(connection, timer, symbol, 0) for symbol in symbols))
        return SafetyNet(None, verified=all(told), detail=OFF_DETAIL)
    take_away = hyperliquid_takes_it_away if connection.exchange_id == "hyperliquid" else _set_to_nothing
    answer = await connection.change("safety net", take_away)
    runs = _runs_for(timer, answer, sent)
    if runs is not None and runs > timedelta(0):
        raise BrokerUnavailable(
            f"{connection.name}: {connection.exchange_id} says that its timer runs for {runs.total_seconds():.0f} s",
            account=connection.name,
        )
    verified = runs is not None if timer.fires_at else _is_taken(timer, answer)
    return SafetyNet(None, verified=verified, detail=OFF_DETAIL)


def _timer(connection: Connection, venue: Venue) -> Timer:
    if venue.timer is None:
        raise NotOffered(
            f"{connection.name}: no timer of {connection.exchange_id} is armed here", account=connection.name
        )
    return venue.timer


def _runs_for(timer: Timer, answer: Any, sent: datetime) -> timedelta | None:
    """How long it still runs, by the exchange's clock where the answer has that; None where it doesn't say."""
    if not timer.fires_at:
        return None
    try:
        fires = _time(at_path(answer, timer.fires_at))
        now = _time(at_path(answer, timer.now)) if timer.now else None
    except SENSELESS:
        return None
    return timedelta(0) if fires is None else fires - (now or sent)


def _time(told: Any) -> datetime | None:
    """As exchanges write it: seconds, milliseconds or ISO 8601; None for 0, by which they say that it does not run.

    Raises ValueError where nothing is told.
    """
    text = str(told)
    if "T" in text:
        moment = datetime.fromisoformat(text)
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    number = decimal(text)
    seconds = number / 1000 if number >= _MILLISECONDS_FROM else number
    return datetime.fromtimestamp(float(seconds), UTC) if seconds > Decimal(0) else None


def _is_taken(timer: Timer, answer: Any) -> bool:
    return not timer.taken or str(at_path(answer, timer.taken[0])) == timer.taken[1]


def _set_to_nothing(exchange: Any) -> Awaitable[Any]:
    done: Awaitable[Any] = exchange.cancel_all_orders_after(0)
    return done


async def hyperliquid_takes_it_away(exchange: Any) -> Any:
    """By the action without a time (Hyperliquid, exchange endpoint `scheduleCancel`); ccxt sends one always."""
    nonce, action = exchange.incrementing_nonce(), {"type": "scheduleCancel"}
    address = exchange.format_vault_address(
        exchange.options.get("vaultAddress") or exchange.options.get("subAccountAddress")
    )
    request = {"nonce": nonce, "action": action, "signature": exchange.sign_l1_action(action, nonce, address)}
    return await exchange.privatePostExchange(request | ({"vaultAddress": address} if address else {}))


async def _count_down(connection: Connection, timer: Timer, symbol: str, milliseconds: int) -> bool:
    """Whether the exchange's answer repeats what it was told."""

    async def ask(exchange: Any) -> Any:
        request = {"symbol": exchange.market(symbol)["id"], "countdownTime": milliseconds}
        return await getattr(exchange, timer.per_symbol)(request)

    answer = await connection.change(f"safety net of {symbol}", ask)
    return str(at_path(answer, ("countdownTime",))) == str(milliseconds)
