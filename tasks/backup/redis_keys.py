"""Copy what the breakers hold in Redis, each key by its type, and write back what a restore may.

By type and not by DUMP, whose form one server writes and an older or another kind of server refuses. The keys of one
breaker's transitions are read at one moment.

A restore writes back only what records or measures. What acts (requests to kill, dead-man's switches, what is resumed
by itself, watches, locks of venues) is left out: its time has passed, and it would act on a book of today.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from breaker.keys import GLOBAL

if TYPE_CHECKING:
    from redis import Redis
    from redis.client import Pipeline

PREFIX = "circuit_breaker:"

WRITTEN_BACK = frozenset(
    {
        "history",
        "event_ids",
        "equity",
        "equity_readings",
        "transfers",
        "api_errors",
        "api_success",
        "rejections",
        "executions",
        "confirmations",
        "judged",
        "heartbeat",
        "feeds",
        "measurements",
        "monitor_transfers",
        "would_have_tripped",
        "refused_measurements",
        "recovery_evidence",
    }
)
"""The names, without prefix and scope, of what a restore writes into Redis; the state it makes by a trip."""

_OF_TRANSITIONS = ("state", "history", "outbox", "event_ids")

REPORTED_BY_PROCESSES = frozenset({"services", "gates", "gate_reports", "gate_checks", "gate"})
"""What running engines write into any Redis that they are pointed to, an empty one too."""


@dataclass(frozen=True, slots=True)
class StoredKey:
    """One key. Bytes that are no UTF-8 are kept as lone surrogates."""

    key: str
    kind: str
    value: Any
    """Of a string its text; of a hash or a sorted set its pairs, of a stream its entries, as lists."""
    ttl: int | None
    """Milliseconds that it had left; None for ever."""

    @property
    def name(self) -> str:
        """Without prefix and scope: `state`, `heartbeat`."""
        return self.key.removeprefix(PREFIX).partition(":")[0]

    @property
    def scope(self) -> str:
        """Of a key whose name is followed by nothing but its scope."""
        return self.key.removeprefix(PREFIX).partition(":")[2] or GLOBAL

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, line: str) -> StoredKey:
        return cls(**json.loads(line))


def read_keys(redis: Redis) -> list[StoredKey]:
    """Everything under the breakers' prefix. Raises RedisError."""
    keys = sorted(cast("Iterable[bytes]", redis.scan_iter(match=f"{PREFIX}*", count=1_000)))
    found: list[StoredKey] = []
    for group in _groups([_text(key) for key in keys]):
        found += _read_group(redis, group)
    return found


def keys_named(redis: Redis) -> list[str]:
    """Only the names of the keys. Raises RedisError."""
    return sorted(_text(key) for key in cast("Iterable[bytes]", redis.scan_iter(match=f"{PREFIX}*", count=1_000)))


def load_keys(path: Path) -> list[StoredKey]:
    """What `read_keys` found, from the archive. Raises ValueError, TypeError."""
    return [StoredKey.from_json(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write_back(redis: Redis, keys: Iterable[StoredKey], *, age: float) -> int:
    """Write those that a restore may, beside what is there; returns how many. Raises RedisError.

    `age` is how many seconds ago they were read: what was to be forgotten since is left out.
    """
    written = 0
    for stored in keys:
        left = None if stored.ttl is None else stored.ttl - int(age * 1_000)
        if stored.name not in WRITTEN_BACK or (left is not None and left <= 0):
            continue
        with redis.pipeline(transaction=True) as together:
            _write(together, stored)
            if left is not None:
                together.pexpire(stored.key, left)
            together.execute()
        written += 1
    return written


def _groups(keys: Iterable[str]) -> Iterable[Sequence[str]]:
    """The keys of one breaker's transitions together, and every other key by itself."""
    groups = defaultdict[str, list[str]](list)
    for key in keys:
        name, _, scope = key.removeprefix(PREFIX).partition(":")
        groups[f"transitions of {scope}" if name in _OF_TRANSITIONS else key].append(key)
    return groups.values()


def _read_group(redis: Redis, group: Sequence[str]) -> Iterator[StoredKey]:
    kinds = [_text(cast("bytes", redis.type(key))) for key in group]
    with redis.pipeline(transaction=True) as together:
        for key, kind in zip(group, kinds, strict=True):
            _ask(together, key, kind)
        replies = together.execute()
    for position, (key, kind) in enumerate(zip(group, kinds, strict=True)):
        value, ttl = replies[2 * position : 2 * position + 2]
        if kind != "none" and value is not None:
            yield StoredKey(key, kind, _as_json(kind, value), ttl if ttl >= 0 else None)


def _ask(together: Pipeline, key: str, kind: str) -> None:
    match kind:
        case "hash":
            together.hgetall(key)
        case "zset":
            together.zrange(key, 0, -1, withscores=True)
        case "stream":
            together.xrange(key)
        case "list":
            together.lrange(key, 0, -1)
        case "set":
            together.smembers(key)
        case _:
            together.get(key)
    together.pttl(key)


def _as_json(kind: str, value: Any) -> Any:
    match kind:
        case "hash":
            return [[_text(name), _text(item)] for name, item in value.items()]
        case "zset":
            return [[_text(member), score] for member, score in value]
        case "stream":
            return [
                [_text(entry), [[_text(name), _text(item)] for name, item in fields.items()]] for entry, fields in value
            ]
        case "list" | "set":
            return sorted(map(_text, value)) if kind == "set" else [_text(item) for item in value]
    return _text(value)


def _write(together: Pipeline, stored: StoredKey) -> None:
    key, value = stored.key, stored.value
    match stored.kind:
        case "hash":
            together.hset(key, mapping={_bytes(name): _bytes(item) for name, item in value})
        case "zset":
            together.zadd(key, {_bytes(member): score for member, score in value})
        case "stream":
            for entry, fields in value:
                together.xadd(key, {_bytes(name): _bytes(item) for name, item in fields}, id=entry)
        case "list":
            together.rpush(key, *map(_bytes, value))
        case "set":
            together.sadd(key, *map(_bytes, value))
        case _:
            together.set(key, _bytes(value))


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
