"""Judge what a kill switch could not close: it keeps a breaker from being reset, and somebody has to be at it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from breaker.keys import GLOBAL
from configuration.settings import Settings
from tasks.checks.measurement import Colour, Measurement
from tasks.checks.probe import Probe
from tasks.kill.pending_exit_store import Reading, read_pending_exits
from tasks.kill.pending_exits import OVERDUE_AFTER, PendingExit, overdue

CONDITION = "position-sizes/pending-exits"
"""By its first part it belongs to the checklist's item about positions."""
CHECK = "pending-exits"
_NAMED = 5


async def measure_pending_exits(settings: Settings, scope: str = GLOBAL) -> Measurement:
    """Red while anything is pending for the breaker of `scope`: reset, nobody would close it any more."""
    reading = await asyncio.to_thread(read_pending_exits, settings)
    return judge_pending_exits(reading, reading.of_scope(scope))


def judge_pending_exits(reading: Reading, exits: Sequence[PendingExit]) -> Measurement:
    probe = Probe(CONDITION, "none", "what kill switches have left, in Redis and on this host")
    if exits:
        problem = "Wait until it is closed, or override: that drops it, with the override's reason."
        return probe.measured(_value(exits), Colour.RED, problem)
    if reading.problems:
        return probe.failed(f"It can't be told whether anything is pending: {'; '.join(reading.problems)}.")
    return probe.measured("none")


async def check_pending_exits(settings: Settings) -> Measurement:
    """Of every breaker, for the scheduled verification: yellow while pending, red when nobody is at it."""
    reading = await asyncio.to_thread(read_pending_exits, settings)
    return judge_overdue(reading, datetime.now(UTC))


def judge_overdue(reading: Reading, now: datetime) -> Measurement:
    probe = Probe(CHECK, f"tried again within {_minutes(OVERDUE_AFTER)}", "what kill switches have left")
    late = overdue(reading.exits, now)
    if late:
        longest = max(now - pending.next_try for pending in late)
        problem = (
            f"Due for {_minutes(longest)}: {_named(late)}. Nobody resumes it: start `python -m services.serve` or "
            "`breaker standby`, or run `breaker kill --resume`."
        )
        return probe.measured(_value(reading.exits), Colour.RED, problem)
    if reading.exits:
        problem = f"To be closed by itself: {'; '.join(str(pending) for pending in reading.exits[:_NAMED])}."
        return probe.measured(_value(reading.exits), Colour.YELLOW, problem)
    if reading.problems:
        problem = f"It can't be told whether anything is pending: {'; '.join(reading.problems)}."
        return probe.measured("not all readable", Colour.YELLOW, problem)
    if reading.elsewhere:
        return probe.measured("none here", Colour.YELLOW, f"{'; '.join(reading.elsewhere[:_NAMED])}.")
    return probe.measured("none")


def _value(exits: Sequence[PendingExit]) -> str:
    return f"{len(exits)} pending: {_named(exits)}"


def _named(exits: Sequence[PendingExit]) -> str:
    more = f" and {len(exits) - _NAMED} more" if len(exits) > _NAMED else ""
    return ", ".join(pending.what for pending in exits[:_NAMED]) + more


def _minutes(span: timedelta) -> str:
    return f"{span.total_seconds() / 60:.0f} min"
