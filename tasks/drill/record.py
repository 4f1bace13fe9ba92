"""Record a drill's figures: in the audit log and a file, and notify people when it failed or passes again."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from breaker.atomic_file import write_atomically
from configuration.settings import Settings
from ledger.configured import open_ready_ledger, open_spool
from ledger.record import FAILED, OK, AuditRecord
from ledger.recorder import Recorder
from tasks.drill.result import DrillResult
from tasks.notification import Notification, NotificationKind
from tasks.notify import DeliveryFailure, notify

FINISHED = "DRILL_FINISHED"
DEDUPLICATION_KEY = "drill"
"""What stands for an incident's id in notifications of drills."""


async def record_result(
    settings: Settings, result: DrillResult, *, by: str, source: str, flow_run_id: str | None = None
) -> list[DeliveryFailure]:
    """Keep it everywhere; returns which notifications were not delivered.

    Raises:
        NotRecorded: neither the database nor the spool took the row.
        OSError: the file can't be written.
    """
    before = await asyncio.to_thread(last_result, settings)
    await asyncio.to_thread(_record, settings, result, by, source, flow_run_id)
    await asyncio.to_thread(_write, settings, result)
    notification = result_notification(result, before)
    return [] if notification is None else await notify(settings, notification)


def result_notification(result: DrillResult, before: DrillResult | None) -> Notification | None:
    """What people are told: every failure, and the first success after one."""
    if not result.passed:
        body = "\n".join(result.problems)
        return Notification(
            NotificationKind.DRILL_FAILED, DEDUPLICATION_KEY, "The kill switch drill failed", body, "critical"
        )
    if before is not None and not before.passed:
        body = "\n".join(f"{name}: {value}" for name, value in result.rows())
        return Notification(
            NotificationKind.DRILL_PASSED, DEDUPLICATION_KEY, "The kill switch drill passes again", body, "info"
        )
    return None


def last_result(settings: Settings) -> DrillResult | None:
    """Of the newest drill that this host has on file; None when there is none, or it can't be read."""
    try:
        newest = max(_directory(settings).glob("*.json"))
        return DrillResult.from_dict(json.loads(newest.read_bytes()))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _record(settings: Settings, result: DrillResult, by: str, source: str, flow_run_id: str | None) -> None:
    figures = result.as_dict()
    record = AuditRecord(
        id=figures.pop("drill_id"),
        action=FINISHED,
        source=source,
        user_id=by,
        details=figures,
        flow_run_id=flow_run_id,
        outcome=OK if result.passed else FAILED,
    )
    ledger = open_ready_ledger(settings)
    try:
        Recorder(ledger, open_spool(settings)).record(record)
    finally:
        ledger.close()


def _write(settings: Settings, result: DrillResult) -> None:
    path = _directory(settings) / f"{result.started_at:%Y%m%dT%H%M%S}-{result.drill_id}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(result.as_dict(), indent=2) + "\n", mode=0o644)


def _directory(settings: Settings) -> Path:
    return settings.state_dir / "drills"
