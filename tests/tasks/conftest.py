from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from sandbox.exchange.server import PaperExchange
from tests.tasks.campaign import scale_time
from tests.tasks.timed_venue import StillClock, stop_time


@pytest.fixture(scope="session")
def exchange() -> Iterator[PaperExchange]:
    """One exchange for the session; each run starts it over with its scenario."""
    with PaperExchange() as server:
        yield server


@pytest.fixture(scope="session")
def emergency() -> ModuleType:
    """The last resort's one file, which is no part of a package."""
    file = Path(__file__).parents[2] / "deployments" / "emergency.py"
    spec = importlib.util.spec_from_file_location("emergency", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["emergency"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def scaled_time(monkeypatch: pytest.MonkeyPatch) -> None:
    scale_time(monkeypatch)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> StillClock:
    return stop_time(monkeypatch)
