"""Hold what is monitored by one process at a time: a lease of each in Redis, by Redis's clock.

A lease is a string that expires. Whoever holds it renews it every second; of a process that is gone another takes over
within `LEASE` and a look. One that was stopped and wakes up late records nothing more, as each recording looks at the
lease first (`tasks.monitor.measurements`).
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any
from uuid import uuid4

from breaker.deadline_client import AsyncDeadlineClient
from breaker.requests import raise_if_error, script_request, standalone_script

LEASE = 6.0
"""Seconds without a sign of life after which another process takes over."""
EVERY = 1.0
"""Seconds between two signs of life, and between two looks at whether something is to be taken over."""
FEEDS = "feeds"
"""What the lease of all feeds is called."""

_HOLD = standalone_script("""\
#!lua flags=allow-oom
-- KEYS: leases. ARGV[1]: the holder, [2]: milliseconds. Takes those that nobody holds, and renews its own.
local held = {}
for place, key in ipairs(KEYS) do
  local holder = redis.call('GET', key)
  if holder == ARGV[1] or not holder then
    redis.call('SET', key, ARGV[1], 'PX', ARGV[2])
    held[place] = 1
  else
    held[place] = 0
  end
end
return held
""")
_RELEASE = standalone_script("""\
#!lua flags=allow-oom
for _, key in ipairs(KEYS) do
  if redis.call('GET', key) == ARGV[1] then redis.call('DEL', key) end
end
return #KEYS
""")


def lease_of_account(name: str) -> str:
    """What the lease of an account is called."""
    return f"account:{name}"


def account_of(lease: str) -> str:
    """Whose lease it is."""
    return lease.removeprefix("account:")


def lease_key(lease: str) -> str:
    return f"circuit_breaker:monitor_lease:{lease}"


@dataclass(frozen=True, slots=True)
class Holder:
    """One process that monitors; another start of it is another holder."""

    host: str = field(default_factory=socket.gethostname)
    pid: int = field(default_factory=os.getpid)
    id: str = field(default_factory=lambda: uuid4().hex)

    def as_stored(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_stored(cls, raw: bytes) -> Holder:
        """Raises ValueError, TypeError."""
        return cls(**json.loads(raw))

    def __str__(self) -> str:
        return f"{self.host}, process {self.pid}"


class Leases:
    """The leases that one holder asks for. `lease`: seconds after which another one gets what is not renewed."""

    def __init__(self, client: AsyncDeadlineClient, holder: Holder, names: Sequence[str], lease: float = LEASE) -> None:
        self._client = client
        self._holder = holder
        self._names = tuple(names)
        self._milliseconds = round(lease * 1000)

    async def hold(self) -> frozenset[str]:
        """Take what nobody holds and renew what is held; returns what is held now. Raises what Redis's does."""
        held = await self._run(_HOLD, self._milliseconds, purpose="hold the leases of the monitor")
        return frozenset(name for name, is_held in zip(self._names, held, strict=True) if is_held)

    async def release(self) -> None:
        """Let another one begin at once. Raises what Redis's does."""
        await self._run(_RELEASE, purpose="release the leases of the monitor")

    async def _run(self, script: Any, *arguments: int, purpose: str) -> Any:
        if not self._names:
            return ()
        keys = [lease_key(name) for name in self._names]
        request = script_request(script, keys, (self._holder.as_stored(), *arguments), purpose=purpose)
        (reply,) = await self._client.execute(request)
        raise_if_error(reply)
        return reply
