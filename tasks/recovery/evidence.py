"""Section 1 of the checklist, *Identify Root Cause*: what is known of a trip, for whoever writes down its cause."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

import httpx

from breaker import AsyncCircuitBreaker
from breaker.events import TransitionEvent
from breaker.keys import GLOBAL
from breaker.state import State, Status
from configuration.breakers import async_breaker_of
from configuration.settings import Settings
from tasks.checks.probe import explain
from tasks.checks.prometheus import Prometheus, Series
from tasks.recovery import log_tail
from tasks.redaction import HIDDEN, configured_secrets, scrub

if TYPE_CHECKING:
    from ledger.record import AuditRow

T = TypeVar("T")

BEFORE = timedelta(minutes=15)
AFTER = timedelta(minutes=5)
_LEDGER_DEADLINE = 8.0
_PROMETHEUS_TIMEOUT = 5.0
_STEP = 20.0
"""Seconds between two samples of a panel: 60 of them in all."""
_MOST_ROWS = 200
_MOST_SERIES = 5
_BARS = "▁▂▃▄▅▆▇█"
_SPARKS = 40
_TRIP, _KILL_REPORT = "CIRCUIT_BREAKER_TRIP", "KILL_SWITCH_FINISHED"


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
class Course:
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
    panels: tuple[Course, ...] = ()
    logs: tuple[LogTail, ...] = ()
    kill_report: Mapping[str, Any] | None = None
    unread: Mapping[str, str] = field(default_factory=dict)

    def as_markdown(self) -> str:
        parts = [self._trip(), self._course("Ledger", self.ledger), self._course("History in Redis", self.history)]
        parts += [self._panels(), self._kill(), *(_log(tail) for tail in self.logs), self._unread()]
        return "\n\n".join(part for part in parts if part) + "\n"

    def _trip(self) -> str:
        if self.trip is None:
            return "### Trip\n\nNothing that could be read tells of this trip."
        trip = self.trip
        told = [f"**{_cell(trip.reason)}** at {trip.at:%Y-%m-%d %H:%M:%S.%f} UTC by {_cell(trip.by)} ({trip.source})"]
        return "\n\n".join(["### Trip", *told, _fenced(trip.details, "json")])

    def _course(self, title: str, events: Sequence[Event]) -> str:
        if not events:
            return ""
        rows = [
            f"| {event.at:%H:%M:%S.%f} | {_cell(event.what)} | {_cell(event.by)} | {event.outcome} "
            f"| {_cell(event.details[:300])} |"
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
            f"| {_cell(panel.panel)} | {_cell(panel.labels)} | {panel.minimum:g} | {panel.maximum:g} | {panel.last:g} "
            f"| {panel.sparkline} |"
            for panel in self.panels
        ]
        header = ["| panel | series | min | max | last | course |", "| --- | --- | --- | --- | --- | --- |"]
        return "\n".join([title, "", *header, *rows])

    def _kill(self) -> str:
        if self.kill_report is None:
            return ""
        return "\n\n".join(["### Kill switch", _fenced(json.dumps(self.kill_report, indent=2, sort_keys=True), "json")])

    def _unread(self) -> str:
        if not self.unread:
            return ""
        return "\n".join(["### Not read", "", *(f"- {_cell(name)}: {_cell(why)}" for name, why in self.unread.items())])


async def gather_evidence(settings: Settings, incident_id: str, scope: str = GLOBAL) -> Evidence:
    """Everything the configuration names, each source within its own deadline. Nothing is raised."""
    gathering = _Gathering(settings, incident_id, scope)
    return await gathering.run()


class _Gathering:
    def __init__(self, settings: Settings, incident_id: str, scope: str) -> None:
        self._settings = settings
        self._incident = incident_id
        self._scope = scope
        self._secrets = configured_secrets(settings)
        self._unread: dict[str, str] = {}

    async def run(self) -> Evidence:
        wait = self._settings.redis_timeout + 1
        status, history, rows = await asyncio.gather(
            self._read("the breaker in Redis", wait, self._status(), None),
            self._read("the history in Redis", wait, self._history(), []),
            self._read("the ledger", _LEDGER_DEADLINE, asyncio.to_thread(self._rows), []),
        )
        trip = self._trip(status, history, rows)
        at = trip.at if trip is not None else moment_of(self._incident)
        panels, logs = await asyncio.gather(self._panels(at), self._logs())
        kill = next((row for row in reversed(rows) if row.action == _KILL_REPORT), None)
        return Evidence(
            incident_id=self._incident,
            scope=self._scope,
            gathered_at=datetime.now(UTC),
            trip=trip,
            ledger=tuple(self._row(row) for row in rows),
            history=tuple(self._event(event) for event in history if _around(event.at, at)),
            panels=tuple(panels),
            logs=tuple(logs),
            kill_report=None if kill is None else self._without_secrets(kill.details),
            unread=self._unread,
        )

    async def _read(self, source: str, deadline: float, reading: Awaitable[T], otherwise: T) -> T:
        try:
            async with asyncio.timeout(deadline):
                return await reading
        except TimeoutError:
            self._unread[source] = f"no answer within {deadline:g} s"
        except Exception as error:  # one source less is still evidence
            self._unread[source] = scrub(explain(error), self._secrets)
        return otherwise

    async def _status(self) -> Status:
        async with _breaker(self._settings, self._scope) as breaker:
            status = await breaker.get_status()
        if status.state is State.UNKNOWN:
            self._unread["the breaker in Redis"] = scrub(str(status.problem), self._secrets)
        return status

    async def _history(self) -> list[TransitionEvent]:
        async with _breaker(self._settings, self._scope) as breaker:
            return list(reversed(await breaker.get_history(100)))

    def _rows(self) -> list[AuditRow]:
        """The incident's rows, and what else was recorded around its trip, oldest first."""
        from ledger.configured import open_ready_ledger  # noqa: PLC0415  SQLAlchemy, in a thread
        from ledger.queries import Filter  # noqa: PLC0415

        ledger = open_ready_ledger(self._settings)
        try:
            of_incident = ledger.query(Filter(incident_id=self._incident), limit=_MOST_ROWS).rows
            trips = [row.timestamp for row in of_incident if row.action == _TRIP]
            at = min(trips, default=moment_of(self._incident))
            around = ledger.query(Filter(since=at - BEFORE, until=at + AFTER), limit=_MOST_ROWS).rows
        finally:
            ledger.close()
        return sorted({row.id: row for row in (*of_incident, *around)}.values(), key=lambda row: row.seq)

    def _trip(self, status: Status | None, history: Sequence[TransitionEvent], rows: Sequence[AuditRow]) -> Trip | None:
        """From the ledger if it is there by now, which says most; else from Redis."""
        for row in rows:
            if row.action == _TRIP and row.incident_id == self._incident:
                reason, details = str(row.details.get("reason")), row.details.get("details")
                return Trip(row.timestamp, self._clean(reason), row.user_id or "?", self._text(details), "ledger")
        for event in history:
            if event.transition == "TRIP" and event.incident_id == self._incident:
                return Trip(
                    event.at, self._clean(event.reason), event.by, self._text(event.details), "history in Redis"
                )
        if status is not None and status.incident_id == self._incident and status.tripped_at is not None:
            reason = self._clean(status.trip_reason or "no reason")
            details = self._text(status.trip_details)
            return Trip(status.tripped_at, reason, status.tripped_by or "?", details, "state in Redis")
        return None

    async def _panels(self, at: datetime) -> list[Course]:
        recovery = self._settings.recovery
        end = min(at + AFTER, datetime.now(UTC))
        async with httpx.AsyncClient() as client:
            prometheus = Prometheus(recovery.prometheus_url, client, _PROMETHEUS_TIMEOUT)
            found = await asyncio.gather(
                *(
                    self._read(
                        f"panel {name}",
                        _PROMETHEUS_TIMEOUT + 1,
                        prometheus.course(query, at - BEFORE, end, _STEP),
                        [],
                    )
                    for name, query in recovery.panels.items()
                )
            )
        for name, some in zip(recovery.panels, found, strict=True):
            if not any(series.samples for series in some):
                self._unread.setdefault(f"panel {name}", "Prometheus has no samples of it from that time")
        return [
            course(name, series)
            for name, some in zip(recovery.panels, found, strict=True)
            for series in some[:_MOST_SERIES]
            if series.samples
        ]

    async def _logs(self) -> list[LogTail]:
        logs = {name: service.log for name, service in self._settings.recovery.services.items() if service.log}
        tails = await asyncio.gather(
            *(self._read(f"log of {name}", log_tail.DEADLINE + 1, log_tail.tail(log), []) for name, log in logs.items())
        )
        # As one text, since a private key has many lines.
        return [
            LogTail(name, log_tail.describe(log), tuple(self._clean("\n".join(lines)).split("\n")))
            for (name, log), lines in zip(logs.items(), tails, strict=True)
            if lines
        ]

    def _row(self, row: AuditRow) -> Event:
        return Event(row.timestamp, row.action, row.user_id or "", row.outcome, self._text(row.details))

    def _event(self, event: TransitionEvent) -> Event:
        what = f"{event.transition.value}: {event.from_state} → {event.to_state}"
        details = self._clean(f"{event.reason} {json.dumps(event.details, sort_keys=True, ensure_ascii=False)}")
        return Event(event.at, what, event.by, "OK", details)

    def _text(self, details: Any) -> str:
        return json.dumps(self._without_secrets(details), sort_keys=True, ensure_ascii=False, default=str)

    def _without_secrets(self, value: Any) -> Any:
        """The value with each text in it, and whatever is named as a secret is, made clean: still JSON afterwards."""
        match value:
            case str():
                return self._clean(value)
            case Mapping():
                return {name: self._named(str(name), item) for name, item in value.items()}
            case list() | tuple():
                return [self._without_secrets(item) for item in value]
        return value

    def _named(self, name: str, value: Any) -> Any:
        if isinstance(value, str) and scrub(f"{name}=x") != f"{name}=x":
            return HIDDEN
        return self._without_secrets(value)

    def _clean(self, text: str) -> str:
        return scrub(text, self._secrets)


@asynccontextmanager
async def _breaker(settings: Settings, scope: str) -> AsyncIterator[AsyncCircuitBreaker]:
    breaker = async_breaker_of(settings, scope)
    try:
        yield breaker
    finally:
        await breaker.close()


def moment_of(incident_id: str) -> datetime:
    """When the incident began, as its id (a UUIDv7) has it; now for an id that doesn't say."""
    try:
        known = UUID(incident_id)
    except ValueError:
        return datetime.now(UTC)
    return datetime.fromtimestamp((known.int >> 80) / 1000, UTC) if known.version == 7 else datetime.now(UTC)


def course(panel: str, series: Series) -> Course:
    """The figures and the picture of a series with at least one sample."""
    values = [value for _, value in series.samples]
    return Course(panel, series.labels, min(values), max(values), values[-1], sparkline(values))


def sparkline(values: Sequence[float]) -> str:
    """At most `_SPARKS` bars, from the lowest value to the highest; each shows the largest of its share of them."""
    width = min(_SPARKS, len(values))
    shares = [values[i * len(values) // width : (i + 1) * len(values) // width] for i in range(width)]
    peaks = [max(share) for share in shares]
    low, high = min(values), max(values)
    scale = (len(_BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(_BARS[round((peak - low) * scale)] for peak in peaks)


def _around(moment: datetime, trip: datetime) -> bool:
    return trip - BEFORE <= moment <= trip + AFTER


def _log(tail: LogTail) -> str:
    return f"### Log of {_cell(tail.service)}\n\n`{tail.how}`\n\n{_fenced(chr(10).join(tail.lines), '')}"


def _minutes(span: timedelta) -> str:
    return f"{span.total_seconds() / 60:g} minutes"


def _cell(text: str) -> str:
    """Text from outside, harmless inside a Markdown table."""
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def _fenced(text: str, language: str) -> str:
    """A code block that nothing in `text` can end."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"
