"""Run the suite again and again on a machine that is otherwise busy, and tell which tests depend on how fast it is."""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4
from xml.etree import ElementTree

import psutil

from sandbox.child_process import spawn

ROOT = Path(__file__).parents[1]
SPIN = "while True: pass"
MARK = "FLAKY_RUN"
"""An environment variable that everything a run starts inherits, so that what it leaves behind can be found."""


@dataclass(frozen=True, slots=True)
class Run:
    """`failed`: the tests that did; a run without an end of its own failed as a whole."""

    passed: int
    failed: tuple[str, ...]
    seconds: float
    left: tuple[str, ...]
    """Command lines of what was still running after it."""

    @property
    def clean(self) -> bool:
        return not self.failed and not self.left

    def __str__(self) -> str:
        left = f", {len(self.left)} processes left running" if self.left else ""
        return f"{self.passed} passed, {len(self.failed)} failed{left}, {self.seconds:.0f} s"


def main() -> int:
    arguments = _arguments()
    runs: list[Run] = []
    with _busy(arguments.busy):
        for number in range(1, arguments.times + 1):
            runs.append(_run(arguments.pytest, 60 * arguments.minutes))
            print(f"run {number} of {arguments.times}: {runs[-1]}", flush=True)
            for name in (*runs[-1].failed, *runs[-1].left):
                print(f"    {name}", flush=True)
    print(_summary(runs))
    return 0 if all(run.clean for run in runs) else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make flaky", description=__doc__)
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--minutes", type=float, default=30, help="a run may take; then it is ended, and has failed")
    parser.add_argument("--busy", type=int, default=os.cpu_count() or 1, help="processes that only take time")
    parser.add_argument("pytest", nargs="*", help="what pytest is given, after --")
    return parser.parse_args()


@contextlib.contextmanager
def _busy(processes: int) -> Iterator[None]:
    spinning = [spawn([sys.executable, "-c", SPIN]) for _ in range(processes)]
    try:
        yield
    finally:
        for each in spinning:
            each.kill()
            each.wait()


def _run(arguments: Sequence[str], limit: float) -> Run:
    mark, begun = uuid4().hex, time.monotonic()
    with tempfile.TemporaryDirectory(prefix="flaky-") as home:
        report, log = Path(home) / "report.xml", Path(home) / "log"
        command = [sys.executable, "-m", "pytest", *arguments, "-p", "no:cacheprovider", f"--junit-xml={report}"]
        with log.open("wb") as output:
            process = subprocess.Popen(
                command, cwd=ROOT, env={**os.environ, MARK: mark}, stdout=output, stderr=subprocess.STDOUT
            )
            try:
                process.wait(limit)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            finally:
                left = _end_all(mark)
        seconds = time.monotonic() - begun
        passed, failed = _read(report) if report.exists() else (0, ())
        if process.returncode and not failed:
            failed = (f"the run itself ended with {process.returncode}: {_tail(log)}",)
    return Run(passed, failed, seconds, left)


def _read(report: Path) -> tuple[int, tuple[str, ...]]:
    """How many passed, and the names of those that did not."""
    passed, failed = 0, []
    for case in ElementTree.parse(report).iter("testcase"):
        if case.find("failure") is not None or case.find("error") is not None:
            failed.append(f"{case.get('classname')}::{case.get('name')}")
        elif case.find("skipped") is None:
            passed += 1
    return passed, tuple(failed)


def _tail(log: Path) -> str:
    return " | ".join(log.read_text(errors="replace").splitlines()[-3:])


def _end_all(mark: str) -> tuple[str, ...]:
    """End whatever the run has left running, and say what that was."""
    left = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):  # it ended meanwhile, or is another user's
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                left.append(" ".join(process.cmdline()))
                process.kill()
    return tuple(left)


def _summary(runs: Sequence[Run]) -> str:
    counts = Counter(name for run in runs for name in run.failed)
    durations = sorted(run.seconds for run in runs)
    lines = [f"{sum(run.clean for run in runs)} of {len(runs)} runs clean"]
    if durations:
        lines[0] += f"; {durations[0]:.0f} to {durations[-1]:.0f} s each"
    lines += [f"{count:>4} × {name}" for name, count in counts.most_common()]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
