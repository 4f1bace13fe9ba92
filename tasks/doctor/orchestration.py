"""Check that Prefect answers and that somebody serves what a trip and the clock start."""

from __future__ import annotations

import asyncio

from configuration.redis_clients import redis_client
from configuration.settings import Settings
from tasks import orchestrator
from tasks.checks.endpoint import measure_http
from tasks.checks.measurement import Colour, Measurement
from tasks.checks.probe import Probe, measure_within
from tasks.result_storage import ANSWERS_WITHIN, usable_storage
from tasks.running_services import RunningService, read_services

DEPLOYMENTS = ("health-verification", "kill-switch", "recovery", "resume")


async def measure_prefect() -> Measurement:
    if not orchestrator.is_configured():
        probe = Probe("prefect", "configured", "PREFECT_API_URL")
        problem = "No recovery starts by itself and nothing is verified by schedule: set PREFECT_API_URL."
        return probe.measured("not configured", Colour.YELLOW, problem)
    remedy = "start `prefect server start`, or correct PREFECT_API_URL; the kill switch runs without it"
    return await measure_http("prefect", f"{orchestrator.api_url()}/health", remedy)


async def measure_results(settings: Settings) -> Measurement:
    """Whether what a recovery's steps have come to is kept where every host that may go on with it finds it."""
    place = settings.prefect.result_storage
    probe = Probe("prefect/results", "shared where there are several hosts", "a file written there and read back")

    async def measure() -> Measurement:
        if not place:
            return await _measure_local_results(settings, probe)
        storage, why = await usable_storage(settings)
        if storage is None:
            problem = f"Nothing can be kept in {place} ({why}): a recovery on another host does its steps again."
            return probe.measured(place, Colour.RED, problem)
        return probe.measured(place)

    return await measure_within(probe, ANSWERS_WITHIN + 1, measure())


async def _measure_local_results(settings: Settings, probe: Probe) -> Measurement:
    def read() -> tuple[RunningService, ...]:
        with redis_client(settings, timeout=settings.redis_timeout) as redis:
            return read_services(redis)

    hosts = sorted({each.host for each in await asyncio.to_thread(read)})
    if len(hosts) < 2:
        return probe.measured("each host's own")
    problem = (
        f"A recovery that goes on on another host of {', '.join(hosts)} does its steps again: set "
        "prefect.result_storage to a place that they share."
    )
    return probe.measured("each host's own", Colour.YELLOW, problem)


async def measure_deployments(settings: Settings) -> Measurement:
    """Whether somebody serves what a trip and the clock start, and shares where a kill switch is to be spread."""
    wanted = DEPLOYMENTS if settings.kill.accounts_per_worker is None else (*DEPLOYMENTS, "kill-share")
    probe = Probe("deployments", f"{', '.join(wanted)} served", "the configured Prefect API")
    if not orchestrator.is_configured():
        return probe.measured("no Prefect", Colour.YELLOW, "Without PREFECT_API_URL nothing can be served.")

    async def measure() -> Measurement:
        served = await orchestrator.served_deployments()
        if missing := [name for name in wanted if name not in served]:
            problem = f"Nobody serves {', '.join(missing)}: `python -m services.serve`."
            return probe.measured(f"{len(served)} served", Colour.RED, problem)
        return probe.measured("all served")

    return await measure_within(probe, orchestrator.DEADLINE, measure())
