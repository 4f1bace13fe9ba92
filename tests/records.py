"""Make records as Redis, the ledger and a kill switch tell them; what a test doesn't care about is filled in."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from breaker import TransitionEvent
from breaker.events import Transition
from breaker.uuid7 import uuid7
from ledger.record import AuditRow
from tasks.kill.status import KillStatus


def audit_row(action: str, at: datetime, details: Mapping[str, Any], **more: Any) -> AuditRow:
    """A row of the audit log, written at once."""
    usual: dict[str, Any] = {
        "seq": 1,
        "id": uuid7(),
        "user_id": "ada",
        "ip_address": None,
        "source": "cli",
        "scope": "global",
        "incident_id": None,
        "flow_run_id": None,
        "outcome": "OK",
        "prev_hash": "",
        "hash": "",
    }
    return AuditRow(action=action, timestamp=at, recorded_at=at, details=details, **{**usual, **more})


def transition_event(what: Transition, at: datetime, **more: Any) -> TransitionEvent:
    """A transition of the breaker `global`, to TRIPPED unless told otherwise."""
    usual: dict[str, Any] = {
        "event_id": uuid7(),
        "scope": "global",
        "from_state": "OPEN",
        "to_state": "TRIPPED",
        "by": "ada",
        "reason": "MANUAL",
        "details": {},
        "source": "cli",
        "ip_address": None,
        "incident_id": None,
        "epoch": 2,
        "raw": "",
    }
    return TransitionEvent(transition=what, at=at, **{**usual, **more})


def kill_at_work(**more: Any) -> KillStatus:
    """A run of the kill switch that has begun and not ended."""
    usual: dict[str, Any] = {
        "run_id": "1",
        "incident_id": "one",
        "event_id": None,
        "scope": "global",
        "operator": "ada",
        "reason": "drill",
        "source": "cli",
        "host": "elsewhere",
        "started_at": datetime(2026, 1, 5, tzinfo=UTC),
        "elapsed": 1.0,
        "halted_after": None,
        "accounts": (),
        "missing": (),
        "reported": False,
        "over": False,
    }
    return KillStatus(**{**usual, **more})
