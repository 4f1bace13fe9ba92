"""The mutation testing tells the changes that tests notice from those that they don't, and leaves the module alone."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from proofs.mutants.mutations import mutants_of
from proofs.mutants.trial import graft

DECISION = """
from dataclasses import dataclass

LIMIT = 3

@dataclass(frozen=True)
class Pace:
    step: int = 1

    def of(self, count: int) -> int:
        return count * self.step

def room(held: int, working: int = 0, reserved: int | None = None) -> int:
    taken = working + (reserved or 0)
    if held - taken > LIMIT:
        raise ValueError("too much")
    return min(held - taken, LIMIT)
"""
TESTS = """
import pytest
from toy.decision import room

def test_room():
    assert room(2) == 2 and room(3, 1, None) == 2
    with pytest.raises(ValueError):
        room(4)
"""


def changes(source: str) -> set[str]:
    return {f"{mutant.before} → {mutant.after}" for mutant in mutants_of(source)}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("x = a < b", {"a < b → a <= b", "a < b → a >= b"}),
        ("x = a + b", {"a + b → a - b", "a + b → a", "a + b → b"}),
        ("x = a or b", {"a or b → a and b", "a or b → a", "a or b → b"}),
        ("x = a if b else c", {"a if b else c → a", "a if b else c → c"}),
        ("x = not a", {"not a → a"}),
        ("x = max(a, b)", {"max(a, b) → min(a, b)"}),
        ("x = [a for a in b if c]", {"for a in b if c → for a in b"}),
        ("LIMIT = 7", {"LIMIT = 7 → 7 becomes 8", "LIMIT = 7 → 7 becomes 6"}),
        ("def f():\n    return x", {"return x → return None"}),
        ("def f():\n    if x:\n        raise y", {"if x → if True", "if x → if False", "raise y → nothing"}),
        ("def f(a: int | None = None) -> int | None:\n    'Words, 7.'", set()),
        ("import a\nx = f'{a + 1}'", set()),
    ],
)
def test_what_is_changed(source: str, expected: set[str]) -> None:
    assert changes(source) == expected


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "decision.py").write_text(DECISION)
    (tmp_path / "test_room.py").write_text(TESTS)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "toy.decision", raising=False)
    return importlib.import_module("toy.decision")


def test_a_change_reaches_functions_methods_defaults_and_constants_wherever_they_are_imported(toy: ModuleType) -> None:
    room, pace = toy.room, toy.Pace()
    wanted = {"held - taken > LIMIT → held - taken >= LIMIT", "count * self.step → count", "LIMIT = 3 → 3 becomes 4"}
    for mutant in mutants_of(DECISION):
        if f"{mutant.before} → {mutant.after}" in wanted:
            graft(toy, mutant)
    assert toy.LIMIT == 4 and pace.of(5) == 5
    with pytest.raises(ValueError, match="too much"):
        room(4)
    for mutant in mutants_of(DECISION):
        if mutant.after == "0 becomes 1" and mutant.function == "room":
            graft(toy, mutant)
    assert room(2) == 1


def test_survivors_are_those_that_the_tests_do_not_notice(toy: ModuleType, tmp_path: Path) -> None:
    program = (
        "from proofs.mutants.trial import try_all\n"
        "def told(outcome):\n"
        "    if not outcome.killed: survivors.append(f'{outcome.mutant.before} → {outcome.mutant.after}')\n"
        "survivors = []\n"
        "try_all('toy/decision.py', ['test_room.py'], lambda mutant: True, told)\n"
        "print(sorted(survivors))"
    )
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={"PYTHONPATH": f"{tmp_path}:{root}", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "'reserved or 0 → reserved and 0'" not in done.stdout, "None is no number"
    assert "'reserved or 0 → 0'" in done.stdout
    assert "'working + (reserved or 0) → working'" in done.stdout
    assert "'working + (reserved or 0) → reserved or 0'" not in done.stdout
    assert "'held - taken > LIMIT → held - taken <= LIMIT'" not in done.stdout
    assert (tmp_path / "toy" / "decision.py").read_text() == DECISION
