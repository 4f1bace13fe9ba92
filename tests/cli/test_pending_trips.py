"""Redis down at the kill, and back with the state that it had before: what the next command on that host does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import redis

from breaker import CircuitBreaker
from configuration.settings import load_settings
from sandbox.embedded_redis import EmbeddedRedis
from sandbox.exchange.server import PaperExchangeThread
from services.trip_watch import TripWatch
from tests.cli.conftest import RunCli, WriteConfiguration
from tests.cli.test_circuit_commands import state_of
from tests.cli.test_kill_command import PACE, account
from tests.helpers import eventually


@pytest.fixture
def open_then_down(own_server: EmbeddedRedis, write_configuration: WriteConfiguration) -> EmbeddedRedis:
    """A Redis that was OPEN, and is gone; started again, it is OPEN again."""
    with redis.Redis.from_url(own_server.url) as client:
        CircuitBreaker(client).initialize_state()
    write_configuration(f'redis_url = "{own_server.url}"\nredis_timeout = 0.3\n')
    own_server.kill()
    return own_server


def kept(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "state" / "breaker" / "pending_trips").glob("*.json"))


def test_a_trip_without_redis_is_kept_said_and_made_by_the_next_command_once(
    open_then_down: EmbeddedRedis, breaker_cli: RunCli, tmp_path: Path
) -> None:
    outcome = breaker_cli("trip", "--reason", "prices are wrong", "--operator", "ada")
    assert outcome.returncode == 4
    assert "The trip is kept in" in outcome.stderr and outcome.stderr.count("\n") == 1
    [file] = kept(tmp_path)
    event_id = json.loads(file.read_text())["event_id"]

    open_then_down.start()
    status = breaker_cli("status", "--json")
    assert json.loads(status.stdout)["state"] == "TRIPPED"
    assert "asked for on this host at" in status.stderr
    assert kept(tmp_path) == []

    assert breaker_cli("audit", "drain").returncode == 0
    rows = [json.loads(line) for line in breaker_cli("audit", "--json").stdout.splitlines()]
    trips = [row for row in rows if row["action"] == "CIRCUIT_BREAKER_TRIP"]
    assert [row["id"] for row in trips] == [event_id]
    assert trips[0]["user_id"] == "ada"


def test_a_reset_comes_after_the_trip_that_waited_and_not_instead_of_it(
    open_then_down: EmbeddedRedis, breaker_cli: RunCli
) -> None:
    breaker_cli("trip", "--reason", "prices are wrong")
    open_then_down.start()
    history = breaker_cli("history", "--json")
    assert [json.loads(line)["transition"] for line in history.stdout.splitlines()] == ["TRIP", "INITIALIZE"]


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
