"""Orders, positions and accounts as every venue has them, in the field's own words.

Quantities and money are `Decimal`, times are UTC-aware. A position's quantity is signed: long is positive, short is
negative. An order's quantity never is; its side says the direction.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum

ZERO = Decimal(0)


class Side(StrEnum):
    """Direction of an order."""

    BUY = "buy"
    SELL = "sell"

    @property
    def sign(self) -> int:
        """+1 for a buy, −1 for a sell: what a fill adds to the position."""
        return 1 if self is Side.BUY else -1

    @property
    def opposite(self) -> Side:
        return Side.SELL if self is Side.BUY else Side.BUY


class OrderType(StrEnum):
    MARKET = "market"
    LIMIT = "limit"
    STOP = "stop"
    STOP_LIMIT = "stop_limit"
    TRAILING_STOP = "trailing_stop"


class TimeInForce(StrEnum):
    DAY = "day"
    GTC = "gtc"
    IOC = "ioc"
    FOK = "fok"
    OPG = "opg"
    CLS = "cls"


class OrderStatus(StrEnum):
    """Where an order is in its life. Venues have more words; adapters map them onto these."""

    NEW = "new"
    PARTIALLY_FILLED = "partially_filled"
    PENDING_CANCEL = "pending_cancel"
    PENDING_REPLACE = "pending_replace"
    HELD = "held"
    FILLED = "filled"
    CANCELED = "canceled"
    REJECTED = "rejected"
    EXPIRED = "expired"

    @property
    def is_open(self) -> bool:
        """Whether the order can still fill. A venue's unknown word is mapped to an open one, never to a closed one."""
        return self not in _CLOSED


_CLOSED = frozenset({OrderStatus.FILLED, OrderStatus.CANCELED, OrderStatus.REJECTED, OrderStatus.EXPIRED})


@dataclass(frozen=True, slots=True)
class Order:
    """One order as the venue reports it."""

    id: str
    client_order_id: str
    symbol: str
    side: Side
    quantity: Decimal
    filled_quantity: Decimal
    status: OrderStatus
    type: OrderType
    time_in_force: TimeInForce
    limit_price: Decimal | None = None
    stop_price: Decimal | None = None
    average_price: Decimal | None = None
    submitted_at: datetime | None = None

    @property
    def remaining(self) -> Decimal:
        """What can still fill, in units of the symbol; zero once the order is closed."""
        return self.quantity - self.filled_quantity if self.status.is_open else ZERO


@dataclass(frozen=True, slots=True)
class Position:
    """One position as the venue reports it; `quantity` is signed."""

    symbol: str
    quantity: Decimal
    available: Decimal
    """How much of |quantity| no open order holds."""
    average_entry_price: Decimal
    current_price: Decimal | None = None

    @property
    def closing_side(self) -> Side:
        return Side.SELL if self.quantity > 0 else Side.BUY

    @property
    def notional(self) -> Decimal:
        """|quantity| × price in the account's currency; the entry price stands in where there is no current one."""
        price = self.average_entry_price if self.current_price is None else self.current_price
        return abs(self.quantity) * price


@dataclass(frozen=True, slots=True)
class Account:
    id: str
    currency: str
    equity: Decimal
    buying_power: Decimal
    trading_blocked: bool = False


@dataclass(frozen=True, slots=True)
class MarketClock:
    """The venue's own clock and session; times are UTC-aware."""

    now: datetime
    is_open: bool
    next_open: datetime | None = None
    next_close: datetime | None = None
