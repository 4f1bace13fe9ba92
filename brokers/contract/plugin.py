"""Give pytest the option that names the adapter to check, and the suite the venue that it is checked against."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

from brokers.contract.venue import VenueUnderTest

OPTION = "--adapter"


def pytest_addoption(parser: pytest.Parser) -> None:
    """`package.module:function`."""
    group = parser.getgroup("trading-breaker")
    group.addoption(OPTION, metavar="PACKAGE:MAKE", help="the adapter that brokers.contract checks, by what makes it")


@pytest.fixture(scope="session")
def venue(pytestconfig: pytest.Config) -> Iterator[VenueUnderTest]:
    """The venue that `--adapter` names, for as long as the suite runs."""
    made = _make(pytestconfig.getoption(OPTION))
    yield made
    made.stop()


def _make(named: str | None) -> VenueUnderTest:
    module, colon, function = (named or "").partition(":")
    if not colon:
        raise pytest.UsageError(f"name the adapter to check: {OPTION} mypackage:make (docs: Write an adapter)")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)  # as `python -m pytest` does
    made: VenueUnderTest = getattr(import_module(module), function)()
    return made
