"""What a soak found, as the page that is kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from statistics import median

from proofs.soak.drills import Drill, Way
from proofs.soak.trend import MIB, TOLERANCES, Trend


@dataclass(slots=True)
class Findings:
    """Everything that the verdict rests on."""

    begun_at: datetime
    seconds: float
    seed: int
    drills: Sequence[Drill]
    faults: Counter[str]
    ended_alone: Sequence[str]
    samples: int
    trends: Sequence[Trend]
    rows: int = 0
    verified: str = ""
    problems: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return not (
            self.problems
            or self.ended_alone
            or any(drill.problems for drill in self.drills)
            or any(trend.grows for trend in self.trends)
        )


def as_markdown(found: Findings) -> str:
    """The whole report; also what is printed."""
    return (
        "\n\n".join(
            [
                "# Soak",
                "Kill-switch drills back to back on the whole stack (Redis, PostgreSQL, Prefect, served deployments, "
                "standby, console, exporter, paper exchange) while parts of it are killed, stopped and cut off at "
                "random. `make soak` writes this page; `SECONDS` and `SEED` choose another length and other faults.",
                _summary(found),
                "## Drills",
                _drills(found.drills),
                "## Faults",
                _faults(found.faults),
                "## Growth",
                _growth(found),
                *_wrong(found),
            ]
        )
        + "\n"
    )


def _summary(found: Findings) -> str:
    good = sum(not drill.problems for drill in found.drills)
    recovered = sum(drill.recovery_after is not None for drill in found.drills)
    rows = [
        ("verdict", "**passed**" if found.passed else "**FAILED**"),
        ("begun, for", f"{found.begun_at:%Y-%m-%d %H:%M} UTC, {found.seconds / 60:.0f} minutes, seed {found.seed}"),
        ("drills without a finding", f"{good} of {len(found.drills)}"),
        ("recovered by the whole checklist", str(recovered)),
        ("faults", str(found.faults.total())),
        ("ledger", f"{found.rows} rows; {found.verified.partition(', hash')[0]}"),
        ("samples of processes", str(found.samples)),
        ("parts that ended without being killed", ", ".join(found.ended_alone) or "none"),
    ]
    return _table(("", ""), rows)


def _drills(drills: Sequence[Drill]) -> str:
    rows = []
    for way in Way:
        own = [drill for drill in drills if drill.way is way]
        rows.append(
            (
                way.value,
                str(len(own)),
                _times(drill.halted_after for drill in own),
                _times(drill.swept_after for drill in own),
                _times(drill.flat_after for drill in own),
                str(sum(len(drill.commands) > 1 for drill in own)),
            )
        )
    recoveries = _times(drill.recovery_after for drill in drills)
    again = Counter(said for drill in drills for said in drill.commands[:-1])
    text = _table(("asked by", "drills", "halted, s", "first sweep, s", "flat, s", "asked again"), rows)
    text += f"\n\nMedian / largest. From the kill's proof to OPEN by the checklist: {recoveries} s."
    if again:
        text += (
            "\n\nWhy a kill was asked for again: " + "; ".join(f"{why} ({n})" for why, n in again.most_common()) + "."
        )
    return text


def _faults(faults: Counter[str]) -> str:
    return _table(("fault", "times"), [(name, str(count)) for name, count in sorted(faults.items())])


def _growth(found: Findings) -> str:
    tolerances = ", ".join(
        f"{quantity} {tolerance.share:.0%} and {_shown(quantity, tolerance.amount)}"
        for quantity, tolerance in TOLERANCES.items()
    )
    lives = dict.fromkeys((trend.part, trend.pid, trend.minutes) for trend in found.trends)
    rows = []
    for number, (part, pid, minutes) in enumerate(lives, 1):
        own = {trend.quantity: trend for trend in found.trends if (trend.part, trend.pid) == (part, pid)}
        cells = [
            f"{_shown(quantity, own[quantity].first)} → {_shown(quantity, own[quantity].last)}"
            f"{' **grows**' if own[quantity].grows else ''}"
            for quantity in TOLERANCES
        ]
        rows.append((str(number), part, f"{minutes:.0f}", *cells))
    return (
        "Each process that lived long enough: medians of the first and the last third of its life after its warm-up. "
        f"The last may exceed the first by: {tolerances}.\n\n" + _table(("", "process", "minutes", *TOLERANCES), rows)
    )


def _wrong(found: Findings) -> list[str]:
    wrong = [*found.problems]
    wrong += [
        f"drill {drill.number} ({drill.way}, {drill.scenario}): {p}" for drill in found.drills for p in drill.problems
    ]
    return ["## What went wrong", "\n".join(f"- {each}" for each in wrong)] if wrong else []


def _shown(quantity: str, value: float) -> str:
    return f"{value / MIB:.0f} MiB" if quantity == "rss" else f"{value:g}"


def _times(values: Iterable[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{median(known):.2f} / {max(known):.2f}" if known else "—"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
