"""Read what clients of the TWS API ask for, field by field, as its server version 178 expects it. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Final

from breaker.orders import OrderType, Side, TimeInForce
from sandbox.exchange.orders import OrderRequest
from sandbox.exchange.refusal import Refusal

_TYPES: Final = {
    "MKT": OrderType.MARKET,
    "LMT": OrderType.LIMIT,
    "STP": OrderType.STOP,
    "STP LMT": OrderType.STOP_LIMIT,
    "TRAIL": OrderType.TRAILING_STOP,
}
_FORCES: Final = {
    "": TimeInForce.DAY,
    "DAY": TimeInForce.DAY,
    "GTC": TimeInForce.GTC,
    "IOC": TimeInForce.IOC,
    "FOK": TimeInForce.FOK,
    "OPG": TimeInForce.OPG,
}
REQUEST_ID_AT: Final = {"1": 2, "3": 1, "4": 2, "7": 2, "9": 2, "62": 2, "76": 2}
"""Where a request that has an id of its own says it."""


class Malformed(ValueError):
    """A request that can't be understood: the code and the words of the error that answers it."""

    def __init__(self, code: int, words: str) -> None:
        super().__init__(words)
        self.code = code


@dataclass(frozen=True, slots=True)
class OrderMessage:
    """What a `placeOrder` asks for."""

    order_id: int
    contract: Sequence[str]
    """Twelve fields."""
    side: Side
    quantity: Decimal
    type: OrderType
    limit_price: Decimal | None
    aux_price: Decimal | None
    time_in_force: TimeInForce
    account: str
    order_ref: str
    outside_rth: bool
    transmit: bool
    parent_id: int
    what_if: bool


class _Cursor:
    def __init__(self, fields: Sequence[str]) -> None:
        self._fields = iter(fields)

    def take(self) -> str:
        try:
            return next(self._fields)
        except StopIteration:
            raise Malformed(320, "Error reading request. Message is incomplete") from None

    def skip(self, count: int) -> None:
        for _ in range(count):
            self.take()

    def number(self) -> int:
        text = self.take()
        return int(text) if text.lstrip("-").isdecimal() else 0


def read_place_order(fields: Sequence[str]) -> OrderMessage:
    """The order of a `placeOrder` message (its type, 3, is the first field). Raises `Malformed`."""
    cursor = _Cursor(fields[1:])
    order_id = cursor.number()
    contract = [cursor.take() for _ in range(12)]
    cursor.skip(2)
    action, quantity, kind, limit, aux, force = (cursor.take() for _ in range(6))
    cursor.skip(1)
    account = cursor.take()
    cursor.skip(2)
    order_ref, transmit, parent_id = cursor.take(), cursor.take(), cursor.number()
    cursor.skip(4)
    outside_rth = cursor.take()
    cursor.skip(1)
    if contract[2] == "BAG":
        raise Malformed(201, "Order rejected - reason:Combinations are not taken here")
    what_if = _read_to_what_if(cursor)
    if action not in {"BUY", "SELL"} or kind not in _TYPES or force not in _FORCES:
        raise Malformed(321, f"Error validating request.-'bN' : cause - Invalid order: {action} {kind} {force}")
    return OrderMessage(
        order_id=order_id,
        contract=contract,
        side=Side.BUY if action == "BUY" else Side.SELL,
        quantity=_decimal(quantity) or Decimal(0),
        type=_TYPES[kind],
        limit_price=_decimal(limit),
        aux_price=_decimal(aux),
        time_in_force=_FORCES[force],
        account=account,
        order_ref=order_ref,
        outside_rth=outside_rth == "1",
        transmit=transmit == "1",
        parent_id=parent_id,
        what_if=what_if,
    )


def _read_to_what_if(cursor: _Cursor) -> bool:
    """Walk the terms that nothing here depends on, some of which have others behind them."""
    cursor.skip(7 + 22)
    if cursor.take():  # delta-neutral order
        cursor.skip(8)
    cursor.skip(1 + 6)
    if (_decimal(cursor.take()) or 0) > 0:  # scale order
        cursor.skip(7)
    cursor.skip(3)
    if cursor.take():  # hedge
        cursor.skip(1)
    cursor.skip(4)
    if cursor.take() == "1":  # delta-neutral contract
        cursor.skip(3)
    if cursor.take():  # algorithm
        cursor.skip(2 * cursor.number())
    cursor.skip(1)
    return cursor.take() == "1"


def order_request(asked: OrderMessage, symbol: str) -> OrderRequest:
    """What it asks of the exchange. A reference is no id: two orders may have the same one."""
    trails = asked.type is OrderType.TRAILING_STOP
    return OrderRequest(
        symbol=symbol,
        side=asked.side,
        type=asked.type,
        time_in_force=asked.time_in_force,
        qty=asked.quantity,
        limit_price=asked.limit_price if asked.type in {OrderType.LIMIT, OrderType.STOP_LIMIT} else None,
        stop_price=asked.aux_price if asked.type in {OrderType.STOP, OrderType.STOP_LIMIT} else None,
        trail_price=asked.aux_price if trails else None,
        extended_hours=asked.outside_rth,
    )


def as_error(refusal: Refusal) -> Malformed:
    """In TWS's numbers: a price between two steps is 110, a part of a share 10243, of a contract 10318, else 201."""
    words = str(refusal)
    if refusal.rule == "quantity step" and "fractional quantity" in words:
        return Malformed(10318, words)
    if refusal.rule == "price step":
        return Malformed(110, "The price does not conform to the minimum price variation for this contract.")
    if "fractional" in words:
        return Malformed(10243, f"Fractional-sized order cannot be placed via API. {words}")
    return Malformed(201, f"Order rejected - reason:{words}")


def _decimal(text: str) -> Decimal | None:
    if not text:
        return None
    try:
        value = Decimal(text)
    except InvalidOperation:
        raise Malformed(320, f"Error reading request. Unable to parse data {text!r}") from None
    return value.normalize() if value.is_finite() and abs(value) < Decimal("1e100") else None


def request_id(fields: Sequence[str]) -> int:
    """Its own number; −1 for one that has none."""
    at = REQUEST_ID_AT.get(fields[0])
    text = fields[at] if at is not None and at < len(fields) else ""
    return int(text) if text.lstrip("-").isdecimal() else -1
