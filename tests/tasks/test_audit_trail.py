"""A run's records reach the ledger also when the disk turns read-only on the way (promise 8)."""

from __future__ import annotations

from pathlib import Path

from ledger.ledger import Ledger
from ledger.record import AuditRecord
from ledger.schema import upgrade
from ledger.spool import Spool
from tasks.audit_trail import AuditTrail


def test_what_the_disk_refuses_is_in_the_ledger_although_what_it_has_already_cannot_be_moved(tmp_path: Path) -> None:
    ledger = Ledger.connect(f"sqlite:///{tmp_path / 'audit.db'}")
    upgrade(ledger)
    spool = Spool(tmp_path / "spool")
    spool.add([AuditRecord(action="BEFORE", source="cli")])
    trail = AuditTrail(spool, lambda: ledger, lambda _: None, source="cli", user_id="ada", incident_id="i")
    (spool.directory / "current.jsonl").rename(spool.directory / "aside-1-1.jsonl")
    in_the_way = [spool.directory / "current.jsonl", spool.directory / "drain.lock"]
    for path in in_the_way:  # refuses root too, whom permissions don't
        path.mkdir()
    trail("AFTER", {})
    (missing,) = trail.close(10)
    assert "can't be drained" in missing and "breaker audit drain" in missing
    assert [row.action for row in ledger.query().rows] == ["AFTER"]
    for path in in_the_way:
        path.rmdir()
    spool.drain(ledger)
    assert {row.action for row in ledger.query().rows} == {"BEFORE", "AFTER"}
