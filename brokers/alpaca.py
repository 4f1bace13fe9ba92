"""Alpaca's Trading API v2, and whatever else speaks it: the paper exchange, by another base URL and keys.

Sources: Alpaca's Trading API documentation (orders, positions, rate limits) and its official Python client. What shapes
this adapter: 207 is not success but a status per item; lists of orders come in pages of at most 500; an order whose
answer was lost is looked up by its client order id and never sent again under another one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TypeVar

import httpx
import stamina
import stamina.instrumentation

from breaker.orders import Account, MarketClock, Order, OrderStatus, OrderType, Position, Side, TimeInForce
from brokers.protocol import (
    BrokerRefused,
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

# Its own line about each retry goes to standard output, into answers for machines and over what people are shown.
stamina.instrumentation.set_on_retry_hooks(())

PAGE = 500
"""The largest page of orders that Alpaca serves; without a limit it serves 50."""
FEW = 20
"""After a list of at most so many orders the next is likely to be empty, so its second opinion is asked for at once."""

_STATUS = {
    "partially_filled": OrderStatus.PARTIALLY_FILLED,
    "pending_cancel": OrderStatus.PENDING_CANCEL,
    "pending_replace": OrderStatus.PENDING_REPLACE,
    "held": OrderStatus.HELD,
    "filled": OrderStatus.FILLED,
    "canceled": OrderStatus.CANCELED,
    "replaced": OrderStatus.CANCELED,
    "rejected": OrderStatus.REJECTED,
    "expired": OrderStatus.EXPIRED,
}
_SENSELESS = (KeyError, TypeError, ValueError, AttributeError, ArithmeticError)
"""What reading an answer of an unexpected shape raises."""
_CLOSED_WORDS = ("filled", "canceled", "cancelled", "expired", "rejected", "replaced")
_Json = dict[str, Any]
_T = TypeVar("_T")
_Word = TypeVar("_Word", bound=StrEnum)


class _RateLimited(BrokerUnavailable):
    """429: nothing was done; `retry_after` seconds until the venue may be asked again."""

    def __init__(self, message: str, *, account: str, retry_after: float) -> None:
        super().__init__(message, account=account)
        self.retry_after = retry_after


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
        self._timeout = timeout
        self._rate = _RateLimit()
        self._crypto: set[str] = set()
        self._few = False
        self._client = httpx.AsyncClient(
            base_url=base_url.rstrip("/").removesuffix("/v2") + "/v2",
            headers={"APCA-API-KEY-ID": key_id, "APCA-API-SECRET-KEY": secret_key},
            timeout=httpx.Timeout(timeout, connect=min(timeout, 2.0)),
            # Kept for a minute, so that a resident process finds a connection open when it is needed.
            limits=httpx.Limits(max_connections=16, max_keepalive_connections=16, keepalive_expiry=60.0),
        )

    def __repr__(self) -> str:
        return f"AlpacaBroker({self.name!r}, {str(self._client.base_url)!r})"

    async def aclose(self) -> None:
        await self._client.aclose()

    async def account(self) -> Account:
        body = await self._read("/account")
        with self._understood("account"):
            return Account(
                id=body["account_number"],
                currency=body["currency"],
                equity=Decimal(body["equity"]),
                buying_power=Decimal(body["buying_power"]),
                trading_blocked=bool(body.get("trading_blocked") or body.get("account_blocked")),
            )

    async def clock(self) -> MarketClock:
        body = await self._read("/clock")
        with self._understood("clock"):
            return MarketClock(
                now=_time(body["timestamp"]),
                is_open=bool(body["is_open"]),
                next_open=_optional(body.get("next_open"), _time),
                next_close=_optional(body.get("next_close"), _time),
            )

    async def open_orders(self) -> Sequence[Order]:
        """Every open order. That there are none is believed only if the nested list, by another query, agrees.

        The flat list has bracket legs as orders of their own. The nested one rolls them up under their entry, and may
        miss them once that has filled and is itself no longer open.
        """
        few, self._few = self._few, False
        if few:
            orders, others = await asyncio.gather(self._list_orders(nested=False), self._list_orders(nested=True))
            orders = orders or others
        else:
            orders = await self._list_orders(nested=False) or await self._list_orders(nested=True)
        self._few = len(orders) <= FEW
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
            page = await self._read("/orders", params)
            with self._understood("list of orders"):
                fresh = [body for body in page if body["id"] not in seen]
                orders = [_order(leg) for body in fresh for leg in (body, *(body.get("legs") or ()))]
                after = _time(page[-1].get("submitted_at") or page[-1]["created_at"]) if page else None
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
        body = await self._read("/positions")
        with self._understood("list of positions"):
            self._crypto.update(item["symbol"] for item in body if item.get("asset_class") == "crypto")
            return [_position(item) for item in body]

    async def order(self, client_order_id: str) -> Order | None:
        response = await self._retrying(
            "GET", "/orders:by_client_order_id", params={"client_order_id": client_order_id}
        )
        if response.status_code == httpx.codes.NOT_FOUND:
            return None
        body = self._body(response)
        with self._understood("order"):
            return _order(body)

    async def cancel_all(self) -> Sequence[CancelResult]:
        body = self._body(await self._retrying("DELETE", "/orders"))
        with self._understood("answer to cancelling all orders"):
            return [_cancel_result(item["id"], item["status"], item.get("body")) for item in body]

    async def cancel(self, order_id: str) -> CancelResult:
        try:
            response = await self._retrying("DELETE", f"/orders/{order_id}")
        except BrokerUnavailable as error:
            return CancelResult(order_id, CancelOutcome.UNKNOWN, str(error))
        return _cancel_result(order_id, response.status_code, _json(response))

    async def close(self, request: CloseOrder) -> CloseResult:
        """Send it once. Raises `BrokerUnavailable` when it was not taken because of a rate limit.

        It never waits for the limit: what is asked for belongs to a position as it was read just now.
        """
        try:
            response = await self._send("POST", "/orders", json=self._order_body(request), may_wait=False)
        except _RateLimited:
            raise
        except BrokerUnavailable as error:
            return await self._look_up(request, error)
        if response.is_success:
            try:
                return CloseResult(request.symbol, CloseOutcome.ACCEPTED, _order(self._body(response)))
            except (BrokerUnavailable, *_SENSELESS):
                return CloseResult(request.symbol, CloseOutcome.ACCEPTED)
        code, message = _error(response)
        if "client_order_id must be unique" in message:
            return CloseResult(request.symbol, CloseOutcome.DUPLICATE, None, message)
        return CloseResult(request.symbol, CloseOutcome.REFUSED, None, message, code)

    def _order_body(self, request: CloseOrder) -> _Json:
        # Alpaca, crypto trading: round the clock, so neither `day` nor extended hours is known there.
        crypto = request.symbol in self._crypto
        body: _Json = {
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
        response = await self._retrying(
            "DELETE", "/positions", params={"cancel_orders": "false"}, retry_on=_RateLimited
        )
        body = self._body(response)
        with self._understood("answer to closing all positions"):
            return [_close_result(item["symbol"], item["status"], item.get("body") or {}) for item in body]

    async def _read(self, path: str, params: Mapping[str, str] | None = None) -> Any:
        return self._body(await self._retrying("GET", path, params=params))

    async def _retrying(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        retry_on: type[BrokerUnavailable] = BrokerUnavailable,
    ) -> httpx.Response:
        """One request, repeated on `retry_on` for three timeouts, and on 429 once the limit is counted anew."""

        def wait(error: Exception) -> bool | float:
            return error.retry_after if isinstance(error, _RateLimited) else isinstance(error, retry_on)

        async for attempt in stamina.retry_context(
            on=wait, attempts=12, timeout=3 * self._timeout, wait_initial=0.05, wait_max=1.0, wait_jitter=0.1
        ):
            with attempt:
                return await self._send(method, path, params=params)
        raise AssertionError("a retry context returns or raises")

    async def _send(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        json: _Json | None = None,
        may_wait: bool = True,
    ) -> httpx.Response:
        if self._rate.seconds_to_wait and not may_wait:
            raise self._rate_limited(method, path)
        await self._rate.wait()
        try:
            async with asyncio.timeout(self._timeout):
                response = await self._client.request(method, path, params=params, json=json)
        except (httpx.TimeoutException, TimeoutError):
            raise self._unavailable(method, path, f"no answer within {self._timeout:g} s") from None
        except httpx.RequestError as error:
            raise self._unavailable(method, path, str(error) or type(error).__name__) from None
        self._rate.observe(response.headers)
        if response.status_code == httpx.codes.TOO_MANY_REQUESTS:
            self._rate.refused()
            raise self._rate_limited(method, path)
        if response.is_server_error:
            raise self._unavailable(method, path, f"the venue answered {response.status_code}")
        if response.status_code == httpx.codes.UNAUTHORIZED:
            raise BrokerRefused(
                f"{self.name}: the venue at {self._client.base_url.host} refuses the keys (401); nothing was done "
                f"there, correct key_id and secret_key of account {self.name}",
                account=self.name,
            )
        return response

    def _rate_limited(self, method: str, path: str) -> _RateLimited:
        wait = self._rate.seconds_to_wait
        why = (
            f"the venue's rate limit is used up, it counts anew in {wait:.1f} s"
            if self._rate.used_up
            else f"the venue refuses for now (429), it is asked again in {wait:.1f} s"
        )
        return _RateLimited(f"{self.name}: {method} {path}: {why}", account=self.name, retry_after=wait)

    def _unavailable(self, method: str, path: str, what: str) -> BrokerUnavailable:
        return BrokerUnavailable(
            f"{self.name}: {method} {path} at {self._client.base_url.host}: {what}", account=self.name
        )

    def _body(self, response: httpx.Response) -> Any:
        if not response.is_success:
            _, message = _error(response)
            raise BrokerRefused(
                f"{self.name}: {response.request.method} {response.request.url.path}: "
                f"the venue answered {response.status_code}: {message}",
                account=self.name,
            )
        body = _json(response)
        if body is None:
            raise BrokerUnavailable(
                f"{self.name}: {response.request.method} {response.request.url.path}: the answer is not JSON",
                account=self.name,
            )
        return body

    @contextmanager
    def _understood(self, what: str) -> Iterator[None]:
        try:
            yield
        except _SENSELESS as error:
            raise BrokerUnavailable(
                f"{self.name}: the venue's {what} can't be understood ({type(error).__name__}: {error})",
                account=self.name,
            ) from error


class _RateLimit:
    """What the venue's `X-Ratelimit-*` headers say is left, so that a request that must be refused is not sent."""

    _LONGEST = 60.0
    """Alpaca counts by the minute; a longer wait would be a clock that is wrong, not a limit."""
    _PAUSE = 1.0
    """After a 429 while the headers say that something is left, or nothing: another limit, as by the second."""

    def __init__(self) -> None:
        self._remaining: int | None = None
        self._reset_at = 0.0  # monotonic seconds
        self._paused_until = 0.0

    @property
    def used_up(self) -> bool:
        return self._remaining is not None and self._remaining <= 0 and self._reset_at > time.monotonic()

    @property
    def seconds_to_wait(self) -> float:
        until = max(self._reset_at, self._paused_until) if self.used_up else self._paused_until
        return max(0.0, until - time.monotonic())

    async def wait(self) -> None:
        if pause := self.seconds_to_wait:
            await asyncio.sleep(pause)
        if self._remaining is not None:
            self._remaining -= 1

    def observe(self, headers: httpx.Headers) -> None:
        try:
            remaining, reset = int(headers["X-Ratelimit-Remaining"]), float(headers["X-Ratelimit-Reset"])
        except (KeyError, ValueError):
            return
        self._remaining = remaining
        self._reset_at = time.monotonic() + min(max(reset - _venue_time(headers), 0.05), self._LONGEST)

    def refused(self) -> None:
        """429, its headers observed. To believe that all is used up would stop a kill switch for a minute."""
        if not self.used_up:
            self._paused_until = time.monotonic() + self._PAUSE


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


def _venue_time(headers: httpx.Headers) -> float:
    """Unix seconds by the venue's own clock where it says so: ours may be off by more than a minute."""
    try:
        return parsedate_to_datetime(headers["Date"]).timestamp()
    except (KeyError, ValueError):
        return time.time()


def _json(response: httpx.Response) -> Any:
    if not response.content:
        return None
    try:
        return response.json()
    except ValueError:
        return None


def _error(response: httpx.Response) -> tuple[str, str]:
    body = _json(response)
    if isinstance(body, dict):
        return str(body.get("code", response.status_code)), str(body.get("message", response.reason_phrase))
    return str(response.status_code), response.reason_phrase


def _cancel_result(order_id: str, status: int, body: Any) -> CancelResult:
    message = str(body.get("message", "")) if isinstance(body, dict) else ""
    if status in (httpx.codes.OK, httpx.codes.NO_CONTENT):
        return CancelResult(order_id, CancelOutcome.ACCEPTED)
    if status == httpx.codes.NOT_FOUND or any(word in message.lower() for word in _CLOSED_WORDS):
        return CancelResult(order_id, CancelOutcome.NOT_OPEN, message)
    return CancelResult(order_id, CancelOutcome.REFUSED, message or f"status {status}")


def _close_result(symbol: str, status: int, body: _Json) -> CloseResult:
    if status == httpx.codes.OK:
        return CloseResult(symbol, CloseOutcome.ACCEPTED, _order(body))
    message = str(body.get("message", f"status {status}"))
    return CloseResult(symbol, CloseOutcome.REFUSED, None, message, str(body.get("code", status)))


def _order(body: _Json) -> Order:
    """One order, whatever kind it is: what can't be told apart can still be cancelled.

    An order with several legs (options) has no symbol and no side of its own, one for an amount of money no quantity,
    and kinds of orders are added in time.
    """
    filled = _decimal(body.get("filled_qty") or "0")
    return Order(
        id=body["id"],
        client_order_id=body.get("client_order_id") or "",
        symbol=_symbol(body),
        side=_word(Side, body.get("side"), Side.BUY),
        quantity=_decimal(body.get("qty") or filled),
        filled_quantity=filled,
        # A word that is not in the table is an order that may still fill: accepted, suspended, done for the day, …
        status=_STATUS.get(body["status"], OrderStatus.NEW),
        type=_word(OrderType, body.get("type") or body.get("order_type"), OrderType.LIMIT),
        time_in_force=_word(TimeInForce, body.get("time_in_force"), TimeInForce.DAY),
        limit_price=_optional(body.get("limit_price"), _decimal),
        stop_price=_optional(body.get("stop_price"), _decimal),
        average_price=_optional(body.get("filled_avg_price"), _decimal),
        submitted_at=_optional(body.get("submitted_at"), _time),
    )


def _symbol(body: _Json) -> str:
    """Alpaca calls a pair `BTC/USD` in orders and `BTCUSD` in positions, and takes either in a request."""
    symbol = body.get("symbol") or ""
    return symbol.replace("/", "") if body.get("asset_class") == "crypto" else symbol


def _position(body: _Json) -> Position:
    quantity = _decimal(body["qty"])
    available = body.get("qty_available")
    return Position(
        symbol=_symbol(body),
        quantity=-abs(quantity) if body.get("side") == "short" else quantity,
        available=abs(quantity if available is None else _decimal(available)),
        average_entry_price=_decimal(body.get("avg_entry_price") or "0"),
        current_price=_optional(body.get("current_price"), _decimal),
    )


def _word(words: type[_Word], value: Any, otherwise: _Word) -> _Word:
    return words(value) if value in set(words) else otherwise


def _optional(value: Any, convert: Callable[[Any], _T]) -> _T | None:
    return None if value is None else convert(value)


def _decimal(value: Any) -> Decimal:
    """A finite number; a quantity that is none would pass every comparison."""
    number = Decimal(str(value))
    if not number.is_finite():
        raise ValueError(f"{value!r:.40} is not a number")
    return number


def _time(text: str) -> datetime:
    """ISO 8601 with a zone; Alpaca's nanoseconds are cut to the microseconds that `datetime` holds."""
    return datetime.fromisoformat(text).astimezone(UTC)
