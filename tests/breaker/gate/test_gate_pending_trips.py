"""A trip that waits on a host is made before any gate of that host opens (promise 1), whatever Redis has restored."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import redis

from breaker import CircuitBreaker, State
from breaker.gate import Gate, Reason
from breaker.pending_trips import PendingTrip, PendingTrips
from breaker.store_identity import IDENTITY_KEY, StoreIdentity
from sandbox.embedded_redis import EmbeddedRedis
from tests.breaker.gate.conftest import MakeGate
from tests.breaker.gate.harness import BUY, Record
from tests.helpers import eventually


@pytest.fixture
def pending(tmp_path: Path) -> PendingTrips:
    return PendingTrips(tmp_path / "state" / "pending_trips")


def a_trip() -> PendingTrip:
    return PendingTrip(reason="KILL_SWITCH", tripped_by="ada", source="cli")


def opened(server: EmbeddedRedis) -> CircuitBreaker:
    cb = CircuitBreaker(redis.Redis.from_url(server.url), quiet_period=0, reset_interval=0)
    cb.initialize_state()
    return cb


def test_promise_1_redis_comes_back_open_after_a_trip_it_was_not_told_of_and_no_order_passes(
    make_gate: MakeGate, backend: str, own_server: EmbeddedRedis, pending: PendingTrips
) -> None:
    cb = opened(own_server)
    gate = make_gate(own_server.url, backend, pending_trips=pending.directory)
    assert gate.wait_until_open(20)
    for _ in range(3):
        own_server.kill()
        eventually(lambda: not gate.is_open)
        trip = a_trip()
        pending.save(trip)
        with Record(gate) as record:
            own_server.start()
            eventually(lambda: gate.check(BUY, 0).reason is Reason.TRIPPED)
        assert record.admitted_since(0) == 0
        eventually(lambda: not pending.load())
        assert [event.event_id for event in cb.get_history(1)] == [trip.event_id]
        cb.reset(reset_by="me")
        assert gate.wait_until_open(10)


def test_a_trip_that_somebody_could_not_make_is_made_by_a_gate_that_can(
    make_gate: MakeGate, backend: str, own_server: EmbeddedRedis, pending: PendingTrips
) -> None:
    cb = opened(own_server)
    gate = make_gate(own_server.url, backend, pending_trips=pending.directory)
    assert gate.wait_until_open(20)
    pending.save(a_trip())
    eventually(lambda: gate.check(BUY, 0).reason is Reason.TRIPPED)
    assert cb.get_state() is State.TRIPPED
    eventually(lambda: not pending.load())


def test_a_gate_stays_closed_while_it_cannot_see_whether_a_trip_waits(
    make_gate: MakeGate, backend: str, own_server: EmbeddedRedis, pending: PendingTrips
) -> None:
    opened(own_server)
    pending.directory.parent.mkdir()
    pending.directory.write_text("no directory")
    gate = make_gate(own_server.url, backend, pending_trips=pending.directory)
    eventually(lambda: str(pending.directory) in gate.check(BUY, 0).sentence)
    assert not gate.wait_until_open(0.3)
    assert gate.check(BUY, -10).reason is Reason.REDUCES_RISK
    pending.directory.unlink()
    assert gate.wait_until_open(10)


def test_a_gate_that_may_not_trip_stays_closed_and_says_so(own_server: EmbeddedRedis, pending: PendingTrips) -> None:
    opened(own_server)
    client = redis.Redis.from_url(own_server.url)
    client.acl_setuser("engine", enabled=True, passwords="+pw", keys="*", categories=["+@all", "-@scripting"])
    pending.save(a_trip())
    with Gate(own_server.url.replace("//", "//engine:pw@"), pending_trips=pending.directory) as gate:
        eventually(lambda: "can't be made" in gate.check(BUY, 0).sentence)
        assert not gate.wait_until_open(0.3)
        assert len(pending.load()) == 1


def test_a_trip_for_another_redis_by_its_id_keeps_no_gate_closed_and_one_by_its_address_does(
    make_gate: MakeGate, backend: str, own_server: EmbeddedRedis, pending: PendingTrips
) -> None:
    cb = opened(own_server)
    with redis.Redis.from_url(own_server.url) as client:
        client.set(IDENTITY_KEY, StoreIdentity(address="", id="ours").as_stored())
    elsewhere = StoreIdentity(address="elsewhere:6379/0", environment="demo", id="theirs")
    pending.save(replace(a_trip(), meant_for=elsewhere))
    gate = make_gate(own_server.url, backend, pending_trips=pending.directory)
    assert gate.wait_until_open(20)
    pending.save(replace(a_trip(), meant_for=replace(elsewhere, id=None)))
    eventually(lambda: "unless it is for a Redis elsewhere" in gate.check(BUY, 0).sentence)
    assert cb.get_state() is State.OPEN and len(pending.load()) == 2
