"""`breaker equity`: what a drawdown is judged from can be seen, and begun anew by who may, on record."""

from __future__ import annotations

import json

import pytest
import redis

from breaker import CircuitBreaker
from breaker.rules import Rules
from configuration.login import login_name
from sandbox.embedded_redis import EmbeddedRedis
from tests.cli.conftest import MAY_RESET, RunCli, WriteConfiguration
from tests.cli.test_audit_commands import rows

WHY = "250k moved to the custodian, confirmed by them"
REBASE = ("equity", "rebase", "--reason", WHY, "--scope", "account:ALPHA")


@pytest.fixture
def rules(configured: redis.Redis) -> Rules:
    """Of an account that has had its withdrawal."""
    made = Rules(configured, "account:ALPHA")
    made.record_equity("1000000")
    made.record_equity("750000")
    return made


def test_it_is_shown_begun_anew_and_shown_again(configured: redis.Redis, rules: Rules, breaker_cli: RunCli) -> None:
    shown = breaker_cli("equity", "show", "--scope", "account:ALPHA")
    assert "equity 750000" in shown.stdout and "high-water mark 1000000, down 25.00% (limit 5.0%)" in shown.stdout
    assert "the next measurement below 950000 trips again" in shown.stderr
    wrong = breaker_cli(*REBASE, "--to", "-5")
    assert wrong.returncode == 2 and "no equity" in wrong.stderr
    done = breaker_cli(*REBASE, "--operator", "the boss")
    assert done.returncode == 0, done.stderr
    assert "account:ALPHA: the high-water mark begins anew at 750000 (before it was 1000000, drawdown 25.00%)" in (
        done.stdout
    )
    (row,) = rows(breaker_cli, "--action", "EQUITY_REBASED")
    details = row["details"]
    assert isinstance(details, dict)
    assert (row["user_id"], details["claimed"], details["reason"]) == (login_name(), "the boss", WHY)
    assert breaker_cli(*REBASE, "--to", "800000").returncode == 0
    after = json.loads(breaker_cli("equity", "show", "--scope", "account:ALPHA", "--json").stdout)
    assert (after["equity"], after["high_water"], after["trips_again"]) == ("800000", "800000", None)


def test_who_may_not_reset_may_not_begin_it_anew(
    redis_server: EmbeddedRedis, rules: Rules, breaker_cli: RunCli, write_configuration: WriteConfiguration
) -> None:
    write_configuration(f'redis_url = "{redis_server.url}"\n{MAY_RESET.partition("[recovery.people]")[0]}')
    refused = breaker_cli(*REBASE)
    assert refused.returncode == 1
    assert refused.stderr.endswith("Nothing changed.\n") and "has no RESET_CIRCUIT permission" in refused.stderr
    assert breaker_cli("equity", "rebase", "--reason", "too short").returncode == 2


def test_through_a_console_it_says_where_it_can_be_done(breaker_cli: RunCli, environment: dict[str, str]) -> None:
    environment["BREAKER_URL"], environment["BREAKER_TOKEN"] = "http://127.0.0.1:9", "token"
    refused = breaker_cli(*REBASE)
    assert refused.returncode == 2 and "local only" in refused.stderr


def test_a_recovery_takes_the_rebase_with_the_approval(configured: redis.Redis, breaker_cli: RunCli) -> None:
    CircuitBreaker(configured).trip("MANUAL")
    assert "--rebase-equity" in breaker_cli("recover", "answer", "--help").stdout
