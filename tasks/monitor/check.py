"""Check that somebody monitors every account and that the measurements come."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from configuration.monitor import ALWAYS
from configuration.settings import ConfigurationError, Settings
from tasks.checks.measurement import Colour, Measurement
from tasks.checks.probe import Probe, measure_within, redis_reader
from tasks.monitor.leases import FEEDS, LEASE, Holder, lease_key, lease_of_account
from tasks.monitor.measurements import measurements_key, read_measurement
from tasks.monitor.sessions import market_session

_NAMED = 5
_CALENDARS_WITHIN = 30.0
"""Seconds; reading one takes one or two."""
_ADVICE = "run `breaker monitor`, `breaker services` or `python -m services.serve`"


@dataclass(frozen=True, slots=True)
class MonitoredNow:
    """Who monitors one account, or the feeds, and how old the newest measurement is."""

    name: str
    holder: Holder | None
    age: float | None
    """Seconds since it; None where there is none, or where none is kept."""
    is_feeds: bool = False


async def measure_monitor(settings: Settings, *, services_expected: bool = True) -> list[Measurement]:
    """Whether the accounts and feeds that are configured are monitored; nothing where none is. Never raises.

    `services_expected`: whether nobody is red; else it is yellow, as for a desk that has no resident process yet.
    """
    if not settings.accounts and not settings.feeds:
        return []
    limit = late_after(settings)
    probe = Probe("monitor", f"each measured within {limit:g} s", "leases and measurements in Redis")
    nobody = Colour.RED if services_expected else Colour.YELLOW

    async def measure() -> Measurement:
        return judge_monitored(probe, await read_monitored(settings), limit, nobody)

    return [await measure_within(probe, settings.redis_timeout + 2, measure())]


async def measure_calendars(settings: Settings) -> list[Measurement]:
    """Whether there is each exchange calendar that is configured: a feed of another is not judged. Never raises."""
    codes = {feed.session for feed in settings.feeds.values()} | {each.session for each in settings.accounts.values()}
    asked = sorted(codes - {ALWAYS})
    if not asked:
        return []
    probe = Probe("calendars", "known", "session of feeds and accounts, in exchange_calendars")

    async def measure() -> Measurement:
        for code in asked:
            try:
                await asyncio.to_thread(market_session, code)
            except ConfigurationError as error:
                return probe.measured(code, Colour.RED, f"{error}.")
        return probe.measured(", ".join(asked))

    return [await measure_within(probe, _CALENDARS_WITHIN, measure())]


def late_after(settings: Settings) -> float:
    """Seconds since the newest measurement from which it is late: what a takeover and four readings take."""
    slowest = max(
        (60 / (each.requests_per_minute * settings.monitor.rate_share) for each in settings.accounts.values()),
        default=0,
    )
    return round(LEASE + 4 * max(settings.monitor.interval, 3 * slowest))


async def read_monitored(settings: Settings) -> list[MonitoredNow]:
    """As Redis has it. Raises BreakerUnavailable, RedisRefused."""
    names = list(settings.accounts)
    commands: list[tuple[str | int, ...]] = [("TIME",)]
    for name in names:
        commands.append(("GET", lease_key(lease_of_account(name))))
        commands.append(("XREVRANGE", measurements_key(name), "+", "-", "COUNT", 1))
    if settings.feeds:
        commands.append(("GET", lease_key(FEEDS)))
    async with redis_reader(settings) as redis:
        clock, *replies = await redis.ask("read who monitors", *commands)
    now = int(clock[0]) + int(clock[1]) / 1_000_000
    found = [
        MonitoredNow(name, _holder(replies[2 * place]), _age(replies[2 * place + 1], now))
        for place, name in enumerate(names)
    ]
    return [*found, MonitoredNow(FEEDS, _holder(replies[-1]), None, is_feeds=True)] if settings.feeds else found


def judge_monitored(probe: Probe, found: Sequence[MonitoredNow], limit: float, nobody: Colour) -> Measurement:
    """Pure."""
    alone = [each.name for each in found if each.holder is None]
    late = [each.name for each in found if each.holder is not None and not each.is_feeds and not _in_time(each, limit)]
    hosts = sorted({each.holder.host for each in found if each.holder is not None})
    value = f"{len(found) - len(alone)} of {len(found)}" + (f", by {', '.join(hosts)}" if hosts else "")
    if alone:
        problem = f"Nobody monitors {_listed(alone)}, so no rule trips by itself there: {_ADVICE}."
        return probe.measured(value, nobody, problem)
    if late:
        problem = f"No equity of {_listed(late)} was measured for {limit:g} s: see the monitor's log, ask the venue."
        return probe.measured(value, Colour.RED, problem)
    return probe.measured(value)


def _in_time(each: MonitoredNow, limit: float) -> bool:
    return each.age is not None and each.age <= limit


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _holder(raw: object) -> Holder | None:
    try:
        return Holder.from_stored(raw) if isinstance(raw, bytes) else None
    except (ValueError, TypeError):
        return None


def _age(entries: Sequence[object], now: float) -> float | None:
    return now - read_measurement(entries[0])[0].timestamp() if entries else None
