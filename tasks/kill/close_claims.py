"""Let one of the runs that are at work on an account send each close, where the venue would take it from both.

A venue that refuses a second order with the client order id of the first needs none of this. At any other two kill
switches that look at the same book in the same moment find the same close missing, and would both send it. So whoever
is about to send one sets its name in Redis first, if nobody has. Without Redis each run asks the venue, and sends what
it finds missing.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING

from configuration.redis_clients import async_redis_client

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from configuration.settings import Settings

KEY = "circuit_breaker:close_claims:"
"""Before an account's name and the close's: the run that sends it."""
KEPT_MS = 600_000
"""Longer than anybody looks for a close whose answer was lost; by then it shows in the venue's lists, or never came."""
LIMIT = 0.5
"""Seconds that Redis may take for an answer."""
AWAY_FOR = 5.0
"""Seconds for which a Redis that did not answer is not asked again: closes go on without it."""


class CloseClaims:
    """The closes of every account of one run, as it claims them. `run_id` is the run's own."""

    def __init__(self, settings: Settings, run_id: str) -> None:
        self._settings = settings
        self._run_id = run_id
        self._away_until = float("-inf")
        self._redis: Redis | None = None

    def of(self, account: str) -> Callable[[str], Awaitable[bool | None]]:
        """Those of one account: claims a close by its name."""
        return partial(self.claim, account)

    async def claim(self, account: str, name: str) -> bool | None:
        """Whether the close of that name is this run's to send; None where Redis doesn't tell."""
        from redis.exceptions import RedisError  # noqa: PLC0415  only where a venue needs it

        if time.monotonic() < self._away_until:
            return None
        try:
            before = await self._client().set(f"{KEY}{account}:{name}", self._run_id, nx=True, px=KEPT_MS, get=True)
        except (RedisError, OSError):
            self._away_until = time.monotonic() + AWAY_FOR
            return None
        return before is None or before == self._run_id.encode()

    async def aclose(self) -> None:
        """Release the connection."""
        redis, self._redis = self._redis, None
        if redis is not None:
            await redis.aclose()

    def _client(self) -> Redis:
        """One for all closes, which makes a connection that broke anew."""
        if self._redis is None:
            from redis.asyncio.retry import Retry  # noqa: PLC0415
            from redis.backoff import NoBackoff  # noqa: PLC0415

            self._redis = async_redis_client(self._settings, timeout=LIMIT, retry=Retry(NoBackoff(), 0))
        return self._redis
