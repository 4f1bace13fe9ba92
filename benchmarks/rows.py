"""One measured figure, beside what it is to be compared with."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
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


def quantile(values: Iterable[float], fraction: float) -> float:
    """The value below which `fraction` of `values` lie, by the nearest rank."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(fraction * len(ordered)))]


def spread(values: Iterable[float], scale: float) -> str:
    """Median, 99th percentile and maximum, each times `scale`."""
    known = list(values)
    return " / ".join(f"{scale * v:.3g}" for v in (statistics.median(known), quantile(known, 0.99), max(known)))
