"""Read the states of many breakers in one exchange with Redis, by the rules of one breaker's `get_status`."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from breaker.checked_inputs import checked_seconds
from breaker.deadline_client import AsyncDeadlineClient, DeadlineClient
from breaker.errors import BreakerError, InvalidInput, RedisRefused
from breaker.keys import GLOBAL, Keys, scope_of_state
from breaker.redis_time import microseconds_of, to_datetime
from breaker.requests import Request, raise_if_error, read_status_replies
from breaker.state import State, Status, is_older, reject_older, unknown_status

if TYPE_CHECKING:
    from redis import Redis
    from redis.asyncio import Redis as AsyncRedis

WORST_FIRST = (State.TRIPPED, State.UNKNOWN, State.QUIET_PERIOD, State.OPEN)
"""What stops most; a state that is not known may be any, and stops gates as a trip does."""
_DAY = 86_400_000_000


def restricted_breakers(statuses: Mapping[str, Status]) -> dict[str, Status]:
    """Those that are not OPEN, worst first, then by name. Pure."""
    found = [(scope, status) for scope, status in statuses.items() if status.state is not State.OPEN]
    return dict(sorted(found, key=lambda each: (WORST_FIRST.index(each[1].state), each[0])))


class _StatusReaderBase:
    """What both readers share: requests, how replies are read, what was read last and the newest state seen so far."""

    def __init__(self, timeout: float, remember: bool) -> None:
        self._timeout = checked_seconds(timeout, "timeout", least=0.001)
        self._remember = remember
        self._newest_seen: dict[str, Status] = {}
        self._last: dict[str, tuple[bytes, int, Status]] = {}

    def _read(self, keys: Sequence[Keys], replies: Sequence[Any], seen: Mapping[str, Status]) -> dict[str, Status]:
        return {
            each.scope: self._read_one(each, replies[0], raw, seen.get(each.scope))
            for each, raw in zip(keys, replies[1:], strict=True)
        }

    def _read_one(self, keys: Keys, clock: Any, raw: Any, seen: Status | None) -> Status:
        """`seen` is the newest known before the request was sent; the answer can't be older by rights."""
        try:
            status = self._decode(keys, clock, raw)
        except BreakerError as error:
            return unknown_status(str(error))
        if not self._remember:
            return status
        status = reject_older(status, seen, keys.scope)
        newest = self._newest_seen.get(keys.scope)
        if status.epoch is not None and (newest is None or not is_older(status, newest)):
            self._newest_seen[keys.scope] = status
        return status

    def _decode(self, keys: Keys, clock: Any, raw: Any) -> Status:
        """What has not changed is not decoded again, unless what it means depends on the time."""
        raise_if_error(clock)
        now = microseconds_of(clock)
        last = self._last.get(keys.scope)
        if last is not None and last[0] == raw and last[1] == now // _DAY:
            return last[2].at(to_datetime(now))
        status = read_status_replies((clock, raw), keys)
        if isinstance(raw, bytes) and status.state is not State.UNKNOWN and b"QUIET_PERIOD" not in raw:
            self._last[keys.scope] = (raw, now // _DAY, status)
        else:
            self._last.pop(keys.scope, None)
        return status


class StatusReader(_StatusReaderBase):
    """Reads any number of breakers over one connection of its own. Not to be shared between threads.

    Args:
        redis: A plain `redis.Redis`, however it is set up.
        timeout: Seconds after which each reading has ended.
        remember: Whether a state older than one read before is UNKNOWN, as with a breaker that is kept.

    Raises:
        InvalidInput: `timeout` makes no sense, or `redis` is no plain Redis client.
    """

    def __init__(self, redis: Redis, *, timeout: float = 2.0, remember: bool = True) -> None:
        super().__init__(timeout, remember)
        self._client = DeadlineClient(redis, self._timeout)

    def read(self, scopes: Iterable[str]) -> dict[str, Status]:
        """Each breaker's state at one moment by Redis's clock, as `CircuitBreaker.get_status` tells it. Never raises.

        What can't be told of one, as for want of a permission, says nothing about another.
        """
        keys, found = _usable(scopes)
        seen = dict(self._newest_seen)
        by = time.monotonic() + self._timeout
        try:
            try:
                replies = self._client.execute(_together(keys), by=by)
            except RedisRefused:
                replies = self._client.execute(_each_by_itself(keys), by=by)
        except BreakerError as error:
            return found | _all_unknown(keys, error)
        return found | self._read(keys, replies, seen)

    def stored_scopes(self) -> tuple[str, ...]:
        """The scope of every breaker that has a state in this Redis. Raises BreakerUnavailable and RedisRefused."""
        by = time.monotonic() + self._timeout
        state = Keys.of(GLOBAL).state
        found: set[str] = set()
        cursor = b"0"
        while True:
            scan = ("SCAN", cursor, "MATCH", f"{state}*", "COUNT", 1_000)
            cursor, names = self._client.execute(Request("look for breakers", (scan,)), by=by)[0]
            keys = (name.decode("utf-8", "replace") for name in names)
            found.update(scope_of_state(key) for key in keys if key == state or key.startswith(f"{state}:"))
            if cursor == b"0":
                return tuple(sorted(found))

    def close(self) -> None:
        """Close the connection. The reader may be used again afterwards."""
        self._client.close()


class AsyncStatusReader(_StatusReaderBase):
    """`StatusReader` for asyncio: the same arguments and results. Tasks may share it."""

    def __init__(self, redis: AsyncRedis, *, timeout: float = 2.0, remember: bool = True) -> None:
        super().__init__(timeout, remember)
        self._client = AsyncDeadlineClient(redis, self._timeout)

    async def read(self, scopes: Iterable[str]) -> dict[str, Status]:
        """As `StatusReader.read`."""
        keys, found = _usable(scopes)
        seen = dict(self._newest_seen)
        by = time.monotonic() + self._timeout
        try:
            try:
                replies = await self._client.execute(_together(keys), by=by)
            except RedisRefused:
                replies = await self._client.execute(_each_by_itself(keys), by=by)
        except BreakerError as error:
            return found | _all_unknown(keys, error)
        return found | self._read(keys, replies, seen)

    async def close(self) -> None:
        """As `StatusReader.close`."""
        await self._client.close()


def _usable(scopes: Iterable[str]) -> tuple[list[Keys], dict[str, Status]]:
    """The keys of each scope, and what is to be said of one whose name can't be used."""
    keys, found = [], {}
    for scope in dict.fromkeys(scopes):
        try:
            keys.append(Keys.of(scope))
        except InvalidInput as error:
            found[scope] = unknown_status(str(error))
    return keys, found


def _purpose(keys: Sequence[Keys]) -> str:
    return f"read {keys[0].state}" if len(keys) == 1 else f"read the states of {len(keys)} breakers"


def _together(keys: Sequence[Keys]) -> Request:
    # TIME first: a state can then only be judged by a clock that is not ahead of it, which errs to the strict side.
    return Request(_purpose(keys), (("TIME",), *(("GET", each.state) for each in keys)))


def _each_by_itself(keys: Sequence[Keys]) -> Request:
    """The same, where the refusal of one read is no reason not to take the others' answers."""
    return Request(_purpose(keys), (("TIME",),), trailing_commands=tuple(("GET", each.state) for each in keys))


def _all_unknown(keys: Sequence[Keys], error: BreakerError) -> dict[str, Status]:
    return {each.scope: unknown_status(str(error)) for each in keys}
