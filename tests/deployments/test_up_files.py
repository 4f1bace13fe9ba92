"""`make` acts on a `make up` only while it runs, and only where nothing else is configured; what a crash left goes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from configuration.locations import LACKING
from deployments.up_files import hold_pid_file, is_running
from sandbox.child_process import free_port
from sandbox.embedded_redis import EmbeddedRedis
from tasks.recovery.state import RecoveryState, state_key
from tests.helpers import eventually

ROOT = Path(__file__).parents[2]
HOLD = """
import sys, time
from pathlib import Path
sys.path.insert(0, {root!r})
from deployments.up_files import hold_pid_file
with hold_pid_file(Path(".breaker")) as mine:
    assert mine
    Path(".breaker/breaker.toml").write_text('environment = "demo"\\nredis_url = "redis://127.0.0.1:{port}/0"\\n')
    Path(".breaker/up.mk").write_text("export BREAKER_CONFIG := {folder}/.breaker/breaker.toml\\n")
    print("up", flush=True)
    time.sleep(60)
"""
Make = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkout to type `make` in, with nothing of its own in it."""
    for entry in ROOT.iterdir():
        if entry.name not in (".breaker", "breaker.toml", ".git"):
            (tmp_path / entry.name).symlink_to(entry)
    return tmp_path


@pytest.fixture
def make(folder: Path) -> Make:
    def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("BREAKER_", "PREFECT_", "MAKE"))
        }
        return subprocess.run(
            ["make", "-s", "-o", ".venv/.ready", *arguments],
            cwd=folder,
            env={**kept, "HOME": str(folder), "COLUMNS": "200", **variables},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run


@pytest.fixture
def up(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """What `make up` does with its files; its Redis refuses."""
    program = HOLD.format(root=str(ROOT), port=free_port(), folder=folder)
    # Whatever runs the tests may have been told to ignore that its terminal closed.
    process = subprocess.Popen(
        ["env", "--default-signal=HUP", sys.executable, "-c", program],
        cwd=folder,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "up\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def environment_named(outcome: subprocess.CompletedProcess[str]) -> str:
    said = outcome.stdout + outcome.stderr
    return said.partition("environment ")[2].partition(" ")[0]


def production(folder: Path) -> str:
    return f'environment = "production"\nredis_url = "redis://127.0.0.1:{free_port()}/0"\nredis_timeout = 0.3\n'


def test_make_acts_on_it_while_it_runs_and_nothing_else_is_configured(make: Make, up: subprocess.Popen[str]) -> None:
    assert environment_named(make("circuit-status")) == "demo"


def test_a_configuration_in_the_folder_comes_before_it(make: Make, up: subprocess.Popen[str], folder: Path) -> None:
    (folder / "breaker.toml").write_text(production(folder))
    outcome = make("circuit-trip", "REASON=prices are wrong")
    assert environment_named(outcome) == "production", outcome.stderr


@pytest.mark.parametrize("by_argument", [False, True])
def test_a_configuration_that_is_named_comes_before_it(
    make: Make, up: subprocess.Popen[str], folder: Path, by_argument: bool
) -> None:
    (folder / "elsewhere.toml").write_text(production(folder))
    named = {"BREAKER_CONFIG": str(folder / "elsewhere.toml")}
    given = [f"{name}={value}" for name, value in named.items()] if by_argument else []
    outcome = make("kill-switch", "YES=1", *given, **({} if by_argument else named))
    assert environment_named(outcome) == "production", outcome.stderr


def test_another_address_in_the_environment_comes_before_it(make: Make, up: subprocess.Popen[str]) -> None:
    outcome = make(
        "circuit-status", BREAKER_ENVIRONMENT="staging", BREAKER_REDIS_URL=f"redis://127.0.0.1:{free_port()}"
    )
    assert environment_named(outcome) == "staging"


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGHUP])
def test_what_it_leaves_behind_is_not_acted_on_and_goes(
    make: Make, up: subprocess.Popen[str], folder: Path, end: signal.Signals
) -> None:
    up.send_signal(end)
    up.wait()
    assert (folder / ".breaker" / "up.mk").exists()
    outcome = make("circuit-status")
    assert environment_named(outcome) == "unnamed"
    assert "died here" in outcome.stderr
    assert list((folder / ".breaker").iterdir()) == []


def test_the_id_of_another_process_does_not_pass_for_it(make: Make, up: subprocess.Popen[str], folder: Path) -> None:
    """The machine gave its id to somebody else: us."""
    up.kill()
    up.wait()
    (folder / ".breaker" / "up.pid").write_text(str(os.getpid()))
    assert environment_named(make("circuit-status")) == "unnamed"
    (folder / ".breaker" / "up.pid").write_text(str(os.getpid()))
    assert "nothing is up" in make("down").stdout, "and we are not ended"


def test_down_ends_it_and_clean_removes_what_it_kept(make: Make, up: subprocess.Popen[str], folder: Path) -> None:
    (folder / ".breaker" / "kept").write_text("data")
    assert make("clean").returncode != 0 and (folder / ".breaker" / "kept").exists()
    assert make("down").returncode == 0
    assert up.wait(10) != 0
    assert [path.name for path in (folder / ".breaker").iterdir()] == ["kept"]
    assert "nothing is up" in make("down").stdout
    assert make("clean").returncode == 0 and not (folder / ".breaker").exists()


def test_what_a_recovery_says_next_can_be_pasted_into_a_plain_shell(
    make: Make, up: subprocess.Popen[str], folder: Path, redis_server: EmbeddedRedis, redis_client: redis.Redis
) -> None:
    (folder / ".breaker" / "breaker.toml").write_text(f'environment = "demo"\nredis_url = "{redis_server.url}"\n')
    with (folder / ".breaker" / "up.mk").open("a") as told:
        told.write(f"export {LACKING} := BREAKER_CONFIG\n")
    waiting = RecoveryState("an incident", "global", "a run", waiting_for="root-cause", question="root-cause-1-1")
    redis_client.set(state_key("global"), waiting.to_json())
    shown = make("recover").stdout.splitlines()
    commands = [line.strip() for line in shown[shown.index("next, for the root-cause:") + 1 :]]
    assert [command.split()[-1] for command in commands] == ["evidence", "answer"]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("BREAKER_", "PREFECT_", "MAKE"))}
    for command in commands:
        pasted = subprocess.run(
            ["bash", "-c", command], cwd=folder, env=kept, capture_output=True, text=True, timeout=60, check=False
        )
        assert "no recovery" not in pasted.stderr and "not found" not in pasted.stderr, (command, pasted.stderr)
        assert ("an incident" if "evidence" in command else "environment demo") in pasted.stderr


def test_only_one_has_the_folder(tmp_path: Path) -> None:
    with hold_pid_file(tmp_path) as first, hold_pid_file(tmp_path) as second:
        assert first and not second
        assert is_running(tmp_path)
    eventually(lambda: not is_running(tmp_path))
    assert list(tmp_path.iterdir()) == []
