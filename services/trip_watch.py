"""Watch for trips, whoever made them: within a second they are in the ledger and announced to the orchestrator.

Redis tells of each state that is written; all breakers are looked at now and then besides, and twice a second where it
doesn't tell. A trip that Redis has lost in a failover, or with a copy put back, is made again as soon as the other
server is seen.

It also starts a recovery again whose process died or that failed, as for want of Redis; one whose host is gone is
found by the health verification. And it asks for a recovery itself where nothing came of the announcement: whatever
evaluates events in the orchestrator may be down while everything else there is well.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import structlog
from redis import Redis
from redis.exceptions import RedisError

from breaker.errors import BreakerError
from breaker.keys import is_scope
from breaker.state import Status
from breaker.state_changes import StateChanges
from breaker.status_reader import StatusReader
from configuration.identity import look_up_identity
from configuration.redis_clients import redis_client
from configuration.settings import Settings
from ledger.configured import open_ready_ledger
from ledger.errors import LedgerError
from ledger.ledger import Ledger
from ledger.outbox import drain_outbox, known_scopes
from services.exit_watch import ResumeScheduler
from services.outage_log import OutageLog
from services.pending_trips import make_pending_trips
from services.primary_watch import PrimaryWatch
from tasks import orchestrator
from tasks.recovery.cancellation import look_for_cancellation
from tasks.recovery.state import RecoveryState, claim_key, state_key
from tasks.trip_announcement import AnnouncedTrip, announce_trips

EVERY = 0.5
"""Seconds between two looks at what is due."""
ALL_EVERY = 3.0
"""Seconds between two looks at all breakers where Redis tells of changes; one costs two exchanges, with one command per
breaker each.
"""
AT_LEAST = 0.05
"""Seconds between two looks, however much is told."""
SCOPES_EVERY = 30.0
RECOVERIES_EVERY = 5.0
ASKING_WITHIN = 2.0
"""Seconds of a look in which recoveries are asked for; the others are at their next announcement. Where many breakers
are tripped and Prefect hangs, trips were neither recorded nor told for minutes."""
RECOVERY = "recovery/recovery"
"""The deployment that the announcement of a trip starts."""

log = structlog.get_logger(__name__)


class TripWatch(threading.Thread):
    """Runs until `stop`. Outlives outages of Redis, database and orchestrator; says when each begins and ends."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(name="trip watch", daemon=True)
        self._settings = settings
        self._stop_asked = threading.Event()
        self._outages = OutageLog("trip watch")
        self._scopes: tuple[str, ...] = ("global",)
        self._scopes_read = float("-inf")
        self._recoveries_read = float("-inf")
        self._resumptions = ResumeScheduler(settings)
        self._woken = threading.Event()
        self._written: list[str] = []
        self._all_looked_at = float("-inf")
        self._announced: set[AnnouncedTrip] = set()
        self._asked_for: set[AnnouncedTrip] = set()

    def stop(self) -> None:
        self._stop_asked.set()
        self._woken.set()
        self.join(5)

    def run(self) -> None:
        timeout = self._settings.redis_timeout
        redis = redis_client(self._settings, timeout=timeout)
        reader = StatusReader(redis, timeout=timeout, remember=False)
        primary = PrimaryWatch(redis, timeout)
        ledger: Ledger | None = None
        changes = StateChanges(redis, self._note_written, timeout=timeout)
        changes.start()
        while not self._stop_asked.wait(AT_LEAST):
            written = self._woken.wait(EVERY - AT_LEAST)
            self._woken.clear()
            self._make_pending_trips()
            if written or not changes.is_listening or time.monotonic() - self._all_looked_at >= ALL_EVERY:
                self._all_looked_at = time.monotonic()
                ledger = self._look_at_all(redis, reader, primary, ledger)
            self._look_after_recoveries(redis, reader, ledger)
            self._schedule_resumptions()
        changes.stop()

    def _note_written(self, scopes: frozenset[str] | None) -> None:
        self._written.extend(scope for scope in scopes or () if is_scope(scope))
        self._woken.set()

    def _look_at_all(
        self, redis: Redis, reader: StatusReader, primary: PrimaryWatch, ledger: Ledger | None
    ) -> Ledger | None:
        """What fails is tried again at the next look. Returns the ledger, once it could be opened."""
        written = {self._written.pop() for _ in range(len(self._written))}
        self._scopes += tuple(sorted(written.difference(self._scopes)))  # one that nobody had looked for yet
        statuses: Mapping[str, Status] = {}
        try:
            ledger = ledger or open_ready_ledger(self._settings)
            self._find_scopes(redis, ledger)
            drain_outbox(redis, ledger, self._scopes, timeout=self._settings.redis_timeout)
            statuses = reader.read(self._scopes)
            if primary.look(ledger, statuses):
                statuses = {}  # some may have been tripped again
            self._outages.note("ledger", None)
        except (BreakerError, LedgerError) as error:
            self._all_looked_at = float("-inf")
            self._outages.note("ledger", error)
        try:
            announced = announce_trips(redis, statuses or reader.read(self._scopes))
            for trip in announced:
                log.info("trip announced", scope=trip.scope, incident_id=trip.incident_id)
            self._outages.note("announcement", None)
            self._ask_for_unheard(announced)
        except (BreakerError, RedisError) as error:
            self._all_looked_at = float("-inf")
            self._outages.note("announcement", error)
        return ledger

    def _ask_for_unheard(self, announced: Sequence[AnnouncedTrip]) -> None:
        """For a recovery of each that is announced again, those that were never asked for first. If both come to
        something, the second recovery finds the first, and ends.
        """
        unheard = [trip for trip in announced if trip in self._announced]
        self._announced.update(announced)
        until = time.monotonic() + ASKING_WITHIN
        for trip in sorted(unheard, key=self._asked_for.__contains__) if orchestrator.is_configured() else ():
            if time.monotonic() >= until:
                return
            self._ask_for_recovery(trip)

    def _ask_for_recovery(self, trip: AnnouncedTrip) -> None:
        parameters = {"incident_id": trip.incident_id, "scope": trip.scope}
        key = f"recovery-of-{trip.incident_id}"
        try:
            asyncio.run(orchestrator.schedule(RECOVERY, datetime.now(UTC), key, parameters))
            self._asked_for.add(trip)
            log.warning("no recovery came of the announcement, asked for one", **parameters)
            self._outages.note(f"recovery of {trip.scope}", None)
        except Exception as error:  # whatever the orchestrator's client raises must not end the watch over trips
            self._outages.note(f"recovery of {trip.scope}", error)

    def _make_pending_trips(self) -> None:
        """Trips that were asked for on this host while Redis could not be reached."""
        try:
            make_pending_trips(self._settings)
            self._outages.note("pending trips", None)
        except BreakerError as error:
            self._outages.note("pending trips", error)

    def _schedule_resumptions(self) -> None:
        """What a kill switch could not close is resumed by a flow run at its time."""
        try:
            self._resumptions.look()
            self._outages.note("resumptions", None)
        except Exception as error:  # whatever the orchestrator's client raises must not end the watch over trips
            self._outages.note("resumptions", error)

    def _find_scopes(self, redis: Redis, ledger: Ledger) -> None:
        if time.monotonic() - self._scopes_read > SCOPES_EVERY:
            self._scopes = known_scopes(redis, ledger)
            look_up_identity(self._settings, redis)  # for the trips that this host keeps once Redis is away
            self._scopes_read = time.monotonic()

    def _look_after_recoveries(self, redis: Redis, reader: StatusReader, ledger: Ledger | None) -> None:
        if time.monotonic() - self._recoveries_read < RECOVERIES_EVERY:
            return
        self._recoveries_read = time.monotonic()
        try:
            kept = self._kept_recoveries(redis)
        except RedisError as error:
            self._outages.note("recoveries", error)
            return
        self._outages.note("recoveries", None)
        statuses = reader.read(self._scopes)
        for scope, raw in kept.items():
            try:
                for flow_run_id in self._unfinished(redis, raw, statuses[scope]):
                    if asyncio.run(orchestrator.reschedule_if_failed(UUID(flow_run_id))):
                        log.warning("recovery had broken off, started again", scope=scope, flow_run_id=flow_run_id)
                if raw is not None and ledger is not None:
                    self._look_for_cancellation(ledger, scope)
                self._outages.note(f"recovery of {scope}", None)
            except Exception as error:  # whatever one fails with must end neither this nor the watch over trips
                self._outages.note(f"recovery of {scope}", error)

    def _look_for_cancellation(self, ledger: Ledger, scope: str) -> None:
        if asyncio.run(look_for_cancellation(self._settings, ledger, scope)):
            log.warning("recovery was cancelled in Prefect", scope=scope)

    def _kept_recoveries(self, redis: Redis) -> dict[str, Any]:
        """What Redis keeps of each breaker's recovery, or the error that it answered with for that one."""
        with redis.pipeline(transaction=False) as pipe:
            for scope in self._scopes:
                pipe.get(state_key(scope))
            return dict(zip(self._scopes, pipe.execute(raise_on_error=False), strict=True))

    def _unfinished(self, redis: Redis, raw: Any, status: Status) -> set[str]:
        """Flow runs: the one that shows its picture, and the tripped incident's, which may have failed before that."""
        if isinstance(raw, Exception):
            raise raw
        try:
            state = RecoveryState.from_json(raw) if isinstance(raw, bytes) else None
        except (ValueError, TypeError, KeyError, AttributeError):
            state = None  # the health verification says so; the incident's own run is looked after all the same
        found = {state.flow_run_id} if state is not None and not (state.done or state.cancelled_at) else set()
        incident = status.incident_id if status.is_tripped else None
        holder = redis.get(claim_key(incident)) if incident else None
        return found | ({holder.decode()} if isinstance(holder, bytes) else set())
