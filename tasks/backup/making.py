"""Make a backup: the ledger first and Redis after it, so that Redis is the newer of the two, which mends itself."""

from __future__ import annotations

import socket
import tempfile
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from breaker.errors import BreakerError, InvalidInput
from breaker.keys import check_scope
from breaker.state import read_status
from breaker.store_identity import IDENTITY_KEY
from configuration.identity import configured_identity
from configuration.login import login_name
from configuration.redis_clients import redis_client
from ledger.configured import open_checkpoints, open_ready_ledger, open_spool
from ledger.record import AuditRecord, iso
from ledger.recorder import Recorder
from ledger.verify import verify
from tasks.backup.archive import write_archive
from tasks.backup.database import copied_rows, copy_database, schema_revisions
from tasks.backup.manifest import BreakerAtBackup, Manifest
from tasks.backup.redis_keys import StoredKey, read_keys
from tasks.backup.state_files import copy_state

if TYPE_CHECKING:
    from configuration.settings import Settings

BACKUP_MADE = "BACKUP_MADE"
"""Recorded once an archive is complete: where it was written, its SHA-256, and the last row that is in it."""
LEDGER, REDIS, STATE = "ledger", "redis", "state"
"""The directories of an archive."""
KEYS = "keys.jsonl"
PATIENCE = 30.0
"""Seconds that the database may take for one answer; nobody waits to halt anything meanwhile."""


class BackupNotMade(BreakerError):
    """A backup could not be made; there is no archive, and nothing was changed."""


@dataclass(frozen=True, slots=True)
class Backup:
    """An archive that is complete and on record."""

    path: Path
    sha256: str
    manifest: Manifest


def make_backup(settings: Settings, where: Path, *, with_keys: bool = False) -> Backup:
    """Write an archive of ledger, Redis and this host's state directory, and record it.

    Args:
        settings: Whose.
        where: A directory, in which the archive gets a name of its own, or the file to be made.
        with_keys: Whether the console's key goes into it too.

    Raises:
        BackupNotMade: something couldn't be read or written; there is no archive.
        LedgerError: the same of the ledger. NotRecorded: the archive is there, and not on record.
    """
    from redis.exceptions import RedisError  # noqa: PLC0415  `--help` doesn't pay for it

    now = datetime.now(UTC)
    path = _target(settings, where, now)
    try:
        with (
            tempfile.TemporaryDirectory(prefix="breaker-backup-") as scratch,
            closing(open_ready_ledger(settings, timeout=PATIENCE)) as ledger,
            redis_client(settings, timeout=settings.redis_timeout) as redis,
        ):
            folder = Path(scratch)
            for part in (LEDGER, REDIS, STATE):
                (folder / part).mkdir()
            rows, seq, last_hash, tables = copy_database(ledger, folder / LEDGER)
            found = verify(copied_rows(folder / LEDGER), key=ledger.key, checkpoints=open_checkpoints(settings).all())
            keys = read_keys(redis)
            (folder / REDIS / KEYS).write_text("".join(key.to_json() + "\n" for key in keys), encoding="utf-8")
            here = configured_identity(settings)
            identity = next((key.value for key in keys if key.key == IDENTITY_KEY), None)
            manifest = Manifest(
                version=version("trading-breaker-ops"),
                made_at=iso(now),
                made_by=login_name(),
                host=socket.gethostname(),
                environment=settings.environment,
                redis_address=here.address,
                redis_id=here.seen_in(identity if isinstance(identity, str) else None).id,
                schema=schema_revisions(ledger),
                rows=rows,
                head_seq=seq,
                head_hash=last_hash,
                chain="" if found.problem is None else found.problem.sentence,
                tables=tables,
                breakers=breakers_in(keys, now),
                redis_keys=len(keys),
                state_files=copy_state(settings.state_dir, folder / STATE, with_keys=with_keys),
                with_keys=with_keys,
            )
            manifest, digest = write_archive(path, manifest, folder)
            Recorder(ledger, open_spool(settings)).record(_record(path, digest, manifest))
    except (RedisError, OSError) as error:
        raise BackupNotMade(
            f"no backup was made: {_why(error)}; nothing was changed, and there is no archive: correct it and try again"
        ) from None
    return Backup(path, digest, manifest)


def breakers_in(keys: list[StoredKey], now: datetime) -> tuple[BreakerAtBackup, ...]:
    """What the copied states say of each breaker. Pure."""
    found = []
    for key in keys:
        if key.name == "state" and _is_scope(key.scope):
            raw = key.value.encode("utf-8", "surrogateescape") if key.kind == "string" else b""
            status = read_status(raw, int(now.timestamp() * 1e6))
            found.append(BreakerAtBackup(key.scope, status.state.value, status.epoch))
    return tuple(found)


def _is_scope(word: str) -> bool:
    """Whether a breaker can have that name; what somebody else has written beside the states has none."""
    try:
        check_scope(word)
    except InvalidInput:
        return False
    return True


def _target(settings: Settings, where: Path, now: datetime) -> Path:
    if where.is_dir():
        environment = "".join(letter if letter.isalnum() else "-" for letter in settings.environment) or "breaker"
        where = where / f"{environment}-{now:%Y%m%dT%H%M%SZ}.tar.gz"
    if where.is_file():
        raise BackupNotMade(f"{where} is there already, and no backup is written over another: choose another name")
    if not where.parent.is_dir():
        raise BackupNotMade(f"{where.parent} is no directory; nothing was written: make it first")
    return where


def _record(path: Path, digest: str, manifest: Manifest) -> AuditRecord:
    return AuditRecord(
        action=BACKUP_MADE,
        source="cli",
        user_id=login_name(),
        details={
            "path": str(path.absolute()),
            "sha256": digest,
            "rows": manifest.rows,
            "head": f"{manifest.head_seq}:{manifest.head_hash}",
            "redis_keys": manifest.redis_keys,
            "state_files": manifest.state_files,
            "with_keys": manifest.with_keys,
        },
    )


def _why(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename or 'a file'}"
    return f"Redis did not give what it holds ({type(error).__name__})"
