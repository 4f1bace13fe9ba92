"""Trips and resets per second, and their cost, against the same done with WATCH/MULTI/EXEC."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable

import redis

from benchmarks.rows import Row, spread
from benchmarks.servers import Bench, bench
from breaker import CircuitBreaker
from breaker.uuid7 import uuid7

_SECONDS = 2.0


def run() -> list[Row]:
    rows = []
    with bench() as here:
        for way in ("script", "optimistic"):
            costs = _costs(_WAYS[way](here.client))
            rows.append(Row("transitions", f"{_NAMES[way]}, p50 / p99 / max", spread(costs, 1e6), "µs"))
        for writers in (1, 8):
            ours, theirs = (_per_second(here, way, writers) for way in ("script", "optimistic"))
            what = f"trips by {writers} writer{'s' if writers > 1 else ''}"
            rows.append(Row("transitions", what, ours, "/s", f"WATCH/MULTI/EXEC {theirs:,.0f}/s", "", None))
    return rows


def _script(client: redis.Redis) -> Callable[[], None]:
    breaker = CircuitBreaker(client)
    return lambda: void(breaker.trip("BENCH"))


def _optimistic(client: redis.Redis) -> Callable[[], None]:
    """As it is commonly written: read, decide, write state and history, and begin again if someone was faster."""

    def trip() -> None:
        with client.pipeline() as pipe:
            while True:
                try:
                    pipe.watch("optimistic:state")  # type: ignore[no-untyped-call]
                    raw = pipe.get("optimistic:state")
                    state = json.loads(raw) if isinstance(raw, bytes) else {"epoch": 0}
                    state |= {"state": "TRIPPED", "epoch": state["epoch"] + 1, "event_id": uuid7()}
                    pipe.multi()
                    pipe.set("optimistic:state", json.dumps(state))
                    pipe.zadd("optimistic:history", {json.dumps(state): time.time()})
                    pipe.zremrangebyrank("optimistic:history", 0, -1001)
                    pipe.execute()
                except redis.WatchError:
                    continue
                return

    return trip


def void(_: object) -> None: ...


_WAYS: dict[str, Callable[[redis.Redis], Callable[[], None]]] = {"script": _script, "optimistic": _optimistic}
_NAMES = {"script": "one script, state, history and outbox", "optimistic": "WATCH/MULTI/EXEC, state and history"}


def _costs(call: Callable[[], None]) -> list[float]:
    costs = []
    for _ in range(2000):
        begin = time.perf_counter()
        call()
        costs.append(time.perf_counter() - begin)
    return costs


def _per_second(here: Bench, way: str, writers: int) -> float:
    command = [sys.executable, "-m", "benchmarks.transitions", here.server.url, way]
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(writers)
    ]
    for process in processes:
        assert process.stdout is not None
        process.stdout.readline()
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    return sum(int(process.communicate(timeout=60)[0]) for process in processes) / _SECONDS


def _write() -> None:
    url, way = sys.argv[1:]
    trip = _WAYS[way](redis.Redis.from_url(url))
    trip()
    print("ready", flush=True)
    sys.stdin.readline()
    count, end = 0, time.monotonic() + _SECONDS
    while time.monotonic() < end:
        trip()
        count += 1
    print(count, flush=True)


if __name__ == "__main__":
    _write()
