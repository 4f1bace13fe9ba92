"""Judge what the newest kill switch has left at the venue and nobody keeps in mind: stuck, and not among pending exits.

What is stuck is pending (tasks/kill/pending_exits.py), unless that could not be kept: another host's disk, a flushed
Redis. Then only the ledger tells that the run did not end flat, and only the venue whether that is still so. A run that
was begun and has said no end has died, or is at work: until another one has ended, all that it covers counts as left.
So does what one covers that was confirmed and never began; of that Redis tells.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING

from breaker.errors import BreakerError, InvalidInput
from breaker.keys import ASKED_KILLS, GLOBAL, Keys
from breaker.orders import PositionKey
from breaker.redis_time import microseconds_of, to_datetime
from breaker.state import read_status
from brokers.coverage import Coverage, coverage_of
from brokers.registry import open_account
from configuration.settings import Settings
from tasks.checks.measurement import Colour, Measurement
from tasks.checks.probe import Probe, measure_within, redis_reader
from tasks.kill.asked_kills import AskedKill, read_asked_kills
from tasks.kill.pending_exit_store import read_pending_exits
from tasks.kill.status_feed import TAKEN_OVER_AFTER

if TYPE_CHECKING:
    from ledger.record import AuditRow

CONDITION = "position-sizes/kill-switch"
_STARTED, _FINISHED, _RESET = "KILL_SWITCH_STARTED", "KILL_SWITCH_FINISHED", "CIRCUIT_BREAKER_RESET"
_DEADLINE = 8.0
_NAMED = 5


@dataclass(frozen=True, slots=True)
class Left:
    """What a run of the kill switch could not close: symbols by account, or all that it covers where it has no end."""

    when: str
    stuck: Mapping[str, Sequence[str]]
    unended: Sequence[str] = ()
    """The accounts of a run that was begun and has not ended, or was interrupted."""


async def measure_unclosed(settings: Settings, scope: str = GLOBAL) -> Measurement:
    """Red while something is held that the newest kill switch of this breaker called stuck, and that is not pending."""
    probe = Probe(CONDITION, "flat", "how the newest kill switch ended, in the ledger, and what the venue still holds")
    longest = max((account.request_timeout for account in settings.accounts.values()), default=0.0)
    return await measure_within(probe, _DEADLINE + longest, _measure(settings, scope, probe))


async def _measure(settings: Settings, scope: str, probe: Probe) -> Measurement:
    asked = await _unbegun(settings, scope)
    if asked and (unbegun := await _measure_unbegun(settings, asked, probe)) is not None:
        return unbegun
    left = left_by(await asyncio.to_thread(_newest_rows, settings, scope))
    if left is None:
        return probe.measured("closed since" if asked else "nothing left")
    if left.unended:
        return await _measure_unended(settings, coverage_of(scope, left.unended), left, probe)
    pending = await asyncio.to_thread(read_pending_exits, settings)
    known = {(each.account, each.symbol) for each in pending.exits}
    held = []
    for account, symbols in left.stuck.items():
        unknown = [symbol for symbol in symbols if (account, symbol) not in known]
        if unknown:
            held += await _held(settings, account, unknown)
    if not held:
        return probe.measured("pending, or closed since")
    problem = (
        f"The kill switch of {left.when} ended NOT FLAT, and nothing closes this by itself: run it again, close it at "
        "the venue, or override with the reason why it may stay."
    )
    return probe.measured(f"NOT FLAT: {_named(held)}", Colour.RED, problem)


async def _measure_unbegun(settings: Settings, asked: Sequence[AskedKill], probe: Probe) -> Measurement | None:
    """None where nothing that they cover is held any more."""
    held = []
    for each in asked:
        with suppress(InvalidInput):  # nobody can tell what it covers, so that nobody begins it either
            coverage = coverage_of(each.trip.scope, each.closes)
            for name in each.closes:
                held += await _held(settings, name, None, coverage)
    if not held:
        return None
    problem = (
        f"The kill switch of {asked[-1].trip.at:%H:%M:%S} UTC was confirmed and has not begun: whoever asked for it "
        "has died, and no standby that has these accounts is up. Run it again, which is safe, or override with the "
        "reason why this may stay."
    )
    return probe.measured(f"not begun: {_named(list(dict.fromkeys(held)))}", Colour.RED, problem)


async def _unbegun(settings: Settings, scope: str) -> list[AskedKill]:
    """The kill switches of this breaker that were confirmed and have given no sign of life, oldest first. None without
    Redis, for which another condition is red.
    """
    with suppress(BreakerError):
        async with redis_reader(settings) as redis:
            key = Keys.of(scope).state
            clock, raw, kept = await redis.ask(
                "look for kill switches", ("TIME",), ("GET", key), ("HGETALL", ASKED_KILLS)
            )
        now = microseconds_of(clock)
        status = read_status(raw, now, key=key)
        asked = [each for each in read_asked_kills(kept[1::2]) if each.trip.scope == scope and each.is_in_force(status)]
        return [each for each in asked if each.waited(to_datetime(now)) >= TAKEN_OVER_AFTER]
    return []


async def _measure_unended(settings: Settings, coverage: Coverage, left: Left, probe: Probe) -> Measurement:
    held = []
    for name in left.unended:
        held += await _held(settings, name, None, coverage)
    if not held:
        return probe.measured("closed since")
    problem = (
        f"The kill switch of {left.when} was begun and has not said its end: it is at work, was interrupted, or has "
        "died on the way. Run it again, which is safe, or override with the reason why this may stay."
    )
    return probe.measured(f"not ended: {_named(held)}", Colour.RED, problem)


def _named(held: Sequence[str]) -> str:
    return ", ".join(held[:_NAMED]) + (f" and {len(held) - _NAMED} more" if len(held) > _NAMED else "")


def left_by(rows: Sequence[AuditRow]) -> Left | None:
    """What the newest run left, if no reset has come after it, by the begins and ends of runs and resets, newest first.

    A run that was declined at its question has touched nothing, so that what was left before it still is.
    """
    left: Left | None = None
    begun: AuditRow | None = None
    for row in reversed(rows):
        if row.action == _STARTED:
            begun = row
            continue
        unended, begun = _unended(begun), None
        if row.action == _RESET:
            left = None
        elif row.details.get("interrupted"):  # no more is known of it than of one without an end
            left = unended or left
        elif not row.details.get("declined"):
            stuck = row.details.get("stuck")
            named = stuck if isinstance(stuck, dict) and not row.details.get("flat") else {}
            left = Left(f"{row.timestamp:%H:%M:%S} UTC", named) if named else None
    return _unended(begun) or left


def _unended(begun: AuditRow | None) -> Left | None:
    accounts = begun.details.get("accounts") if begun is not None else None
    return Left(f"{begun.timestamp:%H:%M:%S} UTC", {}, unended=accounts) if begun is not None and accounts else None


def _newest_rows(settings: Settings, scope: str) -> Sequence[AuditRow]:
    from ledger.configured import open_ready_ledger  # noqa: PLC0415  SQLAlchemy, in a thread
    from ledger.queries import Filter  # noqa: PLC0415

    with closing(open_ready_ledger(settings)) as ledger:
        return ledger.query(Filter(actions=(_STARTED, _FINISHED, _RESET), scope=scope), limit=20).rows


async def _held(
    settings: Settings, name: str, symbols: Sequence[str] | None, coverage: Coverage | None = None
) -> list[str]:
    """What of these symbols the account holds, or of all that is covered."""
    if name not in settings.accounts:
        asked = [f" {symbol}" for symbol in symbols] if symbols is not None else [""]
        return [f"{name}{symbol} (the account is not configured here: ask the venue)" for symbol in asked]
    broker = open_account(settings, name)
    try:
        positions = await broker.positions()
    finally:
        await broker.aclose()
    covered = positions if coverage is None else coverage.of_positions(positions)
    there: dict[str, Decimal] = {position.key: position.quantity for position in covered if position.quantity}
    unreadable = {item.symbol or item.id or item.what for item in covered.unreadable}
    return [
        f"{name} {key}" + (f" {there[key]:f}" if key in there else " (not readable)")
        for key in (sorted({*there, *unreadable}) if symbols is None else symbols)
        if key in there or PositionKey.read(key).symbol in unreadable or key in unreadable
    ]
