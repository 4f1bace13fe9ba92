"""Replay what a monitor recorded for pages: on one thread of its own, one at a time, and not for long."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from breaker.errors import BreakerError
from breaker.limits import Rule
from breaker.rule_table import RULE_TABLE
from configuration.settings import Settings
from tasks.rules_replay import Measured, limits_with, read_recording, replay_rule

WITHIN = 20.0
"""Seconds that one may take."""
MOST_READINGS = 50_000
"""More than a week of readings, 15 s apart."""


class ReplayRunning(BreakerError):
    """Another one is under way. Nothing was begun."""


@dataclass(frozen=True, slots=True)
class ReplayRequest:
    """What is to be replayed. `limit` is as `[rules.SCOPE]` has it, and empty for the one that is configured."""

    account: str
    scope: str
    rule: Rule
    limit: str
    since: datetime
    until: datetime


@dataclass(frozen=True, slots=True)
class Replayed:
    """What the rule would have heard, and the limit that it was judged by."""

    measured: tuple[Measured, ...]
    limit: Decimal


class Replays:
    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        # The reply of Redis, and what is made of it, are large: on the event loop they would hold up every page.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="replay")
        self._running: Future[Replayed] | None = None
        self._closing = False

    def close(self) -> None:
        self._closing = True
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def run(self, asked: ReplayRequest) -> Replayed:
        """Raises InvalidInput, ReplayRunning, ReplayStopped, BreakerUnavailable, RedisRefused, EmbeddedRedisError."""
        if self._running is not None and not self._running.done():
            raise ReplayRunning("Another replay is under way; try again in a moment.")
        self._running = self._thread.submit(self._replay, asked, time.monotonic() + WITHIN)
        return await asyncio.wrap_future(self._running)

    def _replay(self, asked: ReplayRequest, until: float) -> Replayed:
        setting = RULE_TABLE[asked.rule].setting
        changes = {setting: asked.limit} if asked.limit else {}
        limits = limits_with(self._settings, asked.scope, changes, "the limit")
        recording = asyncio.run(
            read_recording(self._settings, asked.account, asked.scope, asked.since, asked.until, MOST_READINGS)
        )
        found = replay_rule(recording, limits, asked.rule, lambda: not self._closing and time.monotonic() < until)
        return Replayed(tuple(found), Decimal(str(getattr(limits, setting))))
