"""Which promises a case broke, by what the venue, Redis and the ledger say in the end. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from proofs.crash_points.forks import Ended
from proofs.crash_points.procedures import Procedure


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    venue: Mapping[str, Any]
    """The exchange's own report."""
    state: str
    transitions: Sequence[Mapping[str, Any]]
    """The breaker's history, oldest first."""
    rows: Sequence[Mapping[str, Any]]
    """The ledger."""
    chain: str
    """What is wrong with the ledger; empty if nothing is."""
    waiting: int
    """Transitions in the outbox, records in spools and pending trips, on what is left of the environment."""
    kept: frozenset[str]
    """Ids of what was on record anywhere when the first run died, without what was lost with its host."""


def faults(procedure: Procedure, evidence: Evidence, again: Ended) -> list[str]:
    """Each as a sentence; none if every promise was kept."""
    found = (
        [] if again.status in procedure.statuses else [f"run again, it ended with {again.status}: {again.last_line}"]
    )
    if procedure.flattens:
        found += _at_the_venue(procedure, evidence)
    return found + _in_redis(procedure, evidence) + _on_record(evidence)


def closes_repeated(venue: Mapping[str, Any]) -> int:
    """Symbols that took more than one close: the first sweep of the second run cancels those of the first."""
    return sum(count > 1 for count in venue["closes"].values())


def _at_the_venue(procedure: Procedure, evidence: Evidence) -> list[str]:
    venue = evidence.venue
    found = [*venue["violations"], *(f"turned over: {change}" for change in venue["sign_changes"])]
    if not venue["is_flat"]:
        found.append(f"not flat: {venue['positions']}, {venue['open_orders']} open orders")
    announced = {row["details"]["client_order_id"] for row in evidence.rows if row["action"] == "POSITION_CLOSE_SENT"}
    taken = sum(venue["closes"].values())
    if taken > len(announced) and not procedure.host_lost:  # whose spool may have held them
        found.append(f"the venue took {taken} closes, on record are {len(announced)}")
    return found


def _in_redis(procedure: Procedure, evidence: Evidence) -> list[str]:
    found = []
    if evidence.state not in procedure.states_after:
        found.append(f"the breaker is {evidence.state}, not {' or '.join(procedure.states_after)}")
    epochs = [transition["epoch"] for transition in evidence.transitions]
    if epochs != list(range(epochs[0], epochs[0] + len(epochs))):
        found.append(f"epochs with a gap: {epochs}")
    made = Counter(transition["transition"] for transition in evidence.transitions)
    if "QUIET_PERIOD" in procedure.states_after and made["RESET"] != 1:
        found.append(f"{made['RESET']} resets")
    if procedure.pending_before and made["TRIP"] != 1:
        found.append(f"the pending trip was made {made['TRIP']} times")
    return found


def _on_record(evidence: Evidence) -> list[str]:
    found = [evidence.chain] if evidence.chain else []
    times = Counter(row["id"] for row in evidence.rows)
    found += [f"a record has {count} rows" for count in times.values() if count > 1]
    unrecorded = [t["transition"] for t in evidence.transitions if t["event_id"] not in times]
    found += [f"a {transition} is in no row" for transition in unrecorded]
    if lost := evidence.kept - set(times):
        found.append(f"{len(lost)} records that there were when it died are in no row")
    if evidence.waiting:
        found.append(f"{evidence.waiting} records still wait")
    strange = {row["action"] for row in evidence.rows if row["action"].endswith(("UNREADABLE", "OVERRIDE_DETECTED"))}
    return found + [f"recorded as {action}" for action in sorted(strange)]
