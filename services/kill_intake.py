"""Take requests for a kill switch from a socket in the state directory, and from a stream in Redis.

Whoever may open the socket is this user on this host; whoever may write to the stream may trip as well.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

import structlog
from redis.exceptions import RedisError

from breaker.errors import BreakerError, InvalidInput
from configuration.breakers import waiting_incident
from configuration.fingerprint import same_configuration
from configuration.locations import standby_socket
from configuration.redis_clients import async_redis_client
from configuration.settings import Settings
from services.kill_executor import KillExecutor
from services.kill_request import ANSWER, REQUESTS, KillRequest
from services.outage_log import OutageLog
from services.redis_history import believed_for

REQUEST_AGE = 60.0
"""Seconds after which a request in the stream is too old to be acted on by a standby that starts."""
READ_WITHIN = 2.0
"""Seconds that a client of the socket has to say what it asks for."""
RETRY_AFTER = 0.25
"""Seconds for which a Redis that failed is left alone."""
ANSWER_KEPT = 86_400

_NAMESPACE = UUID("8a6f0c3d-2f0b-5a57-8d0e-6f0f9e2b7c44")

log = structlog.get_logger(__name__)


class KillSocket:
    """Answers on the socket from `listen` to `close`. `fingerprint` is compared with that of each request."""

    def __init__(self, settings: Settings, executor: KillExecutor, fingerprint: Mapping[str, Any]) -> None:
        self._settings = settings
        self._executor = executor
        self._fingerprint = fingerprint
        self.path: Path = standby_socket(settings.state_dir)
        self._server: asyncio.Server | None = None

    async def listen(self) -> None:
        """Raises OSError when the socket can't be made."""
        self._server = await asyncio.start_unix_server(self._serve, sock=self._bound())

    def close(self) -> None:
        self.path.unlink(missing_ok=True)
        if self._server is not None:
            self._server.close()

    def _bound(self) -> socket.socket:
        """Under its name only once it listens: whoever finds it can connect."""
        unready = self.path.with_name(f"{self.path.name}.unready")
        unready.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX)
        before = os.umask(0o177)
        try:
            listener.bind(str(unready))
        finally:
            os.umask(before)
        listener.listen(16)
        unready.rename(self.path)
        return listener

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request and what becomes of it, a line each. A client that goes away doesn't stop what it asked for."""

        def send(message: Mapping[str, Any]) -> None:
            if not writer.is_closing():
                writer.write(json.dumps(message, default=str).encode() + b"\n")

        try:
            async with asyncio.timeout(READ_WITHIN):
                asked = json.loads(await reader.readline())
            request = KillRequest.model_validate(asked)
            refusal = self._why_not(request, asked.get("configuration"))
        except (TimeoutError, ValueError, AttributeError, ConnectionError) as error:
            refusal = f"the request can't be understood ({type(error).__name__})"
        if refusal:
            send({"event": "REFUSED", "why": refusal})
        else:
            # Without Redis nobody else knows the incident that this host has begun.
            scope = self._executor.coverage(request).scope
            waiting = waiting_incident(self._settings, scope)
            request = request.model_copy(update={"incident_id": waiting or request.incident_id})
            send({"event": "ACCEPTED", "event_id": request.event_id, "incident_id": request.incident_id})
            await self._executor.begin(self._executor.kill(request, "cli", send))
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    def _why_not(self, request: KillRequest, configuration: object) -> str | None:
        try:
            self._executor.coverage(request)
        except InvalidInput as error:
            return str(error)
        if not same_configuration(configuration, self._fingerprint):
            return "it has another configuration; restart it to take the present one"
        return None


class KillStream:
    """Reads the stream from a minute before its first reading on; answers there are for whoever polls.

    What was asked of another run of Redis may come from a copy of its data, and be done long since: it only trips.
    """

    def __init__(self, settings: Settings, executor: KillExecutor, outages: OutageLog) -> None:
        self._executor = executor
        self._outages = outages
        self._redis = async_redis_client(settings, timeout=settings.redis_timeout + 1.0, protocol=2)
        self._last: bytes | str | None = None
        self._began: int | None = None
        """When the Redis that answers began, in its milliseconds; None until it is asked, and when it failed."""

    async def read(self) -> None:
        """What has come within a second."""
        try:
            if self._last is None:
                clock: Any = await self._redis.time()
                self._last = f"{int((clock[0] - REQUEST_AGE) * 1000)}-0"
            if self._began is None:
                self._began = await self._run_began()
            found: Any = await self._redis.xread({REQUESTS: self._last}, block=1_000)
            for _, entries in found or ():
                for entry_id, fields in entries:
                    await self._accept(entry_id, fields)
                    self._last = entry_id
            self._outages.note("kill requests", None)
        except (RedisError, OSError) as error:
            self._began = None  # it may have been started anew, or another one took over
            self._outages.note("kill requests", error)
            await asyncio.sleep(RETRY_AFTER)

    async def close(self) -> None:
        await self._redis.aclose()

    async def _run_began(self) -> int:
        """From when on it is believed."""
        believed = await believed_for(self._redis)
        clock: Any = await self._redis.time()
        return int(max(0.0, int(clock[0]) - believed)) * 1000  # both in whole seconds

    async def _accept(self, entry_id: bytes, fields: Mapping[bytes, bytes]) -> None:
        # The same ids on every host that reads the entry, so that they make one trip and know each other's closes.
        ids = {name: str(uuid5(_NAMESPACE, f"{name} {entry_id.decode()}")) for name in ("event_id", "incident_id")}
        try:
            request = KillRequest.model_validate({**ids, **json.loads(fields[b"request"])})
        except (KeyError, TypeError, ValueError) as error:
            log.warning("a kill request in the stream can't be understood", error=str(error).splitlines()[0])
            return
        try:
            self._executor.coverage(request)
        except InvalidInput as error:  # another standby may have the account
            log.warning("a kill request in the stream is not for this host", why=str(error))
            return
        if b"DONE" in (await self._redis.get(f"{ANSWER}{request.event_id}") or b""):
            return  # one that was begun and cut off is done again
        if not self._executor.claim(request.event_id):
            return
        if int(entry_id.split(b"-")[0]) < (self._began or 0):
            self._executor.begin(self._only_trip(request))
            return
        await self._answer(request, {"event": "ACCEPTED"})
        self._executor.begin(self._kill(request))

    async def _only_trip(self, request: KillRequest) -> None:
        log.error(
            "a kill request is from before Redis began, and may be from a copy: it trips, and flattens nothing",
            event_id=request.event_id,
            next_step="close by hand with `breaker kill` what has to be closed",
        )
        coverage = self._executor.coverage(request)
        try:
            await self._executor.trip(replace(request.trip("api"), scope=coverage.scope))
        except BreakerError as error:
            log.warning("what was asked for could not be tripped", event_id=request.event_id, error=str(error))
            await self._answer(request, {"event": "FAILED", "why": str(error)})
        else:
            await self._answer(request, {"event": "ONLY_TRIPPED"})

    async def _kill(self, request: KillRequest) -> None:
        flat = False

        def note(message: Mapping[str, Any]) -> None:
            nonlocal flat
            if message["event"] == "REPORT":
                flat = message["flat"]

        await self._executor.kill(request.model_copy(update={"started": None}), "api", note)
        await self._answer(request, {"event": "DONE", "flat": flat})

    async def _answer(self, request: KillRequest, body: Mapping[str, Any]) -> None:
        """A kill switch doesn't fail for want of an answer; the ledger has it too."""
        answer = json.dumps({**body, "host": socket.gethostname()})
        with contextlib.suppress(RedisError, OSError):
            await self._redis.set(f"{ANSWER}{request.event_id}", answer, ex=ANSWER_KEPT)
