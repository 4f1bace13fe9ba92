"""`breaker user`, `breaker token`, `breaker console` and `breaker metrics` as people use them."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis

from breaker import CircuitBreaker
from cli.app import run as run_cli
from console.auth.identities import Identities
from console.auth.permissions import Permission
from ledger.ledger import Ledger
from ledger.queries import Filter
from sandbox.child_process import free_port
from sandbox.embedded_redis import EmbeddedRedis
from tests.console.harness import Visitor
from tests.helpers import eventually

ROOT = Path(__file__).parents[2]
Run = Callable[..., "Done"]


@pytest.fixture
def environment(tmp_path: Path, redis_server: EmbeddedRedis, redis_client: redis.Redis) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("BREAKER_", "PREFECT_"))}
    ours = {"BREAKER_REDIS_URL": redis_server.url, "BREAKER_STATE_DIR": str(tmp_path / "state")}
    return {**kept, **ours, "PYTHONPATH": str(ROOT), "PREFECT_HOME": str(tmp_path / "prefect"), "COLUMNS": "160"}


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def run(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Run:
    """The command line in this process, since starting it takes longer than all that it does here."""
    for name in list(os.environ):
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, stdin: str = "") -> Done:
        monkeypatch.setattr(sys, "argv", ["breaker", *arguments])
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        capsys.readouterr()
        try:
            status = run_cli()
        except SystemExit as left:
            status = int(left.code or 0)
        said = capsys.readouterr()
        return Done(status, said.out, said.err)

    return run


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger.connect(f"sqlite:///{tmp_path / 'state' / 'audit.db'}")


def test_users_are_added_listed_changed_and_removed(run: Run, ledger: Ledger) -> None:
    added = run("user", "add", "ada", "--role", "admin")
    assert added.returncode == 0, added.stderr
    password = added.stdout.split("password ")[1].split()[0]
    identities = Identities(ledger)
    assert identities.sessions.sign_in("ada", password, "x") is not None
    assert (
        run("user", "add", "olga", "--role", "operator", "--password-stdin", stdin="a long password\n").returncode == 0
    )
    assert identities.sessions.sign_in("olga", "a long password", "x") is not None
    assert run("user", "role", "olga", "viewer").returncode == 0
    listed = [json.loads(line) for line in run("user", "list", "--json").stdout.splitlines()]
    assert [(user["name"], user["role"]) for user in listed] == [("ada", "admin"), ("olga", "viewer")]
    assert run("user", "remove", "olga").returncode == 0
    refused = run("user", "remove", "ada")
    assert refused.returncode == 1
    assert "last admin" in refused.stderr
    actions = [row.action for row in ledger.query(Filter(source="cli")).rows]
    assert sorted(actions) == ["USER_ADDED", "USER_ADDED", "USER_REMOVED", "USER_ROLE_CHANGED"]


def test_a_token_is_shown_once_and_can_be_revoked(run: Run, ledger: Ledger) -> None:
    run("user", "add", "ada", "--role", "admin")
    made = run("token", "create", "ada", "--label", "ci", "--permission", "VIEW_CIRCUIT")
    text = made.stdout.strip()
    identity = Identities(ledger).tokens.confirm(text)
    assert identity is not None and identity.permissions == {Permission.VIEW_CIRCUIT}
    listed = run("token", "list", "--json").stdout
    assert text.rpartition("_")[2] not in listed
    token_id = json.loads(listed)["id"]
    assert token_id in run("token", "list").stdout
    assert run("token", "revoke", token_id).returncode == 0
    assert Identities(ledger).tokens.confirm(text) is None
    assert run("token", "revoke", token_id).returncode == 1


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["user", "add", "ada", "--role", "king"], "no role"),
        (["user", "add", "A B"], "no user name"),
        (["user", "role", "nobody", "viewer"], "no user"),
        (["token", "create", "nobody", "--label", "x", "--permission", "VIEW_CIRCUIT"], "no user"),
        (["token", "create", "nobody", "--label", "x", "--permission", "EVERYTHING"], "VIEW_CIRCUIT"),
    ],
)
def test_a_mistake_is_one_line_and_changes_nothing(run: Run, arguments: list[str], says: str) -> None:
    done = run(*arguments)
    assert done.returncode in (1, 2)
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def start(environment: dict[str, str], tmp_path: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", *arguments], env=environment, cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )


def test_the_console_makes_its_first_admin_and_stops_in_order(environment: dict[str, str], tmp_path: Path) -> None:
    port = free_port()
    process = start({**environment, "BREAKER_CONSOLE__PORT": str(port)}, tmp_path, "console")
    try:
        assert process.stderr is not None
        said = process.stderr.readline()
        assert (found := re.search(r"as admin with (\S+)", said)), said
        assert f"http://127.0.0.1:{port}" in process.stderr.readline()
        visitor = Visitor(f"http://127.0.0.1:{port}")
        eventually(lambda: _answers(f"http://127.0.0.1:{port}/alive"))
        assert visitor.sign_in("admin", found[1]).url.path == "/circuit-breaker"
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(15) in (0, -signal.SIGTERM)


def test_the_exporter_is_a_process_of_its_own(
    environment: dict[str, str], tmp_path: Path, redis_client: redis.Redis
) -> None:
    CircuitBreaker(redis_client).initialize_state()
    port = free_port()
    process = start({**environment, "BREAKER_CONSOLE__METRICS_PORT": str(port)}, tmp_path, "services.exporter")
    try:
        eventually(lambda: _answers(f"http://127.0.0.1:{port}/metrics"))
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
            assert b"cb_staleness_seconds 0.0" in answer.read()
    finally:
        process.terminate()
        process.wait(15)


def test_the_console_refuses_to_be_open_without_tls(environment: dict[str, str], tmp_path: Path) -> None:
    process = start({**environment, "BREAKER_CONSOLE__HOST": "0.0.0.0"}, tmp_path, "cli", "console")
    assert process.wait(30) == 2
    assert process.stderr is not None
    assert "unencrypted" in process.stderr.read()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
