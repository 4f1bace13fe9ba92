"""Judge what the newest kill switch has left at the venue and nobody keeps in mind: stuck, and not among pending exits.

What is stuck is pending (tasks/kill/pending_exits.py), unless that could not be kept: another host's disk, a flushed
Redis. Then only the ledger tells that the run did not end flat, and only the venue whether that is still so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from breaker.keys import GLOBAL
from brokers.registry import open_broker
from configuration.settings import AccountSettings, Settings
from tasks.checks.measurement import Colour, Measurement
from tasks.checks.probe import Probe, measure_within
from tasks.kill.pending_exit_store import read_pending_exits

if TYPE_CHECKING:
    from ledger.record import AuditRow

CONDITION = "position-sizes/kill-switch"
_FINISHED, _RESET = "KILL_SWITCH_FINISHED", "CIRCUIT_BREAKER_RESET"
_DEADLINE = 8.0
_NAMED = 5


@dataclass(frozen=True, slots=True)
class Left:
    """What a run of the kill switch could not close: symbols by account."""

    when: str
    stuck: Mapping[str, Sequence[str]]


async def measure_unclosed(settings: Settings, scope: str = GLOBAL) -> Measurement:
    """Red while something is held that the newest kill switch of this breaker called stuck, and that is not pending."""
    probe = Probe(CONDITION, "flat", "how the newest kill switch ended, in the ledger, and what the venue still holds")
    longest = max((account.request_timeout for account in settings.accounts.values()), default=0.0)
    return await measure_within(probe, _DEADLINE + longest, _measure(settings, scope, probe))


async def _measure(settings: Settings, scope: str, probe: Probe) -> Measurement:
    left = left_by(await asyncio.to_thread(_newest_rows, settings, scope))
    if left is None:
        return probe.measured("nothing left")
    pending = await asyncio.to_thread(read_pending_exits, settings)
    known = {(each.account, each.symbol) for each in pending.exits}
    held = []
    for account, symbols in left.stuck.items():
        unknown = [symbol for symbol in symbols if (account, symbol) not in known]
        if unknown:
            held += await _held(account, settings.accounts.get(account), unknown)
    if not held:
        return probe.measured("pending, or closed since")
    named = ", ".join(held[:_NAMED]) + (f" and {len(held) - _NAMED} more" if len(held) > _NAMED else "")
    problem = (
        f"The kill switch of {left.when} ended NOT FLAT, and nothing closes this by itself: run it again, close it at "
        "the venue, or override with the reason why it may stay."
    )
    return probe.measured(f"NOT FLAT: {named}", Colour.RED, problem)


def left_by(rows: Sequence[AuditRow]) -> Left | None:
    """What the newest run left, if no reset has come after it. `rows` are ends of runs and resets, newest first."""
    newest = next((row for row in rows if not row.details.get("declined")), None)
    if newest is None or newest.action != _FINISHED or newest.details.get("flat"):
        return None
    stuck = newest.details.get("stuck")
    return Left(f"{newest.timestamp:%H:%M:%S} UTC", stuck) if isinstance(stuck, dict) and stuck else None


def _newest_rows(settings: Settings, scope: str) -> Sequence[AuditRow]:
    from ledger.configured import open_ready_ledger  # noqa: PLC0415  SQLAlchemy, in a thread
    from ledger.queries import Filter  # noqa: PLC0415

    with closing(open_ready_ledger(settings)) as ledger:
        return ledger.query(Filter(actions=(_FINISHED, _RESET), scope=scope), limit=10).rows


async def _held(name: str, account: AccountSettings | None, symbols: Sequence[str]) -> list[str]:
    if account is None:
        return [f"{name} {symbol} (the account is not configured here: ask the venue)" for symbol in symbols]
    broker = open_broker(name, account)
    try:
        positions = await broker.positions()
    finally:
        await broker.aclose()
    there = {position.symbol: position.quantity for position in positions if position.quantity}
    unreadable = {item.symbol for item in positions.unreadable}
    return [
        f"{name} {symbol}" + (f" {there[symbol]}" if symbol in there else " (not readable)")
        for symbol in symbols
        if symbol in there or symbol in unreadable
    ]
