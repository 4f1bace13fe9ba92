"""A demo and production on one machine: whatever command acts, it acts on the one that is configured where it is typed.

Which of them `make` takes is tested in `tests/deployments/test_up_files.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis
import typer.main

from cli.app import command_line
from proofs.fork_server import ForkServer
from sandbox.embedded_redis import EmbeddedRedis
from sandbox.exchange.scenario import parse
from sandbox.exchange.server import PaperExchangeThread
from tests.cli.conftest import MAY_RESET
from tests.cli.test_circuit_commands import GOOD_REASON
from tests.cli.test_kill_command import PACE, account

ACTING = (
    ("init",),
    ("trip", "--reason", "prices are wrong"),
    ("recover start",),
    ("recover answer", "--root-cause", GOOD_REASON),
    ("recover end", "--reason", GOOD_REASON),
    ("reset", "--reason", GOOD_REASON, "--acknowledge", "--override", GOOD_REASON),
    ("equity rebase", "--reason", GOOD_REASON),
    ("equity transfer", "100", "--reason", GOOD_REASON),
    ("kill", "--yes"),
    ("audit drain",),
    ("audit verify",),
    ("audit export", "export.jsonl"),
    ("audit upgrade",),
    ("deadman renew", "watchdog", "--within", "3600"),
    ("deadman release", "watchdog"),
    ("backup", "backup.tar"),
    ("restore", "backup.tar"),
    ("user add", "olga"),
    ("user role", "olga", "operator"),
    ("user password", "olga"),
    ("token create", "olga", "--label", "test", "--permission", "VIEW_CIRCUIT"),
    ("token revoke", "none"),
    ("user remove", "olga"),
)
READING = {
    "acl",
    "status",
    "history",
    "doctor",
    "recover",
    "recover evidence",
    "audit",
    "user list",
    "token list",
    "accounts list",
    "accounts test",
    "equity show",
    "rules show",
    "rules replay",
    "safety show",
    "incidents",
    "incidents show",
    "config",
}
OTHERWISE = {
    "audit quarantine": "refused while nothing is lost; tests/cli/test_audit_quarantine.py",
    "safety arm": "refused where no venue has a timer; tests/cli/test_safety.py",
    "safety disarm": "as `safety arm`",
    "drill": "on an account of its own; tests/flows/test_drill.py",
    "standby": "resident; goes by the configuration that it was started with, as each of these",
    "services": "resident",
    "monitor": "resident",
    "gateway": "resident; tests/services/gateway",
    "console": "resident",
    "metrics": "resident",
}


@dataclass(frozen=True, slots=True)
class Stack:
    """What commands of one configuration act on."""

    name: str
    home: Path
    redis_url: str
    exchange: PaperExchangeThread

    @property
    def configuration(self) -> str:
        top = f'environment = "{self.name}"\nredis_url = "{self.redis_url}"\nstate_dir = "{self.home / "state"}"\n'
        return f"{top}{MAY_RESET}{PACE}record_wait = 0.5\n{account(self.exchange.url)}"

    def picture(self) -> dict[str, Any]:
        """Everything that a command could have changed."""
        with closing(redis.Redis.from_url(self.redis_url)) as client:
            keys = {key.decode(): client.dump(key) for key in client.scan_iter()}
        told = self.exchange.report()
        book = {name: told[name] for name in ("is_flat", "open_order_ids", "positions")}
        files = {str(path): path.read_bytes() for path in self.home.rglob("*") if path.is_file()}
        return {"keys": keys, "files": files, "book": book}


@pytest.fixture
def stacks(redis_server: EmbeddedRedis, redis_client: redis.Redis, tmp_path: Path) -> Iterator[Mapping[str, Stack]]:
    """Production in the folder, and a demo where `make up` keeps it; each with a Redis and an exchange of its own."""
    found: dict[str, Stack] = {}
    book = "[book]\norders = 4\npositions = 2\n"
    with PaperExchangeThread(parse(book)) as one, PaperExchangeThread(parse(book)) as other:
        for number, (name, exchange) in enumerate({"production": one, "demo": other}.items()):
            home = tmp_path / name
            home.mkdir()
            url = redis_server.url.rpartition("/")[0] + f"/{number}"
            found[name] = Stack(name, home, url, exchange)
        yield found
    redis_client.flushall()


def leaves(command: Any, path: str = "") -> Iterator[str]:
    """Every command that can be typed, groups that do something themselves too."""
    for name, inner in command.commands.items():
        whole = f"{path} {name}".strip()
        if not hasattr(inner, "commands") or inner.invoke_without_command:
            yield whole
        if hasattr(inner, "commands"):
            yield from leaves(inner, whole)


def test_every_command_is_known_to_act_or_not_to() -> None:
    known = [*(command[0] for command in ACTING), *READING, *OTHERWISE]
    assert sorted(known) == sorted(leaves(typer.main.get_command(command_line())))


@pytest.mark.parametrize("acted_on", ["production", "demo"])
def test_no_command_reaches_the_other_one(
    stacks: Mapping[str, Stack],
    acted_on: str,
    environment: dict[str, str],
    fork_server: ForkServer,
    tmp_path: Path,
) -> None:
    """Production is what the folder has, and a shell that was told nothing acts on it; the demo has to be named."""
    mine, production, demo = stacks[acted_on], stacks["production"], stacks["demo"]
    other = demo if mine is production else production
    (tmp_path / "breaker.toml").write_text(production.configuration)
    (tmp_path / ".breaker").mkdir()
    (tmp_path / ".breaker" / "breaker.toml").write_text(demo.configuration)
    if mine is demo:
        environment["BREAKER_CONFIG"] = str(tmp_path / ".breaker" / "breaker.toml")
    before, own = other.picture(), mine.picture()
    for command, *arguments in ACTING:
        # An orchestrator that refuses is soon given up by a kill, and red at a reset, which measures it at length.
        shell = {name: value for name, value in environment.items() if (command, name) != ("reset", "PREFECT_API_URL")}
        done = fork_server.run("cli", *command.split(), *arguments, env=shell, cwd=tmp_path, timeout=60)
        assert done.returncode != 2 or command == "token revoke", (command, done.stderr)
        assert f"environment {other.name}" not in done.stdout + done.stderr, command
        assert other.picture() == before, (command, done.stderr)
    after = mine.picture()
    assert after["keys"] != own["keys"] and after["files"] != own["files"] and after["book"]["is_flat"]
