"""What one check costs, beside the cheapest thing that could be mistaken for one and what others offer."""

from __future__ import annotations

import time
import timeit
from collections.abc import Callable
from typing import Any

import pybreaker

from benchmarks.rows import Row, spread
from benchmarks.servers import BACKENDS, bench, open_gate
from breaker.gate.intents import OrderIntent

_ORDER = OrderIntent("AAPL", "buy", 10)


class _Flag:
    open = True


def run() -> list[Row]:
    flag = _Flag()
    bare = _seconds_per_call(
        lambda n: timeit.timeit("flag.open and now()", globals={"flag": flag, "now": time.monotonic}, number=n)
    )
    rows = [Row("check", "attribute read + time.monotonic()", bare * 1e9, "ns")]
    with bench() as here:
        get = _seconds_per_call(lambda n: _loop(lambda: here.client.get("circuit_breaker:state"), n), 5_000)
        rows.append(Row("check", "redis-py GET", get * 1e9, "ns"))
        in_memory = pybreaker.CircuitBreaker()
        cost = _seconds_per_call(lambda n: _loop(lambda: in_memory.call(_nothing), n), 50_000)
        rows.append(Row("check", "pybreaker in memory, a call", cost * 1e9, "ns"))
        storage = pybreaker.CircuitRedisStorage(pybreaker.STATE_CLOSED, here.client)
        shared = pybreaker.CircuitBreaker(state_storage=storage)
        cost = _seconds_per_call(lambda n: _loop(lambda: shared.call(_nothing), n), 2_000)
        rows.append(Row("check", "pybreaker with Redis storage, a call", cost * 1e9, "ns"))
        for backend in BACKENDS:
            with open_gate(here.server.url, backend, here.shared_memory) as gate:
                rows += _gate_rows(gate.check, backend, bare, get)
    return rows


def _gate_rows(check: Callable[..., Any], backend: str, bare: float, get: float) -> list[Row]:
    def timed(n: int) -> float:
        return timeit.timeit("check(order, 0)", globals={"check": check, "order": _ORDER}, number=n)

    cost = _seconds_per_call(timed)
    each = []
    for _ in range(100_000):
        begin = time.perf_counter_ns()
        check(_ORDER, 0)
        each.append(time.perf_counter_ns() - begin)
    beside, most = f"bare {bare * 1e9:.0f} ns", f"≤ {bare * 5e9:.0f} ns (5×)"
    times = get / cost
    return [
        Row("check", f"{backend} gate", cost * 1e9, "ns", beside, most, cost <= 5 * bare),
        Row("check", f"{backend} gate against GET", times, "× throughput", f"{1 / get:,.0f}/s", "≥ 200×", times >= 200),
        Row("check", f"{backend} gate p50 / p99 / max, timer included", spread(each, 1), "ns"),
    ]


def _seconds_per_call(total: Callable[[int], float], number: int = 200_000) -> float:
    return min(total(number) for _ in range(5)) / number


def _loop(call: Callable[[], Any], number: int) -> float:
    return timeit.timeit(call, number=number)


def _nothing() -> None: ...
