"""Put on record what becomes of an account's timer, and what people ask of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict

from configuration.settings import Settings
from ledger.configured import open_ready_ledger, open_spool
from ledger.record import FAILED, OK, AuditRecord
from ledger.recorder import Recorder
from tasks.safety_nets.decision import Standing
from tasks.safety_nets.net import Changed
from tasks.safety_nets.records import Instruction

ACTIONS: Mapping[Standing, str] = {
    Standing.ARMED: "SAFETY_NET_ARMED",
    Standing.LATE: "SAFETY_NET_LATE",
    Standing.LEFT: "SAFETY_NET_LEFT",
    Standing.FIRED: "SAFETY_NET_FIRED",
    Standing.OFF: "SAFETY_NET_DISARMED",
}
"""What is put on record when a timer comes to stand so."""
BAD = frozenset({Standing.LATE, Standing.LEFT, Standing.FIRED})
"""Where it does not protect as it should."""


def record_change(settings: Settings, changed: Changed) -> None:
    """Raises LedgerError where neither the database nor the spool takes it."""
    record = changed.record
    details = {name: value for name, value in asdict(record).items() if value not in ("", None, ())}
    details |= {"standing": record.standing.value, "before": changed.before.value if changed.before else None}
    made = AuditRecord(
        action=ACTIONS[record.standing],
        source="rule",
        user_id="safety-net",
        details=details,
        scope=f"account:{record.account}",
        outcome=FAILED if record.standing in BAD else OK,
    )
    _record(settings, [made])


def record_instructions(settings: Settings, given: Mapping[str, Instruction], source: str) -> None:
    """By account. Raises LedgerError."""
    _record(
        settings,
        [
            AuditRecord(
                action="SAFETY_NET_INSTRUCTED",
                source=source,
                user_id=instruction.by,
                details={
                    "account": account,
                    "armed": instruction.armed,
                    "reason": instruction.reason,
                    "instruction": instruction.id,
                },
                scope=f"account:{account}",
            )
            for account, instruction in given.items()
        ],
    )


def _record(settings: Settings, records: Sequence[AuditRecord]) -> None:
    ledger = open_ready_ledger(settings)
    try:
        Recorder(ledger, open_spool(settings)).record(*records)
    finally:
        ledger.close()
