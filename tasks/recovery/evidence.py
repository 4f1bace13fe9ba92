"""Hold what is known of a trip, for whoever writes down its root cause, and show it as Markdown. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from tasks.checks.prometheus import Series
from tasks.markdown import cell, fenced

BEFORE = timedelta(minutes=15)
AFTER = timedelta(minutes=5)
"""How long before and after a trip what happened belongs to its evidence."""
_BARS = "▁▂▃▄▅▆▇█"
_SPARKS = 40


@dataclass(frozen=True, slots=True)
class Trip:
    """The trip that began the incident. `details` is JSON text, `source` where this was read."""

    at: datetime
    reason: str
    by: str
    details: str
    source: str


@dataclass(frozen=True, slots=True)
class Event:
    """One action or transition, as one line of the course of events."""

    at: datetime
    what: str
    by: str
    outcome: str
    details: str


@dataclass(frozen=True, slots=True)
class PanelSeries:
    """How one series of a panel went around the trip."""

    panel: str
    labels: str
    minimum: float
    maximum: float
    last: float
    sparkline: str


@dataclass(frozen=True, slots=True)
class LogTail:
    """`how` is the command that shows the same."""

    service: str
    how: str
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Evidence:
    """All text in it is free of secrets. `unread` names each source that gave nothing, with the reason."""

    incident_id: str
    scope: str
    gathered_at: datetime
    trip: Trip | None = None
    ledger: tuple[Event, ...] = ()
    history: tuple[Event, ...] = ()
    panels: tuple[PanelSeries, ...] = ()
    logs: tuple[LogTail, ...] = ()
    kill_report: Mapping[str, Any] | None = None
    unread: Mapping[str, str] = field(default_factory=dict)

    def found_for(self, item: str) -> str:
        """What was found for an item of *Identify Root Cause*, in a few words; empty if nothing was."""
        panels = len({panel.panel for panel in self.panels})
        words = {
            "trip-reason": f"the trip, from {self.trip.source}" if self.trip is not None else "",
            "anomalies": f"{panels} panels, {len(self.panels)} series" if self.panels else "",
            "logs": f"the last lines of {', '.join(log.service for log in self.logs)}" if self.logs else "",
        }
        return words[item]

    def as_markdown(self) -> str:
        parts = [self._trip(), self._timeline("Ledger", self.ledger), self._timeline("History in Redis", self.history)]
        parts += [self._panels(), self._kill(), *(_log(tail) for tail in self.logs), self._unread()]
        return "\n\n".join(part for part in parts if part) + "\n"

    def _trip(self) -> str:
        if self.trip is None:
            return "### Trip\n\nNothing that could be read tells of this trip."
        trip = self.trip
        told = [f"**{cell(trip.reason)}** at {trip.at:%Y-%m-%d %H:%M:%S.%f} UTC by {cell(trip.by)} ({trip.source})"]
        return "\n\n".join(["### Trip", *told, fenced(trip.details, "json")])

    def _timeline(self, title: str, events: Sequence[Event]) -> str:
        if not events:
            return ""
        rows = [
            f"| {event.at:%H:%M:%S.%f} | {cell(event.what)} | {cell(event.by)} | {event.outcome} "
            f"| {cell(event.details[:300])} |"
            for event in events
        ]
        return "\n".join(
            [f"### {title}", "", "| UTC | what | by | outcome | details |", "| --- | --- | --- | --- | --- |", *rows]
        )

    def _panels(self) -> str:
        if not self.panels:
            return ""
        title = f"### Metrics, from {_minutes(BEFORE)} before the trip to {_minutes(AFTER)} after"
        rows = [
            f"| {cell(panel.panel)} | {cell(panel.labels)} | {panel.minimum:g} | {panel.maximum:g} | {panel.last:g} "
            f"| {panel.sparkline} |"
            for panel in self.panels
        ]
        header = ["| panel | series | min | max | last | course |", "| --- | --- | --- | --- | --- | --- |"]
        return "\n".join([title, "", *header, *rows])

    def _kill(self) -> str:
        if self.kill_report is None:
            return ""
        return "\n\n".join(["### Kill switch", fenced(json.dumps(self.kill_report, indent=2, sort_keys=True), "json")])

    def _unread(self) -> str:
        if not self.unread:
            return ""
        return "\n".join(["### Not read", "", *(f"- {cell(name)}: {cell(why)}" for name, why in self.unread.items())])


def summarise(panel: str, series: Series) -> PanelSeries:
    """The figures and the picture of a series with at least one sample."""
    values = [value for _, value in series.samples]
    return PanelSeries(panel, series.labels, min(values), max(values), values[-1], sparkline(values))


def sparkline(values: Sequence[float]) -> str:
    """At most `_SPARKS` bars, from the lowest value to the highest; each shows the largest of its share of them."""
    width = min(_SPARKS, len(values))
    shares = [values[i * len(values) // width : (i + 1) * len(values) // width] for i in range(width)]
    peaks = [max(share) for share in shares]
    low, high = min(values), max(values)
    scale = (len(_BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(_BARS[round((peak - low) * scale)] for peak in peaks)


def _log(tail: LogTail) -> str:
    return f"### Log of {cell(tail.service)}\n\n`{tail.how}`\n\n{fenced(chr(10).join(tail.lines))}"


def _minutes(span: timedelta) -> str:
    return f"{span.total_seconds() / 60:g} minutes"
