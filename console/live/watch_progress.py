"""Say of a reset whether it is watched, and when that ended, for as long as that is so."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from redis.asyncio import Redis

from breaker import BreakerError
from breaker.deadline_client import AsyncDeadlineClient
from breaker.state import State, Status
from tasks.checks.probe import RedisReader
from tasks.recovery.reset_watch import WatchRecord, read_watch


@dataclass(frozen=True, slots=True)
class ResetWatched:
    """`until` is when the watch ends, or has ended; None where nobody watches."""

    holder: str = ""
    since: datetime | None = None
    until: datetime | None = None
    over: bool = False


async def read_reset_watch(redis: Redis, scope: str, timeout: float) -> WatchRecord | str | None:
    """The newest watch, or why it can't be told, within `timeout` seconds."""
    client = AsyncDeadlineClient(redis, timeout)
    try:
        return await read_watch(RedisReader(client), scope)
    except (BreakerError, ValueError) as error:
        return str(error)
    finally:
        await client.close()


def reset_watched(status: Status, watch: WatchRecord | None, seconds: float) -> ResetWatched | None:
    """What is to be said of the watch over the reset that `status` rests on; None where it rests on no reset.

    A watch lasts `seconds`. What ends it well is a transition of its own where the quiet period was not over yet.
    """
    if status.state not in (State.QUIET_PERIOD, State.OPEN) or status.epoch is None:
        return None
    of_this_reset = watch is not None and status.epoch in (watch.epoch, watch.epoch + 1)
    if watch is None or not of_this_reset:
        return ResetWatched() if status.state is State.QUIET_PERIOD else None
    if watch.ended is not None:
        return ResetWatched(watch.holder, watch.began, watch.ended, over=True)
    if watch.is_abandoned:
        return ResetWatched()
    return ResetWatched(watch.holder, watch.began, watch.began + timedelta(seconds=seconds))
