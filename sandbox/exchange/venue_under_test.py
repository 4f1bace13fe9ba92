"""Offer the sandbox exchange as the venue that the contract suite of adapters fills and brings into trouble.

It has what `brokers.contract.venue.VenueUnderTest` asks for, told by its words: nothing here imports an adapter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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

    calls: Mapping[str, Sequence[str]]
    """By what is asked (the words of `brokers.contract.venue.Call`), patterns of the routes that do it."""
    symbols: Sequence[str]
    unit: Decimal = Decimal(1)
    hedge_mode: bool = False


ALPACA = SpokenProtocol(
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
    symbols=("AAPL", "MSFT", "NVDA"),
)


class SandboxVenue:
    """The sandbox exchange on a thread of its own, and an adapter that speaks one of its protocols."""

    def __init__(self, open_broker: OpenBroker, protocol: SpokenProtocol = ALPACA) -> None:
        self._open_broker = open_broker
        self._protocol = protocol
        self._exchange = PaperExchangeThread().start()
        self.symbols = protocol.symbols
        self.unit = protocol.unit
        self.hedge_mode = protocol.hedge_mode
        self.troubles = tuple(_TROUBLES)
        self.secret = SECRET

    def start(self, beginning: Any) -> None:
        """`beginning` is a `brokers.contract.venue.Beginning`."""
        unreadable = beginning.unreadable_position
        book = {
            "account": {"key": KEY, "secret": SECRET},
            "rate_limit": 100_000,
            "prices": dict.fromkeys(self.symbols, PRICE),
            "fills": {"delay": 0.0 if beginning.fills else NEVER},
            "positions": [
                {"symbol": held.symbol, "qty": held.quantity, "unreadable": held.symbol == unreadable}
                for held in beginning.positions
            ],
            "orders": [
                {
                    "symbol": order.symbol,
                    "side": order.side.value,
                    "qty": order.quantity,
                    "limit_price": FAR[order.side.value],
                    "unreadable": order.unreadable,
                    "status": "pending_replace" if order.resisting else "new",
                }
                for order in beginning.orders
            ],
        }
        self._exchange.restart(Scenario.model_validate(book))

    def bring_into(self, trouble: str, call: str, *, times: int | None = None, skip: int = 0) -> None:
        """Both by their words in `brokers.contract.venue`."""
        rule = {**_TROUBLES[trouble], "routes": [*self._protocol.calls[call]], "first": times, "skip": skip}
        self._exchange.control("trouble", rule)

    def broker(self, *, timeout: float, keys: str = "good") -> Any:
        """The adapter's broker, with the account's keys or with wrong ones of the same look."""
        return self._open_broker(self._exchange.url, KEY if keys == "good" else "nobody", SECRET, timeout)

    def holds(self) -> Mapping[str, Decimal]:
        """What the exchange holds, signed, by position."""
        return {key: Decimal(quantity) for key, quantity in self._exchange.report()["positions"].items()}

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
