"""Keep, at the end of a run, what it leaves to be closed later, and forget what it has closed."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from brokers.coverage import Coverage
from configuration.settings import Settings
from tasks.kill.pending_exit_store import open_pending_exits
from tasks.kill.pending_exits import AccountExits, PendingExit, begun, is_covered, left_by, newer_than, over
from tasks.kill.report import KillReport
from tasks.kill.run import KillRun


@dataclass(slots=True)
class _Settled:
    pending: list[PendingExit] = field(default_factory=list)
    begun: list[PendingExit] = field(default_factory=list)
    over: list[PendingExit] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


async def settle_exits(run: KillRun, report: KillReport) -> KillReport:
    """The report with what is pending from now on. An exit that begins or is over has a record of its own.

    Whatever can't be kept is said in the report; a run without a configuration keeps nothing.
    """
    if run.configuration is None:
        return report
    settled = await asyncio.to_thread(_settle, run.configuration, report, run.coverage)
    for problem in settled.problems:
        run.record_missing(problem)
    for pending in settled.begun:
        resume_at = None if pending.resume_at is None else pending.resume_at.isoformat()
        run.record("PENDING_EXIT", **_named(pending), reason=pending.reason, resume_at=resume_at)
    for pending in settled.over:
        run.record("PENDING_EXIT_CLOSED", **_named(pending), since=pending.since.isoformat())
    return replace(report, pending_exits=tuple(settled.pending), missing=tuple(run.missing))


def _settle(settings: Settings, report: KillReport, coverage: Coverage) -> _Settled:
    """What the run did not cover stays pending as it was, whatever became of the rest."""
    now, settled = datetime.now(UTC), _Settled()
    with open_pending_exits(settings) as store:
        reading = store.read()
        for progress in report.accounts:
            known = reading.of(progress.account)
            before = tuple(pending for pending in known if is_covered(pending, coverage))
            others = tuple(pending for pending in known if pending not in before)
            after = left_by(progress, before, incident_id=report.incident_id, coverage=coverage, now=now)
            if not (before or after or reading.problems):
                continue
            # What can't be read may hold an exit that is over; a place that is away need not be told of nothing.
            problems = store.write(AccountExits(progress.account, newer_than(known, now), (*others, *after)))
            settled.problems += problems if before or after else []
            settled.pending += after
            settled.begun += begun(before, after)
            settled.over += over(before, after)
    return settled


def _named(pending: PendingExit) -> dict[str, str]:
    return {"account": pending.account, "symbol": pending.symbol, "quantity": f"{pending.quantity:f}"}
