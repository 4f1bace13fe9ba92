"""Write the messages by which TWS tells of orders, executions, positions and the account. Pure.

Laid out as clients of server version 178 read them; what the exchange has nothing to say of stays empty.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Final

from breaker.orders import ZERO, OrderType, Side, TimeInForce
from sandbox.exchange.orders import Fill, PaperOrder, PaperPosition, Status
from sandbox.exchange.tws.contracts import PaperContract
from sandbox.exchange.tws.framing import Field

Message = list[Field]

_STATUS: Final = {
    Status.NEW: "Submitted",
    Status.ACCEPTED: "PreSubmitted",
    Status.HELD: "PreSubmitted",
    Status.PARTIALLY_FILLED: "Submitted",
    Status.PENDING_CANCEL: "PendingCancel",
    Status.PENDING_REPLACE: "Submitted",
    Status.FILLED: "Filled",
    Status.CALCULATED: "Filled",
    Status.CANCELED: "Cancelled",
    Status.EXPIRED: "Cancelled",
    Status.REPLACED: "Cancelled",
    Status.REJECTED: "Inactive",
}
_TYPES: Final = {
    OrderType.MARKET: "MKT",
    OrderType.LIMIT: "LMT",
    OrderType.STOP: "STP",
    OrderType.STOP_LIMIT: "STP LMT",
    OrderType.TRAILING_STOP: "TRAIL",
}
COMBINATION: Final = PaperContract("", 28812380, "USD", "BAG", local_symbol="")
"""What every order with several legs is for."""
FARMS: Final = (
    (2104, "Market data farm connection is OK:usfarm"),
    (2158, "Sec-def data farm connection is OK:secdefil"),
)
NO_VENUE: Final = (
    (2103, "Market data farm connection is broken:usfarm"),
    (2110, "Connectivity between Trader Workstation and server is broken. It will be restored automatically."),
)
"""What TWS says of its connections to the venue, when it has them and when not."""


@dataclass(frozen=True, slots=True)
class OrderName:
    """What an order is called: ids by its client, and one of the venue's for good. One by hand has no client's id."""

    client_id: int
    order_id: int
    perm_id: int
    parent_id: int = 0


@dataclass(frozen=True, slots=True)
class Leg:
    """One leg of a combination."""

    contract: PaperContract
    ratio: Decimal
    side: Side


def status_word(order: PaperOrder) -> str:
    """The status in TWS's words."""
    return _STATUS[order.status]


def error(request_id: int | str, code: int, words: str) -> Message:
    """An error, or a notice, which is the same message; −1 is about no request."""
    return [4, 2, request_id, code, words, ""]


def order_status(order: PaperOrder, name: OrderName, word: str) -> Message:
    """`orderStatus`: all that tells how much of an order has filled."""
    average = float(order.filled_value / order.filled_qty) if order.filled_qty else 0.0
    held = "locate" if order.status is Status.HELD else ""
    return [
        *(3, name.order_id, word, order.filled_qty, order.remaining, average),
        *(name.perm_id, name.parent_id, average, name.client_id, held, 0),
    ]


def open_order(
    order: PaperOrder, name: OrderName, contract: PaperContract, account: str, legs: Sequence[Leg], word: str
) -> Message:
    """`openOrder`: the order's terms and its status, which is `word`."""
    return [
        *(5, name.order_id, *contract.fields),
        *(*_terms(order, account), name.client_id, name.perm_id, order.extended_hours, 0, 0, "", "", "", "", ""),
        *("", "", "", "", "", 0, "", -1, 0),  # from the model to the auction's strategy
        *_nothing(5),  # from the starting price to the range
        *("", 0, 0, 0, "", 3 if order.sibling else 0, 0, 0, "", name.parent_id, 0, "", 0, "", ""),
        *_trail(order),
        *("", "", ""),  # basis points and a description of the legs
        *_legs(legs),
        *("", 0, "", "", 0, 0, ""),  # hedge, routing, clearing, delta-neutral contract, algorithm
        *(0, 0, word, *_nothing(9), "", "", "", "", "", 0, 0),  # margins, commissions, randomness
        0,  # conditions
        *("", "", _trail(order)[2], *_nothing(8)),  # adjusted orders and soft dollars
        *("" if order.notional is None else order.notional, 0, 0, 0, 0),
        *("", "", 0),  # duration, ATS, the parent's end
        *_nothing(5),
    ]


def completed_order(
    order: PaperOrder, name: OrderName, contract: PaperContract, account: str, legs: Sequence[Leg], at: datetime
) -> Message:
    """`completedOrder`: it has the venue's own id and no client's; how much has filled only where all has."""
    filled = order.filled_qty if order.remaining == 0 else ZERO
    words = f"{status_word(order)} Size: {order.filled_qty:f}" if filled else "Cancelled by Trader"
    return [
        *(101, *contract.fields),
        *(*_terms(order, account), name.perm_id, order.extended_hours, 0, 0, "", "", "", ""),
        *("", "", "", "", "", 0, "", -1),  # from the model to the exemption
        *_nothing(5),
        *("", 0, 0, "", 3 if order.sibling else 0, 0, "", 0, "", ""),
        *_trail(order),
        "",
        *_legs(legs),
        *("", "", "", 0, 0, ""),  # hedge, clearing, delta-neutral contract, algorithm
        *(0, status_word(order), 0, 0, 0),
        *("", "", "" if order.notional is None else order.notional, 0, 0, ""),
        *(filled, "", 0, 0, 0, 0, "", f"{at:%Y%m%d %H:%M:%S} UTC", words),
        *_nothing(5),
    ]


def _nothing(count: int) -> Message:
    return [""] * count


def _terms(order: PaperOrder, account: str) -> Message:
    """From the action to the reference."""
    side = Side.BUY if order.joint_legs else order.side
    aux = order.trail_price if order.type is OrderType.TRAILING_STOP else order.stop_price
    force = "DAY" if order.time_in_force is TimeInForce.CLS else order.time_in_force.value.upper()
    quantity = ZERO if order.notional is not None else order.qty
    limit: Field = "?" if order.unreadable else order.limit_price
    return [
        side.value.upper(),
        quantity,
        _TYPES[order.type],
        limit,
        aux,
        force,
        "",
        account,
        "",
        0,
        order.client_order_id,
    ]


def _trail(order: PaperOrder) -> Message:
    """Continuous update, reference price, where a trailing stop stands and how far it trails."""
    trails = order.type is OrderType.TRAILING_STOP
    return [0, "", order.stop_price if trails else "", order.trail_percent]


def _legs(legs: Sequence[Leg]) -> Message:
    """The legs, their prices, their routing, and the three terms of a scale order."""
    told = [
        field
        for leg in legs
        for field in (leg.contract.con_id, leg.ratio, leg.side.value.upper(), leg.contract.exchange, 0, 0, "", -1)
    ]
    return [len(legs), *told, 0, 0, "", "", ""]


def execution(
    request_id: int | str,
    fill: Fill,
    number: int,
    name: OrderName,
    contract: PaperContract,
    *,
    account: str,
    order_ref: str,
    at: datetime,
) -> Message:
    """`execDetails`."""
    return [
        *(11, request_id, name.order_id, *contract.fields),
        *(execution_id(number), f"{at:%Y%m%d %H:%M:%S} UTC", account, contract.exchange),
        *("BOT" if fill.side is Side.BUY else "SLD", fill.qty, fill.price, name.perm_id, name.client_id, 0),
        *(fill.filled_qty, fill.price, order_ref, "", "", "", 1, 0),
    ]


def commission(number: int, fill: Fill, currency: str) -> Message:
    """`commissionReport`: a dollar for each execution."""
    return [59, 1, execution_id(number), Decimal(1) if fill.qty else ZERO, currency, "", "", ""]


def execution_id(number: int) -> str:
    return f"0000e0d5.{number:08x}.01.01"


def position(held: PaperPosition, contract: PaperContract, account: str) -> Message:
    """`position`: the average cost of an option or a future counts its multiplier in."""
    cost = held.average_price * Decimal(contract.multiplier or 1)
    return [61, 3, account, *contract.held.fields, "?" if held.unreadable else held.qty, cost]


def portfolio(held: PaperPosition, contract: PaperContract, price: Decimal, account: str) -> Message:
    """`updatePortfolio`: the same with what the market gives for it."""
    times = Decimal(contract.multiplier or 1)
    value, cost = held.qty * price * times, held.average_price * times
    return [7, 8, *contract.held.fields, held.qty, price, value, cost, value - held.qty * cost, 0, account]
