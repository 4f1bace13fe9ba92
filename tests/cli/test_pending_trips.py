"""Redis down at the kill, and back with the state that it had before: what the next command on that host does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from breaker import CircuitBreaker
from breaker.store_identity import IDENTITY_KEY
from configuration.settings import load_settings
from sandbox.embedded_redis import EmbeddedRedis
from sandbox.exchange.server import PaperExchangeThread
from services.trip_watch import TripWatch
from tests.cli.conftest import MAY_RESET, RunCli, WriteConfiguration
from tests.cli.test_circuit_commands import state_of
from tests.cli.test_kill_command import PACE, account
from tests.helpers import eventually


@pytest.fixture
def open_then_down(own_server: EmbeddedRedis, write_configuration: WriteConfiguration) -> EmbeddedRedis:
    """A Redis that was OPEN, and is gone; started again, it is OPEN again."""
    with redis.Redis.from_url(own_server.url) as client:
        CircuitBreaker(client).initialize_state()
    write_configuration(f'redis_url = "{own_server.url}"\nredis_timeout = 0.3\n{MAY_RESET}')
    own_server.kill()
    return own_server


def kept(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "state" / "breaker" / "pending_trips").glob("*.json"))


def test_a_trip_without_redis_is_kept_said_and_made_by_the_next_command_once(
    open_then_down: EmbeddedRedis, breaker_cli: RunCli, tmp_path: Path
) -> None:
    outcome = breaker_cli("trip", "--reason", "prices are wrong", "--operator", "ada")
    assert outcome.returncode == 4
    assert "The trip is kept in" in outcome.stderr and outcome.stderr.count("\n") == 2
    [file] = kept(tmp_path)
    event_id = json.loads(file.read_text())["event_id"]

    open_then_down.start()
    drained = breaker_cli("audit", "drain")
    assert drained.returncode == 0
    assert "asked for on this host at" in drained.stderr
    assert json.loads(breaker_cli("status", "--json").stdout)["state"] == "TRIPPED"
    assert kept(tmp_path) == []

    rows = [json.loads(line) for line in breaker_cli("audit", "--json").stdout.splitlines()]
    trips = [row for row in rows if row["action"] == "CIRCUIT_BREAKER_TRIP"]
    assert [row["id"] for row in trips] == [event_id]
    assert trips[0]["user_id"] == "ada"


def test_a_reset_comes_after_the_trip_that_waited_and_not_instead_of_it(
    open_then_down: EmbeddedRedis, breaker_cli: RunCli, no_orchestrator: None
) -> None:
    breaker_cli("trip", "--reason", "prices are wrong")
    open_then_down.start()
    assert breaker_cli("reset", "--acknowledge", "--reason", "everything is quite well again").returncode == 0
    history = breaker_cli("history", "--json")
    transitions = [json.loads(line)["transition"] for line in history.stdout.splitlines()]
    assert transitions[-3:] == ["RESET", "TRIP", "INITIALIZE"]


@pytest.mark.parametrize("command", ["status", "history", "doctor"])
def test_reading_makes_nothing_and_says_what_waits(
    open_then_down: EmbeddedRedis, breaker_cli: RunCli, tmp_path: Path, command: str
) -> None:
    breaker_cli("trip", "--reason", "prices are wrong", "--operator", "ada")
    before = kept(tmp_path)
    open_then_down.start()
    with redis.Redis.from_url(open_then_down.url) as client:
        held = client.keys("*")
        outcome = breaker_cli(command)
        said = " ".join((outcome.stdout + outcome.stderr).split())
        assert "breaker audit drain" in said
        assert state_of(client) == "OPEN" and client.keys("*") == held
    assert kept(tmp_path) == before


@pytest.fixture
def other_server(tmp_path: Path) -> Iterator[EmbeddedRedis]:
    with EmbeddedRedis(tmp_path / "other redis") as server:
        yield server


COMMANDS: tuple[tuple[str, ...], ...] = (("status",), ("init",), ("audit", "drain"), ("trip", "--scope", "account:X"))


@pytest.mark.parametrize("command", COMMANDS)
def test_a_trip_that_waits_for_one_redis_is_never_made_in_another(
    open_then_down: EmbeddedRedis,
    other_server: EmbeddedRedis,
    breaker_cli: RunCli,
    write_configuration: WriteConfiguration,
    tmp_path: Path,
    command: tuple[str, ...],
) -> None:
    """One state directory, two configurations."""
    breaker_cli("trip", "--reason", "prices are wrong", "--operator", "ada")
    write_configuration(f'environment = "staging"\nredis_url = "{other_server.url}"\nredis_timeout = 0.3\n')
    breaker_cli("init")
    outcome = breaker_cli(*command)
    with redis.Redis.from_url(other_server.url) as client:
        assert state_of(client) == "OPEN", outcome.stderr
    assert len(kept(tmp_path)) == 1
    named = breaker_cli("status").stderr
    assert "for another Redis" in named and f"localhost:{open_then_down.port}/0" in named and "by ada" in named


def test_a_trip_of_another_environment_at_the_same_address_is_left(
    open_then_down: EmbeddedRedis, breaker_cli: RunCli, write_configuration: WriteConfiguration, tmp_path: Path
) -> None:
    common = f'redis_url = "{open_then_down.url}"\nredis_timeout = 0.3\n'
    write_configuration(f'environment = "demo"\n{common}')
    breaker_cli("trip", "--reason", "prices are wrong")
    open_then_down.start()
    write_configuration(f'environment = "production"\n{common}')
    breaker_cli("audit", "drain")
    with redis.Redis.from_url(open_then_down.url) as client:
        assert state_of(client) == "OPEN"
    assert "environment demo" in breaker_cli("status").stderr
    write_configuration(f'environment = "demo"\n{common}')
    breaker_cli("audit", "drain")
    assert kept(tmp_path) == []


def test_a_trip_finds_its_redis_again_by_its_id_at_another_address(
    own_server: EmbeddedRedis, breaker_cli: RunCli, write_configuration: WriteConfiguration, tmp_path: Path
) -> None:
    write_configuration(f'redis_url = "{own_server.url}"\nredis_timeout = 0.3\n')
    breaker_cli("init")
    own_server.kill()
    breaker_cli("trip", "--reason", "prices are wrong")
    assert json.loads(kept(tmp_path)[0].read_text())["meant_for"]["id"]
    with EmbeddedRedis(own_server.data_dir) as moved:
        assert moved.port != own_server.port
        write_configuration(f'redis_url = "{moved.url}"\n')
        breaker_cli("audit", "drain")
        with redis.Redis.from_url(moved.url) as client:
            assert state_of(client) == "TRIPPED"


def test_a_redis_that_lost_everything_gets_its_id_back_from_the_ledger(
    own_server: EmbeddedRedis, breaker_cli: RunCli, write_configuration: WriteConfiguration, tmp_path: Path
) -> None:
    """Or the trip that waits on another host would not be made there any more."""
    write_configuration(f'redis_url = "{own_server.url}"\n')
    breaker_cli("init")
    with redis.Redis.from_url(own_server.url) as client:
        before = client.get(IDENTITY_KEY)
        client.flushall()
        (tmp_path / "state" / "breaker" / "redis_identity.json").unlink()
        breaker_cli("init")
        assert before and client.get(IDENTITY_KEY) == before
        breaker_cli("init")
    rows = [json.loads(line) for line in breaker_cli("audit", "--json").stdout.splitlines()]
    assert [row["action"] for row in rows].count("REDIS_IDENTIFIED") == 2


def test_while_redis_is_down_the_history_comes_from_the_audit_log_and_says_so(
    open_then_down: EmbeddedRedis, breaker_cli: RunCli
) -> None:
    open_then_down.start()
    breaker_cli("trip", "--reason", "prices are wrong")
    breaker_cli("trip", "--scope", "account:ALPHA")
    told = [json.loads(line) for line in breaker_cli("history", "--json").stdout.splitlines()]
    open_then_down.stop()
    history = breaker_cli("history", "--json")
    assert history.returncode == 0
    assert [json.loads(line) for line in history.stdout.splitlines()] == told
    assert [event["transition"] for event in told] == ["TRIP", "INITIALIZE"]
    assert "from the audit log, since Redis does not tell its history" in history.stderr
    assert "prices are wrong" not in history.stderr and history.stderr.count("\n") == 1
    assert len(breaker_cli("history", "--limit", "1", "--json").stdout.splitlines()) == 1


def test_while_neither_redis_nor_the_audit_log_tells_the_history_both_are_named(
    open_then_down: EmbeddedRedis, breaker_cli: RunCli, tmp_path: Path
) -> None:
    (tmp_path / "state").write_text("a file where the directory should be")
    history = breaker_cli("history")
    assert history.returncode == 4
    assert "the audit log can't tell the history either" in history.stderr
    assert "Traceback" not in history.stderr


def test_while_redis_is_down_reading_says_what_waits_and_resetting_refuses(
    open_then_down: EmbeddedRedis, breaker_cli: RunCli, tmp_path: Path
) -> None:
    breaker_cli("trip", "--reason", "prices are wrong")
    status = breaker_cli("status")
    assert status.returncode == 4 and "a trip waits on this host" in status.stderr
    assert breaker_cli("reset", "--acknowledge", "--reason", "everything is quite well again").returncode == 4
    assert len(kept(tmp_path)) == 1


def test_promise_5_a_kill_without_redis_flattens_keeps_its_trip_and_the_next_kill_makes_it(
    open_then_down: EmbeddedRedis,
    breaker_cli: RunCli,
    write_configuration: WriteConfiguration,
    exchange: PaperExchangeThread,
    environment: dict[str, str],
    tmp_path: Path,
) -> None:
    write_configuration(
        f'redis_url = "{open_then_down.url}"\nredis_timeout = 0.3\n{PACE}record_wait = 0.5\n{account(exchange.url)}'
    )
    outcome = breaker_cli("kill", "--yes", "--operator", "ada")
    assert outcome.returncode == 4
    assert "The trip is kept in" in outcome.stderr.replace("\n", " ")
    assert exchange.report()["is_flat"]
    [file] = kept(tmp_path)
    incident = json.loads(file.read_text())["incident_id"]

    open_then_down.start()
    environment["BREAKER_REDIS_TIMEOUT"] = "20"  # of a busy machine, now that it is there
    assert breaker_cli("kill", "--yes").returncode == 0
    assert kept(tmp_path) == []
    with redis.Redis.from_url(open_then_down.url) as client:
        trips = [event for event in CircuitBreaker(client).get_history() if event.transition == "TRIP"]
    assert len({event.event_id for event in trips}) == len(trips) == 2
    assert {event.incident_id for event in trips} == {incident}


def test_a_state_directory_that_cannot_be_written_is_said(
    open_then_down: EmbeddedRedis, breaker_cli: RunCli, tmp_path: Path
) -> None:
    (tmp_path / "state").write_text("a file where the directory should be")
    outcome = breaker_cli("trip", "--reason", "prices are wrong")
    assert outcome.returncode == 4
    assert "Nor could the trip be kept" in outcome.stderr


def test_a_service_on_this_host_makes_it_as_soon_as_redis_is_back(
    open_then_down: EmbeddedRedis,
    breaker_cli: RunCli,
    environment: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    breaker_cli("trip", "--reason", "prices are wrong")
    for name in ("BREAKER_CONFIG", "XDG_STATE_HOME", "PREFECT_API_URL"):
        monkeypatch.setenv(name, environment[name])
    watch = TripWatch(load_settings())
    watch.start()
    try:
        open_then_down.start()
        with redis.Redis.from_url(open_then_down.url) as client:
            eventually(lambda: state_of(client) == "TRIPPED")
    finally:
        watch.stop()
    assert kept(tmp_path) == []
