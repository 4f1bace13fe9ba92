"""Make breakers, limits and trips from the settings, the same for command line, console, flows and services."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from breaker import AsyncCircuitBreaker, CircuitBreaker, Durability
from breaker.errors import BreakerError, BreakerUnavailable, NotHalted, RedisRefused
from breaker.keys import GLOBAL
from breaker.pending_trips import AppliedTrip, PendingTrip, PendingTrips
from breaker.uuid7 import uuid7
from configuration.identity import configured_identity
from configuration.redis_clients import async_redis_client, redis_client

REFUSAL_PATIENCE = 0.3
"""Seconds for which a trip is tried on a Redis that refuses connections, before it waits on this host's disk."""
_LONGEST_CLOSES = 12_000
"""Of the 16 kB that a trip's details may take, how many characters may name accounts."""

if TYPE_CHECKING:
    from redis import Redis
    from redis.asyncio import Redis as AsyncRedis

    from breaker import Status
    from breaker.async_rules import AsyncRules
    from breaker.limits import Limits
    from configuration.settings import Settings


def breaker_of(
    settings: Settings,
    scope: str = GLOBAL,
    *,
    source: str = "library",
    redis: Redis | None = None,
    refusal_patience: float = float("inf"),
) -> CircuitBreaker:
    """The configured breaker of `scope`, on `redis` or on a client of its own; trips that wait on this host still wait.

    Raises InvalidInput for what is no scope.
    """
    return CircuitBreaker(
        redis or redis_client(settings),
        scope,
        timeout=settings.redis_timeout,
        quiet_period=settings.quiet_period,
        source=source,
        durability=_durability(settings),
        refusal_patience=refusal_patience,
    )


def async_breaker_of(
    settings: Settings,
    scope: str = GLOBAL,
    *,
    source: str = "flow",
    redis: AsyncRedis | None = None,
    refusal_patience: float = float("inf"),
) -> AsyncCircuitBreaker:
    """`breaker_of` for coroutines."""
    return AsyncCircuitBreaker(
        redis or async_redis_client(settings),
        scope,
        timeout=settings.redis_timeout,
        quiet_period=settings.quiet_period,
        source=source,
        durability=_durability(settings),
        refusal_patience=refusal_patience,
    )


def limits_from(settings: Settings, scope: str = GLOBAL) -> Limits:
    """The limits that the configuration gives to `scope`: its own, else those of `global`, else the runbook's."""
    from breaker.limits import Limits  # noqa: PLC0415  halting doesn't pay for it
    from breaker.rule_table import RULE_TABLE  # noqa: PLC0415

    given = settings.rules.get(scope) or settings.rules.get(GLOBAL)
    if given is None:
        return Limits()
    told = {name: getattr(given, name) for name in type(given).model_fields if name not in ("off", "dry_run")}
    off = {RULE_TABLE[rule].setting: None for rule in given.off}
    return Limits(**{**told, **off}, dry_run=frozenset(given.dry_run))


def async_rules_of(settings: Settings, scope: str = GLOBAL) -> AsyncRules:
    """The automatic rules of `scope`, by the limits that are configured. Close them after use."""
    from breaker.async_rules import AsyncRules  # noqa: PLC0415  halting doesn't pay for it

    limits = limits_from(settings, scope)
    return AsyncRules(async_redis_client(settings), scope, limits=limits, timeout=settings.redis_timeout)


def requested_trip(
    reason: str,
    *,
    operator: str,
    why: str,
    scope: str,
    source: str,
    login: str = "",
    event_id: str | None = None,
    incident_id: str | None = None,
    ip_address: str | None = None,
    flattens: str = "",
    sudo: str = "",
    closes: Sequence[str] = (),
) -> PendingTrip:
    """The trip that a person or a program asks for, its ids decided before it is tried.

    `reason` is a code such as `MANUAL`, `why` what the operator said. `login` is whose process asks: where `operator`
    is only a name that was typed, a reset needs somebody else than this one too, and `sudo` what is known of who is
    behind it. `flattens` says when, of a kill switch that doesn't flatten at once. `closes` names the accounts of one
    that is confirmed: a standby begins it by the trip alone, should whoever asked for it die; not where they are too
    many to name.
    """
    named = list(closes) if len(json.dumps(list(closes))) <= _LONGEST_CLOSES else []
    known = {"login": "" if login == operator else login, "sudo": sudo, "flattens": flattens, "closes": named}
    behind = {name: value for name, value in known.items() if value}
    return PendingTrip(
        reason=reason,
        details={"operator": operator, "reason": why, **behind},
        tripped_by=operator,
        scope=scope,
        source=source,
        event_id=event_id or uuid7(),
        incident_id=incident_id or uuid7(),
        ip_address=ip_address,
    )


def waiting_incident(settings: Settings, scope: str) -> str | None:
    """The incident that has begun on this host and that Redis could not be told of.

    Kill switches of one incident know each other's closes, also while Redis can't say that it is one incident.
    """
    try:
        return PendingTrips(settings.pending_trips_dir).incident_of(scope, configured_identity(settings))
    except OSError:  # a halt waits for no disk; it begins an incident of its own then
        return None


async def make_or_store_trip(settings: Settings, trip: PendingTrip, breaker: AsyncCircuitBreaker) -> Status:
    """Make the trip on its breaker; one that Redis can't be told of waits on this host's disk.

    Raises NotHalted, which says whether it waits, and InvalidInput.
    """
    try:
        return await trip.make(breaker)
    except (BreakerUnavailable, RedisRefused) as error:
        raise await asyncio.to_thread(store_undelivered, settings, trip, error) from None


@dataclass(frozen=True, slots=True)
class WaitingTrips:
    """Trips that wait on this host, oldest first: for the Redis that is configured, and for others."""

    here: tuple[PendingTrip, ...] = ()
    elsewhere: tuple[PendingTrip, ...] = ()


def waiting_trips(settings: Settings) -> WaitingTrips:
    """What waits in the configuration's state directory. Changes nothing, and asks no Redis."""
    waiting = PendingTrips(settings.pending_trips_dir).load()
    if not waiting:
        return WaitingTrips()
    here = configured_identity(settings)
    return WaitingTrips(
        tuple(trip for trip in waiting if trip.is_for(here)),
        tuple(trip for trip in waiting if not trip.is_for(here)),
    )


def apply_pending_trips(settings: Settings) -> Sequence[AppliedTrip]:
    """Make the trips that wait in the configuration's state directory for its Redis; connects only if there are any.

    One that was meant for another Redis, or for another environment, is left.

    Raises BreakerUnavailable or RedisRefused: what could not be made still waits.
    """
    pending = PendingTrips(settings.pending_trips_dir)
    if not pending.load():
        return ()
    with redis_client(settings) as redis:
        return pending.apply(
            redis,
            timeout=settings.redis_timeout,
            durability=_durability(settings),
            environment=settings.environment,
        )


def store_undelivered(settings: Settings, trip: PendingTrip, why: BreakerError) -> NotHalted:
    """Keep the trip that Redis could not be told of (`why`); returns the error that says where, or that it is lost.

    It only trips then: by the time that Redis is told, what was to be closed may be, and traded again.
    """
    details = {name: value for name, value in trip.details.items() if name != "closes"}
    trip = replace(trip, details=details, meant_for=configured_identity(settings))
    try:
        path = PendingTrips(settings.pending_trips_dir).save(trip)
    except OSError as error:
        return NotHalted(
            f"{why} Nor could the trip be kept in {settings.pending_trips_dir} ({error.strerror}): nothing will make "
            "it later. Trip again once Redis is back, before it is trusted.",
            pending=False,
        )
    return NotHalted(
        f"{why} The trip is kept in {path} and is made by the next command, standby or service on this host that "
        "reaches Redis.",
        pending=True,
    )


def _durability(settings: Settings) -> Durability:
    return Durability(settings.trip_durability, settings.trip_replicas)
