"""Watch conditions after a reset, wherever it came from, and trip again on anything red (runbook, *Reset and Verify*).

One watcher at a time: a recovery's flow, a service or a command claims the reset in Redis, and gives a sign of life
there every second. A watch counts from its own beginning, not from the reset; one silent for `SILENT` seconds is begun
anew by whoever sees it first. The quiet period of a reset by the rules ends by this alone: once a watch without a hole
has lasted as long as it, or to the watch's own end where that comes first. What an override went past does not trip
again; what else is red does.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from breaker import AsyncCircuitBreaker
from breaker.errors import BreakerError, QuietPeriodUnwatched, StateConflict
from breaker.events import Transition, TransitionEvent
from breaker.keys import Keys
from breaker.state import State, Status
from breaker.transition_terms import Watching
from breaker.trip_reasons import TripReason
from configuration.settings import Settings
from ledger.record import FAILED, OK, AuditRecord, derived_id
from tasks.checks import conditions, system
from tasks.checks.measurement import Measurement
from tasks.checks.probe import RedisReader, redis_reader
from tasks.kill.venue_lock_release import release_venue_locks
from tasks.recovery.approval_rules import red_of
from tasks.recovery.gate_probe import GateProbe

SILENT = 5.0
"""Seconds without a sign of life after which nobody watches any more."""
SIGN_EVERY = 1.0
LOOK_WITHIN = 30.0
"""Seconds that one look at everything may take; who is stuck in it gives no sign of life, though its process lives."""
LATE = 3_600.0
"""Seconds after which a reset that nobody has watched is nobody's to watch any more, unless only that ends its quiet
period.
"""
BY = "recovery watch"
STARTED = "RESET_WATCH_STARTED"
ENDED = "RESET_WATCH_ENDED"

_CLAIM = """
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local epoch, holder, began, seen, ended = unpack(
  redis.call('HMGET', KEYS[1], 'epoch', 'holder', 'began', 'seen', 'ended'))
if epoch == ARGV[1] then
  if ended ~= '' then return {holder, began, ended} end
  if now - seen < tonumber(ARGV[3]) then
    if holder == ARGV[2] then redis.call('HSET', KEYS[1], 'seen', now) end
    return {holder, began, '', tostring(now)}
  end
end
redis.call('HSET', KEYS[1], 'epoch', ARGV[1], 'holder', ARGV[2], 'began', now, 'seen', now, 'ended', '')
return {ARGV[2], tostring(now), '', tostring(now)}
"""
_SIGN = """
local epoch, holder, seen, ended = unpack(redis.call('HMGET', KEYS[1], 'epoch', 'holder', 'seen', 'ended'))
if epoch ~= ARGV[1] or holder ~= ARGV[2] or ended ~= '' then return 0 end
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
if now - seen >= tonumber(ARGV[3]) then return 0 end
redis.call('HSET', KEYS[1], 'seen', now)
return 1
"""
_END = """
if redis.call('HGET', KEYS[1], 'epoch') ~= ARGV[1] or redis.call('HGET', KEYS[1], 'holder') ~= ARGV[2] then return 0 end
local clock = redis.call('TIME')
redis.call('HSET', KEYS[1], 'ended', clock[1] * 1000 + math.floor(clock[2] / 1000))
return 1
"""


@dataclass(frozen=True, slots=True)
class WatchedReset:
    """A reset that is to be watched, as the breaker's history has it."""

    scope: str
    epoch: int
    incident_id: str | None
    overridden: frozenset[str]
    """Names of measurements that were red when it was decided."""

    @classmethod
    def of(cls, event: TransitionEvent) -> WatchedReset:
        red = event.details.get("red")
        names = frozenset(str(name) for name in red) if isinstance(red, list) else frozenset()
        return cls(event.scope, event.epoch, event.incident_id, names)


@dataclass(frozen=True, slots=True)
class WatchEnd:
    """`why` it was tripped again; empty when all went well from `began` to `ended`."""

    why: str
    holder: str
    began: datetime
    ended: datetime

    def __str__(self) -> str:
        return f"watched from {self.began:%H:%M:%S} to {self.ended:%H:%M:%S} UTC by {self.holder}"


@dataclass(frozen=True, slots=True)
class _Claim:
    holder: str
    began: datetime
    ended: datetime | None
    now: datetime | None


class Watcher:
    """What somebody who watches is told on the way: nothing, but for what is overridden."""

    async def measured(self, measurements: Sequence[Measurement]) -> None: ...

    async def goes_on(self, left: float, holder: str, gate: str) -> None:
        """`left` seconds are to be watched yet; `gate` is what a gate said, where it is this watcher that asks."""

    async def still_locked(self, problems: Sequence[str]) -> None:
        """What the reset could not unlock at its venue still is locked, or nothing any more."""


async def reset_to_watch(breaker: AsyncCircuitBreaker) -> WatchedReset | None:
    """The reset that is in force, if it may still have to be watched. Raises what Redis's does."""
    events = list(await breaker.get_history(2))
    # A quiet period that is shorter than the watch is ended on the way.
    if events and events[0].transition is Transition.QUIET_PERIOD_END and events[0].by == BY:
        events = events[1:]
    if not events or events[0].transition is not Transition.RESET:
        return None
    status = await breaker.get_status()
    age = ((status.as_of or datetime.now(UTC)) - events[0].at).total_seconds()
    return WatchedReset.of(events[0]) if age < LATE or status.ends_watched else None


@dataclass(frozen=True, slots=True)
class WatchRecord:
    """Who watches the reset of `epoch`, as Redis has it, by Redis's clock."""

    epoch: int
    holder: str
    began: datetime
    seen: datetime
    ended: datetime | None
    now: datetime

    @property
    def is_abandoned(self) -> bool:
        """Not ended, and nobody is at it any more."""
        return self.ended is None and (self.now - self.seen).total_seconds() >= SILENT


WATCH_FIELDS = ("epoch", "holder", "began", "seen", "ended")


async def read_watch(redis: RedisReader, scope: str) -> WatchRecord | None:
    """The watch of the newest reset that was watched. Raises what Redis's does, and ValueError for what is none."""
    key = Keys.of(scope).key("reset_watch")
    now = datetime.fromtimestamp(await redis.now() / 1_000_000, UTC)
    (kept,) = await redis.ask(f"read {key}", ("HMGET", key, *WATCH_FIELDS))
    return watch_record(kept, now)


def watch_record(kept: Sequence[bytes | None], now: datetime) -> WatchRecord | None:
    """What `WATCH_FIELDS` hold at `now`, Redis's own time; None for no watch. Raises ValueError for what is none."""
    epoch, holder, began, seen, ended = kept
    if epoch is None or holder is None or began is None or seen is None:
        return None
    return WatchRecord(
        int(epoch), holder.decode(), _moment(began), _moment(seen), _moment(ended) if ended else None, now
    )


async def watch_of(settings: Settings, reset: WatchedReset) -> WatchRecord | None:
    """The watch of that reset; None where it has had none, or where that can't be read. Raises what Redis's does."""
    async with redis_reader(settings) as redis:
        try:
            watch = await read_watch(redis, reset.scope)
        except ValueError:  # whoever watches next writes it anew
            return None
    return watch if watch is not None and watch.epoch == reset.epoch else None


async def needs_a_watcher(settings: Settings, reset: WatchedReset) -> bool:
    """Whether nobody watches it, nor has to the end. Raises what Redis's does."""
    watch = await watch_of(settings, reset)
    return watch is None or watch.is_abandoned


async def reset_at_epoch(breaker: AsyncCircuitBreaker, epoch: int) -> WatchedReset | None:
    """The reset of that epoch, while the history still has it among its newest."""
    events = await breaker.get_history(20)
    found = (event for event in events if event.transition is Transition.RESET and event.epoch == epoch)
    return next((WatchedReset.of(event) for event in found), None)


async def watch_reset(
    settings: Settings,
    breaker: AsyncCircuitBreaker,
    reset: WatchedReset,
    holder: str,
    record: Callable[[AuditRecord], Awaitable[None]],
    watcher: Watcher,
) -> WatchEnd:
    """Watch until the time is over, or until something is red, which trips at once; while another one watches, wait.

    Raises BreakerUnavailable when Redis can't be told: nobody is to believe in a trip that was not made.
    """
    unlocking = asyncio.create_task(_unlock_at_venues(settings, watcher))  # a slow venue must not hold up the watch
    try:
        with GateProbe(settings, reset.scope) as gate:
            async with redis_reader(settings) as redis:
                watch = _Watch(settings, breaker, reset, holder, record, watcher, redis, gate)
                async with watch.giving_signs_of_life():
                    return await watch.run()
    finally:
        unlocking.cancel()


async def _unlock_at_venues(settings: Settings, watcher: Watcher) -> None:
    """Lift the venues' locks that the reset could not, as long as the watch goes on."""
    told = False
    while locked := await release_venue_locks(settings, by=BY, source="watch", again=True):
        await watcher.still_locked(locked)
        told = True
        await asyncio.sleep(settings.recovery.watch_interval)
    if told:
        await watcher.still_locked([])


@dataclass(slots=True)
class _Watch:
    settings: Settings
    breaker: AsyncCircuitBreaker
    reset: WatchedReset
    holder: str
    record: Callable[[AuditRecord], Awaitable[None]]
    watcher: Watcher
    redis: RedisReader
    gate: GateProbe
    looked_at: float = field(default_factory=time.monotonic)
    over: bool = False

    @contextlib.asynccontextmanager
    async def giving_signs_of_life(self) -> AsyncIterator[None]:
        """As long as this looks at everything again and again, however long one look takes."""
        signs = asyncio.create_task(self._give_signs())
        try:
            yield
        finally:
            self.over = True  # a client library may swallow a cancellation
            signs.cancel()
            await asyncio.gather(signs, return_exceptions=True)

    async def _give_signs(self) -> None:
        async with redis_reader(self.settings) as redis:
            while not self.over:
                await asyncio.sleep(SIGN_EVERY)
                if time.monotonic() - self.looked_at > LOOK_WITHIN + self.settings.recovery.watch_interval:
                    continue
                with contextlib.suppress(BreakerError):  # whoever takes over meanwhile may; the next look tells
                    asked = ("EVAL", _SIGN, 1, self._key, self.reset.epoch, self.holder, round(SILENT * 1000))
                    await redis.ask(f"say in {self._key} that the reset is watched", asked)

    async def run(self) -> WatchEnd:
        limits = self.settings.recovery
        begun: datetime | None = None
        while True:
            self.looked_at = time.monotonic()
            claim = await self._claim()
            status = await self.breaker.get_status()
            why = await self._why_over(status)
            if claim.ended is not None:
                return WatchEnd(why, claim.holder, claim.began, claim.ended)
            now = claim.now or claim.began
            if why:
                return WatchEnd(why, claim.holder, claim.began, now)
            mine = claim.holder == self.holder
            if mine and claim.began != begun:
                begun = claim.began
                await self._tell(STARTED, claim, {}, once=claim.began.isoformat())
            left = limits.watch - (now - claim.began).total_seconds()
            if not mine:
                await self.watcher.goes_on(max(left, 0.0), claim.holder, "")
                await asyncio.sleep(min(limits.watch_interval, 1.0))
                continue
            red, admitted = await self._measure()
            if red and (await self._claim()).holder != self.holder:
                continue  # this host was cut off meanwhile, and says nothing of what another one watches now
            if red:
                why = "; ".join(f"{one.name} is {one.value}, limit {one.limit}" for one in red)
                return await self._trip_again(claim, why)
            try:
                if left <= 0:
                    return await self._end_well(claim)
                quiet = _quiet_left(status, claim, now)
                if quiet is not None and quiet <= 0:
                    await self._end_quiet_period()
            except StateConflict:  # this watch was taken for dead, or a trip came: the next look tells
                await asyncio.sleep(min(limits.watch_interval, SIGN_EVERY))
                continue
            await self.watcher.goes_on(left, claim.holder, admitted)
            next_due = left if quiet is None or quiet <= 0 else min(left, quiet)
            await asyncio.sleep(min(limits.watch_interval, next_due))

    async def _measure(self) -> tuple[list[Measurement], str]:
        """What is red and was not gone past at the reset; and what the gate says."""
        measured = [
            *await conditions.measure_conditions(self.settings, self.reset.scope),
            *await system.measure_health(self.settings),
        ]
        await self.watcher.measured(measured)
        admitted = await self.gate.measure()
        red = [one for one in red_of([*measured, admitted]) if one.name not in self.reset.overridden]
        return red, admitted.value

    async def _why_over(self, status: Status) -> str:
        """Why there is nothing to watch any more; empty if there is, or if the watch has come to its good end."""
        if status.state is State.TRIPPED:
            return f"tripped by {status.tripped_by}: {status.trip_reason}"
        if status.state is State.UNKNOWN:
            why = f"the breaker's state can't be told: {status.problem}"
            await self._trip(why)
            return why
        if status.epoch is not None and status.epoch > self.reset.epoch + 1:
            return f"there was another transition meanwhile: {status.state.value}, epoch {status.epoch}"
        return ""

    async def _trip(self, why: str) -> None:
        # The quiet period may be over by now; a trip of an open breaker would begin an incident with its own recovery.
        await self.breaker.trip(
            TripReason.WATCH_FAILED, details={"red": why}, tripped_by=BY, incident_id=self.reset.incident_id
        )

    async def _trip_again(self, claim: _Claim, why: str) -> WatchEnd:
        await self._trip(why)
        return await self._over(claim, why)

    async def _end_well(self, claim: _Claim) -> WatchEnd:
        """Write OPEN, also where the quiet period's time ran out before: readers say OPEN then, but Redis does not."""
        try:
            await self._end_quiet_period()
        except QuietPeriodUnwatched:
            raise
        except StateConflict:
            status = await self.breaker.get_status()
            # There was no quiet period to end, or this watch has ended it before.
            if status.state is not State.OPEN or status.epoch not in (self.reset.epoch, self.reset.epoch + 1):
                return await self._over(claim, await self._why_over(status) or f"the state is {status.state.value}")
        return await self._over(claim, "")

    async def _end_quiet_period(self) -> None:
        watching = Watching(self._key, self.holder, SILENT, self.settings.recovery.watch)
        identity = derived_id(ENDED, self.reset.scope, str(self.reset.epoch))
        await self.breaker.end_quiet_period(expected_epoch=self.reset.epoch, by=BY, event_id=identity, watch=watching)

    async def _over(self, claim: _Claim, why: str) -> WatchEnd:
        now = datetime.fromtimestamp(await self.redis.now() / 1_000_000, UTC)
        details = {"began": claim.began.isoformat(), "ended": now.isoformat(), "tripped_again": why}
        await self._tell(ENDED, claim, details, once="", outcome=FAILED if why else OK)
        ending = ("EVAL", _END, 1, self._key, self.reset.epoch, self.holder)
        await self.redis.ask(f"end the watch in {self._key}", ending)
        return WatchEnd(why, claim.holder, claim.began, now)

    @property
    def _key(self) -> str:
        return Keys.of(self.reset.scope).key("reset_watch")

    async def _claim(self) -> _Claim:
        asked = ("EVAL", _CLAIM, 1, self._key, self.reset.epoch, self.holder, round(SILENT * 1000))
        ((holder, began, ended, *now),) = await self.redis.ask(f"claim the watch in {self._key}", asked)
        seen = _moment(now[0]) if now else None
        return _Claim(holder.decode(), _moment(began), _moment(ended) if ended else None, seen)

    async def _tell(self, action: str, claim: _Claim, details: dict[str, str], *, once: str, outcome: str = OK) -> None:
        await self.record(
            AuditRecord(
                action=action,
                source="watch",
                id=derived_id(action, self.reset.scope, str(self.reset.epoch), once),
                user_id=claim.holder,
                details={"epoch": self.reset.epoch, "watch": self.settings.recovery.watch, **details},
                scope=self.reset.scope,
                incident_id=self.reset.incident_id,
                outcome=outcome,
            )
        )


def _quiet_left(status: Status, claim: _Claim, now: datetime) -> float | None:
    """Seconds of this watch after which the quiet period has been watched; None where time ends it, or nothing does."""
    if not status.ends_watched or status.quiet_until is None or status.reset_at is None:
        return None
    return (status.quiet_until - status.reset_at - (now - claim.began)).total_seconds()


def _moment(milliseconds: bytes) -> datetime:
    return datetime.fromtimestamp(int(milliseconds) / 1000, UTC)
