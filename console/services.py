"""Everything that the pages and the API work with, made once, and the tasks that keep it up to date."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

from breaker import AsyncCircuitBreaker, BreakerError
from breaker.events import TransitionEvent
from breaker.gate.report import ReportedGates
from breaker.keys import GLOBAL
from breaker.pending_trips import PendingTrip, PendingTrips
from configuration.breakers import apply_pending_trips
from configuration.redis_clients import async_redis_client, redis_client
from configuration.settings import Settings
from console.actions.idempotency import Requests
from console.actions.kill_switch import KillSwitchRuns
from console.actions.recovery import Recoveries
from console.actions.trip_reset import Actions
from console.auth.identities import Identities
from console.auth.oidc import IdentityProvider
from console.auth.passwords import PasswordQueue
from console.auth.signing import Signer, host_key
from console.auth.throttle import Throttle
from console.live.broadcast import Broadcast
from console.live.exposure import AccountExposure, ExposureReader
from console.live.gates import read_gates
from console.live.poller import Poller, Seen
from console.live.state_watcher import TIMEOUT, WatchedState, Watcher
from console.live.system_health import measure_system
from console.render import Renderer
from ledger.audit import drain
from ledger.configured import open_ready_ledger, open_spool
from ledger.errors import LedgerError
from ledger.outbox import known_scopes
from ledger.recorder import Recorder
from tasks.checks.conditions import measure_conditions
from tasks.checks.measurement import Measurement
from tasks.kill.status import KillStatus
from tasks.recovery.state import RecoveryState

HISTORY = 12
"""Transitions shown on the Circuit Breaker page."""
CONDITIONS_EVERY = 10.0
GATES_EVERY = 2.0
RECOVERY_EVERY = 0.5
SCOPES_EVERY = 30.0
BEAT = 1.0
KILL_TELL_EVERY = 0.2
PENDING_EVERY = 0.25
CANCEL_AGAIN = 10
"""How often, twice a second, a task is told to end before it is left behind."""

_log = logging.getLogger(__name__)


class Services:
    """Made inside the event loop that it will live in."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.signer = Signer(host_key(settings.state_dir))
        self.ledger = open_ready_ledger(settings)
        self.recorder = Recorder(self.ledger, open_spool(settings))
        where = settings.console
        self.identities = Identities(
            self.ledger, idle_timeout=where.idle_timeout, lifetime=where.session_lifetime, oidc=where.oidc
        )
        self.provider = None if where.oidc is None else IdentityProvider(where.oidc)
        self.throttle = Throttle(self.ledger)
        self.passwords = PasswordQueue()
        self.broadcast = Broadcast()
        self.render = Renderer(settings)
        self.redis = redis_client(settings)
        self.async_redis = async_redis_client(settings)
        self.watcher = Watcher(self._watched_breaker, self._tell)
        self.actions = Actions(settings, self.async_redis, self.recorder, self._transition_made)
        self.pending = PendingTrips(settings.pending_trips_dir)
        self.kills = KillSwitchRuns(settings, self.actions, self.async_redis)
        self.requests = Requests(self.async_redis)
        self.recoveries = Recoveries(settings, self.async_redis, self.actions)
        self.exposures = ExposureReader(settings.accounts)
        self.exposure: Poller[tuple[AccountExposure, ...]] = Poller(
            self.exposures.read, settings.console.exposure_interval, self._tell_exposure
        )
        self.gates: Poller[ReportedGates | str] = Poller(self._read_gates, GATES_EVERY, self._tell_gates)
        self.health: Poller[list[Measurement]] = Poller(self._read_health, CONDITIONS_EVERY, self._tell_health)
        self._conditions: dict[str, Poller[list[Measurement]]] = {}
        self._recovery: dict[str, Poller[RecoveryState | str | None]] = {}
        self.up_since = datetime.now(UTC)
        self._drain_wanted = asyncio.Event()
        self._background: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Keep everything up to date while the block runs. A kill switch under way is waited for at the end."""
        for work in (
            self.watcher.run(),
            self.exposure.run(),
            self.gates.run(),
            self.health.run(),
            self._beat(),
            self._find_scopes(),
            self._drain_when_wanted(),
            self._tell_kills(),
            self._make_pending_trips(),
        ):
            self._spawn(work)
        try:
            yield
        finally:
            self.broadcast.close()
            await self.kills.finish()
            await _end(self._background)
            self.recoveries.close()
            self.passwords.close()
            await self.exposures.close()
            await self.async_redis.aclose()
            self.redis.close()
            self.ledger.close()

    def conditions(self, scope: str) -> Poller[list[Measurement]]:
        """The conditions of one scope, measured while somebody looks at them."""
        if scope not in self._conditions:
            made: Poller[list[Measurement]] = Poller(
                lambda: measure_conditions(self.settings, scope),
                CONDITIONS_EVERY,
                lambda seen: self.broadcast.publish(f"conditions:{scope}", self.render.conditions(seen)),
            )
            self._conditions[scope] = made
            self._spawn(made.run())
        return self._conditions[scope]

    def recovery(self, scope: str) -> Poller[RecoveryState | str | None]:
        """Where the recovery of one scope stands, or why that can't be told; read while somebody looks at it."""
        if scope not in self._recovery:
            self.watcher.watch([scope])
            told = ""

            def tell(seen: Seen[RecoveryState | str | None]) -> None:
                nonlocal told
                html = self.render.recovery(seen)
                if html != told:
                    told = html
                    self.broadcast.publish(f"recovery:{scope}", html)

            self._recovery[scope] = Poller(lambda: self._read_recovery(scope), RECOVERY_EVERY, tell)
            self._spawn(self._recovery[scope].run())
        return self._recovery[scope]

    async def _read_recovery(self, scope: str) -> RecoveryState | str | None:
        try:
            return await self.recoveries.read(scope)
        except BreakerError as error:
            return str(error)

    async def history(self, scope: str, limit: int = HISTORY) -> list[TransitionEvent] | str:
        """The newest transitions, or why they can't be read."""
        try:
            return await self.actions.breaker(scope, "console").get_history(limit)
        except BreakerError as error:
            return str(error)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(log_failure(work))
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    def _watched_breaker(self, scope: str) -> AsyncCircuitBreaker:
        return AsyncCircuitBreaker(
            self.async_redis, scope, timeout=min(TIMEOUT, self.settings.redis_timeout), source="console"
        )

    def _transition_made(self) -> None:
        self.watcher.soon()

    def _tell(self, changed: list[WatchedState]) -> None:
        for reading in changed:
            self.broadcast.publish(f"state:{reading.scope}", self.render.state(reading))
            self.broadcast.publish(f"status:{reading.scope}", json.dumps({"scope": reading.scope, **reading.status}))
        self._tell_strip()
        self.broadcast.publish("scopes", self.render.scopes([self.watcher.reading(s) for s in self.watcher.scopes]))
        for reading in changed:
            self._spawn(self._tell_history(reading.scope))
        self._drain_wanted.set()

    async def _tell_history(self, scope: str) -> None:
        self.broadcast.publish(f"history:{scope}", self.render.history(await self.history(scope)))

    def _tell_exposure(self, seen: Seen[tuple[AccountExposure, ...]]) -> None:
        self.broadcast.publish("exposure", self.render.exposure(seen))

    def _tell_health(self, seen: Seen[list[Measurement]]) -> None:
        self.broadcast.publish("health", self.render.health(seen))

    def _tell_gates(self, seen: Seen[ReportedGates | str]) -> None:
        self.broadcast.publish("gates", self.render.gates(seen))

    async def _read_health(self) -> list[Measurement]:
        seen = self.exposure.look()
        return await measure_system(self.settings, None if seen is None else seen.value, await self._read_gates())

    async def _read_gates(self) -> ReportedGates | str:
        return await read_gates(self.async_redis, self.settings.redis_timeout)

    async def _beat(self) -> None:
        """Tell every page that its state has just been read. If the watcher stops reading, so does this."""
        while True:
            if self.watcher.reading("global").age < 2 * TIMEOUT:
                self.broadcast.publish("beat", "")
            await asyncio.sleep(BEAT)

    async def _find_scopes(self) -> None:
        while True:
            try:
                self.watcher.keep(await asyncio.to_thread(known_scopes, self.redis, self.ledger))
            except (BreakerError, LedgerError) as error:
                _log.info("scopes not read: %s", error)
            await asyncio.sleep(SCOPES_EVERY)

    async def _drain_when_wanted(self) -> None:
        """Move transitions into the ledger soon after they happen, and never in their way."""
        while True:
            await self._drain_wanted.wait()
            self._drain_wanted.clear()
            drained = await asyncio.to_thread(
                drain, self.redis, self.ledger, self.recorder.spool, tuple(self.watcher.scopes)
            )
            for problem in drained.problems:
                _log.warning("not in the ledger yet: %s", problem)
            if drained.problems:
                await asyncio.sleep(5.0)
                self._drain_wanted.set()

    def _tell_strip(self) -> None:
        self.broadcast.publish("strip", self.render.strip(self.watcher.reading(GLOBAL), self.kills.all()))

    async def _tell_kills(self) -> None:
        """Runs of this console and of any other process, while they go on."""
        told: dict[str, str] = {}
        running: list[str] = []
        while True:
            await self.kills.look_elsewhere()
            seen = self.kills.all()
            pieces = {f"kill:{incident}": self.render.kill_runs(runs) for incident, runs in _by_incident(seen)}
            now = {"kills": self.render.kills(seen), **pieces}
            for topic, html in now.items():
                if told.get(topic) != html:
                    self.broadcast.publish(topic, html)
            told = now
            if (still := [kill.run_id for kill in seen if kill.verdict == "RUNNING"]) != running:
                running = still
                self._tell_strip()
            await asyncio.sleep(KILL_TELL_EVERY)

    async def _make_pending_trips(self) -> None:
        """Show the trips that wait on this host, and make them once Redis answers."""
        told: list[PendingTrip] = []
        while True:
            if (waiting := self.pending.load()) != told:
                self.broadcast.publish("pending", self.render.pending(waiting))
                told = waiting
            if waiting and self.watcher.reading(GLOBAL).status.as_of is not None:
                try:
                    await asyncio.to_thread(apply_pending_trips, self.settings)
                except BreakerError as error:
                    _log.warning("a trip still waits on this host: %s", error)
                self._transition_made()
            await asyncio.sleep(PENDING_EVERY)


def _by_incident(seen: Sequence[KillStatus]) -> Iterable[tuple[str, list[KillStatus]]]:
    for incident_id in dict.fromkeys(kill.incident_id for kill in seen):
        yield incident_id, [kill for kill in seen if kill.incident_id == incident_id]


async def _end(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancel until it has worked: a client that waits for something else just then may lose a cancellation."""
    left = set(tasks)
    for _ in range(CANCEL_AGAIN):
        for task in left:
            task.cancel()
        if left:
            _, left = await asyncio.wait(left, timeout=0.5)


async def log_failure(work: Coroutine[Any, Any, None]) -> None:
    try:
        await work
    except Exception:
        _log.exception("a task of the console ended; what it kept up to date is not any more")
