"""Measure everything that the breaker needs or that needs it, each within a deadline of its own."""

from __future__ import annotations

import asyncio

from breaker.gate.report import GATE_FAULTS, LOST_AFTER, ReportedGates
from configuration.settings import Settings
from console.live.exposure import AccountExposure
from tasks import orchestrator
from tasks.checks.conditions import measure_database, measure_redis
from tasks.checks.endpoint import measure_http
from tasks.checks.measurement import Colour, Measurement
from tasks.checks.probe import Probe
from tasks.checks.system import measure_health
from tasks.kill.report import seconds
from tasks.running_services import measure_services
from tasks.safety_nets.check import measure_safety_nets


async def measure_system(
    settings: Settings, exposure: tuple[AccountExposure, ...] | None, gates: ReportedGates | str
) -> list[Measurement]:
    """Stores, orchestrator, exporter, gates, venues, and what `recovery` configures. Nothing is raised.

    `exposure` is the newest reading of the venues; None if they have not been asked. `gates` are those that report, or
    why that can't be told.
    """
    where = settings.console
    exporter = f"http://{where.metrics_host}:{where.metrics_port}/metrics"
    api = orchestrator.api_url()
    found = await asyncio.gather(
        measure_redis(settings),
        measure_database(settings),
        measure_http("exporter", exporter, "start it with `breaker metrics`"),
        *([measure_http("prefect", f"{api}/health", "flows wait; the kill switch runs without it")] if api else []),
    )
    configured, services, nets = await asyncio.gather(
        measure_health(settings), measure_services(settings), measure_safety_nets(settings)
    )
    return [
        *services,
        *found,
        *([] if api else [_no_prefect()]),
        measure_gates(gates),
        *_venues(settings, exposure),
        *nets,
        *configured,
    ]


def measure_gates(gates: ReportedGates | str) -> Measurement:
    """Whether every gate reports, and is closed only where a breaker says so. Pure."""
    probe = Probe("gates", f"each reports within {seconds(LOST_AFTER)}", "gates' own reports in Redis")
    if isinstance(gates, str):
        return probe.failed(gates)
    standing = {word: count for word, count in gates.reasons.items() if count}
    value = ", ".join(f"{count} {word}" for word, count in standing.items()) or "none reports"
    if not standing:
        return probe.measured(
            value, Colour.YELLOW, "Nothing asks this breaker before it sends, or what asks can't report."
        )
    if gates.lost:
        return probe.measured(value, Colour.YELLOW, "An engine, its host or its way to Redis is gone; see below which.")
    if any(word in GATE_FAULTS for word in standing):
        return probe.measured(value, Colour.YELLOW, "A gate is closed by a fault of its own; see below which.")
    return probe.measured(value)


def _no_prefect() -> Measurement:
    probe = Probe("prefect", "configured", "PREFECT_API_URL")
    return probe.measured("not configured", Colour.YELLOW, "Flows run here, without a server; none is scheduled.")


def _venues(settings: Settings, exposure: tuple[AccountExposure, ...] | None) -> list[Measurement]:
    if not settings.accounts:
        probe = Probe("venues", "configured", "accounts in the configuration")
        return [probe.measured("none", Colour.YELLOW, "No account is configured: the kill switch can only halt.")]
    found = []
    for account in exposure or ():
        probe = Probe(f"venue/{account.account}", "answers", "account, orders and positions")
        if account.problem:
            found.append(probe.failed(account.problem))
        else:
            found.append(probe.measured(f"{account.orders} orders, {len(account.positions)} positions"))
    return found
