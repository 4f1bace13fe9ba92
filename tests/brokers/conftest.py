from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from sandbox.exchange.scenario import parse
from sandbox.exchange.server import PaperExchangeThread

Venue = Callable[[str], PaperExchangeThread]
"""Starts the exchange over with the scenario in this TOML."""


@pytest.fixture(scope="module")
def server() -> Iterator[PaperExchangeThread]:
    """A sandbox exchange on a thread of its own, which coverage and breakpoints reach."""
    with PaperExchangeThread() as exchange:
        yield exchange


@pytest.fixture
def venue(server: PaperExchangeThread) -> Venue:
    def start(toml: str) -> PaperExchangeThread:
        server.restart(parse(toml))
        return server

    return start
