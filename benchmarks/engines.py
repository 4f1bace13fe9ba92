"""What a guard adds to one order while trading is open, beside the bare client."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

from benchmarks.rows import Row, quantile
from benchmarks.servers import Bench, bench, open_gate
from breaker.gate import Gate

_ORDERS = 5_000
_MOST = 5.0
"""Microseconds that a guard's own work may take, in the median."""


def run() -> list[Row]:
    return [*alpaca_py(), *ccxt_guard(), *ib_async_guard()]


def _gate(here: Bench) -> AbstractContextManager[Gate]:
    """One that a loop which lets no other thread run does not close."""
    return open_gate(here.server.url, "thread", here.shared_memory, max_staleness=30)


def compared(guard: str, bare: Callable[[], object], guarded: Callable[[], object]) -> list[Row]:
    """Rows for an order sent by each, in turns, so that what else the machine does meets both alike."""
    times: tuple[list[float], list[float]] = ([], [])
    for send in (bare, guarded):  # what is made once is made now
        for _ in range(100):
            send()
    for _ in range(_ORDERS):
        for send, took in zip((bare, guarded), times, strict=True):
            begin = time.perf_counter_ns()
            send()
            took.append((time.perf_counter_ns() - begin) / 1000)
    of_bare, of_guarded = ([quantile(took, at) for at in (0.5, 0.99)] for took in times)
    own = of_guarded[0] - of_bare[0]
    beside = f"bare {of_bare[0]:.1f} / {of_bare[1]:.1f} µs"
    return [
        Row(
            "engines", f"{guard}: its own work for an order, median", own, "µs", beside, f"< {_MOST:g} µs", own < _MOST
        ),
        Row("engines", f"{guard}: an order, p50 / p99", f"{of_guarded[0]:.1f} / {of_guarded[1]:.1f}", "µs", beside),
    ]


# alpaca-py


def alpaca_py() -> list[Row]:
    """Both ask requests and urllib3 for all that they do; only the connection gives a made-up answer."""
    from alpaca.trading.client import TradingClient  # noqa: PLC0415
    from alpaca.trading.enums import OrderSide, TimeInForce  # noqa: PLC0415
    from alpaca.trading.requests import MarketOrderRequest  # noqa: PLC0415

    from breaker.engines import GuardedTradingClient  # noqa: PLC0415
    from breaker.engines.requests_socket import this_thread  # noqa: PLC0415

    class Nowhere(TradingClient):
        """Asks as a connection does, where it would send."""

        def _one_request(self, method: str, url: str, opts: object, retry: int) -> dict[str, object]:
            if this_thread.ask is not None:
                this_thread.ask()
            return {}

    order = MarketOrderRequest(symbol="AAPL", qty=10, side=OrderSide.BUY, time_in_force=TimeInForce.DAY)
    with bench() as here, _gate(here) as gate:
        bare = Nowhere("key", "secret", raw_data=True)
        guarded = GuardedTradingClient(bare, gate)
        return compared("alpaca-py", lambda: bare.submit_order(order), lambda: guarded.submit_order(order))


# ib_async


def ib_async_guard() -> list[Row]:
    """Connections whose socket swallows what it is given, without ib_async's throttle."""
    import ib_async  # noqa: PLC0415

    from breaker.engines import GuardedIB  # noqa: PLC0415

    class Swallowing:
        transport = object()
        numBytesSent = numMsgSent = 0  # noqa: N815 -- ib_async's names

        def sendMsg(self, _message: bytes) -> None:  # noqa: N802
            return

        def disconnect(self) -> None:
            return

    def connected(ib: ib_async.IB) -> ib_async.IB:
        """As if: between the guard, if there is one, and a socket."""
        if isinstance(ib, GuardedIB):
            ib.client.conn._connection = Swallowing()  # type: ignore[attr-defined]
        else:
            ib.client.conn = Swallowing()  # type: ignore[assignment]
        ib.client.connState, ib.client._apiReady = ib_async.Client.CONNECTED, True
        ib.client.MaxRequests, ib.wrapper.clientId = 0, 1
        return ib

    contract = ib_async.Stock("AAPL", "SMART", "USD")

    async def measure() -> list[Row]:
        with bench() as here, _gate(here) as gate:
            bare, guarded = connected(ib_async.IB()), connected(GuardedIB(gate))
            return compared(
                "ib_async",
                lambda: bare.placeOrder(contract, ib_async.LimitOrder("BUY", 10, 100.0)),
                lambda: guarded.placeOrder(contract, ib_async.LimitOrder("BUY", 10, 100.0)),
            )

    return asyncio.run(measure())


# ccxt


def ccxt_guard() -> list[Row]:
    """All of ccxt's own work for an order of binanceusdm is done; only its HTTP session gives a made-up answer."""
    import ccxt  # noqa: PLC0415

    from breaker.engines import guard_exchange  # noqa: PLC0415

    class Nowhere(ccxt.binanceusdm):  # type: ignore[misc]
        """Asks nobody where it would send."""

        def fetch(self, url: str, method: str = "GET", headers: object = None, body: object = None) -> object:
            return _TAKEN

    def made() -> Nowhere:
        exchange = Nowhere({"apiKey": "key", "secret": "secret", "enableRateLimit": False})
        exchange.set_markets([exchange.safe_market_structure(_MARKET)])
        return exchange

    with bench() as here, _gate(here) as gate:
        bare, guarded = made(), guard_exchange(made(), gate)
        order = ("BTC/USDT:USDT", "market", "buy", 0.01)
        return compared("ccxt", lambda: bare.create_order(*order), lambda: guarded.create_order(*order))


_TAKEN = {"orderId": 1, "symbol": "BTCUSDT", "status": "NEW", "origQty": "0.01", "executedQty": "0", "side": "BUY"}
_MARKET = {
    "id": "BTCUSDT",
    "symbol": "BTC/USDT:USDT",
    "base": "BTC",
    "quote": "USDT",
    "settle": "USDT",
    "baseId": "BTC",
    "quoteId": "USDT",
    "settleId": "USDT",
    "type": "swap",
    "swap": True,
    "spot": False,
    "contract": True,
    "linear": True,
    "inverse": False,
    "subType": "linear",
    "contractSize": 1.0,
    "active": True,
    "precision": {"amount": 0.001, "price": 0.1},
    "limits": {},
    "info": {"orderTypes": ["LIMIT", "MARKET"]},
}
