"""Send requests to Alpaca: a deadline for each, retries where they are safe, and the venue's rate limit kept."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any

import httpx
import stamina
import stamina.instrumentation

from brokers.protocol import BrokerRefused, BrokerUnavailable

# Its own line about each retry goes to standard output, into answers for machines and over what people are shown.
stamina.instrumentation.set_on_retry_hooks(())


class RateLimited(BrokerUnavailable):
    """429: nothing was done; `retry_after` seconds until the venue may be asked again."""

    def __init__(self, message: str, *, account: str, retry_after: float) -> None:
        super().__init__(message, account=account)
        self.retry_after = retry_after


class Connection:
    """One account's connections to the venue, and what its rate limit has left.

    Args:
        account: the account's name in the configuration, for what is said about a failure.
        base_url: with or without `/v2`.
        timeout: longest wait for one answer, seconds. A call that is retried ends within three times that.
    """

    def __init__(self, account: str, base_url: str, key_id: str, secret_key: str, *, timeout: float) -> None:
        self._account = account
        self._timeout = timeout
        self._budget = _RequestBudget()
        self._client = httpx.AsyncClient(
            base_url=base_url.rstrip("/").removesuffix("/v2") + "/v2",
            headers={"APCA-API-KEY-ID": key_id, "APCA-API-SECRET-KEY": secret_key},
            timeout=httpx.Timeout(timeout, connect=min(timeout, 2.0)),
            # Kept for a minute, so that a resident process finds a connection open when it is needed.
            limits=httpx.Limits(max_connections=16, max_keepalive_connections=16, keepalive_expiry=60.0),
        )

    @property
    def base_url(self) -> str:
        return str(self._client.base_url)

    async def aclose(self) -> None:
        await self._client.aclose()

    async def read(self, path: str, params: Mapping[str, str] | None = None) -> Any:
        """The JSON at this path, asked for until it comes or three timeouts are over."""
        return self.json_of(await self.request_with_retries("GET", path, params=params))

    async def request_with_retries(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        retry_on: type[BrokerUnavailable] = BrokerUnavailable,
    ) -> httpx.Response:
        """One request, repeated on `retry_on` for three timeouts, and on 429 once the limit is counted anew."""

        def wait(error: Exception) -> bool | float:
            return error.retry_after if isinstance(error, RateLimited) else isinstance(error, retry_on)

        async for attempt in stamina.retry_context(
            on=wait, attempts=12, timeout=3 * self._timeout, wait_initial=0.05, wait_max=1.0, wait_jitter=0.1
        ):
            with attempt:
                return await self.request(method, path, params=params)
        raise AssertionError("a retry context returns or raises")

    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        json: Mapping[str, Any] | None = None,
        may_wait: bool = True,
    ) -> httpx.Response:
        """One request, sent once. Without `may_wait` it is not sent at all while the rate limit is used up.

        Raises:
            RateLimited: the venue refuses for now, or would; nothing was done.
            BrokerUnavailable: no answer in time, no connection, or 5xx; it may have been done.
            BrokerRefused: the keys are wrong.
        """
        if self._budget.seconds_to_wait and not may_wait:
            raise self._rate_limited(method, path)
        await self._budget.wait()
        try:
            async with asyncio.timeout(self._timeout):
                response = await self._client.request(method, path, params=params, json=json)
        except (httpx.TimeoutException, TimeoutError):
            raise self._unavailable(method, path, f"no answer within {self._timeout:g} s") from None
        except httpx.RequestError as error:
            raise self._unavailable(method, path, str(error) or type(error).__name__) from None
        self._budget.observe(response.headers)
        if response.status_code == httpx.codes.TOO_MANY_REQUESTS:
            self._budget.refused()
            raise self._rate_limited(method, path)
        if response.is_server_error:
            raise self._unavailable(method, path, f"the venue answered {response.status_code}")
        if response.status_code == httpx.codes.UNAUTHORIZED:
            raise BrokerRefused(
                f"{self._account}: the venue at {self._client.base_url.host} refuses the keys (401); nothing was done "
                f"there, correct key_id and secret_key of account {self._account}",
                account=self._account,
            )
        return response

    def json_of(self, response: httpx.Response) -> Any:
        """The JSON of an answer that says yes. Raises `BrokerRefused` for one that says no."""
        asked = f"{self._account}: {response.request.method} {response.request.url.path}"
        if not response.is_success:
            _, message = error_in(response)
            raise BrokerRefused(f"{asked}: the venue answered {response.status_code}: {message}", account=self._account)
        body = json_in(response)
        if body is None:
            raise BrokerUnavailable(f"{asked}: the answer is not JSON", account=self._account)
        return body

    def _rate_limited(self, method: str, path: str) -> RateLimited:
        wait = self._budget.seconds_to_wait
        why = (
            f"the venue's rate limit is used up, it counts anew in {wait:.1f} s"
            if self._budget.used_up
            else f"the venue refuses for now (429), it is asked again in {wait:.1f} s"
        )
        return RateLimited(f"{self._account}: {method} {path}: {why}", account=self._account, retry_after=wait)

    def _unavailable(self, method: str, path: str, what: str) -> BrokerUnavailable:
        return BrokerUnavailable(
            f"{self._account}: {method} {path} at {self._client.base_url.host}: {what}", account=self._account
        )


class _RequestBudget:
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


def _venue_time(headers: httpx.Headers) -> float:
    """Unix seconds by the venue's own clock where it says so: ours may be off by more than a minute."""
    try:
        return parsedate_to_datetime(headers["Date"]).timestamp()
    except (KeyError, ValueError):
        return time.time()


def json_in(response: httpx.Response) -> Any:
    """The answer's JSON; None when it has none."""
    if not response.content:
        return None
    try:
        return response.json()
    except ValueError:
        return None


def error_in(response: httpx.Response) -> tuple[str, str]:
    """The venue's code and message, or what HTTP has in their place."""
    body = json_in(response)
    if isinstance(body, dict):
        return str(body.get("code", response.status_code)), str(body.get("message", response.reason_phrase))
    return str(response.status_code), response.reason_phrase
