"""What one cell showed, and which promises that breaks. No input or output: evidence in, sentences out."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from breaker import TransitionEvent
from ledger.record import AuditRow

FLAT, NOT_FLAT, NOT_HALTED = 0, 3, 4
"""Exit statuses of `breaker kill` (docs/explanation/independence.md)."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run of the command. `status` is None if it was killed; `overran`: it had to be, as it would not end."""

    status: int | None
    screen: str
    steps: Sequence[str]
    seconds: float
    overran: bool = False

    @property
    def without(self) -> list[str]:
        """What it said that it did without."""
        return [
            line.partition("done without")[2].strip() for line in self.screen.splitlines() if "done without" in line
        ]


@dataclass(frozen=True, slots=True)
class Facts:
    """What the servers and the disk hold at one moment, asked directly."""

    state: str
    trips: Sequence[TransitionEvent]
    """In Redis's history, oldest first."""
    rows: Sequence[AuditRow]
    broken_chain: str
    venue: Mapping[str, Any]
    told: int
    """Notifications that arrived."""
    in_prefect: bool
    """The run is there, ended, with its report."""
    waiting: bool
    """Records or trips wait on the disk."""

    @property
    def flat(self) -> bool:
        return bool(self.venue["is_flat"])

    def of(self, action: str) -> list[AuditRow]:
        return [row for row in self.rows if row.action == action]


@dataclass(frozen=True, slots=True)
class Evidence:
    """`left` is after the first run, with the fault healed and before anything was recorded late; `end` is the end."""

    component: str
    step: str
    killed: bool
    """The fault was to end the process."""
    hopeless: bool
    """The fault kept the venue away for as long as the process ran."""
    runs: Sequence[Run]
    left: Facts
    end: Facts

    @property
    def first(self) -> Run:
        return self.runs[0]


def broken_promises(seen: Evidence) -> list[str]:
    """Each as a sentence; none for a cell that is green."""
    checks = (_ended, _way_out, _truth, _never_worse, _nothing_unaudited)
    return [sentence for check in checks for sentence in check(seen)]


def _ended(seen: Evidence) -> list[str]:
    broken = [f"it did not end within {run.seconds:.0f} s" for run in seen.runs if run.overran]
    broken += ["a traceback on the screen" for run in seen.runs if "Traceback (most recent" in run.screen]
    if not seen.killed and seen.first.status not in (FLAT, NOT_FLAT, NOT_HALTED):
        broken.append(f"exit status {seen.first.status}")
    if seen.step not in seen.first.steps:
        broken.append(f"the step {seen.step} never began")
    return broken


def _way_out(seen: Evidence) -> list[str]:
    """Promise 5: flat at the first go, unless the venue or the process itself was gone; and then at the second."""
    broken = []
    if not seen.killed and not seen.hopeless and not seen.left.flat:
        broken.append(f"not flat: {seen.left.venue['positions']}, {seen.left.venue['open_orders']} orders")
    if not seen.killed and not seen.hopeless and seen.first.status == NOT_FLAT:
        broken.append("it could have been proven flat, and was not")
    if len(seen.runs) > 1 and seen.runs[-1].status != FLAT:
        broken.append(f"run again it ended with {seen.runs[-1].status}")
    if not seen.end.flat:
        broken.append("not flat in the end")
    if seen.end.state != "TRIPPED":
        broken.append(f"{seen.end.state} in the end")
    return broken


def _truth(seen: Evidence) -> list[str]:
    """Promises 5 and 7: the exit status says what is proven, the screen names what is missing."""
    run, left, broken = seen.first, seen.left, []
    if seen.killed:
        return []
    halted = left.state == "TRIPPED"
    if run.status == FLAT and not left.flat:
        broken.append("it said flat, and the venue doesn't")
    if run.status in (FLAT, NOT_FLAT) and not halted:
        broken.append(f"exit status {run.status}, but the breaker is {left.state}")
    if run.status == NOT_HALTED and (seen.component != "redis" or seen.step != "trip"):
        broken.append("exit status 4, although Redis was there for the trip")
    if run.status == NOT_HALTED and "COULD NOT HALT" not in run.screen:
        broken.append("exit status 4, and the screen doesn't say that it could not halt")
    named = run.screen.lower()
    # A trip that waits on the disk is what exit status 4 and COULD NOT HALT say.
    waiting = left.waiting and run.status != NOT_HALTED
    recorded = left.of("CIRCUIT_BREAKER_TRIP") and left.of("KILL_SWITCH_FINISHED") and not waiting
    for missing, *words in (
        (not recorded, "ledger", "audit records"),
        (not left.in_prefect, "prefect"),
        (not left.told, "pagerduty"),
        (run.status == NOT_FLAT, "paper"),
    ):
        if missing and not any(word in named for word in words):
            broken.append(f"the screen doesn't name what is missing: {words[0]}")
    return broken


def _never_worse(seen: Evidence) -> list[str]:
    """Promise 6, by the exchange's own record."""
    venue = seen.end.venue
    broken = list(venue["violations"])
    broken += [f"turned over: {change}" for change in venue["sign_changes"] if change["by"] == "client"]
    broken += [f"{count} closes of {symbol}" for symbol, count in venue["closes"].items() if count > 1]
    return broken


def _nothing_unaudited(seen: Evidence) -> list[str]:
    """Promise 8: every transition and every action once, the chain whole, nothing left behind."""
    end, broken = seen.end, []
    if end.broken_chain:
        broken.append(f"the ledger's chain: {end.broken_chain}")
    # A run that was killed before its trip made none and began none.
    begun = len(seen.runs) - (seen.killed and seen.step == "trip")
    trips = [event.event_id for event in end.trips]
    if len(trips) != begun:
        broken.append(f"{len(trips)} trips of {begun} runs")
    if sorted(row.id for row in end.of("CIRCUIT_BREAKER_TRIP")) != sorted(trips):
        broken.append(f"{len(end.of('CIRCUIT_BREAKER_TRIP'))} rows of {len(trips)} trips")
    if len(end.of("KILL_SWITCH_STARTED")) != begun:
        broken.append(f"{len(end.of('KILL_SWITCH_STARTED'))} rows say that one of {begun} kill switches started")
    ended = sum(run.status is not None for run in seen.runs)
    if not ended <= len(end.of("KILL_SWITCH_FINISHED")) <= len(seen.runs):
        broken.append(f"{len(end.of('KILL_SWITCH_FINISHED'))} rows say that one of {ended} kill switches ended")
    copies = Counter((row.action, row.timestamp, json.dumps(row.details, sort_keys=True)) for row in end.rows)
    broken += [f"{count} rows of one {action}" for (action, _, _), count in copies.items() if count > 1]
    closed = {row.details["symbol"] for row in end.of("POSITION_CLOSE_SENT")}
    broken += [f"no row of the close of {symbol}" for symbol in end.venue["closes"] if symbol not in closed]
    if end.waiting:
        broken.append("something still waits on the disk")
    return broken
