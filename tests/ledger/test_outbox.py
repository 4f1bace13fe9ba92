"""From the breaker's outbox into the ledger."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import redis

from breaker import CircuitBreaker
from breaker.errors import BreakerUnavailable, InvalidInput
from ledger.audit import drain
from ledger.errors import LedgerUnavailable
from ledger.ledger import Ledger
from ledger.outbox import UNREADABLE, OutboxUnreadable, drain_outbox, drain_outboxes, known_scopes
from ledger.queries import Filter
from ledger.reconcile import reconcile
from ledger.record import AuditRecord
from ledger.spool import Spool
from ledger.verify import verify
from sandbox.embedded_redis import EmbeddedRedis
from tests.helpers import in_time
from tests.ledger.servers import free_port

OUTBOX = "circuit_breaker:outbox"


def actions(ledger: Ledger) -> list[str]:
    return [row[4] for batch in ledger.stream() for row in batch]


@pytest.fixture
def breaker(redis_client: redis.Redis) -> CircuitBreaker:
    return CircuitBreaker(redis_client, source="cli", quiet_period=0, reset_interval=0)


def test_each_transition_becomes_one_row_with_all_that_it_said(
    redis_client: redis.Redis, breaker: CircuitBreaker, ledger: Ledger
) -> None:
    breaker.initialize_state(by="alice")
    tripped = breaker.trip(
        "MANUAL", details={"operator": "bob", "limit": 0.05}, tripped_by="bob", ip_address="10.0.0.9"
    )
    breaker.reset(reset_by="carol", reason="all conditions are green again")
    done = drain_outbox(redis_client, ledger)
    assert (done.moved, done.known, done.overrides) == (3, 0, 0)
    rows = ledger.query().rows
    assert [row.action.removeprefix("CIRCUIT_BREAKER_") for row in rows] == ["RESET", "TRIP", "INITIALIZE"]
    assert [row.user_id for row in rows] == ["carol", "bob", "alice"]
    trip = rows[1]
    events = breaker.get_history(3)
    assert [row.id for row in rows] == [event.event_id for event in events]
    assert trip.timestamp == events[1].at == tripped.tripped_at
    assert (trip.ip_address, trip.source, trip.scope, trip.outcome) == ("10.0.0.9", "cli", "global", "OK")
    assert trip.incident_id == tripped.incident_id
    assert trip.details == {
        "reason": "MANUAL",
        "from_state": "OPEN",
        "to_state": "TRIPPED",
        "epoch": tripped.epoch,
        "details": {"operator": "bob", "limit": 0.05},
    }
    assert redis_client.xlen(OUTBOX) == 0
    assert drain_outbox(redis_client, ledger).moved == 0


def test_each_scope_has_its_own_outbox(redis_client: redis.Redis, ledger: Ledger) -> None:
    for scope in ("global", "account:ALPHA", "strategy:meanrev"):
        CircuitBreaker(redis_client, scope).trip("MANUAL")
    assert known_scopes(redis_client, ledger) == ("account:ALPHA", "global", "strategy:meanrev")
    assert drain_outbox(redis_client, ledger, known_scopes(redis_client, ledger)).moved == 3
    redis_client.flushall()
    assert known_scopes(redis_client, ledger) == ("account:ALPHA", "global", "strategy:meanrev")
    assert {row.scope for row in ledger.query().rows} == set(ledger.scopes())


@pytest.mark.parametrize(
    "fields",
    [
        {"event": "not JSON"},
        {"event": "[" * 5000},
        {"event": b"\xff\xfe"},
        {"something": "else"},
        {"event": '{"event_id": "x"}'},
        {"event": "ID_TOO_LONG"},
        {"event": "OTHER_SCOPE"},
    ],
)
def test_an_entry_that_no_transition_wrote_is_recorded_and_blocks_nothing(
    redis_client: redis.Redis, breaker: CircuitBreaker, ledger: Ledger, fields: dict[str, str]
) -> None:
    breaker.trip("MANUAL")
    entries: Any = redis_client.xrange(OUTBOX)
    event = json.loads(entries[0][1][b"event"])
    forged = {
        "ID_TOO_LONG": json.dumps({**event, "event_id": "x" * 10_000}),
        "OTHER_SCOPE": json.dumps({**event, "scope": "account:ALPHA"}),
    }
    entry: Any = redis_client.xadd(OUTBOX, {name: forged.get(value, value) for name, value in fields.items()})
    breaker.trip("MANUAL")
    done = drain_outbox(redis_client, ledger)
    assert (done.moved, done.unreadable) == (2, 1)
    assert actions(ledger) == ["CIRCUIT_BREAKER_TRIP", UNREADABLE, "CIRCUIT_BREAKER_TRIP"]
    row = ledger.query(Filter(actions=[UNREADABLE])).rows[0]
    assert row.details["entry"] == entry.decode()
    assert redis_client.xlen(OUTBOX) == 0
    assert verify(ledger).whole


def test_entries_that_come_back_are_not_recorded_again(
    redis_client: redis.Redis, breaker: CircuitBreaker, ledger: Ledger
) -> None:
    """A restored backup brings entries back that the ledger has."""
    breaker.trip("MANUAL")
    backup: Any = redis_client.dump(OUTBOX)
    drain_outbox(redis_client, ledger)
    redis_client.restore(OUTBOX, 0, backup, replace=True)
    done = drain_outbox(redis_client, ledger)
    assert (done.moved, done.known) == (0, 1)
    assert len(actions(ledger)) == 1


def test_an_id_used_again_keeps_nothing_off_the_record(redis_client: redis.Redis, ledger: Ledger) -> None:
    """promise_8: neither for another breaker nor, once Redis has forgotten it, for the same one."""
    first, other = CircuitBreaker(redis_client), CircuitBreaker(redis_client, "account:ALPHA")
    first.trip("MANUAL", details={"reason": "the first"})
    event_id = first.get_history(1)[0].event_id
    other.trip("MANUAL", details={"reason": "the second"}, event_id=event_id)
    redis_client.delete("circuit_breaker:event_ids")
    first.trip("MANUAL", details={"reason": "the third"}, event_id=event_id)
    for _ in range(2):
        drain_outbox(redis_client, ledger, ["global", "account:ALPHA"])
        for scope in ("global", "account:ALPHA"):
            assert reconcile(redis_client, ledger, scope).override is None
    trips = ledger.query(Filter(actions=("CIRCUIT_BREAKER_TRIP",))).rows
    assert sorted(row.details["details"]["reason"] for row in trips) == ["the first", "the second", "the third"]


def test_what_the_ledger_did_not_take_stays_in_the_outbox(
    redis_client: redis.Redis, breaker: CircuitBreaker, ledger: Ledger
) -> None:
    breaker.trip("MANUAL")
    with pytest.raises(LedgerUnavailable):
        drain_outbox(redis_client, Ledger.connect(f"postgresql://x@127.0.0.1:{free_port()}/x", timeout=0.5))
    assert redis_client.xlen(OUTBOX) == 1
    assert drain_outbox(redis_client, ledger).moved == 1


def test_a_key_of_another_kind_is_complained_of(redis_client: redis.Redis, ledger: Ledger) -> None:
    redis_client.set(OUTBOX, "oops")
    with pytest.raises(OutboxUnreadable, match="not a stream"):
        drain_outbox(redis_client, ledger)


def test_what_fails_for_one_outbox_is_handed_back_and_stops_no_other(
    redis_client: redis.Redis, breaker: CircuitBreaker, ledger: Ledger
) -> None:
    breaker.trip("MANUAL")
    redis_client.set(f"{OUTBOX}:account:ALPHA", "oops")
    drained, problems = drain_outboxes(redis_client, ledger, ["account:ALPHA", "no scope!", "global"])
    assert drained.moved == 1
    assert [type(problem) for problem in problems] == [OutboxUnreadable, InvalidInput]
    assert redis_client.xlen(OUTBOX) == 0


def test_many_outboxes_are_looked_at_in_one_exchange(redis_client: redis.Redis, ledger: Ledger) -> None:
    scopes = [f"strategy:s{number}" for number in range(500)]
    CircuitBreaker(redis_client, scopes[7]).trip("MANUAL")
    before = redis_client.info("stats")["total_connections_received"]
    assert drain_outbox(redis_client, ledger, scopes).moved == 1
    assert redis_client.info("stats")["total_connections_received"] == before + 1


def test_a_redis_that_does_not_answer_is_waited_for_no_longer_than_said(ledger: Ledger) -> None:
    client = redis.Redis(port=free_port())
    with in_time(0.5), pytest.raises(BreakerUnavailable):
        drain_outbox(client, ledger, timeout=0.5)


def test_one_thing_that_is_down_does_not_stop_the_rest(
    own_server: EmbeddedRedis, ledger: Ledger, tmp_path: Path
) -> None:
    spool = Spool(tmp_path / "spool")
    spool.add([AuditRecord(action="X", source="cli")])
    client = redis.Redis.from_url(own_server.url)
    CircuitBreaker(client).trip("MANUAL")
    own_server.kill()
    down = drain(client, ledger, spool, ["global"], timeout=0.5)
    assert down.spool.moved == 1
    assert len(down.problems) == 1
    own_server.start()
    up = drain(client, ledger, spool, ["global"])
    assert (up.outbox.moved, up.problems) == (1, ())
    client.close()


def test_a_drain_killed_anywhere_is_taken_over_at_once(
    redis_server: EmbeddedRedis, redis_client: redis.Redis, ledger: Ledger
) -> None:
    breaker = CircuitBreaker(redis_client)
    wanted = _trip_many(breaker, 60)
    program = (
        "import sys, redis; from ledger.ledger import Ledger; from ledger import outbox\n"
        "outbox._BATCH = 3; ledger = Ledger.connect(sys.argv[2]); print('go', flush=True)\n"
        "outbox.drain_outbox(redis.Redis.from_url(sys.argv[1]), ledger)\n"
    )
    url = ledger.engine.url.render_as_string(hide_password=False)
    for delay in (0.0, 0.004):
        victim = subprocess.Popen(
            [sys.executable, "-c", program, redis_server.url, url], stdout=subprocess.PIPE, text=True
        )
        assert victim.stdout is not None
        victim.stdout.readline()
        time.sleep(delay)
        victim.kill()
        victim.wait()
        victim.stdout.close()
    drain_outbox(redis_client, ledger)
    assert [row[1] for batch in ledger.stream() for row in batch] == wanted
    assert verify(ledger).whole


def _trip_many(breaker: CircuitBreaker, number: int) -> list[str]:
    for _ in range(number):
        breaker.trip("MANUAL")
    return [event.event_id for event in reversed(breaker.get_history(number))]
