"""A TCP proxy that breaks a connection in a chosen way at a chosen moment."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self

_CHUNK = 65_536
_APPLIED_WITHIN = 10.0
"""Seconds that a change may take to apply."""


class Fault(StrEnum):
    """What a client sees from the moment that `FaultProxy.inject` returns, on open and on new connections."""

    NONE = "none"
    REFUSED = "refused"
    """Open connections are closed, new ones refused."""
    HUNG = "hung"
    """Connections stay open and new ones are accepted; every byte is swallowed, both ways. They end with the fault."""
    SILENT = "silent"
    """The same, but nobody is told when it ends: the connections go on, without what was swallowed."""
    RESET = "reset"
    """Open connections are reset, new ones at their first request; the server gets nothing."""
    SLOW = "slow"
    """Each chunk of the server's answers is `delay` seconds late."""
    WRONG_ANSWERS = "wrong answers"
    """The server gets every request; its answers arrive as so many bytes of garbage."""
    LOST_RESPONSE = "lost response"
    """The server gets the request; when it answers, the connection is closed instead. See `FaultProxy.losing`."""


class FaultProxy:
    """Listens on a free port of 127.0.0.1 and forwards to `upstream`. A context manager; works from any thread."""

    def __init__(self, upstream: tuple[str, int], *, delay: float = 0.3) -> None:
        self.upstream = upstream
        self.delay = delay
        self.losing: Sequence[bytes] = ()
        """LOST_RESPONSE loses only answers to requests in which one of these occurs; every answer if there are none."""
        self.lost = 0
        """How many answers LOST_RESPONSE has lost."""
        self.holding: bytes | None = None
        """Requests in which this occurs are kept from the server until `deliver`, even if who sent them has gone."""
        self._held: list[_Held] = []
        self._fault = Fault.NONE
        self._links: set[_Link] = set()
        self._server: asyncio.Server | None = None
        self._socket = _bound(0)
        self.port: int = self._socket.getsockname()[1]
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault-proxy", daemon=True)
        self._thread.start()
        self._apply(self._listen)

    @property
    def address(self) -> tuple[str, int]:
        return ("127.0.0.1", self.port)

    @property
    def redis_url(self) -> str:
        """Of database 0, if a Redis is behind it."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def fault(self) -> Fault:
        return self._fault

    def inject(self, fault: Fault) -> None:
        """From the moment that this returns, the fault applies. A connection that lost bytes ends with its fault."""
        self._apply(lambda: self._switch(fault))

    def heal(self) -> None:
        self.inject(Fault.NONE)

    def forget(self) -> None:
        """Swallow whatever comes on the connections that are open now, for ever, as a forgetful firewall does."""
        self._apply(self._forget)

    def deliver(self) -> int:
        """Hand the server what was held, and return how many requests that were once it has answered each."""
        return int(self._apply(self._deliver))

    def cut(self) -> None:
        """Close all open connections."""
        self._apply(self._cut)

    def lead_to(self, upstream: tuple[str, int]) -> None:
        """Close all connections, and forward the next ones elsewhere: an address that has failed over."""
        self.upstream = upstream
        self.cut()

    def close(self) -> None:
        if self._loop.is_closed():
            return
        self._apply(self._stop)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_APPLIED_WITHIN)
        self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()

    def _apply(self, change: Callable[[], Any]) -> Any:
        async def apply() -> Any:
            outcome = change()
            return await outcome if asyncio.iscoroutine(outcome) else outcome

        return asyncio.run_coroutine_threadsafe(apply(), self._loop).result(_APPLIED_WITHIN)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._accepted, sock=self._socket)

    async def _switch(self, fault: Fault) -> None:
        self._fault = fault
        for link in list(self._links):
            if fault is Fault.RESET:
                link.reset()
            elif fault is Fault.REFUSED or (link.lost and fault is not Fault.HUNG):
                link.close()
        if fault is Fault.REFUSED:
            self._refuse()
        elif self._server is None:
            await self._listen()

    def _refuse(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
            self._socket = _bound(self.port)  # bound, not listening: refuses, and nobody else gets the port

    def _cut(self) -> None:
        for link in list(self._links):
            link.close()

    def _forget(self) -> None:
        for link in self._links:
            link.forgotten = True

    async def _deliver(self) -> int:
        delivered, self._held = self._held, []
        for held in delivered:
            held.server.write(held.request)
            await held.server.drain()
            await held.answers.read(_CHUNK)
            held.server.close()
        return len(delivered)

    async def _stop(self) -> None:
        self._cut()
        for held in self._held:
            held.server.close()
        if self._server is not None:
            self._server.close()
        self._socket.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = _Link(writer)
        self._links.add(link)
        try:
            with contextlib.suppress(OSError):  # one of the two ends went away, which ends the connection
                if self._fault in (Fault.HUNG, Fault.RESET):
                    await self._without_server(link, reader)
                else:
                    await self._between(link, reader)
        finally:
            self._links.discard(link)
            link.close()

    async def _without_server(self, link: _Link, reader: asyncio.StreamReader) -> None:
        link.lost = True
        while await reader.read(_CHUNK):
            if self._fault is not Fault.HUNG:
                link.reset()
                return

    async def _between(self, link: _Link, reader: asyncio.StreamReader) -> None:
        try:
            answers, link.server = await asyncio.open_connection(*self.upstream)
        except OSError:
            link.reset()  # as near as a connection that was accepted can come to one that is refused
            return
        pumps = [
            asyncio.create_task(self._requests(link, reader, link.server)),
            asyncio.create_task(self._answers(link, answers)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
        if link.held and link.server is not None:
            self._held.append(_Held(link.held, link.server, answers))
            link.server = None  # it outlives the client's end
            while await reader.read(_CHUNK):
                pass

    async def _requests(self, link: _Link, reader: asyncio.StreamReader, server: asyncio.StreamWriter) -> None:
        while data := await reader.read(_CHUNK):
            if self._swallows(link):
                continue
            if self.holding and self.holding in data:
                link.held = data
                return
            if not self.losing or any(words in data for words in self.losing):
                link.changes = True
            server.write(data)
            await server.drain()

    async def _answers(self, link: _Link, answers: asyncio.StreamReader) -> None:
        while data := await answers.read(_CHUNK):
            if self._fault is Fault.SLOW:
                await asyncio.sleep(self.delay)
            if self._fault is Fault.LOST_RESPONSE and link.changes:
                self.lost += 1
                return
            if self._swallows(link):
                continue
            link.client.write(_garbage(len(data)) if self._fault is Fault.WRONG_ANSWERS else data)
            link.changes = False
            await link.client.drain()
        if self._swallows(link):  # nor does it hear that the server has gone
            await asyncio.Event().wait()

    def _swallows(self, link: _Link) -> bool:
        link.lost = link.lost or self._fault is Fault.HUNG
        return link.forgotten or self._fault in (Fault.HUNG, Fault.SILENT)


@dataclass(frozen=True, slots=True)
class _Held:
    """A request that was kept, and the connection on which it is to arrive."""

    request: bytes
    server: asyncio.StreamWriter
    answers: asyncio.StreamReader


class _Link:
    """One client's connection and the one to the server that belongs to it.

    `lost`: bytes of it were swallowed by a fault that ends. `forgotten`: all that comes on it is swallowed.
    `changes`: the request under way is one whose answer is to be lost. `held`: the request that was kept.
    """

    def __init__(self, client: asyncio.StreamWriter) -> None:
        self.client = client
        self.server: asyncio.StreamWriter | None = None
        self.lost = False
        self.forgotten = False
        self.changes = False
        self.held = b""

    def close(self) -> None:
        for end in (self.client, self.server):
            if end is not None:
                end.close()

    def reset(self) -> None:
        at_once = struct.pack("ii", 1, 0)  # a close that discards what is unsent, and so sends RST
        self.client.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
        self.client.transport.abort()
        if self.server is not None:
            self.server.transport.abort()


def _bound(port: int) -> socket.socket:
    bound = socket.socket()
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind(("127.0.0.1", port))
    return bound


def _garbage(length: int) -> bytes:
    """The same each time for a length; ends a line, lest a reader of lines only waits for more."""
    return random.Random(length).randbytes(max(0, length - 2)) + b"\r\n"
