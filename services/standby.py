"""Stand by with everything imported and every connection open, so that a kill switch begins within milliseconds.

It takes requests from a socket in the state directory (its owner only) and from the stream `circuit_breaker:
kill_requests`; it makes trips that wait on this host as soon as Redis is back, watches the dead-man's switches, takes
over a kill switch whose process fell silent, and resumes pending exits that nobody else resumes. It watches resets that
nobody else watches, and tells people of transitions that nobody else has told.
Nothing depends on it: `breaker kill` does it all itself when nobody acknowledges. Both at once are harmless, as both
use the event and incident ids of the request. A second standby on the host refuses to start; on other hosts any
number may run.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any

import structlog

from breaker.errors import BreakerError
from breaker.process_lock import process_lock
from brokers.protocol import BrokerError
from configuration.orchestrator import set_prefect_timeouts
from configuration.running import RunningConfiguration
from configuration.settings import ConfigurationError
from services.deadman_watch import DeadManWatch
from services.exit_watch import LOOK_EVERY, ResumeWatch
from services.kill_executor import KillExecutor
from services.kill_intake import KillSocket, KillStream
from services.kill_takeover import LOOK_EVERY as TAKEOVER_EVERY
from services.kill_takeover import KillTakeover
from services.notification_watch import NotificationWatch
from services.outage_log import OutageLog
from services.pending_trips import make_pending_trips
from services.unwatched_resets import ResetWatch
from tasks.running_services import STANDBY, reported

WATCH_EVERY = 0.25
KEEP_WARM_EVERY = 20.0
LEAVE_WITHIN = 5.0
"""Seconds that the watchers get to end, once asked to stop; a kill switch gets all the time that it takes."""

log = structlog.get_logger(__name__)


class AlreadyStandingBy(BreakerError):
    """Another standby has this state directory."""


class Standby:
    """Stands by until `stop`. `fingerprint` is compared with that of each request from the socket."""

    def __init__(self, running: RunningConfiguration, fingerprint: Mapping[str, Any]) -> None:
        self._running = running
        self._settings = settings = running.settings
        self._outages = OutageLog("standby")
        self._executor = KillExecutor(running)
        self._socket = KillSocket(settings, self._executor, fingerprint)
        self._stream = KillStream(settings, self._executor, self._outages)
        self._takeover = KillTakeover(settings, self._executor, self._outages)
        self._deadmen = DeadManWatch(running, self._executor)
        self._exits = ResumeWatch(running, self._executor.lent, self._executor.begin)
        self._watches = (NotificationWatch(settings), ResetWatch(settings, "standby"))
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        """Raises AlreadyStandingBy, or OSError when the socket can't be made."""
        with self._single_instance(), reported(STANDBY, self._running):
            await self._socket.listen()
            watchers = [
                asyncio.create_task(self._repeat(watch, pause))
                for watch, pause in (
                    (self._stream.read, 0.0),
                    (self._watch_host_and_deadmen, WATCH_EVERY),
                    (self._exits.look, LOOK_EVERY),
                    (self._takeover.look, TAKEOVER_EVERY),
                    (self._keep_warm, KEEP_WARM_EVERY),
                )
            ]
            for watch in self._watches:
                watch.start()
            log.info("standing by", socket=str(self._socket.path), accounts=sorted(self._executor.brokers))
            try:
                await self._stopping.wait()
            finally:
                self._socket.close()
                await asyncio.gather(*(asyncio.to_thread(watch.stop) for watch in self._watches))
                for watcher in watchers:
                    watcher.cancel()
                # A client library may swallow a cancellation; the loops look for themselves whether to go on.
                await asyncio.wait(watchers, timeout=LEAVE_WITHIN)
                await self._executor.finish()  # what was begun is brought to its end
                await self._executor.close()
                await self._stream.close()
                await self._takeover.close()
                self._deadmen.close()

    def stop(self) -> None:
        self._stopping.set()

    @contextlib.contextmanager
    def _single_instance(self) -> Iterator[None]:
        directory = self._settings.state_dir
        directory.mkdir(parents=True, exist_ok=True)
        with process_lock(directory / "standby.lock") as mine:
            if not mine:
                raise AlreadyStandingBy(f"a standby already runs with {directory}; nothing was started")
            yield

    async def _repeat(self, watch: Callable[[], Awaitable[None]], pause: float) -> None:
        while not self._stopping.is_set():
            await watch()
            await asyncio.sleep(pause)

    async def _watch_host_and_deadmen(self) -> None:
        try:
            await asyncio.to_thread(make_pending_trips, self._settings)
            await self._deadmen.fire_overdue()
            self._outages.note("watch", None)
        except BreakerError as error:
            self._outages.note("watch", error)

    async def _keep_warm(self) -> None:
        """A reading now and then, so that no connection has been closed for idleness when it is needed."""
        await self._executor.breaker("global", "cli").get_status()
        for broker in self._executor.brokers.values():
            try:
                await broker.clock()
                self._outages.note(f"venue of {broker.name}", None)
            except BrokerError as error:
                self._outages.note(f"venue of {broker.name}", error)


def stand_by(running: RunningConfiguration, fingerprint: Mapping[str, Any]) -> None:
    """Until SIGTERM or SIGINT; a kill switch that has begun is brought to its end first.

    Raises AlreadyStandingBy; ConfigurationError when an adapter is missing, or the socket can't be made.
    """
    set_prefect_timeouts()

    async def run() -> None:
        standby = Standby(running, fingerprint)
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, standby.stop)
        await standby.run()

    try:
        asyncio.run(run())
    except OSError as error:
        raise ConfigurationError(f"the standby's socket can't be made: {error}; correct state_dir") from None
