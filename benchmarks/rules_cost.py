"""What recording a measurement costs when the script that records it also judges it."""

from __future__ import annotations

import time
from collections.abc import Callable

from benchmarks.rows import Row, spread
from benchmarks.servers import bench
from breaker.rules import Limits, Rules

_CALLS = 2000


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
        ]


def _costs(call: Callable[[int], object]) -> list[float]:
    costs = []
    for i in range(_CALLS):
        begin = time.perf_counter()
        call(i)
        costs.append(time.perf_counter() - begin)
    return costs
