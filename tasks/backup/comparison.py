"""Compare a backup with what is live, and say in words what restoring it would do and lose."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from breaker.state import State
from breaker.store_identity import StoreIdentity
from ledger.errors import LedgerError
from ledger.record import COLUMNS
from tasks.backup.database import copied_rows, load_tables, users_and_tokens
from tasks.backup.manifest import BreakerAtBackup, Manifest
from tasks.backup.redis_keys import WRITTEN_BACK, StoredKey

if TYPE_CHECKING:
    from pathlib import Path

    from ledger.checkpoint import Checkpoint
    from ledger.ledger import Ledger

_ACTION, _TIME, _HASH = COLUMNS.index("action"), COLUMNS.index("timestamp"), COLUMNS.index("hash")
_NAMED = 4
_LEFT_OUT = {
    "asked_kills": "kill switches that were confirmed and had not begun, not begun",
    "deadmen": "dead-man's switches, not armed: the next renewal of each arms it",
    "kill_requests": "requests to kill, not made",
    "pending_exits": "pending exits, not resumed: look at the venue, and kill again what still stands",
    "spool": "copies of records that waited for the ledger, not delivered: the archive has them",
    "safety_net_instructions": "what people wanted of the venues' timers, forgotten: what is configured is armed",
    "venue_locks": "locks at the venue, not lifted by a reset: look at the venue, and lift them there",
}
_NOT_WORTH_NAMING = {
    "state",
    "identity",
    "outbox",
    "recovery",
    "deadman",
    "pending_exits_as_of",
    "ledger_checkpoints",
    "kill_taken_over",
    "closes",
    "compared_run",
    "monitor_lease",
    "safety_nets",
    "safety_net_lease",
    "safety_net_candidates",
}
"""Restored in another form, or named by one of the others."""


class Relation(StrEnum):
    """How the live ledger stands to the copied one."""

    SAME = "same"
    LIVE_IS_NEWER = "live is newer"
    BACKUP_IS_NEWER = "backup is newer"
    ANOTHER = "another ledger"
    LIVE_IS_EMPTY = "live is empty"
    NOT_KNOWN = "not known"


@dataclass(frozen=True, slots=True)
class LedgerComparison:
    """`rows` is by how many rows the newer one is ahead; `lost` counts those that only the live one has, by action."""

    relation: Relation
    rows: int = 0
    lost: Mapping[str, int] | None = None
    since: str = ""
    """When the first of them happened."""
    problem: str = ""
    """Why it is not known."""


def compare_ledgers(manifest: Manifest, folder: Path, live: Ledger | None) -> LedgerComparison:
    """Which of the two chains goes on from the other. Never raises for a live ledger that can't be read.

    `live` is None where there is none yet.
    """
    if live is None:
        return LedgerComparison(Relation.LIVE_IS_EMPTY)
    try:
        seq, _ = live.head()
        if seq == 0:
            return LedgerComparison(Relation.LIVE_IS_EMPTY)
        if seq < manifest.head_seq:
            row = live.row_at(seq)
            same = row is not None and row[_HASH] == copied_hash(folder, seq)
            return LedgerComparison(Relation.BACKUP_IS_NEWER if same else Relation.ANOTHER, manifest.head_seq - seq)
        row = live.row_at(manifest.head_seq) if manifest.head_seq else None
        if manifest.head_seq and (row is None or row[_HASH] != manifest.head_hash):
            return LedgerComparison(Relation.ANOTHER)
        if seq == manifest.head_seq:
            return LedgerComparison(Relation.SAME)
        lost: Counter[str] = Counter()
        since = ""
        for batch in live.stream(manifest.head_seq):
            lost.update(row[_ACTION] for row in batch)
            since = since or str(batch[0][_TIME])
        return LedgerComparison(Relation.LIVE_IS_NEWER, seq - manifest.head_seq, dict(lost), since)
    except LedgerError as error:
        return LedgerComparison(Relation.NOT_KNOWN, problem=str(error))


def copied_hash(folder: Path, seq: int) -> str | None:
    """The hash that the copied row of that number has. Raises ExportUnreadable."""
    for batch in copied_rows(folder).stream(seq - 1):
        return str(batch[0][_HASH]) if batch[0][0] == seq else None
    return None


def checkpoint_sentence(folder: Path, head: int, kept: Iterable[Checkpoint]) -> str | None:
    """What is to be said where this host's own checkpoints have seen other rows than the backup has."""
    newest = max((point for point in kept if 0 < point.seq <= head), key=lambda point: point.seq, default=None)
    if newest is None or copied_hash(folder, newest.seq) == newest.hash:
        return None
    return f"Row {newest.seq} is not the one that this host's checkpoint saw: it is of another ledger, or rewritten."


def revived_access(folder: Path, live: Ledger | None) -> tuple[str, ...]:
    """Users and tokens that could be used again after a restore: they are removed, or revoked, by now."""
    if live is None:
        return ()
    try:
        now = users_and_tokens(live)
    except LedgerError:
        return ()
    return _revived(load_tables(folder), now)


_Tables = Mapping[str, Sequence[Mapping[str, Any]]]


def _revived(then: _Tables, now: _Tables) -> tuple[str, ...]:
    """Pure."""
    found: list[str] = []
    for table, key, ended, word in (
        ("console_users", "name", "removed", "user"),
        ("console_tokens", "id", "revoked", "token"),
    ):
        ended_now = {row[key] for row in now.get(table, ()) if row[ended]}
        found += [f"{word} {row[key]}" for row in then.get(table, ()) if not row[ended] and row[key] in ended_now]
    return tuple(found)


def ledger_sentence(manifest: Manifest, found: LedgerComparison) -> str:
    """What the comparison of the ledgers means, for people. Pure."""
    match found.relation:
        case Relation.SAME:
            return f"The live ledger ends with the same row, {manifest.head_seq}: nothing of it would be lost."
        case Relation.LIVE_IS_NEWER:
            counted = Counter(found.lost or {}).most_common()
            named = ", ".join(f"{count} {action}" for action, count in counted[:_NAMED])
            more = f" and {len(counted) - _NAMED} other kinds" if len(counted) > _NAMED else ""
            return (
                f"The live ledger is newer by {_rows(found.rows)}, from {found.since} on, which the backup has not: "
                f"{named}{more}. Export them first: `breaker audit export FILE`"
            )
        case Relation.BACKUP_IS_NEWER:
            return f"The backup is newer than the live ledger by {_rows(found.rows)}: rows of the live one are gone."
        case Relation.ANOTHER:
            return "The live ledger is another one: the two chains differ. All of it would have to be put aside first."
        case Relation.LIVE_IS_EMPTY:
            return "The live ledger is empty: nothing of it would be lost."
    return f"Whether the live ledger is newer is not known: {found.problem}"


def _rows(count: int) -> str:
    return "1 row" if count == 1 else f"{count} rows"


def identity_sentence(manifest: Manifest, here: StoreIdentity, *, reachable: bool) -> str:
    """Whether it is a backup of what is configured here. Pure."""
    then = StoreIdentity(address=manifest.redis_address, environment=manifest.environment, id=manifest.redis_id)
    if manifest.environment != (here.environment or ""):
        return (
            f"It is of another environment: {manifest.environment or 'unnamed'}, and here is "
            f"{here.environment or 'unnamed'}. Restored here it is a copy, and Redis gets an identity of its own."
        )
    if not reachable:
        return f"Redis {here.address} didn't answer: whether it is the one that was backed up is not known."
    if here.id is None:
        return f"Redis {here.address} has no identity; a restore gives it that of {then.address}."
    if then.is_surely_another(here):
        return f"It is of another Redis: {then.address} had the identity {then.id}, {here.address} has {here.id}."
    return f"It is of this Redis, {here.address}."


def breaker_sentence(then: BreakerAtBackup, now: BreakerAtBackup | None) -> str:
    """What becomes of one breaker. Pure."""
    was = f"{then.scope}: {then.state} in the backup"
    if now is None:
        live = "Redis has no state of it now"
    elif now.epoch is not None and then.epoch is not None and now.epoch > then.epoch:
        live = f"now {now.state}, after later transitions, which Redis would forget"
    elif (now.state, now.epoch) == (then.state, then.epoch):
        live = "the same now"
    else:
        live = f"now {now.state}"
    kept = ", with its incident" if then.state == State.TRIPPED else ""
    return f"{was}, {live}; restored it is TRIPPED{kept}."


def not_restored(keys: Iterable[StoredKey]) -> tuple[str, ...]:
    """What would act and is left out, by name, so that a person can decide about it. Pure."""
    by_name: dict[str, list[StoredKey]] = {}
    for key in keys:
        by_name.setdefault(key.name, []).append(key)
    found = []
    for name, words in _LEFT_OUT.items():
        if names := [one for key in by_name.get(name, ()) for one in _names_in(key)]:
            found.append(f"{words} ({', '.join(names[:_NAMED])}{' …' if len(names) > _NAMED else ''})")
    if by_name.get("recovery"):
        found.append("recoveries: the trip that a restore makes begins one")
    if left := sorted(by_name.keys() - WRITTEN_BACK - _LEFT_OUT.keys() - _NOT_WORTH_NAMING):
        found.append(f"what only matters for a while: {', '.join(left)}")
    return tuple(found)


def _names_in(key: StoredKey) -> list[str]:
    """The fields of a hash, the entries of a stream; otherwise whose it is."""
    return [str(pair[0]) for pair in key.value] if key.kind in ("hash", "stream") else [key.scope]
