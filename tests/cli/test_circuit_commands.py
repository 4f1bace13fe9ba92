"""`breaker trip | status | reset | init | history`, and every way in which they refuse."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import redis

from configuration.login import login_name
from sandbox.child_process import free_port
from sandbox.embedded_redis import EmbeddedRedis
from tests.cli.conftest import MAY_RESET, RunCli, WriteConfiguration

STATE = "circuit_breaker:state"
GOOD_REASON = "cause found and fixed, book checked"


def state_of(client: redis.Redis) -> str:
    return str(json.loads(client.get(STATE) or b"{}").get("state"))


@pytest.mark.usefixtures("no_orchestrator")
def test_a_whole_day(configured: redis.Redis, breaker_cli: RunCli) -> None:
    assert breaker_cli("init").returncode == 0
    assert state_of(configured) == "OPEN"

    tripped = breaker_cli("trip", "--reason", "prices look wrong", "--operator", "ada")
    assert tripped.returncode == 0
    assert "TRIPPED" in tripped.stdout
    assert "prices look wrong" in tripped.stdout
    assert "by ada" in tripped.stdout

    assert breaker_cli("status").returncode == 0
    reset = breaker_cli("reset", "--reason", GOOD_REASON, "--acknowledge", "--operator", "bob")
    assert reset.returncode == 0, reset.stderr
    assert "QUIET_PERIOD" in reset.stdout
    assert "no service watches this reset, so it is watched here for 0.3 s" in reset.stderr
    assert "nothing red: watched from" in reset.stderr
    assert state_of(configured) == "OPEN", "the runbook's *Verify state is OPEN*, by redis-cli GET"

    history = breaker_cli("history", "--json")
    events = [json.loads(line) for line in history.stdout.splitlines()]
    assert [event["transition"] for event in events] == ["QUIET_PERIOD_END", "RESET", "TRIP", "INITIALIZE"]
    assert (events[1]["by"], events[1]["details"]) == (login_name(), {"claimed": "bob"})
    assert events[2]["details"] == {"operator": "ada", "reason": "prices look wrong", "login": login_name()}
    assert {event["source"] for event in events[1:]} == {"cli"}


def test_a_trip_that_is_not_as_durable_as_configured_ends_with_4(
    configured: redis.Redis, environment: dict[str, str], breaker_cli: RunCli
) -> None:
    environment["BREAKER_TRIP_DURABILITY"] = "replicas"
    outcome = breaker_cli("trip")
    assert outcome.returncode == 4
    assert "not as durably as configured" in outcome.stderr and "0 of 1 replicas" in outcome.stderr
    assert "TRIPPED" in outcome.stdout and state_of(configured) == "TRIPPED"


def test_the_status_of_global_names_the_other_breakers_that_are_not_open(
    configured: redis.Redis, breaker_cli: RunCli
) -> None:
    breaker_cli("init")
    assert json.loads(breaker_cli("status", "--json").stdout)["restricted"] == []
    breaker_cli("init", "--scope", "account:BETA")
    breaker_cli("trip", "--scope", "account:ALPHA", "--reason", "fills of nobody", "--operator", "ada")
    configured.set(f"{STATE}:strategy:odd", "what is no state")
    status = breaker_cli("status")
    assert status.returncode == 0
    first, *rest = [line for line in status.stdout.splitlines() if line.startswith(("●", "  ■", "  ?"))]
    assert first.startswith("● OPEN  global")
    assert rest[0].startswith("  ■ TRIPPED  account:ALPHA  since 2") and "by ada  MANUAL · fills of nobody" in rest[0]
    assert rest[1].startswith("  ? UNKNOWN  strategy:odd") and len(rest) == 2
    told = json.loads(breaker_cli("status", "--json").stdout)
    assert told["state"] == "OPEN"
    assert [(each["scope"], each["state"]) for each in told["restricted"]] == [
        ("account:ALPHA", "TRIPPED"),
        ("strategy:odd", "UNKNOWN"),
    ]
    assert "restricted" not in json.loads(breaker_cli("status", "--scope", "account:BETA", "--json").stdout)


def test_a_history_with_foreign_members_shows_the_rest_and_names_them(
    configured: redis.Redis, breaker_cli: RunCli
) -> None:
    breaker_cli("trip")
    configured.zadd("circuit_breaker:history", {f"mine-{number}": 4e9 + number for number in range(5)})
    history = breaker_cli("history", "--json")
    assert history.returncode == 0
    assert [json.loads(line)["transition"] for line in history.stdout.splitlines()] == ["TRIP"]
    assert history.stderr.startswith("breaker: 5 of the history's newest members are no transitions")
    assert "b'mine-4': it is no JSON" in history.stderr and "and 2 more" in history.stderr
    assert history.stderr.count("\n") == 1
    assert "TRIP" in breaker_cli("history").stdout


def test_status_as_json_is_one_document(configured: redis.Redis, breaker_cli: RunCli) -> None:
    breaker_cli("trip", "--reason", "x", "--scope", "account:ALPHA")
    outcome = breaker_cli("status", "--json", "--scope", "account:ALPHA")
    status = json.loads(outcome.stdout)
    assert (status["scope"], status["state"], status["trip_reason"]) == ("account:ALPHA", "TRIPPED", "MANUAL")
    assert configured.exists("circuit_breaker:state:account:ALPHA")


def test_a_reset_ends_only_the_trip_that_was_looked_at(configured: redis.Redis, breaker_cli: RunCli) -> None:
    breaker_cli("init")
    refused = breaker_cli("reset", "--reason", GOOD_REASON, "--acknowledge")
    assert refused.returncode == 1
    assert "Not TRIPPED" in refused.stderr
    assert state_of(configured) == "OPEN"


@pytest.mark.usefixtures("no_orchestrator")
def test_a_second_reset_within_a_minute_is_refused(configured: redis.Redis, breaker_cli: RunCli) -> None:
    for _ in range(2):
        breaker_cli("trip")
        outcome = breaker_cli("reset", "--reason", GOOD_REASON, "--acknowledge")
    assert outcome.returncode == 1
    assert "Rate limit exceeded" in outcome.stderr
    assert state_of(configured) == "TRIPPED"


@pytest.mark.parametrize(
    ("words", "kept", "says"),
    [
        (("--reason", "two\nlines"), "two lines", "the reason held a line break, kept as blanks"),
        (("--reason", "\x1b[31mred"), "[31mred", "held a character that can't be shown (\\x1b)"),
        (("--reason", "x" * 10_000), "x" * 500, "had 10000 characters, of which the first 500 are kept"),
        (("--reason", " "), "no reason given", "the reason was empty"),
        (("--reason", "wrong", "--operator", "a\nb"), "wrong", "the operator's name held a line break"),
    ],
)
@pytest.mark.parametrize("halt", [("trip",), ("kill", "--yes")])
def test_a_halt_never_fails_for_its_words(
    configured: redis.Redis, breaker_cli: RunCli, halt: tuple[str, ...], words: tuple[str, str], kept: str, says: str
) -> None:
    outcome = breaker_cli(*halt, *words)
    state = json.loads(configured.get(STATE) or b"{}")
    assert (state["state"], state["trip_details"]["reason"]) == ("TRIPPED", kept)
    assert state["tripped_by"] == ("a b" if "--operator" in words else login_name())
    assert outcome.returncode == (0 if halt == ("trip",) else 3), "no broker is configured"
    assert says in outcome.stderr and "Traceback" not in outcome.stderr


def test_a_status_of_a_breaker_that_nobody_knows_names_the_accounts(
    configured: redis.Redis, breaker_cli: RunCli
) -> None:
    status = breaker_cli("status", "--scope", "acount:ALPHA")
    assert status.returncode == 4
    assert "acount:ALPHA is none of global, account:NAME" in status.stderr


@pytest.mark.parametrize(
    ("typed", "tripped", "warns"),
    [
        ("account:alpha", "account:ALPHA", ""),
        ("symbol:aapl", "symbol:AAPL", ""),
        ("desk:rates", "desk:rates", ""),
        ("account:GAMMA", "account:GAMMA", "WARNING: no account of the name GAMMA is configured (there are: ALPHA)"),
        ("acount:ALPHA", "acount:ALPHA", "WARNING: acount:ALPHA is none of global, account:NAME"),
    ],
)
def test_a_trip_is_of_what_is_configured_or_warns(
    configured: redis.Redis,
    redis_server: EmbeddedRedis,
    write_configuration: WriteConfiguration,
    breaker_cli: RunCli,
    typed: str,
    tripped: str,
    warns: str,
) -> None:
    write_configuration(
        f'redis_url = "{redis_server.url}"\n[accounts.ALPHA]\nbase_url = "http://127.0.0.1:1"\nkey_id = "key"\n'
        'secret_key = "secret"\n[rules."desk:rates"]\n'
    )
    outcome = breaker_cli("trip", "--scope", typed)
    assert outcome.returncode == 0
    assert json.loads(configured.get(f"{STATE}:{tripped}") or b"{}")["state"] == "TRIPPED"
    assert warns in outcome.stderr and ("WARNING" in outcome.stderr) == bool(warns)
    assert f"{tripped}  " in outcome.stdout
    for command in (("status",), ("history",), ("equity", "show"), ("recover",), ("init",)):
        told = breaker_cli(*command, "--scope", typed)
        said = "MANUAL" if command == ("history",) else tripped
        assert said in told.stdout and told.returncode == 0, (command, told)


@pytest.mark.usefixtures("configured")
def test_a_pipe_that_is_not_utf_8_fails_no_command(environment: dict[str, str]) -> None:
    environment["PYTHONIOENCODING"] = "ascii"
    command = [sys.executable, "-m", "cli", "trip", "--reason", "prices … wrong"]
    outcome = subprocess.run(command, env=environment, capture_output=True, timeout=60, check=False)
    assert outcome.returncode == 0, outcome.stderr
    assert outcome.stdout.isascii() and b"prices \\u2026 wrong" in outcome.stdout
    assert b"Traceback" not in outcome.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("trip", "--scope", "bad scope!"), "scope"),
        (("reset", "--reason", "too short", "--acknowledge"), "20 to 500 characters"),
        (("reset", "--reason", "x" * 501, "--acknowledge"), "this has 501"),
        (("reset", "--reason", f"{GOOD_REASON}\nand so on", "--acknowledge"), "this holds a line break"),
        (("reset", "--reason", f"{GOOD_REASON}\x1b[1m", "--acknowledge"), "can't be shown (\\x1b)"),
        (("reset", "--reason", GOOD_REASON), "--acknowledge (make: YES=1): not acknowledged"),
        (("reset", "--reason", GOOD_REASON, "--acknowledge", "--override", "short"), "20 to 500 characters"),
        (("kill", "--account", "nobody"), "No account NOBODY"),
        (("history", "--limit", "0"), "limit"),
        (("no-such-command",), "no-such-command"),
    ],
)
def test_bad_input_changes_nothing(
    configured: redis.Redis, breaker_cli: RunCli, arguments: tuple[str, ...], says: str
) -> None:
    outcome = breaker_cli(*arguments)
    assert outcome.returncode == 2
    assert says in outcome.stderr
    assert "Traceback" not in outcome.stderr
    assert configured.keys("*") == []


@pytest.mark.parametrize(
    ("configuration", "says"),
    [
        ("redis_url = ", "not valid TOML"),
        ('redis_url = "http://localhost"', "redis_url: The address of Redis must start with"),
        ('redis_url = "redis://localhost:port/0"', "no usable port"),
        ("redis_ulr = 'redis://localhost'", "redis_ulr"),
        ("[accounts.ALPHA]\nbase_url = 'https://x'\nkey_id = 'k'", "accounts.ALPHA: adapter alpaca needs secret_key"),
        ("quiet_period = -1", "quiet_period"),
    ],
)
@pytest.mark.parametrize("command", ["status", "kill"])
def test_a_configuration_that_cannot_be_used_names_the_key(
    breaker_cli: RunCli, write_configuration: WriteConfiguration, configuration: str, says: str, command: str
) -> None:
    write_configuration(configuration)
    outcome = breaker_cli(command)
    assert outcome.returncode == 2
    assert says in outcome.stderr
    assert len(outcome.stderr.strip().splitlines()) == 1


def test_a_missing_configuration_file_is_named(breaker_cli: RunCli, environment: dict[str, str]) -> None:
    environment["BREAKER_CONFIG"] = "/nonexistent/breaker.toml"
    outcome = breaker_cli("status")
    assert outcome.returncode == 2
    assert "/nonexistent/breaker.toml" in outcome.stderr


@pytest.mark.parametrize("command", [("status",), ("trip",), ("reset", "--reason", GOOD_REASON, "--acknowledge")])
def test_a_redis_that_refuses_is_one_line_and_status_4(
    breaker_cli: RunCli, write_configuration: WriteConfiguration, command: tuple[str, ...]
) -> None:
    port = free_port()
    write_configuration(f'redis_url = "redis://:hunter2@127.0.0.1:{port}/0"\nredis_timeout = 0.3\n{MAY_RESET}')
    outcome = breaker_cli(*command)
    said = outcome.stdout + outcome.stderr
    assert outcome.returncode == 4
    assert f"127.0.0.1:{port}" in said
    assert "hunter2" not in said
    assert "Traceback" not in said


@pytest.mark.parametrize("stored", [b"not json", b"{}", b'{"state":"CLOSED"}', b"\xff\xfe"])
def test_a_state_that_cannot_be_read_is_unknown_and_can_be_tripped(
    configured: redis.Redis, breaker_cli: RunCli, stored: bytes
) -> None:
    configured.set(STATE, stored)
    status = breaker_cli("status")
    assert status.returncode == 4
    assert "UNKNOWN" in status.stdout
    refused = breaker_cli("init")
    assert refused.returncode == 1
    assert configured.get(STATE) == stored
    assert breaker_cli("trip").returncode == 0
    assert state_of(configured) == "TRIPPED"


def test_a_state_key_of_another_type_is_unknown_and_can_be_tripped(
    configured: redis.Redis, breaker_cli: RunCli
) -> None:
    configured.lpush(STATE, "x")
    assert breaker_cli("status").returncode == 4
    assert breaker_cli("reset", "--reason", GOOD_REASON, "--acknowledge").returncode == 1
    assert breaker_cli("trip").returncode == 0
    assert state_of(configured) == "TRIPPED"


def test_help_documents_the_exit_statuses(breaker_cli: RunCli) -> None:
    for command in ((), ("kill",)):
        shown = " ".join(breaker_cli(*command, "--help").stdout.split())
        assert "3 halted but not flat" in shown
        assert "4 could not halt" in shown
