"""Kill the kill switch at each I/O with a stop under every position, and measure what has neither stop nor close."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from proofs.crash_points.campaign import Outcome, Trial, attempt_all, deaths, record
from proofs.crash_points.environment import CrashEnvironment
from proofs.crash_points.exposure import CLOSE_TAKES
from proofs.crash_points.procedures import KILL_PROTECTED, LAST_RESORT_PROTECTED
from tasks.kill.plan import LET_GO_AT_ONCE

DOCUMENT = Path(__file__).parents[2] / "docs" / "evidence" / "stops.md"
TOLD_EVERY = 50

_DOCUMENT = """\
# Stops while positions are closed

Written by `make stops` on {date}: {deaths} deaths in {minutes:.0f} minutes, {failed} of them with a broken promise;
tried {which}.

A venue refuses a close of what a stop holds, so the stop goes first, and for a moment its position has neither. Here
each of three positions has a stop for all of it, and the venue takes {takes:g} s from a close's entry to its fill. The
kill switch is killed with SIGKILL just before and just after each of its I/O, and run again to flat. The exchange's own
record says for each position when it was open while neither a stop nor a close worked for all of it.

| procedure | I/O | deaths | failed | longest in a run that lived | died in between | longest then |
| --- | --- | --- | --- | --- | --- | --- |
{rows}

{failures}
*In a run that lived*: from the stop's end to the close's entry; a fault if it is longer than the close itself takes.
*Died in between*: deaths after a stop was gone and before its close was there. Nobody can close then but the next run,
so the time is what the first lived to see and what the second took from its start; in between the process was dead. At
most {let_go} positions can be in that state, whatever the size of the book: no more stops are let go at once. A fault
too is a position that was without twice, as a run that takes back a close of the run before would make it.
"""


@dataclass(slots=True)
class _Tally:
    points: int
    deaths: int
    outcomes: list[Outcome] = field(default_factory=list)

    @property
    def failed(self) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if outcome.faults]


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m proofs.crash_points.stops", description=__doc__)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--every", type=int, default=1, help="try each so-manieth death only")
    parser.add_argument("--write", action="store_true", help=f"write {DOCUMENT.name}")
    options = parser.parse_args(arguments)
    begun, tallies, trials = time.monotonic(), dict[str, _Tally](), list[Trial]()
    with tempfile.TemporaryDirectory(prefix="stops-") as name:
        directory = Path(name)
        with CrashEnvironment(directory / "recording") as environment:
            for procedure in (KILL_PROTECTED, LAST_RESORT_PROTECTED):
                points = record(environment, procedure)
                chosen = deaths(points)[:: options.every]
                tallies[procedure.name] = _Tally(len(points), len(chosen))
                trials += [Trial(procedure, death) for death in chosen]
                print(f"{procedure.name}: {len(points)} points, {len(chosen)} deaths", flush=True)
        outcomes = attempt_all(trials, CrashEnvironment, directory, workers=options.workers)
        for number, outcome in enumerate(outcomes, 1):
            tallies[outcome.trial.procedure.name].outcomes.append(outcome)
            if number % TOLD_EVERY == 0:
                print(f"{number} of {len(trials)} deaths after {(time.monotonic() - begun) / 60:.1f} min", flush=True)
            for fault in outcome.faults:
                print(f"FAILED  {outcome.trial}: {fault}", flush=True)
    report = _report(tallies, time.monotonic() - begun, options.every)
    print(report)
    if options.write:
        DOCUMENT.write_text(report, encoding="utf-8")
    return 1 if any(tally.failed for tally in tallies.values()) else 0


def _report(tallies: dict[str, _Tally], seconds: float, every: int) -> str:
    failed = [outcome for tally in tallies.values() for outcome in tally.failed]
    return _DOCUMENT.format(
        date=datetime.now(UTC).date(),
        deaths=sum(len(tally.outcomes) for tally in tallies.values()),
        minutes=seconds / 60,
        which="was every death" if every == 1 else f"was one death of {every}",
        failed=len(failed),
        takes=CLOSE_TAKES,
        rows="\n".join(_row(name, tally) for name, tally in tallies.items()),
        failures="".join(f"- {outcome.trial}: {'; '.join(outcome.faults)}\n" for outcome in failed),
        let_go=LET_GO_AT_ONCE,
    )


def _row(name: str, tally: _Tally) -> str:
    seen = [outcome.exposure for outcome in tally.outcomes]
    left = [each for each in seen if each.left_behind]
    longest = max((each.longest for each in seen), default=0.0)
    then = f"{max(each.longest_left for each in left) * 1000:.0f} ms" if left else "—"
    return (
        f"| {name} | {tally.points} | {len(tally.outcomes)} of {tally.deaths} | {len(tally.failed)} "
        f"| {longest * 1000:.0f} ms | {len(left)} | {then} |"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
