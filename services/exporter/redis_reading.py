"""Read what Redis says at this moment, for the exporter. Each reading ends in time."""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any

from redis.exceptions import RedisError

from breaker import BreakerError, CircuitBreaker, State, Status
from breaker.deadline_client import DeadlineClient
from breaker.gate.report import ReportedGates, read_reports, reports_request
from breaker.keys import GLOBAL, Keys
from breaker.requests import Request
from breaker.rules import Limits
from breaker.state import unknown_status
from tasks.recovery.state import RecoveryState
from tasks.running_services import RunningService, read_services
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
    """`latency` in seconds of the first state's reading; `problem` says why Redis could not be read."""

    scopes: tuple[ScopeReading, ...]
    latency: float | None = None
    problem: str | None = None
    gates: ReportedGates | None = None
    """None when their reports can't be read, which says nothing about the states."""
    verification_age: float | None = None
    """Seconds since the scheduled verification last ran; None when it never did, or that can't be read."""
    services: tuple[RunningService, ...] | None = None
    """The resident processes that report; None when that can't be read."""

    @property
    def outbox_oldest(self) -> float | None:
        """Age in seconds of the oldest transition of any breaker that the ledger lacks; None unless all are known."""
        ages = [scope.outbox_oldest for scope in self.scopes]
        known = [age for age in ages if age is not None]
        return max(known) if known and len(known) == len(ages) else None

    @property
    def verified(self) -> bool:
        return bool(self.scopes) and all(scope.verified for scope in self.scopes)


def read_redis(redis: Redis, scopes: Iterable[str] = (GLOBAL,), *, timeout: float) -> RedisReading:
    """Every breaker of `scopes`. Ends within about `timeout` seconds if Redis doesn't answer: then nothing else is
    asked of it."""
    found: list[ScopeReading] = []
    problem: str | None = None
    latency: float | None = None
    for scope in scopes:
        if problem is not None:
            found.append(ScopeReading(scope, unknown_status(problem)))
            continue
        begun = time.monotonic()
        with closing(CircuitBreaker(redis, scope, timeout=timeout)) as breaker:
            status = breaker.get_status()
        if status.as_of is None:
            problem = status.problem or "Redis did not answer"
            found.append(ScopeReading(scope, status))
            continue
        latency = latency if latency is not None else time.monotonic() - begun
        found.append(_beside(redis, scope, status, status.as_of, timeout))
    now = found[0].status.as_of if found else None
    if problem is not None or now is None:
        return RedisReading(tuple(found), latency, problem)
    gates, age = _reported_gates(redis, timeout), _verification_age(redis, now, timeout)
    return RedisReading(tuple(found), latency, None, gates, age, _services(redis))


def _services(redis: Redis) -> tuple[RunningService, ...] | None:
    try:
        return read_services(redis)
    except (RedisError, OSError):
        return None


def _reported_gates(redis: Redis, timeout: float) -> ReportedGates | None:
    try:
        with closing(DeadlineClient(redis, timeout)) as client:
            return read_reports(client.execute(reports_request()))
    except BreakerError:
        return None


def _verification_age(redis: Redis, now: datetime, timeout: float) -> float | None:
    try:
        with closing(DeadlineClient(redis, timeout)) as client:
            (raw,) = client.execute(Request("read when the last verification was", (("GET", VERIFICATION),)))
        return None if raw is None else (now - LastVerification.from_json(raw).checked_at).total_seconds()
    except (BreakerError, ValueError, KeyError, TypeError):
        return None


def _beside(redis: Redis, scope: str, status: Status, now: datetime, timeout: float) -> ScopeReading:
    """What is kept beside the state. A failure to read this says nothing about the state."""
    keys = Keys.of(scope)
    suffix = "" if scope == GLOBAL else f":{scope}"
    window_start = int((now.timestamp() - _WINDOW) * 1_000_000)
    commands = (
        ("XLEN", keys.outbox),
        ("XRANGE", keys.outbox, "-", "+", "COUNT", 1),
        ("ZCOUNT", f"circuit_breaker:api_errors{suffix}", window_start, "+inf"),
        ("HMGET", f"circuit_breaker:equity{suffix}", "equity", "high_water"),
        ("GET", keys.key("recovery")),
    )
    try:
        with closing(DeadlineClient(redis, timeout)) as client:
            length, oldest, errors, equity, recovery = client.execute(
                Request(f"read what lies beside {keys.state}", commands)
            )
    except BreakerError:
        return ScopeReading(scope, status)
    return ScopeReading(
        scope,
        status,
        outbox_entries=_count(length),
        outbox_oldest=_age(oldest, now),
        measured=Measurements(_count(errors), _drawdown(equity)),
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


def _drawdown(reply: Any) -> Decimal | None:
    if not isinstance(reply, list) or None in reply:
        return None
    try:
        equity, high = (Decimal(bytes(value).decode()) for value in reply)
        return max(Decimal(0), (high - equity) / high)
    except (InvalidOperation, ArithmeticError, UnicodeDecodeError):
        return None
