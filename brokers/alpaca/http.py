"""Ask Alpaca: one request at a time within its deadline and the rate limit, repeated only where that is harmless."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from functools import cache
from typing import Any

import httpx
import stamina
import stamina.instrumentation

from brokers.alpaca.reading import SENSELESS, Json, error_of, json_of
from brokers.protocol import BrokerRefused, BrokerUnavailable, repeat_until

# Its own line about each retry goes to standard output, into answers for machines and over what people are shown.
stamina.instrumentation.set_on_retry_hooks(())


AT_ONCE = 0.001
"""Seconds: after a single attempt. None at all would be taken for no limit."""
KEYS_REFUSED_AT_LEAST = 3
"""Answers in a row that refuse the keys before a request gives up."""


class RateLimited(BrokerUnavailable):
    """429: nothing was done; `retry_after` seconds until the venue may be asked again."""

    def __init__(self, message: str, *, account: str, retry_after: float) -> None:
        super().__init__(message, account=account)
        self.retry_after = retry_after


class KeysRefused(BrokerRefused):
    """401. It comes now and then with good keys (Alpaca, code 40110000), so that one alone is not believed."""


@cache
def _tls() -> ssl.SSLContext:
    """Whom to believe, read once for all accounts: reading it takes 25 ms, before anything is cancelled anywhere."""
    return httpx.create_ssl_context()


class Connection:
    """One account's requests. `timeout`: longest wait for one answer, seconds; a call that is retried takes three."""

    def __init__(self, name: str, base_url: str, key_id: str, secret_key: str, *, timeout: float) -> None:
        self._name = name
        self._timeout = timeout
        self._rate = RateLimit()
        self._reads = False
        """The venue has let these keys read something."""
        self._client = httpx.AsyncClient(
            base_url=base_url.rstrip("/").removesuffix("/v2") + "/v2",
            headers={"APCA-API-KEY-ID": key_id, "APCA-API-SECRET-KEY": secret_key},
            verify=_tls(),
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
        return self.body(await self.retrying("GET", path, params=params))

    async def retrying(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        json: Json | None = None,
        retry_on: type[BrokerUnavailable] = BrokerUnavailable,
        attempts: int = 12,
    ) -> httpx.Response:
        """One request, repeated on `retry_on` for three timeouts, at most `attempts` times; on 429 once it may.

        Not beyond `repeat_until`, when the last answer is what is told.
        """
        refusals = 0
        patience = max(min(3 * self._timeout, repeat_until.get() - time.monotonic()), AT_ONCE)

        def wait(error: Exception) -> bool | float:
            nonlocal refusals
            if isinstance(error, KeysRefused):
                refusals += 1
                return refusals < KEYS_REFUSED_AT_LEAST
            return error.retry_after if isinstance(error, RateLimited) else isinstance(error, retry_on)

        async for attempt in stamina.retry_context(
            on=wait, attempts=attempts, timeout=patience, wait_initial=0.05, wait_max=1.0, wait_jitter=0.1
        ):
            with attempt:
                return await self.send(method, path, params=params, json=json)
        raise AssertionError("a retry context returns or raises")

    async def send(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        json: Json | None = None,
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
            raise KeysRefused(self._refuses_keys(method), account=self._name)
        if method == "GET":
            self._reads = True
        return response

    def _refuses_keys(self, method: str) -> str:
        where = f"{self._name}: the venue at {self._client.base_url.host}"
        keys = f"key_id and secret_key of account {self._name}"
        if method != "GET" and self._reads:
            return f"{where} lets the keys read and refuses them this (401); give {keys} that may trade"
        return f"{where} refuses the keys (401); nothing was done there, correct {keys}"

    def _rate_limited(self, method: str, path: str) -> RateLimited:
        wait = self._rate.seconds_to_wait
        why = (
            f"the venue's rate limit is used up, it counts anew in {wait:.1f} s"
            if self._rate.used_up
            else f"the venue refuses for now (429), it is asked again in {wait:.1f} s"
        )
        return RateLimited(f"{self._name}: {method} {path}: {why}", account=self._name, retry_after=wait)

    def _unavailable(self, method: str, path: str, what: str) -> BrokerUnavailable:
        return BrokerUnavailable(
            f"{self._name}: {method} {path} at {self._client.base_url.host}: {what}", account=self._name
        )

    def body(self, response: httpx.Response) -> Any:
        if not response.is_success:
            _, message = error_of(response)
            raise BrokerRefused(
                f"{self._name}: {response.request.method} {response.request.url.path}: "
                f"the venue answered {response.status_code}: {message}",
                account=self._name,
            )
        body = json_of(response)
        if body is None:
            raise BrokerUnavailable(
                f"{self._name}: {response.request.method} {response.request.url.path}: the answer is not JSON",
                account=self._name,
            )
        return body

    @contextmanager
    def understood(self, what: str) -> Iterator[None]:
        try:
            yield
        except SENSELESS as error:
            raise BrokerUnavailable(
                f"{self._name}: the venue's {what} can't be understood ({type(error).__name__}: {error})",
                account=self._name,
            ) from error


class RateLimit:
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
