"""`python -m proofs.faults [ONLY]`: every fault suite, cell by cell, and docs/evidence/faults.md when all of it ran."""

from __future__ import annotations

import os
import platform
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from proofs.faults import kill_matrix, recovery_matrix
from proofs.faults.suites import Section, Suite

SUITES: Sequence[Suite] = (kill_matrix.run, recovery_matrix.run)
EVERYTHING = "*"
DOCUMENT = Path(__file__).parents[2] / "docs" / "evidence" / "faults.md"
HEAD = """\
# Pull any plug

Written by `make fault-matrix`, a part of `make faults`. It runs the real commands against real servers (Redis, \
PostgreSQL, Prefect, the paper exchange in a process of its own, a notification sink) and breaks one of them, in one \
way, at one moment. Each run is judged by the exchange's own record (flat, no close twice, none too large, no position \
turned over), by the ledger (its chain whole, each action on record exactly once), by the exit status and by the \
screen (each missing part named). What each fault is: proofs/faults/matrix.py and proofs/proxy.py; what is a \
broken promise: proofs/faults/judgement.py. One cell again: `make fault-matrix ONLY=redis/trip/hung`; several: \
`make fault-matrix ONLY='redis/*'`.
"""


def main(only: str) -> int:
    lock = threading.Lock()

    def say(text: str) -> None:
        with lock:
            print(text, flush=True)

    sections = [suite(only, say) for suite in SUITES]
    for section in sections:
        say(_summary(section))
    if only == EVERYTHING:
        DOCUMENT.write_text(_document(sections), encoding="utf-8")
        say(f"written: {DOCUMENT}")
    red = sum(section.red for section in sections)
    nothing_ran = not any(section.cells for section in sections)
    if nothing_ran:
        say(f"no cell is named {only!r}")
    return 1 if red or nothing_ran else 0


def _summary(section: Section) -> str:
    return f"{section.title}: {section.cells} cells, {section.red} red, in {section.seconds / 60:.1f} min"


def _document(sections: Sequence[Section]) -> str:
    machine = f"{os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"
    summary = "\n".join(f"- {_summary(section)}" for section in sections)
    body = "\n".join(f"## {section.title}\n\n{section.text}\n" for section in sections)
    return f"{HEAD}\nThe last run, {time.strftime('%Y-%m-%d', time.gmtime())}, {machine}:\n\n{summary}\n\n{body}"


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2] or [EVERYTHING]))
