"""Run kill switches in a process that has everything imported and every connection open."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from typing import Any

import structlog

from breaker import AsyncCircuitBreaker
from breaker.pending_trips import PendingTrip
from brokers.coverage import Coverage
from brokers.protocol import Broker
from brokers.registry import close_brokers, open_those_that_open
from configuration.breakers import REFUSAL_PATIENCE, async_breaker_of, make_or_store_trip
from configuration.running import RunningConfiguration
from configuration.settings import Settings
from flows.kill_start import KillStart, coverage_now, halt, load_procedure, sweep_and_flatten
from services.kill_messages import MessageDisplay
from services.kill_request import KillRequest

OLDEST_START = 10.0
"""Seconds before which a request can't have been made: a start further back is another boot's, or nonsense."""

log = structlog.get_logger(__name__)
Send = Callable[[Mapping[str, Any]], None]


class KillExecutor:
    """Opens the accounts' brokers, and each breaker when it is first needed; `close` closes them.

    What it does to accounts goes by what is configured then, also of an account that was added since it began.
    """

    def __init__(self, running: RunningConfiguration) -> None:
        self._running = running
        self._settings = settings = running.settings
        self.brokers: dict[str, Broker] = open_those_that_open(settings.accounts, markets_dir=settings.markets_dir)
        self._breakers: dict[tuple[str, str], AsyncCircuitBreaker] = {}
        self._kills: set[asyncio.Task[None]] = set()
        self._claimed: set[str] = set()
        self._at_work: list[tuple[KillRequest, Coverage]] = []
        load_procedure()  # the slow import, before it is needed

    def coverage(self, request: KillRequest) -> Coverage:
        """What the request covers of this host's accounts. Raises InvalidInput, as `coverage_of`."""
        return coverage_now(self._running.present(), request.scope, request.accounts)

    def lent(self, settings: Settings) -> dict[str, Broker]:
        """The open brokers of those accounts that are configured as they were when these were opened."""
        ours = self._settings.accounts
        return {name: broker for name, broker in self.brokers.items() if settings.accounts.get(name) == ours[name]}

    def claim(self, event_id: str) -> bool:
        """Whether this process has not begun to act on that event before; it has from now on."""
        if event_id in self._claimed:
            return False
        self._claimed.add(event_id)
        return True

    def is_at_work(self, request: KillRequest) -> bool:
        """Whether this process does what the request asks for: its very trip's, or of its incident all that it covers.

        Raises InvalidInput, as `coverage_of`.
        """
        asked = self.coverage(request)
        return any(
            request.event_id == other.event_id or (request.incident_id == other.incident_id and covered.contains(asked))
            for other, covered in self._at_work
        )

    def breaker(self, scope: str, source: str) -> AsyncCircuitBreaker:
        if (scope, source) not in self._breakers:
            self._breakers[scope, source] = async_breaker_of(
                self._settings, scope, source=source, refusal_patience=REFUSAL_PATIENCE
            )
        return self._breakers[scope, source]

    def begin(self, work: Coroutine[Any, Any, None]) -> asyncio.Future[None]:
        """Run it to its end, also when whoever waits for it goes away."""
        task = asyncio.create_task(work)
        self._kills.add(task)
        task.add_done_callback(self._kills.discard)
        return asyncio.shield(task)

    async def kill(
        self,
        request: KillRequest,
        source: str,
        send: Send,
        *,
        trip: PendingTrip | None = None,
        closes_as: Mapping[str, str] | None = None,
    ) -> None:
        """Trip, sweep and flatten what it covers. Never raises: whoever asked is told.

        `trip` takes the place of the request's own. `closes_as`: of a run that is taken over, by account, the incident
        by which it has named its closes.
        """
        now = time.monotonic()
        display = MessageDisplay(send)
        try:
            present = self._running.present()
            coverage = coverage_now(present, request.scope, request.accounts)
            self._at_work.append((request, coverage))
            start = KillStart(
                trip=trip or replace(request.trip(source, coverage.accounts), scope=coverage.scope),
                reason=request.reason,
                coverage=coverage,
                without=present.problem,
                closes_as=closes_as,
                started=request.started if request.started and 0 <= now - request.started <= OLDEST_START else now,
            )
            run = await sweep_and_flatten(
                present.settings,
                start,
                halt(start, self.trip, display),
                display,
                opened=self.lent(present.settings),
            )
        except Exception as error:  # a resident process outlives what goes wrong in one run, and says so
            log.exception("kill failed", incident_id=request.incident_id)
            send({"event": "FAILED", "why": f"{type(error).__name__}: {error}"})
            return
        finally:
            self._at_work = [(other, covered) for other, covered in self._at_work if other is not request]
        if run is not None and run.report is not None:
            log.info("kill done", incident_id=run.incident_id, flat=run.report.flat, without=list(run.missing))

    async def finish(self) -> None:
        """Wait for what was begun; every run has a time limit of its own."""
        await asyncio.gather(*self._kills, return_exceptions=True)

    async def close(self) -> None:
        await close_brokers(self.brokers.values())
        for breaker in self._breakers.values():
            await breaker.close()

    async def trip(self, trip: PendingTrip) -> Any:
        """Make it, or keep it on this host until Redis is back; see `make_or_store_trip`."""
        return await make_or_store_trip(self._settings, trip, self.breaker(trip.scope, trip.source))
