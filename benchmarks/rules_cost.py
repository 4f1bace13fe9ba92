"""What recording a measurement costs when the script that records it also judges it."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from decimal import Decimal
from typing import Any

from benchmarks.rows import Row, spread
from benchmarks.servers import bench
from breaker.deadline_client import DeadlineClient
from breaker.keys import Keys
from breaker.requests import Request
from breaker.rule_requests import RuleRequests
from breaker.rules import Limits, Rules

_CALLS = 2000
_SCOPES, _ROUNDS = 1000, 10
_ALL = Limits(
    daily_loss=Decimal("0.5"),
    loss_velocity=Decimal("0.5"),
    position_size=Decimal(10**9),
    gross_exposure=Decimal(10**9),
    position_mismatch=Decimal("0.5"),
)
_POSITIONS = {f"SYMBOL{i}": (Decimal(i), Decimal(100 * i)) for i in range(1, 21)}


def run() -> list[Row]:
    with bench() as here:
        rules = Rules(here.client, limits=Limits(api_errors=1_000_000))
        bare = _costs(lambda i: here.client.zadd("bare", {str(i): i}))
        errors = _costs(lambda _: rules.record_api_error("venue"))
        equity = _costs(lambda i: rules.record_equity(100 + i))
        beside = f"bare ZADD {spread(bare, 1e6)}"
        return [
            Row("rules", "record_api_error, p50 / p99 / max", spread(errors, 1e6), "µs", beside),
            Row("rules", "record_equity, p50 / p99 / max", spread(equity, 1e6), "µs", beside),
            *_of_many_scopes(here.client),
        ]


def _of_many_scopes(redis: Any) -> list[Row]:
    """In Redis itself, whose one thread all scopes share."""
    scopes = [RuleRequests(Keys.of(f"account:A{i}"), _ALL) for i in range(_SCOPES)]
    before = redis.info("memory")["used_memory"]

    def equity(requests: RuleRequests, round_: int) -> Request:
        return requests.equity(100_000 + round_, None, trusted=True, day=None, event_id=None, currency="USD")

    with closing(DeadlineClient(redis, 10.0)) as client:
        each = {
            "equity, by three rules": _in_redis(redis, client, scopes, equity),
            "API error": _in_redis(redis, client, scopes, lambda requests, _: requests.api_error("venue")),
            "20 positions, by three rules": _in_redis(
                redis, client, scopes, lambda requests, _: requests.positions(_POSITIONS, by_amount=True)
            ),
        }
    kept = (redis.info("memory")["used_memory"] - before) / _SCOPES / 1024
    rows = [
        Row("rules", f"in Redis per measurement, {_SCOPES} scopes: {what}", f"{cost:.3g}", "µs")
        for what, cost in each.items()
    ]
    return [*rows, Row("rules", f"memory per scope after {_ROUNDS} measurements of each", f"{kept:.3g}", "KiB")]


def _in_redis(
    redis: Any,
    client: DeadlineClient,
    scopes: list[RuleRequests],
    request: Callable[[RuleRequests, int], Request],
) -> float:
    """Microseconds of Redis's own time for one."""
    for requests in scopes:
        client.execute(request(requests, 0))
    redis.config_resetstat()
    for round_ in range(1, _ROUNDS):
        for requests in scopes:
            client.execute(request(requests, round_))
    return float(redis.info("commandstats")["cmdstat_evalsha"]["usec_per_call"])


def _costs(call: Callable[[int], object]) -> list[float]:
    costs = []
    for i in range(_CALLS):
        begin = time.perf_counter()
        call(i)
        costs.append(time.perf_counter() - begin)
    return costs
