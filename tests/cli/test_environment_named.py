"""Whoever acts is told first what on: environment, Redis and accounts; and what is printed can be pasted."""

from __future__ import annotations

import json

import pytest
import redis

from configuration.settings import GivenSettings
from sandbox.child_process import free_port
from sandbox.embedded_redis import EmbeddedRedis
from sandbox.exchange.server import PaperExchangeThread
from tests.cli.conftest import MAY_RESET, RunCli, WriteConfiguration
from tests.cli.test_circuit_commands import GOOD_REASON
from tests.cli.test_kill_command import PACE, account

ACTING = (
    ("trip", "--reason", "prices are wrong"),
    ("reset", "--reason", GOOD_REASON, "--acknowledge"),
    ("init",),
    ("kill", "--yes"),
    ("kill", "--resume"),
    ("recover", "answer"),
    ("recover", "start"),
)


@pytest.mark.parametrize("command", ACTING, ids=" ".join)
def test_every_command_that_acts_says_first_what_on(
    redis_server: EmbeddedRedis,
    redis_client: redis.Redis,
    write_configuration: WriteConfiguration,
    breaker_cli: RunCli,
    exchange: PaperExchangeThread,
    command: tuple[str, ...],
) -> None:
    top = f'environment = "production"\nredis_url = "{redis_server.url}"\n'
    write_configuration(f"{top}{MAY_RESET}{PACE}record_wait = 0.5\n{account(exchange.url)}")
    first = breaker_cli(*command).stderr.splitlines()[0]
    assert first.startswith("breaker: environment production · Redis localhost:") and "accounts " in first
    assert "accounts none" not in first


def test_status_says_it_too_and_what_has_no_name_is_called_unnamed(
    configured: redis.Redis, breaker_cli: RunCli
) -> None:
    assert "environment unnamed · Redis localhost:" in breaker_cli("status").stdout
    assert "environment unnamed" in json.loads(breaker_cli("status", "--json").stdout)["target"]


@pytest.mark.parametrize("name", ["two\nlines", "-", "x" * 41, "<b>"])
def test_a_name_that_could_mislead_is_refused(
    write_configuration: WriteConfiguration, breaker_cli: RunCli, name: str
) -> None:
    write_configuration(f"environment = {json.dumps(name)}\n")
    outcome = breaker_cli("status")
    assert outcome.returncode == 2 and "environment" in outcome.stderr


def test_given_settings_take_nothing_from_around_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BREAKER_ENVIRONMENT", "production")
    assert GivenSettings().environment_name == "unnamed"


def test_a_kill_whose_redis_refuses_says_so_within_a_second_and_goes_on(
    write_configuration: WriteConfiguration, breaker_cli: RunCli, exchange: PaperExchangeThread
) -> None:
    write_configuration(
        f'redis_url = "redis://127.0.0.1:{free_port()}/0"\nredis_timeout = 5\n{PACE}record_wait = 0.5\n'
        f"{account(exchange.url)}"
    )
    outcome = breaker_cli("kill", "--yes")
    assert outcome.returncode == 4 and exchange.report()["is_flat"]
    said = " ".join(outcome.stderr.split())
    assert "refused every connection for 0." in said and "COULD NOT HALT" in said
