"""Publish each run's status in Redis, so that every console shows every run: its own, another's, the command line's.

Keys: `circuit_breaker:kill_run:{run id}` holds one status, `circuit_breaker:kill_runs` the ids of the newest, scored
by their start. No run waits for it. It is for people, and it is the run's sign of life: one that falls silent is taken
over (services/kill_takeover.py), and one that was asked for by a trip and gives none is begun there. A share is not
among the ids: the run that it is a part of reads it, and shows it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from breaker.keys import ASKED_KILLS, KILL_RUN, KILL_RUN_KEPT, KILL_RUNS
from configuration.redis_clients import async_redis_client
from tasks.kill.close_names import KEPT_FLAT_MS, KEPT_MS
from tasks.kill.close_names import KEY as CLOSES
from tasks.kill.run import KillRun
from tasks.kill.status import KillStatus, kill_status

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from configuration.settings import Settings

RUNS = KILL_RUNS
RUN = KILL_RUN
EVERY = 0.2
"""Seconds between two statuses, if anything has changed."""
SIGN_OF_LIFE = 1.0
"""Seconds between two statuses in which nothing has changed."""
TAKEN_OVER_AFTER = 3.0
"""Seconds without a sign of life after which a run, or a share of it, is taken over."""
ATTEMPT = 2.0
"""Seconds that Redis, and the Sentinels before it, may take for one on the way. Nobody waits for it, and a busy host
that gave up sooner would give no sign of life at all."""
LIMIT = 0.5
"""Seconds for which the end of a run may be held up by it, in all."""
AWAY = 0.5
"""Seconds for which a Redis that failed is left alone."""
KEPT = KILL_RUN_KEPT
_MOST = 50


@asynccontextmanager
async def publish_status(run: KillRun, settings: Settings) -> AsyncIterator[None]:
    """Keep the run's status up to date while the block goes on, beside it, and leave how it ended."""
    redis = _redis(settings)
    publishing = asyncio.create_task(_keep_publishing(run, redis))
    problem = ""
    try:
        yield
    except BaseException as error:
        problem = f"It broke off ({type(error).__name__}). Run it again; it is safe to."
        raise
    finally:
        publishing.cancel()
        with suppress(TimeoutError):
            async with asyncio.timeout(LIMIT):
                await asyncio.wait({publishing})
                ended = replace(kill_status(run), over=True, problem=problem)
                await _publish(redis, ended, listed=run.share is None)
                await redis.aclose()


async def publish_beginning(status: KillStatus, settings: Settings) -> None:
    """A first sign of life, of a run that is not open yet: what it has begun is taken over from here on."""
    async with _redis(settings) as redis:
        await _publish(redis, status, listed=True)


def _redis(settings: Settings) -> Redis:
    """A client that tries everything once."""
    from redis.asyncio.retry import Retry  # noqa: PLC0415  only where a run goes on
    from redis.backoff import NoBackoff  # noqa: PLC0415

    return async_redis_client(settings, timeout=ATTEMPT, retry=Retry(NoBackoff(), 0))


async def _keep_publishing(run: KillRun, redis: Redis) -> None:
    shown: KillStatus | None = None
    shown_at = float("-inf")
    while True:  # at once: whoever dies right after the first cancel has left a sign of life
        status = kill_status(run)
        still = replace(status, elapsed=0.0)
        if still != shown or time.monotonic() - shown_at >= SIGN_OF_LIFE:
            if await _publish(redis, status, listed=run.share is None):
                shown, shown_at = still, time.monotonic()
            else:
                await asyncio.sleep(AWAY)
        await asyncio.sleep(EVERY)


async def _publish(redis: Redis, status: KillStatus, *, listed: bool) -> bool:
    from redis.exceptions import RedisError  # noqa: PLC0415

    try:
        async with asyncio.timeout(ATTEMPT):
            asked = redis.pipeline(transaction=False)
            asked.set(f"{RUN}{status.run_id}", status.to_json(), ex=KEPT)
            if listed:
                asked.hdel(ASKED_KILLS, status.event_id or "")
                asked.zadd(RUNS, {status.run_id: status.started_at.timestamp()})
                asked.zremrangebyrank(RUNS, 0, -_MOST - 1)
                asked.expire(RUNS, KEPT)
            kept = KEPT_FLAT_MS if status.over and status.flat else KEPT_MS
            for account in status.covered:
                asked.pexpire(f"{CLOSES}{account}", kept)
            await asked.execute()
    except (RedisError, OSError):  # a timeout is an OSError too
        return False
    return True


async def read_kill_statuses(redis: Redis, known: Mapping[str, KillStatus], limit: int) -> list[KillStatus]:
    """The newest runs, newest first; those that are `known` to be over are not read again.

    Raises RedisError, OSError.
    """
    listed: Any = await redis.zrevrange(RUNS, 0, limit - 1)
    ids: list[str] = [name.decode() for name in listed]
    wanted = [name for name in ids if name not in known or not known[name].over]
    read = {name: known[name] for name in ids if name not in wanted} | await read_runs(redis, wanted)
    return [read[name] for name in ids if name in read]


async def read_runs(redis: Redis, ids: Sequence[str]) -> dict[str, KillStatus]:
    """These runs, as far as Redis has them. How long nothing was heard of one is told by its clock.

    Raises RedisError, OSError.
    """
    asked = redis.pipeline(transaction=False)
    for name in ids:
        asked.get(f"{RUN}{name}")
        asked.pttl(f"{RUN}{name}")
    replies: list[Any] = await asked.execute() if ids else []
    read = {}
    for name, raw, left in zip(ids, replies[::2], replies[1::2], strict=True):
        with suppress(ValueError, TypeError):  # it has expired, or somebody has written something else there
            read[name] = replace(KillStatus.from_json(raw), silent_for=max(0.0, KEPT - left / 1000))
    return read
