"""Know every list that an account's orders and positions are in, before what they tell is taken for all of it.

Of an exchange that has an entry (`venue_table`) it says so. Of any other ccxt's own description does: whether
conditional and trailing orders are asked for apart, and whether there are inverse contracts beside linear ones. At
Hyperliquid others run exchanges of their own, in which the account may have something, and which come and go.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from breaker.orders import Unreadable
from brokers.ccxt.connection import Connection
from brokers.ccxt.hyperliquid import ASKED_WITHIN, OtherExchanges
from brokers.ccxt.reading import at_path
from brokers.ccxt.venues import PositionView, Venue, View
from brokers.protocol import BrokerRefused, BrokerUnavailable

_APART = ("trigger", "trailing")
"""What ccxt calls lists that are asked for by themselves, in the words that they are asked with."""
UNIFIED = "uta"
"""ccxt's option that says whether an account is unified."""


def way_out(line: str) -> str:
    """What to do about a product line that can't be read and that the account is not meant to have."""
    return f'; if the account is to do without it: leave_out = ["{line}"]' if line else ""


@dataclass(frozen=True, slots=True)
class Views:
    """Every list of an account's open orders, and every list of its positions."""

    orders: Sequence[View]
    positions: Sequence[PositionView]


class Lists:
    """Those of one account, in one of its exchange's markets."""

    def __init__(self, connection: Connection, venue: Venue, market: str) -> None:
        self._connection = connection
        self._venue = venue
        self._market = market
        self._mode_known = venue.unified is None or connection.options.get(UNIFIED) is not None
        self._others = OtherExchanges(connection) if connection.exchange_id == "hyperliquid" else None
        self._views = {view.name: view for view in venue.orders}

    def view(self, name: str) -> View:
        """The list of orders of this name; one that isn't known is an ordinary one."""
        return self._views.get(name, View())

    async def orders(self) -> tuple[Sequence[View], Sequence[Unreadable]]:
        """With what keeps from knowing that these are all. Raises `BrokerError` where none is known."""
        views = list((await self._told()).orders)
        untold: Sequence[Unreadable] = ()
        if self._others is not None:
            names, untold = await self._beside("order", self._others.with_orders)
            views += [View(name, {"dex": name}, line=name) for name in names]
        self._views = {view.name: view for view in views}
        return views, untold

    async def positions(self) -> tuple[Sequence[PositionView], Sequence[Unreadable]]:
        """With what keeps from knowing that these are all. Raises `BrokerError` where none is known."""
        views = list((await self._told()).positions)
        untold: Sequence[Unreadable] = ()
        if self._others is not None:
            names, untold = await self._beside("position", self._others.names)
            views += [PositionView(name, {"dex": name}) for name in names]
        return views, untold

    def has_something(self, view: View | PositionView) -> None:
        """There is something in this list: orders are looked for there each time from now on."""
        if self._others is not None and view.line:
            self._others.has_something(view.line)

    def has_nothing(self, view: View) -> None:
        """This list was read, and there is nothing in it."""
        if self._others is not None and view.line:
            self._others.has_no_orders(view.line)

    async def aclose(self) -> None:
        """Ask no more."""
        if self._others is not None:
            await self._others.aclose()

    async def _beside(
        self, what: str, names: Callable[[], Awaitable[Sequence[str]]]
    ) -> tuple[Sequence[str], Sequence[Unreadable]]:
        try:
            return await names(), ()
        except BrokerUnavailable as error:
            problem = f"at which other exchanges there the account may have something can't be told: {error}"
            return (), (Unreadable(what, "", "", problem),)

    async def _told(self) -> Views:
        if not self._mode_known:
            await self._tell_mode(await self._connection.ready())
        if self._venue.known:
            return Views(self._venue.orders, self._venue.positions)
        return described(await self._connection.ready(), self._market)

    async def _tell_mode(self, exchange: Any) -> None:
        """A unified account is asked, and answers, by other calls. Until that is known it is taken for none.

        The calls of the other kind are refused to a unified account: then nothing of it is flat.
        """
        unified = self._venue.unified
        assert unified is not None  # noqa: S101 - else it is known
        exchange.options[UNIFIED] = False
        try:
            async with asyncio.timeout(ASKED_WITHIN):
                answer = await self._connection.once("kind of account", lambda asked: getattr(asked, unified.call)({}))
        except (BrokerUnavailable, TimeoutError):
            return
        except BrokerRefused:
            self._mode_known = True
            return
        exchange.options[UNIFIED] = not unified.path or at_path(answer, unified.path) == unified.word
        self._mode_known = True


def described(exchange: Any, market: str) -> Views:
    """By what ccxt says of an exchange without an entry."""
    kinds = _sub_types(exchange, market)
    apart = kinds not in (("",), ("linear",))  # which is what ccxt asks for unless told
    orders = [view for kind in kinds for view in _orders(exchange, market, kind, apart=apart)]
    positions = [PositionView(kind, {"subType": kind}) for kind in kinds] if apart else [PositionView()]
    return Views(sorted(orders, key=lambda view: not view.conditional), positions)


def _sub_types(exchange: Any, market: str) -> tuple[str, ...]:
    """Linear or inverse contracts, or both, as far as the exchange lists any; empty words where that is no question."""
    if market in ("spot", "margin"):
        return ("",)
    listed = exchange.markets.values()
    kinds = ("linear", "inverse")
    found = tuple(kind for kind in kinds if any(each.get("contract") and each.get(kind) for each in listed))
    return found or ("linear",)


def _orders(exchange: Any, market: str, kind: str, *, apart: bool) -> Sequence[View]:
    listing = {"subType": kind} if apart else {}
    ordinary = View(kind if apart else "", listing, line=kind if apart else "")
    told = [
        word
        for word in _APART
        if exchange.feature_value_by_type("spot" if not kind else market, kind or None, "fetchOpenOrders", word)
    ]
    return [
        *(
            replace(
                ordinary,
                name=f"{ordinary.name} {word}".strip(),
                listing={**listing, word: True},
                cancelling={word: True},
                conditional=True,
            )
            for word in told
        ),
        ordinary,
    ]
