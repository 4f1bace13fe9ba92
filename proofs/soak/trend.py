"""Whether what was sampled of a process grows. Pure: samples in, verdicts out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import median
from typing import Literal

Quantity = Literal["rss", "files", "connections", "threads", "children"]
MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at a process. `at` and `started` are seconds on one clock, `rss` is in bytes."""

    part: str
    pid: int
    started: float
    at: float
    rss: int
    files: int
    connections: int
    threads: int
    children: int


@dataclass(frozen=True, slots=True)
class Tolerance:
    """What the last third may have more than the first: a share of it, and an amount."""

    share: float
    amount: float


TOLERANCES: dict[Quantity, Tolerance] = {
    # An allocator keeps what its busiest moment needed.
    "rss": Tolerance(0.10, 16 * MIB),
    "files": Tolerance(0.10, 6),
    "connections": Tolerance(0.10, 4),
    "threads": Tolerance(0.10, 4),
    "children": Tolerance(0.0, 3),
}


@dataclass(frozen=True, slots=True)
class Trend:
    """How one quantity of one process went: medians of the first and the last third of its life after the warm-up."""

    part: str
    pid: int
    quantity: Quantity
    first: float
    last: float
    minutes: float
    grows: bool


def lives(samples: Iterable[Sample]) -> Iterator[list[Sample]]:
    """The samples of each process, oldest first: one that was restarted is another one, with a base line of its own."""
    ordered = sorted(samples, key=lambda sample: (sample.part, sample.started, sample.pid, sample.at))
    for _, life in groupby(ordered, key=lambda sample: (sample.part, sample.started, sample.pid)):
        yield list(life)


def trends(samples: Iterable[Sample], *, warm_up: float, least: int) -> list[Trend]:
    """Of every process with at least `least` samples that were taken `warm_up` seconds or more after its start."""
    found: list[Trend] = []
    for life in lives(samples):
        settled = [sample for sample in life if sample.at - sample.started >= warm_up]
        if len(settled) >= max(least, 3):
            found += [_trend(settled, quantity, tolerance) for quantity, tolerance in TOLERANCES.items()]
    return found


def _trend(life: Sequence[Sample], quantity: Quantity, tolerance: Tolerance) -> Trend:
    third = len(life) // 3
    values = [float(getattr(sample, quantity)) for sample in life]
    first, last = median(values[:third]), median(values[-third:])
    grows = last > first * (1 + tolerance.share) + tolerance.amount
    return Trend(life[0].part, life[0].pid, quantity, first, last, (life[-1].at - life[0].at) / 60, grows)
