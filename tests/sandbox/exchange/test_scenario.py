from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from random import Random

import pytest

from sandbox.exchange.scenario import Scenario, ScenarioError, load, parse


def test_an_empty_file_is_a_quiet_market() -> None:
    assert parse("") == Scenario()


def test_fractions_are_exact() -> None:
    scenario = parse('[prices]\nAAPL = 0.1\n[[positions]]\nsymbol = "AAPL"\nqty = 0.3\n')
    assert scenario.prices["AAPL"] * 3 == scenario.positions[0].qty == Decimal("0.3")


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ("[book]\nordres = 3\n", "scenario key book.ordres: Extra inputs are not permitted"),
        ("rate_limit = 0\n", "scenario key rate_limit: Input should be greater than or equal to 1"),
        ("[cancels]\nrace_probability = 2\n", "scenario key cancels.race_probability: "),
        ('[[halts]]\nmode = "hold"\n', "scenario key halts.0: give either symbol or count"),
        ("latency_ms = {low = 2}\n", "scenario key latency_ms: a uniform distribution needs low and high"),
        ("latency_ms = {low = 2, high = 1}\n", "with low ≤ high"),
        ("latency_ms = {fixed = 2, median = 1}\n", "give one of"),
        ('[[trouble]]\nkind = "429"\napplied = true\n', "a rate-limited request is never applied"),
        ('[[trouble]]\nkind = "401"\napplied = true\n', "turned away is never applied"),
        ("[[orders]]\nqty = 1\n", "scenario key orders.0: give symbol and side, or legs"),
        ('[[orders]]\nsymbol = "AAPL"\nside = "buy"\n', "scenario key orders.0: give either qty or notional"),
        ("seed = \n", "scenario is not TOML: "),
    ],
)
def test_a_scenario_that_cannot_be_used_names_the_key_in_one_line(toml: str, message: str) -> None:
    with pytest.raises(ScenarioError) as error:
        parse(toml)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    missing = tmp_path / "missing.toml"
    with pytest.raises(ScenarioError, match=r"missing\.toml cannot be read"):
        load(missing)
    missing.write_text("seed = true false")
    with pytest.raises(ScenarioError, match=r"missing\.toml: scenario is not TOML"):
        load(missing)


def test_distributions_keep_to_what_they_say() -> None:
    random = Random(1)
    uniform = parse("latency_ms = {low = 5, high = 7}\n").latency_ms
    assert all(5 <= uniform.sample(random) <= 7 for _ in range(200))
    capped = parse("latency_ms = {median = 20, sigma = 2, cap = 50}\n").latency_ms
    samples = sorted(capped.sample(random) for _ in range(1_001))
    assert samples[-1] == 50
    assert 15 < samples[500] < 26
    assert parse("latency_ms = 3\n").latency_ms.sample(random) == 3
