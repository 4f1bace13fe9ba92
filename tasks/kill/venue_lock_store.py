"""Keep in Redis and on this host's disk which accounts are locked at their venue by a kill switch; the newer wins.

In Redis the hash `circuit_breaker:venue_locks` has a field for each account, on disk `venue_locks/` of the state
directory a file. Blocks; every answer of Redis has its time limit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from breaker.atomic_file import write_atomically
from configuration.redis_clients import redis_client
from tasks.kill.venue_lock import VenueLock, from_json, to_json

if TYPE_CHECKING:
    from redis import Redis

    from configuration.settings import Settings

KEY = "circuit_breaker:venue_locks"
LIMIT = 0.5
"""Seconds that Redis may take for one answer."""

# Never over a newer one.
_WRITE = """
local read, known = pcall(cjson.decode, redis.call('HGET', KEYS[1], ARGV[1]) or '')
if read and type(known) == 'table' and (tonumber(known.version) or 0) > tonumber(ARGV[2]) then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
return 1
"""


@dataclass(frozen=True, slots=True)
class LockReading:
    """What is known of each account that was ever locked, by name, and what could not be read, each as a sentence."""

    known: tuple[VenueLock, ...] = ()
    problems: tuple[str, ...] = ()

    def of(self, account: str) -> VenueLock | None:
        return next((lock for lock in self.known if lock.account == account), None)

    @property
    def held(self) -> tuple[VenueLock, ...]:
        """The locks that are a kill switch's, or that one has lifted for a while only."""
        return tuple(lock for lock in self.known if lock.ours)

    def of_scope(self, scope: str) -> tuple[VenueLock, ...]:
        """Those of `held` that the reset of this scope's breaker ends, or has a part in."""
        return tuple(lock for lock in self.held if scope in lock.holders)


class VenueLockStore:
    """The locks that `redis` and `directory` know of. Safe to share among processes and hosts."""

    def __init__(self, directory: Path, redis: Redis) -> None:
        self._directory = directory
        self._redis = redis

    def read(self) -> LockReading:
        """Never raises."""
        found: dict[str, VenueLock] = {}
        on_disk, disk_problems = self._from_disk()
        in_redis, redis_problems = self._from_redis()
        for lock in (*on_disk, *in_redis):
            if lock.account not in found or found[lock.account].version < lock.version:
                found[lock.account] = lock
        return LockReading(tuple(found[name] for name in sorted(found)), (*disk_problems, *redis_problems))

    def write(self, lock: VenueLock) -> list[str]:
        """Put it in both places; what did not take it, as sentences. A place that knows something newer keeps that."""
        body = to_json(lock)
        return [
            *_tried("on this host's disk", lambda: self._to_disk(lock, body)),
            *_tried("in Redis", lambda: self._redis.eval(_WRITE, 1, KEY, lock.account, str(lock.version), body)),
        ]

    def _from_disk(self) -> tuple[list[VenueLock], list[str]]:
        found, problems = [], []
        try:
            paths = sorted(path for path in self._directory.iterdir() if path.suffix == ".json")
        except FileNotFoundError:
            return [], []
        except OSError as error:
            return [], [f"the venue locks in {self._directory} can't be read ({error.strerror})"]
        for path in paths:
            try:
                found.append(from_json(path.read_bytes()))
            except (OSError, ValueError) as error:
                problems.append(f"the venue lock in {path} can't be read ({type(error).__name__})")
        return found, problems

    def _from_redis(self) -> tuple[list[VenueLock], list[str]]:
        from redis.exceptions import RedisError  # noqa: PLC0415

        try:
            fields: Any = self._redis.hgetall(KEY)
        except (RedisError, OSError) as error:
            return [], [f"the venue locks in Redis can't be read ({type(error).__name__})"]
        found, problems = [], []
        for field, raw in fields.items():
            try:
                found.append(from_json(raw))
            except ValueError:
                problems.append(f"the venue lock of {field.decode(errors='replace')} in Redis can't be read")
        return found, problems

    def _to_disk(self, lock: VenueLock, body: str) -> None:
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = self._directory / f"{quote(lock.account, safe='')}.json"
        with suppress(OSError, ValueError):
            if from_json(path.read_bytes()).version >= lock.version:
                return
        write_atomically(path, body)


@contextmanager
def open_venue_locks(settings: Settings) -> Iterator[VenueLockStore]:
    """The configured store on a connection of its own."""
    from redis.backoff import NoBackoff  # noqa: PLC0415
    from redis.retry import Retry  # noqa: PLC0415

    with redis_client(settings, timeout=LIMIT, retry=Retry(NoBackoff(), 0)) as redis:
        yield VenueLockStore(settings.venue_locks_dir, redis)


def read_venue_locks(settings: Settings) -> LockReading:
    """What is known now. Never raises."""
    with open_venue_locks(settings) as store:
        return store.read()


def reconcile_venue_locks(settings: Settings) -> LockReading:
    """Let each place know what the other one learnt while it was away; returns what is known. Never raises."""
    with open_venue_locks(settings) as store:
        reading = store.read()
        for lock in reading.known:
            store.write(lock)
    return reading


def write_venue_lock(settings: Settings, lock: VenueLock) -> list[str]:
    """See `VenueLockStore.write`."""
    with open_venue_locks(settings) as store:
        return store.write(lock)


def _tried(where: str, write: Callable[[], Any]) -> list[str]:
    from redis.exceptions import RedisError  # noqa: PLC0415

    try:
        write()
    except (RedisError, OSError) as error:
        why = getattr(error, "strerror", None) or type(error).__name__
        return [f"the venue's lock is not kept {where} ({why})"]
    return []
