"""Check a backup without changing anything: is it whole, of what is it, and what would restoring it do and lose?"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from breaker.errors import BreakerError
from breaker.store_identity import read_identity
from configuration.identity import configured_identity
from configuration.in_force import store_named
from configuration.redis_clients import redis_client
from ledger.checkpoint import Checkpoint, Checkpoints
from ledger.configured import open_checkpoints, open_ledger
from ledger.errors import LedgerError
from ledger.location import database_url
from ledger.verify import verify
from tasks.backup.archive import archive_sha256, unpack_archive
from tasks.backup.comparison import (
    LedgerComparison,
    breaker_sentence,
    checkpoint_sentence,
    compare_ledgers,
    identity_sentence,
    ledger_sentence,
    not_restored,
    revived_access,
)
from tasks.backup.database import copied_rows, schema_revisions, users_and_tokens
from tasks.backup.making import KEYS, LEDGER, PATIENCE, REDIS, STATE, breakers_in
from tasks.backup.manifest import BackupUnusable, BreakerAtBackup, Manifest
from tasks.backup.redis_keys import REPORTED_BY_PROCESSES, StoredKey, keys_named, load_keys, read_keys
from tasks.backup.state_files import files_in_the_way
from tasks.running_services import read_services

if TYPE_CHECKING:
    from redis import Redis

    from configuration.settings import Settings
    from ledger.ledger import Ledger

_NAMED = 5


@dataclass(frozen=True, slots=True)
class Unpacked:
    """An archive whose members are what its manifest says, in a directory that lasts as long as it is open."""

    path: Path
    sha256: str
    manifest: Manifest
    folder: Path
    keys: tuple[StoredKey, ...]

    @property
    def ledger(self) -> Path:
        return self.folder / LEDGER

    @property
    def state(self) -> Path:
        return self.folder / STATE


@dataclass(frozen=True, slots=True)
class Check:
    """What was found. Sentences for people, but for the manifest and the comparison."""

    manifest: Manifest
    sha256: str
    ledger: LedgerComparison
    problems: tuple[str, ...]
    """Why it is not to be restored: the chain is broken, or its form is a later one."""
    comparison: tuple[str, ...]
    """Against what is live."""
    would_do: tuple[str, ...]
    would_lose: tuple[str, ...]
    in_the_way: tuple[str, ...]
    """What has to be put aside before it can be restored here."""

    @property
    def sound(self) -> bool:
        return not self.problems


@contextmanager
def unpacked(path: Path) -> Iterator[Unpacked]:
    """Raises BackupUnusable."""
    with tempfile.TemporaryDirectory(prefix="breaker-restore-") as scratch:
        folder = Path(scratch)
        manifest = unpack_archive(path, folder)
        try:
            keys = tuple(load_keys(folder / REDIS / KEYS))
        except (OSError, ValueError, TypeError) as error:
            raise BackupUnusable(f"{path} can't be used: its copy of Redis can't be read ({error})") from None
        yield Unpacked(path, archive_sha256(path), manifest, folder, keys)


def check_backup(settings: Settings, path: Path) -> Check:
    """Changes nothing. Raises BackupUnusable: it is damaged, or no backup."""
    with unpacked(path) as backup:
        return check_unpacked(settings, backup)


def check_unpacked(settings: Settings, backup: Unpacked) -> Check:
    """`check_backup`, of what is unpacked already."""
    with live_ledger(settings) as ledger, redis_client(settings, timeout=settings.redis_timeout) as redis:
        return _check(settings, backup, ledger, redis)


@contextmanager
def live_ledger(settings: Settings) -> Iterator[Ledger | None]:
    """None where it would be a file that there is not: looking for it must not make it."""
    with closing(open_ledger(settings, timeout=PATIENCE)) as ledger:
        url = ledger.engine.url
        missing = url.get_backend_name() == "sqlite" and not Path(str(url.database)).exists()
        yield None if missing else ledger


def _check(settings: Settings, backup: Unpacked, ledger: Ledger | None, redis: Redis) -> Check:
    manifest = backup.manifest
    breakers_now = _breakers_now(redis)
    by_scope = {each.scope: each for each in breakers_now or ()}
    compared = compare_ledgers(manifest, backup.ledger, ledger)
    here = configured_identity(settings)
    if breakers_now is not None:
        here = read_identity(redis, environment=settings.environment, timeout=settings.redis_timeout)
    revived = revived_access(backup.ledger, ledger)
    seen = checkpoint_sentence(backup.ledger, manifest.head_seq, _checkpoints(open_checkpoints(settings)))
    return Check(
        manifest=manifest,
        sha256=backup.sha256,
        ledger=compared,
        problems=_problems(settings, backup, ledger),
        comparison=(
            identity_sentence(manifest, here, reachable=breakers_now is not None),
            ledger_sentence(manifest, compared),
            *((seen,) if seen else ()),
        ),
        would_do=(
            *(breaker_sentence(each, by_scope.get(each.scope)) for each in manifest.breakers),
            f"{manifest.rows} rows are written into the ledger, {sum(manifest.tables.values())} users and tokens, "
            f"{manifest.state_files} files into the state directory"
            + (", the console's key among them." if manifest.with_keys else "; the console's key is not among them."),
            *((f"These could be used again, though ended since: {', '.join(revived)}.",) if revived else ()),
        ),
        would_lose=(
            *((f"{compared.rows} rows of the live ledger.",) if compared.lost else ()),
            *not_restored(backup.keys),
        ),
        in_the_way=_in_the_way(settings, ledger, redis),
    )


def _problems(settings: Settings, backup: Unpacked, ledger: Ledger | None) -> tuple[str, ...]:
    manifest = backup.manifest
    kept = _checkpoints(Checkpoints(backup.state / "checkpoints.jsonl"))
    known = [point for point in kept if point.seq <= manifest.head_seq]
    problems = []
    try:
        found = verify(copied_rows(backup.ledger), key=settings.ledger_key, checkpoints=known)
        if found.problem is not None:
            problems.append(f"The chain in it is broken at row {found.problem.seq}: {found.problem.sentence}.")
        elif (found.rows, found.seq, found.hash) != (manifest.rows, manifest.head_seq, manifest.head_hash):
            problems.append(f"The chain in it ends with row {found.seq}, and its manifest says {manifest.head_seq}.")
    except LedgerError as error:
        problems.append(f"The chain in it can't be read: {error}.")
    try:
        ours = {} if ledger is None else schema_revisions(ledger)
    except LedgerError:
        ours = {}
    for table, revision in manifest.schema.items():
        if revision > ours.get(table, revision):
            problems.append(f"It was made by a later version ({manifest.version}): {table} {revision}. Upgrade first.")
    return tuple(problems)


def _checkpoints(kept: Checkpoints) -> tuple[Checkpoint, ...]:
    try:
        return kept.all()
    except LedgerError:
        return ()


def _breakers_now(redis: Redis) -> tuple[BreakerAtBackup, ...] | None:
    from redis.exceptions import RedisError  # noqa: PLC0415

    try:
        return breakers_in(read_keys(redis), datetime.now(UTC))
    except (RedisError, OSError):
        return None


def _in_the_way(settings: Settings, ledger: Ledger | None, redis: Redis) -> tuple[str, ...]:
    """What a restore would mix with, and what writes meanwhile; it is made into empty stores only."""
    from redis.exceptions import RedisError  # noqa: PLC0415

    found: list[str] = []
    if ledger is None and settings.database_url is not None:
        found.append("the ledger's database has no tables: run `breaker audit upgrade` first")
    try:
        if ledger is not None and (rows := ledger.head()[0]) > 0:
            found.append(f"the ledger {store_named(database_url(settings).get_secret_value())} has {rows} rows")
        if ledger is not None and any(users_and_tokens(ledger).values()):
            found.append("its database has users of the console")
    except LedgerError as error:
        found.append(f"the ledger: {error}")
    try:
        keys = [key for key in keys_named(redis) if key.split(":")[1] not in REPORTED_BY_PROCESSES]
        if keys:
            found.append(f"Redis has {len(keys)} keys of breakers: {_first(keys)}")
        if services := [each.field for each in read_services(redis)]:
            found.append(f"processes run, and have to be stopped: {_first(services)}")
    except (RedisError, OSError, BreakerError) as error:
        found.append(f"Redis didn't answer ({type(error).__name__})")
    if files := files_in_the_way(settings.state_dir):
        found.append(f"the state directory {settings.state_dir} has {_first(files)}")
    return tuple(found)


def _first(names: list[str]) -> str:
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
