"""Close one Alpaca account, or one at whatever else speaks its API: the paper exchange, by another base URL and keys.

What shapes this adapter: 207 is not success but a status per item; lists of orders come in pages of at most 500; an
order whose answer was lost is looked up by its client order id and never sent again under another one.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import httpx

from breaker.instruments import Instrument, is_option
from breaker.orders import Account, Fill, MarketClock, Order, Position, Unreadable
from brokers.alpaca.http import Connection, RateLimited
from brokers.alpaca.reading import (
    SENSELESS,
    Json,
    cancel_result,
    close_result,
    error_of,
    json_of,
    open_ones,
    read_account,
    read_clock,
    read_fills,
    read_instruments,
    read_order,
    read_orders,
    read_positions,
    read_quote_time,
    read_transfers,
    refused_close,
    time_of,
)
from brokers.protocol import (
    ALPACA_IDS,
    Broker,
    BrokerRefused,
    BrokerUnavailable,
    CancelOutcome,
    CancelResult,
    Capabilities,
    CloseOrder,
    CloseOutcome,
    CloseResult,
    Listed,
    Transfer,
)

if TYPE_CHECKING:
    from configuration.accounts import AccountSettings

PAGE = 500
"""The largest page of orders that Alpaca serves; without a limit it serves 50."""
ACTIVITIES_PAGE = 100
"""The largest page of activities that Alpaca serves."""
TRANSFERS = "CSD,CSW,JNLC,DIV,DIVCGL,DIVCGS,DIVFEE,DIVFT,DIVNRA,DIVROC,DIVTW,DIVTXEX"
"""Cash in and out, journals of cash, and dividends with what is kept back of them (Alpaca, account activities)."""
DATA_URL = "https://data.alpaca.markets"
FEW = 20
"""After a list of at most so many orders the next is likely to be empty, so its second opinion is asked for at once."""


class AlpacaBroker(Broker):
    """One Alpaca account. Keep one instance per account and process: it holds the connections and the rate limit.

    Args:
        name: the account's name in the configuration.
        base_url: `https://api.alpaca.markets`, the paper exchange's address, …, with or without `/v2`.
        timeout: longest wait for one answer, seconds. A call that is retried ends within three times that.
        requests_per_minute: assumed until the venue's own headers say what is left.
        data_url: where its market data are; Alpaca's own for Alpaca's addresses, else `base_url`, unless given.
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
        data_url: str | None = None,
    ) -> None:
        self.name = name
        self.capabilities = Capabilities(
            bulk_cancel=True,
            bulk_close=True,
            reduce_only=False,
            fractional=True,
            requests_per_minute=requests_per_minute,
            page_size=PAGE,
            fills=True,
            suspends_trading=True,
            transfers=True,
            quotes=True,
            client_order_ids=ALPACA_IDS,
        )
        self._few = False
        self._requests = Connection(name, base_url, key_id, secret_key, timeout=timeout)
        self.data_url = (data_url or _data_url(base_url)).rstrip("/")
        # Of its own, as the rate limit of market data is another one; opened when needed, which a kill never does.
        self._open_data = partial(Connection, name, self.data_url, key_id, secret_key, timeout=timeout)
        self._data: Connection | None = None

    def __repr__(self) -> str:
        return f"AlpacaBroker({self.name!r}, {self._requests.base_url!r})"

    async def aclose(self) -> None:
        await self._requests.aclose()
        if self._data is not None:
            await self._data.aclose()

    async def account(self) -> Account:
        body = await self._requests.read("/account")
        with self._requests.understood("account"):
            return read_account(body)

    async def clock(self) -> MarketClock:
        body = await self._requests.read("/clock")
        with self._requests.understood("clock"):
            return read_clock(body)

    async def open_orders(self) -> Listed[Order]:
        """Every open order. That there are none is believed only if the nested list, by another query, agrees.

        The flat list has bracket legs as orders of their own. The nested one rolls them up under their entry, and may
        miss them once that has filled and is itself no longer open.
        """
        few, self._few = self._few, False
        if few:
            orders, others = await asyncio.gather(self._list_orders(nested=False), self._list_orders(nested=True))
            orders = orders if len(orders) else others
        else:
            orders = await self._list_orders(nested=False)
            orders = orders if len(orders) else await self._list_orders(nested=True)
        self._few = len(orders) <= FEW
        return orders

    async def _list_orders(self, *, nested: bool) -> Listed[Order]:
        return open_ones([item async for item in self._pages(nested=nested)])

    async def _pages(self, *, nested: bool) -> AsyncIterator[Order | Unreadable]:
        """Oldest first; each page starts a little before the end of the last, as orders may share a time stamp."""
        seen: set[str] = set()
        after: datetime | None = None
        while True:
            params = {"status": "open", "limit": str(PAGE), "direction": "asc", "nested": str(nested).lower()}
            if after is not None:
                params["after"] = (after - timedelta(milliseconds=1)).isoformat()
            page = await self._requests.read("/orders", params)
            with self._requests.understood("list of orders"):
                fresh = 0
                for item in read_orders(page):
                    if not item.id or item.id not in seen:
                        fresh += 1
                        yield item
                    seen.add(item.id)
            if len(page) < PAGE:
                return
            after = _newest(page)
            if not fresh or after is None:
                raise BrokerUnavailable(
                    f"{self.name}: more than {PAGE} open orders share one time stamp, so the list can't be read whole; "
                    "cancel them at the venue",
                    account=self.name,
                )

    async def positions(self) -> Listed[Position]:
        body = await self._requests.read("/positions")
        with self._requests.understood("list of positions"):
            return read_positions(body)

    async def order(self, client_order_id: str, symbol: str | None = None) -> Order | None:
        response = await self._requests.retrying(
            "GET", "/orders:by_client_order_id", params={"client_order_id": client_order_id}
        )
        if response.status_code == httpx.codes.NOT_FOUND:
            return None
        body = self._requests.body(response)
        with self._requests.understood("order"):
            return read_order(body)

    async def cancel_all(self) -> Sequence[CancelResult]:
        body = self._requests.body(await self._requests.retrying("DELETE", "/orders", attempts=2))
        with self._requests.understood("answer to cancelling all orders"):
            return [cancel_result(item["id"], item["status"], item.get("body")) for item in body]

    async def cancel(self, order_id: str) -> CancelResult:
        try:
            response = await self._requests.retrying("DELETE", f"/orders/{order_id}", attempts=2)
        except BrokerUnavailable as error:
            return CancelResult(order_id, CancelOutcome.UNKNOWN, str(error))
        return cancel_result(order_id, response.status_code, json_of(response))

    async def close(self, request: CloseOrder) -> CloseResult:
        """Send it once. Raises `BrokerUnavailable` when it was not taken because of a rate limit.

        It never waits for the limit: what is asked for belongs to a position as it was read just now.
        """
        try:
            response = await self._requests.send("POST", "/orders", json=self._order_body(request), may_wait=False)
        except RateLimited:
            raise
        except BrokerUnavailable as error:
            return await self._look_up(request, error)
        if response.is_success:
            try:
                return CloseResult(request.symbol, CloseOutcome.ACCEPTED, read_order(self._requests.body(response)))
            except (BrokerUnavailable, *SENSELESS):
                return CloseResult(request.symbol, CloseOutcome.ACCEPTED)
        code, message = error_of(response)
        body = json_of(response)
        return refused_close(request.symbol, message, code, body if isinstance(body, dict) else {})

    @staticmethod
    def _order_body(request: CloseOrder) -> Json:
        body: Json = {
            "symbol": request.symbol,
            "qty": f"{request.quantity:f}",
            "side": request.side.value,
            "type": request.type.value,
            "time_in_force": request.time_in_force.value,
            "client_order_id": request.client_order_id,
        }
        if request.limit_price is not None:
            body["limit_price"] = f"{request.limit_price:f}"
        if request.extended_hours:
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
        response = await self._requests.retrying(
            "DELETE", "/positions", params={"cancel_orders": "false"}, retry_on=RateLimited
        )
        body = self._requests.body(response)
        with self._requests.understood("answer to closing all positions"):
            return [close_result(item["symbol"], item["status"], item.get("body") or {}) for item in body]

    async def instruments(self, symbols: Collection[str]) -> Mapping[str, Instrument]:
        """Steps and least sizes of pairs (Alpaca, assets), in one request; stocks and options go by their class."""
        if all(is_option(symbol) for symbol in symbols):
            return {}
        pairs = await self._requests.read("/assets", {"asset_class": "crypto"})
        with self._requests.understood("list of assets"):
            return read_instruments(pairs, symbols)

    async def not_permitted(self) -> Sequence[str]:
        """Asks to cancel an order that can't exist: keys that may not trade are refused that (401, 403)."""
        found = []
        account = await self.account()
        if account.trading_blocked or account.trading_suspended:
            found.append(f"no order is taken: {account.trading_blocked or account.trading_suspended}")
        try:
            answer = await self._requests.retrying("DELETE", f"/orders/{uuid.uuid4()}")
        except BrokerRefused as error:
            return [*found, f"cancelling and closing: {error}"]
        if answer.status_code == httpx.codes.FORBIDDEN:
            found.append(f"cancelling and closing: the venue answered 403: {error_of(answer)[1]}")
        return found

    async def fills(self, since: datetime) -> Listed[Fill]:
        """Every execution since then, oldest first, without fees.

        Alpaca books those apart, at the end of the day (account activities: CFEE and FEE).
        """
        read: list[Fill | Unreadable] = []
        async for page in self._activities("fills", "/account/activities/FILL", since):
            with self._requests.understood("list of fills"):
                read += read_fills(page)
        return Listed(
            tuple(item for item in read if isinstance(item, Fill)),
            tuple(item for item in read if isinstance(item, Unreadable)),
        )

    async def transfers(self, since: datetime) -> Listed[Transfer]:
        """Deposits, withdrawals, journals of cash, dividends, from the day before on: Alpaca books them by the day."""
        read: list[Transfer | Unreadable] = []
        day_before = since - timedelta(days=1)
        async for page in self._activities("transfers", "/account/activities", day_before, activity_types=TRANSFERS):
            with self._requests.understood("list of transfers"):
                read += read_transfers(page)
        return Listed(
            tuple(item for item in read if isinstance(item, Transfer)),
            tuple(item for item in read if isinstance(item, Unreadable)),
        )

    async def _activities(self, what: str, path: str, since: datetime, **more: str) -> AsyncIterator[list[Any]]:
        """Every page, oldest first; the last id of one is the token of the next (Alpaca, account activities)."""
        params = {
            "after": f"{since.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}",
            "direction": "asc",
            "page_size": str(ACTIVITIES_PAGE),
            **more,
        }
        while True:
            page = await self._requests.read(path, params)
            yield page
            if len(page) < ACTIVITIES_PAGE:
                return
            with self._requests.understood(f"list of {what}"):
                token = page[-1]["id"]
                if token == params.get("page_token"):
                    raise ValueError("a page ends as the one before it")
            params["page_token"] = token

    async def latest_quote(self, symbol: str) -> datetime:
        """Alpaca, market data: the latest quote of a stock, of a pair of currencies, or of an option."""
        if is_option(symbol):
            path = f"{self.data_url}/v1beta1/options/quotes/latest"
        elif "/" in symbol:
            path = f"{self.data_url}/v1beta3/crypto/us/latest/quotes"
        else:
            path = "/stocks/quotes/latest"
        data = self._data = self._data or self._open_data()
        body = await data.read(path, {"symbols": symbol})
        with data.understood("latest quote"):
            return read_quote_time(body, symbol)

    async def set_trading_suspended(self, suspended: bool) -> None:
        """Alpaca, account configurations: `suspend_trade` blocks new orders; cancels go on."""
        self._requests.body(
            await self._requests.retrying("PATCH", "/account/configurations", json={"suspend_trade": suspended})
        )


def from_settings(name: str, account: AccountSettings) -> AlpacaBroker:
    """The entry point of adapter `alpaca`."""
    base_url, key_id, secret_key = account.base_url, account.key_id, account.secret_key
    assert base_url and key_id and secret_key  # noqa: S101 - the settings of this adapter are not valid without them
    return AlpacaBroker(
        name,
        base_url,
        key_id.get_secret_value(),
        secret_key.get_secret_value(),
        timeout=account.request_timeout,
        requests_per_minute=account.requests_per_minute,
        data_url=account.data_url,
    )


def _data_url(base_url: str) -> str:
    """Where the market data of an account at this address are."""
    host = httpx.URL(base_url).host
    return DATA_URL if host == "alpaca.markets" or host.endswith(".alpaca.markets") else base_url.removesuffix("/v2")


def _newest(page: Sequence[Any]) -> datetime | None:
    """The last time stamp of a page that can be read; None when there is none."""
    for body in reversed(page):
        try:
            return time_of(body.get("submitted_at") or body["created_at"])
        except SENSELESS:
            continue
    return None
