"""Measure section 2 of the checklist: what halted trading, and the two stores (runbook, *Verify Conditions*).

A measurement's item is its name up to the first `/`: `position-sizes/ALPHA` is account ALPHA's share of
`position-sizes`. docs/explanation/conditions.md says what each colour means.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from decimal import Decimal
from statistics import median
from time import perf_counter
from typing import Any

from breaker.errors import RedisRefused
from breaker.keys import GLOBAL, Keys
from breaker.orders import Position
from breaker.rules import Limits
from brokers.protocol import Listed
from brokers.registry import open_account
from configuration.breakers import limits_from
from configuration.settings import RecoverySettings, Settings
from tasks.checks.equity import equity_of, least_within, other_currency, texts
from tasks.checks.measurement import DRAWDOWN, REBASE, Colour, Measurement, worst
from tasks.checks.pending_exits import measure_pending_exits
from tasks.checks.probe import NEAR, Probe, RedisReader, judge, measure_within, redis_reader
from tasks.checks.unclosed import measure_unclosed

API_ERROR_WINDOW = 300
"""Seconds (runbook, *Automatic Trips*: more than 10 in 5 minutes; *Recovery Checklist*: none in the last 5)."""
OFF = "none: the rule is off"
_OLD_EQUITY = 1_800.0
_PINGS = 3
_DATABASE_DEADLINE = 8.0
"""Seconds; the ledger's own limits on each exchange come first, and say more."""


async def measure_conditions(settings: Settings, scope: str = GLOBAL) -> list[Measurement]:
    """Every condition of `scope`, each within its own deadline. What can't be measured is red; nothing is raised.

    A scope `account:NAME` looks at that account's positions only.
    """
    return list(
        await asyncio.gather(
            measure_drawdown(settings, scope),
            *measure_positions(settings, scope),
            measure_pending_exits(settings, scope),
            measure_unclosed(settings, scope),
            measure_api_errors(settings, scope),
            measure_redis(settings),
            measure_database(settings),
        )
    )


async def measure_drawdown(settings: Settings, scope: str = GLOBAL) -> Measurement:
    key = Keys.of(scope).key("equity")
    limits = limits_from(settings, scope)
    limit = OFF if limits.drawdown is None else f"{limits.drawdown:.1%}"
    probe = Probe(DRAWDOWN, limit, f"equity and high-water mark in {key}")

    async def measure() -> Measurement:
        async with redis_reader(settings) as redis:
            now = await redis.now()
            (stored,) = await redis.ask(f"read {key}", ("HGETALL", key))
        return judge_drawdown(probe, texts(stored), now, limits)

    return await measure_within(probe, settings.redis_timeout + 1, measure())


def judge_drawdown(probe: Probe, stored: Mapping[str, str], now: int, limits: Limits) -> Measurement:
    """`stored` is what the drawdown rule keeps; `now` is Redis's time in Unix microseconds."""
    try:
        held = equity_of(stored, now)
    except ValueError:
        return probe.failed(
            "What is stored is no equity: see what wrote to the key, or "
            "`breaker equity rebase --to EQUITY --reason WHY`."
        )
    if held is None:
        return probe.measured(
            "no equity is recorded",
            Colour.YELLOW,
            "No equity is recorded, so no drawdown can be told: look at the account, and let the engine record_equity.",
        )
    if held.uncompared:
        sentence = other_currency(held)
        return probe.measured(
            held.uncompared, Colour.YELLOW, f"{sentence[0].upper()}{sentence[1:]}: look at the account."
        )
    if held.is_unfunded:
        problem = "The account is not funded, and never was, so there is no drawdown: see that it is the right account."
        return probe.measured("not funded", Colour.YELLOW, problem)
    fallen, age = held.drawdown, held.age
    mark = "no high-water mark" if held.high_water is None else held.figure(held.high_water)
    value = f"{fallen:.2%} below {mark} (equity {held.figure(held.equity)}, {age:.0f} s old)"
    if limits.drawdown is None:
        return probe.measured(value, Colour.YELLOW, "The rule DRAWDOWN is off, so nothing judges this: do so yourself.")
    if fallen > limits.drawdown and held.equity <= 0:
        problem = f"Equity is {held.figure(held.equity)}: nothing is left of the account. Look at it at the venue."
        return probe.measured(value, Colour.RED, problem)
    if fallen > limits.drawdown and held.high_water is not None:
        enough = least_within(held.high_water, limits.drawdown)
        problem = (
            f"Equity {held.figure(held.equity)} is {fallen:.2%} below its high-water mark {mark}, more than "
            f"{probe.limit}, and every measurement that low trips again: {REBASE} in the approval or the reset (the "
            f"high-water mark begins anew), or wait for equity of {enough:f} or more."
        )
        return probe.measured(value, Colour.RED, problem)
    if age > (limits.data_age or _OLD_EQUITY):
        return probe.measured(value, Colour.YELLOW, f"The last equity is {age:.0f} s old and says little of now.")
    if fallen > limits.drawdown * Decimal(str(NEAR)):
        return probe.measured(value, Colour.YELLOW, f"The account is down {fallen:.2%}, close to {probe.limit}.")
    return probe.measured(value)


def measure_positions(settings: Settings, scope: str = GLOBAL) -> list[Any]:
    """One measurement to await for each account, or one that says that there is none."""
    only = scope.removeprefix("account:") if scope.startswith("account:") else None
    accounts = [name for name in settings.accounts if only in (None, name)]
    if not accounts:
        return [_no_account(only)]
    return [_measure_account(settings, name) for name in accounts]


async def _no_account(only: str | None) -> Measurement:
    probe = Probe("position-sizes", "none", "the configured accounts")
    missing = "No account is configured" if only is None else f"No account {only} is configured"
    return probe.measured(
        "no account", Colour.YELLOW, f"{missing}, so nobody's positions were read: look at the venue."
    )


async def _measure_account(settings: Settings, name: str) -> Measurement:
    most = settings.recovery.max_position_notional
    probe = Probe(
        f"position-sizes/{name}",
        "none is configured" if most is None else f"{most:f} per position",
        f"positions read from the venue of {name}, at its prices",
    )

    async def measure() -> Measurement:
        broker = open_account(settings, name)
        try:
            return judge_positions(probe, await broker.positions(), most)
        finally:
            await broker.aclose()

    return await measure_within(probe, settings.accounts[name].request_timeout + 1, measure())


def judge_positions(probe: Probe, positions: Listed[Position], most: Decimal | None) -> Measurement:
    if positions.unreadable:
        problem = "; ".join(str(item) for item in positions.unreadable)
        return probe.measured(f"{len(positions)} positions, not all readable", Colour.RED, f"{problem}. Ask the venue.")
    held = sorted((position for position in positions if position.quantity), key=lambda held: held.notional)
    if not held:
        return probe.measured("flat")
    largest = held[-1]
    value = f"{len(held)} positions, the largest {largest.key} {largest.notional:.2f}"
    if most is None:
        problem = "There are positions, and no limit to judge them by: set recovery.max_position_notional."
        return probe.measured(value, Colour.YELLOW, problem)
    over = [position for position in held if position.notional > most]
    if over:
        named = ", ".join(f"{position.key} {position.notional:.2f}" for position in reversed(over[-5:]))
        problem = f"{len(over)} of {len(held)} positions are larger than {most:f}: {named}. Reduce them."
        return probe.measured(value, Colour.RED, problem)
    if largest.notional > most * Decimal(str(NEAR)):
        return probe.measured(value, Colour.YELLOW, f"{largest.key} is close to the limit of {most:f}.")
    return probe.measured(value)


async def measure_api_errors(settings: Settings, scope: str = GLOBAL) -> Measurement:
    key = Keys.of(scope).key("api_errors")
    most = limits_from(settings, scope).api_errors
    limit = "0" if most is None else f"0, at most {most}"
    probe = Probe("api-errors", limit, f"errors of the last {API_ERROR_WINDOW} s in {key}")

    async def measure() -> Measurement:
        async with redis_reader(settings) as redis:
            since = await redis.now() - API_ERROR_WINDOW * 1_000_000
            (count,) = await redis.ask(f"count {key}", ("ZCOUNT", key, f"({since}", "+inf"))
        return judge_api_errors(probe, int(count), most)

    return await measure_within(probe, settings.redis_timeout + 1, measure())


def judge_api_errors(probe: Probe, count: int, most: int | None) -> Measurement:
    """Red is what the rule trips on; the checklist wants none at all, so fewer are yellow."""
    if count == 0:
        return probe.measured("0")
    problem = (
        f"{count} API errors in the last 5 minutes: see which calls fail, and wait until the last one is that old."
    )
    return probe.measured(str(count), Colour.RED if most is not None and count > most else Colour.YELLOW, problem)


async def measure_redis(settings: Settings) -> Measurement:
    """Round trip, persistence and replication of the breaker's Redis, as one measurement."""
    limits = settings.recovery
    limit = f"round trip {_ms(limits.redis_latency)}, replicas behind at most {limits.replication_lag:g} s"
    probe = Probe("redis", limit, f"PING, INFO of the configured Redis; the median of {_PINGS} round trips")

    async def measure() -> Measurement:
        async with redis_reader(settings) as redis:
            try:
                (stored,) = await redis.ask("look at its persistence and replication", ("INFO",))
            except RedisRefused:  # hosted servers don't let everyone ask
                stored = None
            round_trip = median([await _ping(redis) for _ in range(_PINGS)])
            saves = await _saves(redis)
        return judge_redis(probe, round_trip, None if stored is None else _info(stored), saves, limits)

    return await measure_within(probe, 3 * settings.redis_timeout + 1, measure())


def judge_redis(
    probe: Probe, round_trip: float, info: Mapping[str, str] | None, saves: bool, limits: RecoverySettings
) -> Measurement:
    """`info` is INFO's answer, or None if that is refused; `saves` whether snapshots are scheduled.

    `round_trip` is in seconds.
    """
    parts = [
        _part(f"round trip {_ms(round_trip)}", judge(round_trip, limits.redis_latency), "it answers slowly"),
        *([_HIDDEN] if info is None else [_persistence(info, saves), *_replication(info, limits.replication_lag)]),
    ]
    return _together(probe, parts, "Redis")


_Part = tuple[str, Colour, str]
"""One aspect of a measurement: its value, its colour, and what is the matter unless it is green."""
_HIDDEN: _Part = (
    "INFO refused",
    Colour.YELLOW,
    "persistence and replicas can't be seen, as INFO is refused: ask whoever runs it, or `breaker acl`",
)


def _part(value: str, colour: Colour, problem: str) -> _Part:
    return value, colour, "" if colour is Colour.GREEN else problem


def _together(probe: Probe, parts: Sequence[_Part], what: str) -> Measurement:
    problems = "; ".join(problem for _, _, problem in parts if problem)
    colours = [probe.measured(value, colour) for value, colour, _ in parts]
    return probe.measured(
        "; ".join(value for value, _, _ in parts), worst(colours), f"{what}: {problems}." if problems else ""
    )


def _persistence(info: Mapping[str, str], saves: bool) -> _Part:
    """Off is yellow: what a restart would lose leaves the breaker closed, and whoever set the server up chose so."""
    appends = info.get("aof_enabled") == "1"
    failing = [name for name in ("aof_last_write_status", "aof_last_bgrewrite_status") if appends and _bad(info, name)]
    failing += ["rdb_last_bgsave_status"] if saves and _bad(info, "rdb_last_bgsave_status") else []
    if info.get("loading", "0") != "0":
        return "loading its data", Colour.RED, "it is still loading its data, wait"
    if failing:
        return "persistence fails", Colour.RED, f"it can't write to its disk ({', '.join(failing)}): make room"
    if appends:
        return "append-only file on", Colour.GREEN, ""
    if saves:
        return "snapshots on", Colour.GREEN, ""
    return "persistence off", Colour.YELLOW, "a restart would lose state and history: set appendonly yes"


def _bad(info: Mapping[str, str], name: str) -> bool:
    return info.get(name, "ok") != "ok"


def _replication(info: Mapping[str, str], most: float) -> list[_Part]:
    if info.get("role") != "master":
        return [("a replica", Colour.RED, "it is a replica, which takes no transition: point redis_url at the primary")]
    replicas = [_pairs(value) for name, value in sorted(info.items()) if name.startswith("slave") and "=" in value]
    if not replicas:
        return [("no replica", Colour.GREEN, "")]
    late = [replica for replica in replicas if replica.get("state") != "online" or float(replica.get("lag", 0)) > most]
    worst_lag = max(float(replica.get("lag", 0)) for replica in replicas)
    problem = "a replica is behind and would lose transitions if it took over: see its log"
    return [_part(f"{len(replicas)} replicas, lag {worst_lag:g} s", Colour.RED if late else Colour.GREEN, problem)]


async def _ping(redis: RedisReader) -> float:
    begun = perf_counter()
    await redis.ask("answer", ("PING",))
    return perf_counter() - begun


async def _saves(redis: RedisReader) -> bool:
    """Whether snapshots are scheduled. Hosted servers don't let everyone ask; there the answer is no."""
    try:
        (reply,) = await redis.ask("say whether it saves", ("CONFIG", "GET", "save"))
    except RedisRefused:
        return False
    return bool(reply and reply[-1])


async def measure_database(settings: Settings) -> Measurement:
    """Round trip, writes and version of the ledger's database; the value begins with which of the two kinds it is."""
    embedded = settings.database_url is None or settings.database_url.get_secret_value().startswith("sqlite")
    kind = "SQLite" if embedded else "PostgreSQL"
    probe = Probe(
        "ledger",
        f"round trip {_ms(settings.recovery.database_latency)}, newest migration",
        f"a query, a row written and taken back, and the migration of the ledger's {kind} database",
    )
    return await measure_within(probe, _DATABASE_DEADLINE, asyncio.to_thread(_check_database, settings, probe, kind))


def _check_database(settings: Settings, probe: Probe, kind: str) -> Measurement:
    from ledger.configured import open_ready_ledger  # noqa: PLC0415  SQLAlchemy, in a thread
    from ledger.health import check_health  # noqa: PLC0415

    ledger = open_ready_ledger(settings)
    try:
        health = check_health(ledger)
    finally:
        ledger.close()
    slow = judge(health.round_trip, settings.recovery.database_latency)
    parts = [
        _part(f"{kind}, round trip {_ms(health.round_trip)}", slow, "it answers slowly"),
        _part("takes rows", Colour.GREEN, ""),
        _migration(health.revision, health.newest_revision),
    ]
    return _together(probe, parts, kind)


def _migration(revision: str | None, newest: str) -> _Part:
    if revision is None:
        grant = "GRANT SELECT ON audit_log_version TO breaker_audit"
        return "migration not readable", Colour.YELLOW, f"its migration can't be read: {grant}"
    if revision != newest:
        return f"migration {revision}", Colour.RED, f"its newest migration is {newest}: run `breaker audit upgrade`"
    return f"migration {revision}", Colour.GREEN, ""


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.3g} ms"


def _info(reply: bytes) -> dict[str, str]:
    lines = reply.decode("utf-8", "replace").splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line and not line.startswith("#"))


def _pairs(value: str) -> dict[str, str]:
    return dict(pair.split("=", 1) for pair in value.split(",") if "=" in pair)
