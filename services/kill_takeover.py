"""Take over a kill switch whose process has fallen silent: its host died, or it was killed.

A run gives a sign of life every second (tasks/kill/status_feed.py). One that gave none at all is begun by what its
trip says (tasks/kill/asked_kills.py). Another one of the same incident knows its closes by their ids, so that two at
once, as after a pause, do no harm. What was never confirmed is not begun, and nothing is taken from a Redis that began
after the last sign of life, or that was a replica once and tells of one a minute ago: it may be a copy of the past.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from functools import partial
from typing import Any
from uuid import UUID, uuid5

import structlog
from redis.exceptions import RedisError, ResponseError

from breaker import State
from breaker.errors import BreakerError, InvalidInput
from breaker.keys import ASKED_KILLS
from breaker.redis_time import microseconds_of, to_datetime
from configuration.redis_clients import async_redis_client
from configuration.settings import Settings
from services.kill_executor import KillExecutor
from services.kill_request import KillRequest
from services.outage_log import OutageLog
from services.redis_history import FAILED_OVER, believed_for
from tasks.kill.asked_kills import CLAIM, AskedKill, read_asked_kills
from tasks.kill.status import KillStatus
from tasks.kill.status_feed import TAKEN_OVER_AFTER, read_kill_statuses

LATE = 3_600.0
"""Seconds of silence after which a run is left to people: nobody expects it to go on by itself any more."""
LOOK_EVERY = 1.0
_CLAIM_MS = 10_000
_MOST = 50
_NAMESPACE = UUID("b1f0d8a4-93a7-5d52-8b5c-5f3d0f0c9a1e")

log = structlog.get_logger(__name__)


def abandoned(statuses: Iterable[KillStatus], believed: float) -> list[KillStatus]:
    """Which runs to take over, of the newest ones. Pure.

    `believed`: seconds back to which the Redis that has them tells what was so.
    """
    newest_first = sorted(statuses, key=lambda status: status.started_at, reverse=True)
    found: list[KillStatus] = []
    taken_on: dict[str, set[str]] = {}
    """By incident the accounts that a later run has gone on with."""
    for status in newest_first:
        if status.declined or status.asking or status.resuming:  # it has touched nothing, or only what was left over
            continue
        later = taken_on.setdefault(status.incident_id, set())
        is_left = not {*status.covered} <= later and not (status.over or status.reported)
        if is_left and TAKEN_OVER_AFTER <= status.silent_for < min(LATE, believed):
            found.append(status)
        later.update(status.covered)
    return found


def unbegun(asked: Iterable[AskedKill], now: datetime, believed: float) -> list[AskedKill]:
    """Which of those that have given no sign of life to begin, at `now` by Redis's clock. Pure."""
    return [each for each in asked if TAKEN_OVER_AFTER <= each.waited(now) < min(LATE, believed)]


class KillTakeover:
    """Looks once a second, and has the executor go on with what is abandoned, or never began."""

    def __init__(self, settings: Settings, executor: KillExecutor, outages: OutageLog) -> None:
        self._executor = executor
        self._outages = outages
        self._redis = async_redis_client(settings, timeout=settings.redis_timeout)
        self._known: dict[str, KillStatus] = {}
        self._of_another_clock: set[str] = set()
        """Trips of a time that was still to come: what was done since by another clock can't be told."""
        self._reading_since: float | None = None
        """While Redis was away nobody could give a sign of life: silence counts from when it answers again."""

    async def look(self) -> None:
        """Once. Never raises: what goes wrong is said in the log, and tried again."""
        try:
            statuses = await read_kill_statuses(self._redis, self._known, _MOST)
            self._known = {status.run_id: status for status in statuses}
            asked = await self._asked()
            now = time.monotonic()
            self._reading_since = now if self._reading_since is None else self._reading_since
            # Redis's clock and age are asked only where a run is silent, which is hardly ever so.
            if now - self._reading_since >= TAKEN_OVER_AFTER and (asked or abandoned(statuses, float("inf"))):
                clock = to_datetime(microseconds_of(await self._redis.time()))
                believed = await believed_for(self._redis)
                for status in abandoned(statuses, believed):
                    await self._take_over(status)
                self._of_another_clock |= {each.trip.event_id for each in asked if each.waited(clock) < -FAILED_OVER}
                for each in unbegun(asked, clock, believed):
                    await self._begin(each, each.waited(clock))
            self._outages.note("kill switches under way", None)
        except (RedisError, OSError, BreakerError) as error:
            self._reading_since = None
            self._outages.note("kill switches under way", error)

    async def close(self) -> None:
        await self._redis.aclose()

    async def _asked(self) -> list[AskedKill]:
        """None where something else is kept there, which must not hold up the others."""
        try:
            kept: Any = await self._redis.hgetall(ASKED_KILLS)
        except ResponseError as error:
            self._outages.note("kill switches that were confirmed", error)
            return []
        self._outages.note("kill switches that were confirmed", None)
        return read_asked_kills(kept.values())

    async def _take_over(self, status: KillStatus) -> None:
        request = self._understood(f"the run {status.run_id}", partial(_request, status))
        if request is None or not self._is_ours(request):
            return
        now = await self._executor.breaker(status.scope, "rule").get_status()
        if now.state is not State.TRIPPED or now.incident_id != status.incident_id:
            return  # reset since, or never halted: people decide
        if not await self._claims(status.run_id):
            return
        log.error(
            "a kill switch fell silent and is taken over",
            incident_id=status.incident_id,
            host=status.host,
            silent_for=round(status.silent_for, 1),
            accounts=list(status.covered),
        )
        self._kill(request, status.closes_as)

    async def _begin(self, asked: AskedKill, waited: float) -> None:
        request = self._understood(f"the trip {asked.trip.event_id}", partial(_request_of, asked, waited))
        if request is None or asked.trip.event_id in self._of_another_clock or not self._is_ours(request):
            return
        if not asked.is_in_force(await self._executor.breaker(request.scope, "rule").get_status()):
            return
        if not await self._claims(request.event_id):
            return
        log.error(
            "a kill switch was tripped, gave no sign of life, and is begun here",
            incident_id=request.incident_id,
            operator=request.operator,
            waited=round(waited, 1),
            accounts=list(request.accounts),
        )
        self._kill(request, None)

    def _is_ours(self, request: KillRequest) -> bool:
        """Whether its accounts are this host's, and nothing here is at work on them in that incident."""
        try:
            return not self._executor.is_at_work(request)
        except InvalidInput:
            return False

    def _understood(self, what: str, ask: Callable[[], KillRequest]) -> KillRequest | None:
        """None of what nobody of ours has written: it must not end the watch over the others."""
        try:
            request = ask()
        except ValueError as error:
            self._outages.note(what, ValueError(f"no kill switch can be asked for by it: {str(error).splitlines()[0]}"))
            return None
        return request

    async def _claims(self, what: str) -> bool:
        return bool(await self._redis.set(f"{CLAIM}{what}", socket.gethostname(), nx=True, px=_CLAIM_MS))

    def _kill(self, request: KillRequest, closes_as: Mapping[str, str] | None) -> None:
        self._executor.begin(self._executor.kill(request, "rule", lambda _: None, closes_as=closes_as))


def _request_of(asked: AskedKill, waited: float) -> KillRequest:
    trip = asked.trip
    return KillRequest(
        reason=f"{asked.reason[:380]} (begun elsewhere, as nothing was heard of it for {waited:.0f} s)",
        operator=trip.by,
        login=str(trip.details.get("login", "")),
        sudo=str(trip.details.get("sudo", "")),
        scope=trip.scope,
        accounts=asked.closes,
        incident_id=trip.incident_id,
        event_id=trip.event_id,
    )


def _request(status: KillStatus) -> KillRequest:
    why = f"taken over, as nothing was heard of {status.host[:60]} for {status.silent_for:.0f} s"
    return KillRequest(
        reason=f"{status.reason[:380]} ({why})",
        operator=status.operator,
        scope=status.scope,
        accounts=status.covered,
        incident_id=status.incident_id,
        event_id=status.event_id or str(uuid5(_NAMESPACE, status.run_id)),
    )
