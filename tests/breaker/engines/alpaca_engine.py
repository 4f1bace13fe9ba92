"""An engine's guarded alpaca-py client at the sandbox exchange, and how its tests speak of orders."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from alpaca.trading.client import TradingClient
from alpaca.trading.enums import OrderClass, OrderSide, QueryOrderStatus, TimeInForce
from alpaca.trading.requests import GetOrdersRequest, LimitOrderRequest, MarketOrderRequest, OptionLegRequest

from breaker import CircuitBreaker
from breaker.engines import GuardedTradingClient
from breaker.gate import Gate, Reason
from breaker.rules import Limits
from sandbox.exchange.scenario import parse
from sandbox.exchange.server import PaperExchangeThread
from tests.helpers import PATIENCE, eventually

BUY, SELL = OrderSide.BUY, OrderSide.SELL
PRICES = "[prices]\nAAPL = 200\nMSFT = 400\n"
LONG = PRICES + '[[positions]]\nsymbol = "AAPL"\nqty = 100\n'


def market(side: OrderSide, qty: float | None = 10, **terms: Any) -> MarketOrderRequest:
    fields = {"symbol": "AAPL", "side": side, "qty": qty, "time_in_force": TimeInForce.DAY}
    return MarketOrderRequest(**fields | terms)


def limit(side: OrderSide, price: float, qty: float = 10, **terms: Any) -> LimitOrderRequest:
    fields = {"symbol": "AAPL", "side": side, "qty": qty, "time_in_force": TimeInForce.GTC, "limit_price": price}
    return LimitOrderRequest(**fields | terms)


def together(qty: int, *legs: OptionLegRequest) -> MarketOrderRequest:
    """One order with several legs."""
    return MarketOrderRequest(qty=qty, time_in_force=TimeInForce.DAY, order_class=OrderClass.MLEG, legs=list(legs))


class Desk:
    """The breaker, the exchange as it is, and a guarded client at it."""

    def __init__(self, cb: CircuitBreaker, gate: Gate, exchange: PaperExchangeThread) -> None:
        self.cb = cb
        self.gate = gate
        self.exchange = exchange
        self.bare: Any = TradingClient("key", "secret", url_override=exchange.url)
        """Its methods are annotated as returning raw JSON as well."""

    def open(self, toml: str = LONG) -> Desk:
        self.exchange.restart(parse(toml))
        return self

    def client(self, rules: Any = None, *, bare: Any = None, **settings: Any) -> Any:
        return GuardedTradingClient(bare or self.bare, self.gate, rules, **settings)

    def trip(self) -> None:
        self.cb.trip("MANUAL")
        eventually(lambda: self.gate.status().reason is Reason.TRIPPED)

    def orders(self, status: QueryOrderStatus = QueryOrderStatus.ALL) -> list[Any]:
        """As the exchange has them."""
        found: list[Any] = self.bare.get_orders(GetOrdersRequest(status=status, limit=500))
        return found

    def requests(self, route: str) -> int:
        return int(self.exchange.report()["requests"].get(route, 0))

    def position(self, symbol: str = "AAPL") -> str | None:
        position: str | None = self.exchange.report()["positions"].get(symbol)
        return position


class Told:
    """Stands in for `Rules`, which other tests run: keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []
        self.limits = Limits(api_latency=PATIENCE)

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *args, **kwargs: self.told.append((name.removeprefix("record_"), *args))

    def times(self, what: str) -> int:
        return sum(entry[0] == what for entry in self.told)

    def of(self, what: str) -> list[tuple[Any, ...]]:
        return [entry[1:] for entry in self.told if entry[0] == what]
