"""Read the positions of an account in derivatives: one for each symbol, or a long and a short one in hedge mode."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from breaker.orders import Position, Unreadable
from brokers.ccxt.connection import Connection
from brokers.ccxt.reading import SENSELESS, is_nothing, read_instrument, read_position, unreadable
from brokers.ccxt.venues import Params, Venue
from brokers.protocol import BrokerError, Listed


async def read_positions(connection: Connection, venue: Venue) -> Listed[Position]:
    """Every position, from every request that it takes; which mode the account is in, each says by itself.

    A list that can't be had is unreadable itself, and keeps nothing in the others from being closed. Raises
    `BrokerError` where none can be had.
    """
    answers = await asyncio.gather(*(_asked(connection, params) for params in venue.positions), return_exceptions=True)
    found: list[Position] = []
    unread = _not_had(answers, venue.positions)
    for body in (item for answer in answers if not isinstance(answer, BaseException) for item in answer):
        if is_nothing(body):
            continue
        try:
            market, mode = await _market(connection, str(body.get("symbol") or ""))
            position = read_position(body, read_instrument(market, mode), inverse=market.get("inverse") is True)
            found += [position] if position is not None else []
        except SENSELESS as error:
            unread.append(unreadable("position", body, error))
    return Listed(tuple(found), tuple(unread))


def _not_had(answers: Sequence[object], asked: Sequence[Params]) -> list[Unreadable]:
    errors = [answer for answer in answers if isinstance(answer, BaseException)]
    for error in errors:
        if len(errors) == len(answers) or not isinstance(error, BrokerError):
            raise error
    return [
        Unreadable("position", "", "", f"the list of {' '.join(map(str, params.values()))} can't be had: {answer}")
        for params, answer in zip(asked, answers, strict=True)
        if isinstance(answer, BaseException)
    ]


async def _asked(connection: Connection, params: Params) -> list[Mapping[str, Any]]:
    answer = await connection.read("list of positions", lambda asked: asked.fetch_positions(None, dict(params)))
    return list(answer)


async def _market(connection: Connection, symbol: str) -> tuple[Mapping[str, Any], int]:
    """What ccxt has of it, and in which of its modes it tells steps."""
    if not await connection.has_market(symbol):
        raise ValueError(f"the exchange lists no market {symbol!r} (any more): close it at the exchange")
    exchange = await connection.ready()
    return exchange.markets[symbol], exchange.precisionMode
