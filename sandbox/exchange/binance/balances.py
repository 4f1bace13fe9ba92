"""Tell what a spot account has of each currency, free and locked by open orders. Pure.

What the book has as the position of a pair (`BTC/USDT`) is the balance of its base currency; its cash is the balance of
the currency that the account is kept in. Each currency is held through one pair.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from breaker.orders import ZERO, Side
from sandbox.exchange.book import Book
from sandbox.exchange.crypto_assets import CASH, currencies_of


@dataclass(slots=True)
class Balance:
    """Of one currency."""

    total: Decimal = ZERO
    locked: Decimal = ZERO

    @property
    def free(self) -> Decimal:
        return self.total - self.locked


def balances(book: Book) -> dict[str, Balance]:
    """By currency; those that nothing is held of are left out, but for the account's own."""
    found = {CASH: Balance(book.cash)}
    for position in book.positions.values():
        base, _ = currencies_of(position.symbol)
        held = found.setdefault(base, Balance())
        held.total += position.qty
        held.locked += position.withheld
    for order in book.open_orders.values():
        base, quote = currencies_of(order.symbol)
        if order.side is Side.SELL:
            found.setdefault(base, Balance()).locked += order.holds
        else:
            price = order.limit_price or book.prices[order.symbol]
            found.setdefault(quote, Balance()).locked += order.holds * price
    return found


def free(book: Book, currency: str) -> Decimal:
    """What could be sold or spent of it now."""
    return balances(book).get(currency, Balance()).free
