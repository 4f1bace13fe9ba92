"""Ask Hyperliquid what its lists alone don't tell: whose address it is, and where else it may have positions.

Others run perpetual exchanges of their own there, under the same addresses (HIP-3, info endpoint `perpDexs`). What an
account has at one of them is told only to who asks for that one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any

from brokers.ccxt.connection import Connection
from brokers.protocol import BrokerRefused, BrokerUnavailable

ASKED_AGAIN = 600.0
"""Seconds after which it is asked anew which exchanges there are."""
ASKED_WITHIN = 2.0
"""Seconds that a reading waits for what it doesn't need to cancel and to close: until it is told nothing is flat."""
LOOKED_AT_AGAIN = 60.0
"""Seconds after which orders are looked for at exchanges where nothing was found, too. One such question costs twenty
times a simple one, of 1,200 a minute (Hyperliquid, rate limits); positions, which cost two, are always asked for."""
_NO_ACCOUNT = {
    "agent": "is the address of an API wallet, which has no positions of its own: give the account's own as key_id",
    "missing": "is an address that the exchange has never seen: nothing there can be told; correct key_id",
}
"""Hyperliquid, info endpoint `userRole`: to either address every list is empty."""


class OtherExchanges:
    """Those that others run there, and where of them this account has been seen to have something."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._names: Sequence[str] = ()
        self._known = self._checked = False
        self._due = float("-inf")
        self._used: set[str] = set()
        self._without_orders: dict[str, float] = {}
        """When each was last read and had none."""
        self._asking: asyncio.Task[None] | None = None

    async def names(self) -> Sequence[str]:
        """Every one.

        Raises `BrokerUnavailable` where that isn't told, and `BrokerRefused` where the address is no account's.
        """
        if time.monotonic() >= self._due:
            if self._asking is None:
                self._asking = asyncio.create_task(self._ask_anew())
                self._asking.add_done_callback(self._asked)
            try:
                async with asyncio.timeout(ASKED_WITHIN):
                    await asyncio.shield(self._asking)
            except TimeoutError:  # the asking goes on: the next reading finds it further on
                if not self._known:
                    said = f"{self._connection.name}: not told within {ASKED_WITHIN:g} s"
                    raise BrokerUnavailable(said, account=self._connection.name) from None
        return self._names

    async def aclose(self) -> None:
        """Ask no more."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.wait({self._asking}, timeout=1.0)

    def _asked(self, task: asyncio.Task[None]) -> None:
        self._asking = None
        if not task.cancelled():
            task.exception()

    async def _ask_anew(self) -> None:
        try:
            self._names, _ = await asyncio.gather(self._listed(), self._check_address())
            self._known, self._due = True, time.monotonic() + ASKED_AGAIN
        except BrokerUnavailable:
            if not self._known:
                raise
            self._due = time.monotonic() + LOOKED_AT_AGAIN  # until then those that are known

    async def with_orders(self) -> Sequence[str]:
        """Those whose orders are to be read now: all of them each minute, between that those in use."""
        since = time.monotonic() - LOOKED_AT_AGAIN
        names = await self.names()
        return [name for name in names if name in self._used or self._without_orders.get(name, since) <= since]

    def has_something(self, name: str) -> None:
        """An order or a position was seen there."""
        self._used.add(name)

    def has_no_orders(self, name: str) -> None:
        """Its orders were read, and there are none. What could not be read is neither, and is read again."""
        self._without_orders[name] = time.monotonic()

    async def _listed(self) -> Sequence[str]:
        """The first of the list is the main exchange, which has no name."""
        told = await self._ask("list of exchanges", {"type": "perpDexs"})
        if not isinstance(told, list):
            raise BrokerUnavailable(
                f"{self._connection.name}: the list of exchanges can't be understood", account=self._connection.name
            )
        return [str(each["name"]) for each in told if isinstance(each, Mapping)]

    async def _check_address(self) -> None:
        if self._checked:
            return
        exchange = await self._connection.ready()
        address = exchange.options.get("subAccountAddress") or exchange.walletAddress
        told = await self._ask("role of the address", {"type": "userRole", "user": address})
        wrong = _NO_ACCOUNT.get(str(told.get("role")) if isinstance(told, Mapping) else "")
        if wrong:
            raise BrokerRefused(f"{self._connection.name}: {address} {wrong}", account=self._connection.name)
        self._checked = True

    async def _ask(self, what: str, request: Mapping[str, Any]) -> Any:
        return await self._connection.once(what, lambda asked: asked.publicPostInfo(dict(request)))
