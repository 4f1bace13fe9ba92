"""Which promises a case broke, by what the venue, Redis, the ledger and the engine's gates say in the end. Pure."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from breaker import TransitionEvent
from breaker.events import Transition
from ledger.record import AuditRow

Stretch = tuple[int, float, float]
"""For how many replicas a gate waits, and the Unix time of the first and the last order that it let through."""
_LETS_GO: Final = (Transition.RESET, Transition.INITIALIZE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Of one case, after everything was healed and what waited was delivered."""

    state: str
    history: Sequence[TransitionEvent]
    """Since its beginning, oldest first."""
    rows: Sequence[AuditRow]
    """Of the ledger, since its beginning."""
    chain: str
    """What is wrong with the ledger; empty if nothing is."""
    waiting: int
    """Records and trips that still wait on a disk or in Redis."""
    stretches: Sequence[Stretch]
    venue: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kill:
    """`said` is the document that the command printed, if it lived to print one."""

    flat_meanwhile: bool
    """Before anything was healed."""
    said: Mapping[str, Any]
    facts: Facts


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovery:
    incident_id: str
    approver: str
    approved_at: float
    """Unix time of the first approval; infinite if there was none."""
    missed: Sequence[str]
    """Phases that it never came to."""
    ended: str
    """How it stood when it was left: `OPEN`, `begun anew`, `asks`, or nothing of these: what it was at."""
    facts: Facts


def broken_by_kill(seen: Kill, staleness: float) -> list[str]:
    """Each as a sentence; none if every promise was kept."""
    facts = seen.facts
    broken = [] if seen.flat_meanwhile else ["not flat while it lasted"]
    if not facts.venue["is_flat"]:
        broken.append(f"not flat in the end: {facts.venue['positions']}, {facts.venue['open_orders']} orders")
    broken += facts.venue["violations"]
    broken += [f"turned over: {change}" for change in facts.venue["sign_changes"] if change["by"] == "client"]
    sent = {row.details["client_order_id"] for row in facts.rows if row.action == "POSITION_CLOSE_SENT"}
    if (taken := sum(facts.venue["closes"].values())) > len(sent):
        broken.append(f"the venue took {taken} closes, on record are {len(sent)}")
    if facts.state != "TRIPPED":
        broken.append(f"the breaker is {facts.state} in the end")
    tripped = {event.incident_id for event in facts.history if event.transition is Transition.TRIP}
    if seen.said.get("halted") and seen.said.get("unconfirmed") is None and seen.said.get("incident_id") not in tripped:
        broken.append("a confirmed trip is gone")
    if not any(row.action == "KILL_SWITCH_STARTED" for row in facts.rows):
        broken.append("no row says that a kill switch started")
    return broken + _on_record(facts) + late_admissions(facts, staleness)


def broken_by_recovery(seen: Recovery, staleness: float) -> list[str]:
    """Each as a sentence; none if every promise was kept."""
    facts = seen.facts
    broken = [f"it never came to {phase}" for phase in seen.missed]
    if seen.ended not in ("OPEN", "begun anew", "asks"):
        broken.append(f"it did not go on: {seen.ended}")
    order = " ".join(event.transition for event in facts.history if event.incident_id == seen.incident_id)
    if not re.fullmatch(r"TRIP( TRIP)*( RESET( TRIP)*)?( QUIET_PERIOD_END)?", order):
        broken.append(f"the transitions were {order}")
    for event in facts.history:
        if event.transition is Transition.RESET and event.by != seen.approver:
            broken.append(f"reset by {event.by}, whom nobody knows")
        if event.transition is Transition.RESET and event.at.timestamp() < seen.approved_at:
            broken.append("reset before anybody approved it")
    return broken + _on_record(facts) + late_admissions(facts, staleness)


def late_admissions(facts: Facts, staleness: float) -> list[str]:
    """Orders that a gate let through later than `staleness` after a trip, and before anything let go again."""
    broken = []
    for begins, ends in _halts(facts.history):
        late = [
            (number, last - begins)
            for number, first, last in facts.stretches
            if first < ends and min(last, ends) > begins + staleness
        ]
        broken += [
            f"a gate that waits for {number} replicas let orders through until {seconds:.2f} s after a trip"
            for number, seconds in late
        ]
    return broken


def _halts(history: Iterable[TransitionEvent]) -> list[tuple[float, float]]:
    """From when until when each trip held, in Unix time."""
    halts: list[tuple[float, float]] = []
    since: float | None = None
    for event in history:
        if event.transition is Transition.TRIP and since is None:
            since = event.at.timestamp()
        elif event.transition in _LETS_GO and since is not None:
            halts.append((since, event.at.timestamp()))
            since = None
    return halts if since is None else [*halts, (since, float("inf"))]


def _on_record(facts: Facts) -> list[str]:
    broken = [facts.chain] if facts.chain else []
    times = Counter(row.id for row in facts.rows)
    broken += [
        f"{times[event.event_id]} rows of the {event.transition} of epoch {event.epoch}"
        for event in facts.history
        if times[event.event_id] != 1
    ]
    copies = Counter((row.action, row.timestamp, json.dumps(row.details, sort_keys=True)) for row in facts.rows)
    broken += [f"{count} rows of one {action}" for (action, _, _), count in copies.items() if count > 1]
    strange = {row.action for row in facts.rows if row.action.endswith(("UNREADABLE", "OVERRIDE_DETECTED"))}
    broken += [f"recorded as {action}" for action in sorted(strange)]
    if facts.waiting:
        broken.append(f"{facts.waiting} records still wait")
    return broken
