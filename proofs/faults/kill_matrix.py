"""The kill matrix: every step of the kill switch × every component × every kind of fault, a few cells at once."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import queue
import sys
import tempfile
import time
import traceback
from collections.abc import Iterable, Iterator, Sequence
from multiprocessing.queues import Queue
from pathlib import Path

from proofs.faults.cell import Outcome, can_drop_permissions, run_cell
from proofs.faults.judgement import NOT_HALTED
from proofs.faults.matrix import KINDS, STEPS, Cell, cells
from proofs.faults.stack import Stack
from proofs.faults.suites import Say, Section, chosen

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
    wanted = {cell.name: cell for cell in cells() if chosen(cell.name, only)}
    if not can_drop_permissions():
        wanted = {name: cell for name, cell in wanted.items() if not cell.needs_permissions}
        say("left out: read-only, as root can't give up its rights here (no user namespaces)")
    outcomes = list(_outcomes(list(wanted), say))
    missing = len(wanted) - len(outcomes)
    if missing:
        say(f"{missing} cells never ran; see what is said above")
    red = sum(bool(outcome.broken) for outcome in outcomes) + missing
    return Section("The kill switch", _markdown(outcomes), len(wanted), red, time.monotonic() - began)


def _outcomes(names: Sequence[str], say: Say) -> Iterator[Outcome]:
    """Each cell's outcome as it comes; a stack that breaks down leaves its cell out."""
    context = multiprocessing.get_context("spawn")
    todo, done = context.Queue(), context.Queue()
    for name in [*names, *[None] * STACKS]:
        todo.put(name)
    workers = [context.Process(target=_work, args=(todo, done), daemon=True) for _ in range(min(STACKS, len(names)))]
    for worker in workers:
        worker.start()
    while any(worker.is_alive() for worker in workers) or not done.empty():
        try:
            outcome: Outcome = done.get(timeout=1)
        except queue.Empty:
            continue
        say(str(outcome))
        yield outcome


def _work(todo: Queue[str | None], done: Queue[Outcome]) -> None:
    """A process with a stack, and cells on it until there are none. A cell that breaks the stack is left out."""
    known = {cell.name: cell for cell in cells()}
    name: str | None = ""
    while name is not None:
        with tempfile.TemporaryDirectory(prefix="faults-") as directory, Stack(Path(directory)) as stack:
            try:
                while (name := todo.get()) is not None:
                    done.put(run_cell(stack, known[name]))
            except Exception:
                sys.stderr.write(f"{name} broke the suite itself:\n{traceback.format_exc()}")


def _markdown(outcomes: Iterable[Outcome]) -> str:
    found = {outcome.name: outcome for outcome in outcomes}
    parts = [LEGEND]
    for component, kinds in KINDS.items():
        rows = [
            [step, *row]
            for step in STEPS
            if any(row := [_cell(found.get(Cell(component, step, kind).name)) for kind in kinds])
        ]
        parts += [f"### {component.capitalize()}", "", *_table(["", *(kind.name for kind in kinds)], rows), ""]
        broken = [
            f"- ✗ `{outcome.name}`: {'; '.join(outcome.broken)}"
            for outcome in found.values()
            if outcome.evidence.component == component and outcome.broken
        ]
        parts += [*broken, ""] if broken else []
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
