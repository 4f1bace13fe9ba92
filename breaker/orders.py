"""Describe orders, fills, positions and accounts as every venue has them, in the field's own words.

Quantities and money are `Decimal`, times are UTC-aware. A position's quantity is signed: long is positive, short is
negative. An order's quantity never is; its side says the direction.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from enum import StrEnum

from breaker.instruments import EQUITY, Instrument

ZERO = Decimal(0)


class Side(StrEnum):
    """Direction of an order.

    Example:
        >>> Side.SELL.sign, Side.SELL.opposite
        (-1, <Side.BUY: 'buy'>)
    """

    BUY = "buy"
    SELL = "sell"

    @property
    def sign(self) -> int:
        """+1 for a buy, −1 for a sell: what a fill adds to the position."""
        return 1 if self is Side.BUY else -1

    @property
    def opposite(self) -> Side:
        """The other direction."""
        return Side.SELL if self is Side.BUY else Side.BUY


class PositionSide(StrEnum):
    """Which of the two positions that an account in hedge mode can have in one symbol."""

    LONG = "long"
    SHORT = "short"


class PositionKey(str):
    """What a position is known by in its account: the symbol and, in hedge mode, which of the symbol's two it is.

    In records and documents it is a plain string, which for an account that nets is the symbol alone.

    Args:
        symbol: The venue's symbol.
        side: Which of the symbol's two positions, in hedge mode; None where the account nets.

    Example:
        >>> PositionKey("AAPL"), PositionKey("BTCUSDT", PositionSide.LONG)
        ('AAPL', 'BTCUSDT long')
        >>> PositionKey.read("BTCUSDT long").symbol
        'BTCUSDT'
    """

    __slots__ = ()

    def __new__(cls, symbol: str, side: PositionSide | None = None) -> PositionKey:
        return super().__new__(cls, symbol if side is None else f"{symbol} {side.value}")

    @classmethod
    def read(cls, text: str) -> PositionKey:
        """Take it from a record.

        Args:
            text: What a key was written as.
        """
        return cls(text)

    @property
    def symbol(self) -> str:
        """The venue's symbol."""
        head, _, word = self.rpartition(" ")
        return head if head and word in set(PositionSide) else str(self)

    @property
    def side(self) -> PositionSide | None:
        """Which of the symbol's two positions; None where the account nets."""
        head, _, word = self.rpartition(" ")
        return PositionSide(word) if head and word in set(PositionSide) else None


class OrderType(StrEnum):
    """At which price an order may fill, and what sets it off."""

    MARKET = "market"
    LIMIT = "limit"
    STOP = "stop"
    STOP_LIMIT = "stop_limit"
    TRAILING_STOP = "trailing_stop"


class TimeInForce(StrEnum):
    """How long an order works."""

    DAY = "day"
    """Until the session ends."""
    GTC = "gtc"
    """Good till cancelled."""
    IOC = "ioc"
    """Immediate or cancel: what doesn't fill at once is cancelled."""
    FOK = "fok"
    """Fill or kill: all of it at once, or nothing."""
    OPG = "opg"
    """In the opening auction only."""
    CLS = "cls"
    """In the closing auction only."""


class OrderStatus(StrEnum):
    """Where an order is in its life. Venues have more words; adapters map them onto these.

    Example:
        >>> OrderStatus.PENDING_CANCEL.is_open, OrderStatus.CANCELED.is_open
        (True, False)
    """

    NEW = "new"
    PARTIALLY_FILLED = "partially_filled"
    PENDING_CANCEL = "pending_cancel"
    PENDING_REPLACE = "pending_replace"
    HELD = "held"
    """Not working yet: a bracket's leg whose entry has not filled, for instance."""
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
    """One order as the venue reports it.

    Attributes:
        id: The venue's.
        client_order_id: Ours, given when it was sent; unique within the account.
        symbol: The venue's symbol.
        side: Its direction.
        quantity: Units of the symbol (shares, coins, contracts); never negative.
        filled_quantity: Of these, how many have filled.
        status: Where it is in its life.
        type: At which price it may fill.
        time_in_force: How long it works.
        limit_price: In the account's currency per unit; None without one.
        stop_price: In the account's currency per unit; None without one.
        average_price: Of what has filled; None before the first fill.
        submitted_at: UTC-aware; None where the venue doesn't say.
        parent_id: Of the order with several legs that this is one of, which can only be cancelled whole; else empty.
        by_amount: Whether it was placed for an amount of money; how much it may still take is not known then.
        position_side: The position that it is for, in hedge mode; None where the account nets.
        reduce_only: Whether the venue lets it reduce the position and do nothing else.

    Example:
        >>> order = Order(
        ...     id="1", client_order_id="a", symbol="AAPL", side=Side.BUY, quantity=Decimal(100),
        ...     filled_quantity=Decimal(30), status=OrderStatus.PARTIALLY_FILLED, type=OrderType.MARKET,
        ...     time_in_force=TimeInForce.DAY,
        ... )
        >>> order.remaining
        Decimal('70')
    """

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
    parent_id: str = ""
    by_amount: bool = False
    position_side: PositionSide | None = None
    reduce_only: bool = False

    @property
    def key(self) -> PositionKey:
        """The position that it is for."""
        return PositionKey(self.symbol, self.position_side)

    @property
    def cancel_id(self) -> str:
        """The id under which it is cancelled."""
        return self.parent_id or self.id

    @property
    def remaining(self) -> Decimal:
        """What can still fill, in units of the symbol; zero once the order is closed."""
        return self.quantity - self.filled_quantity if self.status.is_open else ZERO


@dataclass(frozen=True, slots=True)
class Fill:
    """One execution of an order as the venue reports it.

    Attributes:
        id: The venue's, unique within the account.
        order_id: The venue's id of the order that filled.
        symbol: As positions have it.
        side: The order's direction.
        quantity: Units of the symbol in this execution; never negative.
        price: In the account's currency per unit.
        at: UTC-aware, by the venue's clock.
        cumulative_quantity: Units of its order that have filled with this one; None where the venue doesn't say.
        fee: What the venue took for it; None where it doesn't say with the fill.
        fee_currency: What the fee is in, such as `USD`, or `BTC` where it is taken from what was bought.
        position_side: The position that it changed, in hedge mode; None where the account nets.
        client_order_id: Of its order; empty where the venue doesn't say.

    Example:
        >>> fill = Fill("f1", "1", "AAPL", Side.SELL, Decimal(10), Decimal("187.5"), datetime(2026, 1, 5, tzinfo=UTC))
        >>> fill.side.sign * fill.quantity, fill.fee is None
        (Decimal('-10'), True)
    """

    id: str
    order_id: str
    symbol: str
    side: Side
    quantity: Decimal
    price: Decimal
    at: datetime
    cumulative_quantity: Decimal | None = None
    fee: Decimal | None = None
    fee_currency: str = ""
    position_side: PositionSide | None = None
    client_order_id: str = ""

    @property
    def key(self) -> PositionKey:
        """The position that it changed."""
        return PositionKey(self.symbol, self.position_side)


@dataclass(frozen=True, slots=True)
class Position:
    """One position as the venue reports it.

    Attributes:
        symbol: The venue's symbol.
        quantity: Units of the symbol; long is positive, short is negative.
        available: How much of |quantity| no open order holds.
        average_entry_price: In the account's currency per unit.
        current_price: In the account's currency per unit; None where the venue gives none.
        market_value: In the account's currency, signed, as the venue has it; it wins over quantity and price.
        instrument: Its class, steps and session.
        position_side: Which of the symbol's two positions it is, in hedge mode; None where the account nets.
        market: The clock of its own market; None where that is the account's.

    Example:
        >>> short = Position("AAPL", Decimal(-10), Decimal(10), average_entry_price=Decimal("187.5"))
        >>> short.closing_side, short.notional
        (<Side.BUY: 'buy'>, Decimal('1875.0'))
    """

    symbol: str
    quantity: Decimal
    available: Decimal
    average_entry_price: Decimal
    current_price: Decimal | None = None
    market_value: Decimal | None = None
    instrument: Instrument = EQUITY
    position_side: PositionSide | None = None
    market: MarketClock | None = field(default=None, compare=False)

    @property
    def key(self) -> PositionKey:
        """What it is known by in its account."""
        return PositionKey(self.symbol, self.position_side)

    @property
    def closing_side(self) -> Side:
        """The side of an order that reduces it."""
        return Side.SELL if self.quantity > 0 else Side.BUY

    @property
    def market_price(self) -> Decimal | None:
        """Per unit, as the venue has it: its current price, else what its market value comes to; None without both.

        The value of an inverse contract tells no price.
        """
        if self.current_price is not None:
            return self.current_price
        if self.market_value is None or not self.quantity or self.instrument.inverse:
            return None
        return abs(self.market_value / self.quantity) / self.instrument.multiplier

    @property
    def notional(self) -> Decimal:
        """What it is worth in the account's currency, never negative: the venue's own figure where there is one.

        Else what |quantity| is worth at its price; the entry price stands in where there is no current one.
        """
        if self.market_value is not None:
            return abs(self.market_value)
        price = self.average_entry_price if self.current_price is None else self.current_price
        return self.instrument.worth(abs(self.quantity), price)


@dataclass(frozen=True, slots=True)
class Unreadable:
    """What the venue lists and that can't be understood. An order or a position blocks its own symbol only.

    Attributes:
        what: `order`, `position`, `fill` or `transfer`.
        symbol: The venue's symbol; empty where not even that can be read.
        id: The one under which an order can be cancelled all the same; empty for a position.
        problem: What about it makes no sense.

    Example:
        >>> str(Unreadable("order", "AAPL", "7", "its price is empty"))
        "the venue's order 7 of AAPL can't be read: its price is empty"
    """

    what: str
    symbol: str
    id: str
    problem: str

    def __str__(self) -> str:
        name = " ".join(part for part in (self.what, self.id, f"of {self.symbol}" if self.symbol else "") if part)
        return f"the venue's {name} can't be read: {self.problem}"


@dataclass(frozen=True, slots=True)
class Account:
    """One account as the venue reports it.

    Attributes:
        id: The venue's.
        currency: ISO 4217, such as `USD`.
        equity: What the account is worth, in its currency.
        buying_power: What may be bought for, in its currency.
        trading_blocked: Why the venue takes no orders for it, and what lifts that; empty where it does.
        trading_suspended: That the account's own setting suspends trading, and what lifts that; empty where it doesn't.
        as_of: When the venue worked the equity out, UTC-aware; None where it doesn't say.
        untrusted: Why the venue itself says that the equity is not to be relied on; empty where it doesn't.
        initial_margin: What its positions ask for when they are opened, in its currency; None where not told.
        maintenance_margin: What its positions ask for to be kept, in its currency; None where not told.

    Example:
        >>> Account("PA1", "USD", equity=Decimal(100_000), buying_power=Decimal(400_000)).trading_blocked
        ''
    """

    id: str
    currency: str
    equity: Decimal
    buying_power: Decimal
    trading_blocked: str = ""
    trading_suspended: str = ""
    as_of: datetime | None = None
    untrusted: str = ""
    initial_margin: Decimal | None = None
    maintenance_margin: Decimal | None = None


@dataclass(frozen=True, slots=True)
class MarketClock:
    """The venue's own clock and session; times are UTC-aware.

    Attributes:
        now: The venue's time.
        is_open: Whether the session is on.
        next_open: When the next session begins; None where the venue doesn't say.
        next_close: When this session, or the next one, ends; None where the venue doesn't say.

    Example:
        >>> MarketClock(datetime(2026, 1, 5, 15, 0, tzinfo=UTC), is_open=True).next_close is None
        True
    """

    now: datetime
    is_open: bool
    next_open: datetime | None = None
    next_close: datetime | None = None
