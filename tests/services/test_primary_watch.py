"""A Redis that has lost a trip which the ledger has is tripped again as soon as the services see it."""

from __future__ import annotations

import shutil
from contextlib import closing
from pathlib import Path

import pytest
import redis
from structlog.testing import capture_logs

from breaker import CircuitBreaker
from breaker.gate import Gate, Topology, clock
from breaker.gate.decision import Reason
from breaker.redis_run import COMPARED_KEY
from breaker.status_reader import StatusReader
from configuration.settings import GivenSettings, Settings
from ledger.configured import open_ready_ledger
from ledger.ledger import Ledger
from ledger.outbox import drain_outbox
from ledger.queries import Filter
from sandbox.child_process import free_port
from sandbox.embedded_redis import EmbeddedRedis
from services.primary_watch import PrimaryWatch, Seen
from services.trip_watch import TripWatch
from tasks import trip_announcement
from tests.breaker.gate.harness import BUY, UNHURRIED, Record
from tests.helpers import PATIENCE, eventually

SCOPE = "account:ALPHA"


@pytest.fixture
def settings(own_server: EmbeddedRedis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setattr(trip_announcement, "emit_event", lambda **event: None)  # no orchestrator is needed for this
    return GivenSettings.model_validate(
        {"redis_url": own_server.url, "state_dir": tmp_path / "state", "redis_timeout": PATIENCE}
    )


def set_back(server: EmbeddedRedis, copy: Path) -> None:
    """As a replica that is promoted without what it had not received yet, or a copy that is put back."""
    server.stop()
    shutil.rmtree(server.data_dir)
    shutil.copytree(copy, server.data_dir)
    server.start()


def closes_until_compared(gate: Gate, record: Record, watch: PrimaryWatch, ledger: Ledger, since: float = 0) -> None:
    """The gate waits for a comparison, which finds the trip; nothing was let through in between."""
    eventually(lambda: "has not been compared with the ledger" in gate.check(BUY, 0).sentence)
    watch.look(ledger, {})
    eventually(lambda: gate.check(BUY, 0).reason is Reason.TRIPPED)
    assert record.admitted_since(since) == 0


def test_a_trip_that_redis_lost_is_made_again_at_once(
    settings: Settings, own_server: EmbeddedRedis, tmp_path: Path
) -> None:
    client = redis.Redis.from_url(own_server.url)
    breaker = CircuitBreaker(client, SCOPE, timeout=PATIENCE)
    breaker.initialize_state()
    own_server.stop()
    shutil.copytree(own_server.data_dir, tmp_path / "copy")
    own_server.start()
    watch = TripWatch(settings)
    watch.start()
    try:
        lost = breaker.trip("MANUAL")
        with closing(open_ready_ledger(settings)) as ledger:
            # Before that the trip is nowhere but in Redis, and lost with it.
            eventually(lambda: ledger.query(Filter(scope=SCOPE, actions=("CIRCUIT_BREAKER_TRIP",))).rows)
        set_back(own_server, tmp_path / "copy")
        fresh = CircuitBreaker(client, SCOPE, timeout=PATIENCE)  # the other one remembers the epoch, and so is closed
        eventually(lambda: fresh.get_state() == "TRIPPED")
        found = fresh.get_status()
        assert (found.trip_reason, found.incident_id) == ("LEDGER_MISMATCH", lost.incident_id)
        fresh.close()
    finally:
        watch.stop()
    breaker.close()


def test_the_same_server_is_compared_once(settings: Settings, own_server: EmbeddedRedis) -> None:
    client = redis.Redis.from_url(own_server.url)
    CircuitBreaker(client).initialize_state()
    watch, reader = PrimaryWatch(client, PATIENCE), StatusReader(client, timeout=PATIENCE, remember=False)
    with closing(open_ready_ledger(settings)) as ledger, closing(watch), closing(reader):
        drain_outbox(client, ledger, timeout=PATIENCE)
        assert [watch.look(ledger, reader.read(["global"])) for _ in range(2)] == [True, False]
        own_server.stop()
        with pytest.raises(Exception, match="refused"):
            PrimaryWatch(client, 0.2).look(ledger, {})
        own_server.start()
        assert [watch.look(ledger, reader.read(["global"])) for _ in range(2)] == [True, False]


def test_a_gate_that_asks_for_it_opens_only_on_a_redis_that_was_compared(
    settings: Settings, own_server: EmbeddedRedis
) -> None:
    client = redis.Redis.from_url(own_server.url)
    CircuitBreaker(client).initialize_state()
    topology = Topology.single(compared=True)
    with (
        closing(open_ready_ledger(settings)) as ledger,
        closing(PrimaryWatch(client, PATIENCE)) as watch,
        closing(StatusReader(client, timeout=PATIENCE, remember=False)) as reader,
        Gate(own_server.url, topology=topology, max_staleness=UNHURRIED, heartbeat=0.02) as gate,
    ):
        drain_outbox(client, ledger, timeout=PATIENCE)
        for _ in range(2):
            eventually(lambda: "has not been compared with the ledger" in gate.check(BUY, 0).sentence)
            watch.look(ledger, reader.read(["global"]))
            eventually(lambda: gate.check(BUY, 0).allowed)
            own_server.stop()
            own_server.start()


def test_it_is_said_once_that_gates_stay_closed_as_info_is_refused(
    settings: Settings, own_server: EmbeddedRedis
) -> None:
    client = redis.Redis.from_url(own_server.url)
    CircuitBreaker(client).initialize_state()
    client.acl_setuser("watch", enabled=True, nopass=True, keys=["*"], commands=["+@all", "-info"])
    refused = redis.Redis(port=own_server.port, username="watch", password="")
    with (
        closing(open_ready_ledger(settings)) as ledger,
        closing(PrimaryWatch(refused, PATIENCE)) as watch,
        capture_logs() as said,
    ):
        for _ in range(2):
            watch.look(ledger, {})
    assert [each["event"] for each in said if "stay closed" in each["event"]] == [
        "gates that ask for a compared Redis stay closed: its run can't be read"
    ]


def test_promise_1_a_gate_never_opens_on_a_redis_that_lost_a_trip_before_it_was_compared(
    settings: Settings, own_server: EmbeddedRedis, tmp_path: Path
) -> None:
    client = redis.Redis.from_url(own_server.url)
    with closing(CircuitBreaker(client, timeout=PATIENCE)) as breaker, closing(open_ready_ledger(settings)) as ledger:
        breaker.initialize_state()
        with closing(PrimaryWatch(client, PATIENCE)) as watch:
            watch.look(ledger, {})
        own_server.stop()
        shutil.copytree(own_server.data_dir, tmp_path / "copy")
        own_server.start()
        breaker.trip("MANUAL")
        drain_outbox(client, ledger, timeout=PATIENCE)
        set_back(own_server, tmp_path / "copy")
        with (
            Gate(own_server.url, topology=Topology.single(compared=True), max_staleness=UNHURRIED) as gate,
            Record(gate) as record,
            closing(PrimaryWatch(client, PATIENCE)) as watch,
        ):
            closes_until_compared(gate, record, watch, ledger)


def test_promise_1_a_gate_never_opens_on_a_primary_that_came_back_by_way_of_one_that_had_lost_a_trip(
    settings: Settings, own_server: EmbeddedRedis, tmp_path: Path
) -> None:
    """Nobody compared the other one, whose copy says that this one was compared; and it has not been started anew."""
    client = redis.Redis.from_url(own_server.url)
    with (
        EmbeddedRedis(tmp_path / "other") as other,
        closing(CircuitBreaker(client, timeout=PATIENCE)) as breaker,
        closing(open_ready_ledger(settings)) as ledger,
        closing(redis.Redis.from_url(other.url)) as promoted,
    ):
        breaker.initialize_state()
        with closing(PrimaryWatch(client, PATIENCE)) as watch:
            watch.look(ledger, {})
        promoted.replicaof("127.0.0.1", own_server.port)
        eventually(lambda: promoted.get(COMPARED_KEY))
        promoted.replicaof("NO", "ONE")
        breaker.trip("MANUAL")
        drain_outbox(client, ledger, timeout=PATIENCE)
        client.replicaof("127.0.0.1", other.port)
        eventually(lambda: "OPEN" in str(client.get("circuit_breaker:state")))
        client.replicaof("NO", "ONE")
        with (
            Gate(own_server.url, topology=Topology.single(compared=True), max_staleness=UNHURRIED) as gate,
            Record(gate) as record,
            closing(PrimaryWatch(client, PATIENCE)) as watch,
        ):
            closes_until_compared(gate, record, watch, ledger)


def test_promise_1_a_gate_that_keeps_its_connection_through_demotion_and_promotion_waits_for_a_comparison(
    settings: Settings, own_server: EmbeddedRedis, tmp_path: Path
) -> None:
    """A trip was made on the other primary, and never arrived here. Redis closes no connection for that."""
    client = redis.Redis.from_url(own_server.url)
    with closing(CircuitBreaker(client, timeout=PATIENCE)) as breaker, closing(open_ready_ledger(settings)) as ledger:
        breaker.initialize_state()
        drain_outbox(client, ledger, timeout=PATIENCE)
        own_server.stop()
        shutil.copytree(own_server.data_dir, tmp_path / "other")
        own_server.start()
        with (
            Gate(
                own_server.url, topology=Topology.single(compared=True), max_staleness=UNHURRIED, heartbeat=0.02
            ) as gate,
            Record(gate) as record,
            closing(PrimaryWatch(client, PATIENCE)) as watch,
        ):
            watch.look(ledger, {})
            eventually(lambda: gate.check(BUY, 0).allowed)
            client.replicaof("127.0.0.1", free_port())
            eventually(lambda: "refuses to write" in gate.check(BUY, 0).sentence)
            demoted = clock.now()
            with EmbeddedRedis(tmp_path / "other") as other, closing(redis.Redis.from_url(other.url)) as promoted:
                CircuitBreaker(promoted, timeout=PATIENCE).trip("MANUAL")
                drain_outbox(promoted, ledger, timeout=PATIENCE)
            client.replicaof("NO", "ONE")
            closes_until_compared(gate, record, watch, ledger, since=demoted)


@pytest.mark.parametrize(
    ("later", "goes_on"),
    [
        (Seen("one", {"global": 5, "account:A": 2}), True),
        (Seen("one", {"global": 6, "account:A": 2, "account:B": 1}), True),
        (Seen("one", {}), True),  # removed by hand, which is the verification's to find
        (Seen("one", {"global": 5, "account:A": 1}), False),
        (Seen("two", {"global": 6, "account:A": 2}), False),
        (Seen("", {"global": 5, "account:A": 2}), False),
    ],
)
def test_another_run_or_an_epoch_that_went_back_is_another_redis(later: Seen, goes_on: bool) -> None:
    assert later.goes_on_from(Seen("one", {"global": 5, "account:A": 2})) is goes_on
