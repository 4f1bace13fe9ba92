"""Hold one account's ccxt exchange: made when it is first needed, with its markets, every call with a deadline.

Importing ccxt takes half a second and 65 MB whatever exchange is asked for. It is imported by the first call, on a
thread: nothing of a trip waits for it, and a standby has it long before.
"""

from __future__ import annotations

import asyncio
import difflib
import importlib
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

import stamina
import stamina.instrumentation

from brokers.ccxt.errors import (
    ClockOff,
    KeysRefused,
    MayHaveHappened,
    RateLimited,
    Sort,
    VenueRefused,
    code_of,
    is_clock_off,
    is_out_of_order,
    reason_of,
    says,
    sort_of,
    what_failed,
    without_secrets,
)
from brokers.ccxt.market_store import MarketStore
from brokers.ccxt.markets import PATIENCE, Markets
from brokers.ccxt.reading import SENSELESS, UNREAD, check_none_told
from brokers.ccxt.throttle import Throttle, changes_something
from brokers.protocol import BrokerError, BrokerRefused, BrokerUnavailable, repeat_until

IMPORTED_WITHIN = 20.0
"""Seconds that importing ccxt may take on a busy machine."""
KEYS_REFUSED_AT_LEAST = 3
"""Answers in a row that refuse the keys before a reading gives up."""
# Its own line about each retry goes to standard output, into answers for machines and over what people are shown.
stamina.instrumentation.set_on_retry_hooks(())

AT_ONCE = 0.001
"""Seconds: after a single attempt. None at all would be taken for no limit."""
EVERYWHERE = "*"
"""The key of `urls` that moves every address of an exchange to another host."""
SANDBOX = "sandbox"
"""The value of `urls` that takes the exchange's own test network."""

MISSING = 'the adapter ccxt needs a package that is not installed: pip install "trading-breaker-ops[ccxt]"'
last_answer: ContextVar[Any] = ContextVar("last_answer", default=None)
"""What an exchange has last answered in this task, as it came; None where that isn't known."""
_T = TypeVar("_T")
_Items = TypeVar("_Items", bound=Collection[Any])
_log = logging.getLogger("breaker.ccxt")
_log.setLevel(logging.ERROR)
"""ccxt logs requests with their keys when debugging is on; this is where they go instead, and stay unsaid."""


class Connection:
    """One account's requests.

    Args:
        name: the account's, in the configuration.
        exchange: ccxt's name of the exchange.
        credentials: as ccxt calls them: `apiKey`, `secret`, `password`, `walletAddress`, `privateKey`.
        options: ccxt's own, for this exchange.
        urls: `sandbox`, an address that stands for every one of the exchange's, or addresses by ccxt's keys.
        timeout: longest wait for one answer, seconds. A reading that is repeated ends within three times that.
        requests_per_minute: of weight one; None: as ccxt has it.
        market_store: where the exchange's list of markets is kept; None: nowhere.
    """

    def __init__(
        self,
        name: str,
        exchange: str,
        credentials: Mapping[str, str],
        *,
        options: Mapping[str, Any],
        urls: str | Mapping[str, str] | None,
        timeout: float,
        requests_per_minute: float | None,
        market_store: MarketStore | None = None,
    ) -> None:
        self.name = name
        self.exchange_id = exchange
        self._credentials = dict(credentials)
        self.options: Mapping[str, Any] = dict(options)
        """ccxt's, as the account has them."""
        self._urls = urls
        self._timeout = timeout
        self._per_minute = requests_per_minute
        self._exchange: Any = None
        self._making: asyncio.Task[Any] | None = None
        self._markets = Markets(market_store, timeout, awaited=self._awaited, told=self._told)
        self._throttle: Throttle | None = None

    def __repr__(self) -> str:
        return f"Connection({self.name!r}, {self.exchange_id!r})"

    async def aclose(self) -> None:
        """Release connections, whatever is still under way."""
        await self._markets.aclose()
        if self._making is not None:
            self._making.cancel()
            await asyncio.wait({self._making}, timeout=1.0)
        exchange, self._exchange, self._making = self._exchange, None, None
        if exchange is not None:
            await exchange.close()

    async def ready(self) -> Any:
        """ccxt's exchange with its markets. Raises `BrokerUnavailable`; `BrokerRefused` for what won't change."""
        try:
            exchange = await self._made()
            await self._markets.ready(exchange)
        except (MayHaveHappened, VenueRefused) as error:  # of what it wants to know first, and not of what is asked
            raise BrokerUnavailable(str(error), account=self.name) from None
        return exchange

    async def has_market(self, symbol: str) -> bool:
        """Whether the exchange lists the symbol; asked again, now and then, as new ones come."""
        return await self._markets.has(await self.ready(), symbol)

    async def lists_all(self, symbols: Iterable[str]) -> bool:
        """Whether the exchange lists these; as `has_market`, without waiting for what it is asked again."""
        return self._markets.lists_all(await self.ready(), symbols)

    async def _made(self) -> Any:
        if self._exchange is None:
            if self._making is None:
                self._making = asyncio.create_task(self._make())
                self._making.add_done_callback(lambda task: task.cancelled() or task.exception())
            await self._awaited(self._making, IMPORTED_WITHIN, "ccxt's import")
        return self._exchange

    async def _awaited(self, task: asyncio.Task[Any], within: float, what: str) -> None:
        with self._sorted(what, within):
            async with asyncio.timeout(within):
                await asyncio.shield(task)

    async def _make(self) -> None:
        try:
            module = await asyncio.to_thread(importlib.import_module, "ccxt.async_support")
            self._exchange = self._configured(self._class(module))
        except ImportError as error:
            raise self._refused(f"{MISSING} ({error})") from None
        finally:
            self._making = None

    def _class(self, module: Any) -> Any:
        known = module.exchanges
        if self.exchange_id in known:
            return getattr(module, self.exchange_id)
        raise self._refused(unknown_exchange(self.exchange_id, known))

    def _configured(self, kind: Any) -> Any:
        exchange = kind(
            {
                **self._credentials,
                "enableRateLimit": True,
                "timeout": int(PATIENCE * self._timeout * 1000),  # of what takes longest; each call has its own
                "options": self.options,
                "number": str,
            }
        )
        exchange.logger = _log
        exchange.timeout_on_exit = 0
        if self.exchange_id == "hyperliquid":
            exchange.initialize_client = _nothing_before
        exchange.has["fetchCurrencies"] = False  # needs other rights on some, and nothing here asks for it
        if self._urls == SANDBOX:
            exchange.set_sandbox_mode(True)
        elif self._urls:
            moved = {EVERYWHERE: self._urls} if isinstance(self._urls, str) else self._urls
            exchange.urls["api"] = moved_addresses(exchange.urls["api"], moved)
        self._throttle = Throttle(self.name, self._per_minute or 60_000 / exchange.rateLimit)
        exchange.throttler = self._throttle
        exchange.on_rest_response = self._observe(exchange)
        exchange.fetch = remembering(exchange.fetch)
        for parse in ("parse_order", "parse_position", "parse_position_risk", "parse_trade", "parse_ledger_entry"):
            if hasattr(exchange, parse):
                setattr(exchange, parse, _guarded(getattr(exchange, parse)))
        return exchange

    def _observe(self, exchange: Any) -> Callable[..., Any]:
        """ccxt's hook for each answer, where the exchange says how long it wants to hear nothing."""
        pass_on = exchange.on_rest_response

        def observe(code: int, reason: str, url: str, method: str, headers: Any, *rest: Any) -> Any:
            if code in (418, 429) and self._throttle is not None:
                found = {str(key).lower(): value for key, value in headers.items()}
                self._throttle.refused(code, found.get("retry-after"))
            return pass_on(code, reason, url, method, headers, *rest)

        return observe

    async def read(
        self, what: str, ask: Callable[[Any], Awaitable[_T]], *, believed: Collection[str] = frozenset()
    ) -> _T:
        """One reading, repeated while that is worth it for three timeouts, and not beyond `repeat_until`.

        Raises `BrokerUnavailable`, or `BrokerRefused`; at once for what the exchange refuses with a code `believed`.
        """
        refusals = 0

        def again(error: Exception) -> bool | float:
            nonlocal refusals
            if says(error, believed):
                return False
            if isinstance(error, KeysRefused):
                refusals += 1
                return refusals < KEYS_REFUSED_AT_LEAST
            if isinstance(error, RateLimited):  # no longer than anything else is waited for
                return error.retry_after if time.monotonic() + error.retry_after < until else False
            return isinstance(error, BrokerUnavailable)

        patience = max(min(3 * self._timeout, repeat_until.get() - time.monotonic()), AT_ONCE)
        until = time.monotonic() + patience
        async for attempt in stamina.retry_context(
            on=again, attempts=12, timeout=patience, wait_initial=0.05, wait_max=1.0, wait_jitter=0.1
        ):
            with attempt:
                return await self.once(what, ask)
        raise AssertionError("a retry context returns or raises")

    async def read_items(
        self,
        what: str,
        ask: Callable[[Any], Awaitable[_Items]],
        told_under: Collection[str],
        *,
        believed: Collection[str] = frozenset(),
    ) -> _Items:
        """A reading of several items. Where there is none, the answer itself has to say so (`Venue.told_under`)."""

        async def asked(exchange: Any) -> _Items:
            last_answer.set(None)
            found = await ask(exchange)
            answer = last_answer.get()
            if not found and told_under and answer is not None:
                check_none_told(answer, told_under)
            return found

        return await self.read(what, asked, believed=believed)

    async def change(self, what: str, ask: Callable[[Any], Awaitable[_T]]) -> _T:
        """One cancel or close, never repeated and never held back behind readings.

        Raises `MayHaveHappened`; any other `BrokerError` where nothing did.
        """
        token = changes_something.set(True)
        try:
            return await self.once(what, ask)
        finally:
            changes_something.reset(token)

    async def once(self, what: str, ask: Callable[[Any], Awaitable[_T]]) -> _T:
        """One reading that is not repeated. Raises `BrokerUnavailable`, or `BrokerRefused`."""
        exchange = await self.ready()
        with self._sorted(what, self._timeout):
            try:
                async with asyncio.timeout(self._timeout):
                    return await ask(exchange)
            except Exception as error:
                if is_clock_off(error):
                    await self._set_clock(exchange)
                raise

    async def _set_clock(self, exchange: Any) -> None:
        """By the exchange's own, for the next request; it is no request that can't be done without."""
        try:
            async with asyncio.timeout(self._timeout):
                await exchange.load_time_difference()
            exchange.options["adjustForTimeDifference"] = True
        except Exception as error:
            _log.debug("the clock of %s could not be read: %s", self.exchange_id, type(error).__name__)

    @contextmanager
    def _sorted(self, what: str, within: float) -> Iterator[None]:
        """Tell what goes wrong within as what it means for the request."""
        try:
            yield
        except BrokerError:
            raise
        except TimeoutError:
            raise MayHaveHappened(
                f"{self.name}: {what} at {self.exchange_id}: no answer within {within:g} s", account=self.name
            ) from None
        except Exception as error:
            raise self._told(what, error) from None

    def _told(self, what: str, error: Exception) -> BrokerError:
        said = without_secrets(str(error), self._credentials.values())
        kind = type(error).__name__
        line = f"{self.name}: {what} at {self.exchange_id}: {kind}: {said.removeprefix(self.exchange_id).strip()}"
        sort = sort_of(error)
        if sort is Sort.KEYS:
            return KeysRefused(
                f"{self.name}: {self.exchange_id} refuses the keys for the {what} ({kind}: {reason_of(said)}); give "
                f"key_id and secret_key of account {self.name} that may read and trade in this market, from here",
                account=self.name,
                code=code_of(said),
            )
        if sort is Sort.REFUSED:
            return VenueRefused(line, account=self.name, kind=kind, code=code_of(said), reason=reason_of(said))
        if sort is Sort.UNKNOWN:
            if failed := what_failed(error):
                where = said.removeprefix(self.exchange_id).strip()
                line = f"{self.name}: {what} at {self.exchange_id}: {where}: {failed}"
            elif is_out_of_order(said):
                line = f"{line}; the exchange is out of order: see its own status page"
            elif isinstance(error, SENSELESS):
                line = f"{self.name}: the {what} of {self.exchange_id} can't be understood ({kind}: {said})"
            return MayHaveHappened(line, account=self.name)
        if is_clock_off(error):
            return ClockOff(f"{line}; the clock was compared with the exchange's, and is corrected", account=self.name)
        wait = 0.0 if self._throttle is None else self._throttle.paused_for
        return RateLimited(line, account=self.name, retry_after=max(wait, 0.25))

    def _refused(self, sentence: str) -> BrokerRefused:
        return BrokerRefused(f"{self.name}: {sentence}", account=self.name)


def unknown_exchange(name: str, known: list[str]) -> str:
    """The sentence on an exchange that ccxt doesn't know, with the nearest that it does."""
    near = difflib.get_close_matches(name, known, 1, 0.5)
    return f"ccxt knows no exchange '{name}'" + (f"; is it {near[0]}?" if near else f"; it knows {len(known)}")


def moved_addresses(addresses: Any, moved: Mapping[str, str]) -> Any:
    """An exchange's addresses, nested as ccxt has them, with those of these keys replaced, or all moved to one host."""
    everywhere = moved.get(EVERYWHERE)

    def move(key: str, address: Any) -> Any:
        if isinstance(address, Mapping):
            return {inner: move(inner, value) for inner, value in address.items()}
        if key in moved:
            return moved[key]
        if everywhere is None or not isinstance(address, str):
            return address
        old, new = urlsplit(address), urlsplit(everywhere)
        return urlunsplit((new.scheme, new.netloc, new.path.rstrip("/") + old.path, "", ""))

    return {key: move(key, value) for key, value in addresses.items()} if isinstance(addresses, Mapping) else addresses


async def _nothing_before() -> bool:
    """In place of what ccxt does before the first order or cancel at Hyperliquid.

    It would send three requests first, one of which approves a fee for ccxt on each order, in the account's name.
    """
    return True


def remembering(fetch: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """ccxt's sending of one request, which leaves the answer for whoever asked."""

    async def remembered(*asked: Any, **more: Any) -> Any:
        answer = await fetch(*asked, **more)
        last_answer.set(answer)
        return answer

    return remembered


def _guarded(parse: Callable[..., Any]) -> Callable[..., Any]:
    """ccxt's reading of one item, which hands on one that it can't read instead of losing the list with it."""

    def guarded(body: Any, *rest: Any, **more: Any) -> Any:
        try:
            return parse(body, *rest, **more)
        except SENSELESS as error:
            return {"info": body, "symbol": None, "timestamp": None, UNREAD: f"{type(error).__name__}: {error}"}

    return guarded
