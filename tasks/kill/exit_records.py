"""Record what becomes of pending exits outside a run of the kill switch, and drop those that a person gives up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from configuration.settings import Settings
from ledger.configured import open_ready_ledger, open_spool
from ledger.record import AuditRecord
from ledger.recorder import Recorder
from tasks.kill.pending_exit_store import open_pending_exits, rewrite
from tasks.kill.pending_exits import PendingExit

DROPPED = "PENDING_EXIT_DROPPED"


def record_exits(
    settings: Settings,
    action: str,
    exits: Sequence[PendingExit],
    *,
    by: str | None,
    source: str,
    ip_address: str | None = None,
    **details: Any,
) -> None:
    """One row for each, in its own incident. Raises LedgerError when neither the database nor the spool takes them."""
    if not exits:
        return
    ledger = open_ready_ledger(settings)
    try:
        records = [
            AuditRecord(
                action=action,
                source=source,
                user_id=by,
                details={
                    "account": pending.account,
                    "symbol": pending.symbol,
                    "quantity": f"{pending.quantity:f}",
                    "since": pending.since.isoformat(),
                    **details,
                },
                incident_id=pending.incident_id,
                scope=pending.scope,
                ip_address=ip_address,
            )
            for pending in exits
        ]
        Recorder(ledger, open_spool(settings)).record(*records)
    finally:
        ledger.close()


def drop_exits(
    settings: Settings, scope: str, *, reason: str, by: str | None, source: str, ip_address: str | None = None
) -> tuple[PendingExit, ...]:
    """Give up what is pending for the breaker of `scope`, on record first; returns what that was.

    Raises LedgerError when it can't be recorded: then nothing is dropped.
    """
    with open_pending_exits(settings) as store:
        exits = store.read().of_scope(scope)
        if exits:
            record_exits(settings, DROPPED, exits, by=by, source=source, ip_address=ip_address, reason=reason)
            accounts = {pending.account for pending in exits}
            rewrite(store, accounts, lambda pending: None if pending.scope == scope else pending)
    return exits
