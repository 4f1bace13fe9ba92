"""Restore a backup into empty stores. What it says was true once, so nothing of it opens or acts.

Redis comes first: every breaker of the backup is TRIPPED there before there is a ledger that could say OPEN, with an
epoch beyond all that any gate has seen. What would act by itself is left out, or put where nothing reads it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from breaker.errors import BreakerError
from breaker.state import State
from breaker.store_identity import IDENTITY_KEY, StoreIdentity
from breaker.trip_reasons import TripReason
from configuration.breakers import breaker_of
from configuration.redis_clients import redis_client
from ledger.configured import open_ready_ledger, open_spool
from ledger.errors import LedgerError
from ledger.outbox import drain_outbox
from ledger.reconcile import record_vanished
from ledger.record import AuditRecord
from ledger.recorder import Recorder
from tasks.backup.check import Check, Unpacked, check_unpacked, unpacked
from tasks.backup.database import fill_database
from tasks.backup.making import PATIENCE
from tasks.backup.manifest import BreakerAtBackup
from tasks.backup.redis_keys import StoredKey, write_back
from tasks.backup.state_files import put_back
from tasks.redis_identity import establish_identity

if TYPE_CHECKING:
    from pathlib import Path

    from redis import Redis

    from configuration.settings import Settings
    from ledger.ledger import Ledger

BACKUP_RESTORED = "BACKUP_RESTORED"
"""Recorded behind the rows of the backup: which archive, by whom, and what was not restored."""


class NotRestored(BreakerError):
    """A restore was refused, or stopped half-way; the message says which. No breaker is OPEN by it."""


@dataclass(frozen=True, slots=True)
class Restored:
    """What there is now."""

    check: Check
    tripped: tuple[str, ...]
    rows: int
    keys: int
    files: int


def restore_backup(settings: Settings, path: Path, *, by: str, prepare: Callable[[Ledger], None]) -> Restored:
    """Restore ledger, Redis and state directory, all of which have to be empty.

    Args:
        settings: Where to.
        path: The archive.
        by: Who does it.
        prepare: Brings the console's tables, which this layer doesn't know, to this version's form.

    Raises:
        BackupUnusable: the archive is damaged, or none.
        NotRestored: it is not sound, or something is in the way, and nothing was changed; or it stopped half-way.
    """
    with unpacked(path) as backup:
        check = check_unpacked(settings, backup)
        if not check.sound:
            raise NotRestored(f"{path} is not restored; nothing was changed. {' '.join(check.problems)}")
        if check.in_the_way:
            raise NotRestored(
                f"{path} is not restored, as a backup goes into empty stores only; nothing was changed. In the way: "
                f"{'; '.join(check.in_the_way)}"
            )
        return _Restore(settings, backup, check, by).run(prepare)


class _Restore:
    def __init__(self, settings: Settings, backup: Unpacked, check: Check, by: str) -> None:
        self._settings = settings
        self._backup = backup
        self._check = check
        self._by = by
        self._scopes = tuple(each.scope for each in backup.manifest.breakers)
        self._step = ""

    def run(self, prepare: Callable[[Ledger], None]) -> Restored:
        from redis.exceptions import RedisError  # noqa: PLC0415

        settings = self._settings
        try:
            with redis_client(settings, timeout=settings.redis_timeout) as redis:
                self._step = "the breakers in Redis"
                self._halt(redis)
                self._step = "the ledger"
                with closing(open_ready_ledger(settings, timeout=PATIENCE)) as ledger:
                    prepare(ledger)
                    rows = fill_database(ledger, self._backup.ledger)
                    self._step = "the state directory"
                    files = put_back(self._backup.state, settings.state_dir)
                    self._step = "the record of it"
                    self._record(ledger)
                    self._step = "the rest of Redis"
                    age = max(0.0, time.time() - self._backup.manifest.moment.timestamp())
                    keys = write_back(redis, self._backup.keys, age=age)
                    establish_identity(settings, redis)
                    drain_outbox(redis, ledger, self._scopes, timeout=settings.redis_timeout)
        except (RedisError, OSError, BreakerError, LedgerError) as error:
            said = str(error) if isinstance(error, BreakerError | LedgerError) else type(error).__name__
            raise NotRestored(
                f"the restore stopped at {self._step} ({said}). No breaker is OPEN by it; what is there is incomplete: "
                f"empty Redis, ledger and state directory again, and repeat it"
            ) from None
        return Restored(self._check, self._scopes, rows, keys, files)

    def _halt(self, redis: Redis) -> None:
        """Make every breaker of the backup TRIPPED. What has no state stays without one, which is closed too."""
        manifest = self._backup.manifest
        if manifest.redis_id is not None and manifest.environment == self._settings.environment:
            here = StoreIdentity(address="", environment=manifest.environment, id=manifest.redis_id)
            redis.set(IDENTITY_KEY, here.as_stored(), nx=True)
        states = {key.scope: key for key in self._backup.keys if key.name == "state"}
        for then in manifest.breakers:
            if then.state == State.TRIPPED:
                redis.set(states[then.scope].key, json.dumps(self._still_tripped(redis, states[then.scope])), nx=True)
            with closing(breaker_of(self._settings, then.scope, source="cli", redis=redis)) as breaker:
                breaker.trip(TripReason.RESTORED, details=self._why(then), tripped_by=self._by)

    def _still_tripped(self, redis: Redis, stored: StoredKey) -> dict[str, Any]:
        """The trip that stood, with its incident. Its epoch is raised: gates may have seen later ones since."""
        fields = json.loads(stored.value)
        second, microsecond = redis.time()
        epoch = fields.get("epoch")
        return {**fields, "epoch": max(epoch if isinstance(epoch, int) else 0, second * 1_000 + microsecond // 1_000)}

    def _why(self, then: BreakerAtBackup) -> dict[str, str]:
        made_at = self._backup.manifest.made_at
        return {
            "operator": self._by,
            "reason": f"restored from a backup of {made_at}, in which it was {then.state}; what came since is unknown",
            "sha256": self._backup.sha256,
        }

    def _record(self, ledger: Ledger) -> None:
        """First the transitions that the ledger had not got when it was copied, then that all this was restored."""
        histories = {key.scope: key for key in self._backup.keys if key.name == "history" and key.kind == "zset"}
        for scope, history in histories.items():
            members = [member.encode("utf-8", "surrogateescape") for member, _ in history.value]
            record_vanished(ledger, scope, members, ledger.state_of(scope))
        manifest = self._backup.manifest
        record = AuditRecord(
            action=BACKUP_RESTORED,
            source="cli",
            user_id=self._by,
            details={
                "path": str(self._backup.path.absolute()),
                "sha256": self._backup.sha256,
                "made_at": manifest.made_at,
                "environment_then": manifest.environment,
                "head": f"{manifest.head_seq}:{manifest.head_hash}",
                "tripped": self._scopes,
                "not_restored": self._check.would_lose,
            },
        )
        Recorder(ledger, open_spool(self._settings)).record(record)
