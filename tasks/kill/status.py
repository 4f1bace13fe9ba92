"""Show a run of the kill switch to everybody, in one value that travels as JSON. Pure."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cache
from typing import Literal

from pydantic import TypeAdapter

from tasks.kill.account import AccountProgress
from tasks.kill.cost import ExitCost, without_fills
from tasks.kill.report import RECORDED_LINES, AccountsTogether
from tasks.kill.run import KillRun

Verdict = Literal["RUNNING", "FLAT", "NOT FLAT", "DECLINED", "NOT KNOWN"]
SILENT = 10.0
"""Seconds after which a run that nothing was heard of is not known to go on."""
CLOSES = 60
"""The newest closes of an account that a status shows."""
COST_LINES = 60
"""The dearest lines of what the exit of an account cost that a status shows."""


@dataclass(frozen=True, slots=True)
class KillStatus(AccountsTogether):
    """Durations are seconds from the start of the run."""

    run_id: str
    incident_id: str
    event_id: str | None
    """Of the trip that began it."""
    scope: str
    operator: str
    reason: str
    source: str
    host: str
    started_at: datetime
    elapsed: float
    halted_after: float | None
    accounts: tuple[AccountProgress, ...]
    missing: tuple[str, ...]
    """Parts that it goes on without."""
    reported: bool
    """The result is known; what follows is only its record."""
    over: bool
    covered: tuple[str, ...] = ()
    """The accounts that it is about, also before anything is known of them."""
    asking: bool = False
    """Whoever asked for it has not confirmed it yet: nothing is cancelled or closed."""
    resuming: bool = False
    """Begun for pending exits, which are resumed by themselves."""
    declined: bool = False
    """Not confirmed by whoever asked for it: nothing was cancelled or closed."""
    costs: tuple[ExitCost, ...] = ()
    """What the exit cost, by account; none until it has been read."""
    problem: str = ""
    """Why nothing is flattened, or no longer."""
    halt_problem: str = ""
    unconfirmed: str | None = None
    """Why the trip is not known to outlive a crash of Redis."""
    covers: str = ""
    """What of which accounts it speaks of; empty of a run that did not tell."""
    unknown: str = ""
    closes_as: Mapping[str, str] = field(default_factory=dict)
    """By account, the incident that its closes are named by: whoever takes the run over names them alike."""
    silent_for: float = 0.0
    """Seconds for which nothing was heard of it."""

    @property
    def flat(self) -> bool:
        """Only once it is reported: fills may still come to an account that looks flat on the way."""
        return self.reported and self.every_account_flat

    @property
    def verdict(self) -> Verdict:
        if self.declined:
            return "DECLINED"
        if self.reported or self.over:
            return "FLAT" if self.flat else "NOT FLAT"
        return "RUNNING" if self.silent_for <= SILENT else "NOT KNOWN"

    def to_json(self) -> bytes:
        return _adapter().dump_json(self)

    @classmethod
    def from_json(cls, raw: bytes) -> KillStatus:
        """Raises ValueError."""
        return _adapter().validate_json(raw)


def kill_status(run: KillRun) -> KillStatus:
    report = run.report
    progress = run.progress.values() if report is None else report.accounts
    # Whoever has split off a share makes the report of all of it by this.
    whole = run.share is not None and report is not None
    closes, cost_lines = (None, RECORDED_LINES) if whole else (CLOSES, COST_LINES)
    return KillStatus(
        run_id=run.run_id,
        incident_id=run.incident_id,
        event_id=run.trip_event_id,
        scope=run.scope,
        operator=run.operator,
        reason=run.reason,
        source=run.source,
        host=socket.gethostname(),
        started_at=run.started_at,
        elapsed=run.elapsed if report is None else report.finished_after,
        halted_after=run.halted_after,
        accounts=tuple(
            account if closes is None else replace(account, closes=account.closes[-closes:]) for account in progress
        ),
        missing=tuple(run.missing),
        reported=report is not None,
        covers=str(run.coverage),
        unknown=run.unknown,
        over=False,
        covered=tuple(run.coverage.accounts),
        asking=run.asking,
        resuming=bool(run.resumes),
        declined=run.declined,
        closes_as={name: account.closes_as for name, account in run.accounts.items()},
        costs=() if report is None else tuple(without_fills(cost, cost_lines) for cost in report.costs),
    )


@cache
def _adapter() -> TypeAdapter[KillStatus]:
    return TypeAdapter(KillStatus)
