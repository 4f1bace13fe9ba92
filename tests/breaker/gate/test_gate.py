"""The gate as an engine uses it, each backend on a real server."""

from __future__ import annotations

import asyncio
import os
import subprocess
import threading
import time
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import redis

from breaker import CircuitBreaker
from breaker.errors import InvalidInput
from breaker.gate import Gate, GateStatus, OrderIntent, OrderRefused, Permit, QuietPeriodLimits, Reason, clock
from breaker.gate.lease import ScopeState
from breaker.orders import Order, OrderStatus, OrderType, Side, TimeInForce
from sandbox.embedded_redis import EmbeddedRedis
from tests.breaker.gate.conftest import MakeGate
from tests.breaker.gate.harness import BUY, UNHURRIED, Sidecar, sidecar_command
from tests.helpers import eventually

COVER = OrderIntent("AAPL", "buy", 5)


def test_it_follows_trip_and_reset(
    make_gate: MakeGate, backend: str, redis_server: EmbeddedRedis, cb: CircuitBreaker
) -> None:
    gate = make_gate(redis_server.url, backend)
    assert gate.wait_until_open(20)
    assert gate.check(BUY, 0).reason is Reason.OPEN
    cb.trip("MANUAL", tripped_by="me")
    eventually(lambda: gate.check(BUY, 0).reason is Reason.TRIPPED)
    refused = gate.check(BUY, 0)
    assert not refused
    assert "MANUAL" in refused.sentence
    assert gate.check(COVER, -5).reason is Reason.REDUCES_RISK
    assert not gate.check(COVER, -4)
    assert not gate.check(COVER, None)
    cb.reset(reset_by="me")
    assert gate.wait_until_open(20)


def test_it_is_closed_until_someone_initialises(
    make_gate: MakeGate, backend: str, redis_server: EmbeddedRedis, redis_client: redis.Redis
) -> None:
    gate = make_gate(redis_server.url, backend)
    eventually(lambda: gate.check(BUY, 0).reason is Reason.STATE_MISSING)
    assert not gate.wait_until_open(0.1)
    CircuitBreaker(redis_client).initialize_state()
    assert gate.wait_until_open(20)


def test_it_watches_the_scopes_it_is_told_to(
    make_gate: MakeGate, backend: str, redis_server: EmbeddedRedis, redis_client: redis.Redis, cb: CircuitBreaker
) -> None:
    gate = make_gate(redis_server.url, backend, scopes=["account:ALPHA", "symbol:TSLA"])
    assert gate.wait_until_open(20), "scopes never initialised do not block"
    alpha = CircuitBreaker(redis_client, "account:ALPHA", quiet_period=0, reset_interval=0)
    alpha.trip("MANUAL")
    order = OrderIntent("AAPL", "buy", 1, account="ALPHA")
    eventually(lambda: gate.check(order, 0).reason is Reason.TRIPPED)
    assert gate.check(order, 0).scope == "account:ALPHA"
    assert gate.check(OrderIntent("AAPL", "buy", 1, account="BETA"), 0)
    assert not gate.is_open
    alpha.reset(reset_by="me")
    assert gate.wait_until_open(20)
    redis_client.delete(alpha.keys.state)
    eventually(lambda: gate.check(order, 0).reason is Reason.STATE_MISSING)
    assert gate.status().scopes["account:ALPHA"] is ScopeState.MISSING


def test_a_gate_that_starts_after_a_scope_vanished_is_closed_too(
    make_gate: MakeGate, redis_server: EmbeddedRedis, redis_client: redis.Redis, cb: CircuitBreaker
) -> None:
    alpha = CircuitBreaker(redis_client, "account:ALPHA")
    alpha.initialize_state()
    redis_client.delete(alpha.keys.state)
    gate = make_gate(redis_server.url, scopes=["account:ALPHA"])
    eventually(lambda: gate.check(BUY, 0).reason is Reason.STATE_MISSING)
    assert gate.check(OrderIntent("AAPL", "buy", 1, account="BETA"), 0)


def test_the_quiet_period_after_a_reset_is_limited_and_ends_by_redis_time(
    make_gate: MakeGate, backend: str, redis_server: EmbeddedRedis, redis_client: redis.Redis
) -> None:
    cb = CircuitBreaker(redis_client, quiet_period=2.0, reset_interval=0)
    cb.initialize_state()
    gate = make_gate(redis_server.url, backend, quiet_limits=QuietPeriodLimits(normal_quantity={"AAPL": 100}))
    assert gate.wait_until_open(20), "a sidecar may take longer to start than the quiet period lasts"
    cb.trip("MANUAL")
    cb.reset(reset_by="me")
    eventually(lambda: gate.status().reason is Reason.QUIET_PERIOD)
    assert gate.check(OrderIntent("AAPL", "buy", 100), 0).reason is Reason.QUIET_SIZE
    assert gate.check(OrderIntent("AAPL", "buy", 10), 0).reason is Reason.QUIET_PERIOD
    assert gate.wait_until_open(20)


def test_a_permit_is_good_until_the_breaker_moves_on(
    make_gate: MakeGate, backend: str, redis_server: EmbeddedRedis, cb: CircuitBreaker
) -> None:
    gate = make_gate(redis_server.url, backend)
    assert gate.wait_until_open(20)
    permit = gate.check(BUY, 0).permit
    assert permit is not None
    assert permit.epochs == {"global": cb.get_status().epoch}
    assert clock.now() < permit.deadline <= clock.now() + UNHURRIED
    time.sleep(0.25)
    assert gate.recheck(permit), "the lease goes on, so does the permit"
    cb.trip("MANUAL")
    eventually(lambda: gate.recheck(permit).reason is Reason.TRIPPED)
    reduction = gate.check(COVER, -5).permit
    assert reduction is not None
    assert gate.recheck(reduction)
    cb.reset(reset_by="me")
    assert gate.wait_until_open(20)
    assert gate.recheck(permit).reason is Reason.PERMIT_EXPIRED
    assert not gate.recheck(Permit({}, clock.now() + 1))


def test_changes_are_told_off_the_hot_path(
    make_gate: MakeGate, backend: str, redis_server: EmbeddedRedis, cb: CircuitBreaker
) -> None:
    gate = make_gate(redis_server.url, backend)
    assert gate.wait_until_open(20)
    told: list[tuple[GateStatus, str]] = []

    def failing(status: GateStatus) -> None:
        raise RuntimeError("a callback's own trouble")

    gate.on_change(failing)
    gate.on_change(lambda status: told.append((status, threading.current_thread().name)))
    cb.trip("MANUAL")
    eventually(lambda: told and told[-1][0].reason is Reason.TRIPPED)
    assert told[-1][1] == "breaker-gate-watch"
    assert not told[-1][0].is_open
    cb.reset(reset_by="me")
    eventually(lambda: told[-1][0].is_open)


def test_status_tells_a_health_page_what_it_needs(
    make_gate: MakeGate, backend: str, redis_server: EmbeddedRedis, cb: CircuitBreaker
) -> None:
    gate = make_gate(redis_server.url, backend)
    assert gate.wait_until_open(20)
    status = gate.status()
    assert (status.is_open, status.reason, status.backend, status.problem) == (True, Reason.OPEN, backend, None)
    assert status.epochs == {"global": cb.get_status().epoch}
    assert 0 < status.lease_left <= UNHURRIED
    assert status.connections == 1


def test_a_closed_gate_lets_only_reductions_through(
    make_gate: MakeGate, backend: str, redis_server: EmbeddedRedis, cb: CircuitBreaker
) -> None:
    gate = make_gate(redis_server.url, backend)
    assert gate.wait_until_open(20)
    gate.close()
    assert gate.check(BUY, 0).reason is Reason.CLOSED
    assert gate.check(COVER, -5)
    gate.restart()
    assert gate.wait_until_open(20)


def test_threads_and_coroutines_share_one_connection(
    make_gate: MakeGate, redis_server: EmbeddedRedis, redis_client: redis.Redis, cb: CircuitBreaker
) -> None:
    gate = make_gate(redis_server.url, "drain")

    async def engine() -> bool:
        assert await gate.wait_until_open_async(5)
        return bool(gate.check(BUY, 0))

    assert gate.wait_until_open(20)
    checks: list[bool] = []
    threads = [
        threading.Thread(target=lambda: checks.extend(bool(gate.check(BUY, 0)) for _ in range(2000))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(checks)
    assert asyncio.run(engine())
    connections = [c for c in redis_client.client_list() if c["name"].startswith(f"breaker-gate-{os.getpid()}-")]
    assert len(connections) == 1


def test_it_takes_credentials_and_address_from_an_engines_own_client(
    own_server: EmbeddedRedis, make_gate: MakeGate
) -> None:
    admin = redis.Redis.from_url(own_server.url)
    CircuitBreaker(admin).initialize_state()
    admin.config_set("requirepass", "secret")
    engines = redis.Redis(port=own_server.port, password="secret", socket_timeout=0.001, decode_responses=True)
    with Gate(engines) as gate:
        assert gate.wait_until_open(20)
    wrong = make_gate(f"redis://:wrong@127.0.0.1:{own_server.port}/0")
    eventually(lambda: "invalid" in (wrong.status().problem or "").lower())
    assert wrong.check(BUY, 0).reason is Reason.NOT_CONNECTED


def test_a_replica_is_no_place_to_ask(
    tmp_path: Path, redis_server: EmbeddedRedis, cb: CircuitBreaker, make_gate: MakeGate
) -> None:
    with EmbeddedRedis(tmp_path / "r") as server:
        redis.Redis.from_url(server.url).replicaof("127.0.0.1", redis_server.port)
        gate = make_gate(server.url)
        eventually(lambda: "not a primary" in (gate.status().problem or ""))
        assert not gate.is_open


def test_settings_that_make_no_sense_are_refused_at_once() -> None:
    url = "redis://127.0.0.1:1/0"
    attempts: list[tuple[type[Exception], str, Callable[[], Any]]] = [
        (ValueError, "max_staleness", lambda: Gate(url, max_staleness=0)),
        (ValueError, "heartbeat", lambda: Gate(url, heartbeat=0.2)),
        (ValueError, "backend", lambda: Gate(url, backend="pigeon")),  # type: ignore[arg-type]
        (ValueError, "needs a Redis client", Gate),
        (ValueError, "sidecar", lambda: Gate(url, backend="shm")),
        (InvalidInput, "scope", lambda: Gate(url, scopes=["no spaces"])),
        (TypeError, "asyncio", lambda: Gate(redis.asyncio.Redis())),  # type: ignore[arg-type]
    ]
    for error, message, attempt in attempts:
        with pytest.raises(error, match=message):
            attempt()


class Explosive:
    """An order whose every attribute raises."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(f"no {name} today")


def test_check_never_raises(make_gate: MakeGate, backend: str, redis_server: EmbeddedRedis, cb: CircuitBreaker) -> None:
    gate = make_gate(redis_server.url, backend)
    assert gate.wait_until_open(20)
    cb.trip("MANUAL")
    eventually(lambda: gate.check(BUY, 0).reason is Reason.TRIPPED)
    assert gate.check(Explosive(), 1).reason is Reason.INVALID_ORDER
    for order in (None, 7, "AAPL", object(), {}, BUY):
        for position in (None, "x", object(), float("nan"), Explosive()):
            for working in ((), None, [None], [object()], 7):
                assert not gate.check(order, position, working)  # type: ignore[arg-type]


def test_what_can_not_be_an_order_is_refused_while_open_too(
    make_gate: MakeGate, backend: str, redis_server: EmbeddedRedis, cb: CircuitBreaker
) -> None:
    gate = make_gate(redis_server.url, backend)
    assert gate.wait_until_open(20)
    for order in (OrderIntent("AAPL", "buy", 0), OrderIntent("", "buy", 1), None, 7, {}, object(), Explosive()):
        assert gate.check(order, 0).reason is Reason.INVALID_ORDER
        with pytest.raises(OrderRefused):
            gate.guard(order).__enter__()
    like_an_order = Order(
        "1", "1", "AAPL", Side.BUY, Decimal(5), Decimal(0), OrderStatus.NEW, OrderType.MARKET, TimeInForce.DAY
    )
    assert gate.check(like_an_order, 0).reason is Reason.OPEN


def guarded_engine(gate: Gate, sent: list[Any]) -> list[Callable[[OrderIntent, Any], Any]]:
    @gate.guard
    def submit(order: OrderIntent, position: Any) -> str:
        sent.append(order)
        return "sent"

    @gate.guard
    async def submit_async(order: OrderIntent, position: Any = None) -> str:
        sent.append(order)
        return "sent"

    def in_block(order: OrderIntent, position: Any) -> str:
        with gate.guard(order, position) as permit:
            assert permit.deadline > 0
            sent.append(order)
            return "sent"

    async def in_async_block(order: OrderIntent, position: Any) -> str:
        async with gate.guard(order, position):
            sent.append(order)
            return "sent"

    class Engine:
        def __init__(self) -> None:
            self.positions = {"AAPL": -5}

        def run(self, order: OrderIntent, position: Any) -> str:
            self.positions["AAPL"] = position
            return gate.guard(position_of=lambda o: self.positions[o.symbol])(self.send)(order)

        def send(self, what: OrderIntent) -> str:
            sent.append(what)
            return "sent"

    def finish(result: Any) -> Any:
        return asyncio.run(result) if asyncio.iscoroutine(result) else result

    ways: list[Callable[..., Any]] = [submit, submit_async, in_block, in_async_block, Engine().run]
    return [lambda order, position, way=way: finish(way(order, position)) for way in ways]  # type: ignore[misc]


def test_a_guard_stands_before_every_kind_of_submit_function(
    make_gate: MakeGate, redis_server: EmbeddedRedis, cb: CircuitBreaker
) -> None:
    gate = make_gate(redis_server.url)
    assert gate.wait_until_open(20)
    sent: list[Any] = []
    ways = guarded_engine(gate, sent)
    assert [way(BUY, 0) for way in ways] == ["sent"] * 5
    cb.trip("MANUAL")
    eventually(lambda: gate.check(BUY, 0).reason is Reason.TRIPPED)
    sent.clear()
    for way in ways:
        with pytest.raises(OrderRefused, match="TRIPPED") as refusal:
            way(BUY, 0)
        assert refusal.value.decision.reason is Reason.TRIPPED
    assert sent == []
    assert [way(COVER, -25) for way in ways] == ["sent"] * 5, "each counts until it is settled, or its permit runs out"
    for way in ways:
        with pytest.raises(OrderRefused, match=r"gate\.settle"):
            way(COVER, -25)
    with pytest.raises(TypeError, match="takes no order"):
        gate.guard(lambda: None)


@pytest.mark.parametrize("backend", ["thread", "drain"])
def test_a_forked_child_is_closed_and_leaves_the_parents_connection_alone(
    make_gate: MakeGate, backend: str, redis_server: EmbeddedRedis, cb: CircuitBreaker
) -> None:
    gate = make_gate(redis_server.url, backend)
    assert gate.wait_until_open(20)
    child = os.fork()
    if child == 0:
        closed = gate.check(BUY, 0).reason is Reason.FORKED and bool(gate.check(COVER, -5))
        gate.restart()
        os._exit(0 if closed and gate.wait_until_open(20) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert gate.is_open
    assert gate.status().connections == 1
    cb.trip("MANUAL")
    eventually(lambda: gate.check(BUY, 0).reason is Reason.TRIPPED)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("backend", ["thread", "drain"])
def test_a_listener_that_dies_closes_the_gate(
    make_gate: MakeGate,
    backend: str,
    redis_server: EmbeddedRedis,
    cb: CircuitBreaker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gate = make_gate(redis_server.url, backend)
    assert gate.wait_until_open(20)

    def die(*_: object) -> None:
        raise SystemExit

    monkeypatch.setattr(gate._source, "_send_heartbeat", die)
    eventually(lambda: "listener thread has ended" in gate.check(BUY, 0).sentence)
    assert gate.status().reason is Reason.NOT_CONNECTED
    assert gate.check(COVER, -5)


def test_shared_memory_serves_forked_workers(
    make_gate: MakeGate, redis_server: EmbeddedRedis, cb: CircuitBreaker
) -> None:
    gate = make_gate(redis_server.url, "shm")
    assert gate.wait_until_open(20)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, b"open" if gate.is_open else b"shut")
        give_up = time.monotonic() + 5
        while gate.check(BUY, 0).reason is not Reason.TRIPPED and time.monotonic() < give_up:
            time.sleep(0.001)
        os._exit(0 if gate.check(BUY, 0).reason is Reason.TRIPPED else 1)
    assert os.read(read, 4) == b"open"
    cb.trip("MANUAL")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_shared_memory_has_one_writer_and_is_believed_only_from_this_boot(
    tmp_path: Path, redis_server: EmbeddedRedis, cb: CircuitBreaker
) -> None:
    shared_memory = tmp_path / "shared_memory"
    with Gate(backend="shm", shared_memory=shared_memory) as gate:
        assert gate.check(BUY, 0).reason is Reason.NOT_WATCHED
        assert "No such file" in gate.check(BUY, 0).sentence
        sidecar = Sidecar(redis_server.url, shared_memory)
        try:
            assert gate.wait_until_open(20)
            second = subprocess.run(
                sidecar_command(redis_server.url, shared_memory),
                capture_output=True, text=True, check=False, timeout=20,
            )  # fmt: skip
            assert second.returncode == 2
            assert "Another sidecar writes" in second.stderr
            assert gate.wait_until_open(20)
            with Gate(backend="shm", shared_memory=shared_memory, scopes=["account:A"]) as wider:
                assert "does not watch account:A" in wider.check(BUY, 0).sentence
            with Gate(backend="shm", shared_memory=shared_memory, max_staleness=0.1) as stricter:
                assert "max_staleness is 0.2" in stricter.check(BUY, 0).sentence
        finally:
            sidecar.stop()
        assert not gate.is_open, "a sidecar that ends in order closes its gates at once"
    content = bytearray(shared_memory.read_bytes())
    content[40:50] = b"other-boot"
    shared_memory.write_bytes(content)
    with Gate(backend="shm", shared_memory=shared_memory) as gate:
        assert "since this host started" in gate.check(BUY, 0).sentence
