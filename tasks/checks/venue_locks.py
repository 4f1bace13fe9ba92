"""Judge the venues' locks that kill switches have set: on while their breaker is halted, lifted once it is reset."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from brokers.protocol import BrokerError
from brokers.registry import open_account
from configuration.settings import ConfigurationError, Settings
from ledger.configured import open_ready_ledger, open_spool
from ledger.record import FAILED, AuditRecord
from ledger.recorder import Recorder
from tasks.checks.measurement import Colour, Measurement
from tasks.checks.probe import Probe
from tasks.kill.venue_lock import VenueLock, is_unfinished, seen
from tasks.kill.venue_lock_release import release_venue_locks
from tasks.kill.venue_lock_store import read_venue_locks, reconcile_venue_locks, write_venue_lock

CHECK = "venue-locks"
ASK_WITHIN = 5.0
"""Seconds that a venue may take to say whether trading is suspended."""
AGAIN = "To lock it again: `breaker kill`, which sends nothing while the account is flat"


@dataclass(frozen=True, slots=True)
class Seen:
    """One lock, and whether its venue says that trading is suspended; None where that can't be told, with `why`."""

    lock: VenueLock
    suspended: bool | None
    why: str = ""


async def check_venue_locks(settings: Settings) -> Measurement:
    """Lift what no halted breaker needs any more, then compare what is left with what the venues say.

    That somebody else has lifted one gets a row in the audit log when it is found first.
    """
    await asyncio.to_thread(reconcile_venue_locks, settings)
    unreleased = await release_venue_locks(settings, by="health verification", source="rule", again=True)
    reading = await asyncio.to_thread(read_venue_locks, settings)
    now = datetime.now(UTC)
    found = [_noted(one, now) for one in await asyncio.gather(*(_look(settings, lock) for lock in reading.held))]
    changed = [one.lock for one, lock in zip(found, reading.held, strict=True) if one.lock != lock]
    if changed:
        await asyncio.to_thread(_keep, settings, changed)
    return judge_venue_locks(found, unreleased, reading.problems, now)


def judge_venue_locks(
    found: Sequence[Seen], unreleased: Sequence[str], unread: Sequence[str], now: datetime
) -> Measurement:
    """Red where an account is not as it should be; yellow where that can't be told."""
    probe = Probe(CHECK, "on until the reset", "what kill switches have locked, and what the venues say")
    value = ", ".join(one.lock.account for one in found) or "none"
    if unreleased:
        return probe.measured(value, Colour.RED, "; ".join(unreleased))
    red = [problem for one in found if (problem := _problem(one, now))]
    if red:
        return probe.measured(value, Colour.RED, f"{'; '.join(red)}. {AGAIN}.")
    unknown = [*(f"{one.lock.account}: {one.why}" for one in found if one.suspended is None), *unread]
    if unknown:
        return probe.measured(value, Colour.YELLOW, f"It can't be told whether all are on: {'; '.join(unknown)}.")
    return probe.measured(value)


def _problem(one: Seen, now: datetime) -> str:
    if one.lock.lifted_elsewhere is not None:
        return str(one.lock)
    if one.suspended is not None and is_unfinished(one.lock, suspended=one.suspended, now=now):
        return f"{one.lock.account} is not locked at its venue: the kill switch that was at it has not ended"
    return ""


def _noted(one: Seen, now: datetime) -> Seen:
    return one if one.suspended is None else replace(one, lock=seen(one.lock, suspended=one.suspended, now=now))


async def _look(settings: Settings, lock: VenueLock) -> Seen:
    if lock.account not in settings.accounts:
        return Seen(lock, None, "no such account is configured here")
    try:
        broker = open_account(settings, lock.account)
        try:
            async with asyncio.timeout(ASK_WITHIN):
                return Seen(lock, bool((await broker.account()).trading_suspended))
        finally:
            await broker.aclose()
    except TimeoutError:
        return Seen(lock, None, f"the venue gave no answer within {ASK_WITHIN:g} s")
    except (BrokerError, ConfigurationError) as error:
        return Seen(lock, None, str(error))


def _keep(settings: Settings, changed: Sequence[VenueLock]) -> None:
    """Raises LedgerError where neither the database nor the spool takes the rows."""
    records = [
        AuditRecord(
            action="VENUE_LOCK_LIFTED_ELSEWHERE",
            source="rule",
            details={"account": lock.account, "set_in": lock.incidents, "since": lock.since.isoformat()},
            incident_id=next(iter(lock.holders.values()), None),
            scope=next(iter(lock.holders), "global"),
            outcome=FAILED,
        )
        for lock in changed
        if lock.lifted_elsewhere is not None
    ]
    if records:
        ledger = open_ready_ledger(settings)
        try:
            Recorder(ledger, open_spool(settings)).record(*records)
        finally:
            ledger.close()
    for lock in changed:
        write_venue_lock(settings, lock)
