"""Read every open order of an account, from every list that its exchange has of them, every page."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Any

from breaker.orders import Order, Unreadable
from brokers.ccxt.connection import Connection
from brokers.ccxt.errors import VenueRefused, says
from brokers.ccxt.lists import Lists, way_out
from brokers.ccxt.paging import next_page
from brokers.ccxt.reading import SENSELESS, at_path, list_at, parts_of, read_order, unreadable
from brokers.ccxt.venues import Venue, View
from brokers.protocol import BrokerError, BrokerRefused, BrokerUnavailable, Listed

_Page = tuple[list[Order], list[Unreadable]]

MOST_VERIFIED = 20
"""Conditional orders that are asked for by their ids in one reading; the others count as open until their turn."""
NEWEST = 100
"""Closed orders that are looked through for one, where the exchange finds none by its client order id."""
_CLOSED = {
    "fetchCanceledAndClosedOrders": "fetch_canceled_and_closed_orders",
    "fetchOrders": "fetch_orders",
    "fetchClosedOrders": "fetch_closed_orders",
}
"""ccxt's calls for orders that are no longer open, the fullest first."""


class OpenOrders:
    """The open orders of one account, conditional ones first: one that is set off meanwhile is then in the next list.

    One that has left its list is not taken for gone before the exchange says how it ended: between its price being
    reached and the order that it turns into it is in no list at all.
    """

    def __init__(self, connection: Connection, venue: Venue, lists: Lists) -> None:
        self._connection = connection
        self._venue = venue
        self._lists = lists
        self._conditional: dict[str, Order] = {}

    @property
    def one_by_one(self) -> bool:
        """Whether conditional orders have no request that cancels several by their ids (Binance)."""
        return self._venue.conditional_singly

    def view(self, name: str) -> View:
        """The list that an order is in; one that isn't known is ordinary."""
        return self._lists.view(name)

    async def read(self) -> Listed[Order]:
        """One list that can't be had is unreadable itself, and keeps nothing in the others from being cancelled.

        Raises `BrokerError` where none can be had.
        """
        views, untold = await self._lists.orders()
        conditional = [view for view in views if view.conditional]
        ordinary = [view for view in views if not view.conditional]
        answers = [
            *await asyncio.gather(*(self._list(view) for view in conditional), return_exceptions=True),
            *await asyncio.gather(*(self._list(view) for view in ordinary), return_exceptions=True),
        ]
        pages, missing = _those_had(answers, [*conditional, *ordinary])
        for view, answer in zip([*conditional, *ordinary], answers, strict=True):
            if answer == ([], []):
                self._lists.has_nothing(view)
            elif not isinstance(answer, BaseException):
                self._lists.has_something(view)
        orders = self._told_once([order for orders, _ in pages for order in orders if order.status.is_open])
        orders |= {name: order for name, order in self._conditional.items() if parts_of(name)[2] in missing}
        orders |= await self._unlisted(orders)
        self._conditional = {name: order for name, order in orders.items() if self.view(parts_of(name)[2]).conditional}
        unread = (item for _, items in pages for item in items)
        return Listed(tuple(orders.values()), (*unread, *missing.values(), *untold))

    def _told_once(self, orders: Sequence[Order]) -> dict[str, Order]:
        """By their names. An exchange that doesn't mind how it is asked tells the same ones in several lists."""
        first: dict[tuple[str, str, bool], Order] = {}
        for order in orders:
            raw, symbol, view = parts_of(order.id)
            first.setdefault((raw, symbol, self.view(view).conditional), order)
        return {order.id: order for order in first.values()}

    async def _unlisted(self, listed: Mapping[str, Order]) -> dict[str, Order]:
        """Conditional orders that were listed before, are not now, and have not ended as far as the exchange tells."""
        missing = [order for name, order in self._conditional.items() if name not in listed]
        if not missing or not self._venue.verifies_conditional:
            return {}
        asked, later = missing[:MOST_VERIFIED], missing[MOST_VERIFIED:]
        ended = await asyncio.gather(*(self._has_ended(order) for order in asked))
        return {order.id: order for order, over in zip(asked, ended, strict=True) if not over} | {
            order.id: order for order in later
        }

    async def _has_ended(self, order: Order) -> bool:
        raw, symbol, view = parts_of(order.id)
        params = dict(self.view(view).cancelling)
        try:
            body = await self._connection.read(
                f"order {raw} of {symbol}", lambda asked: asked.fetch_order(raw, symbol, params)
            )
            return not read_order(body, view).status.is_open
        except VenueRefused:
            return True  # the exchange does not know it any more
        except SENSELESS:
            return False

    async def _list(self, view: View) -> _Page:
        found: list[Order] = []
        unread: list[Unreadable] = []
        more: Mapping[str, Any] = {}
        seen, number = set[str](), 0
        while True:
            page = await self._page(view, more)
            number += 1
            fresh = [body for body in page if str(body.get("id") or id(body)) not in seen]
            seen |= {str(body.get("id")) for body in page if body.get("id")}
            for body in fresh:
                try:
                    found.append(read_order(body, view.name, self._venue.id_prefix))
                except SENSELESS as error:
                    unread.append(unreadable("order", body, error, view.name))
            more = next_page(self._venue.pages, self._venue.page_size, page, len(seen), number)
            if not more or not fresh:
                return found, unread

    async def _page(self, view: View, more: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
        params = {**view.listing, **more}
        try:
            return await self._asked(view, params)
        except BrokerRefused as error:
            if says(error, view.absent):
                return ()
            raise

    async def _asked(self, view: View, params: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
        what = f"list of {view.name} orders" if view.name else "list of orders"
        if view.raw is None:
            size = None if self._venue.pages.value == "all at once" else self._venue.page_size

            async def fetch(exchange: Any) -> Sequence[Mapping[str, Any]]:
                return list(await exchange.fetch_open_orders(None, None, size, params))

            return await self._connection.read_items(what, fetch, self._venue.told_under, believed=view.absent)
        call, path = view.raw

        async def ask(exchange: Any) -> Sequence[Mapping[str, Any]]:
            answer = await getattr(exchange, call)(params)
            bodies = list_at(answer, path)
            if bodies and (cursor := at_path(answer, ("result", "nextPageCursor"))):
                bodies[0]["nextPageCursor"] = cursor  # where ccxt's own lists have it
            return list(exchange.parse_orders(bodies))

        return await self._connection.read(what, ask, believed=view.absent)

    async def find(self, client_order_id: str, symbol: str) -> Order | None:
        """The order with this client order id, open or closed, as far as the exchange can tell; else None."""
        prefix = self._venue.id_prefix
        if self._venue.finds_by:
            params = {self._venue.finds_by: prefix + client_order_id}
            try:
                body = await self._connection.read(
                    f"order of {symbol}", lambda asked: asked.fetch_order(client_order_id, symbol, params)
                )
            except VenueRefused as error:
                if error.kind == "OrderNotFound" or error.code in ("-2013", "51603"):
                    return None
                raise
            return self._found(body, symbol)
        if not self._venue.client_order_ids.longest:
            return None
        for bodies in (await self._open_of(symbol), await self._closed_of(symbol)):
            for body in bodies:
                if str(body.get("clientOrderId") or "").removeprefix(prefix) == client_order_id:
                    return self._found(body, symbol)
        return None

    def _found(self, body: Mapping[str, Any], symbol: str) -> Order:
        """Raises `BrokerUnavailable` for one that makes no sense: the exchange has it, how it stands is not known."""
        try:
            return read_order({**body, "symbol": body.get("symbol") or symbol}, "", self._venue.id_prefix)
        except SENSELESS as error:
            said = f"{unreadable('order', body, error)}"
            raise BrokerUnavailable(f"{self._connection.name}: {said}", account=self._connection.name) from None

    async def _open_of(self, symbol: str) -> Sequence[Mapping[str, Any]]:
        return list(await self._connection.read("list of orders", lambda asked: asked.fetch_open_orders(symbol)))

    async def _closed_of(self, symbol: str) -> Sequence[Mapping[str, Any]]:
        """The newest that are no longer open, by whichever of ccxt's calls the exchange has."""
        exchange = await self._connection.ready()
        call = next((call for name, call in _CLOSED.items() if exchange.has.get(name) is True), None)
        if call is None:
            return []
        listing = attrgetter(call)
        return list(
            await self._connection.read("list of closed orders", lambda asked: listing(asked)(symbol, None, NEWEST))
        )


def _those_had(
    answers: Sequence[_Page | BaseException], views: Sequence[View]
) -> tuple[list[_Page], dict[str, Unreadable]]:
    """The lists that were had, and by their names those that weren't. Raises the first error where none was."""
    had = [answer for answer in answers if not isinstance(answer, BaseException)]
    missing: dict[str, Unreadable] = {}
    for view, answer in zip(views, answers, strict=True):
        if not isinstance(answer, BaseException):
            continue
        if not had or not isinstance(answer, BrokerError):
            raise answer
        problem = f"the list of {view.name or 'ordinary'} orders can't be had: {answer}{way_out(view.line)}"
        missing[view.name] = Unreadable("order", "", "", problem)
    return had, missing
