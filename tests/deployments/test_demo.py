"""`make demo` on a machine where nothing runs: it ends in success, and leaves nothing behind however it ends."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.conftest import PrefectHome
from tests.helpers import PATIENCE, eventually

ROOT = Path(__file__).parents[2]
SMALL = ("--orders", "20", "--positions", "8")
AT_ALL_VENUES = (*SMALL, "--venues", "all")


@pytest.fixture
def demo(request: pytest.FixtureRequest, tmp_path: Path, prefect_home: PrefectHome) -> Iterator[subprocess.Popen[str]]:
    """With the options of the parameter, started as a script starts it in the background: with Ctrl-C ignored."""
    database = prefect_home(tmp_path / "migrated") / "prefect.db"
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("BREAKER_", "PREFECT_"))}
    process = subprocess.Popen(
        [sys.executable, "-m", "deployments.demo", *getattr(request, "param", SMALL)],
        cwd=ROOT,
        env={
            **kept,
            "PREFECT_API_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{database}",
            "HOME": str(tmp_path),
            "TMPDIR": str(tmp_path),
            "COLUMNS": "160",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),  # noqa: PLW1509
    )
    yield process
    if process.poll() is None:
        process.kill()
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


def started_by(process: subprocess.Popen[str], at_least: int) -> list[psutil.Process]:
    """Wait until the demo has started that many children."""

    def children() -> list[psutil.Process]:
        assert process.poll() is None
        found = psutil.Process(process.pid).children(recursive=True)
        return found if len(found) >= at_least else []

    return eventually(children, within=60, every=0.05)


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


@pytest.mark.timeout(300)
@pytest.mark.parametrize("demo", [AT_ALL_VENUES], indirect=True)
def test_one_kill_switch_flattens_an_account_at_each_venue(demo: subprocess.Popen[str]) -> None:
    children = started_by(demo, at_least=6)
    said, _ = demo.communicate(timeout=240)
    assert demo.returncode == 0, said
    ours, theirs = said.split("The exchanges' own reports")
    for account in ("ALPACA", "SPOT", "PERPS", "IB"):
        assert re.search(rf"{account} +✓ flat +[1-9]\d* → 0", ours), said
        assert re.search(rf"{account} +yes +0 +0 .* 0 *\n", theirs), said
    assert "keeps USDT, USDC, and 3 balances below the least order" in theirs
    assert "Traceback" not in said
    assert_gone(children)


def test_venues_that_it_does_not_know_are_told_in_one_line() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "deployments.demo", "--venues", "kraken"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert ran.returncode == 2
    assert ran.stdout == "The demo knows no venues 'kraken': VENUES is all, or alpaca, as it is unless given.\n"
    assert ran.stderr == ""


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
