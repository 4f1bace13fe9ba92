"""Verify the ledger and drain into it what waits elsewhere, for `breaker audit` and the scheduled verification.

Listing is `Ledger.query`, exporting `ledger.export.write_export`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from breaker.errors import BreakerError, BreakerUnavailable
from ledger.checkpoint import Checkpoint, Checkpoints
from ledger.errors import LedgerError
from ledger.ledger import Ledger
from ledger.outbox import OutboxDrain, drain_outboxes
from ledger.shared_checkpoint import SharedCheckpoint
from ledger.spool import Spool, SpoolDrain
from ledger.spool_copy import CopyDrain, drain_copy
from ledger.verify import Verification, verify

if TYPE_CHECKING:
    from redis import Redis


@dataclass(frozen=True, slots=True)
class Audit:
    """A verification, and the checkpoint that was kept of it; none is kept of a broken chain."""

    verification: Verification
    checkpoint: Checkpoint | None


def verify_with_redis(
    ledger: Ledger, checkpoints: Checkpoints, redis: Redis, *, timeout: float, only_new: bool = False
) -> Audit:
    """`verify_ledger` against the checkpoint in Redis too, and keep the new one there as well.

    Redis being away is no reason not to verify.
    """
    shared = SharedCheckpoint(redis, ledger, timeout)
    also = known_to(shared)
    audit = verify_ledger(ledger, checkpoints, also=also, only_new=only_new)
    new = audit.checkpoint
    if new is not None and new.seq and new.seq not in {each.seq for each in also}:
        with contextlib.suppress(BreakerError):
            shared.write(new)
    return audit


def known_to(shared: SharedCheckpoint) -> tuple[Checkpoint, ...]:
    """The checkpoint in Redis, if there is one and Redis says so: the chain is judged without it too."""
    with contextlib.suppress(BreakerError):
        return () if (there := shared.read()) is None else (there,)
    return ()


def verify_ledger(
    ledger: Ledger,
    checkpoints: Checkpoints,
    *,
    also: Sequence[Checkpoint] = (),
    only_new: bool = False,
) -> Audit:
    """Verify the chain against the kept checkpoints and those in `also`, then keep a new one.

    `only_new` begins at the newest kept checkpoint, which makes it fit to be run every minute; what lies before it was
    verified when that one was taken, and a later change of it is found only by a walk of the whole chain.

    Raises:
        LedgerUnavailable, LedgerNotReady: the chain could not be read to its end.
        SpoolUnavailable: the file of checkpoints can't be read or written.
    """
    kept = checkpoints.all()
    start = max(kept, key=lambda point: point.seq, default=None) if only_new else None
    verification = verify(ledger, key=ledger.key, checkpoints=[*kept, *also], start=start)
    if not verification.whole:
        return Audit(verification, None)
    checkpoint = Checkpoint.now(verification.seq, verification.hash)
    if not kept or kept[-1].seq != checkpoint.seq:
        checkpoints.add(checkpoint)
    return Audit(verification, checkpoint)


@dataclass(frozen=True, slots=True)
class DrainResult:
    """What a drain moved from each waiting place, and, for each that it couldn't empty, why."""

    spool: SpoolDrain
    outbox: OutboxDrain
    problems: tuple[str, ...]
    copy: CopyDrain = field(default_factory=CopyDrain)


def drain(redis: Redis, ledger: Ledger, spool: Spool, scopes: Sequence[str], *, timeout: float = 2.0) -> DrainResult:
    """Move everything that waits in the spool, in the outboxes of `scopes` and in the copy of spools into the ledger.

    What fails for one does not stop the others; what was not moved still waits where it was.
    """
    from_spool = SpoolDrain()
    # First the outbox: what waits in the spool is most often what a kill switch did after its trip.
    from_outbox, failures = drain_outboxes(redis, ledger, scopes, timeout=timeout)
    problems = [str(error) for error in failures]
    try:
        from_spool = spool.drain(ledger)
    except LedgerError as error:
        problems.append(str(error))
    from_copy = CopyDrain()
    if not any(isinstance(error, BreakerUnavailable) for error in failures):  # it is the same Redis, and said already
        try:
            from_copy = drain_copy(redis, ledger, timeout=timeout)  # last: what is missing then is missing elsewhere
        except (LedgerError, BreakerError) as error:
            problems.append(str(error))
    return DrainResult(from_spool, from_outbox, tuple(dict.fromkeys(problems)), from_copy)
