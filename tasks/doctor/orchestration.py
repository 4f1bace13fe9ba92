"""Check that Prefect answers and that somebody serves what a trip and the clock start."""

from __future__ import annotations

from configuration.settings import Settings
from tasks import orchestrator
from tasks.checks.endpoint import measure_http
from tasks.checks.measurement import Colour, Measurement
from tasks.checks.probe import Probe, measure_within

DEPLOYMENTS = ("health-verification", "kill-switch", "recovery", "resume")


async def measure_prefect() -> Measurement:
    if not orchestrator.is_configured():
        probe = Probe("prefect", "configured", "PREFECT_API_URL")
        problem = "No recovery starts by itself and nothing is verified by schedule: set PREFECT_API_URL."
        return probe.measured("not configured", Colour.YELLOW, problem)
    remedy = "start `prefect server start`, or correct PREFECT_API_URL; the kill switch runs without it"
    return await measure_http("prefect", f"{orchestrator.api_url()}/health", remedy)


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
