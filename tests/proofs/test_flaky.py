"""The search for flaky tests counts what fails and what is left running, and leaves nothing running itself."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]
TESTS = """
import subprocess, sys
from pathlib import Path

def test_good():
    pass

def test_every_other_time():
    seen = Path(__file__).with_name("seen")
    if seen.exists():
        seen.unlink()
    else:
        seen.touch()
        raise AssertionError

def test_leaves_something_running():
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(31415)"], start_new_session=True)
"""


def flaky(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "proofs.flaky", *arguments]
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=110, check=False)


def test_what_fails_and_what_is_left_running_is_counted(tmp_path: Path) -> None:
    tests = tmp_path / "test_some.py"
    tests.write_text(TESTS)
    outcome = flaky("--busy", "0", "--times", "2", "--", str(tests))
    assert outcome.returncode == 1, outcome.stdout + outcome.stderr
    assert re.search(r"^run 1 of 2: 2 passed, 1 failed, 1 processes left running", outcome.stdout, re.MULTILINE)
    assert re.search(r"^run 2 of 2: 3 passed, 0 failed, 1 processes left running", outcome.stdout, re.MULTILINE)
    assert re.search(r"^0 of 2 runs clean", outcome.stdout, re.MULTILINE)
    assert re.search(r"^ +1 × .*::test_every_other_time$", outcome.stdout, re.MULTILINE)
    commands = [" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"])]
    assert not [command for command in commands if "time.sleep(31415)" in command]


def test_a_run_without_an_end_is_ended(tmp_path: Path) -> None:
    tests = tmp_path / "test_some.py"
    tests.write_text("import time\ndef test_endless():\n    time.sleep(600)\n")
    outcome = flaky("--busy", "0", "--times", "1", "--minutes", "0.05", "--", str(tests))
    assert outcome.returncode == 1
    assert "the run itself ended with" in outcome.stdout


def test_clean_runs_are_a_success(tmp_path: Path) -> None:
    tests = tmp_path / "test_some.py"
    tests.write_text("def test_good():\n    pass\n")
    outcome = flaky("--busy", "1", "--times", "1", "--", str(tests))
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    assert "1 of 1 runs clean" in outcome.stdout
