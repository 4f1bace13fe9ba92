"""Keep every open page up to date: watch, poll and publish what pages show, as soon as it changes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace
from typing import TypeVar

from redis.asyncio import Redis

from breaker import BreakerError
from breaker.events import History
from breaker.gate.report import ReportedGates
from breaker.keys import GLOBAL
from breaker.status_reader import AsyncStatusReader
from brokers.coverage import Coverage
from configuration.breakers import limits_from
from configuration.settings import Settings
from console.actions.kill_switch import KillSwitchRuns
from console.actions.recovery import Recoveries
from console.actions.trip_reset import TripReset
from console.background import BackgroundTasks
from console.live.broadcast import Broadcast
from console.live.exposure import AccountExposure, ExposureReader, covered_exposure
from console.live.gates import read_gates
from console.live.poller import Poller, Sample
from console.live.state_watcher import TIMEOUT, StateWatcher, WatchedState
from console.live.system_health import measure_system
from console.live.watch_progress import read_reset_watch, reset_watched
from console.render import Renderer
from tasks.checks.conditions import measure_conditions
from tasks.checks.measurement import Measurement
from tasks.checks.rules import RuleLine, read_judged, rule_lines
from tasks.kill.pending_exit_store import Reading, read_pending_exits
from tasks.kill.status import KillStatus
from tasks.kill.venue_lock_store import LockReading, read_venue_locks
from tasks.recovery.reset_watch import WatchRecord
from tasks.recovery.state import RecoveryState

HISTORY = 12
"""Transitions shown on the Circuit Breaker page."""
CONDITIONS_EVERY = 10.0
GATES_EVERY = 2.0
RECOVERY_EVERY = 0.5
WATCH_EVERY = 1.0
KILLS_EVERY = 0.2
EXITS_EVERY = 1.0
BEAT = 1.0

T = TypeVar("T")


class LiveUpdates:
    """`changed` is called when the state of any breaker has changed. Topics are named where they are published."""

    def __init__(
        self,
        settings: Settings,
        redis: Redis,
        broadcast: Broadcast,
        render: Renderer,
        trip_reset: TripReset,
        kills: KillSwitchRuns,
        recoveries: Recoveries,
        changed: Callable[[], None],
    ) -> None:
        self._settings = settings
        self._redis = redis
        self._broadcast = broadcast
        self._render = render
        self._trip_reset = trip_reset
        self._kills = kills
        self._recoveries = recoveries
        self._changed = changed
        self._tasks = BackgroundTasks()
        self._venues = ExposureReader(settings.accounts, settings.markets_dir)
        states = AsyncStatusReader(redis, timeout=min(TIMEOUT, settings.redis_timeout))
        self.watcher = StateWatcher(states.read, self._publish_states)
        self.exposure: Poller[tuple[AccountExposure, ...]] = self._poller(
            "exposure", self._venues.read, settings.console.exposure_interval, self._render_exposure
        )
        self.gates: Poller[ReportedGates | str] = self._poller("gates", self._read_gates, GATES_EVERY, render.gates)
        self.health: Poller[list[Measurement]] = self._poller(
            "health", self._measure_health, CONDITIONS_EVERY, render.measurements
        )
        self._part_published: dict[Coverage, str] = {}
        self._conditions: dict[str, Poller[list[Measurement]]] = {}
        self._rules: dict[str, Poller[list[RuleLine] | str]] = {}
        self._recovery: dict[str, Poller[RecoveryState | str | None]] = {}
        self._reset_watch: dict[str, Poller[WatchRecord | str | None]] = {}

    def start(self) -> None:
        for work in (
            self.watcher.run(),
            self.exposure.run(),
            self.gates.run(),
            self.health.run(),
            self._beat(),
            self._publish_kills(),
            self._publish_what_kills_left(),
        ):
            self._tasks.start(work)

    async def end(self) -> None:
        await self._tasks.end()
        await self._venues.close()

    def exposure_of(self, coverage: Coverage) -> str:
        """What a kill switch of that coverage would touch, rendered; published as `exposure:SCOPE` from now on."""
        self._part_published.setdefault(coverage, "")
        return self._render_part(coverage, self.exposure.watch())

    def conditions(self, scope: str) -> Poller[list[Measurement]]:
        """The conditions of one scope."""
        if scope not in self._conditions:
            self._conditions[scope] = self._poller(
                f"conditions:{scope}",
                lambda: measure_conditions(self._settings, scope),
                CONDITIONS_EVERY,
                self._render.measurements,
            )
            self._tasks.start(self._conditions[scope].run())
        return self._conditions[scope]

    def rules(self, scope: str) -> Poller[list[RuleLine] | str]:
        """What the automatic rules of one scope last heard, or why that can't be told."""
        if scope not in self._rules:
            self._rules[scope] = self._poller(
                f"rules:{scope}", lambda: self._read_rules(scope), CONDITIONS_EVERY, self._render.rules
            )
            self._tasks.start(self._rules[scope].run())
        return self._rules[scope]

    def recovery(self, scope: str) -> Poller[RecoveryState | str | None]:
        """Where the recovery of one scope stands, or why that can't be told."""
        if scope not in self._recovery:
            self.watcher.watch([scope])
            self._recovery[scope] = self._poller(
                f"recovery:{scope}",
                lambda: self._read_recovery(scope),
                RECOVERY_EVERY,
                lambda sample: self._render.recovery(sample, scope),
            )
            self._tasks.start(self._recovery[scope].run())
        return self._recovery[scope]

    def reset_watch(self, scope: str) -> Poller[WatchRecord | str | None]:
        """Who watches the newest reset of one scope, or why that can't be told."""
        if scope not in self._reset_watch:
            self._reset_watch[scope] = self._poller(
                f"reset_watch:{scope}",
                lambda: read_reset_watch(self._redis, scope, self._settings.redis_timeout),
                WATCH_EVERY,
                lambda sample: self.render_reset_watch(self.watcher.latest(scope), sample),
            )
            self._tasks.start(self._reset_watch[scope].run())
        return self._reset_watch[scope]

    def render_reset_watch(self, watched: WatchedState, sample: Sample[WatchRecord | str | None]) -> str:
        """As it belongs beside that state."""
        watch = sample.value
        if isinstance(watch, str):
            return self._render.reset_watch(watch)
        return self._render.reset_watch(reset_watched(watched.status, watch, self._settings.recovery.watch))

    async def history(self, scope: str) -> History | str:
        """The newest transitions, or why they can't be read."""
        try:
            return await self._trip_reset.breaker(scope, "console").get_history(HISTORY)
        except BreakerError as error:
            return str(error)

    def _poller(
        self, topic: str, read: Callable[[], Awaitable[T]], every: float, render: Callable[[Sample[T]], str]
    ) -> Poller[T]:
        """One whose samples are published where they look different from the one before."""
        published = ""

        def publish(sample: Sample[T]) -> None:
            nonlocal published
            html = render(sample)
            if html != published:
                published = html
                self._broadcast.publish(topic, html)

        return Poller(read, every, publish)

    def _render_exposure(self, sample: Sample[tuple[AccountExposure, ...]]) -> str:
        for coverage, published in self._part_published.items():
            if (html := self._render_part(coverage, sample)) != published:
                self._part_published[coverage] = html
                self._broadcast.publish(f"exposure:{coverage.scope}", html)
        return self._render.exposure(sample)

    def _render_part(self, coverage: Coverage, sample: Sample[tuple[AccountExposure, ...]] | None) -> str:
        if sample is not None:
            sample = replace(sample, value=covered_exposure(sample.value, coverage))
        return self._render.exposure(sample)

    async def _read_recovery(self, scope: str) -> RecoveryState | str | None:
        try:
            return await self._recoveries.read(scope)
        except BreakerError as error:
            return str(error)

    async def _read_rules(self, scope: str) -> list[RuleLine] | str:
        try:
            return rule_lines(limits_from(self._settings, scope), await read_judged(self._settings, scope))
        except BreakerError as error:
            return str(error)

    async def _read_gates(self) -> ReportedGates | str:
        return await read_gates(self._redis, self._settings.redis_timeout)

    async def _measure_health(self) -> list[Measurement]:
        exposure = self.exposure.watch()
        return await measure_system(
            self._settings, None if exposure is None else exposure.value, await self._read_gates()
        )

    def _publish_states(self, changed: list[WatchedState]) -> None:
        for state in changed:
            self._broadcast.publish(f"state:{state.scope}", self._render.state(state))
            self._broadcast.publish(f"status:{state.scope}", json.dumps({"scope": state.scope, **state.status}))
        self._publish_banner()
        self._broadcast.publish("scopes", self._render.scopes(self.watcher.all()))
        for state in changed:
            self._tasks.start(self._publish_history(state.scope))
        self._changed()

    def _publish_banner(self) -> None:
        self._broadcast.publish("banner", self._render.banner(self.watcher.existing(), self._kills.all()))

    async def _publish_history(self, scope: str) -> None:
        self._broadcast.publish(f"history:{scope}", self._render.history(await self.history(scope)))

    async def _publish_kills(self) -> None:
        """Runs of this console and of any other process, while they go on."""
        published: dict[str, str] = {}
        running: list[str] = []
        while True:
            await self._kills.read_elsewhere()
            kills = self._kills.all()
            by_incident = {f"kill:{incident}": self._render.kill_runs(runs) for incident, runs in _by_incident(kills)}
            pieces = {"kills": self._render.kills(kills), **by_incident}
            for topic, html in pieces.items():
                if published.get(topic) != html:
                    self._broadcast.publish(topic, html)
            published = pieces
            if (still := [kill.run_id for kill in kills if kill.verdict == "RUNNING"]) != running:
                running = still
                self._publish_banner()
            await asyncio.sleep(KILLS_EVERY)

    async def pending_exits(self) -> Reading:
        """What kill switches have left to be closed later."""
        return await asyncio.to_thread(read_pending_exits, self._settings)

    async def venue_locks(self) -> LockReading:
        """The accounts that kill switches have locked at their venue."""
        return await asyncio.to_thread(read_venue_locks, self._settings)

    async def _publish_what_kills_left(self) -> None:
        exits, locks = Reading(), LockReading()
        while True:
            before = exits, locks
            exits, locks = await asyncio.gather(self.pending_exits(), self.venue_locks())
            if exits != before[0]:
                self._broadcast.publish("pending_exits", self._render.pending_exits(exits))
            if locks != before[1]:
                self._broadcast.publish("venue_locks", self._render.venue_locks(locks))
            await asyncio.sleep(EXITS_EVERY)

    async def _beat(self) -> None:
        """Tell every page that its state has just been read. If the watcher stops reading, so does this."""
        while True:
            if self.watcher.latest(GLOBAL).age < 2 * TIMEOUT:
                self._broadcast.publish("beat", "")
            await asyncio.sleep(BEAT)


def _by_incident(kills: Sequence[KillStatus]) -> Iterable[tuple[str, list[KillStatus]]]:
    for incident_id in dict.fromkeys(kill.incident_id for kill in kills):
        yield incident_id, [kill for kill in kills if kill.incident_id == incident_id]
