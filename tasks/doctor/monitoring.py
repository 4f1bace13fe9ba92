"""Check what watches over the breaker: the scheduled verification, exporter, Prometheus, standby and notifications."""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, datetime, timedelta

import httpx

from configuration.locations import standby_socket
from configuration.settings import Settings
from tasks.checks.measurement import Colour, Measurement
from tasks.checks.probe import NOT_MEASURED, Probe, measure_within
from tasks.checks.prometheus import Prometheus
from tasks.verification.last_result import LastVerification, read_last

VERIFIED_WITHIN = timedelta(minutes=5)
_HTTP_LIMIT = 3.0
_STANDBY_LIMIT = 1.0


async def measure_verification(settings: Settings) -> Measurement:
    """Whether the scheduled verification runs, and what it found last."""
    probe = Probe("verification", "every minute, nothing red", "what health-verification kept of its last run")

    async def measure() -> Measurement:
        return judge_verification(probe, await read_last(settings), datetime.now(UTC))

    return await measure_within(probe, settings.redis_timeout + 2, measure())


def judge_verification(probe: Probe, last: LastVerification | None, now: datetime) -> Measurement:
    start = "see that `python -m services.serve` runs"
    if last is None:
        return probe.measured("never ran", Colour.YELLOW, f"The breaker has never been verified by schedule: {start}.")
    value = f"{(now - last.checked_at).total_seconds():.0f} s ago"
    if now - last.checked_at > VERIFIED_WITHIN:
        return probe.measured(value, Colour.RED, f"The scheduled verification has stopped: {start}.")
    if last.failing:
        problem = f"It found {', '.join(last.failing)} red: see those here, or its artifact in Prefect."
        return probe.measured(value, Colour.RED, problem)
    return probe.measured(value)


async def measure_exporter(settings: Settings) -> Measurement:
    where = settings.console
    url = f"http://{where.metrics_host}:{where.metrics_port}/metrics"
    probe = Probe("exporter", "cb_staleness_seconds 0", f"GET {url}")

    async def measure() -> Measurement:
        try:
            async with httpx.AsyncClient(timeout=_HTTP_LIMIT) as client:
                answer = await client.get(url)
        except httpx.TransportError:
            return probe.measured("down", Colour.RED, "The metrics server does not answer: start `breaker metrics`.")
        return judge_exporter(probe, answer.status_code, answer.text)

    return await measure_within(probe, _HTTP_LIMIT + 1, measure())


def judge_exporter(probe: Probe, status: int, text: str) -> Measurement:
    found = re.search(r"^cb_staleness_seconds (\S+)$", text, re.MULTILINE)
    if status != httpx.codes.OK or found is None:
        problem = "What answers there is not the exporter: free the port, or choose another, console.metrics_port."
        return probe.measured(f"{status}", Colour.RED, problem)
    value = f"cb_staleness_seconds {float(found[1]):g}"
    if float(found[1]) != 0:
        return probe.measured(
            value, Colour.RED, "The exporter can't verify the state: mend redis and state, named here."
        )
    return probe.measured(value)


async def measure_prometheus(settings: Settings) -> Measurement:
    """Whether what pages people gets the exporter's figures at all."""
    url = settings.recovery.prometheus_url
    probe = Probe("prometheus", "scrapes the exporter", f"cb_staleness_seconds at {url}")
    if url is None:
        problem = "Nobody can tell whether alerts would fire: set recovery.prometheus_url."
        return Probe("prometheus", "configured", "recovery.prometheus_url").measured("none", Colour.YELLOW, problem)

    async def measure() -> Measurement:
        async with httpx.AsyncClient() as client:
            value = await Prometheus(url, client, _HTTP_LIMIT).query("cb_staleness_seconds")
        if value != 0:
            return probe.measured(f"{value:g}", Colour.RED, "CBVerificationFailed is firing: mend what is red here.")
        return probe.measured(f"{value:g}")

    found = await measure_within(probe, _HTTP_LIMIT + 1, measure())
    if found.value == NOT_MEASURED:
        return probe.failed(f"{found.problem.rstrip('.')}. See {url.rstrip('/')}/targets.")
    return found


async def measure_standby(settings: Settings) -> Measurement:
    path = standby_socket(settings.state_dir)
    probe = Probe("standby", "answers", str(path))

    async def measure() -> Measurement:
        try:
            _, writer = await asyncio.open_unix_connection(str(path))
        except OSError:
            problem = "A kill begins a third of a second later than it could: run `breaker standby` on this host."
            return probe.measured("not running", Colour.YELLOW, problem)
        writer.close()
        return probe.measured("answers")

    return await measure_within(probe, _STANDBY_LIMIT, measure())


def notifications(settings: Settings) -> Measurement:
    probe = Probe("notifications", "configured", "notifications in the configuration")
    if settings.notifications.any_channel:
        return probe.measured("configured")
    return probe.measured(
        "none", Colour.YELLOW, "Nobody is told of a trip: set notifications.slack, pagerduty or others."
    )
