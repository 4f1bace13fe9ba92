"""Make what pages and API work with, once, and run what goes on beside them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from breaker import BreakerError
from breaker.keys import GLOBAL
from brokers.coverage import NamedScope, named_in
from configuration.breakers import WaitingTrips, apply_pending_trips, waiting_trips
from configuration.redis_clients import async_redis_client, redis_client
from configuration.running import RunningConfiguration
from console.actions.authorization import Authorization
from console.actions.equity import EquityTransfers
from console.actions.idempotency import IdempotencyKeys
from console.actions.kill_switch import KillSwitchRuns
from console.actions.recovery import Recoveries
from console.actions.trip_reset import TripReset
from console.auth.identities import Identities
from console.auth.oidc import IdentityProvider
from console.auth.passwords import PasswordQueue
from console.auth.signing import Signer, host_key
from console.auth.throttle import Throttle
from console.background import BackgroundTasks
from console.live.broadcast import Broadcast
from console.live_updates import LiveUpdates
from console.render import Renderer
from console.replays import Replays
from ledger.audit import drain
from ledger.configured import open_ready_ledger, open_spool
from ledger.errors import LedgerError
from ledger.outbox import known_scopes
from ledger.recorder import Recorder

SCOPES_EVERY = 30.0
PENDING_EVERY = 0.25
DRAIN_RETRY_AFTER = 5.0
"""Seconds for which a ledger that failed is left alone."""

_log = logging.getLogger(__name__)


class ConsoleContext:
    """Made inside the event loop that it will live in."""

    def __init__(self, running: RunningConfiguration) -> None:
        self.configuration = running
        self.settings = settings = running.settings
        self.up_since = datetime.now(UTC)
        self.ledger = open_ready_ledger(settings)
        self._spool = open_spool(settings)
        self._redis = redis_client(settings)
        self._async_redis = redis = async_redis_client(settings)
        self.broadcast = Broadcast()
        self.render = Renderer(settings)

        oidc = settings.console.oidc
        self.signer = Signer(host_key(settings.state_dir))
        self.identities = Identities(
            self.ledger,
            idle_timeout=settings.console.idle_timeout,
            lifetime=settings.console.session_lifetime,
            oidc=oidc,
        )
        self.provider = None if oidc is None else IdentityProvider(oidc)
        self.throttle = Throttle(self.ledger)
        self.passwords = PasswordQueue()

        self.authorization = Authorization(Recorder(self.ledger, self._spool))
        self._tasks = BackgroundTasks()
        self.trip_reset = TripReset(settings, redis, self.authorization, self._transition_made, self._tasks.start)
        self.kills = KillSwitchRuns(running, redis, self.authorization, self.trip_reset)
        self.recoveries = Recoveries(settings, redis, self.authorization, self.trip_reset)
        self.transfers = EquityTransfers(settings, self.authorization, self.trip_reset, self._transition_made)
        self.replays = Replays(settings)
        self.idempotency_keys = IdempotencyKeys(redis)

        self._drain_wanted = asyncio.Event()
        self.live = LiveUpdates(
            settings,
            redis,
            self.broadcast,
            self.render,
            self.trip_reset,
            self.kills,
            self.recoveries,
            self._drain_wanted.set,
        )

    def named_scope(self, scope: str) -> NamedScope:
        """The breaker that is meant by what was typed. Raises InvalidInput for what is no scope.

        Read at once, on no thread that may wait for a database: a trip comes this way.
        """
        if scope == GLOBAL:
            return NamedScope(scope)
        return named_in(self.configuration.present().settings, scope)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Keep everything up to date while the block runs. A kill switch under way is waited for at the end."""
        self.live.start()
        changes = self.live.watcher.listen(self._redis, self.settings.redis_timeout)
        for work in (self._find_scopes(), self._drain_when_wanted(), self._make_pending_trips()):
            self._tasks.start(work)
        try:
            await self.live.watcher.first_round()
            yield
        finally:
            changes.stop()
            self.broadcast.close()
            await self.kills.finish()
            await asyncio.gather(self._tasks.end(), self.live.end())
            self.recoveries.close()
            self.replays.close()
            self.passwords.close()
            await self._async_redis.aclose()
            self._redis.close()
            self.ledger.close()

    def _transition_made(self) -> None:
        self.live.watcher.wake()

    async def _find_scopes(self) -> None:
        while True:
            try:
                self.live.watcher.watch_always(await asyncio.to_thread(known_scopes, self._redis, self.ledger))
            except (BreakerError, LedgerError) as error:
                _log.info("scopes not read: %s", error)
            await asyncio.sleep(SCOPES_EVERY)

    async def _drain_when_wanted(self) -> None:
        """Move transitions into the ledger soon after they happen, and never in their way."""
        while True:
            await self._drain_wanted.wait()
            self._drain_wanted.clear()
            scopes = tuple(self.live.watcher.scopes)
            drained = await asyncio.to_thread(drain, self._redis, self.ledger, self._spool, scopes)
            for problem in drained.problems:
                _log.warning("not in the ledger yet: %s", problem)
            if drained.problems:
                await asyncio.sleep(DRAIN_RETRY_AFTER)
                self._drain_wanted.set()

    def waiting_trips(self) -> WaitingTrips:
        """Trips that wait on this host."""
        return waiting_trips(self.settings)

    async def _make_pending_trips(self) -> None:
        """Show the trips that wait on this host, and make those that are for this Redis once it answers."""
        shown = WaitingTrips()
        while True:
            if (waiting := self.waiting_trips()) != shown:
                self.broadcast.publish("pending", self.render.pending(waiting))
                shown = waiting
            if waiting.here and self.live.watcher.latest(GLOBAL).status.as_of is not None:
                try:
                    await asyncio.to_thread(apply_pending_trips, self.settings)
                except BreakerError as error:
                    _log.warning("a trip still waits on this host: %s", error)
                self._transition_made()
            await asyncio.sleep(PENDING_EVERY)
