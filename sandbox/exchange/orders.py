"""Hold what an account has at the paper exchange: orders, positions and fills."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from typing import Final

from breaker.orders import ZERO, OrderType, PositionSide, Side, TimeInForce

QUANTITY_STEP: Final = Decimal("0.000000001")
"""The smallest fraction of a share."""
PRICE_STEP: Final = Decimal("0.01")


class Status(StrEnum):
    """An order's status in Alpaca's words (docs.alpaca.markets, "Order lifecycle")."""

    NEW = "new"
    ACCEPTED = "accepted"
    HELD = "held"
    PARTIALLY_FILLED = "partially_filled"
    PENDING_CANCEL = "pending_cancel"
    PENDING_REPLACE = "pending_replace"
    FILLED = "filled"
    CANCELED = "canceled"
    EXPIRED = "expired"
    REPLACED = "replaced"
    REJECTED = "rejected"
    CALCULATED = "calculated"
    """Executed; only its settlement is still worked out. Lists of open orders have it all the same."""


CLOSED = frozenset(
    {Status.FILLED, Status.CANCELED, Status.EXPIRED, Status.REPLACED, Status.REJECTED, Status.CALCULATED}
)


class Origin(StrEnum):
    """Who caused an order."""

    CLIENT = "client"
    """It came over the API."""
    BOOK = "book"
    """It was there when the exchange started."""
    STRATEGY = "strategy"
    """A strategy of the same account placed it, or placed it again after a cancel."""
    VENUE = "venue"
    """A fill that the venue reported after everything seemed over."""


def position_name(symbol: str, side: PositionSide | None) -> str:
    """What a position is known by: its symbol, and in hedge mode its side too."""
    return symbol if side is None else f"{symbol} {side}"


def position_names(symbol: str) -> tuple[str, ...]:
    """The names of all positions that there can be in a symbol."""
    return symbol, *(position_name(symbol, side) for side in PositionSide)


def closes(side: Side, position_side: PositionSide | None) -> bool:
    """Whether an order of this side can only reduce the position that it is for; never so where the account nets."""
    return position_side is not None and (side is Side.SELL) == (position_side is PositionSide.LONG)


class OrderClass(StrEnum):
    SIMPLE = "simple"
    BRACKET = "bracket"
    OCO = "oco"
    OTO = "oto"
    MLEG = "mleg"
    """Several legs that fill together and are cancelled together."""


@dataclass(frozen=True, slots=True)
class LegRequest:
    """One leg of an order with several; it takes `ratio` for each unit of the order."""

    symbol: str
    side: Side
    ratio: Decimal


@dataclass(frozen=True, slots=True)
class Resubmission:
    """How often, until when (exchange seconds) and how soon a strategy places a cancelled order again."""

    times: int
    until: float
    delay: float


@dataclass(frozen=True, slots=True)
class OrderRequest:
    """A valid order as asked for; exactly one of `qty` and `notional` is set.

    One with several legs has no symbol, no side worth the name, and perhaps a negative limit price: what it brings in.
    """

    symbol: str
    side: Side
    type: OrderType
    time_in_force: TimeInForce
    qty: Decimal | None = None
    notional: Decimal | None = None
    limit_price: Decimal | None = None
    stop_price: Decimal | None = None
    trail_price: Decimal | None = None
    trail_percent: Decimal | None = None
    extended_hours: bool = False
    client_order_id: str | None = None
    order_class: OrderClass = OrderClass.SIMPLE
    take_profit: Decimal | None = None
    """Limit price of the take-profit leg."""
    stop_loss: Decimal | None = None
    """Stop price of the stop-loss leg."""
    stop_loss_limit: Decimal | None = None
    legs: tuple[LegRequest, ...] = ()
    position_side: PositionSide | None = None
    """The position that it is for, in hedge mode."""
    reduce_only: bool = False
    close_position: bool = False
    """It closes all of the position when its price is reached, whatever that is then."""
    takes_profit: bool = False
    """Its stop price is reached from the other side."""
    conditional: bool = False
    """The venue keeps it apart from the others until its price is reached."""

    @property
    def position_name(self) -> str:
        return position_name(self.symbol, self.position_side)

    @property
    def only_reduces(self) -> bool:
        """The venue lets it reduce the position and do nothing else."""
        return self.reduce_only or self.close_position or closes(self.side, self.position_side)


@dataclass(slots=True)
class PaperOrder:
    """One order. Times are seconds on the exchange's clock since it started; orders of the book have negative ones."""

    id: str
    client_order_id: str
    symbol: str
    side: Side
    type: OrderType
    time_in_force: TimeInForce
    qty: Decimal
    status: Status
    submitted_at: float
    updated_at: float
    origin: Origin
    closing: bool = False
    """A client sent it to reduce a position."""
    notional: Decimal | None = None
    limit_price: Decimal | None = None
    stop_price: Decimal | None = None
    trail_price: Decimal | None = None
    trail_percent: Decimal | None = None
    high_water_mark: Decimal | None = None
    extended_hours: bool = False
    order_class: OrderClass = OrderClass.SIMPLE
    parent: PaperOrder | None = None
    legs: list[PaperOrder] = field(default_factory=list)
    sibling: PaperOrder | None = None
    """The other leg of a one-cancels-other pair."""
    ratio: Decimal | None = None
    """Of a leg that goes with its order: how much of it for each unit of that."""
    filled_qty: Decimal = ZERO
    filled_value: Decimal = ZERO
    filled_at: float | None = None
    canceled_at: float | None = None
    expired_at: float | None = None
    failed_at: float | None = None
    replaced_at: float | None = None
    replaced_by: str | None = None
    replaces: str | None = None
    filling: bool = False
    """A fill is on its way."""
    triggered: bool = False
    """A stop whose price has been reached."""
    stalled: bool = False
    """The market has no more to give; it stays as it is until it is cancelled."""
    resubmission: Resubmission | None = None
    """Set on an order of a strategy, which places it again when it is cancelled."""
    side_word: str = ""
    """What answers call its side, where that is another word than the side's own."""
    unreadable: bool = False
    """Answers give an empty string for its limit price."""
    position_side: PositionSide | None = None
    """The position that it is for, in hedge mode."""
    reduce_only: bool = False
    close_position: bool = False
    takes_profit: bool = False
    conditional: bool = False
    triggered_at: float | None = None

    @property
    def position_name(self) -> str:
        return position_name(self.symbol, self.position_side)

    @property
    def only_reduces(self) -> bool:
        """The venue lets it reduce the position and do nothing else."""
        return self.reduce_only or self.close_position or closes(self.side, self.position_side)

    @property
    def is_apart(self) -> bool:
        """The venue keeps it apart from the orders that work, and it holds nothing."""
        return self.conditional and not self.triggered

    def become(self, status: Status, at: float) -> None:
        """Change the status, and that of the legs that go with the order."""
        for each in (self, *self.joint_legs):
            each.status = status
            each.updated_at = at

    @property
    def joint_legs(self) -> list[PaperOrder]:
        """The legs that fill and end with it, and only with it."""
        return self.legs if self.order_class is OrderClass.MLEG else []

    @property
    def goes_with_parent(self) -> bool:
        """It fills and ends with the order that it is a leg of, and can't be cancelled by itself."""
        return self.ratio is not None

    @property
    def is_open(self) -> bool:
        return self.status not in CLOSED

    @property
    def is_listed_as_open(self) -> bool:
        return self.is_open or self.status is Status.CALCULATED

    @property
    def remaining(self) -> Decimal:
        return self.qty - self.filled_qty

    @property
    def holds(self) -> Decimal:
        """The quantity it keeps from being closed by others: nothing while it is held, apart or waits for its entry."""
        works = self.is_open and self.status is not Status.HELD and not self.waits and not self.is_apart
        return self.remaining if works else ZERO

    @property
    def waits(self) -> bool:
        """It is the leg of an entry that has not filled."""
        entry = self.parent
        if entry is None or self.goes_with_parent:
            return False
        return entry.order_class is not OrderClass.OCO and entry.status is not Status.FILLED


@dataclass(slots=True)
class PaperPosition:
    """A position; `qty` is signed and never zero."""

    symbol: str
    qty: Decimal
    average_price: Decimal
    withheld: Decimal = ZERO
    """How much of it the venue lets nobody close, without an order that holds it."""
    unreadable: bool = False
    """Answers give an empty string for what is available of it."""
    position_side: PositionSide | None = None
    """Which of the symbol's two positions it is, in hedge mode."""

    @property
    def name(self) -> str:
        return position_name(self.symbol, self.position_side)

    @property
    def closing_side(self) -> Side:
        return Side.SELL if self.qty > 0 else Side.BUY


@dataclass(frozen=True, slots=True)
class Fill:
    at: float
    order_id: str
    symbol: str
    side: Side
    qty: Decimal
    price: Decimal
    filled_qty: Decimal
    """Of the order, with this fill."""
    left: Decimal
    """Of the order, after this fill."""
    position_side: PositionSide | None = None
    realised: Decimal = ZERO
    """What it made of the part of the position that it closed."""


def trailing_stop_price(
    side: Side, price: Decimal, trail_price: Decimal | None, trail_percent: Decimal | None
) -> Decimal:
    """Where a trailing stop of this side stands when the market is at `price`."""
    distance = trail_price if trail_price is not None else price * (trail_percent or ZERO) / 100
    return (price + side.sign * distance).quantize(PRICE_STEP)


def request_for_the_rest(order: PaperOrder) -> OrderRequest:
    """What one would ask for to get the rest of this order again."""
    return OrderRequest(
        symbol=order.symbol,
        side=order.side,
        type=order.type,
        time_in_force=order.time_in_force,
        qty=order.remaining or order.qty,
        limit_price=order.limit_price,
        stop_price=order.stop_price,
        trail_price=order.trail_price,
        trail_percent=order.trail_percent,
        extended_hours=order.extended_hours,
        position_side=order.position_side,
        reduce_only=order.reduce_only,
        close_position=order.close_position,
        takes_profit=order.takes_profit,
        conditional=order.conditional,
    )
