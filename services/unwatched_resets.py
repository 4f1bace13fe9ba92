"""Watch after every reset, whoever made it: what no recovery watches is watched here, and tripped again when red.

A watch whose process or host has died is taken over as soon as its sign of life is too old.
"""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Mapping
from contextlib import closing

import structlog

from breaker import State, Status
from breaker.keys import GLOBAL
from breaker.state_changes import StateChanges
from breaker.status_reader import AsyncStatusReader
from configuration.breakers import async_breaker_of
from configuration.redis_clients import async_redis_client, redis_client
from configuration.settings import Settings
from ledger.configured import open_ready_ledger, open_spool
from ledger.outbox import known_scopes
from ledger.record import AuditRecord
from ledger.recorder import Recorder
from services.outage_log import OutageLog
from tasks.recovery.reset_watch import LATE, WatchedReset, Watcher, reset_to_watch, watch_of, watch_reset

EVERY = 1.0
"""Seconds between two looks at resets whose watch may not be over."""
ALL_EVERY = 3.0
"""Seconds between two readings of all breakers, in one exchange, where Redis tells of those that are written."""
SCOPES_EVERY = 30
"""Looks between two readings of which breakers there are."""

log = structlog.get_logger(__name__)


def may_need_a_watcher(statuses: Mapping[str, Status], over: Mapping[str, int]) -> list[str]:
    """The breakers that rest on a reset whose watch may not be over. Pure.

    `over`: by breaker, the epoch of the reset whose watch is known to be.
    """
    return [
        scope for scope, status in statuses.items() if _rests_on_reset(status) and not _is_over(status, over, scope)
    ]


def _rests_on_reset(status: Status) -> bool:
    """Also where the state can't be told, for whoever watches trips then."""
    if status.state is not State.OPEN:
        return status.state is not State.TRIPPED
    reset_at, now = status.reset_at, status.as_of
    return reset_at is not None and now is not None and (now - reset_at).total_seconds() < LATE


def _is_over(status: Status, over: Mapping[str, int], scope: str) -> bool:
    """The end of a quiet period counts one epoch more."""
    return scope in over and status.epoch in (over[scope], over[scope] + 1)


class ResetWatch(threading.Thread):
    """Runs until `stop`. Outlives outages of Redis and database; says when each begins and ends."""

    def __init__(self, settings: Settings, name: str = "services") -> None:
        super().__init__(name="reset watch", daemon=True)
        self._settings = settings
        self._stop_asked = threading.Event()
        self._outages = OutageLog("reset watch")
        self._holder = f"{name} on {socket.gethostname()}"
        self._over: dict[str, int] = {}
        self._written = threading.Event()

    def stop(self) -> None:
        self._stop_asked.set()
        self.join(5)

    def run(self) -> None:
        asyncio.run(self._run())

    async def _run(self) -> None:
        scopes: tuple[str, ...] = (GLOBAL,)
        watching: dict[str, asyncio.Task[None]] = {}
        looks = 0
        timeout = self._settings.redis_timeout
        reader = AsyncStatusReader(async_redis_client(self._settings), timeout=timeout, remember=False)
        changes = StateChanges(redis_client(self._settings), lambda _: self._written.set(), timeout=timeout)
        changes.start()
        statuses: Mapping[str, Status] = {}
        read_at = float("-inf")
        while not await asyncio.to_thread(self._stop_asked.wait, EVERY):
            try:
                if looks % SCOPES_EVERY == 0:
                    scopes = await asyncio.to_thread(self._scopes)
                looks += 1
                if self._written.is_set() or not changes.is_listening or time.monotonic() - read_at >= ALL_EVERY:
                    self._written.clear()
                    read_at = time.monotonic()
                    statuses = await reader.read(scopes)
                for scope in may_need_a_watcher(statuses, self._over):
                    if scope in watching and not watching[scope].done():
                        continue
                    if (task := watching.pop(scope, None)) is not None:
                        task.result()
                    if (reset := await self._unwatched(scope)) is not None:
                        watching[scope] = asyncio.create_task(self._watch(reset))
                self._outages.note("resets", None)
            except Exception as error:  # whatever one watch fails with must not be the end of every other
                self._outages.note("resets", error)
        for task in watching.values():
            task.cancel()
        await asyncio.gather(*watching.values(), return_exceptions=True)
        changes.stop()
        await reader.close()

    def _scopes(self) -> tuple[str, ...]:
        with closing(redis_client(self._settings)) as redis, closing(open_ready_ledger(self._settings)) as ledger:
            return known_scopes(redis, ledger, timeout=self._settings.redis_timeout)

    async def _unwatched(self, scope: str) -> WatchedReset | None:
        breaker = async_breaker_of(self._settings, scope)
        try:
            reset = await reset_to_watch(breaker)
        finally:
            await breaker.close()
        watch = None if reset is None else await watch_of(self._settings, reset)
        if reset is not None and watch is not None and watch.ended is not None:
            self._over[scope] = reset.epoch
        return reset if watch is None or watch.is_abandoned else None

    async def _watch(self, reset: WatchedReset) -> None:
        breaker = async_breaker_of(self._settings, reset.scope)
        ledger = await asyncio.to_thread(open_ready_ledger, self._settings)
        recorder = Recorder(ledger, open_spool(self._settings))

        async def record(made: AuditRecord) -> None:
            await asyncio.to_thread(recorder.record, made)

        log.info("watching a reset", scope=reset.scope, epoch=reset.epoch)
        try:
            end = await watch_reset(self._settings, breaker, reset, self._holder, record, Watcher())
            log.info("watched a reset", scope=reset.scope, epoch=reset.epoch, tripped_again=end.why)
        finally:
            await breaker.close()
            ledger.close()
