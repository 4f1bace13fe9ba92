"""Measure section 3 of the checklist: services, queues and latencies (runbook, *System Health Check*).

Names are `services/NAME`, `queues/NAME`, `latencies/NAME`, as configured under `recovery`. Our own queues are measured
always: `queues/outbox`, `queues/spool` and, where a Prefect API is configured, `queues/prefect`.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from time import perf_counter

import httpx

from configuration.settings import LatencySettings, QueueSettings, ServiceSettings, Settings
from tasks import orchestrator
from tasks.checks.measurement import Colour, Measurement
from tasks.checks.probe import Probe, judge, measure_within, redis_reader
from tasks.checks.prometheus import Prometheus

LONGEST_WAIT = 120.0
"""Seconds that a record may wait for the ledger: the verification that runs every minute has then failed twice."""
MOST_LATE_RUNS = 5
_PROMETHEUS_TIMEOUT = 3.0
_DEPTH = {"list": "LLEN", "stream": "XLEN", "zset": "ZCARD"}


async def measure_health(settings: Settings) -> list[Measurement]:
    """Every service, queue and latency, all at once and each within its own deadline.

    What can't be measured is red; a kind of which nothing is configured is one yellow measurement. Nothing is raised.
    """
    recovery = settings.recovery
    # One client for all: making one reads every root certificate, which would count as its service's slowness.
    async with httpx.AsyncClient() as client:
        prometheus = Prometheus(recovery.prometheus_url, client, _PROMETHEUS_TIMEOUT)
        measuring = [
            *(measure_service(client, name, service) for name, service in recovery.services.items() if service.url),
            *(measure_queue(settings, prometheus, name, queue) for name, queue in recovery.queues.items()),
            measure_outbox(settings),
            measure_spool(settings),
            *(measure_latency(prometheus, name, latency) for name, latency in recovery.latencies.items()),
        ]
        if orchestrator.is_configured():
            measuring.append(measure_late_runs())
        found = await asyncio.gather(*measuring)
    kinds = {measurement.name.partition("/")[0] for measurement in found}
    return [*found, *(_nothing_configured(kind) for kind in ("services", "latencies") if kind not in kinds)]


def _nothing_configured(kind: str) -> Measurement:
    probe = Probe(kind, "none", f"recovery.{kind} in the configuration")
    return probe.measured(
        "none configured", Colour.YELLOW, f"No {kind} are configured, so none was looked at: do so yourself."
    )


async def measure_service(client: httpx.AsyncClient, name: str, service: ServiceSettings) -> Measurement:
    probe = Probe(f"services/{name}", f"2xx within {service.slow_after:g} s", f"GET {service.url}")

    async def measure() -> Measurement:
        begun = perf_counter()
        try:
            answer = await client.get(str(service.url), timeout=service.timeout)
        except httpx.TransportError as error:
            return probe.measured("down", Colour.RED, f"{name} does not answer ({type(error).__name__}): start it.")
        took = perf_counter() - begun
        value = f"{answer.status_code} after {took:.3f} s"
        if not answer.is_success:
            return probe.measured(value, Colour.RED, f"{name} says {answer.status_code}: see its log.")
        if took > service.slow_after:
            return probe.measured(value, Colour.YELLOW, f"{name} is slow.")
        return probe.measured(value)

    return await measure_within(probe, service.timeout, measure())


async def measure_queue(settings: Settings, prometheus: Prometheus, name: str, queue: QueueSettings) -> Measurement:
    how = f"the length of {queue.key} in Redis" if queue.key is not None else f"Prometheus: {queue.query}"
    probe = Probe(f"queues/{name}", str(queue.limit), how)

    async def measure() -> Measurement:
        if queue.key is not None:
            depth: float = await _depth(settings, queue.key)
        else:
            depth = await prometheus.query(str(queue.query))
        colour = judge(depth, queue.limit)
        problem = {Colour.GREEN: "", Colour.YELLOW: f"{name} is filling up.", Colour.RED: f"{name} has a backlog."}
        return probe.measured(f"{depth:g}", colour, problem[colour])

    return await measure_within(probe, max(settings.redis_timeout, _PROMETHEUS_TIMEOUT) + 1, measure())


async def _depth(settings: Settings, key: str) -> int:
    async with redis_reader(settings) as redis:
        (kind,) = await redis.ask(f"look at {key}", ("TYPE", key))
        word = kind.decode() if isinstance(kind, bytes) else str(kind)
        if word == "none":
            return 0
        if word not in _DEPTH:
            raise ValueError(f"{key} is a {word}, which has no length as a queue has: correct recovery.queues")
        (depth,) = await redis.ask(f"measure {key}", (_DEPTH[word], key))
        return int(depth)


async def measure_outbox(settings: Settings) -> Measurement:
    """Transitions that wait to be moved into the ledger, of all scopes."""
    probe = Probe("queues/outbox", f"{LONGEST_WAIT:g} s", "the oldest entries of circuit_breaker:outbox* in Redis")

    async def measure() -> Measurement:
        count, oldest = 0, None
        async with redis_reader(settings) as redis:
            now = await redis.now() / 1_000_000
            for key in await redis.keys("circuit_breaker:outbox*"):
                if ":corrupt:" in key:  # put aside by a trip, for people to look at; no transition waits there
                    continue
                length, first = await redis.ask(f"measure {key}", ("XLEN", key), ("XRANGE", key, "-", "+", "COUNT", 1))
                count += int(length)
                for entry_id, _ in first:
                    since = int(entry_id.split(b"-")[0]) / 1000
                    oldest = since if oldest is None else min(oldest, since)
        return _judge_wait(probe, count, None if oldest is None else now - oldest, "`breaker audit drain`")

    return await measure_within(probe, settings.redis_timeout + 1, measure())


async def measure_spool(settings: Settings) -> Measurement:
    """Records that wait on this host's disk because the ledger did not take them."""
    from ledger.configured import open_spool  # noqa: PLC0415  SQLAlchemy

    spool = open_spool(settings)
    probe = Probe("queues/spool", f"{LONGEST_WAIT:g} s", f"the oldest record in {spool.directory}")

    async def measure() -> Measurement:
        records = await asyncio.to_thread(spool.records)
        oldest = min((record.timestamp for record in records), default=None)
        age = None if oldest is None else (datetime.now(UTC) - oldest).total_seconds()
        return _judge_wait(probe, len(records), age, "`breaker audit drain`")

    return await measure_within(probe, 5.0, measure())


def _judge_wait(probe: Probe, count: int, age: float | None, command: str) -> Measurement:
    if age is None:
        return probe.measured("empty")
    value = f"{count} records, the oldest {age:.0f} s old"
    if age > LONGEST_WAIT:
        return probe.measured(value, Colour.RED, f"Nothing moves them into the ledger: see why by {command}.")
    return probe.measured(value)


async def measure_late_runs() -> Measurement:
    """Flow runs whose time has come and that nobody has started: no worker, or too few."""
    probe = Probe("queues/prefect", f"{MOST_LATE_RUNS} late runs", "the configured Prefect API")

    async def measure() -> Measurement:
        late = await orchestrator.count_late_runs()
        if late > MOST_LATE_RUNS:
            return probe.measured(
                f"{late} late runs", Colour.RED, "Nobody starts flow runs in time: start what serves them."
            )
        if late:
            return probe.measured(f"{late} late runs", Colour.YELLOW, "Some flow runs were not started in time.")
        return probe.measured("none late")

    return await measure_within(probe, orchestrator.DEADLINE, measure())


async def measure_latency(prometheus: Prometheus, name: str, latency: LatencySettings) -> Measurement:
    probe = Probe(f"latencies/{name}", f"{latency.limit:g} s", f"Prometheus: {latency.query}")

    async def measure() -> Measurement:
        value = await prometheus.query(latency.query)
        colour = judge(value, latency.limit)
        problem = {
            Colour.GREEN: "",
            Colour.YELLOW: f"{name} is close to its limit.",
            Colour.RED: f"{name} is too slow.",
        }
        return probe.measured(f"{value:g} s", colour, problem[colour])

    return await measure_within(probe, _PROMETHEUS_TIMEOUT + 1, measure())
