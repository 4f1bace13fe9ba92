"""Watch a reset from the process that has made it, where no service begins to."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from configuration.breakers import async_breaker_of
from configuration.settings import Settings
from tasks.recovery.reset import Record
from tasks.recovery.reset_watch import WatchEnd, Watcher, needs_a_watcher, reset_to_watch, watch_reset

WATCHED_WITHIN = 3.0
"""Seconds in which a service, which looks every second, begins to watch."""


async def watch_unless_watched(
    settings: Settings, scope: str, holder: str, record: Record, say: Callable[[str], None], *, aside: str = ""
) -> WatchEnd | None:
    """See to it that the newest reset of `scope` is watched: by a service within `WATCHED_WITHIN` s, or else here.

    `holder` says where *here* is, and `aside` what there is to add where people are told so. Returns how the watch
    ended; None where a service watches, or it is over already.

    Raises BreakerUnavailable and RedisRefused where Redis can't be told of what was seen.
    """
    breaker = async_breaker_of(settings, scope)
    try:
        reset = await reset_to_watch(breaker)
        if reset is None:
            return None
        give_up = time.monotonic() + WATCHED_WITHIN
        while await needs_a_watcher(settings, reset):
            if time.monotonic() > give_up:
                say(f"no service watches this reset, so it is watched here for {settings.recovery.watch:g} s{aside}")
                return await watch_reset(settings, breaker, reset, holder, record, Watcher())
            await asyncio.sleep(0.2)
        say(f"the reset is watched by the services for {settings.recovery.watch:g} s; anything red trips again")
        return None
    finally:
        await breaker.close()
