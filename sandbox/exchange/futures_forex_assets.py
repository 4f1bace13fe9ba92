"""Know the futures and pairs of currencies that are listed at Interactive Brokers' paper exchange. Pure.

A future goes by its local symbol (`ESZ6`: root, month and last digit of the year), a pair by `EUR.USD`. Multipliers and
ticks are the exchanges' own. What is priced in another currency than the dollar counts as if it were dollars: the book
keeps one currency.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from typing import Final

ODD_LOT_BELOW: Final = Decimal(20_000)
"""Units of a pair's first currency; an order for fewer is filled all the same (IDEALPRO, minimum order sizes)."""
_FUTURE: Final = re.compile(r"(?P<root>[A-Z]{2,4}|6[A-Z])(?P<month>[FGHJKMNQUVXZ])(?P<year>\d)")
_PAIR: Final = re.compile(r"(?P<base>[A-Z]{3})\.(?P<quote>[A-Z]{3})")
_MONTHS: Final = "FGHJKMNQUVXZ"
_FRIDAY: Final = 4


@dataclass(frozen=True, slots=True)
class FutureRoot:
    """What all months of one future have in common."""

    exchange: str
    multiplier: Decimal
    tick: Decimal
    price: Decimal


def _root(exchange: str, multiplier: str, tick: str, price: str) -> FutureRoot:
    return FutureRoot(exchange, Decimal(multiplier), Decimal(tick), Decimal(price))


FUTURES: Final = {
    "ES": _root("CME", "50", "0.25", "6800"),
    "NQ": _root("CME", "20", "0.25", "25000"),
    "CL": _root("NYMEX", "1000", "0.01", "62"),
    "GC": _root("COMEX", "100", "0.1", "2600"),
    "ZN": _root("CBOT", "1000", "0.015625", "112.5"),
    "6E": _root("CME", "125000", "0.00005", "1.155"),
}
PAIRS: Final = {
    "EUR.USD": Decimal("1.1545"),
    "GBP.USD": Decimal("1.3125"),
    "AUD.USD": Decimal("0.6575"),
    "NZD.USD": Decimal("0.5985"),
}
PAIRS_TICK: Final = Decimal("0.00005")
_ANY_ROOT: Final = _root("CME", "10", "0.01", "100")


def future_root(symbol: str) -> FutureRoot | None:
    """None for what is no future's local symbol; one that is not known is like any other."""
    match = _FUTURE.fullmatch(symbol)
    return FUTURES.get(match["root"], _ANY_ROOT) if match else None


def root_of(symbol: str) -> str:
    """`ES` of `ESZ6`."""
    return symbol[:-2]


def pair_of(symbol: str) -> tuple[str, str] | None:
    """The two currencies of `EUR.USD`; None for anything else."""
    match = _PAIR.fullmatch(symbol)
    return (match["base"], match["quote"]) if match else None


def last_trade_date(symbol: str, today: date) -> date:
    """The third Friday of the future's month, in the next year of that last digit."""
    month, digit = _MONTHS.index(symbol[-2]) + 1, int(symbol[-1])
    years = (year for year in range(today.year, today.year + 11) if year % 10 == digit)
    return next(day for day in (_third_friday(year, month) for year in years) if day >= today)


def _third_friday(year: int, month: int) -> date:
    first = date(year, month, 1)
    return first + timedelta(days=(_FRIDAY - first.weekday()) % 7 + 14)
