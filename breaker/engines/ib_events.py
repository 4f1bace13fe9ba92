"""Tell the automatic rules what ib_async's events say: orders taken and refused, errors, how long TWS takes, equity."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from decimal import Decimal
from typing import Any, Final

from ib_async import IB, AccountValue, Contract, Trade

from breaker.engines.ib_account import FOUND, LOST, NOTES, OVER, OrderKey
from breaker.engines.ib_orders import quantity_of
from breaker.engines.rules_feed import RulesFeed

_EQUITY: Final = "NetLiquidation"
_PACING: Final = 100
_ALREADY_CONNECTED: Final = 501


class RuleEvents:
    """Listens to one connection, unless there is no `feed`.

    `account` is the one whose equity counts; empty for the only one of the login.
    """

    def __init__(self, ib: IB, feed: RulesFeed | None, account: str) -> None:
        self.is_told = feed is not None
        """Whether there is anybody to tell."""
        self.expected = False
        """The engine itself ends the connection."""
        self._aside = False
        self._sent_at: dict[OrderKey, float] = {}
        if feed is None:
            return
        self._ib = ib
        self._feed = feed
        self._account = account
        ib.orderStatusEvent += self._on_status
        ib.errorEvent += self._on_error
        ib.accountValueEvent += self._on_value
        ib.accountSummaryEvent += self._on_value
        ib.disconnectedEvent += self._on_disconnected

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """An error that is said meanwhile is ours, and nothing that the venue has refused."""
        self._aside = True
        try:
            yield
        finally:
            self._aside = False

    def order_left(self, key: OrderKey) -> None:
        """An order, or a change of one, has been handed to the socket."""
        self._sent_at[key] = time.monotonic()
        self._feed.order_sent("placeOrder")

    def sent(self, what: str) -> None:
        """Another message about orders leaves."""
        self._feed.order_sent(what)

    def _on_status(self, trade: Trade) -> None:
        order = trade.order
        if not trade.orderStatus.permId or (trade.log and trade.log[-1].errorCode):
            return  # said by ib_async itself
        sent_at = self._sent_at.pop(self._ib.wrapper.orderKey(order.clientId, order.orderId, order.permId), None)
        if sent_at is not None and trade.orderStatus.status != "Inactive":
            self._feed.latency(time.monotonic() - sent_at)
            self._feed.order_accepted()
            self._feed.call_succeeded()

    def _on_error(self, number: int, code: int, words: str, _contract: Contract | None) -> None:
        if self._aside:
            return
        if code in LOST or code == _PACING or (500 <= code < 600 and code != _ALREADY_CONNECTED):
            self._feed.call_failed()
        elif code in FOUND:
            self._feed.call_succeeded()
        key: OrderKey = (self._ib.wrapper.clientId, number)
        if number > 0 and code not in NOTES | OVER and key in self._ib.wrapper.trades:
            self._sent_at.pop(key, None)
            self._feed.order_rejected(f"{words} ({code})")

    def _on_value(self, value: AccountValue) -> None:
        if value.tag != _EQUITY or value.modelCode or not self._is_ours(value.account):
            return
        equity: Decimal | None = quantity_of(value.value)
        if equity is not None:
            self._feed.equity(equity, None, value.currency if value.currency not in {"", "BASE"} else None)

    def _is_ours(self, account: str) -> bool:
        if self._account:
            return account == self._account
        accounts: list[Any] = self._ib.wrapper.accounts
        return len(accounts) == 1 and account == accounts[0]

    def _on_disconnected(self) -> None:
        self._sent_at.clear()
        if not self.expected:
            self._feed.call_failed()
        self.expected = False
