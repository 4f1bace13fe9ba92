from __future__ import annotations

import subprocess
import sys

import pytest

import breaker


def test_importing_breaker_brings_in_nothing_heavy() -> None:
    code = (
        "import sys, breaker; heavy = {'redis', 'pydantic', 'prefect', 'sqlalchemy', 'asyncio'}; "
        "print(*sorted(heavy & {name.split('.')[0] for name in sys.modules}))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"


@pytest.mark.parametrize("name", breaker.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(breaker, name).__name__ == name


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_thing"):
        _ = breaker.no_such_thing
