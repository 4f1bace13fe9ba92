"""Every I/O of every procedure, killed before and after, started again; the table of docs."""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from random import Random

from proofs.crash_points.boundary import Point
from proofs.crash_points.campaign import Outcome, Trial, attempt_all, deaths, record
from proofs.crash_points.environment import CrashEnvironment
from proofs.crash_points.procedures import EVERY, Procedure
from sandbox.prefect_server import PrefectServer

DOCUMENT = Path(__file__).parents[2] / "docs" / "evidence" / "crash-points.md"
TOLD_EVERY = 100
"""Deaths; what fails is told at once."""

_DOCUMENT = """\
# Crash points

Written by `make crash-points` on {date}: {deaths} deaths in {minutes:.0f} minutes, {failed} of them with a broken
promise.

Each procedure is run once undisturbed, and every I/O in it is written down. Then, once for each side of each I/O, it is
begun anew in a fresh environment (book, Redis, ledger, state directory), killed with SIGKILL just before or just after
that I/O, and started again as an operator would: the same command, a new process. In the end must hold:

- the venue's own report: flat; no close larger than its position, nor two at work that together are; nothing turned
  over;
- Redis: the state that the procedure is for, every transition once, epochs without a gap, nothing left in the outbox;
- the ledger: a whole chain, each transition and each record that was anywhere on disk when the process died in exactly
  one row, no close at the venue that was not announced there first.

| procedure | I/O | deaths | not reached | failed | closed again | slowest to flat |
| --- | --- | --- | --- | --- | --- | --- |
{rows}

{failures}
*I/O* is what is tried of a run, *not reached* a death whose run ended without coming to it: I/O are named by
what they are and by which of the same they are, and how often some occur depends on timing. Such a run was started
again and judged all the same. *Closed again*: the first sweep of the second run cancelled a close that the first had at
work, so the rest of that position was closed by another one. *Slowest to flat* counts from the start of the first run.

*Kill, PostgreSQL*, *first kill of a host*, *kill under Prefect* and *kill, Redis down* try only what is different in
them. In *kill, host lost* the state directory goes with the process, and another host, with the same Redis, database
and accounts, is given the same command. What was only in the lost host's spool is lost with it; transitions are not,
and no close is doubled.

Counted is what a process sends, writes, syncs or names, where Python hands it over; statements of a database where
SQLAlchemy hands them over. What it receives changes nothing outside it: to die after an answer is to die before the
next thing it sends. Of Prefect's requests those count that make or change a flow run or an artifact. What
happens when Prefect, Redis or the database itself goes down is another matter: see
[what works with what down](../explanation/independence.md).

## What is counted

| procedure | I/O | times |
| --- | --- | --- |
{kinds}
"""


@dataclass
class Tally:
    """What came of one procedure's trials."""

    points: Sequence[Point]
    deaths: int
    """How many there are to try."""
    runs: int = 0
    unreached: int = 0
    closed_again: int = 0
    slowest: float = 0.0
    failed: list[Outcome] = field(default_factory=list)

    def add(self, outcome: Outcome) -> None:
        self.runs += 1
        self.unreached += not outcome.reached
        self.closed_again += outcome.closed_again > 0
        self.slowest = max(self.slowest, outcome.flat_after or 0.0)
        if outcome.faults:
            self.failed.append(outcome)


def main(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    procedures = [procedure for procedure in EVERY if not options.only or procedure.name in options.only]
    begun, tallies = time.monotonic(), dict[str, Tally]()
    with tempfile.TemporaryDirectory(prefix="crash-points-") as name, ExitStack() as stack:
        directory = Path(name)
        prefect_url = None
        if any(procedure.under_prefect for procedure in procedures):
            prefect_url = stack.enter_context(PrefectServer(directory / "prefect")).api_url
        open_environment = partial(CrashEnvironment, prefect_url=prefect_url)
        with open_environment(directory / "recording") as environment:
            trials = [trial for procedure in procedures for trial in _trials(environment, procedure, tallies)]
        Random(options.seed).shuffle(trials)  # so that what time does not allow is missing everywhere a little
        outcomes = attempt_all(
            trials, open_environment, directory, workers=options.workers, within=options.minutes * 60
        )
        for number, outcome in enumerate(outcomes, 1):
            tallies[outcome.trial.procedure.name].add(outcome)
            if number % TOLD_EVERY == 0:
                print(f"{number} of {len(trials)} deaths after {(time.monotonic() - begun) / 60:.1f} min", flush=True)
            for fault in outcome.faults:
                print(f"FAILED  {outcome.trial}: {fault}", flush=True)
    report = _report(tallies, time.monotonic() - begun)
    print(report)
    if options.write:
        DOCUMENT.write_text(report, encoding="utf-8")
    return 1 if any(tally.failed for tally in tallies.values()) else 0


def _trials(environment: CrashEnvironment, procedure: Procedure, tallies: dict[str, Tally]) -> list[Trial]:
    points = record(environment, procedure)
    trials = [Trial(procedure, death) for death in deaths(points)]
    tallies[procedure.name] = Tally(points, len(trials))
    print(f"{procedure.name}: {len(points)} points, {len(trials)} deaths", flush=True)
    return trials


def _report(tallies: Mapping[str, Tally], seconds: float) -> str:
    deaths = sum(tally.runs for tally in tallies.values())
    failed = [outcome for tally in tallies.values() for outcome in tally.failed]
    kinds = Counter(_kind(name, point) for name, tally in tallies.items() for point in tally.points)
    return _DOCUMENT.format(
        rows="\n".join(_row(name, tally) for name, tally in tallies.items()),
        deaths=deaths,
        failed=len(failed),
        failures="".join(f"- {outcome.trial}: {'; '.join(outcome.faults)}\n" for outcome in failed),
        kinds="\n".join(f"| {owner} | {label} | {count} |" for (owner, label), count in sorted(kinds.items())),
        minutes=seconds / 60,
        date=datetime.now(UTC).date(),
    )


def _row(name: str, tally: Tally) -> str:
    flat = f"{tally.slowest:.1f} s" if tally.slowest else "—"
    return (
        f"| {name} | {len(tally.points)} | {tally.runs} of {tally.deaths} | {tally.unreached} | {len(tally.failed)} "
        f"| {tally.closed_again} | {flat} |"
    )


def _kind(name: str, point: Point) -> tuple[str, str]:
    return name, point.label


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m proofs.crash_points", description=__doc__)
    parser.add_argument("--only", action="append", help="only this procedure; may be repeated")
    parser.add_argument("--minutes", type=float, default=math.inf, help="try no further death after so long")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--seed", type=int, default=1, help="of the order, and so of what is tried within `--minutes`")
    parser.add_argument("--write", action="store_true", help=f"write {DOCUMENT.name}")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
