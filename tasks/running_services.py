"""Report which configuration each resident process runs by, and judge whether that is still what is configured.

Each says so itself every few seconds, in the hash `circuit_breaker:services` of Redis: only it knows what it has read,
and only on its host is the file. One that has ended without a word is left out after a minute.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import cast

from redis import Redis
from redis.exceptions import RedisError

from configuration.redis_clients import redis_client
from configuration.running import RunningConfiguration
from configuration.settings import Settings
from tasks.checks.measurement import Colour, Measurement
from tasks.checks.probe import Probe, describe_error, measure_within

KEY = "circuit_breaker:services"
SERVE, STANDBY, WATCHES, MONITOR, GATEWAY = "serve", "standby", "services", "monitor", "gateway"
"""What `services.serve`, `breaker standby`, `services`, `monitor` and `gateway` are called there. The first and the
third announce trips and watch resets."""
EVERY = 5.0
"""Seconds between two reports of one process."""
ALIVE_WITHIN = 15.0
"""Seconds since its last report within which another process is relied on."""
GONE_AFTER = 60.0
FORGOTTEN_AFTER = 3_600.0
LEAVE_WITHIN = 5.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RunningService:
    """What a process has said of itself."""

    service: str
    """The command that started it, such as `standby`."""
    host: str
    pid: int
    configuration: str
    """The hash of the file that it has read."""
    changed: bool
    """The file is another one by now."""
    as_of: float
    """Unix time, by Redis's clock."""

    @property
    def field(self) -> str:
        return f"{self.service}@{self.host}:{self.pid}"


@contextmanager
def reported(service: str, running: RunningConfiguration) -> Iterator[None]:
    """Report this process while the block goes on. Without Redis nothing is reported, and nothing waits for it."""
    report = _Report(service, running)
    report.start()
    try:
        yield
    finally:
        report.stop()


class _Report(threading.Thread):
    def __init__(self, service: str, running: RunningConfiguration) -> None:
        super().__init__(name="service report", daemon=True)
        self._service, self._running = service, running
        self._stopping = threading.Event()

    def stop(self) -> None:
        self._stopping.set()
        self.join(LEAVE_WITHIN)

    def run(self) -> None:
        settings = self._running.settings
        with redis_client(settings, timeout=settings.redis_timeout) as redis:
            while True:
                try:
                    said = self._say(redis)
                except (RedisError, OSError) as error:
                    _log.info("not reported: %s", error)
                    said = None
                if self._stopping.wait(EVERY):
                    break
            if said is not None:
                with suppress(RedisError, OSError):  # it is left out by itself after a while
                    redis.hdel(KEY, said.field)

    def _say(self, redis: Redis) -> RunningService:
        now, known = _read_all(redis)
        running = self._running
        said = RunningService(self._service, socket.gethostname(), os.getpid(), running.hash, running.changed, now)
        redis.hset(KEY, said.field, json.dumps(asdict(said)))
        if old := [each.field for each in known if now - each.as_of > FORGOTTEN_AFTER]:
            redis.hdel(KEY, *old)
        return said


def read_services(redis: Redis) -> tuple[RunningService, ...]:
    """Those that were heard of in the last minute, by name. Raises RedisError."""
    now, known = _read_all(redis)
    return tuple(sorted((each for each in known if now - each.as_of <= GONE_AFTER), key=lambda each: each.field))


def another_runs(settings: Settings, service: str) -> bool:
    """Whether another process of that kind, here or on another host, gave a sign of life just now.

    False where Redis doesn't say: then each goes by itself.
    """
    mine = (socket.gethostname(), os.getpid())
    try:
        alive = _alive(settings)
    except (RedisError, OSError):
        return False
    return any(each.service == service and (each.host, each.pid) != mine for each in alive)


def alive_here(settings: Settings, service: str) -> bool:
    """Whether a process of that kind on this host gave a sign of life just now. Raises RedisError, OSError."""
    return any((each.service, each.host) == (service, socket.gethostname()) for each in _alive(settings))


def _alive(settings: Settings) -> list[RunningService]:
    """Those that can be relied on to be at it. Raises RedisError, OSError."""
    with redis_client(settings, timeout=settings.redis_timeout) as redis:
        now, known = _read_all(redis)
    return [each for each in known if now - each.as_of < ALIVE_WITHIN]


async def measure_watches(settings: Settings) -> Measurement:
    """Whether anybody announces trips, watches resets and tells people. Never raises."""
    probe = Probe("watches", "trips announced, resets watched", f"what each process says in {KEY} of Redis")

    async def measure() -> Measurement:
        at_it = [each for each in await asyncio.to_thread(_alive, settings) if each.service in (SERVE, WATCHES)]
        if at_it:
            return probe.measured(", ".join(sorted({each.host for each in at_it})))
        problem = (
            "Nobody announces trips or watches resets, so no trip starts its recovery: run `breaker services` beside "
            "the workers of a work pool, or `python -m services.serve` instead of them."
        )
        return probe.measured("nobody", Colour.RED, problem)

    return await measure_within(probe, settings.redis_timeout + 2, measure())


async def measure_services(settings: Settings) -> list[Measurement]:
    """Whether every resident process runs by what is configured now. Never raises."""

    def read() -> tuple[RunningService, ...]:
        with redis_client(settings, timeout=settings.redis_timeout) as redis:
            return read_services(redis)

    try:
        async with asyncio.timeout(settings.redis_timeout + 2):
            return [judge_service(service) for service in await asyncio.to_thread(read)]
    except (TimeoutError, RedisError, OSError) as error:
        probe = Probe("configuration/services", "as configured now", f"what each says in {KEY} of Redis")
        return [probe.failed(f"Redis did not say which configuration each process runs by: {describe_error(error)}")]


def judge_service(service: RunningService) -> Measurement:
    """Pure."""
    name = f"configuration/{service.service}@{service.host}"
    probe = Probe(name, "as configured now", f"its own report, process {service.pid}")
    if service.changed:
        problem = f"It runs by {service.configuration}, and its configuration has changed since: restart it."
        return probe.measured(service.configuration, Colour.RED, problem)
    return probe.measured(service.configuration)


@dataclass(frozen=True, slots=True)
class Comparison:
    """One process's configuration beside the file that is configured here; `advice` says what to do, if anything."""

    service: RunningService
    same: bool
    advice: str = ""


def compare_configuration(service: RunningService, here: str, this_host: str) -> Comparison:
    """Pure. `here` is the hash of the file that is configured here.

    Only hashes of files are known of another process, so that two that differ have to be read where they are.
    """
    if service.changed:
        return Comparison(service, False, "its file has changed since it was started: restart it")
    if service.configuration == here:
        return Comparison(service, True)
    if service.host == this_host:
        return Comparison(
            service, False, "it has read another file than this command: see its BREAKER_CONFIG, correct or restart it"
        )
    return Comparison(
        service, False, f"what differs is not known here, only that it does: run `breaker config` on {service.host}"
    )


def _read_all(redis: Redis) -> tuple[float, list[RunningService]]:
    """Redis's time, and everything that was said and can be understood."""
    second, microsecond = redis.time()
    known = cast("Mapping[bytes, bytes]", redis.hgetall(KEY))
    found = []
    for raw in known.values():
        with suppress(ValueError, TypeError):  # of another version
            found.append(RunningService(**json.loads(raw)))
    return second + microsecond / 1_000_000, found
