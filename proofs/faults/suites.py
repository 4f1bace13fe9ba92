"""Define what `make fault-matrix` runs: suites of cells with verdicts, each a section of docs/evidence/faults.md."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

Say = Callable[[str], None]
"""Prints what belongs to one cell, at once; safe from any thread."""


@dataclass(frozen=True, slots=True)
class Section:
    """What a suite found. `text` is Markdown without a heading."""

    title: str
    text: str
    cells: int
    red: int
    seconds: float


class Suite(Protocol):
    """Runs those of its cells whose names match the pattern `only`, printing each as it ends."""

    def __call__(self, only: str, say: Say) -> Section: ...


def chosen(name: str, only: str) -> bool:
    """Whether a cell of this name is to run: `only` is a name, or a pattern such as `redis/*`."""
    return fnmatch.fnmatch(name, only)
