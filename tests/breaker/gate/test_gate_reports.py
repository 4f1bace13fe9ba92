"""What gates tell of themselves reaches Redis, and never stands in a gate's way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import redis

from breaker import CircuitBreaker
from breaker.deadline_client import DeadlineClient
from breaker.gate import Gate, OrderIntent, Reason
from breaker.gate.report import (
    LOST,
    LOST_AFTER,
    GateReport,
    ReportedGate,
    ReportedGates,
    read_reports,
    report_request,
    reports_request,
)
from breaker.gate.reporter import report_socket
from sandbox.embedded_redis import EmbeddedRedis
from tests.breaker.gate.conftest import MakeGate
from tests.breaker.gate.harness import BUY, UNHURRIED
from tests.helpers import eventually, in_time

COVER = OrderIntent("AAPL", "buy", 5)


def reported(client: redis.Redis) -> ReportedGates:
    deadline_client = DeadlineClient(client, 2.0)
    try:
        return read_reports(deadline_client.execute(reports_request()))
    finally:
        deadline_client.close()


def test_a_gate_reports_how_it_stands_and_what_its_checks_came_to(
    make_gate: MakeGate, backend: str, redis_server: EmbeddedRedis, redis_client: redis.Redis, cb: CircuitBreaker
) -> None:
    gate = make_gate(redis_server.url, backend)
    assert gate.wait_until_open(20)
    found = eventually(lambda: next((g for g in reported(redis_client).gates if g.report.reason == "OPEN"), None))
    assert found is not None
    assert (found.report.pid, found.report.backend, found.report.scopes) == (os.getpid(), backend, ("global",))
    assert found.report.lease_age is not None
    assert 0 <= found.report.lease_age < UNHURRIED
    assert not found.lost
    for _ in range(7):
        assert gate.check(BUY, 0)
    cb.trip("MANUAL")
    eventually(lambda: gate.status().reason is Reason.TRIPPED)
    refusals = [gate.check(BUY, 0) for _ in range(3)]
    assert not any(refusals)
    assert gate.check(COVER, -5)
    gate.close()
    eventually(lambda: reported(redis_client).checks == {"admitted": 7, "refused": 3, "reduced": 1})
    assert reported(redis_client).gates == (), "closed in order, and not lost"


def test_what_somebody_else_wrote_among_the_reports_hides_no_gate(redis_client: redis.Redis) -> None:
    report = GateReport("g", "host", 1, "thread", ("global",), "OPEN", 0.1, 1, {"admitted": 5, "reduced": 0})
    client = DeadlineClient(redis_client, 2.0)
    redis_client.hset("circuit_breaker:gate_reports", mapping={"g": '"mine"', "other": "{}"})
    redis_client.hset("circuit_breaker:gate_checks", mapping={b"\xff": "mine", "admitted": "many"})
    redis_client.zadd("circuit_breaker:gates", {"other": 9e15})
    assert client.execute(report_request(report, last=False)) == [b"OK"]
    found = reported(redis_client)
    client.close()
    assert [gate.report.gate_id for gate in found.gates] == ["g"]
    assert found.checks == {"admitted": 5, "reduced": 0, "refused": 0}


def test_counts_go_on_over_gates_and_a_report_sent_twice_counts_once(
    redis_server: EmbeddedRedis, redis_client: redis.Redis, cb: CircuitBreaker
) -> None:
    for _ in range(2):
        with Gate(redis_server.url) as gate:
            assert gate.wait_until_open(20)
            assert gate.check(BUY, 0)
            eventually(lambda: len(reported(redis_client).gates) == 1)
    assert reported(redis_client).checks["admitted"] == 2


def test_a_gate_that_was_killed_is_missed_and_then_forgotten(
    redis_server: EmbeddedRedis, redis_client: redis.Redis, cb: CircuitBreaker
) -> None:
    engine = subprocess.Popen(
        [sys.executable, "-c", f"from breaker.gate import Gate; Gate({redis_server.url!r}); input()"],
        stdin=subprocess.PIPE,
    )
    eventually(lambda: len(reported(redis_client).gates) == 1)
    engine.kill()
    engine.communicate(timeout=10)
    _let_time_pass(redis_client, LOST_AFTER)
    assert (reported(redis_client).lost, reported(redis_client).reasons[LOST]) == (1, 1)
    _let_time_pass(redis_client, 900)
    with Gate(redis_server.url):
        eventually(lambda: [g.report.pid for g in reported(redis_client).gates] == [os.getpid()])


def _let_time_pass(client: redis.Redis, seconds: float) -> None:
    for gate in reported(client).gates:
        client.zincrby("circuit_breaker:gates", -seconds * 1000, gate.report.gate_id)


def test_an_engine_that_ends_without_closing_its_gate_is_not_missed(
    redis_server: EmbeddedRedis, redis_client: redis.Redis, cb: CircuitBreaker
) -> None:
    code = (
        "from breaker.gate import Gate, OrderIntent; "
        f"g = Gate({redis_server.url!r}); g.wait_until_open(20); g.check(OrderIntent('AAPL', 'buy', 1))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)
    assert reported(redis_client) == ReportedGates((), {"admitted": 1, "reduced": 0, "refused": 0})


def test_forked_workers_report_for_themselves_and_leave_their_parents_report_alone(
    make_gate: MakeGate, backend: str, redis_server: EmbeddedRedis, redis_client: redis.Redis, cb: CircuitBreaker
) -> None:
    gate = make_gate(redis_server.url, backend)
    assert gate.wait_until_open(20)
    eventually(lambda: len(reported(redis_client).gates) == 1)
    child = os.fork()
    if child == 0:
        if backend != "shm":
            gate.restart()
        gate.wait_until_open(20)
        gate.check(BUY, 0)
        gate.close()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    eventually(lambda: reported(redis_client).checks["admitted"] == 1)
    assert [g.report.pid for g in reported(redis_client).gates] == [os.getpid()]


def test_a_refused_report_harms_nothing(own_server: EmbeddedRedis, caplog: pytest.LogCaptureFixture) -> None:
    client = redis.Redis.from_url(own_server.url)
    CircuitBreaker(client).initialize_state()
    client.acl_setuser(
        "engine",
        enabled=True,
        passwords=["+word"],
        keys=["circuit_breaker:*"],
        commands=["+hello", "+client", "+role", "+exists", "+time", "+get", "+del"],
    )
    caplog.set_level("INFO", logger="breaker.gate.reporter")
    with Gate(own_server.url.replace("redis://", "redis://engine:word@")) as gate:
        assert gate.wait_until_open(20)
        eventually(lambda: "could not report" in caplog.text)
        assert gate.check(BUY, 0)
        assert "Grant the user the command" in caplog.text
    assert reported(client).gates == ()
    client.close()


def test_a_gate_is_closed_and_left_in_time_while_redis_hangs(own_server: EmbeddedRedis) -> None:
    client = redis.Redis.from_url(own_server.url)
    CircuitBreaker(client).initialize_state()
    gate = Gate(own_server.url)
    assert gate.wait_until_open(20)
    eventually(lambda: len(reported(client).gates) == 1)
    assert own_server.pid is not None
    os.kill(own_server.pid, signal.SIGSTOP)
    try:
        with in_time(2):
            gate.close()
    finally:
        os.kill(own_server.pid, signal.SIGCONT)
    client.close()


def test_a_sidecar_without_a_socket_serves_all_the_same(
    make_gate: MakeGate, tmp_path: Path, redis_server: EmbeddedRedis, cb: CircuitBreaker
) -> None:
    report_socket(tmp_path / "shared_memory").mkdir()
    gate = make_gate(redis_server.url, "shm")
    assert gate.wait_until_open(20)
    assert gate.check(BUY, 0)


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", '{"gate_id": 1}', "x" * 9000])
def test_what_is_no_report_is_left_out(redis_client: redis.Redis, text: str) -> None:
    redis_client.zadd("circuit_breaker:gates", {"x": 1})
    redis_client.hset("circuit_breaker:gate_reports", "x", text)
    assert reported(redis_client).gates == ()


def test_a_word_of_a_newer_version_is_counted_as_other() -> None:
    report = GateReport("a", "host", 1, "thread", ("global",), "LUNCH", None, 1, {})
    gates = ReportedGates((ReportedGate(report, 1.0), ReportedGate(report, LOST_AFTER + 1)), {})
    assert {word: count for word, count in gates.reasons.items() if count} == {"OTHER": 1, LOST: 1}
    assert gates.oldest_lease is None
