"""Make records of a breaker's transitions, and of what no transition explains. Pure: no I/O, no clock.

Every state of a breaker must follow from the one before by a recorded transition. Where one doesn't, somebody wrote to
Redis past the breaker: the runbook's manual override, a flush, a restored backup, a failover that lost writes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self

from breaker.events import TransitionEvent
from breaker.state import State, read_status, usable_count
from ledger.models import OVERRIDE_DETECTED, TRANSITION_ACTIONS
from ledger.record import AuditRecord, AuditRow, derived_id, iso, plain

MISSING = "MISSING"
UNKNOWN = State.UNKNOWN.value

_MAY_BE_NULL = ("ip_address", "incident_id")
_LONGEST_QUOTE = 4_096
"""Characters of an unexplained state that its record quotes; its SHA-256 covers all of it."""


def transition_record(event: TransitionEvent) -> AuditRecord:
    """The row that a transition becomes; its id is the event's.

    Raises:
        ValueError: the event holds what no transition writes.
    """
    for value in (event.ip_address, event.incident_id):
        if not (value is None or isinstance(value, str)):
            raise ValueError(f"{value!r:.40} is not text")
    return AuditRecord(
        id=event.event_id,
        action=TRANSITION_ACTIONS[event.transition.value],
        timestamp=event.at,
        user_id=event.by,
        source=event.source,
        scope=event.scope,
        incident_id=event.incident_id,
        ip_address=event.ip_address,
        details={
            "reason": event.reason,
            "from_state": event.from_state,
            "to_state": event.to_state,
            "epoch": event.epoch,
            "details": event.details,
        },
    )


def transition_text(row: AuditRow) -> str:
    """The transition that became this row, as JSON, in the fields and the order that a breaker's history has.

    What is missing in the row is missing in the text.
    """
    said = row.details
    names = {action: name for name, action in TRANSITION_ACTIONS.items()}
    fields = {
        "event_id": row.id,
        "transition": names.get(row.action, row.action),
        "scope": row.scope,
        "from_state": said.get("from_state"),
        "to_state": said.get("to_state"),
        "at": iso(row.timestamp),
        "by": row.user_id,
        "reason": said.get("reason"),
        "details": said.get("details"),
        "source": row.source,
        "ip_address": row.ip_address,
        "incident_id": row.incident_id,
        "epoch": said.get("epoch"),
    }
    return json.dumps({name: value for name, value in fields.items() if value is not None or name in _MAY_BE_NULL})


@dataclass(frozen=True, slots=True)
class StoredState:
    """What Redis held for a breaker at `at`, by Redis's clock. `raw` is None where there was no string."""

    raw: bytes | None
    kind: str
    at: datetime

    @property
    def fields(self) -> Mapping[str, Any]:
        """The stored state as it is written, or nothing if it is missing or can't be read."""
        if self.raw is None or read_status(self.raw, int(self.at.timestamp() * 1e6)).state is State.UNKNOWN:
            return {}
        return dict(json.loads(self.raw.decode("utf-8", "replace"), strict=False))

    @property
    def state(self) -> str:
        """The state as it is stored; MISSING, and UNKNOWN for what can't be read."""
        return MISSING if self.kind == "none" else str(self.fields.get("state", UNKNOWN))

    @property
    def digest(self) -> str:
        return self.kind if self.raw is None else hashlib.sha256(self.raw).hexdigest()

    def describe(self) -> dict[str, Any]:
        described: dict[str, Any] = {"state": self.state, "epoch": usable_count(self.fields.get("epoch"))}
        if self.raw is not None:
            described["stored"] = self.raw.decode("utf-8", "replace")[:_LONGEST_QUOTE]
        return {**described, "digest": self.digest}


def explains(last: AuditRow | None, stored: StoredState) -> bool:
    """Whether what Redis holds is what the last recorded word on the breaker left there."""
    if last is None:
        return stored.state == MISSING
    if last.action == OVERRIDE_DETECTED:
        return bool(last.details["after"].get("digest") == stored.digest)
    # Compared as the ledger keeps text, which is not always as it came.
    fields, said = plain(stored.fields), last.details
    expected = {"state": said["to_state"], "epoch": said["epoch"]}
    at = iso(last.timestamp)
    match last.action:
        case "CIRCUIT_BREAKER_TRIP":
            expected |= {"last_trip_at": at, "incident_id": last.incident_id}
            if said["from_state"] != State.TRIPPED:
                expected |= {"tripped_at": at, "trip_reason": said["reason"], "tripped_by": last.user_id}
        case "CIRCUIT_BREAKER_RESET":
            expected |= {"reset_at": at, "reset_by": last.user_id}
    return all(fields.get(name) == value for name, value in expected.items())


def override_record(last: AuditRow | None, stored: StoredState, scope: str) -> AuditRecord:
    """The record of a state that nothing explains. The same state after the same last word is the same override."""
    return _override(
        derived_id(OVERRIDE_DETECTED, scope, "" if last is None else last.id, stored.digest),
        scope,
        stored.at,
        before=None if last is None else StateAfter.of(last).describe(),
        after=stored.describe(),
        found_by="reconciliation",
        incident_id=_incident(stored.fields),
    )


@dataclass(frozen=True, slots=True)
class StateAfter:
    """The state in which a row leaves a breaker. `epoch` is None where the next one can't be told from it."""

    id: str
    state: str
    epoch: int | None

    @classmethod
    def of(cls, row: AuditRow | AuditRecord) -> Self:
        if row.action == OVERRIDE_DETECTED:
            return cls(row.id, str(row.details["after"]["state"]), None)
        return cls(row.id, str(row.details["to_state"]), row.details["epoch"])

    def describe(self) -> dict[str, Any]:
        return {"state": self.state, "epoch": self.epoch, "id": self.id}


def gap_before(last: StateAfter | None, record: AuditRecord) -> AuditRecord | None:
    """The override that must have happened between `last` and the transition `record`; None if they fit together."""
    said = record.details
    if _follows(last, record):
        return None
    return _override(
        derived_id(OVERRIDE_DETECTED, record.scope, "" if last is None else last.id, record.id),
        record.scope,
        record.timestamp,
        before=None if last is None else last.describe(),
        after={"state": said["from_state"], "epoch": None},
        found_by=record.id,
        incident_id=record.incident_id,
    )


def _follows(last: StateAfter | None, record: AuditRecord) -> bool:
    state = record.details["from_state"]
    if last is None:
        return bool(state == MISSING)
    # A quiet period that has run out reads as OPEN.
    if state != last.state and (last.state, state) != (State.QUIET_PERIOD, State.OPEN):
        return False
    # A forced initialisation, and any transition from what can't be read, begins a new count.
    counts_on = state not in (MISSING, UNKNOWN) and record.action != TRANSITION_ACTIONS["INITIALIZE"]
    return not counts_on or last.epoch is None or bool(record.details["epoch"] == last.epoch + 1)


def _override(
    override_id: str,
    scope: str,
    at: datetime,
    *,
    before: Mapping[str, Any] | None,
    after: Mapping[str, Any],
    found_by: str,
    incident_id: str | None,
) -> AuditRecord:
    return AuditRecord(
        id=override_id,
        action=OVERRIDE_DETECTED,
        timestamp=at,
        source="override",
        scope=scope,
        incident_id=incident_id,
        details={"before": before, "after": after, "found_by": found_by},
        # The state it left, so that the last word on a breaker is found without reading details.
        outcome=str(after["state"]),
    )


def _incident(fields: Mapping[str, Any]) -> str | None:
    found = fields.get("incident_id")
    return found if isinstance(found, str) and len(found) <= 64 else None
