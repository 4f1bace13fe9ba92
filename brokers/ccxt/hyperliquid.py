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
        self._used: set[str] = set()
        self._due = self._looked_at = float("-inf")
        self._checked = False
        self._asking = asyncio.Lock()

    async def names(self) -> Sequence[str]:
        """Every one.

        Raises `BrokerUnavailable` where that isn't told, and `BrokerRefused` where the address is no account's.
        """
        async with self._asking:
            if time.monotonic() >= self._due:
                try:
                    self._names, _ = await asyncio.gather(self._listed(), self._check_address())
                    self._due = time.monotonic() + ASKED_AGAIN
                except BrokerUnavailable:
                    if not self._checked or not self._names:
                        raise
                    self._due = time.monotonic() + LOOKED_AT_AGAIN  # until then those that are known
        return self._names

    async def with_orders(self) -> Sequence[str]:
        """Those whose orders are to be read now: all of them each minute, between that those in use."""
        names = await self.names()
        if time.monotonic() - self._looked_at > LOOKED_AT_AGAIN:
            self._looked_at = time.monotonic()
            return names
        return [name for name in names if name in self._used]

    def used(self, name: str) -> None:
        """Something is there, or it can't be told whether there is."""
        self._used.add(name)

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
