"""Open a run of the kill switch as configured. Imports no orchestrator: the first sweep comes before that."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

from breaker import AsyncCircuitBreaker, State
from breaker.keys import GLOBAL
from breaker.uuid7 import uuid7
from brokers.coverage import coverage_of
from brokers.registry import close_brokers, open_those_that_open
from configuration.breakers import REFUSAL_PATIENCE, async_breaker_of
from configuration.redis_clients import redis_client
from configuration.settings import Settings, load_settings
from ledger.spool_copy import spool_of
from tasks.audit_trail import AuditTrail
from tasks.kill.account import Observer
from tasks.kill.close_names import agree_on_close_names
from tasks.kill.run import KillRun
from tasks.kill.status_feed import publish_status

if TYPE_CHECKING:
    from brokers.protocol import Broker
    from brokers.sweep import SweepResult
    from ledger.ledger import Ledger
    from tasks.kill.shares import Share

LEDGER_WAIT = 3.0
"""Seconds that the ledger may take, after everything else, to catch up with the run."""


@asynccontextmanager
async def open_kill_run(
    *,
    reason: str,
    operator: str,
    incident_id: str = "new",
    accounts: Sequence[str] | None = None,
    scope: str = GLOBAL,
    source: str = "flow",
    record_at_once: bool = True,
    settings: Settings | None = None,
    observers: Sequence[Observer] = (),
    trip_event_id: str | None = None,
    opened: Mapping[str, Broker] | None = None,
    share: Share | None = None,
    closes_as: Mapping[str, str] | None = None,
) -> AsyncIterator[KillRun]:
    """A run on what the scope covers, its connections closed at the end; those `opened` before are left open.

    Without `record_at_once`, importing and asking the database begins when the run's `trail` is started.

    Args:
        accounts: only these of the scope's accounts; all of them otherwise.
        share: the part of another run that this one is.
        closes_as: of a run that is taken over, by account, the incident that its closes are named by where that is not
            its own. None of a run that begins: it agrees with others.

    Raises:
        InvalidInput: as `coverage_of`.
        ConfigurationError: no account's adapter can be opened; one that can't is told as failed beside the others.
    """
    settings = settings or load_settings()
    coverage = coverage_of(scope, settings.accounts, accounts or ())
    scope, wanted = coverage.scope, coverage.accounts
    lent = {name: broker for name, broker in (opened or {}).items() if name in wanted}
    own = open_those_that_open(
        {name: settings.accounts[name] for name in wanted if name not in lent}, markets_dir=settings.markets_dir
    )
    brokers = {name: (lent | own)[name] for name in wanted}
    breaker = async_breaker_of(settings, scope, refusal_patience=REFUSAL_PATIENCE)
    incident = await _incident_under_way(breaker) if incident_id == "new" else incident_id
    trail = AuditTrail(
        spool_of(settings),
        partial(_ledger, settings),
        partial(_drain_transitions, settings, scope),
        source=source,
        user_id=operator,
        incident_id=incident,
        scope=scope,
    )
    run = KillRun(
        incident_id=incident,
        reason=reason,
        operator=operator,
        breaker=breaker,
        brokers=brokers,
        settings=settings.kill,
        coverage=coverage,
        source=source,
        configuration=settings,
        observers=(trail, *observers),
        trail=trail,
        trip_event_id=trip_event_id,
        share=share,
    )
    if record_at_once:
        trail.start()
    if share is None:
        run.record("KILL_SWITCH_STARTED", reason=reason, accounts=list(wanted), covers=str(coverage))
    else:
        run.run_id = share.run_id
        run.record("KILL_SHARE_STARTED", share=str(share), accounts=list(wanted))
    for name, account in run.accounts.items():
        account.closes_as = (closes_as or {}).get(name, account.closes_as)
    run.naming_closes = asyncio.create_task(agree_on_close_names(run, settings, adopt=closes_as is None))
    async with publish_status(run, settings):
        try:
            yield run
        finally:
            run.naming_closes.cancel()
            if run.following is not None:
                run.following.cancel()
            await close_brokers(own.values())
            if run.claims is not None:
                await run.claims.aclose()
            await breaker.close()
            run.missing += await asyncio.to_thread(trail.close, LEDGER_WAIT)


def record_sweep(run: KillRun, swept: Iterable[SweepResult], after: float) -> None:
    """What the first sweep did, into the run and its records; these answered `after` seconds from the start."""
    for result in swept:
        asked = result.accepted + result.refused if result.orders is None else result.open_orders
        # Open until the venue's own list says otherwise: an accepted cancel is not yet a cancelled order.
        known = {} if result.problem and result.orders is None else {"orders_at_start": asked, "orders_open": asked}
        run.update(result.account, canceled=result.accepted, **known)
        run.accounts[result.account].opening.note_sweep(result.orders or (), result.positions, after)
        if result.problem:
            run.update(result.account, note=result.problem)
        run.record(
            "FIRST_SWEEP",
            account=result.account,
            accepted=result.accepted,
            refused=result.refused,
            problem=result.problem,
            protective=result.protective,
            orders=None if result.orders is None else list(result.orders),
            positions=list(result.positions),
            unseen=list(result.unseen),
            after_seconds=round(after, 3),
        )


async def _incident_under_way(breaker: AsyncCircuitBreaker) -> str:
    """The tripped breaker's own incident: kill switches of one incident know each other's closes by their names."""
    status = await breaker.get_status()
    return status.incident_id if status.state is State.TRIPPED and status.incident_id else uuid7()


def _ledger(settings: Settings) -> Ledger:
    from ledger.configured import open_ready_ledger  # noqa: PLC0415  SQLAlchemy, on the trail's own thread

    return open_ready_ledger(settings)


def _drain_transitions(settings: Settings, scope: str, ledger: Ledger) -> None:
    from ledger.outbox import drain_outbox  # noqa: PLC0415

    with redis_client(settings) as redis:
        drain_outbox(redis, ledger, (scope,), timeout=settings.redis_timeout)
