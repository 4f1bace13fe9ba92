"""The standby executor from the outside: a process of its own, asked by the command line, by Redis and by silence."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from breaker import CircuitBreaker
from breaker.deadman import DeadMansSwitch
from breaker.pending_trips import PendingTrips
from breaker.uuid7 import uuid7
from proofs.fork_server import Forked, ForkServer
from sandbox.child_process import free_port
from sandbox.embedded_redis import EmbeddedRedis
from sandbox.exchange.scenario import parse
from sandbox.exchange.server import PaperExchangeThread
from tests.helpers import eventually

ROOT = Path(__file__).parents[2]
BOOK = "rate_limit = 100000\n[book]\norders = 20\npositions = 6\n"
PACE = "[kill]\nsettle = 0.05\nguard = 0.1\npoll_interval = 0.05\nrecord_wait = 0.2\n"


class Host:
    """One machine: a configuration, a standby or none, and people who type commands."""

    def __init__(self, directory: Path, redis_url: str, venue_url: str, fork_server: ForkServer) -> None:
        self.fork_server = fork_server
        self._directory = directory
        self.state = directory / "state"
        self.socket = self.state / "standby.sock"
        configuration = directory / "breaker.toml"
        configuration.write_text(
            f'redis_url = "{redis_url}"\nredis_timeout = 0.5\nstate_dir = "{self.state}"\n{PACE}'
            f'[accounts.ALPHA]\nbase_url = "{venue_url}"\nkey_id = "key"\nsecret_key = "secret"\n'
        )
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("BREAKER_", "PREFECT_"))}
        self.environment = {
            **kept,
            "BREAKER_CONFIG": str(configuration),
            "PREFECT_API_URL": f"http://127.0.0.1:{free_port()}/api",
            "PREFECT_HOME": str(directory / "prefect"),
            "PYTHONPATH": str(ROOT),
        }
        self.log = directory / "standby.log"
        self.process: Forked | None = None

    def stand_by(self) -> Forked:
        with self.log.open("ab") as log:
            self.process = self.fork_server.start(
                "cli", "standby", env=self.environment, cwd=self._directory, stdout=log, stderr=log
            )
        eventually(self.socket.exists, lambda: f"the standby never stood by: {self.said()}", within=60)
        return self.process

    def run(self, *arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
        environment = {**self.environment, **changes}
        return self.fork_server.run("cli", *arguments, env=environment, cwd=self._directory, timeout=60)

    def said(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def stop(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait()


@pytest.fixture
def venue() -> Iterator[PaperExchangeThread]:
    with PaperExchangeThread(parse(BOOK)) as running:
        yield running


@pytest.fixture
def host(
    tmp_path: Path,
    redis_server: EmbeddedRedis,
    redis_client: redis.Redis,
    venue: PaperExchangeThread,
    fork_server: ForkServer,
) -> Iterator[Host]:
    CircuitBreaker(redis_client).initialize_state()
    machine = Host(tmp_path, redis_server.url, venue.url, fork_server)
    yield machine
    machine.stop()


@pytest.fixture
def warm(host: Host) -> Host:
    host.stand_by()
    return host


def trips(client: redis.Redis, scope: str = "global") -> list[Any]:
    return [event for event in CircuitBreaker(client, scope).get_history() if event.transition == "TRIP"]


def test_a_kill_is_done_by_the_standby_and_looks_the_same(
    warm: Host, redis_client: redis.Redis, venue: PaperExchangeThread
) -> None:
    outcome = warm.run("kill", "--yes", "--reason", "drill", "--operator", "ada")
    assert outcome.returncode == 0, outcome.stderr + warm.said()
    # Half of the orders could only reduce the positions; they go with them.
    for words in (
        "HALTED  global",
        "FIRST SWEEP  10 orders asked to cancel",
        "10 stay, as they protect positions",
        "✓ FLAT",
        "done without Prefect",
    ):
        assert words in outcome.stderr
    assert "▸ COST  ALPHA  slippage" in outcome.stderr
    assert "kill done" in warm.said()
    assert venue.report()["is_flat"] and venue.report()["violations"] == []
    [trip] = trips(redis_client)
    assert (trip.by, trip.reason, trip.details["reason"]) == ("ada", "KILL_SWITCH", "drill")
    assert warm.socket.stat().st_mode & 0o777 == 0o600

    venue.restart(parse(BOOK))
    body = json.loads(warm.run("kill", "--yes", "--json").stdout)
    assert body["halted"] and body["flat"] and body["accounts"][0]["positions_at_start"] == 6
    assert body["first_sweep_after"] < 5
    (cost,) = body["costs"]
    assert (cost["closed"], cost["priced"], cost["problem"]) == (6, 6, "")


def test_another_configuration_is_refused_and_done_by_the_command_itself(
    warm: Host, venue: PaperExchangeThread
) -> None:
    outcome = warm.run("kill", "--yes", BREAKER_QUIET_PERIOD="5")
    assert outcome.returncode == 0, outcome.stderr
    assert "another configuration" in outcome.stderr
    assert venue.report()["is_flat"]
    configuration = Path(warm.environment["BREAKER_CONFIG"])
    configuration.write_text(configuration.read_text() + "# somebody changed something\n")
    assert "another configuration" in warm.run("kill", "--yes").stderr
    assert "kill done" not in warm.said()


def test_a_standby_that_is_frozen_costs_a_fifth_of_a_second(warm: Host, venue: PaperExchangeThread) -> None:
    assert warm.process is not None
    warm.process.send_signal(signal.SIGSTOP)
    outcome = warm.run("kill", "--yes", "--json")
    assert outcome.returncode == 0, outcome.stderr
    assert venue.report()["is_flat"]


def test_a_standby_killed_on_the_way_is_taken_over_without_a_second_trip_or_close(
    warm: Host, redis_client: redis.Redis, venue: PaperExchangeThread
) -> None:
    venue.restart(parse(f"enforce_available = false\n{BOOK}[fills]\ndelay = 1.0\n"))
    ended: list[subprocess.CompletedProcess[str]] = []
    person = threading.Thread(target=lambda: ended.append(warm.run("kill", "--yes")))
    person.start()
    eventually(lambda: venue.report()["closes"], "no close was sent")
    assert warm.process is not None
    warm.process.kill()
    person.join(60)
    assert ended[0].returncode == 0, ended[0].stderr
    assert "THE STANDBY WAS LOST" in ended[0].stderr
    seen = venue.report()
    assert seen["is_flat"] and seen["violations"] == [] and seen["sign_changes"] == []
    assert len(trips(redis_client)) == 1


def test_the_standby_and_the_command_at_once_are_harmless(
    warm: Host, redis_client: redis.Redis, venue: PaperExchangeThread
) -> None:
    venue.restart(parse(f"enforce_available = false\n{BOOK}[fills]\ndelay = 0.3\n"))
    redis_client.xadd("circuit_breaker:kill_requests", {"request": json.dumps({"operator": "ada"})})
    outcome = warm.run("kill", "--yes")
    assert outcome.returncode == 0, outcome.stderr
    eventually(lambda: warm.said().count("kill done") == 2, warm.said)
    seen = venue.report()
    assert seen["is_flat"] and seen["sign_changes"] == []


def test_promise_6_two_kills_of_different_breakers_at_once_close_everything_once(
    warm: Host, redis_client: redis.Redis, venue: PaperExchangeThread
) -> None:
    """Each begins an incident of its own; the venue must not take one's closes for others than the other's."""
    venue.restart(parse(f"enforce_available = false\n{BOOK}[fills]\ndelay = 0.3\n"))
    request = json.dumps({"operator": "ada", "scope": "account:ALPHA"})
    redis_client.xadd("circuit_breaker:kill_requests", {"request": request})
    outcome = warm.run("kill", "--yes")
    assert outcome.returncode == 0, outcome.stderr
    eventually(lambda: warm.said().count("kill done") == 2, warm.said)
    seen = venue.report()
    assert seen["is_flat"] and seen["sign_changes"] == []
    first, second = (trips(redis_client, scope)[0].incident_id for scope in ("global", "account:ALPHA"))
    assert first != second


def test_a_request_in_the_stream_is_done_once_and_answered(
    warm: Host, redis_client: redis.Redis, venue: PaperExchangeThread
) -> None:
    request = {"operator": "risk desk", "reason": "drill", "event_id": uuid7()}
    for _ in range(2):
        redis_client.xadd("circuit_breaker:kill_requests", {"request": json.dumps(request)})
    key = f"circuit_breaker:kill_answer:{request['event_id']}"
    eventually(lambda: b'"flat": true' in (redis_client.get(key) or b""), warm.said)
    assert venue.report()["is_flat"]
    assert [trip.event_id for trip in trips(redis_client)] == [request["event_id"]]
    assert warm.said().count("kill done") == 1


def test_an_old_request_and_a_senseless_one_are_not_acted_on(
    host: Host, redis_client: redis.Redis, venue: PaperExchangeThread
) -> None:
    old = int((time.time() - 120) * 1000)
    redis_client.xadd("circuit_breaker:kill_requests", {"request": '{"operator": "ada"}'}, id=f"{old}-0")
    redis_client.xadd("circuit_breaker:kill_requests", {"request": "{}"})
    host.stand_by()
    eventually(lambda: "can't be understood" in host.said(), host.said)
    assert trips(redis_client) == [] and venue.report()["open_orders"] == 20


def test_what_no_breaker_takes_is_left_to_the_command_which_refuses_it(
    warm: Host, redis_client: redis.Redis, venue: PaperExchangeThread
) -> None:
    outcome = warm.run("kill", "--yes", "--scope", "not a scope")
    assert outcome.returncode == 2, outcome.stderr
    assert trips(redis_client) == [] and venue.report()["open_orders"] == 20
    assert not PendingTrips(warm.state / "pending_trips").load()


def test_a_second_standby_refuses_and_a_new_one_follows_a_killed_one(warm: Host) -> None:
    second = warm.run("standby")
    assert second.returncode == 1 and "already runs" in second.stderr
    assert warm.process is not None
    warm.process.kill()
    warm.process.wait()
    warm.socket.unlink()
    warm.stand_by()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(warm.socket))
        client.sendall(b"nonsense\n")
        assert b"REFUSED" in client.recv(4096)


def test_it_leaves_in_order(warm: Host) -> None:
    assert warm.process is not None
    warm.process.terminate()
    assert warm.process.wait(20) == 0
    assert not warm.socket.exists()


def test_a_trip_that_waits_on_the_host_is_made_as_soon_as_redis_is_back(
    tmp_path: Path, own_server: EmbeddedRedis, venue: PaperExchangeThread, fork_server: ForkServer
) -> None:
    with redis.Redis.from_url(own_server.url) as client:
        CircuitBreaker(client).initialize_state()
        host = Host(tmp_path, own_server.url, venue.url, fork_server)
        try:
            host.stand_by()
            own_server.kill()
            outcome = host.run("kill", "--yes")
            assert outcome.returncode == 4, outcome.stderr
            assert "COULD NOT HALT" in outcome.stderr and "The trip is kept in" in outcome.stderr.replace("\n", " ")
            assert venue.report()["is_flat"]
            assert PendingTrips(host.state / "pending_trips").load()
            own_server.start()
            eventually(lambda: CircuitBreaker(client).get_state() == "TRIPPED", host.said)
            assert len(trips(client)) == 1
        finally:
            host.stop()


def test_a_switch_that_falls_silent_trips_its_scope_once(warm: Host, redis_client: redis.Redis) -> None:
    switch = DeadMansSwitch(redis_client, "engine-1", 2.0, scope="strategy:meanrev")
    for _ in range(11):
        switch.renew()
        assert trips(redis_client, "strategy:meanrev") == []
        time.sleep(0.2)  # the pace of renewals, not a wait for something
    [trip] = eventually(lambda: trips(redis_client, "strategy:meanrev"), warm.said)
    assert (trip.reason, trip.source, trip.by) == ("DEAD_MAN", "rule", "dead-man's switch engine-1")
    eventually(lambda: not redis_client.hlen("circuit_breaker:deadmen"), "it was not forgotten")
    assert len(trips(redis_client, "strategy:meanrev")) == 1
    assert trips(redis_client) == []


def test_a_switch_that_is_released_means_nothing_and_one_that_kills_flattens(
    warm: Host, redis_client: redis.Redis, venue: PaperExchangeThread
) -> None:
    assert warm.run("deadman", "renew", "desk", "--within", "60", "--scope", "account:ALPHA").returncode == 0
    assert redis_client.hkeys("circuit_breaker:deadmen") == [b"desk"]
    typo = warm.run("deadman", "release", "desc")
    assert typo.returncode == 1 and "nothing was released; armed are: desk" in typo.stderr
    assert warm.run("deadman", "release", "desk").returncode == 0
    assert redis_client.hkeys("circuit_breaker:deadmen") == redis_client.keys("circuit_breaker:deadman:*") == []
    assert (
        warm.run("deadman", "renew", "night", "--within", "0.3", "--scope", "account:ALPHA", "--kill").returncode == 0
    )
    eventually(lambda: venue.report()["is_flat"], warm.said)
    eventually(lambda: "kill done" in warm.said(), warm.said)
    assert [trip.details["switch"] for trip in trips(redis_client, "account:ALPHA")] == ["night"]


def test_a_switch_from_a_restored_redis_trips_and_flattens_nothing(
    tmp_path: Path, own_server: EmbeddedRedis, venue: PaperExchangeThread, fork_server: ForkServer
) -> None:
    """Armed, copied, released; then the copy comes back, in which it is armed and long silent."""
    (tmp_path / "host").mkdir()
    host = Host(tmp_path / "host", own_server.url, venue.url, fork_server)
    with redis.Redis.from_url(own_server.url) as client:
        CircuitBreaker(client, "account:ALPHA").initialize_state()
        switch = DeadMansSwitch(client, "engine", 0.5, scope="account:ALPHA", action="kill")
        switch.renew()
        copy = shutil.copytree(own_server.data_dir / "appendonlydir", tmp_path / "copy")
        switch.release()
        try:
            host.stand_by()
            own_server.kill()
            shutil.rmtree(own_server.data_dir / "appendonlydir")
            shutil.copytree(copy, own_server.data_dir / "appendonlydir")
            own_server.start()
            [trip] = eventually(lambda: trips(client, "account:ALPHA"), host.said)
            assert trip.details["only_trips"]
            eventually(lambda: not client.hlen("circuit_breaker:deadmen"), "it was not forgotten")
        finally:
            host.stop()
    assert "flattens nothing" in host.said()
    assert venue.report()["open_orders"] == 20 and not venue.report()["closes"]


def test_a_request_from_before_redis_began_trips_and_flattens_nothing(
    tmp_path: Path, own_server: EmbeddedRedis, venue: PaperExchangeThread, fork_server: ForkServer
) -> None:
    """Done or not, in a restored stream it comes again: only for what is asked of the Redis that runs, is traded."""
    host = Host(tmp_path, own_server.url, venue.url, fork_server)
    with redis.Redis.from_url(own_server.url) as client:
        CircuitBreaker(client).initialize_state()
        before = int((time.time() - 30) * 1000)
        client.xadd("circuit_breaker:kill_requests", {"request": '{"operator": "ada"}'}, id=f"{before}-0")
        try:
            host.stand_by()
            [trip] = eventually(lambda: trips(client), host.said)
            eventually(lambda: client.keys("circuit_breaker:kill_answer:*"), host.said)
            (answer,) = client.keys("circuit_breaker:kill_answer:*")
            assert trip.by == "ada" and json.loads(client.get(answer) or "")["event"] == "ONLY_TRIPPED"
        finally:
            host.stop()
    assert "is from before Redis began" in host.said()
    assert venue.report()["open_orders"] == 20 and not venue.report()["closes"]


def test_a_switch_of_an_account_that_is_not_here_trips_and_flattens_nothing(
    warm: Host, redis_client: redis.Redis, venue: PaperExchangeThread
) -> None:
    DeadMansSwitch(redis_client, "elsewhere", 0.2, scope="account:BETA", action="kill").renew()
    eventually(lambda: trips(redis_client, "account:BETA"), warm.said)
    assert venue.report()["open_orders"] == 20


def test_promise_1_a_switch_that_cannot_be_read_trips_everything_once(warm: Host, redis_client: redis.Redis) -> None:
    redis_client.hset("circuit_breaker:deadmen", "odd", "not JSON")
    eventually(lambda: trips(redis_client), warm.said)
    eventually(lambda: not redis_client.hlen("circuit_breaker:deadmen"), "it was not forgotten")
    assert len(trips(redis_client)) == 1
