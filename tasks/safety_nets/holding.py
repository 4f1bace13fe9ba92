"""Hold each account's timer by one process at a time: a lease of each in Redis, and who else would take it over.

A lease expires by Redis's clock. Of a process that is gone another takes over within `LEASE` and a look; one that ends
in order hands over at once, and learns whether anybody is left: only the last one disarms.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from breaker.deadline_client import AsyncDeadlineClient
from breaker.requests import Script, raise_if_error, script_request, standalone_script
from tasks.monitor.leases import Holder

LEASE = 6.0
"""Seconds without a sign of life after which another process takes over."""
EVERY = 1.0
"""Seconds between two signs of life, and between two looks at what is to be done."""
LAST_WITHIN = 20.0
"""Seconds that the last process keeps its lease for while it disarms, so that nobody arms meanwhile."""

_HOLD = standalone_script("""\
#!lua flags=allow-oom
-- KEYS: of each account its lease, and who would hold it. ARGV[1]: this process, [2]: milliseconds.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local held = {}
for place = 1, #KEYS, 2 do
  redis.call('ZREMRANGEBYSCORE', KEYS[place + 1], '-inf', now)
  redis.call('ZADD', KEYS[place + 1], now + ARGV[2], ARGV[1])
  redis.call('PEXPIRE', KEYS[place + 1], ARGV[2])
  local holder = redis.call('GET', KEYS[place])
  if holder == ARGV[1] or not holder then
    redis.call('SET', KEYS[place], ARGV[1], 'PX', ARGV[2])
    held[#held + 1] = 1
  else
    held[#held + 1] = 0
  end
end
return held
""")
_LEAVE = standalone_script("""\
#!lua flags=allow-oom
-- The same keys. ARGV[2]: milliseconds that the last one keeps the lease for. Returns 1 where this process is the last.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local last = {}
for place = 1, #KEYS, 2 do
  redis.call('ZREM', KEYS[place + 1], ARGV[1])
  redis.call('ZREMRANGEBYSCORE', KEYS[place + 1], '-inf', now)
  local holder = redis.call('GET', KEYS[place])
  local mine = holder == ARGV[1]
  if redis.call('ZCARD', KEYS[place + 1]) == 0 and (mine or not holder) then
    redis.call('SET', KEYS[place], ARGV[1], 'PX', ARGV[2])
    last[#last + 1] = 1
  else
    if mine then redis.call('DEL', KEYS[place]) end
    last[#last + 1] = 0
  end
end
return last
""")
_RELEASE = standalone_script("""\
#!lua flags=allow-oom
for place = 1, #KEYS, 2 do
  if redis.call('GET', KEYS[place]) == ARGV[1] then redis.call('DEL', KEYS[place]) end
end
return 1
""")


def lease_key(account: str) -> str:
    return f"circuit_breaker:safety_net_lease:{account}"


def candidates_key(account: str) -> str:
    return f"circuit_breaker:safety_net_candidates:{account}"


class Holding:
    """The accounts that one process asks for. `lease`: seconds after which another one gets what is not renewed.

    Its methods raise what `AsyncDeadlineClient` does: BreakerUnavailable, RedisRefused.
    """

    def __init__(
        self, client: AsyncDeadlineClient, holder: Holder, accounts: Sequence[str], lease: float = LEASE
    ) -> None:
        self._client = client
        self._accounts = tuple(accounts)
        self._me = holder.as_stored()
        self._lease = lease

    async def hold(self) -> frozenset[str]:
        """Take what nobody holds and renew what is held; the accounts that are held now."""
        return await self._run(_HOLD, round(self._lease * 1000), purpose="hold the safety nets")

    async def leave(self) -> frozenset[str]:
        """Hand over what is held; the accounts whose last process this is, which keeps their lease for a while."""
        return await self._run(_LEAVE, round(LAST_WITHIN * 1000), purpose="hand the safety nets over")

    async def release(self) -> None:
        """Let another process begin at once, with what the last one has disarmed too."""
        await self._run(_RELEASE, purpose="let go of the safety nets")

    async def _run(self, script: Script, *milliseconds: int, purpose: str) -> frozenset[str]:
        if not self._accounts:
            return frozenset()
        keys = [key for name in self._accounts for key in (lease_key(name), candidates_key(name))]
        replies: Sequence[Any] = await self._client.execute(
            script_request(script, keys, (self._me, *milliseconds), purpose=purpose)
        )
        raise_if_error(replies[0])
        if script is _RELEASE:
            return frozenset()
        return frozenset(name for name, is_mine in zip(self._accounts, replies[0], strict=True) if is_mine)
