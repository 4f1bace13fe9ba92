"""The kill matrix: every step of the kill switch × every component × every kind of fault, a few cells at once."""

from __future__ import annotations

import itertools
import os
import queue
import tempfile
import threading
import time
import traceback
from collections.abc import Iterable, Sequence
from pathlib import Path

from tests.faults.cell import Outcome, can_drop_permissions, run_cell
from tests.faults.judgement import NOT_HALTED
from tests.faults.matrix import KINDS, STEPS, Cell, cells
from tests.faults.stack import Stack
from tests.faults.suites import Say, Section, chosen

STACKS = int(os.environ.get("STACKS", "3"))
"""Cells at once, each on servers of its own: most of a cell is waiting for something that never answers."""
LEGEND = """\
Rows are the steps at whose beginning the fault comes, columns the kinds of fault. `0.3 / 1.9` are the seconds from \
the start of the command until Redis had the trip and until the venue was flat. ✗ is a broken promise, named below the \
table. Kinds with a time end by themselves, all others last until the command has ended. Marks:

- *late*: the trip was kept on disk and made afterwards, exit status 4; gates had closed by their own leases meanwhile.
- *again*: the process was killed, or the venue away for as long as it ran (exit status 3); the same command was run \
once more, and the figures are those of both together.
- letters say what the command did without, named on the screen, and recorded later: **L** the ledger, \
**P** Prefect, **N** a notification, **D** the disk.
"""
_LETTERS = {"ledger": "L", "Prefect": "P", "notification": "N", "disk": "D"}


def run(only: str, say: Say) -> Section:
    began = time.monotonic()
    todo: queue.SimpleQueue[Cell] = queue.SimpleQueue()
    wanted = [cell for cell in cells() if chosen(cell.name, only)]
    if not can_drop_permissions():
        wanted = [cell for cell in wanted if not cell.needs_permissions]
        say("left out: read-only, as root can't give up its rights here (no user namespaces)")
    for cell in wanted:
        todo.put(cell)
    outcomes: list[Outcome] = []
    problems: list[str] = []
    workers = [
        threading.Thread(target=_work, args=(todo, outcomes, problems, say), daemon=True)
        for _ in range(min(STACKS, len(wanted)))
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    red = sum(bool(outcome.broken) for outcome in outcomes) + len(problems)
    return Section("The kill switch", _markdown(outcomes), len(outcomes), red, time.monotonic() - began)


def _work(todo: queue.SimpleQueue[Cell], outcomes: list[Outcome], problems: list[str], say: Say) -> None:
    """A stack, and cells on it until there are none; the servers end with this thread."""
    try:
        with tempfile.TemporaryDirectory(prefix="faults-") as directory, Stack(Path(directory)) as stack:
            while True:
                try:
                    cell = todo.get_nowait()
                except queue.Empty:
                    return
                outcome = run_cell(stack, cell)
                outcomes.append(outcome)
                say(str(outcome))
    except Exception:  # of the suite, not of the product; the other stacks go on
        problems.append(traceback.format_exc())
        say(problems[-1])


def _markdown(outcomes: Iterable[Outcome]) -> str:
    found = {(o.cell.component, o.cell.step, o.cell.kind.name): o for o in outcomes}
    parts = [LEGEND]
    for component, kinds in KINDS.items():
        names = [kind.name for kind in kinds]
        rows = [
            [step, *cells_of_row]
            for step in STEPS
            if any(cells_of_row := [_cell(found.get((component, step, name))) for name in names])
        ]
        parts += [f"### {component.capitalize()}", "", *_table(["", *names], rows), ""]
        parts += [
            f"- ✗ `{o.cell.name}`: {'; '.join(o.broken)}"
            for o in found.values()
            if o.cell.component == component and o.broken
        ]
    return "\n".join(parts)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = itertools.chain([head, ["---"] * len(head)], rows)
    return [f"| {' | '.join(line)} |" for line in lines]


def _cell(outcome: Outcome | None) -> str:
    if outcome is None:
        return ""
    first = outcome.evidence.first
    words = ["✗"] if outcome.broken else []
    words.append(f"{_seconds(outcome.halted)} / {_seconds(outcome.flat)}")
    words += ["*late*"] if first.status == NOT_HALTED else []
    words += ["*again*"] if len(outcome.evidence.runs) > 1 else []
    words += ["".join(letter for part, letter in _LETTERS.items() if part in outcome.without)]
    return " ".join(word for word in words if word)


def _seconds(value: float | None) -> str:
    return "—" if value is None else f"{value:.1f}"
