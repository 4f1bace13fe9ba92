"""README's ten promises, each with tests that carry its number."""

from __future__ import annotations

import re

import pytest

from tests.docs.pages import ROOT

PROMISES = range(1, 11)


def test_the_readme_lists_ten_promises() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    section = readme.split("## What you can rely on")[1]
    assert [int(number) for number in re.findall(r"^(\d+)\. \*\*", section, re.MULTILINE)] == list(PROMISES)
    assert '`grep -rn "promise_4_" tests`' in section


@pytest.mark.parametrize("number", PROMISES)
def test_each_promise_is_tested_by_name(number: int) -> None:
    named = re.compile(rf"^(?:async )?def test_promise_{number}_\w+\(", re.MULTILINE)
    found = [path for path in (ROOT / "tests").rglob("test_*.py") if named.search(path.read_text(encoding="utf-8"))]
    assert found, f"no test's name begins with test_promise_{number}_"
