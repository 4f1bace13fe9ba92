"""Name what is mutated, the most important first, and the tests that judge it: fast ones, in this process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

PLAN = ("tests/tasks/test_plan.py", "tests/tasks/test_memory.py", "tests/tasks/test_books.py")
GATE = (
    "tests/breaker/gate/test_risk_reduction.py",
    "tests/breaker/gate/test_intents.py",
    "tests/breaker/gate/test_judge.py",
    "tests/breaker/gate/test_lease.py",
)
ROUNDS = ("tests/tasks/test_rounds.py", "tests/tasks/test_until_no_orders.py", "tests/tasks/test_closes_sent.py")


@dataclass(frozen=True)
class Target:
    tests: Sequence[str]
    """Arguments of pytest."""
    functions: Sequence[str] = ()
    """What of the module decides; empty: all of it."""


TARGETS: Mapping[str, Target] = {
    "tasks/kill/plan.py": Target(PLAN),
    "breaker/gate/risk_reduction.py": Target(GATE),
    "breaker/gate/judge.py": Target(GATE),
    "tasks/kill/cover.py": Target(PLAN),
    "tasks/kill/memory.py": Target(PLAN),
    "tasks/kill/ladder.py": Target(PLAN),
    "ledger/verify.py": Target(("tests/ledger/test_walk.py",)),
    "ledger/record.py": Target(("tests/ledger/test_record.py", "tests/ledger/test_walk.py")),
    "brokers/alpaca/reading.py": Target(("tests/brokers/test_alpaca_reading.py",)),
    "brokers/alpaca/adapter.py": Target(
        ("tests/brokers/test_alpaca.py", "-k", "opinion or lists_has"), ("AlpacaBroker.open_orders",)
    ),
    "breaker/gate/lease.py": Target(GATE),
    "tasks/kill/verify.py": Target(("tests/tasks/test_verify_flat.py",)),
    "tasks/kill/flatten.py": Target(ROUNDS),
}
