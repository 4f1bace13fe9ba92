"""One measured figure, beside what it is to be compared with."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """`value` in `unit`; `baseline` was measured in the same run; `met` says whether the `target` was reached."""

    area: str
    what: str
    value: float | str
    unit: str = ""
    baseline: str = ""
    target: str = ""
    met: bool | None = None


MOST_GROWTH = 1.1
"""The exponent beyond which something is done for each that looks at all of them."""


def growth(what: str, costs: Mapping[int, float], unit: str) -> Row:
    """How fast the cost grows with the size: 1 means that twice as many cost twice as much.

    What every run costs, however little there is to do, makes it less.
    """
    sizes, logarithms = zip(*((math.log(size), math.log(cost)) for size, cost in costs.items()), strict=True)
    exponent = statistics.linear_regression(sizes, logarithms).slope
    of_each = ", ".join(f"{size:,}: {cost:.3g} {unit}" for size, cost in costs.items())
    return Row("growth", what, exponent, "exponent", of_each, f"≤ {MOST_GROWTH:g}", exponent <= MOST_GROWTH)


def quantile(values: Iterable[float], fraction: float) -> float:
    """The value below which `fraction` of `values` lie, by the nearest rank."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(fraction * len(ordered)))]


def spread(values: Iterable[float], scale: float) -> str:
    """Median, 99th percentile and maximum, each times `scale`."""
    known = list(values)
    return " / ".join(f"{scale * v:.3g}" for v in (statistics.median(known), quantile(known, 0.99), max(known)))
