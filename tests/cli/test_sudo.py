"""What a command records of who is behind sudo, beside the name that it goes by."""

from __future__ import annotations

import json
import os
import pwd
from pathlib import Path

import pytest
import redis
from typer.testing import CliRunner

from cli.app import command_line
from configuration import login
from tests.cli.conftest import RunCli
from tests.cli.test_audit_commands import rows

NOBODY = pwd.getpwnam("nobody").pw_uid


def test_the_uids_behind_the_name_are_on_record(
    configured: redis.Redis,
    breaker_cli: RunCli,
    environment: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    kept = tmp_path / "loginuid"
    kept.write_text(str(NOBODY))
    monkeypatch.setattr(login, "LOGIN_UID", kept)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "getuid", lambda: 0)
    for name in ("BREAKER_CONFIG", "XDG_STATE_HOME"):
        monkeypatch.setenv(name, environment[name])

    def typed(*arguments: str) -> None:
        CliRunner().invoke(command_line(), arguments)

    def tripped(scope: str) -> dict[str, str]:
        state = json.loads(configured.get(f"circuit_breaker:state:{scope}") or b"{}")
        return {"by": state["tripped_by"], **state["trip_details"]}

    monkeypatch.delenv("SUDO_USER", raising=False)
    typed("trip", "--scope", "strategy:before")
    assert "sudo" not in tripped("strategy:before")
    monkeypatch.setenv("SUDO_USER", "carol")
    monkeypatch.setenv("SUDO_UID", "1000")
    typed("trip", "--scope", "strategy:after")
    after = tripped("strategy:after")
    assert after["sudo"] == f"uid 0, SUDO_USER carol, SUDO_UID 1000, login uid {NOBODY}"
    assert after["by"] == pwd.getpwuid(0).pw_name, "the system has not logged in carol"
    kept.unlink()
    typed("equity", "rebase", "--reason", "moved to the custodian, confirmed by them")
    (refused,) = rows(breaker_cli, "--action", "EQUITY_REBASE_REFUSED")
    assert refused["user_id"] == "carol" and isinstance(refused["details"], dict)
    assert refused["details"]["sudo"] == "uid 0, SUDO_USER carol, SUDO_UID 1000, login uid not kept"
