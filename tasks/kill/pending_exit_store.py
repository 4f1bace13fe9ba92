"""Keep pending exits in Redis and on this host's disk, and read whichever of the two can be read; the newer wins.

In Redis the hash `circuit_breaker:pending_exits` has a field `account:symbol` for each, and
`circuit_breaker:pending_exits_as_of` says of when an account's fields are, also when there are none any more. On disk
an account has one file in `pending_exits/` of the state directory, which says for which Redis and environment it is;
one of another is named and left. Blocks; every answer of Redis has its time limit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from breaker.atomic_file import write_atomically
from breaker.store_identity import IDENTITY_KEY, StoreIdentity
from configuration.identity import configured_identity
from configuration.redis_clients import redis_client
from tasks.kill.pending_exits import AccountExits, PendingExit, from_json, newer_than, to_json

if TYPE_CHECKING:
    from redis import Redis

    from configuration.settings import Settings

KEY = "circuit_breaker:pending_exits"
AS_OF = "circuit_breaker:pending_exits_as_of"
LIMIT = 0.5
"""Seconds that Redis may take for one answer."""

# An account as a whole, and never over a newer one: the times are all of one form, so that they compare as text.
_WRITE = """
local known = redis.call('HGET', KEYS[2], ARGV[1])
if known and known > ARGV[2] then return 0 end
for _, field in ipairs(redis.call('HKEYS', KEYS[1])) do
    local read, kept = pcall(cjson.decode, redis.call('HGET', KEYS[1], field))
    local account = read and type(kept) == 'table' and kept.account or string.match(field, '^[^:]*')
    if account == ARGV[1] then redis.call('HDEL', KEYS[1], field) end
end
for i = 3, #ARGV, 2 do redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
return 1
"""


@dataclass(frozen=True, slots=True)
class Reading:
    """What is pending, oldest first; what could not be read, and what is kept here for another Redis, as sentences."""

    exits: tuple[PendingExit, ...] = ()
    problems: tuple[str, ...] = ()
    elsewhere: tuple[str, ...] = ()

    def of(self, account: str) -> tuple[PendingExit, ...]:
        return tuple(pending for pending in self.exits if pending.account == account)

    def of_scope(self, scope: str) -> tuple[PendingExit, ...]:
        """What the breaker of that scope has to stay halted for."""
        return tuple(pending for pending in self.exits if pending.scope == scope)


class PendingExitStore:
    """The pending exits that `redis` and `directory` know of. Safe to share among processes and hosts.

    `here` says which Redis it is; its id is read from it whenever it answers.
    """

    def __init__(self, directory: Path, redis: Redis, here: StoreIdentity) -> None:
        self._directory = directory
        self._redis = redis
        self._here = here
        self._away = False
        """Redis did not answer when it was last asked, and is not asked to take anything before it has."""

    def read(self) -> Reading:
        """Never raises."""
        in_redis, redis_problems = self._from_redis()
        on_disk, disk_problems, elsewhere = self._from_disk()
        newest = _newer(on_disk, in_redis)
        exits = sorted(
            (pending for found in newest.values() for pending in found.exits),
            key=lambda pending: (pending.since, pending.account, pending.symbol),
        )
        return Reading(tuple(exits), (*disk_problems, *redis_problems), elsewhere)

    def write(self, found: AccountExits) -> list[str]:
        """Put it in both places; what did not take it, as sentences. A place that knows something newer keeps that."""
        return [*_tried("on this host's disk", lambda: self._to_disk(found)), *self._try_redis(found)]

    def reconcile(self) -> None:
        """Let each place know what the other one learnt while it was away. Tries only; the next time may do better."""
        in_redis, redis_problems = self._from_redis()
        on_disk, problems, _ = self._from_disk()
        if problems or redis_problems:
            return
        for account, found in on_disk.items():
            known = in_redis.get(account)
            if known is None or known.as_of < found.as_of:
                self._try_redis(found)
            elif known.as_of > found.as_of:
                _tried("on this host's disk", lambda known=known: self._to_disk(known))  # type: ignore[misc]

    def _from_disk(self) -> tuple[Mapping[str, AccountExits], list[str], tuple[str, ...]]:
        """What is kept for this Redis, what can't be read, and what is kept for another one."""
        found: dict[str, AccountExits] = {}
        problems, elsewhere = [], []
        try:
            paths = self._paths()
        except OSError as error:
            return {}, [f"the pending exits in {self._directory} can't be read ({error.strerror})"], ()
        for path in paths:
            try:
                kept = AccountExits.from_json(path.read_bytes())
            except (OSError, ValueError) as error:
                problems.append(f"the pending exits in {path} can't be read ({type(error).__name__})")
                continue
            if not kept.is_for(self._here):
                if kept.exits:
                    elsewhere.append(
                        f"{len(kept.exits)} pending exits of {kept.account} in {path} are for another Redis "
                        f"({kept.kept_for}) and are left alone"
                    )
            elif kept.account not in found or found[kept.account].as_of < kept.as_of:
                found[kept.account] = kept
        return found, problems, tuple(elsewhere)

    def _paths(self) -> list[Path]:
        """Raises OSError."""
        try:
            return sorted(path for path in self._directory.iterdir() if path.suffix == ".json")
        except FileNotFoundError:
            return []

    def _from_redis(self) -> tuple[Mapping[str, AccountExits], list[str]]:
        from redis.exceptions import RedisError  # noqa: PLC0415

        try:
            asked = self._redis.pipeline(transaction=True)
            asked.hgetall(AS_OF)
            asked.hgetall(KEY)
            asked.get(IDENTITY_KEY)
            times, fields, identity = asked.execute()
            self._away = False
        except (RedisError, OSError) as error:
            self._away = True
            return {}, [f"the pending exits in Redis can't be read ({type(error).__name__})"]
        if (seen := self._here.seen_in(identity)).id is not None:
            self._here = seen
        exits, problems = [], []
        for field, raw in fields.items():
            try:
                exits.append(from_json(raw))
            except ValueError:
                problems.append(f"the pending exit {field.decode(errors='replace')} in Redis can't be read")
        # Without its time, which only somebody else can have taken away, an account's exits are as old as their tries.
        as_of = {each.account: each.tried_at for each in sorted(exits, key=lambda each: each.tried_at)} | _times(times)
        found = {
            account: AccountExits(account, when, tuple(each for each in exits if each.account == account))
            for account, when in as_of.items()
        }
        return found, problems

    def _to_disk(self, found: AccountExits) -> None:
        """In the place of every older file of the account that is for this Redis."""
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        older = []
        for path in self._paths():
            with suppress(OSError, ValueError):
                kept = AccountExits.from_json(path.read_bytes())
                if kept.account == found.account and kept.is_for(self._here):
                    if kept.as_of > found.as_of:
                        return
                    older.append(path)
        path = self._path(found.account)
        write_atomically(path, replace(found, kept_for=self._here).to_json())
        for superseded in older:
            if superseded != path:
                superseded.unlink(missing_ok=True)

    def _path(self, account: str) -> Path:
        """Of its own for each Redis and environment, so that none replaces what another one needs."""
        here = self._here
        which = hashlib.sha256(f"{here.address} {here.environment} {here.id}".encode()).hexdigest()[:12]
        return self._directory / f"{quote(account, safe='')}.{which}.json"

    def _try_redis(self, found: AccountExits) -> list[str]:
        if self._away:
            return ["pending exits are not kept in Redis (it does not answer)"]
        fields = [part for each in found.exits for part in (f"{each.account}:{each.symbol}", to_json(each))]
        as_of = found.as_of.astimezone(UTC).isoformat(timespec="microseconds")
        return _tried("in Redis", lambda: self._redis.eval(_WRITE, 2, KEY, AS_OF, found.account, as_of, *fields))


@contextmanager
def open_pending_exits(settings: Settings, *, timeout: float = LIMIT) -> Iterator[PendingExitStore]:
    """The configured store on a connection of its own."""
    from redis.backoff import NoBackoff  # noqa: PLC0415
    from redis.retry import Retry  # noqa: PLC0415

    with redis_client(settings, timeout=timeout, retry=Retry(NoBackoff(), 0)) as redis:
        yield PendingExitStore(settings.pending_exits_dir, redis, configured_identity(settings))


def read_pending_exits(settings: Settings, *, timeout: float = LIMIT) -> Reading:
    """What is pending now. Never raises."""
    with open_pending_exits(settings, timeout=timeout) as store:
        return store.read()


def rewrite(
    store: PendingExitStore, accounts: Iterable[str], change: Callable[[PendingExit], PendingExit | None]
) -> list[str]:
    """Replace each exit of the accounts by what `change` makes of it, None for nothing; problems as sentences."""
    problems = []
    reading = store.read()
    for account in accounts:
        before = reading.of(account)
        changed = [change(pending) for pending in before]
        kept = tuple(pending for pending in changed if pending is not None)
        problems += store.write(AccountExits(account, newer_than(before, datetime.now(UTC)), kept))
    return problems


def _newer(one: Mapping[str, AccountExits], other: Mapping[str, AccountExits]) -> Mapping[str, AccountExits]:
    return {
        account: max((found[account] for found in (one, other) if account in found), key=lambda found: found.as_of)
        for account in {*one, *other}
    }


def _times(stored: Mapping[bytes, bytes]) -> dict[str, datetime]:
    times = {}
    for account, raw in stored.items():
        with suppress(ValueError):  # somebody has written something else there
            times[account.decode()] = datetime.fromisoformat(raw.decode())
    return times


def _tried(where: str, write: Callable[[], Any]) -> list[str]:
    from redis.exceptions import RedisError  # noqa: PLC0415

    try:
        write()
    except (RedisError, OSError) as error:
        why = getattr(error, "strerror", None) or type(error).__name__
        return [f"pending exits are not kept {where} ({why})"]
    return []
