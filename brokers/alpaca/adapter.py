"""Serve the broker protocol at one Alpaca account.

What shapes this adapter: 207 is not success but a status per item; lists of orders come in pages of at most 500; an
order whose answer was lost is looked up by its client order id and never sent again under another one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import httpx

from breaker.orders import Account, MarketClock, Order, Position, TimeInForce
from brokers.alpaca.http import Connection, RateLimited, error_in, json_in
from brokers.alpaca.reading import (
    UNREADABLE,
    read_account,
    read_cancel_result,
    read_clock,
    read_close_result,
    read_order,
    read_position,
    read_time,
    reading,
)
from brokers.protocol import (
    BrokerUnavailable,
    CancelOutcome,
    CancelResult,
    Capabilities,
    CloseOrder,
    CloseOutcome,
    CloseResult,
)

if TYPE_CHECKING:
    from configuration.settings import AccountSettings

PAGE = 500
"""The largest page of orders that Alpaca serves; without a limit it serves 50."""
FEW = 20
"""After a list of at most so many orders the next is likely to be empty, so its second opinion is asked for at once."""


class AlpacaBroker:
    """One Alpaca account. Keep one instance per account and process: it holds the connections and the rate limit.

    Args:
        name: the account's name in the configuration.
        base_url: `https://api.alpaca.markets`, the paper exchange's address, …, with or without `/v2`.
        timeout: longest wait for one answer, seconds. A call that is retried ends within three times that.
        requests_per_minute: assumed until the venue's own headers say what is left.
    """

    def __init__(
        self,
        name: str,
        base_url: str,
        key_id: str,
        secret_key: str,
        *,
        timeout: float = 5.0,
        requests_per_minute: int = 200,
    ) -> None:
        self.name = name
        self.capabilities = Capabilities(
            bulk_cancel=True,
            bulk_close=True,
            reduce_only=False,
            fractional=True,
            requests_per_minute=requests_per_minute,
            page_size=PAGE,
        )
        self._connection = Connection(name, base_url, key_id, secret_key, timeout=timeout)
        self._crypto: set[str] = set()
        self._few_orders = False

    def __repr__(self) -> str:
        return f"AlpacaBroker({self.name!r}, {self._connection.base_url!r})"

    async def aclose(self) -> None:
        await self._connection.aclose()

    async def account(self) -> Account:
        body = await self._connection.read("/account")
        with self._reading("account"):
            return read_account(body)

    async def clock(self) -> MarketClock:
        body = await self._connection.read("/clock")
        with self._reading("clock"):
            return read_clock(body)

    async def open_orders(self) -> Sequence[Order]:
        """Every open order. That there are none is believed only if the nested list, by another query, agrees.

        The flat list has bracket legs as orders of their own. The nested one rolls them up under their entry, and may
        miss them once that has filled and is itself no longer open.
        """
        few, self._few_orders = self._few_orders, False
        if few:
            orders, others = await asyncio.gather(self._list_orders(nested=False), self._list_orders(nested=True))
            orders = orders or others
        else:
            orders = await self._list_orders(nested=False) or await self._list_orders(nested=True)
        self._few_orders = len(orders) <= FEW
        return orders

    async def _list_orders(self, *, nested: bool) -> list[Order]:
        return [order async for order in self._pages(nested=nested)]

    async def _pages(self, *, nested: bool) -> AsyncIterator[Order]:
        """Oldest first; each page starts a little before the end of the last, as orders may share a time stamp."""
        seen: set[str] = set()
        after: datetime | None = None
        while True:
            params = {"status": "open", "limit": str(PAGE), "direction": "asc", "nested": str(nested).lower()}
            if after is not None:
                params["after"] = (after - timedelta(milliseconds=1)).isoformat()
            page = await self._connection.read("/orders", params)
            with self._reading("list of orders"):
                fresh = [body for body in page if body["id"] not in seen]
                orders = [read_order(leg) for body in fresh for leg in (body, *(body.get("legs") or ()))]
                after = read_time(page[-1].get("submitted_at") or page[-1]["created_at"]) if page else None
            for order in orders:
                if order.id not in seen and order.status.is_open:
                    yield order
                seen.add(order.id)
            if len(page) < PAGE:
                return
            if not fresh:
                raise BrokerUnavailable(
                    f"{self.name}: more than {PAGE} open orders share one time stamp, so the list can't be read whole; "
                    "cancel them at the venue",
                    account=self.name,
                )

    async def positions(self) -> Sequence[Position]:
        body = await self._connection.read("/positions")
        with self._reading("list of positions"):
            self._crypto.update(item["symbol"] for item in body if item.get("asset_class") == "crypto")
            return [read_position(item) for item in body]

    async def order(self, client_order_id: str) -> Order | None:
        response = await self._connection.request_with_retries(
            "GET", "/orders:by_client_order_id", params={"client_order_id": client_order_id}
        )
        if response.status_code == httpx.codes.NOT_FOUND:
            return None
        body = self._connection.json_of(response)
        with self._reading("order"):
            return read_order(body)

    async def cancel_all(self) -> Sequence[CancelResult]:
        body = self._connection.json_of(await self._connection.request_with_retries("DELETE", "/orders"))
        with self._reading("answer to cancelling all orders"):
            return [read_cancel_result(item["id"], item["status"], item.get("body")) for item in body]

    async def cancel(self, order_id: str) -> CancelResult:
        try:
            response = await self._connection.request_with_retries("DELETE", f"/orders/{order_id}")
        except BrokerUnavailable as error:
            return CancelResult(order_id, CancelOutcome.UNKNOWN, str(error))
        return read_cancel_result(order_id, response.status_code, json_in(response))

    async def close(self, request: CloseOrder) -> CloseResult:
        """Send it once. Raises `BrokerUnavailable` when it was not taken because of a rate limit.

        It never waits for the limit: what is asked for belongs to a position as it was read just now.
        """
        try:
            response = await self._connection.request("POST", "/orders", json=self._order_body(request), may_wait=False)
        except RateLimited:
            raise
        except BrokerUnavailable as error:
            return await self._look_up(request, error)
        if response.is_success:
            try:
                order = read_order(self._connection.json_of(response))
            except (BrokerUnavailable, *UNREADABLE):
                return CloseResult(request.symbol, CloseOutcome.ACCEPTED)
            return CloseResult(request.symbol, CloseOutcome.ACCEPTED, order)
        code, message = error_in(response)
        if "client_order_id must be unique" in message:
            return CloseResult(request.symbol, CloseOutcome.DUPLICATE, None, message)
        return CloseResult(request.symbol, CloseOutcome.REFUSED, None, message, code)

    def _order_body(self, request: CloseOrder) -> dict[str, Any]:
        # Alpaca, crypto trading: round the clock, so neither `day` nor extended hours is known there.
        crypto = request.symbol in self._crypto
        body: dict[str, Any] = {
            "symbol": request.symbol,
            "qty": f"{request.quantity:f}",
            "side": request.side.value,
            "type": request.type.value,
            "time_in_force": (TimeInForce.GTC if crypto else request.time_in_force).value,
            "client_order_id": request.client_order_id,
        }
        if request.limit_price is not None:
            body["limit_price"] = f"{request.limit_price:f}"
        if request.extended_hours and not crypto:
            body["extended_hours"] = True
        return body

    async def _look_up(self, request: CloseOrder, lost: BrokerUnavailable) -> CloseResult:
        """The answer to a close was lost: whether it was taken is for the venue to say."""
        try:
            order = await self.order(request.client_order_id)
        except BrokerUnavailable as error:
            return CloseResult(request.symbol, CloseOutcome.UNKNOWN, None, f"{lost}; then {error}")
        if order is None:
            return CloseResult(
                request.symbol, CloseOutcome.UNKNOWN, None, f"{lost}; the venue does not know the order (yet)"
            )
        return CloseResult(request.symbol, CloseOutcome.ACCEPTED, order)

    async def close_all(self) -> Sequence[CloseResult]:
        response = await self._connection.request_with_retries(
            "DELETE", "/positions", params={"cancel_orders": "false"}, retry_on=RateLimited
        )
        body = self._connection.json_of(response)
        with self._reading("answer to closing all positions"):
            return [read_close_result(item["symbol"], item["status"], item.get("body") or {}) for item in body]

    def _reading(self, what: str) -> AbstractContextManager[None]:
        return reading(what, self.name)


def from_settings(name: str, account: AccountSettings) -> AlpacaBroker:
    """The entry point of adapter `alpaca`."""
    return AlpacaBroker(
        name,
        account.base_url,
        account.key_id.get_secret_value(),
        account.secret_key.get_secret_value(),
        timeout=account.request_timeout,
        requests_per_minute=account.requests_per_minute,
    )
