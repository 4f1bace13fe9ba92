"""Stand in for an account whose broker can't be opened, so that a kill goes on in the others and names this one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

from breaker.orders import Account, MarketClock, Order, Position
from brokers.protocol import (
    Broker,
    BrokerRefused,
    CancelResult,
    Capabilities,
    CloseOrder,
    CloseResult,
    Listed,
)


class UnopenedBroker(Broker):
    """Refuses whatever it is asked for. `problem` is why it could not be opened, and what to do."""

    capabilities = Capabilities(
        bulk_cancel=True,
        bulk_close=False,
        reduce_only=False,
        fractional=False,
        requests_per_minute=None,
        page_size=100,
    )

    def __init__(self, name: str, problem: str) -> None:
        self.name = name
        self._problem = problem

    def __repr__(self) -> str:
        return f"UnopenedBroker({self.name!r})"

    def _refuse(self) -> NoReturn:
        raise BrokerRefused(f"{self._problem}; nothing was cancelled or closed in {self.name}", account=self.name)

    async def account(self) -> Account:
        self._refuse()

    async def clock(self) -> MarketClock:
        self._refuse()

    async def open_orders(self) -> Listed[Order]:
        self._refuse()

    async def positions(self) -> Listed[Position]:
        self._refuse()

    async def order(self, client_order_id: str, symbol: str | None = None) -> Order | None:
        self._refuse()

    async def cancel_all(self) -> Sequence[CancelResult]:
        self._refuse()

    async def cancel(self, order_id: str) -> CancelResult:
        self._refuse()

    async def close(self, request: CloseOrder) -> CloseResult:
        self._refuse()

    async def not_permitted(self) -> Sequence[str]:
        self._refuse()

    async def aclose(self) -> None:
        """There is nothing to release."""
