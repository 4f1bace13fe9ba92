"""Name the closes of all runs that work on an account at the same time alike, so that the venue takes each once.

A close is named by an incident, its symbol and a number, and a name that the venue knows is refused: that is what makes
two runs of one incident harmless. Two kill switches of different breakers (`global` and `account:ALPHA`) are of
different incidents. So the first one's incident is kept in Redis for each account while it works there, and whoever
comes meanwhile names its closes by that one. Without Redis each goes by its own. Whoever takes a run over, which may
yet be alive, names its closes as that one's last sign of life says, and by their incident where it says nothing: what
is agreed by now need not be what the other one had heard of.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from uuid import UUID

from configuration.redis_clients import async_redis_client

if TYPE_CHECKING:
    from configuration.settings import Settings
    from tasks.kill.run import KillRun

KEY = "circuit_breaker:closes:"
"""Before an account's name: the incident that closes in it are named by."""
KEPT_MS = 60_000
"""For how long after a run's last sign of life its name is used by the next."""
KEPT_FLAT_MS = 5_000
"""The same after a run that has left the account flat; one that is still at work there renews it every second."""
LIMIT = 1.5
"""Seconds that Redis may take, beside the cancels; nothing is closed before."""


async def agree_on_close_names(run: KillRun, settings: Settings, *, adopt: bool = True) -> None:
    """Without `adopt` others are told this run's names, and it keeps them. Never raises."""
    from redis.asyncio.retry import Retry  # noqa: PLC0415  only where a run goes on
    from redis.backoff import NoBackoff  # noqa: PLC0415
    from redis.exceptions import RedisError  # noqa: PLC0415

    redis = async_redis_client(settings, timeout=LIMIT, retry=Retry(NoBackoff(), 0))
    try:
        async with asyncio.timeout(LIMIT):
            asked = redis.pipeline(transaction=False)
            for name, account in run.accounts.items():
                asked.set(f"{KEY}{name}", account.closes_as, nx=True, px=KEPT_MS, get=True)
            before: list[Any] = await asked.execute()
        for account, incident in zip(run.accounts.values(), before, strict=True):
            if adopt and isinstance(incident, bytes):
                account.closes_as = str(UUID(incident.decode()))
    except (RedisError, OSError, ValueError):  # it is away, or somebody has written something else there
        return
    finally:
        await redis.aclose()
