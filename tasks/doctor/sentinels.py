"""Check the Sentinels: whether they answer, agree on the primary, and are enough to replace it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from breaker.redis_url import read_sentinel_url
from breaker.sentinels import Address, Answer, AsyncSentinelQuery, address_text
from configuration.redis_clients import async_redis_client
from configuration.settings import Settings
from tasks.checks.measurement import Colour, Measurement
from tasks.checks.probe import Probe, measure_within
from tasks.redaction import redact

ENOUGH = 3
"""With fewer, the loss of one host is the end of every failover."""


async def measure_sentinels(settings: Settings) -> list[Measurement]:
    """One measurement; none where no Sentinel is configured."""
    watched = read_sentinel_url(settings.redis_address.get_secret_value())
    if watched is None:
        return []
    probe = Probe("redis/sentinels", "all answer, and name one primary", f"each Sentinel asked for {watched.master}")

    async def measure() -> Measurement:
        async with async_redis_client(settings, timeout=settings.redis_timeout) as redis:
            pool: Any = redis.connection_pool
            query: AsyncSentinelQuery = pool.sentinel_manager
            return judge_sentinels(probe, query.sentinels, await query.answers(watched.master))

    return [await measure_within(probe, settings.redis_timeout + 1, measure())]


def judge_sentinels(probe: Probe, asked: Sequence[Address], found: Mapping[Address, Answer]) -> Measurement:
    """`found` has what those said that answered in time."""
    named = {answer for answer in found.values() if isinstance(answer, tuple)}
    knowing = [sentinel for sentinel, answer in found.items() if isinstance(answer, tuple)]
    value = f"{len(knowing)} of {len(asked)} name {' and '.join(sorted(map(address_text, named))) or 'a primary'}"
    silent = "; ".join(
        f"{address_text(each)} {_said(found.get(each, TimeoutError()))}" for each in asked if each not in knowing
    )
    if not named:
        return probe.measured(value, Colour.RED, f"None knows where Redis is: {silent}. See to the Sentinels.")
    if len(named) > 1:
        problem = "They name different primaries: a failover is under way, or one of them was cut off. Look again."
        return probe.measured(value, Colour.RED, problem)
    if len(knowing) <= len(asked) // 2:
        problem = f"Too few for a failover: {silent}. See to those Sentinels."
        return probe.measured(value, Colour.RED, problem)
    if silent:
        return probe.measured(value, Colour.YELLOW, f"Not all of them help: {silent}. See to those Sentinels.")
    if len(asked) < ENOUGH:
        problem = (
            f"With fewer than {ENOUGH}, the loss of one is the end of every failover: run {ENOUGH}, on three hosts."
        )
        return probe.measured(value, Colour.YELLOW, problem)
    return probe.measured(value)


def _said(answer: Answer) -> str:
    if answer is None:
        return "watches no such master"
    text = " ".join(redact(str(answer)).split()).rstrip(".")
    return f"answers nothing ({text})" if text else "answers nothing in time"
