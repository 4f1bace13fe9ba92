"""`make circuit-reset` keeps the rules of every other way in, and goes by the person, not by a name that was typed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import redis

from configuration.login import login_name
from configuration.settings import Settings
from console.auth.identities import Identities
from console.auth.permissions import PERMISSIONS, Role
from console.serve import prepare
from ledger.configured import open_ready_ledger
from sandbox.embedded_redis import EmbeddedRedis
from tests.cli.conftest import MAY_RESET, ROOT, RunCli, WriteConfiguration
from tests.cli.test_audit_commands import rows
from tests.cli.test_circuit_commands import GOOD_REASON, STATE, state_of

NOBODY_MAY = MAY_RESET.partition("[recovery.people]")[0]
TWO_PERSONS = MAY_RESET.replace("two_person = false", "")
MAKE_RESET = ("REASON=twenty characters of nothing", "OPERATOR=anyname", "YES=1")


def make_reset(environment: dict[str, str], directory: Path, *variables: str) -> subprocess.CompletedProcess[str]:
    """The Makefile's own command, in a directory where `.venv/bin/breaker` is this checkout's."""
    command = directory / ".venv/bin/breaker"
    command.parent.mkdir(parents=True, exist_ok=True)
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m cli "$@"\n', encoding="utf-8")
    command.chmod(0o755)
    asked = ["make", "-f", str(ROOT / "Makefile"), "-o", ".venv/.ready", "circuit-reset", *variables]
    return subprocess.run(
        asked, env=environment, cwd=directory, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.usefixtures("no_orchestrator")
def test_promise_9_make_circuit_reset_keeps_every_rule(
    redis_server: EmbeddedRedis,
    configured: redis.Redis,
    environment: dict[str, str],
    breaker_cli: RunCli,
    write_configuration: WriteConfiguration,
    tmp_path: Path,
) -> None:
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/.ready").touch()
    address = f'redis_url = "{redis_server.url}"\n'
    breaker_cli("trip", "--operator", "somebody")
    write_configuration(address)
    refused = make_reset(environment, tmp_path, *MAKE_RESET)
    assert refused.returncode != 0 and f"{login_name()} has no RESET_CIRCUIT permission" in refused.stderr
    write_configuration(f"{address}{TWO_PERSONS}")
    refused = make_reset(environment, tmp_path, *MAKE_RESET)
    assert f"{login_name()} tripped the breaker: somebody else must approve" in refused.stderr
    write_configuration(f"{address}{MAY_RESET}")
    configured.hset("circuit_breaker:equity", mapping={"equity": "94", "high_water": "100", "measured_at": 9e15})
    refused = make_reset(environment, tmp_path, *MAKE_RESET)
    assert "red: drawdown is 6.00%" in refused.stderr
    assert state_of(configured) == "TRIPPED"
    unasked = make_reset(environment, tmp_path, *MAKE_RESET[:2])
    assert "YES=1" in unasked.stderr and "--acknowledge" in unasked.stderr
    denied = rows(breaker_cli, "--action", "RESET_REFUSED")
    assert [(row["user_id"], row["outcome"]) for row in denied] == [(login_name(), "DENIED")] * 3
    assert "the next measurement below 95 trips again" in refused.stderr, "said before it is tried"
    done = make_reset(environment, tmp_path, *MAKE_RESET, "OVERRIDE=it's booked, the limit is raised", "REBASE=1")
    assert done.returncode == 0, done.stderr
    assert "the high-water mark begins anew at 94 (before it was 100, drawdown 6.00%)" in done.stderr
    assert configured.hget("circuit_breaker:equity", "high_water") == b"94"
    assert "QUIET_PERIOD" in done.stdout and state_of(configured) == "OPEN"


@pytest.mark.usefixtures("no_orchestrator")
def test_the_runbooks_workaround_is_a_token_of_somebody_who_may(
    redis_server: EmbeddedRedis,
    configured: redis.Redis,
    environment: dict[str, str],
    breaker_cli: RunCli,
    write_configuration: WriteConfiguration,
    tmp_path: Path,
) -> None:
    """*RBAC Violation on Trip/Reset*: "As workaround, use CLI with appropriate credentials"."""
    write_configuration(f'redis_url = "{redis_server.url}"\nstate_dir = "{tmp_path / "state"}"\n{NOBODY_MAY}')
    settings = Settings(state_dir=tmp_path / "state")
    prepare(settings)
    reset = ("reset", "--reason", GOOD_REASON, "--acknowledge")
    breaker_cli("trip")
    assert "RESET_CIRCUIT" in breaker_cli(*reset).stderr
    environment["BREAKER_TOKEN"] = "brk_made_up"
    wrong = breaker_cli(*reset)
    assert wrong.returncode == 2 and "no valid token" in wrong.stderr
    ledger = open_ready_ledger(settings)
    identities = Identities(ledger)
    for name, role in (("olga", Role.OPERATOR), ("rita", Role.RISK_MANAGER)):
        identities.users.add(name, role, "correct horse battery")
        environment["BREAKER_TOKEN"], _ = identities.tokens.create(name, "desk", PERMISSIONS[role], 1)
        outcome = breaker_cli(*reset)
        if role is Role.OPERATOR:
            assert outcome.returncode == 1 and "olga has no RESET_CIRCUIT" in outcome.stderr
    ledger.close()
    assert outcome.returncode == 0, outcome.stderr
    assert json.loads(configured.get(STATE) or b"{}")["reset_by"] == "rita"
