"""`make up` and `make down`: the whole stack, settings for other terminals, and nothing left behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from proofs.fork_server import Forked, ForkServer
from tests.conftest import PrefectHome
from tests.helpers import eventually

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
IN_THE_BACKGROUND = """
import runpy, signal
signal.signal(signal.SIGINT, signal.SIG_IGN)
runpy.run_module("deployments.up", run_name="__main__", alter_sys=True)
"""
pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("BREAKER_", "PREFECT_"))}
    return {**kept, "HOME": str(tmp_path), "PYTHONPATH": str(ROOT), "COLUMNS": "80"}


@pytest.fixture
def up(
    tmp_path: Path, environment: dict[str, str], prefect_home: PrefectHome, fork_server: ForkServer
) -> Iterator[Forked]:
    """Started as a script starts it in the background: with Ctrl-C ignored. It has been up before."""
    prefect_home(tmp_path / ".breaker" / "prefect")
    with (tmp_path / "up.log").open("wb") as log:
        process = fork_server.start(
            "-c", IN_THE_BACKGROUND, env=environment, cwd=tmp_path, stdout=log, stderr=log, children=True
        )
    yield process
    process.kill()
    process.wait()


def paste(command: str, before: list[str], environment: dict[str, str]) -> None:
    """As a person does, into a shell that knows nothing else; the Makefile is this checkout's."""
    script = "\n".join([*before, command.replace("make ", f"make -s -f {ROOT}/Makefile -o .venv/.ready BIN={BIN} ")])
    done = subprocess.run(
        ["bash", "-c", script], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, (command, done.stdout, done.stderr)
    if "kill-switch" in command:
        assert "environment demo" in done.stderr and "accounts PAPER" in done.stderr and "FLAT" in done.stderr


def test_other_terminals_act_on_it_and_down_leaves_nothing(
    up: Forked, fork_server: ForkServer, tmp_path: Path, environment: dict[str, str]
) -> None:
    settings = tmp_path / ".breaker" / "up.mk"
    log = tmp_path / "up.log"
    eventually(lambda: settings.exists() or up.poll() is not None, log.read_text, within=90, every=0.1)
    assert up.poll() is None, log.read_text()
    told = dict(line.removeprefix("export ").split(" := ", 1) for line in settings.read_text().splitlines())
    status = fork_server.run("cli", "status", cwd=tmp_path, env=environment | told)
    assert "OPEN" in status.stdout, status.stderr
    second = fork_server.run("deployments.up", cwd=tmp_path, env=environment)
    assert second.returncode == 1
    assert "`make down` stops it" in second.stdout

    screen = log.read_text()
    assert all(len(line) <= 80 for line in screen.partition("In another terminal:")[0].splitlines()), screen
    told_of = dict(line.split(maxsplit=1) for line in screen.splitlines() if "http" in line and "export" not in line)
    for name in ("console", "Prefect", "metrics"):
        with urllib.request.urlopen(told_of[name].strip(), timeout=5) as answer:
            assert answer.status == 200, name
    assert "Redis" in screen and "sqlite:///.breaker/state/audit.db" in screen and "sandbox exchange" in screen
    assert re.search(r"The console: sign in as admin with \S{12,}", screen)

    shown = [line.strip() for line in log.read_text().splitlines()]
    pasted = shown[shown.index("In another terminal:") + 1 : shown.index("Ctrl-C stops everything.")]
    assert pasted[0] == f"cd {tmp_path}" and pasted[1].startswith("export BREAKER_CONFIG=")
    for command in pasted[2:]:
        paste(command, pasted[:2], environment)

    children = psutil.Process(up.pid).children(recursive=True)
    os.kill(int((tmp_path / ".breaker" / "up.pid").read_text()), signal.SIGTERM)
    assert up.wait(40) == 0
    _, alive = psutil.wait_procs(children, timeout=10)
    assert [process.cmdline() for process in alive] == []
    assert not settings.exists()
    assert not (tmp_path / ".breaker" / "breaker.toml").exists()
