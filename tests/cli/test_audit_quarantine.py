"""A ledger that is lost, or put back from an older copy, is red until two people say so on record."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import redis

from configuration.login import login_name
from sandbox.embedded_redis import EmbeddedRedis
from tests.cli.conftest import RunCli, WriteConfiguration

WHY = "the disk was replaced, last night's copy was put back"


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    return tmp_path / "kept"


@pytest.fixture
def audited(
    redis_server: EmbeddedRedis, redis_client: redis.Redis, state_dir: Path, write_configuration: WriteConfiguration
) -> redis.Redis:
    write_configuration(
        f'redis_url = "{redis_server.url}"\nstate_dir = "{state_dir}"\n[recovery.people]\n'
        f'"{login_name()}" = ["RESET_CIRCUIT"]\nbob = ["RESET_CIRCUIT"]\neve = ["VIEW"]\n'
    )
    return redis_client


def write_some(breaker_cli: RunCli) -> None:
    breaker_cli("init")
    breaker_cli("trip")
    breaker_cli("audit", "drain")
    verified = breaker_cli("audit", "verify")
    assert verified.returncode == 0 and "whole" in verified.stdout, verified.stdout + verified.stderr


def chain(breaker_cli: RunCli) -> dict[str, str]:
    checks = json.loads(breaker_cli("doctor", "--json").stdout)["checks"]
    (found,) = [check for check in checks if check["name"] == "chain"]
    return dict(found)


@pytest.mark.usefixtures("no_orchestrator")
def test_promise_8_a_ledger_lost_with_its_directory_is_missed_by_redis(
    audited: redis.Redis, breaker_cli: RunCli, state_dir: Path
) -> None:
    write_some(breaker_cli)
    shutil.rmtree(state_dir)
    found = chain(breaker_cli)
    assert found["colour"] == "red" and "gone from the end" in found["problem"]
    assert "audit quarantine" in found["problem"]
    verified = breaker_cli("audit", "verify")
    assert verified.returncode == 1 and "tail cut" in verified.stdout and "audit quarantine" in verified.stderr

    for refused, why in (
        (("--reason", WHY), "two persons answer for this"),
        (("--reason", WHY, "--second-person", login_name()), "can't be both persons"),
        (("--reason", WHY, "--second-person", "eve"), "eve has no RESET_CIRCUIT permission"),
        (("--reason", "short", "--second-person", "bob"), "20"),
    ):
        outcome = breaker_cli("audit", "quarantine", *refused)
        assert outcome.returncode == 2 and why in outcome.stderr, outcome.stderr
    assert chain(breaker_cli)["colour"] == "red"

    given_up = breaker_cli("audit", "quarantine", "--reason", WHY, "--second-person", "bob")
    assert given_up.returncode == 0, given_up.stderr
    assert "given up: 1 checkpoints" in given_up.stdout
    assert chain(breaker_cli)["colour"] == "green"
    assert breaker_cli("audit", "verify").returncode == 0
    (row,) = [
        json.loads(line)
        for line in breaker_cli("audit", "--json", "--action", "LEDGER_QUARANTINED").stdout.splitlines()
    ]
    assert row["user_id"] == login_name() and row["details"]["claimed_second_person"] == "bob"
    assert row["details"]["reason"] == WHY and row["details"]["given_up"] == 1
    again = breaker_cli("audit", "quarantine", "--reason", WHY, "--second-person", "bob")
    assert again.returncode == 2 and "nothing to give up" in again.stderr


@pytest.mark.usefixtures("no_orchestrator")
def test_one_put_back_from_an_older_copy_grows_on_and_is_still_missed(
    audited: redis.Redis, breaker_cli: RunCli, state_dir: Path, tmp_path: Path
) -> None:
    write_some(breaker_cli)
    older = tmp_path / "older.db"
    with closing(sqlite3.connect(state_dir / "audit.db")) as now, closing(sqlite3.connect(older)) as copy:
        now.backup(copy)
    breaker_cli("trip")
    breaker_cli("audit", "drain")
    assert breaker_cli("audit", "verify").returncode == 0
    for file in state_dir.glob("audit.db*"):
        file.unlink()
    shutil.copy(older, state_dir / "audit.db")
    audited.delete("circuit_breaker:history")  # what it lost is not taken from there again
    for _ in range(3):
        breaker_cli("trip")
    breaker_cli("audit", "drain")
    broken = breaker_cli("audit", "verify")
    assert broken.returncode == 1 and "written anew" in broken.stdout
    given_up = breaker_cli("audit", "quarantine", "--reason", WHY, "--second-person", "bob")
    assert given_up.returncode == 0, given_up.stderr
    assert breaker_cli("audit", "verify").returncode == 0
    assert (state_dir / "checkpoints.jsonl.given_up").read_text().count("\n") == 1
