"""ccxt's exchanges against the sandbox exchange, blocking and awaited behind one face, with a gate in front."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import ccxt
import ccxt.async_support

from breaker.engines import guard_exchange
from breaker.gate import Gate

BTC, ETH = "BTC/USDT:USDT", "ETH/USDT:USDT"
SPOT_BTC = "BTC/USDT"
FUTURES = """
protocol = "binance-futures"
prices = { BTCUSDT = 95000, ETHUSDT = 3500 }
rate_limit = 1000000
order_limit = 1000000
fills.delay = 0.0
"""
HEDGED = f"{FUTURES}account.hedge_mode = true\n"
SPOT = """
protocol = "binance-spot"
prices = { "BTC/USDT" = 95000, "ETH/USDT" = 3500 }
rate_limit = 1000000
order_limit = 1000000
fills.delay = 0.0
account.cash = 1000000
"""


def configured(kind: Any, url: str, **more: Any) -> Any:
    """An exchange of this class with all its addresses at `url`, which is all that is changed of it."""
    linear = "usdm" in kind.__name__
    options = {"fetchMarkets": {"types": ["linear" if linear else "spot"]}, **more.pop("options", {})}
    exchange = kind({"apiKey": "key", "secret": "secret", "enableRateLimit": False, "options": options, **more})
    api = exchange.urls["api"]
    for name, address in api.items():
        if isinstance(address, str):
            api[name] = url + urlsplit(address).path
    return exchange


class Face:
    """An exchange whose methods are called alike, whether they are awaited or not."""

    def __init__(self, by_await: bool, runner: asyncio.Runner) -> None:
        self.by_await = by_await
        self._runner = runner
        self._made: list[Any] = []

    def make(self, name: str, url: str, **more: Any) -> Any:
        """An exchange without a guard."""
        exchange = configured(getattr(ccxt.async_support if self.by_await else ccxt, name), url, **more)
        self._made.append(exchange)
        return exchange

    def guarded(self, name: str, url: str, gate: Gate, rules: Any = None, **more: Any) -> Any:
        """One with a guard, behind this face."""
        return self.of(guard_exchange(self.make(name, url), gate, rules, **more))

    def of(self, exchange: Any) -> Any:
        """What is asked of it is done when the call returns."""
        return Blocking(exchange, self.run)

    def run(self, call: Callable[[], Any]) -> Any:
        if not self.by_await:
            return call()

        async def done() -> Any:
            return await call()

        return self._runner.run(done())

    def close(self) -> None:
        if self.by_await:
            for exchange in self._made:
                self._runner.run(exchange.close())


class Blocking:
    """An exchange behind a `Face`; `exchange` is the object itself."""

    def __init__(self, exchange: Any, run: Callable[[Callable[[], Any]], Any]) -> None:
        self.exchange = exchange
        self._run = run

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self.exchange, name)
        return lambda *args, **kwargs: self._run(lambda: method(*args, **kwargs))
