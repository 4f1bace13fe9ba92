"""See to it that people are told of every transition, and of what comes near a limit, within a second or two."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from contextlib import closing
from typing import Any

import structlog

from breaker.deadline_client import DeadlineClient
from breaker.errors import BreakerError
from breaker.keys import GLOBAL, Keys
from breaker.requests import Request
from breaker.rule_requests import WARNINGS
from configuration.redis_clients import redis_client
from configuration.settings import Settings
from ledger.configured import open_ready_ledger
from ledger.outbox import known_scopes
from services.outage_log import OutageLog
from tasks.rule_warnings import tell_warnings
from tasks.transition_notices import RECENT, tell_transitions

EVERY = 1.0
"""Seconds between two looks; one is one exchange with Redis, and more only for breakers that changed lately."""
AGAIN_AFTER = 20.0
"""Seconds after which a breaker is looked at again that has not changed: whoever was about to tell may have died."""
LATELY = RECENT.total_seconds() + 60
"""Seconds; some more than people are told of, as hosts' clocks and Redis's may differ."""
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
        self._looked: dict[str, tuple[Any, float]] = {}
        """By breaker, its newest transition when it was last looked at, and when that was."""
        self._warned: tuple[Any, float] = None, float("-inf")
        """The newest warning when warnings were last told, and when that was."""

    def stop(self) -> None:
        self._stop_asked.set()
        self.join(5)

    def run(self) -> None:
        timeout = self._settings.redis_timeout
        with closing(DeadlineClient(redis_client(self._settings), timeout)) as client:
            while self._settings.notifications.any_channel and not self._stop_asked.wait(EVERY):
                self._find_scopes()
                self._tell(self._changed_lately(client))
                self._tell_warnings(client)

    def _changed_lately(self, client: DeadlineClient) -> list[str]:
        """The breakers with a transition that may be news, and those of which that can't be told."""
        asked = tuple(("ZREVRANGE", Keys.of(scope).history, 0, 0, "WITHSCORES") for scope in self._scopes)
        request = Request("look for news of the breakers", (("TIME",),), trailing_commands=asked)
        try:
            (seconds, _), *found = client.execute(request)
            self._outages.note("histories", None)
        except BreakerError as error:
            self._outages.note("histories", error)
            return []
        newest = dict(zip(self._scopes, found, strict=True))
        return [scope for scope, last in newest.items() if self._is_due(scope, last, int(seconds) - LATELY)]

    def _is_due(self, scope: str, last: Any, since: float) -> bool:
        """`last` is the newest transition with its time, or the error that Redis answered with."""
        if isinstance(last, list) and (not last or float(last[1]) < since):
            return False
        looked = self._looked.get(scope)
        if looked is not None and looked[0] == last and time.monotonic() - looked[1] < AGAIN_AFTER:
            return False
        self._looked[scope] = last, time.monotonic()
        return True

    def _tell(self, scopes: Sequence[str]) -> None:
        for scope in scopes:
            try:
                for told in asyncio.run(tell_transitions(self._settings, scope)):
                    say = log.info if told.delivered else log.error
                    say("people told", title=told.notification.title, failures=[str(one) for one in told.failures])
                self._outages.note(scope, None)
            except Exception as error:  # whatever one breaker fails with must not end the watch over the others
                self._looked.pop(scope, None)
                self._outages.note(scope, error)

    def _tell_warnings(self, client: DeadlineClient) -> None:
        try:
            (newest,) = client.execute(Request("look for warnings", (("XREVRANGE", WARNINGS, "+", "-", "COUNT", 1),)))
            if newest and (newest != self._warned[0] or time.monotonic() - self._warned[1] >= AGAIN_AFTER):
                asyncio.run(tell_warnings(self._settings))
                self._warned = newest, time.monotonic()
            self._outages.note("warnings", None)
        except Exception as error:  # whatever warnings fail with must not end the watch over transitions
            self._outages.note("warnings", error)

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
