"""See to it that people are told of every transition within a second or two, whoever made it."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import closing

import structlog

from breaker.keys import GLOBAL
from configuration.redis_clients import redis_client
from configuration.settings import Settings
from ledger.configured import open_ready_ledger
from ledger.outbox import known_scopes
from services.outage_log import OutageLog
from tasks.transition_notices import tell_transitions

EVERY = 1.0
"""Seconds between two looks; one costs one command per breaker."""
SCOPES_EVERY = 30.0

log = structlog.get_logger(__name__)


class NotificationWatch(threading.Thread):
    """Runs until `stop`. Any number may run, on any host: each transition is told by one of them."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(name="notification watch", daemon=True)
        self._settings = settings
        self._stop_asked = threading.Event()
        self._outages = OutageLog("notification watch")
        self._scopes: tuple[str, ...] = (GLOBAL,)
        self._scopes_read = float("-inf")

    def stop(self) -> None:
        self._stop_asked.set()
        self.join(5)

    def run(self) -> None:
        while self._settings.notifications.any_channel and not self._stop_asked.wait(EVERY):
            self._find_scopes()
            for scope in self._scopes:
                try:
                    for told in asyncio.run(tell_transitions(self._settings, scope)):
                        say = log.info if told.delivered else log.error
                        say("people told", title=told.notification.title, failures=[str(one) for one in told.failures])
                    self._outages.note(scope, None)
                except Exception as error:  # whatever one breaker fails with must not end the watch over the others
                    self._outages.note(scope, error)

    def _find_scopes(self) -> None:
        if time.monotonic() - self._scopes_read < SCOPES_EVERY:
            return
        self._scopes_read = time.monotonic()
        try:
            with closing(redis_client(self._settings)) as redis, closing(open_ready_ledger(self._settings)) as ledger:
                self._scopes = known_scopes(redis, ledger, timeout=self._settings.redis_timeout)
            self._outages.note("scopes", None)
        except Exception as error:  # without database or Redis, those that are known are watched on
            self._outages.note("scopes", error)
