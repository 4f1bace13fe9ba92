"""Make positions of balances: what is held and not kept, each with the pair by which it is sold. Pure.

A spot wallet has no positions. What has to go is every balance above dust in anything but the currencies that are kept.
It is sold for one of those by the pair that exists; where none does, first for a currency that has one, which is then a
balance itself and is sold in a later round. A loan of the margin wallet is a position too: short where less of the
currency is held than is owed. What is owed is repaid as far as it is held, and shown until it is.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from breaker.instruments import CRYPTO, Instrument
from breaker.orders import ZERO, Position, Unreadable
from brokers.ccxt.reading import SENSELESS, decimal
from brokers.protocol import Listed

LOAN = " loan"
"""Behind a currency, the symbol under which what is owed of it is repaid."""
_THROUGH = ("BTC", "ETH", "BNB", "USD", "EUR")
"""Currencies that most others have a pair with, tried before any other where two hops are needed."""


@dataclass(frozen=True, slots=True)
class Balance:
    """What the wallet has of one currency: all of it, what no order holds, and what is owed."""

    currency: str
    total: Decimal
    free: Decimal
    debt: Decimal = ZERO

    @property
    def net(self) -> Decimal:
        """What is left when everything owed is paid back; negative where less is held."""
        return self.total - self.debt


def read_balances(body: Mapping[str, Any]) -> tuple[list[Balance], list[Unreadable]]:
    """Every currency of ccxt's balance that there is something of, and those that can't be read, by their names."""
    found: list[Balance] = []
    unread: list[Unreadable] = []
    for currency in body.get("total") or {}:
        try:
            balance = _balance(str(currency), body[currency])
        except SENSELESS as error:
            unread.append(Unreadable("position", str(currency), "", f"{error}"))
            continue
        if balance.total or balance.debt:
            found.append(balance)
    return found, unread


def _balance(currency: str, entry: Mapping[str, Any]) -> Balance:
    """Raises one of `SENSELESS`. Some exchanges tell only all of it, and some only what is free."""
    total, free = entry.get("total"), entry.get("free")
    total = free if total is None else total
    if total is None:
        raise ValueError("how much of it there is isn't told")
    return Balance(currency, decimal(total), decimal(total if free is None else free), decimal(entry.get("debt") or 0))


def selling_pair(currency: str, keep: Sequence[str], markets: Mapping[str, Mapping[str, Any]]) -> str:
    """The pair by which a currency is sold for one that is kept, or for one that then is; empty where none exists."""

    for quote in keep:
        if _trades(markets, currency, quote):
            return f"{currency}/{quote}"
    others = [symbol.partition("/")[2] for symbol in markets if symbol.startswith(f"{currency}/")]
    for middle in (*_THROUGH, *sorted(others)):
        sold_on = any(_trades(markets, middle, quote) for quote in keep)
        if sold_on and middle in others and _trades(markets, currency, middle):
            return f"{currency}/{middle}"
    return ""


def _trades(markets: Mapping[str, Mapping[str, Any]], base: str, quote: str) -> bool:
    market = markets.get(f"{base}/{quote}")
    return market is not None and market.get("active") is not False and market.get("spot", True) is not False


def buying_pair(currency: str, keep: Sequence[str], markets: Mapping[str, Mapping[str, Any]]) -> str:
    """The pair in which something that is kept is bought with a currency; empty where none exists."""
    return next((f"{kept}/{currency}" for kept in keep if _trades(markets, kept, currency)), "")


def positions_of(
    balances: Sequence[Balance],
    keep: Sequence[str],
    markets: Mapping[str, Mapping[str, Any]],
    instrument: Callable[[str], Instrument],
    prices: Mapping[str, Decimal],
) -> Listed[Position]:
    """What has to go. Dust is left out, and a currency that nothing sells is named.

    Args:
        prices: the last one of each pair, as far as they are known; without it only the least quantity makes dust.
    """
    found: list[Position] = []
    unread: list[Unreadable] = []
    for balance in balances:
        if balance.debt:
            found.append(_loan(balance))
        if balance.currency in keep:
            continue
        symbol = selling_pair(balance.currency, keep, markets)
        if not symbol:
            buying = buying_pair(balance.currency, keep, markets)
            if balance.net and not (buying and _buys_nothing(balance.net, instrument(buying))):
                unread.append(_unsellable(balance, keep, buying))
            continue
        position = _position(balance, symbol, instrument(symbol), prices.get(symbol))
        if position is not None:
            found.append(position)
    return Listed(tuple(found), tuple(unread))


def _position(balance: Balance, symbol: str, instrument: Instrument, price: Decimal | None) -> Position | None:
    if is_dust(abs(balance.net), instrument, price):
        return None
    return Position(
        symbol=symbol,
        quantity=balance.net,
        available=min(balance.free, balance.net) if balance.net > ZERO else -balance.net,
        average_entry_price=ZERO,
        current_price=price,
        market_value=None if price is None else balance.net * price,
        instrument=instrument,
    )


def _loan(balance: Balance) -> Position:
    return Position(
        symbol=f"{balance.currency}{LOAN}",
        quantity=-balance.debt,
        available=max(min(balance.free, balance.debt), ZERO),
        average_entry_price=ZERO,
        instrument=CRYPTO,
    )


def is_dust(quantity: Decimal, instrument: Instrument, price: Decimal | None) -> bool:
    """Whether it is less than the exchange lets anybody trade."""
    sold = instrument.quantity(quantity)
    if sold <= ZERO or (instrument.minimum_quantity is not None and sold < instrument.minimum_quantity):
        return True
    if price is None or instrument.minimum_notional is None:
        return False
    return sold * price < instrument.minimum_notional


def _buys_nothing(amount: Decimal, instrument: Instrument) -> bool:
    """Whether it is less than an order must be worth that is paid with it."""
    return ZERO <= amount < (instrument.minimum_notional or ZERO)


def _unsellable(balance: Balance, keep: Sequence[str], buying: str) -> Unreadable:
    by_hand = f"buy {buying.partition('/')[0]} with it by hand ({buying})" if buying else "sell it by hand"
    problem = (
        f"{balance.net:f} {balance.currency} are held, and no pair there sells it for {' or '.join(keep)}; "
        f"{by_hand}, or add it to what the account is to keep"
    )
    return Unreadable("position", balance.currency, "", problem)


def is_kept(symbol: str, keep: Collection[str]) -> bool:
    """Whether to sell this pair would be to sell what is kept."""
    return symbol.partition("/")[0] in keep
