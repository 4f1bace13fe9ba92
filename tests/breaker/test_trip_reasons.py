"""Each reason that the project gives for a trip stands in one place, and is what the state then says."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from breaker import State
from breaker.limits import Rule
from breaker.trip_reasons import TripReason

ROOT = Path(__file__).parents[2]
PRODUCT = (
    "breaker", "configuration", "brokers", "ledger", "sandbox", "tasks", "flows", "services", "console", "cli",
    "deployments",
)  # fmt: skip
REASONS = {reason.value for reason in TripReason}
ALLOWED = {
    "breaker/trip_reasons.py": REASONS,
    # A permission that happens to have the same name.
    "console/auth/permissions.py": {TripReason.KILL_SWITCH.value},
}
IMPORTS_NOTHING_OF_OURS = "deployments/emergency.py"


def texts(module: Path) -> Iterator[str]:
    """Every string constant of a module."""
    for node in ast.walk(ast.parse(module.read_text("utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def test_no_module_spells_a_reason_out() -> None:
    modules = [module for package in PRODUCT for module in (ROOT / package).rglob("*.py")]
    assert len(modules) > 200
    spelled = [
        f"{name}: {text}"
        for module in modules
        if (name := module.relative_to(ROOT).as_posix()) != IMPORTS_NOTHING_OF_OURS
        for text in texts(module)
        if text in REASONS - ALLOWED.get(name, set())
    ]
    assert spelled == []


def test_each_rule_trips_for_the_reason_of_its_name() -> None:
    assert {rule.name: rule.value for rule in Rule} == {rule.name: TripReason[rule.name].value for rule in Rule}


TOLD_THE_SCRIPT = {Rule.ORDER_RATE, Rule.MARGIN, Rule.API_LATENCY}
"""Rules of scripts that judge by any."""


@pytest.mark.parametrize("rule", [rule for rule in Rule if rule not in TOLD_THE_SCRIPT])
def test_the_scripts_know_the_rules_by_the_same_words(rule: Rule) -> None:
    scripts = (ROOT / "breaker" / "scripts").glob("*.lua")
    assert any(f"'{rule}'" in script.read_text("utf-8") for script in scripts)


def test_a_reason_is_stored_as_its_word_and_any_other_text_is_taken_too(cb: Any) -> None:
    cb.initialize_state()
    assert cb.trip(TripReason.DRAWDOWN)["trip_reason"] == "DRAWDOWN"
    cb.reset(reset_by="ada")
    status = cb.trip("our own rule 17")
    assert (status.state, status.trip_reason) == (State.TRIPPED, "our own rule 17")
    assert [event.reason for event in cb.get_history(3)] == ["our own rule 17", "", "DRAWDOWN"]
