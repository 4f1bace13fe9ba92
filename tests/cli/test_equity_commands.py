"""`breaker equity`: what a drawdown is judged from can be seen, and begun anew by who may, on record."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import redis
from prefect.settings import PREFECT_API_URL, temporary_settings
from typer.testing import CliRunner

from breaker import CircuitBreaker, State
from breaker.rules import Rules, Verdict
from breaker.uuid7 import uuid7
from cli import circuit_commands, circuit_view
from cli.app import command_line
from configuration.login import login_name
from sandbox.embedded_redis import EmbeddedRedis
from tasks.recovery.state import RecoveryState, state_key
from tests.cli.conftest import MAY_RESET, RunCli, WriteConfiguration
from tests.cli.test_audit_commands import rows

WHY = "250k moved to the custodian, confirmed by them"
REBASE = ("equity", "rebase", "--reason", WHY, "--scope", "account:ALPHA")


WithAccounts = Callable[..., None]


@pytest.fixture
def with_accounts(
    configured: redis.Redis, redis_server: EmbeddedRedis, write_configuration: WriteConfiguration
) -> WithAccounts:
    """Configures the accounts of these names; nobody asks their venue."""

    def write(*names: str) -> None:
        accounts = [
            f'[accounts.{name}]\nbase_url = "http://127.0.0.1:1"\nkey_id = "k"\nsecret_key = "s"' for name in names
        ]
        write_configuration("\n".join([f'redis_url = "{redis_server.url}"', MAY_RESET, *accounts]))

    return write


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


def test_an_account_without_money_and_one_in_another_currency_are_shown_as_that(
    configured: redis.Redis, breaker_cli: RunCli
) -> None:
    rules = Rules(configured)
    rules.record_equity(0)
    assert "high-water mark none yet, the account is not funded (limit 5.0%)" in breaker_cli("equity", "show").stdout
    rules.record_equity(100, currency="USD")
    rules.record_equity(86, currency="EUR")
    shown = breaker_cli("equity", "show")
    assert "equity 100 USD" in shown.stdout and "equity is 86 EUR by now and the high-water mark in USD" in shown.stderr
    assert json.loads(breaker_cli("equity", "show", "--json").stdout)["uncompared"] == "86 EUR"
    begun = breaker_cli("equity", "rebase", "--reason", WHY)
    assert "begins anew at 86 EUR (before it was 100 USD, drawdown 0.00%)" in begun.stdout
    (row,) = rows(breaker_cli, "--action", "EQUITY_REBASED")
    details = row["details"]
    assert isinstance(details, dict) and (details["currency_before"], details["currency_after"]) == ("USD", "EUR")
    rules.close()


def test_money_that_was_moved_is_told_once_and_moves_the_marks(
    configured: redis.Redis, rules: Rules, breaker_cli: RunCli
) -> None:
    told = ("equity", "transfer", "-250000", "--reason", WHY, "--scope", "account:ALPHA", "--id", "W-7")
    done = breaker_cli(*told)
    assert done.returncode == 0, done.stderr
    assert "account:ALPHA: -250000 is recorded (waits for the first reading that has it)" in done.stdout
    assert json.loads(breaker_cli(*told, "--json").stdout)["effect"] == "counted already"
    rules.record_equity("500000")
    shown = json.loads(breaker_cli("equity", "show", "--scope", "account:ALPHA", "--json").stdout)
    assert shown["high_water"] == "666666.666666667"
    wrong = breaker_cli("equity", "transfer", "much", "--reason", WHY)
    assert wrong.returncode == 2 and "'much' is no amount" in wrong.stderr
    recorded = rows(breaker_cli, "--action", "EQUITY_TRANSFERRED")
    assert len(recorded) == 2 and recorded[0]["user_id"] == login_name()


@pytest.mark.parametrize("command", [("transfer", "-5"), ("rebase",), ("rebase", "--to", "5")])
def test_a_scope_that_nothing_names_is_refused_in_one_line_and_nothing_changes(
    with_accounts: WithAccounts, configured: redis.Redis, breaker_cli: RunCli, command: tuple[str, ...]
) -> None:
    with_accounts("ALPHA", "BETA")
    refused = breaker_cli("equity", *command, "--reason", WHY, "--scope", "account:UNKNOWN")
    assert refused.returncode == 2 and refused.stdout == ""
    assert "is meant?" not in refused.stderr, "one line says it"
    assert refused.stderr.splitlines()[-1].endswith(
        "No equity of account:UNKNOWN is recorded, and no account of the name UNKNOWN is configured (there are: ALPHA, "
        "BETA); nothing changed."
    )
    assert configured.keys("*:account:UNKNOWN") == []
    assert rows(breaker_cli, "--action", "EQUITY_TRANSFERRED") == rows(breaker_cli, "--action", "EQUITY_REBASED") == []
    Rules(configured, "account:UNKNOWN").record_equity(7)  # by an engine that names its breaker so
    assert breaker_cli("equity", *command, "--reason", WHY, "--scope", "account:UNKNOWN").returncode == 0


def test_money_of_an_account_that_is_judged_as_another_breaker_is_told_to_that_one(
    with_accounts: WithAccounts, breaker_cli: RunCli
) -> None:
    with_accounts("ALPHA")
    refused = breaker_cli("equity", "transfer", "5", "--reason", WHY, "--scope", "account:ALPHA")
    assert (
        refused.returncode == 2 and "ALPHA is judged as global: use --scope global; nothing changed" in refused.stderr
    )
    assert breaker_cli("equity", "transfer", "5", "--reason", WHY, "--scope", "strategy:new").returncode == 0


def test_looking_at_a_scope_that_nothing_names_asks_whether_it_is_meant(
    with_accounts: WithAccounts, breaker_cli: RunCli
) -> None:
    with_accounts("ALPHA")
    for command in (("equity", "show"), ("rules", "show"), ("recover",), ("history",), ("init",)):
        asked = breaker_cli(*command, "--scope", "account:ALHPA")
        assert "(there are: ALPHA); is account:ALHPA the breaker that is meant?" in asked.stderr, command
        assert "is meant?" not in breaker_cli(*command, "--scope", "strategy:meanrev").stderr, command


@pytest.mark.parametrize(
    ("more", "why"),
    [
        (("--at", "9999-12-31T23:59:59-1200"), "--at 9999-12-31T23:59:59-12:00 is no time"),
        (("--at", "0001-01-01T00:00:00+1400"), "is no time at which money was moved; nothing changed"),
        (("--at", "0026-11-30T00:00:00+0000"), "is no time at which money was moved; nothing changed"),
        (("--id", ""), "'' can't be recorded"),
        (("--id", "x" * 201), "can't be recorded; use text of 1 to 200 characters"),
    ],
)
def test_a_transfer_that_was_mistyped_changes_nothing(
    configured: redis.Redis, breaker_cli: RunCli, more: tuple[str, str], why: str
) -> None:
    wrong = breaker_cli("equity", "transfer", "-5", "--reason", WHY, *more)
    assert wrong.returncode == 2 and why in wrong.stderr and len(wrong.stderr.splitlines()) == 1
    assert not configured.exists("circuit_breaker:transfers")


@pytest.mark.parametrize("to", ["-5", "0", "NaN", "Infinity", "1e30", "1e-9", "1e999999", "a lot", ""])
def test_what_is_no_equity_is_refused_and_changes_nothing(
    configured: redis.Redis, rules: Rules, breaker_cli: RunCli, to: str
) -> None:
    before = configured.hgetall("circuit_breaker:equity:account:ALPHA")
    wrong = breaker_cli(*REBASE, f"--to={to}")
    assert wrong.returncode == 2
    assert f"--to {to!r} is no equity: it has to be a number of 0.01 to 1000000000000000; nothing" in wrong.stderr
    assert configured.hgetall("circuit_breaker:equity:account:ALPHA") == before


def test_no_amount_is_printed_with_an_exponent(configured: redis.Redis, rules: Rules, breaker_cli: RunCli) -> None:
    done = breaker_cli(*REBASE, "--to", "1e5")
    assert done.returncode == 0 and "begins anew at 100000 (before it was 1000000" in done.stdout, done.stderr
    configured.hset("circuit_breaker:equity:account:ALPHA", mapping={"equity": "9E+4", "high_water": "1E+5"})
    shown = breaker_cli("equity", "show", "--scope", "account:ALPHA")
    assert "equity 90000, measured" in shown.stdout and "mark 100000, down 10.00%" in shown.stdout
    assert "equity 90000 is 10.00% below the high-water mark 100000" in shown.stderr
    assert json.loads(breaker_cli("equity", "show", "--scope", "account:ALPHA", "--json").stdout)["equity"] == "90000"
    again = breaker_cli(*REBASE)
    assert "begins anew at 90000 (before it was 100000" in again.stdout, again.stderr


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


def test_a_reset_at_a_terminal_asks_about_it(
    configured: redis.Redis, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("BREAKER_CONFIG", "XDG_STATE_HOME"):
        monkeypatch.setenv(name, environment[name])
    for asking in (circuit_commands, circuit_view):
        monkeypatch.setattr(asking, "on_terminal", lambda: True)
    monkeypatch.setattr("tasks.recovery.watch_here.WATCHED_WITHIN", 0.0)
    breaker, rules = CircuitBreaker(configured), Rules(configured)
    breaker.initialize_state()
    rules.record_equity("100000")
    rules.record_equity("94000")
    reset = ("reset", "--reason", WHY, "--override", WHY)
    with temporary_settings(updates={PREFECT_API_URL: None}):
        declined = CliRunner().invoke(command_line(), reset, input="y\nno\n")
        assert configured.hget("circuit_breaker:equity", "high_water") == b"100000", "it is not acknowledged"
        done = CliRunner().invoke(command_line(), reset, input="y\nRESET\n")
    assert declined.exit_code == 1 and "the next measurement below 95000 trips again" in declined.stderr
    assert "Begin the high-water mark anew (re-base)?" in declined.stderr
    assert done.exit_code == 0 and "the high-water mark begins anew at 94000" in done.stderr
    assert rules.record_equity("94000").verdict is Verdict.WITHIN
    assert breaker.get_state() is State.OPEN


@pytest.mark.usefixtures("no_orchestrator")
def test_an_answer_is_told_that_a_drawdown_trips_again(configured: redis.Redis, breaker_cli: RunCli) -> None:
    incident = str(CircuitBreaker(configured).trip("MANUAL", tripped_by="gus").incident_id)
    state = RecoveryState(incident, "global", uuid7(), waiting_for="approval", question="approval-1-1")
    configured.set(state_key("global"), state.to_json())
    configured.hset("circuit_breaker:equity", mapping={"equity": "94", "high_water": "100", "measured_at": 9e15})
    answer = ("recover", "answer", "--reason", WHY, "--acknowledge")
    told = breaker_cli(*answer)
    assert told.returncode == 1 and "equity 94 is 6.00% below the high-water mark 100" in told.stderr
    asked = breaker_cli(*answer, "--rebase-equity")
    assert "trips again, unless" not in asked.stderr and "red: drawdown" in asked.stderr, "which is still to override"


def test_every_rule_is_shown_with_its_limit_what_it_heard_and_what_is_left(
    configured: redis.Redis, rules: Rules, breaker_cli: RunCli
) -> None:
    rules.record_api_error("venue")
    shown = breaker_cli("rules", "show", "--scope", "account:ALPHA")
    assert shown.returncode == 0, shown.stderr
    assert max(len(line) for line in shown.stdout.splitlines()) <= 80
    (drawdown,) = [line for line in shown.stdout.splitlines() if line.startswith("DRAWDOWN")]
    assert drawdown.split()[1:4] == ["5.00%", "25.0000%", "-400%"]
    assert "record_equity: account monitor or engine" in shown.stdout
    told = json.loads(breaker_cli("rules", "show", "--scope", "account:ALPHA", "--json").stdout)
    (errors,) = [rule for rule in told["rules"] if rule["rule"] == "API_ERRORS"]
    assert (errors["limit"], errors["measured"], errors["share_left"]) == ("10", "1", "0.900000")


def test_other_limits_are_tried_on_what_was_recorded(
    redis_server: EmbeddedRedis, redis_client: redis.Redis, breaker_cli: RunCli, write_configuration: WriteConfiguration
) -> None:
    account = 'base_url = "https://paper-api.alpaca.markets"\nkey_id = "k"\nsecret_key = "s"\n'
    write_configuration(f'redis_url = "{redis_server.url}"\n[accounts.ALPHA]\n{account}')
    for period in (("0001-01-01",), ("2026-03-02", "--to", "2026-03-01")):
        wrong = breaker_cli("rules", "replay", "--from", *period)
        assert wrong.returncode == 2 and "has to be after 1970 and before" in wrong.stderr
    replay = ("rules", "replay", "--from", "2026-03-02")
    nothing = breaker_cli(*replay)
    assert nothing.returncode == 1 and "nothing of ALPHA is recorded from" in nothing.stderr
    for second, equity in enumerate((100, 98, 96)):
        redis_client.xadd(
            "circuit_breaker:measurements:ALPHA", {"equity": equity}, id=f"{1_772_530_200_000 + 1000 * second}-0"
        )
    assert breaker_cli(*replay).stdout.endswith("would not have tripped\n")
    tried = breaker_cli(*replay, "--set", "drawdown=0.03")
    assert "2026-03-03 09:30:02  DRAWDOWN: 4.0000% from the high-water mark, limit 3%" in tried.stdout, tried.stderr
    wrong = breaker_cli(*replay, "--set", "drawdown=3")
    assert wrong.returncode == 2 and "--set drawdown:" in wrong.stderr
    assert redis_client.exists("circuit_breaker:equity") == 0
