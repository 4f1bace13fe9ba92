"""Know today's orders of one account at TWS: list them, look for one, and cancel them as the client that may."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final

from breaker.orders import ZERO, Fill, Order, OrderStatus, Side, Unreadable
from brokers.ib.connection import BY_HAND, ClientIdTaken, Connection
from brokers.ib.listener import Answer
from brokers.ib.logins import Logins
from brokers.ib.market import Market
from brokers.ib.reading import (
    SENSELESS,
    ListedOrder,
    TwsError,
    cancelled,
    newest_of_each,
    order_id_of,
    read_fill,
    read_order,
    read_orders,
)
from brokers.protocol import BrokerUnavailable, CancelOutcome, CancelResult, Listed

_NOT_CANCELLABLE: Final = 161
FILLS_COME_WITHIN: Final = 0.5
"""Seconds after TWS calls an order cancelled in which it may tell of a fill of it."""


@dataclass(frozen=True, slots=True)
class Day:
    """What TWS lists of today."""

    open: Listed[Order]
    completed: tuple[ListedOrder, ...]
    fills: tuple[Fill, ...]

    def references(self) -> set[str]:
        """Of every order, whatever became of it."""
        known = {order.client_order_id for order in self.open} | {fill.client_order_id for fill in self.fills}
        return (known | {item.order.orderRef for item in self.completed}) - {""}


class Orders:
    """One account's orders."""

    def __init__(self, name: str, logins: Logins, market: Market) -> None:
        self._name = name
        self._logins = logins
        self._market = market
        self._owners: dict[str, tuple[int, int]] = {}
        """Which client of TWS placed an order, and as which of its own: what a cancel needs."""
        self._over: set[str] = set()
        """Orders that TWS still lists as inactive and says that can't be cancelled."""
        self._going: dict[str, list[Order]] = {}
        """Orders that are being cancelled, as they were listed; of a combination each leg."""
        self._last_open: Sequence[Order] = ()
        self._over_since: dict[str, float] = {}
        """When orders were first seen to be over, on the monotonic clock."""
        self._open_ids: frozenset[str] = frozenset()
        """Under which the orders that were last listed as open are cancelled."""
        self._next_day: asyncio.Task[Day] | None = None
        self._locks: tuple[asyncio.AbstractEventLoop, tuple[asyncio.Lock, asyncio.Lock]] | None = None

    async def open_orders(self) -> Listed[Order]:
        """Every open order of the account: those of all clients of TWS, and those placed by hand."""
        reader = await self._logins.reader()
        return self._read_open(await reader.open_orders())

    def _read_open(self, answer: Answer) -> Listed[Order]:
        """The last word on an order counts, where several came."""
        listed: dict[tuple[int, int, int], ListedOrder] = {}
        for item in answer.items:
            order = item.order
            # One that TWS has just got has no permanent id yet.
            listed[order.permId, *((0, 0) if order.permId else (order.clientId, order.orderId))] = item
            if item.contract.secType != "BAG":
                self._market.symbols.add(item.contract)
        found: list[Order] = []
        unreadable: list[Unreadable] = []
        for raw in answer.undecodable:
            if raw.account == self._logins.account:
                self._owners[raw.item.id] = raw.owner
                unreadable.append(raw.item)
        for item in listed.values():
            if not self._concerns_us(item.order):
                continue
            order_id = order_id_of(item.order)
            self._owners[order_id] = item.order.clientId, item.order.orderId
            if order_id in self._over and item.state.status == "Inactive":
                continue
            for read in read_orders(item, self._market.symbols):
                if isinstance(read, Unreadable):
                    unreadable.append(read)
                elif read.status.is_open:
                    found.append(read)
        self._note_listed(found)
        self._open_ids = frozenset(order.cancel_id for order in found) | {item.id for item in unreadable if item.id}
        return Listed(tuple(found), tuple(unreadable))

    def may_still_fill(self, symbol: str, side: Side) -> bool:
        """Whether an order of this side, which was cancelled and TWS lists no more, may turn out to have filled."""
        gone = (order for order_id in self._gone() for order in self._going[order_id])
        return any((order.symbol, order.side) == (symbol, side) for order in gone)

    def _gone(self) -> list[str]:
        """Orders that were cancelled and are not listed, while fills of them may come."""
        gone = self._going.keys() - {order.cancel_id for order in self._last_open}
        for order_id in [order_id for order_id in gone if not self._fills_may_come(order_id)]:
            del self._going[order_id]
            gone.discard(order_id)
        return sorted(gone)

    def _note_listed(self, listed: Sequence[Order]) -> None:
        self._last_open = listed
        self._note_cancelled({order.cancel_id for order in listed if order.status is OrderStatus.PENDING_CANCEL})
        self._gone()  # from now on

    def _note_cancelled(self, order_ids: Collection[str]) -> None:
        for order_id in order_ids:
            orders = [order for order in self._last_open if order.cancel_id == order_id]
            if orders:
                self._going.setdefault(order_id, orders)

    def _fills_may_come(self, order_id: str) -> bool:
        """Whether it is only a moment since the order was first seen to be over."""
        now = time.monotonic()
        return now - self._over_since.setdefault(order_id, now) < FILLS_COME_WITHIN

    def _concerns_us(self, order: Any) -> bool:
        return order.account == self._logins.account or not order.account

    async def order(self, client_order_id: str) -> Order | None:
        """Among the open ones, then among those that are over; how much has filled is counted from the executions."""
        day = await self.read_day()
        for order in day.open:
            if order.client_order_id == client_order_id:
                return order
        filled = sum((fill.quantity for fill in day.fills if fill.client_order_id == client_order_id), ZERO)
        for item in day.completed:
            if item.order.orderRef != client_order_id or not self._concerns_us(item.order):
                continue
            self._market.symbols.add(item.contract)
            try:
                order = read_order(item, self._market.symbols.name(item.contract))
            except SENSELESS as error:
                raise self._not_understood("completed order", error) from None
            return self._settled(replace(order, filled_quantity=max(filled, order.filled_quantity)))
        return None

    def _settled(self, order: Order) -> Order:
        """As long as a cancelled order's fills may still come, it is one that is being cancelled."""
        if order.status is not OrderStatus.CANCELED or order.filled_quantity >= order.quantity:
            return order
        return replace(order, status=OrderStatus.PENDING_CANCEL) if self._fills_may_come(order.id) else order

    async def read_day(self) -> Day:
        """All of today's orders and executions as they are after this was asked for.

        Those who ask before a reading has begun share it: closes come several at once, and each is looked for first.
        """
        if self._next_day is None or self._next_day.get_loop() is not asyncio.get_running_loop():
            self._next_day = asyncio.create_task(self._begin_day())
        return await asyncio.shield(self._next_day)

    async def _begin_day(self) -> Day:
        async with self._looking:
            self._next_day = None
            reader = await self._logins.reader()
            listed, completed, fills = await asyncio.gather(
                reader.open_orders(), reader.completed_orders(), self._fills(reader)
            )
            return Day(self._read_open(listed), tuple(completed.items), tuple(fills))

    async def fills(self, since: datetime) -> Listed[Fill]:
        """Those of today: TWS tells of no others."""
        reader = await self._logins.reader()
        return Listed(tuple(fill for fill in await self._fills(reader) if fill.at >= since - timedelta(seconds=1)))

    async def _fills(self, reader: Connection) -> list[Fill]:
        """Of a combination each leg has executions of its own, and the whole has some that count nothing."""
        answer = await reader.executions()
        fills = []
        try:
            for contract, execution in answer.items:
                if execution.acctNumber == self._logins.account and contract.secType != "BAG":
                    self._market.symbols.add(contract)
                    commission = reader.listener.commissions.get(execution.execId)
                    fills.append(read_fill(execution, contract, commission, self._market.symbols))
        except SENSELESS as error:
            raise self._not_understood("list of executions", error) from None
        return newest_of_each(fills)

    # Cancelling

    async def cancel_all(self) -> Sequence[CancelResult]:
        """One request for the whole login, other clients' orders and those placed by hand among them.

        Where the login manages several accounts they would all lose theirs: then one by one, and this account's only.
        """
        reader = await self._logins.reader()
        if len(reader.accounts) > 1:
            orders = {order.cancel_id for order in await self.open_orders()}
            return await asyncio.gather(*(self.cancel(order_id) for order_id in sorted(orders)))
        # The list is asked for just before, so that what the request takes is known of, which waits for nothing.
        await asyncio.gather(self.open_orders(), _cancel_globally(reader))
        before = self._open_ids
        self._note_cancelled(before)
        listed = await self.open_orders()
        if error := reader.listener.last_error:
            outcome = cancelled("", error)
            return [replace(outcome, order_id=order_id) for order_id in sorted(self._open_ids)]
        # There is no answer to that. Of what stands as before nothing is said: it goes by its id.
        going = {order.cancel_id for order in listed.items if order.status is OrderStatus.PENDING_CANCEL}
        gone = before - (self._open_ids - going)
        return [CancelResult(order_id, CancelOutcome.ACCEPTED) for order_id in sorted(gone | going)]

    async def cancel(self, order_id: str) -> CancelResult:
        """As the client that placed it, which is taken over where it has left TWS."""
        try:
            return await self._cancel(order_id)
        except BrokerUnavailable as error:
            return CancelResult(order_id, CancelOutcome.UNKNOWN, str(error))

    async def _cancel(self, order_id: str) -> CancelResult:
        if order_id not in self._owners:
            await self.open_orders()
        client_id, number = self._owners.get(order_id, (-1, 0))
        if client_id < 0:
            return CancelResult(order_id, CancelOutcome.NOT_OPEN, "TWS does not list it")
        if not number:
            return await self._cancel_bound(order_id, "the person who placed it in TWS")
        try:
            connection = await self._logins.client(client_id)
        except ClientIdTaken:
            return _only_in_bulk(order_id, f"client {client_id} of TWS, which placed it and is connected,")
        result = await self._cancel_as(connection, order_id, number)
        if result.outcome is CancelOutcome.NOT_OPEN and client_id != BY_HAND and await self._is_open(order_id):
            return await self._cancel_bound(order_id, "the TWS through which it was sent")
        return result

    async def _cancel_bound(self, order_id: str, who: str) -> CancelResult:
        """As client 0, which orders without a client here are given to; `who` else can take it back."""
        try:
            connection = await self._logins.client(BY_HAND)
        except ClientIdTaken:
            return _only_in_bulk(order_id, who)
        async with self._binding:
            if self._owners[order_id][0] != BY_HAND or not self._owners[order_id][1]:
                for item in (await connection.bound_orders()).items:
                    self._owners[order_id_of(item.order)] = item.order.clientId, item.order.orderId
        client_id, number = self._owners[order_id]
        if client_id != BY_HAND or not number:
            return _only_in_bulk(order_id, who)
        return await self._cancel_as(connection, order_id, number)

    async def _is_open(self, order_id: str) -> bool:
        """Whether TWS lists an order, and not as going, which it says that it doesn't know."""
        listed = await self.open_orders()
        return any(o.cancel_id == order_id and o.status is not OrderStatus.PENDING_CANCEL for o in listed)

    async def _cancel_as(self, connection: Connection, order_id: str, number: int) -> CancelResult:
        self._note_cancelled([order_id])
        try:
            await connection.cancel(number)
        except TwsError as error:
            result = cancelled(order_id, error)
            if result.outcome is not CancelOutcome.ACCEPTED:
                self._going.pop(order_id, None)
            if error.code == _NOT_CANCELLABLE:
                self._over.add(order_id)
            return result
        except (TimeoutError, ConnectionError):
            return CancelResult(order_id, CancelOutcome.UNKNOWN, "TWS has not answered")
        return CancelResult(order_id, CancelOutcome.ACCEPTED)

    @property
    def _looking(self) -> asyncio.Lock:
        return self._locks_of_this_loop[0]

    @property
    def _binding(self) -> asyncio.Lock:
        return self._locks_of_this_loop[1]

    @property
    def _locks_of_this_loop(self) -> tuple[asyncio.Lock, asyncio.Lock]:
        loop = asyncio.get_running_loop()
        if self._locks is None or self._locks[0] is not loop:
            self._locks = loop, (asyncio.Lock(), asyncio.Lock())
        return self._locks[1]

    def _not_understood(self, what: str, error: Exception) -> BrokerUnavailable:
        return BrokerUnavailable(
            f"{self._name}: TWS's {what} can't be understood ({type(error).__name__}: {error})", account=self._name
        )


async def _cancel_globally(connection: Connection) -> None:
    connection.cancel_globally()


def _only_in_bulk(order_id: str, who: str) -> CancelResult:
    words = f"only {who} can take it back, or a cancel of all the login's orders"
    return CancelResult(order_id, CancelOutcome.REFUSED, words, only_in_bulk=True)
