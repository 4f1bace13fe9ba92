"""A reset that no rule was asked for is red until somebody decides it."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import redis

from breaker import CircuitBreaker, State, Status
from ledger.configured import open_ready_ledger
from ledger.outbox import drain_outbox
from ledger.record import AuditRecord
from tasks.checks.measurement import Colour
from tasks.checks.probe import Probe
from tasks.checks.stores import Stores
from tasks.recovery.reset import ADOPTED
from tasks.recovery.reset_watch import WatchRecord
from tasks.verification.resets import check_reset, judge_watched
from tests.tasks.recovery.conftest import Configure, configure

__all__ = ["configure"]


def test_a_quiet_period_that_nobody_watches_is_red_until_somebody_does() -> None:
    now = datetime(2026, 1, 5, tzinfo=UTC)
    green = Probe("reset", "decided by the rules", "").measured("by ada")

    def judged(state: str = "QUIET_PERIOD", mark: bool = True, ago: float = 60, seen: float | None = None) -> Colour:
        reset_at = (now - timedelta(seconds=ago)).isoformat()
        status = Status(State(state), {"reset_at": reset_at, "ends_watched": mark, "epoch": 7}, as_of=now)
        kept = None if seen is None else now - timedelta(seconds=seen)
        watch = None if kept is None else WatchRecord(7, "services on a", kept, kept, None, now)
        found = judge_watched(green, status, watch, "account:A")
        assert (found.colour is Colour.GREEN) or "--scope account:A" in found.problem
        return found.colour

    assert judged() is Colour.RED and judged(seen=60) is Colour.RED
    assert judged(ago=5) is Colour.GREEN, "somebody is about to"
    assert judged(seen=5) is Colour.GREEN, "it has just died, or lives"
    assert judged(mark=False) is Colour.GREEN and judged("OPEN") is Colour.GREEN


def test_the_watch_over_a_quiet_period_is_read_from_redis(configure: Configure, redis_client: redis.Redis) -> None:
    ledger = open_ready_ledger(configure())
    stores = Stores(configure(), redis_client, ledger, ("global",))
    breaker = CircuitBreaker(redis_client, source="cli")
    breaker.trip("MANUAL")
    epoch = breaker.reset("ada", "all is well again, resuming", ends_watched=True).epoch
    old = json.loads(redis_client.get("circuit_breaker:state") or b"") | {"reset_at": "2026-01-05T00:00:00Z"}
    redis_client.set("circuit_breaker:state", json.dumps(old))
    assert check_reset(stores, "global").colour is Colour.RED
    alive: dict[Any, Any] = {"epoch": epoch, "holder": "a", "began": 1, "seen": int(9e12), "ended": ""}
    redis_client.hset("circuit_breaker:reset_watch", mapping=alive)
    assert check_reset(stores, "global").colour is Colour.GREEN
    redis_client.hset("circuit_breaker:reset_watch", "seen", "soon")
    assert check_reset(stores, "global").colour is Colour.RED
    ledger.close()


def test_promise_9_a_reset_from_the_library_is_red_until_a_recovery_adopts_it_or_it_is_tripped(
    configure: Configure, redis_client: redis.Redis
) -> None:
    settings = configure()
    ledger = open_ready_ledger(settings)
    stores = Stores(settings, redis_client, ledger, ("global",))

    def reset(source: str) -> int:
        breaker = CircuitBreaker(redis_client, source=source, reset_interval=0)
        breaker.trip("MANUAL")
        epoch = breaker.reset("ada", "all is well again, resuming").epoch
        drain_outbox(redis_client, ledger, ("global",))
        return epoch or 0

    def colour() -> Colour:
        return check_reset(stores, "global").colour

    assert colour() is Colour.GREEN
    for source in ("cli", "console", "api", "flow"):
        reset(source)
        assert colour() is Colour.GREEN, source
    epoch = reset("library")
    found = check_reset(stores, "global")
    assert (found.colour, found.value.endswith("from library")) == (Colour.RED, True)
    CircuitBreaker(redis_client).end_quiet_period(expected_epoch=epoch)
    assert colour() is Colour.RED, "a watch that ended well is no decision"
    ledger.append([AuditRecord(action=ADOPTED, source="flow", details={"epoch": epoch})])
    assert colour() is Colour.GREEN
    reset("library")
    CircuitBreaker(redis_client).trip("MANUAL")
    assert colour() is Colour.GREEN
    ledger.close()
