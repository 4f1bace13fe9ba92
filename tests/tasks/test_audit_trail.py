"""A run's records are on the disk before its next action, and reach the ledger whatever the disk does (promise 8)."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import pytest

from breaker.process_lock import process_lock
from ledger.ledger import Ledger
from ledger.record import AuditRecord
from ledger.schema import upgrade
from ledger.spool import Spool
from tasks import audit_trail
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


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    made = Ledger.connect(f"sqlite:///{tmp_path / 'audit.db'}")
    upgrade(made)
    yield made
    made.close()


def trail_of(spool: Spool, ledger: Ledger) -> AuditTrail:
    return AuditTrail(spool, lambda: ledger, lambda _: None, source="cli", user_id="ada", incident_id="i")


class SlowDisk:
    """Takes nothing while it is held, and counts how often it was made to write."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.free, self.synced = threading.Event(), 0
        self.reached = threading.Event()
        sync = os.fsync

        def wait(file: int) -> None:
            self.reached.set()
            self.free.wait(60)
            self.synced += 1
            sync(file)

        monkeypatch.setattr(os, "fsync", wait)


async def test_what_many_record_at_once_is_written_at_once_and_nobody_acts_before(
    tmp_path: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool(tmp_path / "spool")
    trail = trail_of(spool, ledger)
    trail("BEFORE", {})
    await trail.on_disk()
    disk = SlowDisk(monkeypatch)
    trail("ORDERS_CANCELED", {"n": -1})
    assert await asyncio.to_thread(disk.reached.wait, 60)
    acted: list[int] = []

    async def act(number: int) -> None:
        trail("ORDERS_CANCELED", {"n": number})
        await trail.on_disk()
        assert number in {record.details.get("n") for record in spool.records()}
        acted.append(number)

    acting = [asyncio.create_task(act(number)) for number in range(100)]
    await asyncio.sleep(0)  # each has recorded by now, and waits
    assert not acted
    disk.free.set()
    await asyncio.gather(*acting)
    assert sorted(acted) == list(range(100))
    assert disk.synced <= 4
    assert trail.close(10) == []
    assert len(ledger.query(limit=200).rows) == 102


async def test_promise_10_a_disk_that_hangs_holds_up_one_action_and_the_ledger_has_it_all(
    tmp_path: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_trail, "DISK_WAIT", 0.2)
    trail = trail_of(Spool(tmp_path / "spool"), ledger)
    with monkeypatch.context() as patched:
        disk = SlowDisk(patched)
        trail("ORDERS_CANCELED", {})
        async with asyncio.timeout(30):
            await trail.on_disk()
        monkeypatch.setattr(audit_trail, "DISK_WAIT", 3_600.0)
        trail("POSITIONS_CLOSE_ALL_SENT", {})
        async with asyncio.timeout(30):
            await trail.on_disk()
        monkeypatch.setattr(audit_trail, "DISK_WAIT", 0.2)
        (missing,) = await asyncio.to_thread(trail.close, 10)
        disk.free.set()
    assert "can't be drained" in missing  # its own file, which is held
    assert [row.action for row in ledger.query().rows] == ["POSITIONS_CLOSE_ALL_SENT", "ORDERS_CANCELED"]


def test_promise_8_what_the_disk_takes_while_a_run_ends_is_in_the_ledger(
    tmp_path: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever drains is at work when the last record comes, and finished before the disk has it."""
    drained, go_on = threading.Event(), threading.Event()

    def drain_transitions(_: Ledger) -> None:
        drained.set()
        go_on.wait(60)

    spool = Spool(tmp_path / "spool")
    trail = AuditTrail(spool, lambda: ledger, drain_transitions, source="cli", user_id="ada", incident_id="i")
    trail.start()
    trail("FIRST", {})
    assert drained.wait(60)
    disk = SlowDisk(monkeypatch)
    trail("LAST", {})
    assert disk.reached.wait(60)
    with ThreadPoolExecutor() as pool:
        missing = pool.submit(trail.close, 10)
        (drainer,) = (thread for thread in threading.enumerate() if thread.name == "audit trail")
        go_on.set()
        drainer.join(0.5)  # what would be too early
        disk.free.set()
        assert missing.result(60) == []
    assert [row.action for row in ledger.query().rows] == ["LAST", "FIRST"]
    assert not spool.pending()


def test_promise_8_a_run_that_ends_while_another_process_drains_waits_for_it(tmp_path: Path, ledger: Ledger) -> None:
    """Their drain may have begun before our last record."""
    spool = Spool(tmp_path / "spool")
    spool.directory.mkdir()
    trail = trail_of(spool, ledger)
    with ThreadPoolExecutor() as pool:
        with process_lock(spool.directory / "drain.lock") as mine:
            assert mine
            trail("LAST", {})
            missing = pool.submit(trail.close, 10)
            assert not wait([missing], 0.5).done
        assert missing.result(60) == []
    assert [row.action for row in ledger.query().rows] == ["LAST"]


def test_who_waits_for_a_frozen_drain_says_what_waits_and_ends_in_time(tmp_path: Path, ledger: Ledger) -> None:
    spool = Spool(tmp_path / "spool")
    spool.directory.mkdir()
    trail = trail_of(spool, ledger)
    with process_lock(spool.directory / "drain.lock"):
        trail("LAST", {})
        (missing,) = trail.close(0.5)
    assert "another process is draining the spool" in missing and "breaker audit drain" in missing
