"""Commands whose state directory can't be made: one line, and a halt that was made is no failure."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import redis

from sandbox.embedded_redis import EmbeddedRedis
from sandbox.exchange.server import PaperExchangeThread
from tests.cli.conftest import RunCli, WriteConfiguration
from tests.cli.test_circuit_commands import state_of
from tests.cli.test_kill_command import PACE, account


@pytest.fixture
def unwritable(
    configured: redis.Redis, redis_server: EmbeddedRedis, write_configuration: WriteConfiguration, tmp_path: Path
) -> redis.Redis:
    """A file in the directory's way refuses root too."""
    (tmp_path / "file").touch()
    write_configuration(f'redis_url = "{redis_server.url}"\nstate_dir = "{tmp_path}/file/state"\n')
    return configured


def test_a_trip_is_made_and_says_what_is_not_recorded(unwritable: redis.Redis, breaker_cli: RunCli) -> None:
    outcome = breaker_cli("trip", "--reason", "wrong prices")
    assert outcome.returncode == 0
    assert state_of(unwritable) == "TRIPPED"
    (said,) = [line for line in outcome.stderr.splitlines() if "done, but not yet in the audit log" in line]
    assert "file/state can't be made (Not a directory)" in said
    assert "Traceback" not in outcome.stderr


@pytest.mark.parametrize("command", [("init",), ("audit", "verify"), ("user", "list")])
@pytest.mark.usefixtures("unwritable")
def test_what_needs_the_ledger_says_so_on_one_line(breaker_cli: RunCli, command: tuple[str, ...]) -> None:
    outcome = breaker_cli(*command)
    assert outcome.returncode == 1
    assert "file/state can't be made (Not a directory)" in outcome.stderr.splitlines()[-1]
    assert "Traceback" not in outcome.stderr


def test_a_kill_prints_what_could_not_be_recorded(
    unwritable: redis.Redis,
    redis_server: EmbeddedRedis,
    write_configuration: WriteConfiguration,
    tmp_path: Path,
    exchange: PaperExchangeThread,
    breaker_cli: RunCli,
) -> None:
    where = f'redis_url = "{redis_server.url}"\nstate_dir = "{tmp_path}/file/state"\n'
    write_configuration(f"{where}{PACE}{account(exchange.url)}")
    outcome = breaker_cli("kill", "--yes")
    assert outcome.returncode == 0, outcome.stderr
    assert state_of(unwritable) == "TRIPPED"
    records = [json.loads(line) for line in outcome.stderr.splitlines() if line.startswith("{")]
    assert {"KILL_SWITCH_STARTED", "FIRST_SWEEP"} <= {record["action"] for record in records}
    assert f"{len(records)} audit records are only on this screen" in outcome.stderr
    assert "Traceback" not in outcome.stderr
