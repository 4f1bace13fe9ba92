"""A worker that is told to stop ends once it runs nothing, even one that doesn't listen; one that ends says how."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from services import pool_worker
from services.pool_worker import run_worker
from tests.helpers import PATIENCE, eventually

DEAF = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
until_there = "import pathlib, sys, time\\nwhile not pathlib.Path(sys.argv[1]).exists(): time.sleep(0.02)"
run = subprocess.Popen([sys.executable, "-c", until_there, sys.argv[1]])
open(sys.argv[2], "w").close()
run.wait()
time.sleep(600)
"""
"""Makes its second file once it runs something, until its first file is there; doesn't end when it is asked to."""


@contextmanager
def running(command: list[str], stopping: threading.Event) -> Iterator[list[int]]:
    """The exit status, once there is one."""
    statuses: list[int] = []
    thread = threading.Thread(target=lambda: statuses.append(run_worker(command, stopping)))
    thread.start()
    yield statuses
    thread.join(PATIENCE)
    assert not thread.is_alive()


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_worker, "LOOK_EVERY", 0.02)
    monkeypatch.setattr(pool_worker, "IDLE_FOR", 0.1)
    monkeypatch.setattr(pool_worker, "LEAVE_WITHIN", 0.1)


def test_what_runs_is_brought_to_its_end_and_then_the_worker(tmp_path: Path) -> None:
    over, begun = tmp_path / "over", tmp_path / "begun"
    stopping = threading.Event()
    with running([sys.executable, "-c", DEAF, str(over), str(begun)], stopping) as statuses:
        eventually(begun.exists)
        stopping.set()
        threading.Event().wait(0.6)  # several times as long as it waits for one that runs nothing
        ended_early = list(statuses)
        over.touch()
    assert ended_early == []
    assert statuses == [0]


def test_a_worker_that_ends_by_itself_says_how() -> None:
    with running([sys.executable, "-c", "raise SystemExit(7)"], threading.Event()) as statuses:
        eventually(lambda: statuses)
    assert statuses == [7]
