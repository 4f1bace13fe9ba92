"""Read what Redis says at this moment, for the exporter. Each reading ends in time."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any

from redis.exceptions import RedisError

from breaker import BreakerError, State, Status
from breaker.deadline_client import DeadlineClient
from breaker.gate.report import ReportedGates, read_reports, reports_request
from breaker.keys import GLOBAL, Keys
from breaker.requests import Command, Request
from breaker.rule_requests import read_counts
from breaker.rules import Limits
from breaker.status_reader import StatusReader
from tasks.checks.equity import fallen, texts
from tasks.checks.rules import judged_of
from tasks.recovery.state import RecoveryState
from tasks.running_services import RunningService, read_services
from tasks.safety_nets.records import KEY as NETS
from tasks.safety_nets.records import NetRecord, pairs, read_records
from tasks.verification.last_result import KEY as VERIFICATION
from tasks.verification.last_result import LastVerification

if TYPE_CHECKING:
    from redis import Redis


_WINDOW = Limits().api_error_window


@dataclass(frozen=True, slots=True)
class Measurements:
    """What the automatic rules have measured; None where nothing was ever recorded, or it can't be read."""

    api_errors: int | None = None
    """Within the window of the rule (runbook: 5 minutes)."""
    drawdown: Decimal | None = None
    """Fraction below the high-water mark."""
    distances: Mapping[str, Decimal] = field(default_factory=dict)
    """The share of its limit that each rule which is not off has left; 0 at the limit, negative beyond it."""
    refused: Mapping[str, int] = field(default_factory=dict)
    """How many measurements were refused, by what they were of."""


@dataclass(frozen=True, slots=True)
class ScopeReading:
    """One breaker. `outbox_oldest` is the age in seconds of its oldest transition that the ledger hasn't got yet."""

    scope: str
    status: Status
    outbox_entries: int | None = None
    outbox_oldest: float | None = None
    measured: Measurements = Measurements()
    recovery_waiting: float | None = None
    """Seconds for which its recovery has waited for a person; 0 when none does."""

    @property
    def verified(self) -> bool:
        """The state was read, is there and can be understood (runbook: binary semantics)."""
        return self.status.state is not State.UNKNOWN


@dataclass(frozen=True, slots=True)
class RedisReading:
    """`latency` in seconds of the reading of all states; `problem` says why Redis could not be read."""

    scopes: tuple[ScopeReading, ...]
    latency: float | None = None
    problem: str | None = None
    gates: ReportedGates | None = None
    """None when their reports can't be read, which says nothing about the states."""
    verification_age: float | None = None
    """Seconds since the scheduled verification last ran; None when it never did, or that can't be read."""
    services: tuple[RunningService, ...] | None = None
    """The resident processes that report; None when that can't be read."""
    copied_records: int | None = None
    """Records that wait in the spool of any host, by their copy in Redis; None when that can't be read."""
    safety_nets: Mapping[str, NetRecord | None] | None = None
    """The venues' timers that are wanted, by account, each as whoever keeps it says; None when that can't be read."""
    read_at: float | None = None
    """Unix time by Redis's clock."""

    @property
    def outbox_oldest(self) -> float | None:
        """Age in seconds of the oldest transition of any breaker that the ledger lacks; None unless all are known."""
        ages = [scope.outbox_oldest for scope in self.scopes]
        known = [age for age in ages if age is not None]
        return max(known) if known and len(known) == len(ages) else None

    @property
    def verified(self) -> bool:
        return bool(self.scopes) and all(scope.verified for scope in self.scopes)


def read_redis(
    redis: Redis,
    scopes: Iterable[str] = (GLOBAL,),
    *,
    copy: str = "",
    safety_nets: Sequence[str] = (),
    timeout: float,
) -> RedisReading:
    """Every breaker of `scopes`, in two exchanges however many there are: their states, then what lies beside them.

    `copy` is the key of the copy of hosts' spools, `safety_nets` are the accounts whose venue's timer is wanted. Ends
    within about `timeout` seconds if Redis doesn't answer: then nothing else is asked of it.
    """
    begun = time.monotonic()
    with closing(StatusReader(redis, timeout=timeout, remember=False)) as reader:
        statuses = reader.read(scopes)
    latency = time.monotonic() - begun
    now = next((status.as_of for status in statuses.values() if status.as_of is not None), None)
    if now is None:
        found = tuple(ScopeReading(scope, status) for scope, status in statuses.items())
        problem = next((status.problem for status in statuses.values()), None)
        return RedisReading(found, None, problem or "Redis did not answer")
    with closing(DeadlineClient(redis, timeout)) as client:
        found = _beside(client, statuses, now)
        gates, age = _reported_gates(client), _verification_age(client, now)
        copied, nets = _entries(client, copy), _safety_nets(client, safety_nets)
    return RedisReading(found, latency, None, gates, age, _services(redis), copied, nets, now.timestamp())


def _services(redis: Redis) -> tuple[RunningService, ...] | None:
    try:
        return read_services(redis)
    except (RedisError, OSError):
        return None


def _reported_gates(client: DeadlineClient) -> ReportedGates | None:
    try:
        return read_reports(client.execute(reports_request()))
    except BreakerError:
        return None


def _safety_nets(client: DeadlineClient, accounts: Sequence[str]) -> dict[str, NetRecord | None] | None:
    if not accounts:
        return {}
    try:
        (reply,) = client.execute(Request("read where the safety nets stand", (("HGETALL", NETS),)))
    except BreakerError:
        return None
    kept = read_records(pairs(reply))
    return {account: kept.get(account) for account in accounts}


def _entries(client: DeadlineClient, stream: str) -> int | None:
    try:
        (length,) = client.execute(Request("count the copies of spooled records", (("XLEN", stream),)))
        return _count(length)
    except BreakerError:
        return None


def _verification_age(client: DeadlineClient, now: datetime) -> float | None:
    try:
        (raw,) = client.execute(Request("read when the last verification was", (("GET", VERIFICATION),)))
        return None if raw is None else (now - LastVerification.from_json(raw).checked_at).total_seconds()
    except (BreakerError, ValueError, KeyError, TypeError):
        return None


def _beside(client: DeadlineClient, statuses: Mapping[str, Status], now: datetime) -> tuple[ScopeReading, ...]:
    """What is kept beside each state. A failure to read this says nothing about the states."""
    window_start = int((now.timestamp() - _WINDOW) * 1_000_000)
    readable = [scope for scope, status in statuses.items() if status.as_of is not None]
    commands = tuple(command for scope in readable for command in _commands_beside(Keys.of(scope), window_start))
    try:
        # As trailing commands: what one breaker's keys are refused for says nothing about another's.
        _, *replies = client.execute(
            Request("read what lies beside the states", (("TIME",),), trailing_commands=commands)
        )
    except BreakerError:
        return tuple(ScopeReading(scope, status) for scope, status in statuses.items())
    each = len(replies) // max(1, len(readable))
    beside = {scope: replies[i * each : (i + 1) * each] for i, scope in enumerate(readable)}
    return tuple(
        _reading(scope, status, beside[scope], now) if scope in beside else ScopeReading(scope, status)
        for scope, status in statuses.items()
    )


def _commands_beside(keys: Keys, window_start: int) -> tuple[Command, ...]:
    return (
        ("XLEN", keys.outbox),
        ("XRANGE", keys.outbox, "-", "+", "COUNT", 1),
        ("ZCOUNT", keys.key("api_errors"), window_start, "+inf"),
        ("HMGET", keys.key("equity"), "equity", "high_water"),
        ("HGETALL", keys.key("judged")),
        ("HGETALL", keys.key("refused_measurements")),
        ("GET", keys.key("recovery")),
    )


def _reading(scope: str, status: Status, replies: Sequence[Any], now: datetime) -> ScopeReading:
    length, oldest, errors, equity, judged, refused, recovery = replies
    return ScopeReading(
        scope,
        status,
        outbox_entries=_count(length),
        outbox_oldest=_age(oldest, now),
        measured=Measurements(_count(errors), _drawdown(equity), _distances(judged), _refused(refused)),
        recovery_waiting=_waiting(recovery, now),
    )


def _count(reply: Any) -> int | None:
    return reply if isinstance(reply, int) else None


def _age(reply: Any, now: datetime) -> float | None:
    if not isinstance(reply, list):
        return None
    if not reply:
        return 0.0
    milliseconds = int(bytes(reply[0][0]).split(b"-")[0])
    return max(0.0, now.timestamp() - milliseconds / 1000)


def _waiting(reply: Any, now: datetime) -> float | None:
    if reply is None:
        return 0.0
    try:
        state = RecoveryState.from_json(reply)
        since = datetime.fromisoformat(state.waiting_since) if state.waiting_for else now
        return max(0.0, (now - since).total_seconds())
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def _distances(reply: Any) -> dict[str, Decimal]:
    if not isinstance(reply, list):
        return {}
    return {str(rule): last.distance for rule, last in judged_of(texts(reply), 0).items() if last.mode != "off"}


def _refused(reply: Any) -> dict[str, int]:
    return read_counts(reply) if isinstance(reply, list) else {}


def _drawdown(reply: Any) -> Decimal | None:
    if not isinstance(reply, list) or None in reply:
        return None
    try:
        equity, high = (Decimal(text) if (text := bytes(value).decode()) else None for value in reply)
        return None if equity is None else fallen(high, equity)
    except (InvalidOperation, ArithmeticError, UnicodeDecodeError):
        return None
