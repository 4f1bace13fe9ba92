"""Cancel orders at an exchange: one, several by their ids, or all of a symbol or of the account."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from breaker.orders import Order
from brokers.cancel_by_id import together
from brokers.ccxt.connection import Connection
from brokers.ccxt.errors import MayHaveHappened, VenueRefused
from brokers.ccxt.open_orders import OpenOrders
from brokers.ccxt.reading import failure_in, parts_of
from brokers.ccxt.refusals import failed_item, refused_cancel
from brokers.ccxt.venues import Venue, View
from brokers.protocol import CancelOutcome, CancelResult, Listed


class Cancels:
    """The cancels of one account. An order's name says by which of the exchange's calls it goes."""

    def __init__(self, connection: Connection, venue: Venue, open_orders: OpenOrders) -> None:
        self._connection = connection
        self._venue = venue
        self._open_orders = open_orders

    async def one(self, order_id: str) -> CancelResult:
        raw, symbol, view = parts_of(order_id)
        params = dict(self._open_orders.view(view).cancelling)
        try:
            answer = await self._connection.change(
                "cancel", lambda asked: asked.cancel_order(raw, symbol or None, params)
            )
        except MayHaveHappened as error:
            return CancelResult(order_id, CancelOutcome.UNKNOWN, str(error))
        except VenueRefused as error:
            return refused_cancel(order_id, error)
        failure = failure_in(answer)
        return failed_item(order_id, failure) if failure else CancelResult(order_id, CancelOutcome.ACCEPTED)

    async def all(self, read: Callable[[], Awaitable[Listed[Order]]]) -> Sequence[CancelResult]:
        """One request for each symbol and list that has open orders, or one for the account where there is such a one.

        Each is sent before the first failure is raised: whoever hears of that may be about to hang up.

        What the answer says of an order wins; of those that it doesn't name, that they were asked to go.
        """
        if self._venue.cancels_all == "account":
            return await self._account(read)
        if not self._venue.cancels_all:
            return await self._by_ids([order.id for order in (await read()).items])
        listed = await read()
        groups: dict[tuple[str, str], list[str]] = {}
        for order in listed.items:
            _, symbol, view = parts_of(order.id)
            groups.setdefault((symbol, view), []).append(order.id)
        done = await together(
            [*groups.items()], lambda group: self._symbol(group[0][0], self._open_orders.view(group[0][1]), group[1])
        )
        unread = [CancelResult(item.id, CancelOutcome.REFUSED, str(item)) for item in listed.unreadable if item.id]
        return [*(result for results in done for result in results), *unread]

    async def _account(self, read: Callable[[], Awaitable[Listed[Order]]]) -> Sequence[CancelResult]:
        """The cancel doesn't wait for the list, which is there to say what was asked to go."""
        reading = asyncio.ensure_future(read())
        try:
            answer = await self._connection.change("cancel of all orders", lambda asked: asked.cancel_all_orders())
        finally:
            await asyncio.wait({reading})
            failed = reading.cancelled() or reading.exception() is not None
        listed = Listed[Order]() if failed else reading.result()
        return self._results([order.id for order in listed.items], answer)

    async def _symbol(self, symbol: str, view: View, names: Sequence[str]) -> Sequence[CancelResult]:
        params = dict(view.cancelling)
        try:
            answer = await self._connection.change(
                f"cancel of all orders of {symbol}", lambda asked: asked.cancel_all_orders(symbol, params)
            )
        except MayHaveHappened as error:
            return [CancelResult(name, CancelOutcome.UNKNOWN, str(error)) for name in names]
        except VenueRefused as error:
            return [refused_cancel(name, error) for name in names]
        return self._results(names, answer)

    async def _by_ids(self, names: Sequence[str]) -> Sequence[CancelResult]:
        size = self._venue.batch or 1
        done = await together([names[start : start + size] for start in range(0, len(names), size)], self.many)
        return [result for results in done for result in results]

    async def many(self, order_ids: Sequence[str]) -> Sequence[CancelResult]:
        """These, by one request for each symbol and list among them."""
        groups: dict[tuple[str, str], list[str]] = {}
        for name in order_ids:
            _, symbol, view = parts_of(name)
            groups.setdefault((symbol, view), []).append(name)
        done = await together([*groups.items()], lambda group: self._batch(*group[0], group[1]))
        return [result for results in done for result in results]

    async def _batch(self, symbol: str, view: str, names: Sequence[str]) -> Sequence[CancelResult]:
        found = self._open_orders.view(view)
        if len(names) == 1 or (found.conditional and self._open_orders.one_by_one):
            return await together(names, self.one)
        raw = [parts_of(name)[0] for name in names]
        params = dict(found.cancelling)
        try:
            answer = await self._connection.change(
                f"cancel of {len(raw)} orders", lambda asked: asked.cancel_orders(raw, symbol or None, params)
            )
        except MayHaveHappened as error:
            return [CancelResult(name, CancelOutcome.UNKNOWN, str(error)) for name in names]
        except VenueRefused as error:
            return [refused_cancel(name, error) for name in names]
        return self._results(names, answer, each=True)

    @staticmethod
    def _results(names: Sequence[str], answer: Any, *, each: bool = False) -> list[CancelResult]:
        """Item by item: a failure that hides in the answer is one, whatever the answer as a whole says.

        Args:
            each: whether the answer has one item for each; those without an id are in the order of asking.
        """
        items = [item for item in answer if isinstance(item, Mapping)] if isinstance(answer, list) else []
        told = {str(item["id"]): failure_in(item) for item in items if item.get("id")}
        nameless = [failure_in(item) for item in items if not item.get("id")]
        missing = [name for name in names if parts_of(name)[0] not in told]
        if each and len(nameless) == len(missing):
            told |= {parts_of(name)[0]: failure for name, failure in zip(missing, nameless, strict=True)}
        results = []
        for name in names:
            failure = told.get(parts_of(name)[0])
            if failure is None and each:
                results.append(CancelResult(name, CancelOutcome.UNKNOWN, "the exchange's answer does not name it"))
            elif failure:
                results.append(failed_item(name, failure))
            else:
                results.append(CancelResult(name, CancelOutcome.ACCEPTED))
        return results
