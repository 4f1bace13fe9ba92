"""`make soak`: drills on the whole stack while it breaks, and whether anything leaks, is lost or is left open."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
import threading
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from proofs.soak.drills import Driller
from proofs.soak.faults import Faults, plan
from proofs.soak.ledger_checks import check_ledger
from proofs.soak.report import Findings, as_markdown
from proofs.soak.sampler import Sampler
from proofs.soak.stack import Stack
from proofs.soak.trend import trends

LAST_DRILL = 900.0
"""Seconds that the drill under way at the end may still take."""


def main() -> int:
    """0 when the soak passed, 1 otherwise."""
    options = argparse.ArgumentParser(prog="make soak", description=__doc__)
    options.add_argument("--seconds", type=float, default=3600.0)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--sample-every", type=float, default=30.0)
    options.add_argument("--warm-up", type=float, default=180.0)
    options.add_argument("--recover-every", type=int, default=5)
    options.add_argument("--keep", type=Path, help="a new folder for logs and data; a temporary one unless given")
    options.add_argument("--write", type=Path, help="where to keep the report")
    given = options.parse_args()
    try:
        return _run(given)
    except KeyboardInterrupt:
        print("Broken off; everything that the soak started is gone.")
        return 130


def _run(given: argparse.Namespace) -> int:
    # Both, as a process that a script starts in the background inherits an ignored Ctrl-C.
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.default_int_handler)
    if given.keep is not None:
        given.keep.mkdir(parents=True)
        found = _soak(given, given.keep.absolute())
    else:
        with tempfile.TemporaryDirectory(prefix="breaker-soak-", ignore_cleanup_errors=True) as home:
            found = _soak(given, Path(home))
    text = as_markdown(found)
    print(text)
    if given.write is not None:
        given.write.write_text(text, encoding="utf-8")
    return 0 if found.passed else 1


def _soak(given: argparse.Namespace, home: Path) -> Findings:
    stack = Stack(home)
    begun_at = datetime.now(UTC)
    try:
        stack.start()
        begun = time.monotonic()
        sampler, driller, faults = (
            Sampler(stack, given.sample_every),
            Driller(stack, given.seed, given.recover_every),
            Faults(stack),
        )
        drilling = threading.Thread(target=_drill_until, args=(driller, begun + given.seconds, home), daemon=True)
        sampler.start()
        drilling.start()
        # In this thread, as what it starts again ends with the thread that did.
        for fault in plan(given.seed, given.seconds):
            while time.monotonic() < begun + fault.at:
                time.sleep(min(0.5, max(0.0, begun + fault.at - time.monotonic())))
                faults.restart_what_ended()
            faults.make(fault)
        drilling.join(max(0.0, begun + given.seconds - time.monotonic()) + LAST_DRILL)
        problems = [*faults.problems, *(["the last drill does not end"] if drilling.is_alive() else [])]
        faults.restart_what_ended()
        sampler.stop()
        rows, verified, wrong = check_ledger(stack)
        seconds = time.monotonic() - begun
    finally:
        stack.stop()
    left = [f"still running: {command}" for command in stack.left_running()]
    with (home / "samples.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(asdict(sample)) + "\n" for sample in sampler.samples)
    return Findings(
        begun_at=begun_at,
        seconds=seconds,
        seed=given.seed,
        drills=driller.done,
        faults=faults.made,
        ended_alone=faults.ended_alone,
        samples=len(sampler.samples),
        trends=trends(sampler.samples, warm_up=given.warm_up, least=12),
        rows=rows,
        verified=verified,
        problems=[*problems, *wrong, *left],
    )


def _drill_until(driller: Driller, until: float, home: Path) -> None:
    """Each drill is told when it is over, so that a soak can be followed and one that is broken off still says much."""
    with (home / "drills.jsonl").open("a", encoding="utf-8") as file:
        while time.monotonic() < until:
            line = json.dumps(asdict(driller.drill()))
            file.write(line + "\n")
            file.flush()
            sys.stderr.write(line + "\n")


if __name__ == "__main__":
    sys.exit(main())
