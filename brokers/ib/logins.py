"""Keep the connections of one account to TWS: one that reads, one that trades, and others as whose orders demand it.

TWS lets two clients of the same id never in at once. So the account's own client id is taken only while orders are
placed or cancelled, and whoever has it is alone in that: of two kill switches at once one places closes, and the other
is refused until the first has left. Readings need no such thing, and go by an id of nobody's.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from typing import Any, Final

from brokers.ib.connection import ClientIdTaken, Connection
from brokers.ib.listener import VenueLink
from brokers.protocol import BrokerRefused

IDLE: Final = 15.0
"""Seconds after which a connection that trades is left, so that another process may have its client id."""
ASK_FOR_VENUE: Final = 5.0
"""Seconds between two connections made to hear whether TWS, which had lost its venue, has it again."""
OTHERS_PATIENCE: Final = 10.0
"""Seconds for which our client id may be somebody else's before closes are placed under another one."""
_READING_IDS: Final = 1_000_000
"""Client ids from here on are nobody's: a random one of them reads."""
_ATTEMPTS: Final = 3


class Logins:
    """One account's connections, each made when it is needed, and made again when it is gone."""

    def __init__(self, name: str, host: str, port: int, client_id: int, account: str | None, timeout: float) -> None:
        self._name, self._host, self._port, self._timeout = name, host, port, timeout
        self._client_id = client_id
        self._account = account
        self._open: dict[object, Connection] = {}
        self._opening: dict[object, asyncio.Lock] = {}
        self._used: dict[int, float] = {}
        self._leaving: dict[int, asyncio.TimerHandle] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self.link = VenueLink()
        self._asked_for_venue = 0.0
        self._taken: tuple[float, float] | None = None
        """Since when our client id has been somebody else's, and when that was last so."""
        self.alone = True
        """Whether closes go by the account's own client id, so that nobody else of ours places any."""

    @property
    def account(self) -> str | None:
        """As it is known: the configured one, else the only one of the login."""
        return self._account

    async def reader(self) -> Connection:
        """Raises `BrokerUnavailable`, `BrokerRefused` where the login doesn't have the account."""
        async with self._lock("reader"):
            known = self._open.get("reader")
            if known is not None and known.is_ready and not self._is_out_of_date(known):
                return known
            if known is not None:
                known.close()
            return await self._connect_reader()

    def _is_out_of_date(self, reader: Connection) -> bool:
        """TWS has its venue again, and what it told before is old; or it was lost, and no word of it has come since."""
        now = time.monotonic()
        if self.link.lost_at is None:
            return reader.losses != self.link.losses
        if now - max(self.link.lost_at, self._asked_for_venue) < ASK_FOR_VENUE:
            return False
        self._asked_for_venue = now
        return True

    async def _connect_reader(self) -> Connection:
        for attempt in range(_ATTEMPTS):
            connection = Connection(self._name, self._host, self._port, self._timeout, self.link)
            try:
                await connection.open(_READING_IDS + secrets.randbelow(2**30))
            except ClientIdTaken:
                if attempt == _ATTEMPTS - 1:
                    raise
                continue
            break
        self._check_account(connection)
        self._open["reader"] = connection
        return connection

    def _check_account(self, connection: Connection) -> None:
        managed = ", ".join(connection.accounts)
        if self._account is None and len(connection.accounts) == 1:
            self._account = connection.accounts[0]
        if self._account is None:
            problem = f"the login manages several accounts; set ib_account to one of {managed}"
        elif self._account not in connection.accounts:
            problem = f"the login does not manage {self._account}; set ib_account to one of {managed}"
        else:
            return
        connection.close()
        raise BrokerRefused(f"{self._name}: {problem}", account=self._name)

    async def trader(self) -> Connection:
        """The connection that places closes.

        Raises `ClientIdTaken` while somebody else has the account's client id, for at most `OTHERS_PATIENCE`: then
        another one is taken.
        """
        try:
            connection = await self.client(self._client_id)
        except ClientIdTaken:
            now = time.monotonic()
            since, last = self._taken or (now, now)
            self._taken = (since if now - last < OTHERS_PATIENCE else now), now
            if now - self._taken[0] < OTHERS_PATIENCE:
                raise
            self.alone = False
            return await self.reader()
        self._taken = None
        self.alone = True
        return connection

    async def client(self, client_id: int) -> Connection:
        """As this client of TWS, for as long as it is used. Raises `ClientIdTaken`."""
        reader = self._open.get("reader")
        if reader is not None and reader.is_ready and reader.client_id == client_id:
            return reader
        async with self._lock(client_id):
            connection = self._open.get(client_id)
            if connection is None or not connection.is_ready:
                connection = Connection(self._name, self._host, self._port, self._timeout, self.link)
                await connection.open(client_id)
                self._check_account(connection)
                self._open[client_id] = connection
            self._leave_when_idle(client_id)
            return connection

    def _leave_when_idle(self, client_id: int) -> None:
        self._used[client_id] = time.monotonic()
        if client_id not in self._leaving:
            self._leaving[client_id] = asyncio.get_running_loop().call_later(IDLE, self._perhaps_leave, client_id)

    def _perhaps_leave(self, client_id: int) -> None:
        self._leaving.pop(client_id, None)
        left = self._used[client_id] + IDLE - time.monotonic()
        if left > 0:
            self._leaving[client_id] = asyncio.get_running_loop().call_later(left, self._perhaps_leave, client_id)
        elif (connection := self._open.pop(client_id, None)) is not None:
            connection.close()

    def _lock(self, key: object) -> asyncio.Lock:
        """Connections belong to the loop that made them: in another one they are made anew."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self.close()
            self._opening = {}
            self._loop = loop
        return self._opening.setdefault(key, asyncio.Lock())

    def close(self) -> None:
        """Leave TWS."""
        for handle in self._leaving.values():
            handle.cancel()
        self._leaving.clear()
        connections: list[Any] = list(self._open.values())
        self._open.clear()
        for connection in connections:
            connection.close()
