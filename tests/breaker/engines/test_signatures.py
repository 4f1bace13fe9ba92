"""A guarded client's methods are called as the client's own are."""

from __future__ import annotations

import inspect
import re
from typing import Any

import ccxt
import ccxt.async_support
import ccxt.pro
import pytest
from alpaca.trading.client import TradingClient
from ib_async import IB

from breaker.engines import GuardedIB, GuardedTradingClient
from breaker.engines.ccxt_exchange import guarded_class


def of_ccxt(kind: Any, *, by_await: bool) -> tuple[Any, Any]:
    kind()  # the first object of its gives a class its names in camelCase
    return kind, guarded_class(kind, by_await=by_await)


CCXT = [
    of_ccxt(kind, by_await=module is not ccxt)
    for module in (ccxt, ccxt.async_support, ccxt.pro)
    for kind in (module.binance, module.binanceusdm, module.okx)
]

KEPT = [
    *((TradingClient, GuardedTradingClient, name) for name in dir(TradingClient) if not name.startswith("__")),
    *((IB, GuardedIB, name) for name in dir(IB) if not name.startswith("_")),
    *((kind, guarded, name) for kind, guarded in CCXT for name in vars(guarded) if not name.startswith("__")),
]
"""The client, its guard, and a method of both."""


@pytest.mark.parametrize(("client", "guarded", "name"), KEPT)
def test_a_guarded_method_has_the_original_s_signature(client: type, guarded: type, name: str) -> None:
    original = getattr(client, name)
    if callable(original):
        kept = inspect.signature(getattr(guarded, name))
        assert list(kept.parameters) == list(inspect.signature(original).parameters)
        if not name.startswith("_"):
            assert _read(kept) == _read(inspect.signature(original))


def _read(signature: inspect.Signature) -> list[tuple[object, ...]]:
    """Names, kinds and defaults; and the annotations as text, which they are in one of the two."""
    said = [*signature.parameters.values()]
    names = [re.sub(r"\b\w+\.|'", "", inspect.formatannotation(each.annotation)) for each in said]
    names = ["_empty" if name == "Any" else name for name in names]
    return [(each.name, each.kind, each.default, name) for each, name in zip(said, names, strict=True)]
