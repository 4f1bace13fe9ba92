"""Offer the sandbox exchange as the venue that the contract suite of adapters fills and brings into trouble.

It has what `brokers.contract.venue.VenueUnderTest` asks for, told by its words: nothing here imports an adapter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from decimal import Decimal
from fnmatch import fnmatchcase
from typing import Any

from sandbox.exchange.scenario import Scenario
from sandbox.exchange.server import PaperExchangeThread

OpenBroker = Callable[[str, str, str, float], Any]
"""By address, key id, secret key and seconds that one answer may take: the adapter's broker."""
PRICE = Decimal(100)
FAR = {"buy": PRICE / 2, "sell": PRICE * 2}
"""Limit prices at which nothing fills."""
KEY, SECRET = "contract-key", "s3cr3t-of-the-contract"  # an account's that holds paper
NEVER = 100_000.0
"""Seconds."""

_TROUBLES: Mapping[str, Mapping[str, object]] = {
    "lost answer": {"kind": "drop", "applied": True},
    "no answer": {"kind": "timeout"},
    "unavailable": {"kind": "503"},
    "rate limit": {"kind": "429"},
}


@dataclass(frozen=True, slots=True)
class SpokenProtocol:
    """One of the venues' protocols that the sandbox exchange speaks."""

    name: str
    """As scenarios call it."""
    calls: Mapping[str, Sequence[str]]
    """By what is asked (the words of `brokers.contract.venue.Call`), patterns of the routes that do it."""
    symbols: Mapping[str, str]
    """By the spelling of the adapter, that of scenarios; the exchange's reports have it without a slash."""
    unit: Decimal = Decimal(1)
    hedge_mode: bool = False
    shorts: bool = True
    resists: bool = False
    """Whether it has orders that refuse their cancel."""
    troubles: Sequence[str] = tuple(_TROUBLES)
    """Those that it knows, by the words of `brokers.contract.venue.Trouble`."""
    by_socket: bool = False
    """Whether it is spoken on the TWS API's socket; its address is then a host and a port."""

    def in_adapter(self, key: str) -> str:
        """A position of the exchange's report by the adapter's key."""
        symbol, _, side = key.partition(" ")
        spelled = {theirs.replace("/", ""): ours for ours, theirs in self.symbols.items()}[symbol]
        return f"{spelled} {side}" if side else spelled


ALPACA = SpokenProtocol(
    "alpaca",
    calls={
        "list orders": ("GET /v2/orders",),
        "list positions": ("GET /v2/positions",),
        "tell of the account": ("GET /v2/account",),
        "tell the time": ("GET /v2/clock",),
        "cancel one order": ("DELETE /v2/orders/{id}",),
        "cancel all orders": ("DELETE /v2/orders",),
        "send an order": ("POST /v2/orders",),
        "look an order up": ("GET /v2/orders:by_client_order_id",),
        "everything": ("*",),
    },
    symbols={"AAPL": "AAPL", "MSFT": "MSFT", "NVDA": "NVDA"},
    resists=True,
)
BINANCE_FUTURES = SpokenProtocol(
    "binance-futures",
    calls={
        "list orders": ("GET /fapi/v1/openOrders", "GET /fapi/v1/openAlgoOrders"),
        "list positions": ("GET /fapi/v?/positionRisk",),
        "tell of the account": ("GET /fapi/v?/account",),
        "tell the time": ("GET /fapi/v1/time",),
        "cancel one order": ("DELETE /fapi/v1/order", "DELETE /fapi/v1/algoOrder"),
        "cancel all orders": ("DELETE /fapi/v1/allOpenOrders", "DELETE /fapi/v1/algoOpenOrders"),
        "send an order": ("POST /fapi/v1/order",),
        "look an order up": ("GET /fapi/v1/order", "GET /fapi/v1/algoOrder"),
        "everything": ("*",),
    },
    symbols={f"{coin}/USDT:USDT": f"{coin}USDT" for coin in ("BTC", "ETH", "SOL")},
)
BINANCE_HEDGE = replace(BINANCE_FUTURES, hedge_mode=True)
BINANCE_SPOT = SpokenProtocol(
    "binance-spot",
    calls={
        "list orders": ("GET /api/v3/openOrders",),
        "list positions": ("GET /api/v3/account",),
        "tell of the account": ("GET /api/v3/account",),
        "tell the time": ("GET /api/v3/time",),
        "cancel one order": ("DELETE /api/v3/order",),
        "cancel all orders": ("DELETE /api/v3/openOrders",),
        "send an order": ("POST /api/v3/order",),
        "look an order up": ("GET /api/v3/order",),
        "everything": ("*",),
    },
    symbols={f"{coin}/USDT": f"{coin}/USDT" for coin in ("BTC", "ETH", "SOL")},
    shorts=False,
)
TWS = SpokenProtocol(
    "alpaca",  # whose rules for orders stand for the venue's
    calls={
        "list orders": ("TWS reqAllOpenOrders",),
        "list positions": ("TWS reqPositions",),
        "tell of the account": ("TWS reqAccountSummary",),
        "tell the time": ("TWS reqCurrentTime",),
        "cancel one order": ("TWS cancelOrder",),
        "cancel all orders": ("TWS reqGlobalCancel",),
        "send an order": ("TWS placeOrder",),
        "look an order up": ("TWS reqCompletedOrders",),
        "everything": ("*",),
    },
    symbols={"AAPL": "AAPL", "MSFT": "MSFT", "NVDA": "NVDA"},
    resists=True,
    # Of too many messages TWS does not say which was left out: nobody knows then what became of a close.
    troubles=("lost answer", "no answer", "unavailable"),
    by_socket=True,
)


class SandboxVenue:
    """The sandbox exchange on a thread of its own, and an adapter that speaks one of its protocols."""

    def __init__(self, open_broker: OpenBroker, protocol: SpokenProtocol = ALPACA) -> None:
        self._open_broker = open_broker
        self._protocol = protocol
        self._exchange = PaperExchangeThread().start()
        self.symbols: Sequence[str] = tuple(protocol.symbols)
        self.unit = protocol.unit
        self.shorts = protocol.shorts
        self.hedge_mode = protocol.hedge_mode
        self.sets_clock = True
        self.has_read_only_keys = True
        self.tells_rights = True
        self.troubles = tuple(protocol.troubles)
        self.secret = SECRET

    def start(self, beginning: Any) -> None:
        """`beginning` is a `brokers.contract.venue.Beginning`."""
        unreadable, spelled = beginning.unreadable_position, self._protocol.symbols
        book = {
            "protocol": self._protocol.name,
            "account": {
                "key": KEY,
                "secret": SECRET,
                "key_may_trade": beginning.keys_may_trade,
                "hedge_mode": self.hedge_mode,
            },
            "tws": {"read_only": not beginning.keys_may_trade},
            "clock_ahead_ms": beginning.clock_ahead // timedelta(milliseconds=1),
            "rate_limit": 100_000,
            "prices": dict.fromkeys(spelled.values(), PRICE),
            "fills": {"delay": 0.0 if beginning.fills else NEVER},
            "positions": [
                {"symbol": spelled[held.symbol], "qty": held.quantity, "unreadable": held.symbol == unreadable}
                for held in beginning.positions
            ],
            "orders": [
                {
                    "symbol": spelled[order.symbol],
                    "side": order.side.value,
                    "qty": order.quantity,
                    "limit_price": FAR[order.side.value],
                    "unreadable": order.unreadable,
                    "status": "pending_replace" if order.resisting else "new",
                    **({"position_side": order.position_side.value} if order.position_side else {}),
                }
                for order in beginning.orders
                if self._protocol.resists or not order.resisting
            ],
        }
        self._exchange.restart(Scenario.model_validate(book))

    def bring_into(self, trouble: str, call: str, *, times: int | None = None, skip: int = 0) -> None:
        """Both by their words in `brokers.contract.venue`."""
        rule = {**_TROUBLES[trouble], "routes": [*self._protocol.calls[call]], "first": times, "skip": skip}
        self._exchange.control("trouble", rule)

    def broker(self, *, timeout: float, keys: str = "good") -> Any:
        """The adapter's broker, with the account's keys or with wrong ones of the same look."""
        address = f"127.0.0.1:{self._exchange.tws_port}" if self._protocol.by_socket else self._exchange.url
        return self._open_broker(address, KEY if keys == "good" else "nobody", SECRET, timeout)

    def holds(self) -> Mapping[str, Decimal]:
        """What the exchange holds, signed, by position."""
        positions: Mapping[str, str] = self._exchange.report()["positions"]
        return {self._protocol.in_adapter(key): Decimal(quantity) for key, quantity in positions.items()}

    def open_orders(self) -> int:
        """How many orders are open there."""
        return int(self._exchange.report()["open_orders"])

    def received(self, call: str) -> int:
        """How many requests of that kind have come."""
        patterns = self._protocol.calls[call]
        requests: Mapping[str, int] = self._exchange.report()["requests"]
        return sum(
            count for route, count in requests.items() if any(fnmatchcase(route, pattern) for pattern in patterns)
        )

    def stop(self) -> None:
        """End its thread."""
        self._exchange.stop()
