"""Check how the breaker's Redis is set up: version, persistence, eviction, clock, and the limit on resets."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from breaker.errors import RedisRefused
from breaker.keys import GLOBAL, Keys
from configuration.settings import Settings
from tasks.checks.measurement import Colour, Measurement
from tasks.checks.probe import Probe, measure_within, redis_reader

RESET_EVERY = 60.0
CLOCKS_APART = 2.0
"""Seconds by which two clocks may differ before people reading two logs are misled."""
_OLDEST_REDIS = (7, 0)


async def measure_redis_settings(settings: Settings) -> Measurement:
    """Whether the server could lose or forget a state that it has taken."""
    probe = Probe("redis/settings", "nothing lost, nothing evicted", "INFO and CONFIG GET of the configured Redis")

    async def measure() -> Measurement:
        async with redis_reader(settings) as redis:
            before = datetime.now(UTC).timestamp()
            now = await redis.now() / 1_000_000
            apart = now - (before + datetime.now(UTC).timestamp()) / 2
            try:  # hosted servers don't let everyone ask; what that hides is said by `redis/commands`
                told = await redis.ask("say which version it is", ("INFO", "server"), ("INFO", "replication"))
            except RedisRefused:
                told = ()
            try:
                config = _pairs(*await redis.ask("show its settings", ("CONFIG", "GET", "*")))
            except RedisRefused:
                config = {}
        info = "\n".join(part.decode("utf-8", "replace") for part in told)
        return judge_redis_settings(probe, info, config, apart, confirmed_by=_confirmed_by(settings))

    return await measure_within(probe, 2 * settings.redis_timeout + 2, measure())


def judge_redis_settings(
    probe: Probe, info: str, config: Mapping[str, str], apart: float, *, confirmed_by: int = 0
) -> Measurement:
    """`info` and `config` are empty where Redis doesn't let us ask.

    `apart` is how far Redis's clock is ahead of this host's, in seconds; `confirmed_by` how many replicas must have a
    trip, 0 if none is asked.
    """
    version = re.search(r"redis_version:(\d+)\.(\d+)\S*", info)
    fsync, policy = config.get("appendfsync", "?"), config.get("maxmemory-policy", "?")
    value = f"version {version[0].partition(':')[2] if version else '?'}, appendfsync {fsync}, {policy}"
    if version and (int(version[1]), int(version[2])) < _OLDEST_REDIS:
        return probe.measured(value, Colour.RED, "Its version can't run our scripts: install Redis 7 or Valkey 7.")
    if re.search(r"(redis|server)_mode:cluster", info):  # Redis's name for it, and Valkey's
        problem = (
            "A node of a Redis Cluster, in which no breaker can be tripped: give one Redis, or a Sentinel's master."
        )
        return probe.measured(value, Colour.RED, problem)
    good, least = re.search(r"min_slaves_good_slaves:(\d+)", info), config.get("min-replicas-to-write") or "0"
    if good and int(good[1]) < int(least):
        problem = (
            f"It refuses to write, a trip too, so gates are closed: {good[1]} of {least} replicas of "
            "min-replicas-to-write are there. Bring one back, or lower it."
        )
        return probe.measured(value, Colour.RED, problem)
    if config.get("maxmemory", "0") != "0" and policy not in ("noeviction", "?"):
        problem = "When memory is short it may drop the breaker's state: CONFIG SET maxmemory-policy noeviction."
        return probe.measured(value, Colour.RED, problem)
    if config.get("appendonly") == "yes" and fsync == "no":
        problem = "A power cut may lose half a minute of transitions: CONFIG SET appendfsync everysec, or always."
        return probe.measured(value, Colour.YELLOW, problem)
    if confirmed_by and (problem := _what_replicas_lack(info, good is not None or least != "0", confirmed_by)):
        return probe.measured(value, Colour.YELLOW, problem)
    if abs(apart) > CLOCKS_APART:
        problem = f"Its clock is {apart:+.1f} s from this host's: let both keep time by NTP."
        return probe.measured(value, Colour.YELLOW, problem)
    return probe.measured(value)


def _confirmed_by(settings: Settings) -> int:
    return settings.trip_replicas if settings.trip_durability == "replicas" else 0


def _what_replicas_lack(info: str, writes_need_one: bool, confirmed_by: int) -> str:
    """So that no confirmed trip is lost; empty where nothing is lacking, or can be seen."""
    if not writes_need_one:
        return (
            "A primary that is cut off goes on taking trips, which a failover loses: on every server set "
            "min-replicas-to-write 1 and min-replicas-max-lag 10."
        )
    connected = re.search(r"connected_slaves:(\d+)", info)
    there = int(connected[1]) if connected else confirmed_by
    if there < confirmed_by:
        return f"Only {there} of {confirmed_by} replicas are there, so no trip is confirmed: bring one back."
    if there > confirmed_by:
        return (
            f"A failover may promote a replica that lacks what {confirmed_by} of {there} have confirmed: set "
            f"trip_replicas = {there}."
        )
    return ""


async def measure_rate_limit(settings: Settings) -> Measurement:
    key = Keys.of(GLOBAL).reset_rate_limit
    probe = Probe("reset-rate-limit", "one reset a minute", key)

    async def measure() -> Measurement:
        async with redis_reader(settings) as redis:
            (left,) = await redis.ask(f"look at {key}", ("PTTL", key))
        return judge_rate_limit(probe, int(left) / 1000)

    return await measure_within(probe, 2 * settings.redis_timeout + 2, measure())


def judge_rate_limit(probe: Probe, left: float) -> Measurement:
    """`left` in seconds as PTTL has it: below -1 ms there is no key, at -1 ms it never expires."""
    if left < -0.001:
        return probe.measured("a reset may be made")
    if not 0 <= left <= RESET_EVERY:
        problem = f"It was set by hand and blocks resets for too long: redis-cli DEL {probe.how}."
        return probe.measured("no expiry" if left < 0 else f"{left:.0f} s left", Colour.RED, problem)
    return probe.measured(
        f"{left:.0f} s left", Colour.YELLOW, f"A reset was made just now: wait {left:.0f} s for another."
    )


def _pairs(reply: Any) -> dict[str, str]:
    """What CONFIG GET says, by either protocol."""
    if isinstance(reply, Mapping):
        return {_word(name): _word(value) for name, value in reply.items()}
    words = [_word(word) for word in reply]
    return dict(zip(words[::2], words[1::2], strict=True))


def _word(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
