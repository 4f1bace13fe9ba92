"""Measure one fact: within its own deadline, and never with an exception.

What should be measurable and isn't is red, whatever kept it from being measured.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from breaker.deadline_client import AsyncDeadlineClient
from breaker.errors import BreakerError
from breaker.requests import Request, raise_if_error
from brokers.protocol import BrokerError
from configuration.redis_clients import async_redis_client
from configuration.settings import Settings
from ledger.errors import LedgerError
from tasks.checks.measurement import Colour, Measurement
from tasks.checks.prometheus import PrometheusError
from tasks.redaction import redact

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from breaker.requests import Command

NEAR = 0.8
"""The share of its limit from which a value is yellow."""
NOT_MEASURED = "not measured"


@dataclass(frozen=True, slots=True)
class Probe:
    """What is to be measured, and how: everything about a measurement but its result."""

    name: str
    limit: str
    how: str

    def measured(self, value: str, colour: Colour = Colour.GREEN, problem: str = "") -> Measurement:
        return Measurement(self.name, colour, value, self.limit, self.how, datetime.now(UTC), problem)

    def failed(self, problem: str) -> Measurement:
        return self.measured(NOT_MEASURED, Colour.RED, problem)


def given_up_after(request_timeout: float) -> float:
    """Seconds after which nobody waits for a venue's answer any more that may take so many each time it is asked for.

    An adapter repeats a reading for three times that, and tells best what was wrong: it gets two seconds more to do so.
    """
    return 3 * request_timeout + 2


async def measure_within(probe: Probe, deadline: float, measuring: Awaitable[Measurement]) -> Measurement:
    """The measurement, or a red one that says why there is none within `deadline` seconds."""
    try:
        async with asyncio.timeout(deadline):
            return await measuring
    except TimeoutError:
        return probe.failed(
            f"There was no answer within {deadline:g} s; see whether it is up, and reachable from here."
        )
    except Exception as error:  # a fact that can't be had, for whatever reason, is not a fact in order
        return probe.failed(describe_error(error))


def describe_error(error: Exception) -> str:
    """An exception as one line without secrets. Ours are sentences; of others the type says most."""
    text = " ".join(redact(str(error)).split())
    return (
        text
        if isinstance(error, BreakerError | LedgerError | BrokerError | PrometheusError)
        else f"{type(error).__name__}: {text}"
    )


def judge(value: float, limit: float) -> Colour:
    """Red beyond the limit, yellow from `NEAR` of it on."""
    if value > limit:
        return Colour.RED
    return Colour.YELLOW if value > NEAR * limit else Colour.GREEN


class RedisReader:
    """Questions to Redis, each answered or failed within the configured time."""

    def __init__(self, client: AsyncDeadlineClient) -> None:
        self._client = client
        self.address = client.address

    async def ask(self, doing: str, *commands: Command) -> Sequence[Any]:
        """The replies to `commands`, sent together.

        Raises:
            BreakerUnavailable, RedisRefused: no answer in time, or not one to any of them.
        """
        replies = await self._client.execute(Request(doing, commands))
        for reply in replies:
            raise_if_error(reply)
        return replies

    async def now(self) -> int:
        """Redis's own time in Unix microseconds, so that hosts' clocks don't matter."""
        ((seconds, micros),) = await self.ask("read its clock", ("TIME",))
        return int(seconds) * 1_000_000 + int(micros)

    async def keys(self, pattern: str) -> list[str]:
        """The keys that match, sorted. `pattern` is one of Redis's."""
        found: set[str] = set()
        cursor: bytes | str = "0"
        while True:
            ((cursor, some),) = await self.ask(f"look for {pattern}", ("SCAN", cursor, "MATCH", pattern, "COUNT", 1000))
            found.update(key.decode("utf-8", "replace") for key in some)
            if cursor in (b"0", "0"):
                return sorted(found)


@asynccontextmanager
async def redis_reader(settings: Settings) -> AsyncIterator[RedisReader]:
    client = AsyncDeadlineClient(async_redis_client(settings), settings.redis_timeout)
    try:
        yield RedisReader(client)
    finally:
        await client.close()
