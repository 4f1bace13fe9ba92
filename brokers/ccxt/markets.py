"""Have an exchange's list of markets: from this host's disk at once, from the exchange beside everything else.

ccxt names, and sends, nothing without the list, and an exchange may be slow to answer for it or not answer at all while
it takes cancels and orders. It is asked for directly: behind ccxt's own loading other requests of its may wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime
from typing import Any

from brokers.ccxt.market_store import KeptMarkets, MarketStore
from brokers.ccxt.reading import SENSELESS
from brokers.ccxt.throttle import changes_something
from brokers.protocol import BrokerError

PATIENCE = 4
"""Times the longest wait for one answer that the list may take where there is none: some megabytes."""
AGAIN_AFTER = 60.0
"""Seconds before it is asked for again after a failure, or for a symbol that is not in it."""
REFRESHED_AFTER = 10.0
"""Seconds of use before a list from the disk is replaced: its answer, which takes a moment to read, is in no cancel's
way then, and who is done sooner asks for none."""
REFRESHED_EVERY = 6 * 3600.0
"""Seconds after which a process that goes on asks anew, so that what is on the disk serves at once."""
KEPT_WITHIN = 2.0
"""Seconds that are waited at the end for a list that is being written."""
LIST = "list of markets"

_log = logging.getLogger(__name__)


class Markets:
    """The markets of one account's exchange.

    Args:
        store: where the list is kept; None: nowhere.
        timeout: longest wait for one ordinary answer, seconds.
        awaited: waits for a task as long as it is told, and raises what goes wrong as `BrokerError`.
        told: what went wrong as `BrokerError`.
    """

    def __init__(
        self,
        store: MarketStore | None,
        timeout: float,
        *,
        awaited: Callable[[asyncio.Task[None], float, str], Awaitable[None]],
        told: Callable[[str, Exception], BrokerError],
    ) -> None:
        self._store = store
        self._timeout = timeout
        self._awaited = awaited
        self._told = told
        self._opening: asyncio.Task[None] | None = None
        self._asking: asyncio.Task[None] | None = None
        self._asked_at = self._due = float("-inf")
        self._keeping: asyncio.Task[None] | None = None
        self._read_at: datetime | None = None
        self._said = False

    async def aclose(self) -> None:
        """Ask no more; what is being written may end."""
        for task in filter(None, (self._opening, self._asking)):
            task.cancel()
            await asyncio.wait({task}, timeout=1.0)
        if self._keeping is not None:
            await asyncio.wait({self._keeping}, timeout=KEPT_WITHIN)

    async def ready(self, exchange: Any) -> None:
        """Returns when the exchange has its markets. Raises `BrokerError`."""
        if exchange.markets:
            if time.monotonic() >= self._due and self._asking is None:
                self._ask(exchange)
            return
        if self._opening is None:
            self._opening = asyncio.create_task(self._open(exchange))
            self._opening.add_done_callback(self._opened)
        await asyncio.shield(self._opening)

    def _opened(self, task: asyncio.Task[None]) -> None:
        self._opening = None
        if not task.cancelled():
            task.exception()

    async def _open(self, exchange: Any) -> None:
        kept = await self._kept()
        if kept is not None and kept.serves_at_once(datetime.now(UTC), _version()) and _take(exchange, kept):
            self._read_at, self._due = kept.read_at, time.monotonic() + REFRESHED_AFTER
            return
        patience = self._timeout * (PATIENCE if kept is None else 1)
        try:
            await self._awaited(self._asking or self._ask(exchange), patience, LIST)
        except BrokerError as error:
            if kept is None or not _take(exchange, kept):
                raise
            self._read_at, self._due = kept.read_at, time.monotonic() + AGAIN_AFTER
            self._say(error)

    async def _kept(self) -> KeptMarkets | None:
        if self._store is None:
            return None
        try:
            async with asyncio.timeout(self._timeout):
                return await asyncio.to_thread(self._store.read)
        except TimeoutError:  # a disk that hangs
            return None

    async def has(self, exchange: Any, symbol: str) -> bool:
        """Whether the exchange lists the symbol; it is asked again, now and then, for one that is not in the list.

        The first who misses one waits for that as long as for any other answer, the others don't.
        """
        if self.lists_all(exchange, (symbol,)):
            return True
        left = self._asked_at + self._timeout - time.monotonic()
        if self._asking is not None and left > 0:
            with contextlib.suppress(BrokerError):  # which is said where the asking ends
                await self._awaited(self._asking, left, LIST)
        return symbol in exchange.markets

    def lists_all(self, exchange: Any, symbols: Iterable[str]) -> bool:
        """Whether the exchange lists these; where not it is asked again, and nobody waits."""
        listed = all(symbol in exchange.markets for symbol in symbols)
        if not listed and self._asking is None and time.monotonic() - self._asked_at > AGAIN_AFTER:
            self._ask(exchange)
        return listed

    def _ask(self, exchange: Any) -> asyncio.Task[None]:
        """Whoever gives up waiting leaves it going: the next one finds it further on."""
        self._asked_at = time.monotonic()
        self._asking = asyncio.create_task(self._asked(exchange))
        self._asking.add_done_callback(lambda task: self._note(task, exchange))
        return self._asking

    async def _asked(self, exchange: Any) -> None:
        changes_something.set(not exchange.markets)  # the first is what a cancel may wait for, a newer one is a reading
        read_at = datetime.now(UTC)
        markets = exchange.to_array(await exchange.fetch_markets())
        if not markets:
            raise ValueError("it is empty")
        exchange.set_markets(markets)
        self._read_at = read_at
        if self._store is not None:
            options = exchange.options
            helpers = {name: options[name] for name in options.get("marketHelperProps") or () if options.get(name)}
            kept = KeptMarkets(read_at, _version(), markets, helpers)
            self._keeping = asyncio.create_task(self._keep(self._store, kept))

    def _note(self, task: asyncio.Task[None], exchange: Any) -> None:
        self._asking = None
        if task.cancelled():
            return
        error = task.exception()
        self._due = time.monotonic() + (REFRESHED_EVERY if error is None else AGAIN_AFTER)
        self._said = self._said and error is not None
        if isinstance(error, Exception) and exchange.markets:
            self._say(self._told(LIST, error))

    async def _keep(self, store: MarketStore, kept: KeptMarkets) -> None:
        try:
            await asyncio.to_thread(store.write, kept)
        except (OSError, RuntimeError, *SENSELESS) as error:  # must not keep anything from being closed
            _log.warning("%s could not be written, so that a %s is not kept: %s", store.path, LIST, error)

    def _say(self, error: BrokerError) -> None:
        """Once until the exchange has answered."""
        if not self._said and self._read_at is not None:
            self._said = True
            _log.warning(
                "%s; its list of %s UTC is used: what it has listed since is named, and has to be closed there",
                error,
                f"{self._read_at:%Y-%m-%d %H:%M}",
            )


def _version() -> str:
    """Of ccxt, which is imported by now."""
    return str(importlib.import_module("ccxt").__version__)


def _take(exchange: Any, kept: KeptMarkets) -> bool:
    """Whether ccxt could make sense of them."""
    try:
        exchange.set_markets(kept.markets)
    except SENSELESS:
        exchange.markets = None
        return False
    exchange.options.update(kept.helpers)
    return True
