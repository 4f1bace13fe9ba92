"""An account that is added to breaker.toml: every kill takes it, and what runs by the file of before is red."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from breaker import CircuitBreaker
from breaker.deadman import DeadMansSwitch
from configuration.running import BUILT_IN, RunningConfiguration
from configuration.settings import load_settings
from proofs.fork_server import ForkServer
from sandbox.child_process import free_port
from sandbox.embedded_redis import EmbeddedRedis
from services.exporter.exporter import Exporter
from tasks import running_services
from tasks.checks.measurement import Colour
from tasks.running_services import KEY, measure_services, read_services, reported
from tests.helpers import eventually
from tests.services.test_standby import Host
from tests.two_accounts import NOTHING, Venues


@pytest.fixture
def venues() -> Iterator[Venues]:
    with Venues() as running:
        yield running


@pytest.fixture
def host(
    tmp_path: Path, redis_server: EmbeddedRedis, redis_client: redis.Redis, venues: Venues, fork_server: ForkServer
) -> Iterator[Host]:
    """ALPHA is configured; BETA is not yet."""
    CircuitBreaker(redis_client).initialize_state()
    machine = Host(tmp_path, redis_server.url, venues["ALPHA"].url, fork_server)
    yield machine
    machine.stop()


def add_beta(host: Host, venues: Venues) -> None:
    with Path(host.environment["BREAKER_CONFIG"]).open("a") as configuration:
        configuration.write(venues.sections("BETA"))


# --- What is configured now, and what this process runs by -----------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "breaker.toml"
    path.write_text(account("ALPHA"))
    monkeypatch.setenv("BREAKER_CONFIG", str(path))
    return path


def account(name: str) -> str:
    return f'[accounts.{name}]\nbase_url = "http://127.0.0.1:1"\nkey_id = "k"\nsecret_key = "s"\n'


def test_an_account_that_is_added_is_there_at_once_and_the_process_knows_that_it_has_changed(file: Path) -> None:
    running = RunningConfiguration.load()
    assert not running.changed and re.fullmatch("[0-9a-f]{12}", running.hash)
    file.write_text(account("ALPHA") + account("BETA"))
    assert running.changed
    present = running.present()
    assert list(present.settings.accounts) == ["ALPHA", "BETA"] and present.problem == ""
    assert list(running.settings.accounts) == ["ALPHA"], "what is open goes by what it began with"
    file.write_text(account("ALPHA"))
    assert not running.changed
    assert list(running.present().settings.accounts) == ["ALPHA"]


@pytest.mark.parametrize(
    ("text", "why"), [("[accounts", "not valid TOML"), ("", "names no account any more"), (None, "not a file")]
)
def test_a_file_that_can_not_be_used_changes_nothing_and_is_named(file: Path, text: str | None, why: str) -> None:
    running = RunningConfiguration.load()
    if text is None:
        file.unlink()
    else:
        file.write_text(text)
    assert running.changed
    present = running.present()
    assert list(present.settings.accounts) == ["ALPHA"]
    assert str(file) in present.problem and why in present.problem


def test_without_a_file_nothing_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BREAKER_CONFIG", raising=False)
    running = RunningConfiguration.load()
    assert running.hash == BUILT_IN and not running.changed


# --- Who sees it ------------------------------------------------------------------------------------------------------


async def test_a_process_says_what_it_runs_by_and_is_red_once_that_has_changed(
    file: Path, redis_server: EmbeddedRedis, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running_services, "EVERY", 0.05)
    file.write_text(f'redis_url = "{redis_server.url}"\n' + account("ALPHA"))
    running = RunningConfiguration.load()
    with reported("standby", running):
        eventually(lambda: read_services(redis_client), "it says nothing")
        (fine,) = await measure_services(running.settings)
        assert (fine.colour, fine.value) == (Colour.GREEN, running.hash)
        with file.open("a") as more:
            more.write(account("BETA"))
        eventually(lambda: read_services(redis_client)[0].changed, "it does not notice")
        (red,) = await measure_services(running.settings)
        assert red.colour is Colour.RED and "restart it" in red.problem and running.hash in red.problem
        exporter = Exporter(load_settings())
        scraped = exporter.scrape().decode()
        exporter.close()
        assert re.search(r'cb_service_configuration_changed{.*service="standby".*} 1.0', scraped)
    assert read_services(redis_client) == ()


async def test_one_that_has_died_is_left_out_and_what_is_of_another_version_does_no_harm(
    file: Path, redis_server: EmbeddedRedis, redis_client: redis.Redis
) -> None:
    file.write_text(f'redis_url = "{redis_server.url}"\n')
    died = {"service": "console", "host": "h", "pid": 1, "configuration": "x", "changed": True, "as_of": 1.0}
    redis_client.hset(KEY, "console@h:1", json.dumps(died))
    redis_client.hset(KEY, "odd", "not JSON")
    redis_client.hset(KEY, "newer", '{"service": "console", "more": 1}')
    assert await measure_services(load_settings()) == []


async def test_without_redis_it_can_not_be_told_and_nothing_waits(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text(f'redis_url = "redis://127.0.0.1:{free_port()}/0"\nredis_timeout = 0.2\n')
    running = RunningConfiguration.load()
    with reported("standby", running):
        (red,) = await measure_services(running.settings)
    assert red.colour is Colour.RED and "Redis did not say" in red.problem


# --- What their kill switches do --------------------------------------------------------------------------------------


def test_a_standby_of_before_flattens_the_account_that_was_added_and_doctor_is_red(
    host: Host, redis_client: redis.Redis, venues: Venues
) -> None:
    host.stand_by()
    add_beta(host, venues)
    doctor = eventually(lambda: _red(host.run("doctor", "--json")), host.said, within=60)
    assert any(name.startswith("configuration/standby@") for name in doctor)
    DeadMansSwitch(redis_client, "engine", 0.2, action="kill").renew()
    eventually(lambda: "kill done" in host.said(), host.said)
    assert venues.left("ALPHA") == venues.left("BETA") == NOTHING
    said = next(line for line in host.said().splitlines() if "kill done" in line)
    assert "flat=True" in said


def test_an_account_whose_keys_the_standby_was_not_given_keeps_it_from_calling_the_rest_flat(
    host: Host, redis_client: redis.Redis, venues: Venues
) -> None:
    host.stand_by()
    with Path(host.environment["BREAKER_CONFIG"]).open("a") as configuration:
        configuration.write(f'[accounts.BETA]\nbase_url = "{venues["BETA"].url}"\n')
    DeadMansSwitch(redis_client, "engine", 0.2, action="kill").renew()
    eventually(lambda: "kill done" in host.said(), host.said)
    assert venues.left("ALPHA") == NOTHING and venues.untouched("BETA")
    said = next(line for line in host.said().splitlines() if "kill done" in line)
    assert "flat=False" in said and "accounts.BETA: adapter alpaca needs key_id and secret_key" in said


def _red(doctor: subprocess.CompletedProcess[str]) -> list[str]:
    checks = json.loads(doctor.stdout)
    found = checks["checks"] if isinstance(checks, dict) else checks
    return [check["name"] for check in found if check["colour"] == "red" and check["name"].startswith("configuration/")]
