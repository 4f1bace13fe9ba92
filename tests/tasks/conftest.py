from __future__ import annotations

from collections.abc import Iterator

import pytest

from sandbox.exchange.server import PaperExchange
from tests.tasks.campaign import scale_time


@pytest.fixture(scope="session")
def exchange() -> Iterator[PaperExchange]:
    """One exchange for the session; each run starts it over with its scenario."""
    with PaperExchange() as server:
        yield server


@pytest.fixture
def scaled_time(monkeypatch: pytest.MonkeyPatch) -> None:
    scale_time(monkeypatch)
