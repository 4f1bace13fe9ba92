"""Diagnose, for `breaker doctor`, everything that has to be in order before it is needed, each problem with its fix.

Nothing is changed by looking: no record is moved, no checkpoint kept, nothing sent to a venue but questions.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import replace

from configuration.locations import configuration_file
from configuration.settings import Settings
from ledger.configured import open_ready_ledger
from ledger.errors import LedgerError
from tasks import orchestrator
from tasks.checks.conditions import measure_database, measure_redis
from tasks.checks.measurement import Colour, Measurement
from tasks.checks.probe import NOT_MEASURED, Probe
from tasks.checks.system import measure_health
from tasks.doctor.account_access import measure_access_in_short
from tasks.doctor.monitoring import (
    measure_exporter,
    measure_prometheus,
    measure_standby,
    measure_verification,
    notifications,
)
from tasks.doctor.orchestration import measure_deployments, measure_prefect, measure_results
from tasks.doctor.redis_server import measure_rate_limit, measure_redis_settings
from tasks.doctor.redis_use import measure_use
from tasks.doctor.stores import measure_pending_trips, measure_stores
from tasks.doctor.venues import measure_venue, measure_venue_lock, no_account
from tasks.kill.venue_lock_store import read_venue_locks
from tasks.monitor.check import measure_calendars, measure_monitor
from tasks.running_services import measure_services, measure_watches
from tasks.safety_nets.check import measure_safety_nets

RESTS_ON = {
    "redis/settings": "redis",
    "redis/commands": "redis",
    "redis/gate": "redis",
    "reset-rate-limit": "redis",
    "queues/outbox": "redis",
    "chain": "ledger",
    "epoch": "ledger",
    "monitor": "redis",
}
"""What can be looked at only where something else answers."""


async def diagnose(settings: Settings) -> list[Measurement]:
    """Every check, each within its own deadline, what others rest on first. Never raises."""
    await asyncio.to_thread(_make_ledger, settings)
    using_redis = asyncio.create_task(measure_use(settings))
    (states, chain), *stores = await asyncio.gather(
        measure_stores(settings),
        measure_redis(settings),
        measure_redis_settings(settings),
        measure_rate_limit(settings),
        measure_pending_trips(settings),
        measure_database(settings),
    )
    # Afterwards, as clients for HTTP read every root certificate first, and Redis's answers would wait for that.
    locks = await asyncio.to_thread(read_venue_locks, settings)
    others = await asyncio.gather(
        *(measure_venue(settings, name, locks.of(name)) for name in settings.accounts),
        *(measure_access_in_short(settings, name) for name in settings.accounts),
        measure_prefect(),
        measure_deployments(settings),
        *([measure_watches(settings), measure_results(settings)] if orchestrator.is_configured() else []),
        measure_verification(settings),
        measure_exporter(settings),
        measure_prometheus(settings),
        measure_standby(settings),
    )
    venues = [measure_venue_lock(settings), *others] if settings.accounts else [no_account(), *others]
    services, nets, monitor, calendars, health = await asyncio.gather(
        measure_services(settings),
        measure_safety_nets(settings),
        measure_monitor(settings, services_expected=orchestrator.is_configured()),
        measure_calendars(settings),
        measure_health(settings),
    )
    redis = await using_redis
    found = [
        configuration(settings),
        *services,
        *redis,
        *stores,
        *states,
        chain,
        *venues,
        *nets,
        *monitor,
        *calendars,
        notifications(settings),
        *health,
    ]
    return _without_echoes(found)


def _make_ledger(settings: Settings) -> None:
    """Where the embedded ledger is missing, make it before several checks try to at once."""
    with contextlib.suppress(LedgerError):  # the check of the database says why it can't be made
        open_ready_ledger(settings).close()


def _without_echoes(found: Sequence[Measurement]) -> list[Measurement]:
    """What can't be measured because of what is red already says so, instead of the same at length."""
    away = {measurement.name for measurement in found if measurement.value == NOT_MEASURED}
    return [
        replace(measurement, problem=f"Not looked at, as {cause} is away: mend that first.")
        if measurement.value == NOT_MEASURED and (cause := _rests_on(measurement.name)) in away
        else measurement
        for measurement in found
    ]


def _rests_on(name: str) -> str | None:
    """What has to answer before this can be looked at."""
    return name.removesuffix("/access") if name.endswith("/access") else RESTS_ON.get(name)


def configuration(settings: Settings) -> Measurement:
    """That it could be read is known by now; this says which one it was."""
    file = configuration_file()
    probe = Probe("configuration", "readable", "breaker.toml, or what BREAKER_CONFIG names, and BREAKER_* variables")
    if file.is_file():
        return probe.measured(f"{file.absolute()}, environment {settings.environment_name}")
    problem = f"There is no {file.absolute()}, so all is as built in: run this where breaker.toml is, or write one."
    return probe.measured("none", Colour.YELLOW, problem)
