"""Lift the venues' locks of kill switches once the breakers that they are for have been reset.

Safe to call at any time: what a halted breaker needs stays. Each reset does, and so do the watch after it and the
scheduled verification, for what could not be lifted then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from breaker.errors import BreakerError
from breaker.state import State
from brokers.protocol import BrokerError
from brokers.registry import open_account
from configuration.breakers import async_breaker_of
from configuration.settings import ConfigurationError, Settings
from ledger.configured import open_ready_ledger, open_spool
from ledger.errors import LedgerError
from ledger.record import FAILED, OK, AuditRecord
from ledger.recorder import Recorder
from tasks.kill.venue_lock import Phase, VenueLock, in_phase, without
from tasks.kill.venue_lock_store import read_venue_locks, write_venue_lock
from tasks.kill.venue_setting import set_and_read_back

RELEASE_WITHIN = 15.0
"""Seconds that one venue may take."""


@dataclass(frozen=True, slots=True)
class _Release:
    account: str
    scopes: tuple[str, ...]
    incidents: str
    still_for: tuple[str, ...] = ()
    problem: str = ""


async def release_venue_locks(
    settings: Settings, *, by: str | None, source: str, ip_address: str | None = None, again: bool = False
) -> list[str]:
    """Lift the locks that no halted breaker needs, on record; what could not be lifted, each as a sentence.

    `again` means that it was tried before: another failure gets no row. Never raises what venue, Redis or ledger do.
    """
    reading = await asyncio.to_thread(read_venue_locks, settings)
    halted = await _halted(settings, {scope for lock in reading.held for scope in lock.holders})
    done = [
        release
        for release in await asyncio.gather(*(_release(settings, lock, halted) for lock in reading.held))
        if release is not None
    ]
    news = [release for release in done if not (release.problem and again)]
    unrecorded = await asyncio.to_thread(_record, settings, news, by, source, ip_address)
    return [*(release.problem for release in done if release.problem), *unrecorded]


async def _halted(settings: Settings, scopes: Iterable[str]) -> frozenset[str]:
    """Those whose breaker is not known to let trading go on."""
    return frozenset([scope for scope in scopes if await _is_halted(settings, scope)])


async def _is_halted(settings: Settings, scope: str) -> bool:
    breaker = async_breaker_of(settings, scope)
    try:
        return (await breaker.get_status()).state not in (State.OPEN, State.QUIET_PERIOD)
    except BreakerError:
        return True
    finally:
        await breaker.close()


async def _release(settings: Settings, lock: VenueLock, halted: frozenset[str]) -> _Release | None:
    over = tuple(scope for scope in lock.holders if scope not in halted)
    still_for = tuple(scope for scope in lock.holders if scope in halted)
    if not over and lock.holders:
        return None
    release = _Release(lock.account, over, lock.incidents, still_for)
    if still_for:
        await asyncio.to_thread(write_venue_lock, settings, without(lock, over, datetime.now(UTC)))
        return release
    try:
        async with asyncio.timeout(RELEASE_WITHIN):
            problem = await _lift(settings, lock)
    except TimeoutError:
        problem = f"no answer within {RELEASE_WITHIN:g} s"
    except (BrokerError, ConfigurationError) as error:
        problem = str(error)
    if not problem:
        return release
    return _Release(
        lock.account,
        over,
        lock.incidents,
        problem=f"{lock.account} is still locked at its venue, so that it refuses the engines' orders: {problem}. It "
        "is tried again every minute; by hand: lift suspend_trade in the account's configuration at the venue",
    )


async def _lift(settings: Settings, lock: VenueLock) -> str:
    """Why it is not lifted; empty where it is. Raises BrokerError, ConfigurationError."""
    if lock.account not in settings.accounts:
        return "no such account is configured here"
    lifting = in_phase(lock, Phase.LIFTING, datetime.now(UTC))
    await asyncio.to_thread(write_venue_lock, settings, lifting)
    broker = open_account(settings, lock.account)
    try:
        if (await broker.account()).trading_suspended and not await set_and_read_back(broker, suspended=False):
            return "the venue took it, and still says that trading is suspended"
    finally:
        await broker.aclose()
    lifted = without(in_phase(lifting, Phase.LIFTED, datetime.now(UTC)), [*lock.holders], datetime.now(UTC))
    await asyncio.to_thread(write_venue_lock, settings, lifted)
    return ""


def _record(
    settings: Settings, releases: Iterable[_Release], by: str | None, source: str, ip_address: str | None
) -> list[str]:
    records = [
        AuditRecord(
            action="VENUE_LOCK_RELEASE",
            source=source,
            user_id=by,
            details={
                "account": release.account,
                "set_in": release.incidents,
                "still_for": list(release.still_for),
                "problem": release.problem,
            },
            incident_id=release.incidents.split(", ")[0] or None,
            scope=next(iter(release.scopes), "global"),
            ip_address=ip_address,
            outcome=FAILED if release.problem else OK,
        )
        for release in releases
    ]
    if not records:
        return []
    try:
        ledger = open_ready_ledger(settings)
        try:
            Recorder(ledger, open_spool(settings)).record(*records)
        finally:
            ledger.close()
    except LedgerError as error:
        return [f"the venue's lock is lifted, and that is not on record: {error}"]
    return []
