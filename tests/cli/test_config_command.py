"""`breaker config`: what is in force, at 80 columns too, and which running processes have the same."""

from __future__ import annotations

import io
import json
import socket
import time
from dataclasses import asdict

import redis
from rich.console import Console

from cli.config_view import entries_as_tables
from configuration.in_force import Entry
from sandbox.embedded_redis import EmbeddedRedis
from tasks.running_services import KEY, RunningService, compare_configuration
from tests.cli.conftest import RunCli, WriteConfiguration

HERE, HOST = "0123456789ab", "trading-1"


def running(service: str, host: str, configuration: str, *, changed: bool = False) -> RunningService:
    return RunningService(service, host, 4711, configuration, changed, time.time())


def test_a_process_is_compared_by_what_is_known_of_it() -> None:
    assert compare_configuration(running("standby", HOST, HERE), HERE, HOST).same
    assert compare_configuration(running("standby", "trading-2", HERE), HERE, HOST).same
    changed = compare_configuration(running("serve", HOST, HERE, changed=True), HERE, HOST)
    assert not changed.same and "restart it" in changed.advice
    other_file = compare_configuration(running("console", HOST, "ba9876543210"), HERE, HOST)
    assert not other_file.same and "BREAKER_CONFIG" in other_file.advice
    elsewhere = compare_configuration(running("metrics", "trading-2", "ba9876543210"), HERE, HOST)
    assert not elsewhere.same and "`breaker config` on trading-2" in elsewhere.advice


def test_what_is_in_force_is_shown_with_origins_and_processes(
    redis_server: EmbeddedRedis,
    redis_client: redis.Redis,
    write_configuration: WriteConfiguration,
    environment: dict[str, str],
    breaker_cli: RunCli,
) -> None:
    path = write_configuration(f'redis_url = "{redis_server.url}"\n[kill]\ndeadline = 60\n')
    environment["BREAKER_LEDGER_KEY"] = "correct horse battery staple"
    outcome = breaker_cli("config")
    assert outcome.returncode == 0, outcome.stderr
    assert str(path) in outcome.stdout and "60 seconds" in outcome.stdout and "BREAKER_LEDGER_KEY" in outcome.stdout
    assert "No running process" in outcome.stdout
    assert "horse" not in outcome.stdout + outcome.stderr

    document = json.loads(breaker_cli("config", "--json").stdout)
    same = running("serve", socket.gethostname(), document["hash"])
    other = running("standby", "trading-2", "ba9876543210")
    redis_client.hset(KEY, mapping={each.field: json.dumps(asdict(each)) for each in (same, other)})
    outcome = breaker_cli("config", "--json")
    document = json.loads(outcome.stdout)
    assert outcome.returncode == 1, "one of them has another configuration"
    assert [(each["service"], each["same"]) for each in document["processes"]] == [("serve", True), ("standby", False)]
    values = {each["key"]: each for each in document["values"]}
    assert values["kill.deadline"] == {"key": "kill.deadline", "value": 60.0, "unit": "seconds", "from": str(path)}
    shown = breaker_cli("config").stdout
    assert "standby@trading-2" in shown and "differs" in shown and "only that it does" in " ".join(shown.split())


def test_without_redis_the_configuration_is_shown_and_what_is_not_known_is_said(
    write_configuration: WriteConfiguration, breaker_cli: RunCli
) -> None:
    write_configuration('redis_url = "redis://127.0.0.1:1/0"\nredis_timeout = 0.2\n')
    outcome = breaker_cli("config")
    assert outcome.returncode == 1 and "redis://127.0.0.1:1/0" in outcome.stdout
    assert outcome.stderr.count("\n") == 1 and "is not known" in outcome.stderr


def test_it_fits_eighty_columns() -> None:
    entries = [
        Entry(("accounts", "A" * 20, "secret_key"), "***", "", "BREAKER_ACCOUNTS__" + "A" * 20 + "__SECRET_KEY"),
        Entry(("kill", "collars"), ["0.02", "0.05"], "fraction", "/etc/breaker/breaker.toml"),
        Entry(("console", "oidc", "client_secret"), None, "", "default"),
    ]
    out = io.StringIO()
    Console(file=out, width=80).print(entries_as_tables(entries, "/etc/breaker/breaker.toml"))
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= 80 and len(lines) <= 12
    text = out.getvalue()
    assert "0.02, 0.05 fraction" in text and "not set" in text and " breaker.toml" in text


def test_a_file_that_is_not_utf_8_or_cant_be_read_is_one_line(
    write_configuration: WriteConfiguration, environment: dict[str, str], breaker_cli: RunCli
) -> None:
    path = write_configuration("")
    path.write_bytes(b"\xff\xfe[accounts")
    outcome = breaker_cli("kill", "--yes")
    assert outcome.returncode == 2
    assert outcome.stderr.splitlines() == [
        f"breaker: {path} is not UTF-8 (byte 0: 0xff); nothing was changed, save it as UTF-8"
    ]
    environment["BREAKER_CONFIG"] = "/proc/self/mem"
    outcome = breaker_cli("trip")
    assert outcome.returncode == 2
    assert outcome.stderr == "breaker: /proc/self/mem cannot be read: Input/output error; nothing was changed\n"


def test_a_misspelt_variable_is_named_and_refuses_no_halt(
    configured: redis.Redis, environment: dict[str, str], breaker_cli: RunCli
) -> None:
    environment |= {"BREAKER_DATABASE_ULR": "x", "BREAKER_KILLL__GUARD": "5"}
    environment |= {"BREAKER_TEST_SCALE": "1", "BREAKER_KILL__GUARD": "5"}
    outcome = breaker_cli("trip")
    assert outcome.returncode == 0
    assert configured.get("circuit_breaker:state")
    assert outcome.stderr.startswith(
        "breaker: no setting has the name of BREAKER_DATABASE_ULR, BREAKER_KILLL__GUARD, which changes nothing"
    )
