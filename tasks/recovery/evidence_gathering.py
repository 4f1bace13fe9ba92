"""Gather the evidence of a trip: section 1 of the checklist, *Identify Root Cause*."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

import httpx

from breaker import AsyncCircuitBreaker
from breaker.events import TransitionEvent
from breaker.keys import GLOBAL
from breaker.state import State, Status
from configuration.breakers import async_breaker_of
from configuration.settings import Settings
from tasks.checks.probe import describe_error
from tasks.checks.prometheus import Prometheus
from tasks.recovery import log_tail
from tasks.recovery.evidence import AFTER, BEFORE, Event, Evidence, LogTail, PanelSeries, Trip, summarise
from tasks.redaction import HIDDEN, configured_secrets, redact

if TYPE_CHECKING:
    from ledger.record import AuditRow

T = TypeVar("T")

_LEDGER_DEADLINE = 8.0
_PROMETHEUS_TIMEOUT = 5.0
_STEP = 20.0
"""Seconds between two samples of a panel: 60 of them in all."""
_MOST_ROWS = 200
_MOST_SERIES = 5
_TRIP, _KILL_REPORT = "CIRCUIT_BREAKER_TRIP", "KILL_SWITCH_FINISHED"


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
        at = trip.at if trip is not None else incident_time(self._incident)
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
            self._unread[source] = redact(describe_error(error), self._secrets)
        return otherwise

    async def _status(self) -> Status:
        async with _breaker(self._settings, self._scope) as breaker:
            status = await breaker.get_status()
        if status.state is State.UNKNOWN:
            self._unread["the breaker in Redis"] = redact(str(status.problem), self._secrets)
        return status

    async def _history(self) -> list[TransitionEvent]:
        async with _breaker(self._settings, self._scope) as breaker:
            found = await breaker.get_history(100)
        if found.unreadable:
            what = f"{len(found.unreadable)} of its members are no transitions, such as {found.unreadable[0]}"
            self._unread["all of the history in Redis"] = redact(what, self._secrets)
        return found[::-1]

    def _rows(self) -> list[AuditRow]:
        """The incident's rows, and what else was recorded around its trip, oldest first."""
        from ledger.configured import open_ready_ledger  # noqa: PLC0415  SQLAlchemy, in a thread
        from ledger.queries import Filter  # noqa: PLC0415

        ledger = open_ready_ledger(self._settings)
        try:
            of_incident = ledger.query(Filter(incident_id=self._incident), limit=_MOST_ROWS).rows
            trips = [row.timestamp for row in of_incident if row.action == _TRIP]
            at = min(trips, default=incident_time(self._incident))
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

    async def _panels(self, at: datetime) -> list[PanelSeries]:
        recovery = self._settings.recovery
        end = min(at + AFTER, datetime.now(UTC))
        async with httpx.AsyncClient() as client:
            prometheus = Prometheus(recovery.prometheus_url, client, _PROMETHEUS_TIMEOUT)
            found = await asyncio.gather(
                *(
                    self._read(
                        f"panel {name}",
                        _PROMETHEUS_TIMEOUT + 1,
                        prometheus.query_range(query, at - BEFORE, end, _STEP),
                        [],
                    )
                    for name, query in recovery.panels.items()
                )
            )
        for name, some in zip(recovery.panels, found, strict=True):
            if not any(series.samples for series in some):
                self._unread.setdefault(f"panel {name}", "Prometheus has no samples of it from that time")
        return [
            summarise(name, series)
            for name, some in zip(recovery.panels, found, strict=True)
            for series in some[:_MOST_SERIES]
            if series.samples
        ]

    async def _logs(self) -> list[LogTail]:
        logs = {name: service.log for name, service in self._settings.recovery.services.items() if service.log}
        tails = await asyncio.gather(
            *(
                self._read(f"log of {name}", log_tail.DEADLINE + 1, log_tail.read_log_tail(log), [])
                for name, log in logs.items()
            )
        )
        # As one text, since a private key has many lines.
        return [
            LogTail(name, log_tail.shell_command(log), tuple(self._clean("\n".join(lines)).split("\n")))
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
        if isinstance(value, str) and redact(f"{name}=x") != f"{name}=x":
            return HIDDEN
        return self._without_secrets(value)

    def _clean(self, text: str) -> str:
        return redact(text, self._secrets)


@asynccontextmanager
async def _breaker(settings: Settings, scope: str) -> AsyncIterator[AsyncCircuitBreaker]:
    breaker = async_breaker_of(settings, scope)
    try:
        yield breaker
    finally:
        await breaker.close()


def incident_time(incident_id: str) -> datetime:
    """When the incident began, as its id (a UUIDv7) has it; now for an id that doesn't say."""
    try:
        known = UUID(incident_id)
    except ValueError:
        return datetime.now(UTC)
    return datetime.fromtimestamp((known.int >> 80) / 1000, UTC) if known.version == 7 else datetime.now(UTC)


def _around(moment: datetime, trip: datetime) -> bool:
    return trip - BEFORE <= moment <= trip + AFTER
