"""Make transitions by this host's configuration: at once, or kept on its disk until Redis can be told."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace

from breaker import CircuitBreaker
from breaker.errors import BreakerError, BreakerUnavailable, NotHalted, RedisRefused, StateConflict
from breaker.events import History, read_history
from breaker.keys import GLOBAL, of_scope
from breaker.pending_trips import PendingTrip
from breaker.state import Status
from breaker.status_reader import StatusReader, restricted_breakers
from breaker.trip_reasons import TripReason
from brokers.coverage import NamedScope, named_in
from cli import notices
from cli.acting_on import say_doubt, say_what_is_acted_on, target_of
from cli.messages import say
from cli.options import ResetOptions
from cli.pending_exits import drop_pending_exits
from configuration.breakers import (
    REFUSAL_PATIENCE,
    apply_pending_trips,
    breaker_of,
    requested_trip,
    store_undelivered,
    waiting_incident,
    waiting_trips,
)
from configuration.login import behind_sudo, login_name
from configuration.redis_clients import redis_client
from configuration.settings import Settings
from ledger.errors import LedgerError
from tasks.kill.pending_exit_store import Reading, read_pending_exits
from tasks.kill.venue_lock_store import LockReading, read_venue_locks


class LocalCircuit:
    """The configured breakers; before one is changed, every trip that waits on this host is made."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def target(self) -> str:
        return target_of(self._settings)

    def say_what_is_acted_on(self) -> None:
        say_what_is_acted_on(self._settings)

    def status(self, scope: str) -> Status:
        say_what_waits(self._settings)
        return breaker_of(self._settings, scope, source="cli").get_status()

    def restricted(self, scope: str) -> Mapping[str, Status]:
        if scope != GLOBAL:
            return {}
        client = redis_client(self._settings)
        with client, closing(StatusReader(client, timeout=self._settings.redis_timeout, remember=False)) as reader:
            try:
                return restricted_breakers(reader.read(set(reader.stored_scopes()) - {GLOBAL}))
            except BreakerError as error:
                say(f"whether another breaker is tripped is not known: {error}")
                return {}

    def history(self, scope: str, limit: int) -> History:
        say_what_waits(self._settings)
        try:
            return breaker_of(self._settings, scope, source="cli").get_history(limit)
        except (BreakerUnavailable, RedisRefused, StateConflict) as error:
            return recorded_history(self._settings, scope, limit, error)

    def named(self, scope: str) -> NamedScope:
        return named_in(self._settings, scope)

    def trip(self, scope: str, reason: str, operator: str | None) -> tuple[str, Status]:
        named = self.named(scope)
        scope = named.scope
        say_doubt(scope, named.doubt)
        trip = requested_trip(
            TripReason.MANUAL,
            operator=operator or login_name(),
            login=login_name(),
            sudo=behind_sudo(),
            why=reason,
            scope=scope,
            source="cli",
            incident_id=waiting_incident(self._settings, scope),
        )
        try:
            return scope, make_trip(self._settings, trip)
        except NotHalted as error:
            notices.tell_undelivered_trip(self._settings, trip, str(error))
            raise

    def reset(self, ask: ResetOptions) -> Status:
        from cli.reset import reset_here  # noqa: PLC0415  what it measures with is slow to import

        make_pending_trips(self._settings)
        return reset_here(self._settings, ask)

    def foreseen_trip(self, scope: str) -> str:
        from tasks.checks.equity import trips_again_of  # noqa: PLC0415  only a reset asks

        return asyncio.run(trips_again_of(self._settings, scope))

    def watch(self, scope: str) -> None:
        from cli.reset import watch_here  # noqa: PLC0415

        try:
            watch_here(self._settings, scope)
        except KeyboardInterrupt:
            say(
                f"not watched here any more: the reset of {scope} stands, and its quiet period goes on until somebody "
                "has watched it to its end: a service or standby that is up, or else `breaker reset --reason "
                f"WHY{of_scope(scope)}` again. If anything looks wrong: `breaker trip{of_scope(scope)}`"
            )
        except LedgerError as error:
            say(f"the reset stands, but is not watched here, as that can't be recorded: {error}")
        finally:
            notices.tell_transitions(self._settings, scope)

    def pending_exits(self, scope: str) -> Reading:
        reading = read_pending_exits(self._settings)
        return reading if scope == GLOBAL else replace(reading, exits=reading.of_scope(scope))

    def venue_locks(self, scope: str) -> LockReading:
        reading = read_venue_locks(self._settings)
        return reading if scope == GLOBAL else replace(reading, known=reading.of_scope(scope))

    def drop_pending_exits(self, scope: str, reason: str, operator: str | None) -> None:
        drop_pending_exits(self._settings, scope, reason, operator or login_name())

    def tell(self, scope: str) -> None:
        notices.tell_transitions(self._settings, scope)

    def record(self, scope: str) -> None:
        record_transitions(self._settings, scope)


def make_trip(settings: Settings, trip: PendingTrip) -> Status:
    """Trip the breaker; an older trip that waits on this host is made too.

    Raises NotHalted, whose line says whether the trip is kept and made later.
    """
    try:
        breaker = breaker_of(settings, trip.scope, source=trip.source, refusal_patience=REFUSAL_PATIENCE)
        status = trip.make(breaker)
    except (BreakerUnavailable, RedisRefused) as error:
        raise store_undelivered(settings, trip, error) from None
    try:
        make_pending_trips(settings)
    except (BreakerError, OSError) as error:  # this trip is made, whatever the disk says
        say(f"an older trip still waits on this host: {error}")
    return status


def make_pending_trips(settings: Settings) -> bool:
    """Make the trips that wait on this host, and say so. True if there were any.

    Raises BreakerUnavailable or RedisRefused: they still wait.
    """
    made = apply_pending_trips(settings)
    for trip, status in ((applied.trip, applied.status) for applied in made):
        say(
            f"tripped {trip.scope}, asked for on this host at {trip.asked_at} by {trip.tripped_by} while Redis could "
            f"not be reached; it is {status.state} now, incident {status.incident_id}"
        )
    return bool(made)


def say_what_waits(settings: Settings) -> None:
    """Say which trips wait on this host, and for which Redis; reading makes none."""
    waiting = waiting_trips(settings)
    for trip in waiting.here:
        say(
            f"a trip waits on this host until Redis is told: {_waiting(trip)}; any service here makes it, or "
            "`breaker audit drain`"
        )
    for trip in waiting.elsewhere:
        say(
            f"a trip waits on this host for another Redis ({trip.meant_for}) and is left alone: {_waiting(trip)}, in "
            f"{settings.pending_trips_dir / (trip.event_id + '.json')}"
        )


def _waiting(trip: PendingTrip) -> str:
    return f"{trip.scope}, asked for on this host at {trip.asked_at} by {trip.tripped_by}"


def open_breaker(settings: Settings, scope: str) -> CircuitBreaker:
    """The configured breaker of `scope`, once every trip that waits on this host has been made.

    Raises BreakerUnavailable or RedisRefused if they can't be made.
    """
    make_pending_trips(settings)
    return breaker_of(settings, scope, source="cli")


def recorded_history(settings: Settings, scope: str, limit: int, why: BreakerError) -> History:
    """The transitions that the audit log has, since Redis does not tell its own (`why`), which is said.

    Raises `why` where the audit log can't be read either, which is said too.
    """
    from ledger.configured import open_ledger  # noqa: PLC0415  Redis answers nearly always
    from ledger.continuity import transition_text  # noqa: PLC0415
    from ledger.models import TRANSITION_ACTIONS  # noqa: PLC0415
    from ledger.queries import Filter  # noqa: PLC0415

    wanted = Filter(scope=scope, actions=tuple(TRANSITION_ACTIONS.values()))
    try:
        rows = open_ledger(settings).query(wanted, limit=limit).rows
    except LedgerError as error:
        say(f"the audit log can't tell the history either: {error}")
        raise why from None
    say(
        f"from the audit log, since Redis does not tell its history: {why} Transitions that were still on their way "
        "from Redis into the audit log are missing."
    )
    return read_history(transition_text(row) for row in rows)


def record_transitions(settings: Settings, scope: str) -> None:
    """Move what a command just did from Redis's outbox into the ledger; if that fails it waits there, which is said."""
    from ledger.configured import open_ready_ledger  # noqa: PLC0415  after the transition, not before
    from ledger.outbox import drain_outbox  # noqa: PLC0415

    try:
        drain_outbox(redis_client(settings), open_ready_ledger(settings), (scope,), timeout=settings.redis_timeout)
    except (BreakerError, LedgerError, OSError) as error:
        say(f"done, but not yet in the audit log: {error}; it waits in Redis's outbox")
