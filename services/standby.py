"""The standby executor: everything imported, every connection open, so that a kill begins within milliseconds.

It takes requests from a socket in the state directory (its owner only) and from the stream `circuit_breaker:
kill_requests`; it makes trips that wait on this host as soon as Redis is back, and watches the dead-man's switches.
Nothing depends on it: `breaker kill` does it all itself when nobody acknowledges. Both at once are harmless, as both
use the event and incident ids of the request. A second standby on the host refuses to start; on other hosts any
number may run.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from typing import Any, Self
from uuid import UUID, uuid5

import structlog
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, model_validator
from redis.exceptions import RedisError

from breaker import AsyncCircuitBreaker
from breaker.deadman import KILL, OverdueSwitch, overdue_switches, unregister_fired
from breaker.errors import BreakerError, BreakerUnavailable, RedisRefused
from breaker.pending_trips import PendingTrip, PendingTrips, check_pending_trip
from breaker.process_lock import process_lock
from breaker.state import Status
from breaker.trip_reasons import TripReason
from breaker.uuid7 import uuid7
from brokers.protocol import BrokerError
from brokers.registry import open_brokers
from brokers.sweep import SweepResult, first_sweep
from configuration.breakers import apply_pending_trips, async_breaker_of, store_undelivered
from configuration.orchestrator import set_prefect_timeouts
from configuration.redis_clients import async_redis_client, redis_client
from configuration.settings import ConfigurationError, Settings
from flows.kill_context import open_kill_run, record_sweep
from tasks.kill.account import AccountProgress
from tasks.kill.report import KillReport
from tasks.kill.run import KillRun

SOCKET = "standby.sock"
REQUESTS = "circuit_breaker:kill_requests"
ANSWER = "circuit_breaker:kill_answer:"
"""Before the request's event id: who took it and how it ended, kept for a day."""
REQUEST_AGE = 60.0
"""Seconds after which a request in the stream is too old to be acted on by a standby that starts."""
TRIP_FIRST = 0.1
"""Seconds that the first sweep waits for the trip, which goes on beside it."""
WATCH_EVERY = 0.25
KEEP_WARM_EVERY = 20.0
PROGRESS_EVERY = 0.1
LEAVE_WITHIN = 5.0
"""Seconds that the watchers get to end, once asked to stop; a kill gets all the time that it takes."""

_NAMESPACE = UUID("8a6f0c3d-2f0b-5a57-8d0e-6f0f9e2b7c44")

log = structlog.get_logger(__name__)
Say = Callable[[Mapping[str, Any]], None]
_report = TypeAdapter(KillReport)
_progress = TypeAdapter(list[AccountProgress])


class AlreadyStandingBy(BreakerError):
    """Another standby has this state directory."""


class KillRequest(BaseModel):
    """What is asked for. Ids that the asker has decided make doing it twice the same as doing it once."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    reason: str = Field(default="kill switch, no reason given", min_length=1, max_length=500)
    operator: str = Field(min_length=1, max_length=128)
    scope: str = "global"
    accounts: tuple[str, ...] = ()
    """All of them when none is named."""
    started: float | None = None
    """When it was asked for, on this host's monotonic clock."""
    event_id: str = Field(default_factory=uuid7)
    incident_id: str = Field(default_factory=uuid7)

    @model_validator(mode="after")
    def _a_breaker_takes_it(self) -> Self:
        check_pending_trip(self.trip("cli"))
        return self

    def trip(self, source: str) -> PendingTrip:
        return PendingTrip(
            reason=TripReason.KILL_SWITCH,
            details={"operator": self.operator, "reason": self.reason},
            tripped_by=self.operator,
            scope=self.scope,
            source=source,
            event_id=self.event_id,
            incident_id=self.incident_id,
        )


class Standby:
    """Stands by until `stop`. `fingerprint` is compared with that of each request from the socket."""

    def __init__(self, settings: Settings, fingerprint: Mapping[str, Any]) -> None:
        self._settings = settings
        self._fingerprint = fingerprint
        self._directory = settings.state_dir
        self._breakers: dict[tuple[str, str], AsyncCircuitBreaker] = {}
        self._brokers = open_brokers(settings.accounts)
        self._kills: set[asyncio.Task[None]] = set()
        self._taken: set[str] = set()
        """Event ids of the requests and silences that this process has begun to act on."""
        self._stopping = asyncio.Event()
        self._trouble: dict[str, str] = {}
        timeout = settings.redis_timeout
        self._redis = redis_client(settings, timeout=timeout)
        self._stream = async_redis_client(settings, timeout=timeout + 1.0, protocol=2)

    async def run(self) -> None:
        """Raises AlreadyStandingBy, or OSError when the socket can't be made."""
        from flows.kill_switch import run_kill_switch  # noqa: F401, PLC0415  the slow import, before it is needed

        with self._alone():
            server = await asyncio.start_unix_server(self._served, sock=self._listen())
            watchers = [
                asyncio.create_task(watch())
                for watch in (self._watch_stream, self._watch_host_and_deadmen, self._keep_warm)
            ]
            log.info("standing by", socket=str(self._directory / SOCKET), accounts=sorted(self._brokers))
            try:
                await self._stopping.wait()
            finally:
                (self._directory / SOCKET).unlink(missing_ok=True)
                server.close()
                for watcher in watchers:
                    watcher.cancel()
                # A client library may swallow a cancellation; the loops look for themselves whether to go on.
                await asyncio.wait(watchers, timeout=LEAVE_WITHIN)
                await asyncio.gather(*self._kills, return_exceptions=True)  # what was begun is brought to its end
                await self._close()

    def stop(self) -> None:
        self._stopping.set()

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        self._directory.mkdir(parents=True, exist_ok=True)
        with process_lock(self._directory / "standby.lock") as mine:
            if not mine:
                raise AlreadyStandingBy(f"a standby already runs with {self._directory}; nothing was started")
            yield

    def _listen(self) -> socket.socket:
        """Under its name only once it listens: whoever finds it can connect."""
        unready = self._directory / f"{SOCKET}.unready"
        unready.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX)
        before = os.umask(0o177)
        try:
            listener.bind(str(unready))
        finally:
            os.umask(before)
        listener.listen(16)
        unready.rename(self._directory / SOCKET)
        return listener

    async def _served(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request and what becomes of it, a line each. A client that goes away doesn't stop what it asked for."""

        def say(message: Mapping[str, Any]) -> None:
            if not writer.is_closing():
                writer.write(json.dumps(message, default=str).encode() + b"\n")

        try:
            async with asyncio.timeout(2.0):
                asked = json.loads(await reader.readline())
            request = KillRequest.model_validate(asked)
            refusal = self._why_not(request, asked.get("configuration"))
        except (TimeoutError, ValueError, AttributeError, ConnectionError) as error:
            refusal = f"the request can't be understood ({type(error).__name__})"
        if refusal:
            say({"event": "REFUSED", "why": refusal})
        else:
            # Without Redis nobody else knows the incident that this host has begun.
            waiting = PendingTrips(self._settings.pending_trips_dir).incident_of(request.scope)
            request = request.model_copy(update={"incident_id": waiting or request.incident_id})
            say({"event": "ACCEPTED", "event_id": request.event_id, "incident_id": request.incident_id})
            await self._tracked(self._kill(request, "cli", say))
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    def _why_not(self, request: KillRequest, configuration: Any) -> str | None:
        unknown = [name for name in request.accounts if name not in self._settings.accounts]
        if unknown:
            return f"it knows no account {', '.join(unknown)}"
        if not isinstance(configuration, dict) or not _same_configuration(configuration, self._fingerprint):
            return "it has another configuration; restart it to take the present one"
        return None

    def _tracked(self, work: Any) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._kills.add(task)
        task.add_done_callback(self._kills.discard)
        return asyncio.ensure_future(asyncio.shield(task))

    async def _kill(self, request: KillRequest, source: str, say: Say, *, trip: PendingTrip | None = None) -> None:
        """Trip and sweep at once, then the procedure. Never raises: whoever asked is told."""
        now = time.monotonic()
        started = request.started if request.started and 0 <= now - request.started <= 10 else now
        try:
            tripping = asyncio.create_task(self._trip(trip or request.trip(source), started, say))
            await asyncio.wait({tripping}, timeout=TRIP_FIRST)
            accounts = list(request.accounts or self._settings.accounts)
            brokers = [self._brokers[name] for name in accounts]
            pace = self._settings.kill
            swept = await first_sweep(brokers, pace.first_sweep_timeout, pace.cancel)
            after = time.monotonic() - started
            say({"event": "SWEPT", "results": [asdict(result) for result in swept], "after": after})
            await self._procedure(request, source, tripping, swept, (started, after), say)
        except Exception as error:  # a resident process outlives what goes wrong in one run, and says so
            log.exception("kill failed", incident_id=request.incident_id)
            say({"event": "FAILED", "why": f"{type(error).__name__}: {error}"})

    async def _trip(self, trip: PendingTrip, started: float, say: Say) -> tuple[Status | None, float | None]:
        try:
            status = await trip.make(self._breaker(trip.scope, trip.source))
        except (BreakerUnavailable, RedisRefused) as error:
            problem = await asyncio.to_thread(store_undelivered, self._settings, trip, error)
            say({"event": "NOT_HALTED", "problem": str(problem)})
            return None, None
        after = time.monotonic() - started
        say({"event": "HALTED", "status": dict(status), "scope": trip.scope, "after": after})
        return status, after

    async def _procedure(
        self,
        request: KillRequest,
        source: str,
        tripping: asyncio.Task[tuple[Status | None, float | None]],
        swept: list[SweepResult],
        times: tuple[float, float],
        say: Say,
    ) -> None:
        from flows.kill_switch import run_kill_switch  # noqa: PLC0415  imported at the start

        await asyncio.wait({tripping}, timeout=self._settings.redis_timeout)
        status, halted_after = tripping.result() if tripping.done() else (None, None)
        if not self._settings.accounts:
            say({"event": "NO_BROKER"})
            return
        async with open_kill_run(
            reason=request.reason,
            operator=request.operator,
            incident_id=(status.incident_id if status else None) or request.incident_id,
            accounts=request.accounts or None,
            scope=request.scope,
            source=source,
            settings=self._settings,
            trip_event_id=request.event_id,
            opened=self._brokers,  # with their connections, and what they know of the venues' rate limits
        ) as run:
            run.clock.started, run.halted_after, run.first_sweep_after = times[0], halted_after, times[1]
            record_sweep(run, swept)
            showing = asyncio.create_task(_show_progress(run, say))
            try:
                report = await run_kill_switch(run, lambda made: say(_reported(made)))
            finally:
                showing.cancel()
        say({"event": "DONE", "missing": run.missing})
        log.info("kill done", incident_id=run.incident_id, flat=report.flat, without=list(run.missing))

    async def _watch_stream(self) -> None:
        """Requests from anywhere that reaches Redis; whoever may write there may trip as well."""
        last: bytes | str | None = None
        while not self._stopping.is_set():
            try:
                if last is None:
                    clock: Any = await self._stream.time()
                    last = f"{int((clock[0] - REQUEST_AGE) * 1000)}-0"
                found: Any = await self._stream.xread({REQUESTS: last}, block=1_000)
                for _, entries in found or ():
                    for entry_id, fields in entries:
                        last = entry_id
                        await self._from_stream(entry_id, fields)
                self._note("kill requests", None)
            except (RedisError, OSError) as error:
                self._note("kill requests", error)
                await asyncio.sleep(WATCH_EVERY)

    async def _from_stream(self, entry_id: bytes, fields: Mapping[bytes, bytes]) -> None:
        # The same ids on every host that reads the entry, so that they make one trip and know each other's closes.
        ids = {name: str(uuid5(_NAMESPACE, f"{name} {entry_id.decode()}")) for name in ("event_id", "incident_id")}
        try:
            request = KillRequest.model_validate({**ids, **json.loads(fields[b"request"])})
            unknown = [name for name in request.accounts if name not in self._settings.accounts]
        except (KeyError, TypeError, ValueError) as error:
            log.warning("a kill request in the stream can't be understood", error=str(error).splitlines()[0])
            return
        key = f"{ANSWER}{request.event_id}"
        if unknown or request.event_id in self._taken or b"DONE" in (await self._stream.get(key) or b""):
            return  # another standby has the account, or it is done; one that was begun and cut off is done again
        self._taken.add(request.event_id)
        host = socket.gethostname()
        await self._stream.set(key, json.dumps({"event": "ACCEPTED", "host": host}), ex=86_400)

        async def answered() -> None:
            said: list[Mapping[str, Any]] = []
            await self._kill(request.model_copy(update={"started": None}), "api", said.append)
            last = {message["event"]: message for message in said}
            body = {"event": "DONE", "host": host, "flat": last.get("REPORT", {}).get("flat", False)}
            with contextlib.suppress(RedisError, OSError):  # the ledger has it; this is for whoever polls
                await self._stream.set(key, json.dumps(body), ex=86_400)

        self._tracked(answered())

    async def _watch_host_and_deadmen(self) -> None:
        while not self._stopping.is_set():
            try:
                await asyncio.to_thread(self._make_pending_trips)
                for silent in await asyncio.to_thread(overdue_switches, self._redis):
                    await self._fire(silent)
                self._note("watch", None)
            except BreakerError as error:
                self._note("watch", error)
            await asyncio.sleep(WATCH_EVERY)

    def _make_pending_trips(self) -> None:
        for made in apply_pending_trips(self._settings):
            log.warning("pending trip made", scope=made.trip.scope, asked_at=made.trip.asked_at)

    async def _fire(self, silent: OverdueSwitch) -> None:
        """Forgotten only when it is done: dying before means doing it again, with the same ids."""
        renewal = silent.renewal
        if renewal.event_id in self._taken:
            return
        who = f"dead-man's switch {renewal.name}"
        trip = PendingTrip(
            reason=TripReason.DEAD_MAN,
            details={"switch": renewal.name, "within": renewal.within, "action": renewal.action},
            tripped_by=who,
            scope=renewal.scope,
            source="rule",
            event_id=renewal.event_id,
            incident_id=renewal.incident_id,
        )
        log.error("dead-man's switch fired", switch=renewal.name, scope=renewal.scope, action=renewal.action)
        accounts = _accounts_of(renewal.scope, self._settings)
        if renewal.action == KILL and accounts:
            request = KillRequest(
                reason=f"{who} was silent for {renewal.within:g} s",
                operator=who,
                scope=renewal.scope,
                accounts=accounts,
                event_id=renewal.event_id,
                incident_id=renewal.incident_id,
            )
            self._taken.add(renewal.event_id)
            self._tracked(self._kill_and_forget(request, trip, silent))
            return
        await trip.make(self._breaker(renewal.scope, "rule"))
        await asyncio.to_thread(unregister_fired, self._redis, silent)

    async def _kill_and_forget(self, request: KillRequest, trip: PendingTrip, silent: OverdueSwitch) -> None:
        await self._kill(request, "rule", lambda _: None, trip=trip)
        try:
            await asyncio.to_thread(unregister_fired, self._redis, silent)
        except BreakerError as error:
            log.warning("a switch that fired is still registered", switch=request.operator, error=str(error))

    async def _keep_warm(self) -> None:
        """A reading now and then, so that no connection has been closed for idleness when it is needed."""
        while not self._stopping.is_set():
            await self._breaker("global", "cli").get_status()
            for broker in self._brokers.values():
                try:
                    await broker.clock()
                    self._note(f"venue of {broker.name}", None)
                except BrokerError as error:
                    self._note(f"venue of {broker.name}", error)
            await asyncio.sleep(KEEP_WARM_EVERY)

    def _breaker(self, scope: str, source: str) -> AsyncCircuitBreaker:
        if (scope, source) not in self._breakers:
            self._breakers[scope, source] = async_breaker_of(self._settings, scope, source=source)
        return self._breakers[scope, source]

    def _note(self, what: str, error: Exception | None) -> None:
        before = self._trouble.pop(what, None)
        if error is not None:
            self._trouble[what] = str(error)
            if before is None:
                log.warning("standby in trouble", what=what, error=str(error))
        elif before is not None:
            log.info("standby well again", what=what)

    async def _close(self) -> None:
        for broker in self._brokers.values():
            await broker.aclose()
        for breaker in self._breakers.values():
            await breaker.close()
        await self._stream.aclose()
        self._redis.close()


async def _show_progress(run: KillRun, say: Say) -> None:
    while True:
        body = _progress.dump_python(list(run.progress.values()), mode="json")
        say({"event": "PROGRESS", "elapsed": run.elapsed, "incident_id": run.incident_id, "accounts": body})
        await asyncio.sleep(PROGRESS_EVERY)


def _reported(report: KillReport) -> Mapping[str, Any]:
    return {"event": "REPORT", "flat": report.flat, "report": _report.dump_python(report, mode="json")}


def _same_configuration(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> bool:
    """What the asker has must be what we have; we may know more, such as secrets that a shell is not given."""
    variables = theirs.get("variables")
    same_file = theirs.get("file") in (None, ours["file"])
    return same_file and isinstance(variables, dict) and variables.items() <= ours["variables"].items()


def _accounts_of(scope: str, settings: Settings) -> tuple[str, ...]:
    kind, _, name = scope.partition(":")
    if kind != "account":
        return tuple(settings.accounts)
    return (name.upper(),) if name.upper() in settings.accounts else ()


def stand_by(settings: Settings, fingerprint: Mapping[str, Any]) -> None:
    """Until SIGTERM or SIGINT; a kill that has begun is brought to its end first.

    Raises AlreadyStandingBy; ConfigurationError when an adapter is missing, or the socket can't be made.
    """
    set_prefect_timeouts()

    async def run() -> None:
        standby = Standby(settings, fingerprint)
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, standby.stop)
        await standby.run()

    try:
        asyncio.run(run())
    except OSError as error:
        raise ConfigurationError(f"the standby's socket can't be made: {error}; correct state_dir") from None
