"""`breaker audit`: every action is there once, whole, and can be taken elsewhere."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import subprocess
import sys
import termios
from pathlib import Path

import pytest
import redis

from breaker.process_lock import process_lock
from ledger.record import AuditRecord
from ledger.spool import Spool
from sandbox.embedded_redis import EmbeddedRedis
from sandbox.exchange.server import PaperExchangeThread
from tests.cli.conftest import RunCli, WriteConfiguration
from tests.cli.test_kill_command import PACE, account
from tests.helpers import shown_on


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    return tmp_path / "kept"


@pytest.fixture
def audited(
    redis_server: EmbeddedRedis,
    redis_client: redis.Redis,
    state_dir: Path,
    exchange: PaperExchangeThread,
    write_configuration: WriteConfiguration,
) -> redis.Redis:
    write_configuration(f'redis_url = "{redis_server.url}"\nstate_dir = "{state_dir}"\n{PACE}{account(exchange.url)}')
    return redis_client


def rows(breaker_cli: RunCli, *arguments: str) -> list[dict[str, object]]:
    outcome = breaker_cli("audit", "--json", "--limit", "100", *arguments)
    assert outcome.returncode == 0, outcome.stderr
    return [json.loads(line) for line in outcome.stdout.splitlines()]


def test_promise_8_a_kill_switch_is_on_record_step_by_step(audited: redis.Redis, breaker_cli: RunCli) -> None:
    breaker_cli("init", "--operator", "ada")
    assert breaker_cli("kill", "--yes", "--operator", "ada", "--reason", "drill").returncode == 0
    actions = [str(row["action"]) for row in reversed(rows(breaker_cli))]
    for once in (
        "CIRCUIT_BREAKER_INITIALIZE",
        "CIRCUIT_BREAKER_TRIP",
        "FIRST_SWEEP",
        "TRIP_CONFIRMED",
        "SNAPSHOT_TAKEN",
        "ACCOUNT_FLAT",
        "KILL_SWITCH_FINISHED",
    ):
        assert actions.count(once) == 1, (once, actions)
    [finished] = [row["details"] for row in rows(breaker_cli, "--action", "KILL_SWITCH_FINISHED")]
    assert isinstance(finished, dict) and isinstance(finished["flat_after"], float), (
        "a number, which the exporter shows"
    )
    incident = {row["incident_id"] for row in rows(breaker_cli, "--action", "FIRST_SWEEP")}
    before_it = actions.index("CIRCUIT_BREAKER_TRIP")
    assert len(rows(breaker_cli, "--incident", str(incident.pop()))) == len(actions) - before_it
    assert {row["user_id"] for row in rows(breaker_cli, "--user", "ada")} == {"ada"}
    assert audited.xlen("circuit_breaker:outbox") == 0
    assert breaker_cli("audit", "verify").returncode == 0


def test_a_changed_row_is_found_and_named(audited: redis.Redis, breaker_cli: RunCli, state_dir: Path) -> None:
    breaker_cli("init")
    breaker_cli("trip", "--operator", "mallory")
    database = sqlite3.connect(state_dir / "audit.db")
    for (trigger,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
        database.execute(f'DROP TRIGGER "{trigger}"')
    database.execute("UPDATE audit_log SET user_id = 'alice' WHERE user_id = 'mallory'")
    database.commit()
    outcome = breaker_cli("audit", "verify")
    assert outcome.returncode == 1
    assert "BROKEN at row 3 (changed)" in outcome.stdout


def test_without_the_database_a_transition_waits_and_is_not_lost(
    audited: redis.Redis, breaker_cli: RunCli, state_dir: Path
) -> None:
    state_dir.mkdir()
    (state_dir / "audit.db").mkdir()  # the database can't be opened
    tripped = breaker_cli("trip")
    assert tripped.returncode == 0
    assert "not yet in the audit log" in tripped.stderr
    assert audited.xlen("circuit_breaker:outbox") == 1
    (state_dir / "audit.db").rmdir()
    drained = breaker_cli("audit", "drain")
    assert drained.returncode == 0, drained.stderr
    assert "1 transitions from Redis" in drained.stdout
    assert [row["action"] for row in rows(breaker_cli)] == ["CIRCUIT_BREAKER_TRIP"]


def test_a_drain_says_that_another_one_is_at_work(audited: redis.Redis, breaker_cli: RunCli, state_dir: Path) -> None:
    spool = Spool(state_dir / "spool")
    spool.add([AuditRecord(action="ORDERS_CANCELED", source="cli")])
    with process_lock(spool.directory / "drain.lock"):
        drained = breaker_cli("audit", "drain")
    assert "0 records from the spool" in drained.stdout
    assert "another process is draining this host's spool" in drained.stderr
    assert len(spool.records()) == 1


def test_export_can_be_read_without_the_database(audited: redis.Redis, breaker_cli: RunCli, tmp_path: Path) -> None:
    breaker_cli("trip")
    outcome = breaker_cli("audit", "export", str(tmp_path / "log.jsonl"))
    assert outcome.returncode == 0, outcome.stderr
    exported = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [row["action"] for row in exported] == ["CIRCUIT_BREAKER_TRIP"]
    assert (tmp_path / "log.jsonl.checkpoint.json").exists()


def test_what_is_shown_fits_a_terminal_of_80_columns_and_names_what_to_type(
    audited: redis.Redis, breaker_cli: RunCli, environment: dict[str, str]
) -> None:
    assert breaker_cli("kill", "--yes", "--operator", "ada", "--reason", "drill").returncode == 0
    keyboard, terminal = os.openpty()
    termios.tcsetwinsize(terminal, (24, 80))
    command = [sys.executable, "-m", "cli", "audit", "--limit", "1000"]
    environment = {name: value for name, value in environment.items() if name != "COLUMNS"}
    process = subprocess.Popen(command, env=environment, stdin=terminal, stdout=terminal, stderr=terminal)
    os.close(terminal)
    screen = shown_on(keyboard)
    assert process.wait(timeout=60) == 0
    lines = re.sub(r"\x1b\[[0-9;]*m", "", screen).splitlines()
    assert max(map(len, lines)) <= 80
    entries = [line for line in lines if re.match(r"\d\d:\d\d:\d\d  [A-Z_]+ +\S+ by \w+", line)]
    assert len(entries) == len(rows(breaker_cli)) and len(lines) <= 3 * len(entries) + 4
    (incident,) = {line.partition("incident ")[2] for line in lines if "UTC  incident " in line}
    assert len(rows(breaker_cli, "--incident", incident.strip())) == len(entries)


def test_a_part_of_the_log_can_be_taken_and_is_no_chain(
    audited: redis.Redis, breaker_cli: RunCli, tmp_path: Path
) -> None:
    breaker_cli("init")
    breaker_cli("trip", "--operator", "ada")
    path = tmp_path / "trips.jsonl"
    assert breaker_cli("audit", "export", str(path)).returncode == 0
    outcome = breaker_cli("audit", "export", str(path), "--action", "CIRCUIT_BREAKER_TRIP", "--since", "2020-01-01")
    assert outcome.returncode == 0 and "no checkpoint, as this is a part of the log" in outcome.stderr
    assert [json.loads(line)["user_id"] for line in path.read_text().splitlines()] == ["ada"]
    assert not path.with_name("trips.jsonl.checkpoint.json").exists()
    breaker_cli("audit", "export", str(path), "--until", "2020-01-01")
    assert path.read_text() == ""


def test_an_export_to_a_device_or_a_link_leaves_it_what_it_is(
    audited: redis.Redis, breaker_cli: RunCli, tmp_path: Path
) -> None:
    device = Path(os.devnull)
    before = device.lstat()
    outcome = breaker_cli("audit", "export", str(device))
    assert outcome.returncode == 0 and "no checkpoint" in outcome.stderr
    assert (device.lstat().st_mode, device.lstat().st_ino) == (before.st_mode, before.st_ino)
    assert not device.with_name("null.checkpoint.json").exists()
    link, aimed = tmp_path / "link.csv", tmp_path / "aimed.csv"
    link.symlink_to(aimed)
    assert breaker_cli("audit", "export", str(link)).returncode == 0
    assert link.is_symlink() and aimed.read_text().startswith("seq,")


@pytest.mark.parametrize(
    "command", [("audit", "export", ""), ("backup", " "), ("restore", "--check", ""), ("restore", "")]
)
def test_an_empty_path_is_refused_in_one_line(
    audited: redis.Redis, breaker_cli: RunCli, tmp_path: Path, command: tuple[str, ...]
) -> None:
    before = sorted(tmp_path.iterdir())
    outcome = breaker_cli(*command)
    assert (outcome.returncode, outcome.stdout) == (2, "")
    assert outcome.stderr == "breaker: the path is empty; nothing was done. Name a file or a directory\n"
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("variable", "says"),
    [
        ("BREAKER_CONFIG", "BREAKER_CONFIG is empty; correct the path or unset it"),
        ("BREAKER_STATE_DIR", "state_dir: the path is empty"),
        ("BREAKER_CONSOLE__TLS_KEY", "console.tls_key: the path is empty"),
    ],
)
def test_an_empty_path_in_the_environment_is_not_the_working_directory(
    audited: redis.Redis, breaker_cli: RunCli, environment: dict[str, str], variable: str, says: str
) -> None:
    environment[variable] = ""
    outcome = breaker_cli("status")
    assert outcome.returncode == 2 and says in outcome.stderr and outcome.stderr.count("\n") == 1
    assert "factory" not in outcome.stderr, "what only follows from it is not said"


def test_with_a_key_the_chain_is_whole_only_for_its_holders(
    audited: redis.Redis, breaker_cli: RunCli, environment: dict[str, str]
) -> None:
    environment["BREAKER_LEDGER_KEY"] = "a long secret"
    breaker_cli("trip")
    assert breaker_cli("audit", "verify").returncode == 0
    environment["BREAKER_LEDGER_KEY"] = "another secret"
    outcome = breaker_cli("audit", "verify")
    assert outcome.returncode == 1
    assert "a long secret" not in outcome.stdout + outcome.stderr
