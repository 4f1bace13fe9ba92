"""Read the positions of an account in derivatives: one for each symbol, or a long and a short one in hedge mode."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from breaker.orders import Position, Unreadable
from brokers.ccxt.connection import Connection
from brokers.ccxt.errors import says
from brokers.ccxt.lists import UNIFIED, Lists, way_out
from brokers.ccxt.paging import next_page
from brokers.ccxt.reading import SENSELESS, check_read, is_nothing, list_at, read_instrument, read_position, unreadable
from brokers.ccxt.venues import PositionView, Venue
from brokers.protocol import BrokerError, BrokerRefused, Listed

_Body = Mapping[str, Any]


async def read_positions(connection: Connection, venue: Venue, lists: Lists) -> Listed[Position]:
    """Every position, from every list that there is; which mode the account is in, each says by itself.

    A list that can't be had is unreadable itself, and keeps nothing in the others from being closed. Raises
    `BrokerError` where none can be had.
    """
    views, untold = await lists.positions()
    answers = await asyncio.gather(*(_list(connection, venue, view) for view in views), return_exceptions=True)
    found: list[Position] = []
    unread = [*_not_had(answers, views), *untold]
    for view, body in _told_once(views, answers):
        lists.has_something(view)
        try:
            check_read(body)
            market, mode = await _market(connection, str(body.get("symbol") or ""))
            position = read_position(body, read_instrument(market, mode, in_coins=venue.inverse_in_coins))
            found += [position] if position is not None else []
        except SENSELESS as error:
            unread.append(unreadable("position", body, error))
    return Listed(tuple(found), tuple(unread))


def _told_once(
    views: Sequence[PositionView], answers: Sequence[Sequence[_Body] | BaseException]
) -> list[tuple[PositionView, _Body]]:
    """What is none is left out; what an exchange tells in several lists, not minding how it is asked, comes once."""
    first: dict[tuple[str, ...], PositionView] = {}
    told: list[tuple[PositionView, _Body]] = []
    for view, answer in zip(views, answers, strict=True):
        for body in () if isinstance(answer, BaseException) else answer:
            same = tuple(str(body.get(key)) for key in ("symbol", "side", "contracts"))
            if not is_nothing(body) and (not body.get("symbol") or first.setdefault(same, view) is view):
                told.append((view, body))
    return told


def _not_had(answers: Sequence[object], asked: Sequence[PositionView]) -> list[Unreadable]:
    errors = [answer for answer in answers if isinstance(answer, BaseException)]
    for error in errors:
        if len(errors) == len(answers) or not isinstance(error, BrokerError):
            raise error
    return [
        Unreadable("position", "", "", f"the list of {view.line} can't be had: {answer}{way_out(view.line)}")
        for view, answer in zip(asked, answers, strict=True)
        if isinstance(answer, BaseException)
    ]


async def _list(connection: Connection, venue: Venue, view: PositionView) -> list[_Body]:
    found: list[_Body] = []
    more: Mapping[str, Any] = {}
    number = 0
    while True:
        try:
            page = await _page(connection, venue, view, more)
        except BrokerRefused as error:
            if says(error, view.absent):
                return found
            raise
        number += 1
        found += page
        more = next_page(venue.pages, venue.positions_page, page, len(found), number) if venue.positions_page else {}
        if not more:
            return found


async def _page(connection: Connection, venue: Venue, view: PositionView, more: Mapping[str, Any]) -> list[_Body]:
    params = {**view.listing, **more}

    async def ask(exchange: Any) -> list[_Body]:
        if view.raw is None or exchange.options.get(UNIFIED):
            return list(await exchange.fetch_positions(None, params))
        call, path = view.raw
        answer = await getattr(exchange, call)(params)
        return [exchange.parse_position(body) for body in list_at(answer, path)]

    what = f"list of {view.line} positions" if view.line else "list of positions"
    return await connection.read_items(what, ask, venue.told_under, believed=view.absent)


async def _market(connection: Connection, symbol: str) -> tuple[Mapping[str, Any], int]:
    """What ccxt has of it, and in which of its modes it tells steps."""
    if not await connection.has_market(symbol):
        raise ValueError(f"the exchange lists no market {symbol!r} (any more): close it at the exchange")
    exchange = await connection.ready()
    market = exchange.markets[symbol]
    if not market.get("contract"):  # an order there would sell what the wallet holds, and not this (OKX, `MARGIN`)
        raise ValueError(
            f"it is held on margin in the pair {symbol}: nothing here closes that, close it at the exchange"
        )
    return market, exchange.precisionMode
