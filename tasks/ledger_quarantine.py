"""Give up the checkpoints that a ledger no longer holds, where it was lost or restored from an older copy.

Two people answer for it, and a row of the ledger says what was given up: from then on it is whole again, with a scar.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from dataclasses import asdict, dataclass

from breaker.errors import InvalidInput
from configuration.login import login_name
from configuration.reasons import checked_reason
from configuration.redis_clients import redis_client
from configuration.settings import Settings
from ledger.audit import verify_with_redis
from ledger.checkpoint import Checkpoint
from ledger.configured import open_checkpoints, open_ready_ledger
from ledger.ledger import Ledger
from ledger.record import AuditRecord
from ledger.shared_checkpoint import SharedCheckpoint
from ledger.verify import verify
from tasks.two_persons import check_two_persons

QUARANTINED = "LEDGER_QUARANTINED"
_NAMED = 20


@dataclass(frozen=True, slots=True)
class Quarantine:
    """The checkpoints that were given up, oldest first, and the row that says so."""

    given_up: tuple[Checkpoint, ...]
    row: int


def quarantine(settings: Settings, reason: str, *, by: str, second_person: str | None) -> Quarantine:
    """Raises InvalidInput where there is nothing to give up, or it would not help; LedgerError; what Redis's does."""
    why, person = checked_reason(reason), login_name()
    check_two_persons(settings, (by, person), second_person)
    checkpoints = open_checkpoints(settings)
    with redis_client(settings) as redis, closing(open_ready_ledger(settings)) as ledger:
        shared = SharedCheckpoint(redis, ledger, settings.redis_timeout)
        there = shared.read()
        refuted = _refuted(ledger, checkpoints.all() if there is None else (*checkpoints.all(), there))
        if not refuted:
            raise InvalidInput("every checkpoint is held by the ledger: there is nothing to give up; nothing changed")
        found = verify(ledger, key=ledger.key)
        if found.problem is not None:
            raise InvalidInput(
                f"the chain itself is broken ({found.problem.sentence}), which giving up checkpoints doesn't mend: "
                "keep it as evidence, and restore an older copy that is whole; nothing changed"
            )
        claimed = {"claimed": by} if by != person else {}
        if second_person:
            claimed["claimed_second_person"] = second_person
        record = AuditRecord(
            action=QUARANTINED,
            source="cli",
            user_id=person,
            details={
                "reason": why,
                **claimed,
                "last_row": found.seq,
                "last_hash": found.hash,
                "given_up": len(refuted),
                "checkpoints": [asdict(each) for each in refuted[-_NAMED:]],
            },
        )
        head = ledger.append([record]).head
        checkpoints.give_up(refuted)
        shared.forget()
        verify_with_redis(ledger, checkpoints, redis, timeout=settings.redis_timeout)
    return Quarantine(refuted, head[0] if head is not None else found.seq)


def _refuted(ledger: Ledger, checkpoints: Iterable[Checkpoint]) -> tuple[Checkpoint, ...]:
    """Those whose row is not there, or is another one."""
    found = [each for each in dict.fromkeys(checkpoints) if each.seq and not _holds(ledger, each)]
    return tuple(sorted(found, key=lambda each: each.seq))


def _holds(ledger: Ledger, checkpoint: Checkpoint) -> bool:
    row = ledger.row_at(checkpoint.seq)
    return row is not None and row[-1] == checkpoint.hash
