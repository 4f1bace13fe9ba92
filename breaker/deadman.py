"""Trip a scope, once, when an engine or an operator stops renewing its dead-man's switch in time.

A renewal is a Redis key that expires, so that time is Redis's and a stopped process needs to do nothing. The standby
executor watches (`breaker standby`); without one running nothing fires.

A renewal names the server that took it by its run id, which a start from a copy of its data, and a failover, changes.
One that another server took may come from the past, from before a release even: its silence trips, and never kills.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid5

from breaker.checked_inputs import checked_seconds
from breaker.errors import BreakerUnavailable, InvalidInput
from breaker.keys import GLOBAL, check_scope
from breaker.uuid7 import uuid7

if TYPE_CHECKING:
    from redis import Redis

TRIP, KILL = "trip", "kill"
"""What silence leads to: a trip, or the kill switch on the scope's accounts too."""

_REGISTER = "circuit_breaker:deadmen"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_NAMESPACE = UUID("4d8f1f36-3b0c-5e0e-8c83-94f6f1f7d2a1")
_UNREGISTER = "if redis.call('HGET', KEYS[1], ARGV[1]) == ARGV[2] then return redis.call('HDEL', KEYS[1], ARGV[1]) end"


def _key(name: str) -> str:
    return f"circuit_breaker:deadman:{name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Renewal:
    """The last sign of life of one switch, and what its silence means.

    Attributes:
        name: The switch's.
        scope: What its silence trips.
        within: Seconds in which the next renewal must come.
        action: `trip`, or `kill`.
        event_id: Of the trip that this renewal's silence makes: whoever sees it first, it happens once.
        incident_id: The incident that this trip begins.
        run: Run id of the Redis server that took it; empty where it may not be read.

    Example:
        >>> Renewal(name="engine-1", within=30.0).scope
        'global'
    """

    name: str
    scope: str = GLOBAL
    within: float
    action: str = TRIP
    event_id: str = field(default_factory=uuid7)
    incident_id: str = field(default_factory=uuid7)
    run: str = ""


@dataclass(frozen=True, slots=True)
class OverdueSwitch:
    """A switch that was not renewed in time.

    Attributes:
        renewal: Its last one.
        name: As it is registered.
        raw: The renewal as it is registered, so that a later one is not taken for it.
        run: Run id of the Redis server that has it now; empty where it may not be read.

    Example:
        >>> OverdueSwitch(Renewal(name="engine-1", within=30.0), b"engine-1", b"{}").renewal.action
        'trip'
    """

    renewal: Renewal
    name: bytes
    raw: bytes
    run: str = ""

    @property
    def is_of_another_run(self) -> bool:
        """Another server took the renewal than has it now: it was restored, restarted or failed over since."""
        return bool(self.run and self.renewal.run and self.run != self.renewal.run)


class DeadMansSwitch:
    """One switch, armed by its first renewal.

    Args:
        redis: A plain `redis.Redis`.
        name: A word of at most 64 characters. A second process that renews the same name keeps the same switch alive.
        within: Seconds from one renewal to the next, at least 0.1.
        scope: What silence trips.
        action: `trip`, or `kill` to flatten the scope's accounts too.

    Raises:
        InvalidInput: an argument can't be used.

    Example:
        >>> from breaker.deadman import DeadMansSwitch
        >>> switch = DeadMansSwitch(client, "engine-1", within=30, scope="strategy:meanrev")
        >>> switch.renew()  # in the engine's loop, more often than every 30 s
        >>> _ = switch.release()  # before it ends in order
    """

    def __init__(self, redis: Redis, name: str, within: float, *, scope: str = GLOBAL, action: str = TRIP) -> None:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise InvalidInput(f"The name {name!r:.80} can't be used; use letters, digits, '_', '.', '-'.")
        if action not in (TRIP, KILL):
            raise InvalidInput(f"action is {action!r:.40}; use {TRIP} or {KILL}.")
        check_scope(scope)
        self._redis = redis
        self._name, self._scope, self._action = name, scope, action
        self._within = checked_seconds(within, "within", least=0.1)
        self._run = ""

    def renew(self) -> None:
        """Give a sign of life.

        Raises:
            BreakerUnavailable: it may not have arrived, and time runs on.
        """
        known = self._run
        if self._renew_on(known) != known:
            self._renew_on(self._run)

    def _renew_on(self, run: str) -> str:
        """Renew, as taken by the server of run id `run`; returns and keeps the run id of the one that did take it."""
        renewal = Renewal(name=self._name, scope=self._scope, within=self._within, action=self._action, run=run)
        with self._redis.pipeline(transaction=False) as together:  # INFO may be forbidden, which would end a MULTI
            together.set(_key(self._name), renewal.event_id, px=round(self._within * 1000))
            together.hset(_REGISTER, self._name, json.dumps(asdict(renewal)))
            together.info("server")
            replies = _call_redis(
                lambda: together.execute(raise_on_error=False), f"renew the dead-man's switch {self._name}"
            )
        for reply in replies[:2]:
            if isinstance(reply, Exception):
                raise _unavailable(reply, f"renew the dead-man's switch {self._name}")
        self._run = _run_id(replies[2])
        return self._run

    def release(self) -> bool:
        """Disarm it: from now on silence means nothing.

        Returns:
            Whether it was armed.

        Raises:
            BreakerUnavailable: it may still be armed.
        """
        with self._redis.pipeline(transaction=True) as together:
            together.hdel(_REGISTER, self._name)
            together.delete(_key(self._name))
            registered, _ = _call_redis(together.execute, f"release the dead-man's switch {self._name}")
        return bool(registered)


def armed_switches(redis: Redis) -> list[str]:
    """The names of the switches that are armed.

    Args:
        redis: A plain `redis.Redis`.

    Returns:
        Sorted.

    Raises:
        BreakerUnavailable: Redis could not be asked.

    Example:
        >>> from breaker.deadman import DeadMansSwitch, armed_switches
        >>> DeadMansSwitch(client, "engine-1", within=30).renew()
        >>> armed_switches(client)
        ['engine-1']
    """
    names = _call_redis(lambda: redis.hgetall(_REGISTER), "read the dead-man's switches")
    return sorted(name.decode("utf-8", "replace") for name in names)


def overdue_switches(redis: Redis) -> Sequence[OverdueSwitch]:
    """The switches whose time is over. For the watcher.

    Args:
        redis: A plain `redis.Redis`.

    Returns:
        Those that were not renewed in time, and whose trip nobody has reported as made.

    Raises:
        BreakerUnavailable: Redis could not be asked.

    Example:
        >>> from breaker.deadman import DeadMansSwitch, overdue_switches
        >>> DeadMansSwitch(client, "engine-1", within=0.1).renew()
        >>> until(lambda: overdue_switches(client))
        >>> [switch.renewal.name for switch in overdue_switches(client)]
        ['engine-1']
    """
    reading = "read the dead-man's switches"
    registered: dict[bytes, bytes] = _call_redis(lambda: redis.hgetall(_REGISTER), reading)
    if not registered:
        return []
    with redis.pipeline(transaction=False) as together:
        together.info("server")
        for name in registered:
            together.exists(_key(name.decode("utf-8", "replace")))
        server, *alive = _call_redis(lambda: together.execute(raise_on_error=False), reading)
    for reply in alive:
        if isinstance(reply, Exception):
            raise _unavailable(reply, reading)
    return [
        OverdueSwitch(_read(name, raw), name, raw, _run_id(server))
        for (name, raw), there in zip(registered.items(), alive, strict=True)
        if not there
    ]


def unregister_fired(redis: Redis, fired: OverdueSwitch) -> None:
    """Take a switch off the register once its trip is made, unless it has been renewed since. For the watcher.

    Args:
        redis: A plain `redis.Redis`.
        fired: The switch.

    Raises:
        BreakerUnavailable: it is seen as overdue again, and its trip, having the same event id, not made again.

    Example:
        >>> from breaker.deadman import DeadMansSwitch, overdue_switches, unregister_fired
        >>> DeadMansSwitch(client, "engine-1", within=0.1).renew()
        >>> until(lambda: overdue_switches(client))
        >>> (fired,) = overdue_switches(client)
        >>> _ = breaker.trip("DEAD_MAN", event_id=fired.renewal.event_id)
        >>> unregister_fired(client, fired)
        >>> overdue_switches(client)
        []
    """
    _call_redis(lambda: redis.eval(_UNREGISTER, 1, _REGISTER, fired.name, fired.raw), "forget a fired switch")


def _read(name: bytes, raw: bytes) -> Renewal:
    """The renewal; one that can't be read is the silence of something unknown, and so concerns everything."""
    try:
        renewal = Renewal(**json.loads(raw))
        check_scope(renewal.scope)
        UUID(renewal.event_id), UUID(renewal.incident_id)
    except (ValueError, TypeError, AttributeError, RecursionError):
        text = raw.decode("utf-8", "replace")
        return Renewal(
            name=name.decode("utf-8", "replace")[:64],
            within=0.0,
            event_id=str(uuid5(_NAMESPACE, text)),
            incident_id=str(uuid5(_NAMESPACE, f"incident of {text}")),
        )
    return renewal


def _call_redis(call: Any, purpose: str) -> Any:
    from redis.exceptions import RedisError  # noqa: PLC0415

    try:
        return call()
    except (RedisError, OSError) as error:
        raise _unavailable(error, purpose) from None


def _unavailable(error: Exception, purpose: str) -> BreakerUnavailable:
    return BreakerUnavailable(f"Redis could not {purpose}: {error}.", may_have_happened=True)


def _run_id(reply: Any) -> str:
    """The run id in the answer to `INFO server`; empty where there is none."""
    return str(reply.get("run_id", "")) if isinstance(reply, dict) else ""
