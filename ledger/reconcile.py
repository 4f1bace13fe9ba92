"""Compare a breaker in Redis with its record in the ledger, so that nobody gets past either.

The comparison never mistakes a transition under way for an override: it counts only what held while the outbox was
empty and the ledger's last word on the breaker was the same before and after Redis was read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from breaker.circuit import CircuitBreaker
from breaker.deadline_client import DeadlineClient
from breaker.events import TransitionEvent
from breaker.keys import GLOBAL, Keys
from breaker.requests import Command, Request, raise_if_error
from breaker.state import State
from breaker.trip_reasons import TripReason
from ledger.continuity import StoredState, explains, override_record, transition_record
from ledger.ledger import Ledger
from ledger.outbox import OutboxDrain, drain_outbox, record_transitions, with_distinct_ids
from ledger.record import AuditRecord, derived_id, uuid_or_none
from ledger.tail import LATE, RecordedState

if TYPE_CHECKING:
    from redis import Redis

_ATTEMPTS = 10
_AT_ONCE = 50
"""Breakers that are compared together: each brings its whole history."""
_IDS_AT_ONCE = 5_000
_NOTHING = OutboxDrain()


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """What was found for one scope. `override` is the record this call made of a state that nothing explains; `tripped`
    says that it tripped the breaker, because the ledger has no reset of its last trip. `settled` is False if
    transitions came too thick to compare anything: then nothing was found, and nothing ruled out.
    """

    scope: str
    state: str
    settled: bool
    override: AuditRecord | None = None
    tripped: bool = False
    drained: OutboxDrain = _NOTHING
    recovered: int = 0
    """Transitions that had vanished from the outbox and were recorded from the breaker's history."""


@dataclass(frozen=True, slots=True)
class _Snapshot:
    stored: StoredState
    outbox_length: int
    history: tuple[bytes, ...]


def reconcile(redis: Redis, ledger: Ledger, scope: str = GLOBAL, *, timeout: float = 2.0) -> Reconciliation:
    """Record what happened to the breaker of `scope` past its own transitions, once, and trip it again if it was opened
    without a reset. Each exchange with Redis ends within `timeout` seconds.

    Raises:
        BreakerUnavailable, RedisRefused: Redis didn't answer or won't; call again, nothing is lost.
        LedgerUnavailable, LedgerNotReady: the same of the ledger.
        OutboxUnreadable: somebody put something else in the outbox's place.
    """
    with closing(DeadlineClient(redis, timeout)) as client:
        found = Reconciliation(scope, State.UNKNOWN, settled=False)
        for _ in range(_ATTEMPTS):
            before = ledger.state_of(scope)
            seen = _snapshot(client, scope)
            if seen.outbox_length:
                found = replace(found, drained=found.drained + drain_outbox(redis, ledger, [scope], timeout=timeout))
                continue
            if recovered := record_vanished(ledger, scope, seen.history, before):
                found = replace(found, recovered=found.recovered + recovered)
                continue
            settled = _settle(ledger, scope, before, seen.stored, found)
            if settled is not None:
                return _trip_if_opened(redis, ledger, before, settled, timeout)
        return found


def settled_at_once(
    redis: Redis, ledger: Ledger, scopes: Sequence[str], *, timeout: float = 2.0
) -> dict[str, Reconciliation]:
    """What `reconcile` would find of those breakers that are as the ledger says, asked for all of them together.

    Whatever has to be looked at more closely, or put right, is left out. Raises what `reconcile` raises.
    """
    found: dict[str, Reconciliation] = {}
    with closing(DeadlineClient(redis, timeout)) as client:
        for start in range(0, len(scopes), _AT_ONCE):
            some = scopes[start : start + _AT_ONCE]
            before = ledger.states_of(some)
            seen = _snapshots(client, some)
            recorded = _all_recorded(ledger, seen)
            after = ledger.states_of(some)
            for scope in some:
                said, stored = before[scope], seen[scope].stored
                quiet = not seen[scope].outbox_length and scope in recorded and after[scope] == said
                opened = said.standing_trip is not None and stored.state != State.TRIPPED
                if quiet and not opened and explains(said.row, stored):
                    found[scope] = Reconciliation(scope, stored.state, settled=True)
    return found


def _all_recorded(ledger: Ledger, seen: Mapping[str, _Snapshot]) -> set[str]:
    """The breakers of whose histories the ledger has every transition, under its own id."""
    told = {
        scope: [record for raw in snapshot.history if (record := _transition(raw, scope)) is not None]
        for scope, snapshot in seen.items()
    }
    ids = [record.id for records in told.values() for record in records]
    known: dict[str, tuple[str, int | None]] = {}
    for start in range(0, len(ids), _IDS_AT_ONCE):
        known |= ledger.transitions(ids[start : start + _IDS_AT_ONCE])
    return {
        scope
        for scope, records in told.items()
        if all(known.get(record.id) == (record.scope, record.details.get("epoch")) for record in records)
    }


def _settle(
    ledger: Ledger, scope: str, before: RecordedState, stored: StoredState, found: Reconciliation
) -> Reconciliation | None:
    """The finding, with the override recorded if it is one; None if the breaker moved on meanwhile."""
    found = replace(found, state=stored.state, settled=True)
    if explains(before.row, stored):
        return found if ledger.state_of(scope) == before else None
    override = override_record(before.row, stored, scope)
    done = ledger.append_decided(lambda tail: [override] if tail.state_of(scope) == before else [])
    if done.new:
        return replace(found, override=override)
    return None


def _trip_if_opened(
    redis: Redis, ledger: Ledger, before: RecordedState, found: Reconciliation, timeout: float
) -> Reconciliation:
    if before.standing_trip is None or found.state == State.TRIPPED:
        return found
    # The same id for the same finding: whoever else found it too trips it once with us.
    cause = found.override.id if found.override is not None else before.row.id if before.row is not None else ""
    with closing(CircuitBreaker(redis, found.scope, timeout=timeout, source="rule")) as breaker:
        breaker.trip(
            TripReason.LEDGER_MISMATCH,
            details={"found": found.state, "ledger": State.TRIPPED.value, "cause": cause},
            tripped_by="reconciliation",
            event_id=derived_id(TripReason.LEDGER_MISMATCH, found.scope, cause),
            incident_id=uuid_or_none(before.standing_trip.incident_id),
        )
    drained = drain_outbox(redis, ledger, [found.scope], timeout=timeout)
    return replace(found, tripped=True, drained=found.drained + drained)


def record_vanished(ledger: Ledger, scope: str, history: Sequence[bytes], before: RecordedState) -> int:
    """Record transitions that the breaker's history has and the ledger hasn't: the outbox was lost or cut.

    `before` is the ledger's last word on the breaker; what happened before it is recorded as late. Returns how many.
    """
    read = [record for raw in history if (record := _transition(raw, scope)) is not None]
    records = {record.id: record for record in with_distinct_ids(ledger, read)}
    missing = [records[record_id] for record_id in records.keys() - ledger.known(records)]
    if not missing:
        return 0
    missing.sort(key=lambda record: record.timestamp)
    newest = before.row.timestamp if before.row is not None else None
    late = [replace(record, outcome=LATE) for record in missing if newest is not None and record.timestamp < newest]
    ledger.append(late)
    current = missing[len(late) :]
    if current:
        record_transitions(ledger, scope, current)
    return len(missing)


def _transition(raw: bytes, scope: str) -> AuditRecord | None:
    try:
        event = TransitionEvent.from_json(raw)
        return transition_record(event) if event.scope == scope else None
    except (ValueError, RecursionError):
        # A member that no transition wrote says nothing about any.
        return None


def _snapshot(client: DeadlineClient, scope: str) -> _Snapshot:
    """State, outbox and history at one moment."""
    return _snapshots(client, [scope])[scope]


def _snapshots(client: DeadlineClient, scopes: Sequence[str]) -> dict[str, _Snapshot]:
    """The same of each, in one exchange."""
    what = Keys.of(scopes[0]).state if len(scopes) == 1 else f"{len(scopes)} breakers"
    commands = tuple(command for scope in scopes for command in _snapshot_commands(Keys.of(scope)))
    replies = client.execute(Request(f"compare {what} with the ledger", commands))
    return {scope: _read_snapshot(reply) for scope, reply in zip(scopes, replies[_EXEC::_COMMANDS], strict=True)}


def _snapshot_commands(keys: Keys) -> tuple[Command, ...]:
    return (
        ("MULTI",),
        ("TIME",),
        ("TYPE", keys.state),
        ("GET", keys.state),
        ("TYPE", keys.outbox),
        ("XLEN", keys.outbox),
        ("TYPE", keys.history),
        ("ZRANGE", keys.history, 0, -1),
        ("EXEC",),
    )


_COMMANDS = len(_snapshot_commands(Keys.of(GLOBAL)))
_EXEC = _COMMANDS - 1


def _read_snapshot(reply: Any) -> _Snapshot:
    raise_if_error(reply)
    clock, state_kind, state, outbox_kind, length, history_kind, history = reply
    at = datetime.fromtimestamp(int(clock[0]), UTC).replace(microsecond=int(clock[1]))
    kind = _text(state_kind)
    return _Snapshot(
        StoredState(state if kind == "string" else None, kind, at),
        # What is no stream is left to the drain to complain of.
        0 if _text(outbox_kind) == "none" else length if _text(outbox_kind) == "stream" else 1,
        tuple(history) if _text(history_kind) == "zset" else (),
    )


def _text(reply: Any) -> str:
    return reply.decode() if isinstance(reply, bytes) else str(reply)
