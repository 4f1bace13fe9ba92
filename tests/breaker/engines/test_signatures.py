"""A guarded client's methods are called as the client's own are."""

from __future__ import annotations

import inspect

import pytest
from alpaca.trading.client import TradingClient

from breaker.engines import GuardedTradingClient

KEPT = [
    *((TradingClient, GuardedTradingClient, name) for name in dir(TradingClient) if not name.startswith("__")),
]
"""The client, its guard, and a method of both."""


@pytest.mark.parametrize(("client", "guarded", "name"), KEPT)
def test_a_guarded_method_has_the_original_s_signature(client: type, guarded: type, name: str) -> None:
    original = getattr(client, name)
    if callable(original):
        kept = inspect.signature(getattr(guarded, name))
        assert list(kept.parameters) == list(inspect.signature(original).parameters)
        if not name.startswith("_"):
            assert kept == inspect.signature(original)
