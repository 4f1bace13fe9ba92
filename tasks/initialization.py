"""Initialise a breaker by what the ledger knows of it: a state that Redis has lost was not open for being lost.

One rule for every way in. Where the ledger's last word is a trip that no reset has followed, or a quiet period that is
not over, the breaker is created TRIPPED, and only a reset opens it. A ledger that can't be asked refuses, unless people
answer for it; what they open, the scheduled verification trips again once the ledger says otherwise.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from breaker.errors import BreakerError
from breaker.keys import of_scope
from breaker.state import State, Status
from breaker.trip_reasons import TripReason
from configuration.breakers import apply_pending_trips, breaker_of
from configuration.login import login_name
from configuration.reasons import checked_reason
from configuration.redis_clients import redis_client
from ledger.configured import open_ready_ledger, open_recorder
from ledger.errors import LedgerError, LedgerNotReady
from ledger.models import TRANSITION_ACTIONS
from ledger.outbox import drain_outbox
from ledger.record import AuditRecord, derived_id, iso, uuid_or_none
from tasks.redis_identity import establish_identity
from tasks.two_persons import check_two_persons

if TYPE_CHECKING:
    from redis import Redis

    from configuration.settings import Settings
    from ledger.record import AuditRow

INITIALIZED_WITHOUT_LEDGER = "INITIALIZED_WITHOUT_LEDGER"
"""Recorded before a breaker is opened although the ledger could not be asked: who answers for it, and why."""


class NotInitialized(BreakerError):
    """A breaker was not initialised, as its last state can't be known. Nothing changed; no new risk passes."""


@dataclass(frozen=True, slots=True)
class WithoutLedger:
    """What people say who open a breaker although the ledger can't be asked; `second_person` is only a typed name."""

    reason: str
    second_person: str | None = None


@dataclass(frozen=True, slots=True)
class LastKnown:
    """What the ledger says of one breaker, last of all: the trip that stands, and the newest transition."""

    standing_trip: AuditRow | None
    transition: AuditRow | None


@dataclass(frozen=True, slots=True)
class Objection:
    """The row that speaks against opening a breaker, and what it says, as a sentence."""

    row: AuditRow
    why: str


def initialize(
    settings: Settings,
    scope: str,
    *,
    by: str,
    source: str,
    force: bool = False,
    without_ledger: WithoutLedger | None = None,
) -> Status:
    """Create the state of the breaker of `scope` where there is none; trips that wait on this host are made first.

    A valid state stays as it is. `force` also replaces one that can't be read, and an OPEN one by a fresh one.

    Returns:
        The state after it: OPEN, or TRIPPED by the ledger's word.

    Raises:
        NotInitialized: the ledger can't be asked, and nobody answers for it by `without_ledger`.
        InvalidInput: what `without_ledger` says breaks a rule.
        NotRecorded: nor could it be recorded that somebody answers for it.
        StateConflict, BreakerUnavailable, RedisRefused: as for `CircuitBreaker.initialize_state`.
    """
    apply_pending_trips(settings)
    with (
        redis_client(settings) as redis,
        closing(breaker_of(settings, scope, source=source, redis=redis)) as breaker,
    ):
        now = breaker.get_status()
        if now.state is not State.UNKNOWN:
            establish_identity(settings, redis)  # one that was initialised by an older version has none
        if now.state is State.OPEN and not force:
            return now
        if now.state in (State.TRIPPED, State.QUIET_PERIOD):
            return breaker.initialize_state(force, by)
        try:
            known = _last_known(settings, redis, scope)
        except LedgerError as error:
            if without_ledger is None or not force:
                raise NotInitialized(_refusal(settings, scope, error)) from None
            _answer_for_it(settings, scope, by, source, without_ledger, error)
            establish_identity(settings, redis)
            return breaker.initialize_state(force, by)
        establish_identity(settings, redis)
        objection = object_to_opening(known, datetime.now(UTC), settings.quiet_period)
        if objection is None:
            return breaker.initialize_state(force, by)
        row = objection.row
        return breaker.trip(
            TripReason.STATE_LOST,
            details={"operator": by, "reason": objection.why, "ledger_row": row.id, "recorded_at": iso(row.timestamp)},
            tripped_by=by,
            event_id=derived_id(TripReason.STATE_LOST, scope, row.id),
            incident_id=uuid_or_none(row.incident_id),
        )


def object_to_opening(known: LastKnown, now: datetime, quiet_period: float) -> Objection | None:
    """What speaks against creating a breaker OPEN whose state is lost; None if nothing does. Pure.

    Args:
        known: What the ledger says of it.
        now: The present.
        quiet_period: Seconds that a quiet period lasts.
    """
    trip, last = known.standing_trip, known.transition
    if trip is not None:
        by, reason = trip.user_id or "an unknown hand", trip.details.get("reason", "written by hand")
        why = f"tripped by {by} at {trip.timestamp:%Y-%m-%d %H:%M:%S} UTC ({reason}), and no reset has followed"
        return Objection(trip, f"Redis had lost its state; by the ledger it was {why}")
    if last is not None and last.details.get("to_state") == State.QUIET_PERIOD:
        ends = last.timestamp + timedelta(seconds=quiet_period)
        why = f"Redis had lost its state; by the ledger its quiet period lasts until {ends:%Y-%m-%d %H:%M:%S} UTC"
        return Objection(last, why) if now < ends else None
    return None


def _last_known(settings: Settings, redis: Redis, scope: str) -> LastKnown:
    """Raises LedgerError. What waits in Redis's outbox is newer than the ledger's last word, and goes there first."""
    with closing(open_ready_ledger(settings)) as ledger:
        drain_outbox(redis, ledger, (scope,), timeout=settings.redis_timeout)
        return LastKnown(ledger.state_of(scope).standing_trip, ledger.newest(scope, tuple(TRANSITION_ACTIONS.values())))


def _refusal(settings: Settings, scope: str, error: LedgerError) -> str:
    if isinstance(error, LedgerNotReady):  # it is to be made, and not to be done without
        return f"{scope} is not initialised, and no new risk passes: {error}, then this again"
    second = " --second-person NAME" if settings.recovery.two_person else ""
    return (
        f"{scope} is not initialised: whether it was tripped before can't be known, as the ledger can't be asked "
        f"({error}). Nothing changed, no new risk passes. Bring the ledger back and try again; or, where people with "
        f"RESET_CIRCUIT know that trading may go on: `breaker init{of_scope(scope)} --force --reason WHY{second}`"
    )


def _answer_for_it(
    settings: Settings, scope: str, by: str, source: str, said: WithoutLedger, error: LedgerError
) -> None:
    """Record who answers for it, before anything is opened. Raises InvalidInput or NotRecorded.

    Whoever acts is the login, and may what a reset takes. The other names were typed: nobody proves them here, as the
    accounts of the console are in the database that can't be asked. So they are on record as claimed.
    """
    reason, person = checked_reason(said.reason), login_name()
    check_two_persons(settings, (by, person), said.second_person)
    claimed = {"claimed": by} if by != person else {}
    if settings.recovery.two_person:
        claimed["claimed_second_person"] = said.second_person or ""
    open_recorder(settings).record(
        AuditRecord(
            action=INITIALIZED_WITHOUT_LEDGER,
            source=source,
            user_id=person,
            scope=scope,
            details={"reason": reason, **claimed, "ledger": str(error)},
        )
    )
