"""Listen for clients of the TWS API, keep them apart by their ids, and make the scenario's trouble for them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Final

from sandbox.exchange.tws.desk import Desk
from sandbox.exchange.tws.framing import GREETING, Field, fields_of, frame, length_of
from sandbox.exchange.tws.messages import error
from sandbox.exchange.tws.session import NAMES, Session
from sandbox.exchange.tws_settings import Event, TwsEvent
from sandbox.exchange.venue import Host, Venue

SERVER_VERSION: Final = 178
_TICK: Final = 0.01
"""Seconds between two looks for what happens without being asked."""


class TwsServer:
    """The API's socket in front of the host's venue; it is one login, as TWS is."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._desk = Desk(host.venue)
        self._sessions: dict[int, tuple[Session, asyncio.StreamWriter]] = {}
        self._server: asyncio.Server | None = None
        self._telling: asyncio.Task[None] | None = None
        self._closed_until = float("-inf")
        self._plan_events()

    async def start(self, listener: socket.socket) -> None:
        """Serve on this listening socket."""
        self._server = await asyncio.start_server(self._converse, sock=listener)
        self._telling = asyncio.create_task(self._tell_changes())

    async def stop(self) -> None:
        """End every conversation."""
        if self._telling is not None:
            self._telling.cancel()
        self._disconnect_all()
        if self._server is not None:
            self._server.close()

    # What tests and scenarios bring about

    def happen(self, event: Event, seconds: float = 0) -> None:
        """Bring it about now; a reset lets nobody in for so many exchange seconds."""
        if event == "reset":
            self._present_desk().find_venue()
            self._closed_until = self._host.venue.now() + seconds
            self._disconnect_all()
        elif event == "1100":
            self._present_desk().lose_venue()
            self._tell_all(1100, "Connectivity between IB and Trader Workstation has been lost.")
        else:
            self._find_venue(event)

    def _find_venue(self, event: Event) -> None:
        """What was asked for meanwhile goes to the venue now, as TWS sends on what it has kept."""
        self._present_desk().find_venue()
        words = "Connectivity between IB and Trader Workstation has been restored"
        if event == "1101":
            self._tell_all(1101, f"{words} - data lost.")
        elif event == "1102":
            self._tell_all(1102, f"{words} - data maintained.")
        for session, _ in list(self._sessions.values()):
            session.send_on(data_lost=event == "1101")

    def _plan_events(self) -> None:
        venue = self._host.venue
        for planned in venue.scenario.tws.events:
            venue.exchange.after(planned.at, partial(self._happen_at, venue, planned))

    def _happen_at(self, venue: Venue, planned: TwsEvent) -> None:
        if self._host.venue is venue:
            self.happen(planned.event, planned.seconds)

    # Conversations

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        session: Session | None = None
        try:
            session = await self._begin(reader, writer)
            while session is not None:
                fields = await _read(reader)
                if session.desk is not self._present_desk():
                    return
                await self._serve(session, writer, fields)
        except (asyncio.IncompleteReadError, ConnectionError, ValueError):
            pass  # it has gone, or speaks something else
        finally:
            if session is not None and self._sessions.get(session.client_id, (None,))[0] is session:
                del self._sessions[session.client_id]
            writer.close()

    async def _begin(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Session | None:
        """The handshake; None where the client is not let in."""
        if self._present_desk().venue.now() < self._closed_until:
            return None
        if await reader.readexactly(len(GREETING)) != GREETING:
            return None
        await reader.readexactly(length_of(await reader.readexactly(4)))  # the versions that it understands
        writer.write(frame([SERVER_VERSION, f"{datetime.now(UTC):%Y%m%d %H:%M:%S} UTC"]))
        fields = await _read(reader)
        if NAMES.get(fields[0]) != "startApi" or len(fields) < 3:
            return None
        client_id = int(fields[2])
        desk = self._present_desk()
        desk.venue.record.requested("TWS startApi", desk.venue.now())
        if client_id in self._sessions:
            words = "Unable to connect as the client id is already in use. Retry with a unique client id."
            writer.write(frame(error(-1, 326, words)))
            await writer.drain()
            return None

        def send(message: Sequence[Field]) -> None:
            if not writer.is_closing():  # it has left in the middle of an answer
                writer.write(frame(message))

        session = Session(desk, client_id, send)
        self._sessions[client_id] = session, writer
        session.greet()
        return session

    async def _serve(self, session: Session, writer: asyncio.StreamWriter, fields: Sequence[str]) -> None:
        venue = self._host.venue
        route = f"TWS {NAMES.get(fields[0], fields[0])}"
        venue.record.requested(route, venue.now())
        plan = venue.trouble.plan(route, venue.now())
        if plan.latency:
            await asyncio.sleep(plan.latency / venue.scenario.time_scale)
        if session.is_too_fast():
            writer.write(frame(error(-1, 100, "Max rate of messages per second has been exceeded.")))
            return
        venue.advance()
        trouble = plan.trouble
        if trouble is None:
            session.answer(fields)
        else:
            venue.record.trouble[trouble.kind + (" applied" if trouble.applied else "")] += 1
            if trouble.applied:
                session.answer(fields, silent=True)
            if trouble.kind == "drop":
                writer.transport.abort()
            elif not trouble.applied:
                session.refuse(fields, trouble)
        venue.advance()
        with contextlib.suppress(ConnectionError):
            await writer.drain()

    async def _tell_changes(self) -> None:
        while True:
            await asyncio.sleep(_TICK)
            if not self._sessions:
                continue
            self._present_desk()
            self._host.venue.advance()
            for session, _ in list(self._sessions.values()):
                session.tell_changes()

    def _present_desk(self) -> Desk:
        """The desk of the venue that is served now; with another venue all conversations end."""
        venue: Venue = self._host.venue
        if self._desk.venue is not venue:
            self._desk = Desk(venue)
            self._closed_until = float("-inf")
            self._disconnect_all()
            self._plan_events()
        return self._desk

    def _disconnect_all(self) -> None:
        for _, writer in self._sessions.values():
            writer.close()
        self._sessions.clear()

    def _tell_all(self, code: int, words: str) -> None:
        for _, writer in self._sessions.values():
            writer.write(frame(error(-1, code, words)))


async def _read(reader: asyncio.StreamReader) -> list[str]:
    fields = fields_of(await reader.readexactly(length_of(await reader.readexactly(4))))
    if not fields:
        raise ValueError("an empty message")
    return fields
