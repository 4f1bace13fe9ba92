"""Watch over the breakers beside the deployments: announce trips, watch resets, tell people, monitor the accounts, and
keep the venues' own timers armed.

`services.serve` does so for what it serves. Where workers of a Prefect work pool run the deployments instead,
`breaker services` does: on as many hosts as one likes, as each trip is announced, each reset watched and each
transition told by one of them.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from configuration.running import RunningConfiguration
from configuration.settings import ConfigurationError, Settings
from services.account_monitor import MonitorThread
from services.notification_watch import NotificationWatch
from services.safety_nets import SafetyNetThread, any_configured
from services.trip_watch import TripWatch
from services.unwatched_resets import ResetWatch
from tasks import orchestrator
from tasks.running_services import WATCHES, reported

log = structlog.get_logger(__name__)


@contextmanager
def watching(settings: Settings) -> Iterator[None]:
    """Watch while the block goes on. Outages of Redis, database and orchestrator are outlived, and said."""
    watches: list[TripWatch | ResetWatch | NotificationWatch | MonitorThread | SafetyNetThread] = [
        TripWatch(settings),
        ResetWatch(settings),
        NotificationWatch(settings),
    ]
    if settings.monitor.enabled and (settings.accounts or settings.feeds):
        watches.append(MonitorThread(settings))
    if any_configured(settings.accounts.values()):
        watches.append(SafetyNetThread(settings))
    for watch in watches:
        watch.start()
    try:
        yield
    finally:
        for watch in watches:
            watch.stop()


def watch(running: RunningConfiguration) -> None:
    """Watch until SIGTERM or SIGINT. Raises ConfigurationError where no orchestrator is configured to announce to."""
    if not orchestrator.is_configured():
        raise ConfigurationError("PREFECT_API_URL is not set, so no trip could start its recovery; nothing was started")
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    with reported(WATCHES, running), watching(running.settings):
        log.info("watching", orchestrator=orchestrator.api_url())
        stopping.wait()
