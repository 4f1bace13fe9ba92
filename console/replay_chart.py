"""Draw what a replayed rule would have heard: a line, its limit and each trip, as numbers for SVG. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from statistics import median_low

from tasks.rules_replay import Measured

WIDTH, HEIGHT = 900, 280
_LEFT, _RIGHT, _TOP, _BOTTOM = 78, 12, 12, 28
_MOST_PARTS = 120
_TIMES = 4
_GAP = 3
"""Readings that many times their usual distance apart have something missing between them."""


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the time, as the chart and the table beside it show it."""

    since: datetime
    until: datetime
    """When the first and the last reading in it were."""
    highest: Decimal
    trips: int
    """How often the rule would have tripped in it."""
    place: int
    """Which one it is of equal parts; some have no reading."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A position in the drawing, with what is written there."""

    x: float
    y: float
    text: str


@dataclass(frozen=True, slots=True)
class Chart:
    """Positions in a drawing of WIDTH by HEIGHT."""

    line: str
    """An SVG path; it has a gap where nothing was recorded."""
    limit: Mark
    trips: tuple[Mark, ...]
    times: tuple[Mark, ...]
    values: tuple[Mark, ...]
    left: int = _LEFT
    right: int = WIDTH - _RIGHT
    top: int = _TOP
    bottom: int = HEIGHT - _BOTTOM


def parts_of(measured: Sequence[Measured], most: int = _MOST_PARTS) -> list[Part]:
    """`measured`, which is not empty, in at most so many parts of equal length; empty ones are left out."""
    begin, length = measured[0].at, measured[-1].at - measured[0].at
    found: dict[int, list[Measured]] = {}
    for each in measured:
        place = min(int(most * ((each.at - begin) / length)), most - 1) if length > timedelta() else 0
        found.setdefault(place, []).append(each)
    return [
        Part(some[0].at, some[-1].at, max(each.value for each in some), sum(each.trips for each in some), place)
        for place, some in found.items()
    ]


def chart_of(parts: Sequence[Part], limit: Decimal, written: Mapping[Decimal, str]) -> Chart:
    """`written` is how the limit and 0 are written on the left."""
    top = max(limit, *(part.highest for part in parts)) * Decimal("1.1")
    begin, length = parts[0].since, max(parts[-1].until - parts[0].since, timedelta(seconds=1))

    def x_of(at: datetime) -> float:
        return round(_LEFT + (WIDTH - _LEFT - _RIGHT) * ((at - begin) / length), 1)

    def y_of(value: Decimal) -> float:
        return round(HEIGHT - _BOTTOM - (HEIGHT - _TOP - _BOTTOM) * float(max(value, Decimal(0)) / top), 1)

    def middle(part: Part) -> datetime:
        return part.since + (part.until - part.since) / 2

    joined = _joined(parts)
    steps = [
        f"{'L' if joined[place] else 'M'}{x_of(middle(part))} {y_of(part.highest)}" for place, part in enumerate(parts)
    ]
    times = [begin + length * step / _TIMES for step in range(_TIMES + 1)]
    return Chart(
        line=" ".join(f"{step} h0.1" if step[0] == "M" else step for step in steps),
        limit=Mark(_LEFT, y_of(limit), written[limit]),
        trips=tuple(Mark(x_of(middle(part)), y_of(part.highest), str(part.trips)) for part in parts if part.trips),
        times=tuple(Mark(x_of(at), HEIGHT - 8, f"{at:%m-%d %H:%M}") for at in times),
        values=(Mark(_LEFT, y_of(Decimal(0)), written[Decimal(0)]),),
    )


def _joined(parts: Sequence[Part]) -> list[bool]:
    """Whether the line goes on from the part before: nothing is missing there, as time between readings goes.

    Few readings leave parts empty between any two of them; that alone is no gap.
    """
    apart = [later.since - earlier.until for earlier, later in pairwise(parts)]
    usual = median_low(apart) if apart else timedelta()
    next_to = [later.place - earlier.place == 1 for earlier, later in pairwise(parts)]
    return [False, *(near or gap <= _GAP * usual for near, gap in zip(next_to, apart, strict=True))]
