"""What happens after Redis can't be heard and the breaker has been tripped: how long orders still pass, and how many.

Ours has to close within `max_staleness`; an order counts as admitted late when the clock read before its check is past
that. The peers are asked the same question, with a socket timeout of half a second, or they would hang for a minute.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
import time
from collections.abc import Callable
from datetime import timedelta

import aiobreaker
import pybreaker
import redis
from aiobreaker.storage.redis import CircuitRedisStorage
from redis.backoff import NoBackoff
from redis.retry import Retry

from benchmarks.rows import Row
from benchmarks.servers import BACKENDS, Bench, bench, open_gate
from breaker import CircuitBreaker
from breaker.gate import clock
from breaker.gate.intents import OrderIntent
from proofs.proxy import Fault, FaultProxy

_STALENESS = 0.2
_WATCHED = 1.0
_PEERS_WATCHED = 4.0
_KEY = "circuit_breaker:state"
_ORDER = OrderIntent("AAPL", "buy", 10)
Ask = Callable[[], bool]


def _sigstop(here: Bench, proxy: FaultProxy) -> None:
    assert here.server.pid is not None
    os.kill(here.server.pid, signal.SIGSTOP)


def _kill(here: Bench, proxy: FaultProxy) -> None:
    here.server.kill()


def _cut(here: Bench, proxy: FaultProxy) -> None:
    here.breaker.trip("BENCH")
    proxy.inject(Fault.SILENT)
    proxy.cut()


def _silence(here: Bench, proxy: FaultProxy) -> None:
    proxy.inject(Fault.SILENT)
    CircuitBreaker(redis.Redis(port=here.server.port)).trip("BENCH")


def _flush(here: Bench, proxy: FaultProxy) -> None:
    redis.Redis(port=here.server.port).flushall()


def _write_by_hand(here: Bench, proxy: FaultProxy) -> None:
    redis.Redis(port=here.server.port).set(_KEY, '{"state":"TRIPPED","tripped_at":"2025-01-15T10:00:00Z"}')


def _restore_older(here: Bench, proxy: FaultProxy) -> None:
    client = redis.Redis(port=here.server.port)
    raw = client.get(_KEY)
    assert isinstance(raw, bytes)
    stored = json.loads(raw)
    client.set(_KEY, json.dumps({**stored, "epoch": stored["epoch"] - 1}))


_FAULTS = {
    "SIGSTOP": _sigstop,
    "kill -9": _kill,
    "silent partition": _silence,
    "cut connection": _cut,
    "FLUSHALL": _flush,
    "state written by hand": _write_by_hand,
    "older OPEN restored": _restore_older,
}


def run() -> list[Row]:
    rows = [_ours(backend, fault) for backend in BACKENDS for fault in _FAULTS]
    rows += [_peer(name, fault) for name in _PEERS for fault in ("SIGSTOP", "silent partition")]
    rows.append(Row("fault", "redis-py client-side cache", "refuses this server", "", "it wants Redis ≥ 7.4"))
    return rows


def _ours(backend: str, fault: str) -> Row:
    with bench() as here, FaultProxy(("127.0.0.1", here.server.port)) as proxy:
        with open_gate(proxy.redis_url, backend, here.shared_memory) as gate:
            at, checks = _watch(lambda: bool(gate.check(_ORDER, 0)), lambda: _FAULTS[fault](here, proxy), _WATCHED)
        late = sum(1 for checked, admitted, _ in checks if admitted and checked >= at + _STALENESS)
        closed = max((checked - at for checked, admitted, _ in checks if admitted and checked >= at), default=0.0)
    what = f"{backend} gate, {fault}: last order after {closed * 1e3:.0f} ms, admitted late"
    return Row("fault", what, late, "orders", f"of {len(checks)} asked", "0", late == 0)


def _peer(name: str, fault: str) -> Row:
    with bench() as here, FaultProxy(("127.0.0.1", here.server.port)) as proxy:
        client = redis.Redis(
            port=proxy.port, socket_timeout=0.5, socket_connect_timeout=0.5, retry=Retry(NoBackoff(), 0)
        )
        client.set("peer:state", "closed")
        ask = _PEERS[name](client)
        at, checks = _watch(ask, lambda: _FAULTS[fault](here, proxy), _PEERS_WATCHED)
    late = sum(1 for checked, admitted, _ in checks if admitted and checked >= at + _STALENESS)
    slowest = max(took for checked, _, took in checks if checked + took >= at)
    return Row("fault", f"{name}, {fault}: slowest answer {slowest:.1f} s, admitted late", late, "orders", "", "")


def _pybreaker(client: redis.Redis) -> Ask:
    breaker = pybreaker.CircuitBreaker(state_storage=pybreaker.CircuitRedisStorage(pybreaker.STATE_CLOSED, client))

    def ask() -> bool:
        try:
            return bool(breaker.call(lambda: True))
        except (pybreaker.CircuitBreakerError, redis.RedisError):
            return False

    return ask


def _aiobreaker(client: redis.Redis) -> Ask:
    storage = CircuitRedisStorage(aiobreaker.CircuitBreakerState.CLOSED, client)
    breaker = aiobreaker.CircuitBreaker(timeout_duration=timedelta(seconds=60), state_storage=storage)

    async def send() -> bool:
        return True

    def ask() -> bool:
        try:
            return bool(asyncio.run(breaker.call_async(send)))
        except (aiobreaker.CircuitBreakerError, redis.RedisError):
            return False

    return ask


_PEERS: dict[str, Callable[[redis.Redis], Ask]] = {
    "pybreaker with Redis storage": _pybreaker,
    "aiobreaker with Redis storage": _aiobreaker,
}


def _watch(ask: Ask, fault: Callable[[], None], seconds: float) -> tuple[float, list[tuple[float, bool, float]]]:
    """Ask all the time; the time at which the fault was complete, and each question's time, answer and duration."""
    checks: list[tuple[float, bool, float]] = []
    stop = threading.Event()

    def ask_on() -> None:
        while not stop.is_set():
            now = clock.now()
            admitted = ask()
            checks.append((now, admitted, clock.now() - now))
            time.sleep(0.0002)

    thread = threading.Thread(target=ask_on)
    thread.start()
    time.sleep(0.2)
    fault()
    at = clock.now()
    time.sleep(seconds)
    stop.set()
    thread.join()
    return at, checks
