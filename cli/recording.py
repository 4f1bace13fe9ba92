"""From Redis's outbox into the ledger, right after a command made a transition."""

from __future__ import annotations

import sys

from breaker.errors import BreakerError
from breaker.settings import Settings
from cli.options import redis_of
from ledger.errors import LedgerError


def record_transitions(settings: Settings, scope: str) -> None:
    """Move what a command just did from Redis's outbox into the ledger; if that fails it waits there, which is said."""
    from ledger.configured import open_ready_ledger  # noqa: PLC0415  after the transition, not before
    from ledger.outbox import drain_outbox  # noqa: PLC0415

    try:
        drain_outbox(redis_of(settings), open_ready_ledger(settings), (scope,), timeout=settings.redis_timeout)
    except (BreakerError, LedgerError) as error:
        sys.stderr.write(f"breaker: done, but not yet in the audit log: {error}; it waits in Redis's outbox\n")
