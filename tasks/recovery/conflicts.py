"""Find what else is going on that a reset would get in the way of (runbook, *Pre-Reset Actions*)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from breaker.keys import GLOBAL, of_scope
from brokers.registry import open_account
from configuration.settings import KillSettings, Settings
from tasks import orchestrator
from tasks.checks.measurement import Colour, Measurement
from tasks.checks.probe import Probe, describe_error, redis_reader
from tasks.recovery.state import RecoveryState, cancelled_sentence, state_key

if TYPE_CHECKING:
    from ledger.record import AuditRecord, AuditRow

_STARTED, _FINISHED = "KILL_SWITCH_STARTED", "KILL_SWITCH_FINISHED"
_LEDGER_DEADLINE = 8.0


async def find_conflicts(
    settings: Settings, *, incident_id: str, flow_run_id: str | None, scope: str = GLOBAL
) -> Measurement:
    """One measurement, `conflicts`: red when an operation is under way that a reset must wait for, or may be.

    Looked for are a running kill switch (flow runs, and the ledger, which also knows of those that run without
    Prefect), working orders at the venues, another recovery of the scope, and a deployment that holds its lock. What
    can't be looked at counts as a conflict. Nothing is raised. Without `flow_run_id` it is for a reset past the
    recovery of its own incident, which then has to have come to its approval.
    """
    checks: dict[str, tuple[float, Awaitable[list[str]]]] = {
        "kill switches in the ledger": (_LEDGER_DEADLINE, asyncio.to_thread(_kills_in_ledger, settings)),
        "other recoveries": (settings.redis_timeout + 1, _other_recoveries(settings, scope, incident_id, flow_run_id)),
        "the deployment lock": (settings.redis_timeout + 1, _deployment(settings)),
    }
    if orchestrator.is_configured():
        checks["kill switches in Prefect"] = (orchestrator.DEADLINE, _kills_in_prefect(settings))
    for name, account in settings.accounts.items():
        checks[f"orders of {name}"] = (account.request_timeout + 1, _working_orders(settings, name))
    probe = Probe("conflicts", "none", f"looked at {', '.join(checks)}")
    found = await asyncio.gather(*(_conflicts_in(what, *check) for what, check in checks.items()))
    conflicts = [conflict for some in found for conflict in some]
    if not conflicts:
        return probe.measured("none")
    value = f"{len(conflicts)} found" if len(conflicts) > 1 else "1 found"
    return probe.measured(value, Colour.RED, f"{'; '.join(conflicts)}. Wait until that is over, or end it.")


async def _conflicts_in(what: str, deadline: float, looking: Awaitable[list[str]]) -> list[str]:
    try:
        async with asyncio.timeout(deadline):
            return await looking
    except TimeoutError:
        return [f"{what} could not be looked at within {deadline:g} s"]
    except Exception as error:  # not knowing of a conflict is no proof that there is none
        return [f"{what} could not be looked at: {describe_error(error).rstrip('.')}"]


async def _kills_in_prefect(settings: Settings) -> list[str]:
    """A run whose process was killed says Running for ever, and must not keep every later recovery from its end."""
    since = datetime.now(UTC) - longest_kill(settings.kill)
    return [
        f"the kill switch is running ({run.name} in Prefect)"
        for run in await orchestrator.running("kill-switch", "kill-share")
        if run.start_time is None or run.start_time >= since
    ]


def _kills_in_ledger(settings: Settings) -> list[str]:
    from ledger.configured import open_ready_ledger, open_spool  # noqa: PLC0415  SQLAlchemy, in a thread
    from ledger.queries import Filter  # noqa: PLC0415

    longest = longest_kill(settings.kill)
    since = datetime.now(UTC) - longest
    ledger = open_ready_ledger(settings)
    try:
        recorded = ledger.query(Filter(actions=(_STARTED, _FINISHED), since=since), limit=500).rows
    finally:
        ledger.close()
    waiting = [record for record in open_spool(settings).records() if record.timestamp >= since]
    return [
        f"the kill switch of incident {start.incident_id} has been running since {start.timestamp:%H:%M:%S} UTC, or "
        f"has died, and is waited for until {start.timestamp + longest:%H:%M:%S} UTC"
        for start in unfinished_kills([*recorded, *waiting])
    ]


def longest_kill(kill: KillSettings) -> timedelta:
    """How long after its start a kill switch that said nothing more may still be at work; after that it has died."""
    return timedelta(seconds=kill.deadline + kill.stuck_after + kill.guard + kill.record_wait)


def unfinished_kills(records: Iterable[AuditRow | AuditRecord]) -> list[AuditRow | AuditRecord]:
    """The newest start of each incident that no end has followed."""
    newest: dict[str | None, AuditRow | AuditRecord] = {}
    for record in sorted(records, key=lambda record: record.timestamp):
        if record.action in (_STARTED, _FINISHED):
            newest[record.incident_id] = record
    return [record for record in newest.values() if record.action == _STARTED]


async def _other_recoveries(settings: Settings, scope: str, incident_id: str, flow_run_id: str | None) -> list[str]:
    key = state_key(scope)
    async with redis_reader(settings) as redis:
        (raw,) = await redis.ask(f"read {key}", ("GET", key))
    if raw is None:
        return []
    other = RecoveryState.from_json(raw)
    if other.done or (other.incident_id, other.flow_run_id) == (incident_id, flow_run_id):
        return []
    if other.incident_id == incident_id and flow_run_id is None:
        # Past its recovery: what remains to be done there is the reset itself (runbook, *Reset via UI or CLI*).
        if other.waiting_for == "approval":
            return []
        if other.cancelled_at:
            return [f"the recovery of this incident was cancelled. {cancelled_sentence(other.scope)}"]
        answer = f"`breaker recover answer{of_scope(other.scope)}`"
        return [f"the recovery of this incident is not that far ({other.phase}): answer it ({answer})"]
    return [f"the recovery of incident {other.incident_id} is under way ({other.phase}, flow run {other.flow_run_id})"]


async def _deployment(settings: Settings) -> list[str]:
    key = settings.recovery.deployment_lock
    async with redis_reader(settings) as redis:
        (kind,) = await redis.ask(f"look at {key}", ("TYPE", key))
        if kind == b"none":
            return []
        holder = (await redis.ask(f"read {key}", ("GET", key)))[0] if kind == b"string" else b""
    return [f"a deployment is in progress ({key} is held by {(holder or b'').decode('utf-8', 'replace')[:80] or '?'})"]


async def _working_orders(settings: Settings, name: str) -> list[str]:
    broker = open_account(settings, name)
    try:
        orders = await broker.open_orders()
    finally:
        await broker.aclose()
    symbols = sorted({order.symbol for order in orders} | {item.symbol or item.id for item in orders.unreadable})
    listed = ", ".join(symbols[:5]) + (" …" if len(symbols) > 5 else "")
    return [f"{len(orders)} orders are working in {name} ({listed})"] if len(orders) else []
