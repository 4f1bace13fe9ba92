"""`make demo` on a machine where nothing runs: it ends in success, and leaves nothing behind however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[2]
SMALL = ("--orders", "20", "--positions", "8")


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("BREAKER_", "PREFECT_"))}
    process = subprocess.Popen(
        [sys.executable, "-m", "deployments.demo", *SMALL],
        cwd=ROOT,
        env={**kept, "HOME": str(tmp_path), "TMPDIR": str(tmp_path), "COLUMNS": "160"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    yield process
    if process.poll() is None:
        process.kill()
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


def started_by(process: subprocess.Popen[str], at_least: int) -> list[psutil.Process]:
    """Wait until the demo has started that many children."""
    deadline = time.monotonic() + 60
    while len(children := psutil.Process(process.pid).children(recursive=True)) < at_least:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return children


def assert_gone(processes: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(processes, timeout=10)
    assert [process.cmdline() for process in alive] == []


def test_it_halts_cancels_flattens_and_says_so(demo: subprocess.Popen[str], tmp_path: Path) -> None:
    children = started_by(demo, at_least=3)
    said, _ = demo.communicate(timeout=110)
    assert demo.returncode == 0, said
    for word in ("HALTED", "FIRST SWEEP", "✓ FLAT", "The exchange's own report"):
        assert word in said
    assert "NOT FLAT" not in said
    assert "Traceback" not in said
    assert_gone(children)
    assert list(tmp_path.glob("breaker-demo-*")) == []


def test_ctrl_c_stops_everything_that_it_started(demo: subprocess.Popen[str]) -> None:
    children = started_by(demo, at_least=3)
    demo.send_signal(signal.SIGINT)
    said, _ = demo.communicate(timeout=30)
    assert demo.returncode == 130
    assert "Traceback" not in said
    assert_gone(children)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells children that their parent died")
def test_a_crash_leaves_nothing_running(demo: subprocess.Popen[str]) -> None:
    children = started_by(demo, at_least=3)
    demo.kill()
    demo.wait()
    assert_gone(children)
