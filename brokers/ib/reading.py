"""Read what TWS tells of orders, executions, positions and errors. Pure; what makes no sense is kept and named.

Sources: the TWS API's documentation (order status, open orders, message codes) and what its users report.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import ROUND_DOWN, ROUND_UP, Decimal
from types import SimpleNamespace
from typing import Any

from breaker.orders import Fill, Order, OrderStatus, OrderType, Side, TimeInForce, Unreadable
from brokers.ib.contracts import Symbols, base_symbol
from brokers.protocol import CancelOutcome, CancelResult, CloseOutcome, CloseResult, Refusal

SENSELESS = (KeyError, TypeError, ValueError, AttributeError, ArithmeticError)
"""What reading a message of an unexpected shape raises."""
BYPASS = "tick 'Bypass Order Precautions for API Orders' in TWS (API, Precautions)"
READ_ONLY = "TWS is read-only for its API: untick 'Read-Only API' in its settings (API, Settings)"

_STATUS = {
    "PendingCancel": OrderStatus.PENDING_CANCEL,
    "Filled": OrderStatus.FILLED,
    "Cancelled": OrderStatus.CANCELED,
    "ApiCancelled": OrderStatus.CANCELED,
    # Refused, or set aside by the venue: it doesn't work, and may come back as long as it is listed as open.
    "Inactive": OrderStatus.HELD,
}
_TYPES = {
    "MKT": OrderType.MARKET,
    "LMT": OrderType.LIMIT,
    "STP": OrderType.STOP,
    "STP LMT": OrderType.STOP_LIMIT,
    "TRAIL": OrderType.TRAILING_STOP,
    "TRAIL LIMIT": OrderType.TRAILING_STOP,
    "TRAILLMT": OrderType.TRAILING_STOP,
    "MIT": OrderType.STOP,
    "LIT": OrderType.STOP_LIMIT,
    "MOC": OrderType.MARKET,
    "MKT PRT": OrderType.MARKET,
}
_SIDES = {
    "BUY": Side.BUY,
    "SELL": Side.SELL,
    "SSHORT": Side.SELL,
    "SLONG": Side.SELL,
    "BOT": Side.BUY,
    "SLD": Side.SELL,
}
_FORCES = {"DAY": TimeInForce.DAY, "GTC": TimeInForce.GTC, "IOC": TimeInForce.IOC, "FOK": TimeInForce.FOK}
_UNSET = Decimal("1e100")
"""TWS says the largest number there is for one that is not set."""
PRICE_STEP = 110
"""The code of a limit price between two steps."""
_FRACTION = frozenset({10243, *range(10245, 10251), 10318})
_TOO_LITTLE = 388
_PRECAUTIONS = ("precautionary settings", "percentage constraint", "size limit", "order precautions")
"""Words of refusals by the limits that a person has set in TWS for orders (163, 164, 382, 383, 10311 and others)."""
_BELOW_MINIMUM = re.compile(
    r"minim(um|al) (order )?(size|quantity|qty|notional|value|amount)|less than the minimum|size too small"
)
_EXACT_DIGITS = 15
"""Of a number that has been a binary fraction on its way, as ib_async reads them."""


class TwsError(Exception):
    """An error that TWS gave for a request: its code and its own words."""

    def __init__(self, code: int, words: str) -> None:
        super().__init__(f"{words.rstrip('.')} ({code})")
        self.code = code
        self.words = words


@dataclass(frozen=True, slots=True)
class OrderState:
    """What `orderStatus` said of an order."""

    status: str
    filled: Decimal
    average_price: Decimal | None


@dataclass(frozen=True, slots=True)
class ListedOrder:
    """One `openOrder` or `completedOrder` message, and the status that came with it."""

    order: Any
    contract: Any
    state: OrderState
    completed: bool = False


def order_id_of(order: Any) -> str:
    """The venue's own id; one that TWS has just got has none yet, and goes by its client's."""
    return str(order.permId) if order.permId else f"{order.clientId}:{order.orderId}"


def read_orders(listed: ListedOrder, symbols: Symbols) -> list[Order | Unreadable]:
    """The order; of a combination its legs, which are cancelled together. One for a group of accounts is unreadable."""
    order, contract = listed.order, listed.contract
    order_id = order_id_of(order)
    try:
        if order.faGroup and not order.account:
            raise ValueError(f"it is for the group of accounts {order.faGroup}; cancel it in TWS")
        if contract.secType != "BAG":
            return [read_order(listed, symbols.name(contract))]
        if not contract.comboLegs:
            raise ValueError("it is a combination whose legs are not told")
        return [_leg_of(listed, leg, number, symbols) for number, leg in enumerate(contract.comboLegs)]
    except SENSELESS as error:
        symbol = "" if contract.secType == "BAG" else symbols.name(contract)
        return [Unreadable("order", symbol, order_id, str(error) or type(error).__name__)]


def read_order(listed: ListedOrder, symbol: str) -> Order:
    """Raises one of `SENSELESS`. A word that is not in the table is an order that may still fill."""
    order, state = listed.order, listed.state
    quantity = amount(order.totalQuantity, at_least=True)  # what it may still take of a position is never too little
    cash = _price(order.cashQty)
    by_amount = not quantity and cash is not None
    if not quantity and not by_amount:
        raise ValueError("it has no quantity")
    status = _STATUS.get(state.status, OrderStatus.PARTIALLY_FILLED if state.filled else OrderStatus.NEW)
    if listed.completed and status.is_open:
        status = OrderStatus.REJECTED
    return Order(
        id=order_id_of(order),
        client_order_id=order.orderRef or "",
        symbol=symbol,
        side=_SIDES[order.action],
        quantity=state.filled if by_amount else quantity,
        filled_quantity=state.filled,
        status=status,
        type=_TYPES.get(order.orderType, OrderType.LIMIT),
        time_in_force=_FORCES.get(order.tif, TimeInForce.DAY),
        limit_price=_price(order.lmtPrice),
        stop_price=_stop_price(order),
        average_price=state.average_price if state.filled else None,
        by_amount=by_amount,
    )


def _leg_of(listed: ListedOrder, leg: Any, number: int, symbols: Symbols) -> Order:
    """How much of a combination has filled is told for all of it; each leg counts its ratio."""
    order, ratio = listed.order, Decimal(int(leg.ratio))
    side = _SIDES[leg.action]
    whole = read_order(listed, "")
    return Order(
        id=f"{order_id_of(order)}-{number}",
        client_order_id=whole.client_order_id,
        symbol=symbols.name_of_id(int(leg.conId)),
        side=side if whole.side is Side.BUY else side.opposite,
        quantity=whole.quantity * ratio,
        filled_quantity=whole.filled_quantity * ratio,
        status=whole.status,
        type=whole.type,
        time_in_force=whole.time_in_force,
        parent_id=order_id_of(order),
    )


def _stop_price(order: Any) -> Decimal | None:
    if order.orderType.startswith("TRAIL"):
        return _price(order.trailStopPrice)
    return _price(order.auxPrice) if order.orderType.startswith("STP") or order.orderType in {"MIT", "LIT"} else None


@dataclass(frozen=True, slots=True)
class Undecodable:
    """A message that ib_async's decoder can't make sense of: what its first fields tell all the same."""

    account: str
    item: Unreadable
    owner: tuple[int, int] = (-1, 0)
    """Of an order: which client of TWS placed it, and as which of its own."""


def undecodable_order(fields: Sequence[str]) -> Undecodable:
    """An `openOrder` message. Raises IndexError or ValueError for one that not even that can be read of."""
    item = Unreadable("order", _raw_symbol(fields[3:12]), fields[25], _NO_VALUE)
    return Undecodable(fields[20], item, (int(fields[24]), int(fields[1])))


def undecodable_position(fields: Sequence[str]) -> Undecodable:
    """A `position` message. Raises IndexError for one that not even that can be read of."""
    return Undecodable(fields[2], Unreadable("position", _raw_symbol(fields[4:13]), "", _NO_VALUE))


def _raw_symbol(fields: Sequence[str]) -> str:
    """By the fields of a contract from its symbol to its local one."""
    symbol, kind, currency, local = fields[0], fields[1], fields[7], fields[8]
    return base_symbol(SimpleNamespace(symbol=symbol, secType=kind, currency=currency, localSymbol=local, conId=0))


_NO_VALUE = "the venue's answer has a value that is none"


def read_fill(execution: Any, contract: Any, commission: Any | None, symbols: Symbols) -> Fill:
    """Raises one of `SENSELESS`."""
    return Fill(
        id=execution.execId,
        order_id=str(execution.permId),
        symbol=symbols.name(contract),
        side=_SIDES[execution.side],
        quantity=amount(execution.shares),
        price=amount(execution.price),
        at=_utc(execution.time),
        cumulative_quantity=amount(execution.cumQty),
        fee=None if commission is None else Decimal(str(commission.commission)),
        fee_currency="" if commission is None else commission.currency,
        client_order_id=execution.orderRef or "",
    )


def newest_of_each(fills: Iterable[Fill]) -> list[Fill]:
    """A correction of an execution has its id but for the last part, and stands for it."""
    found: dict[str, Fill] = {}
    for fill in fills:
        found[fill.id.rpartition(".")[0] or fill.id] = fill
    return sorted(found.values(), key=lambda fill: fill.at)


def cancelled(order_id: str, error: TwsError) -> CancelResult:
    """What an error to a cancel says: 202 is that it worked; 135, 10147 and 10148 that there is nothing to cancel."""
    if error.code == 202:
        return CancelResult(order_id, CancelOutcome.ACCEPTED)
    if error.code in {135, 10147} or (error.code == 10148 and "PendingCancel" not in error.words):
        return CancelResult(order_id, CancelOutcome.NOT_OPEN, str(error))
    if error.code == 10148:
        return CancelResult(order_id, CancelOutcome.ACCEPTED)
    return CancelResult(order_id, CancelOutcome.REFUSED, reason_of(error))


def refused(symbol: str, error: TwsError) -> CloseResult:
    """A close that TWS refused, with as much of the reason as it tells."""
    refusal = Refusal.OTHER
    words = error.words.lower()
    if error.code == PRICE_STEP:
        refusal = Refusal.PRICE_STEP
    elif error.code in _FRACTION or "fraction" in words or "size does not conform" in words:
        refusal = Refusal.FRACTION
    elif error.code == _TOO_LITTLE or _BELOW_MINIMUM.search(words):
        refusal = Refusal.BELOW_MINIMUM
    return CloseResult(symbol, CloseOutcome.REFUSED, None, reason_of(error), str(error.code), refusal)


def reason_of(error: TwsError) -> str:
    """In the venue's words, with what to do where they don't say it."""
    if error.code == 321 and "read-only" in error.words.lower():
        return READ_ONLY
    if any(words in error.words.lower() for words in _PRECAUTIONS):
        return f"{error.words.strip().rstrip('.')}: {BYPASS}"
    return error.words.removeprefix("Order rejected - reason:").strip() or str(error)


def amount(value: Any, *, at_least: bool = False) -> Decimal:
    """A number as TWS tells it, never more than that in size, or never less. Raises ValueError for none."""
    number = Decimal(str(value))
    if not number.is_finite() or abs(number) >= _UNSET:
        raise ValueError(f"{value!r:.40} is no number")
    if len(number.as_tuple().digits) > _EXACT_DIGITS:
        number = number.quantize(
            Decimal(1).scaleb(number.adjusted() - _EXACT_DIGITS + 1), ROUND_UP if at_least else ROUND_DOWN
        )
    return _plain(number)


def _price(value: Any) -> Decimal | None:
    """None where it is not set."""
    if value in {None, ""}:
        return None
    number = Decimal(str(value))
    return _plain(number) if number.is_finite() and 0 < abs(number) < _UNSET else None


def _plain(number: Decimal) -> Decimal:
    """Without zeros behind the point."""
    whole = number.to_integral_value()
    return whole if whole == number else number.normalize()


def _utc(moment: datetime) -> datetime:
    return moment.astimezone(UTC)


def values_of(summary: Mapping[str, tuple[str, str]], tag: str) -> tuple[Decimal, str]:
    """A figure of the account and its currency. Raises KeyError or ArithmeticError where it is not told."""
    value, currency = summary[tag]
    return Decimal(value), currency
