"""Read Alpaca's answers into the terms of `brokers.protocol`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any, TypeVar

import httpx

from breaker.orders import Account, MarketClock, Order, OrderStatus, OrderType, Position, Side, TimeInForce
from brokers.protocol import BrokerUnavailable, CancelOutcome, CancelResult, CloseOutcome, CloseResult

UNREADABLE = (KeyError, TypeError, ValueError, AttributeError, ArithmeticError)
"""What reading an answer of an unexpected shape raises."""

_STATUS = {
    "partially_filled": OrderStatus.PARTIALLY_FILLED,
    "pending_cancel": OrderStatus.PENDING_CANCEL,
    "pending_replace": OrderStatus.PENDING_REPLACE,
    "held": OrderStatus.HELD,
    "filled": OrderStatus.FILLED,
    "canceled": OrderStatus.CANCELED,
    "replaced": OrderStatus.CANCELED,
    "rejected": OrderStatus.REJECTED,
    "expired": OrderStatus.EXPIRED,
}
_CLOSED_WORDS = ("filled", "canceled", "cancelled", "expired", "rejected", "replaced")
_Json = dict[str, Any]
_T = TypeVar("_T")
_Word = TypeVar("_Word", bound=StrEnum)


@contextmanager
def reading(what: str, account: str) -> Iterator[None]:
    """Turn what reading an answer of an unexpected shape raises into `BrokerUnavailable`, naming `what` was read."""
    try:
        yield
    except UNREADABLE as error:
        raise BrokerUnavailable(
            f"{account}: the venue's {what} can't be understood ({type(error).__name__}: {error})", account=account
        ) from error


def read_account(body: _Json) -> Account:
    return Account(
        id=body["account_number"],
        currency=body["currency"],
        equity=Decimal(body["equity"]),
        buying_power=Decimal(body["buying_power"]),
        trading_blocked=bool(body.get("trading_blocked") or body.get("account_blocked")),
    )


def read_clock(body: _Json) -> MarketClock:
    return MarketClock(
        now=read_time(body["timestamp"]),
        is_open=bool(body["is_open"]),
        next_open=_optional(body.get("next_open"), read_time),
        next_close=_optional(body.get("next_close"), read_time),
    )


def read_cancel_result(order_id: str, status: int, body: Any) -> CancelResult:
    message = str(body.get("message", "")) if isinstance(body, dict) else ""
    if status in (httpx.codes.OK, httpx.codes.NO_CONTENT):
        return CancelResult(order_id, CancelOutcome.ACCEPTED)
    if status == httpx.codes.NOT_FOUND or any(word in message.lower() for word in _CLOSED_WORDS):
        return CancelResult(order_id, CancelOutcome.NOT_OPEN, message)
    return CancelResult(order_id, CancelOutcome.REFUSED, message or f"status {status}")


def read_close_result(symbol: str, status: int, body: _Json) -> CloseResult:
    if status == httpx.codes.OK:
        return CloseResult(symbol, CloseOutcome.ACCEPTED, read_order(body))
    message = str(body.get("message", f"status {status}"))
    return CloseResult(symbol, CloseOutcome.REFUSED, None, message, str(body.get("code", status)))


def read_order(body: _Json) -> Order:
    """One order, whatever kind it is: what can't be told apart can still be cancelled.

    An order with several legs (options) has no symbol and no side of its own, one for an amount of money no quantity,
    and kinds of orders are added in time.
    """
    filled = _decimal(body.get("filled_qty") or "0")
    return Order(
        id=body["id"],
        client_order_id=body.get("client_order_id") or "",
        symbol=_symbol(body),
        side=_word(Side, body.get("side"), Side.BUY),
        quantity=_decimal(body.get("qty") or filled),
        filled_quantity=filled,
        # A word that is not in the table is an order that may still fill: accepted, suspended, done for the day, …
        status=_STATUS.get(body["status"], OrderStatus.NEW),
        type=_word(OrderType, body.get("type") or body.get("order_type"), OrderType.LIMIT),
        time_in_force=_word(TimeInForce, body.get("time_in_force"), TimeInForce.DAY),
        limit_price=_optional(body.get("limit_price"), _decimal),
        stop_price=_optional(body.get("stop_price"), _decimal),
        average_price=_optional(body.get("filled_avg_price"), _decimal),
        submitted_at=_optional(body.get("submitted_at"), read_time),
    )


def _symbol(body: _Json) -> str:
    """Alpaca calls a pair `BTC/USD` in orders and `BTCUSD` in positions, and takes either in a request."""
    symbol = body.get("symbol") or ""
    return symbol.replace("/", "") if body.get("asset_class") == "crypto" else symbol


def read_position(body: _Json) -> Position:
    quantity = _decimal(body["qty"])
    available = body.get("qty_available")
    return Position(
        symbol=_symbol(body),
        quantity=-abs(quantity) if body.get("side") == "short" else quantity,
        available=abs(quantity if available is None else _decimal(available)),
        average_entry_price=_decimal(body.get("avg_entry_price") or "0"),
        current_price=_optional(body.get("current_price"), _decimal),
    )


def _word(words: type[_Word], value: Any, otherwise: _Word) -> _Word:
    return words(value) if value in set(words) else otherwise


def _optional(value: Any, convert: Callable[[Any], _T]) -> _T | None:
    return None if value is None else convert(value)


def _decimal(value: Any) -> Decimal:
    """A finite number; a quantity that is none would pass every comparison."""
    number = Decimal(str(value))
    if not number.is_finite():
        raise ValueError(f"{value!r:.40} is not a number")
    return number


def read_time(text: str) -> datetime:
    """ISO 8601 with a zone; Alpaca's nanoseconds are cut to the microseconds that `datetime` holds."""
    return datetime.fromisoformat(text).astimezone(UTC)
