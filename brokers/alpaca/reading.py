"""Read Alpaca's answers. Pure: JSON in, orders, positions and results out; what makes no sense is kept and named.

Sources: Alpaca's Trading API documentation (orders, positions, options and crypto trading) and the venue's own answers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any, TypeVar

import httpx

from breaker.instruments import CRYPTO, EQUITY, OPTION, Instrument, canonical_symbol, is_option
from breaker.orders import (
    Account,
    Fill,
    MarketClock,
    Order,
    OrderStatus,
    OrderType,
    Position,
    Side,
    TimeInForce,
    Unreadable,
)
from brokers.protocol import (
    CancelOutcome,
    CancelResult,
    CloseOutcome,
    CloseResult,
    Listed,
    Refusal,
    Transfer,
    TransferKind,
)

Json = dict[str, Any]
SENSELESS = (KeyError, TypeError, ValueError, AttributeError, ArithmeticError)
"""What reading an answer of an unexpected shape raises."""

_STATUS = {
    "partially_filled": OrderStatus.PARTIALLY_FILLED,
    "pending_cancel": OrderStatus.PENDING_CANCEL,
    "pending_replace": OrderStatus.PENDING_REPLACE,
    "held": OrderStatus.HELD,
    "filled": OrderStatus.FILLED,
    # Executed or done for the day; only the settlement is still calculated.
    "calculated": OrderStatus.FILLED,
    "canceled": OrderStatus.CANCELED,
    "replaced": OrderStatus.CANCELED,
    "rejected": OrderStatus.REJECTED,
    "expired": OrderStatus.EXPIRED,
}
_SIDES = {"buy": Side.BUY, "sell": Side.SELL, "sell_short": Side.SELL, "buy_minus": Side.BUY, "sell_plus": Side.SELL}
_OVER = re.compile(r"""order is already in ["']?(filled|canceled|cancelled|expired|rejected|replaced|calculated)\b""")
"""What the venue says of an order that needs no cancelling any more. `…, cannot be canceled` alone does not say so."""
_BELOW_MINIMUM = re.compile(
    r"minimal amount of order|minimum (order )?(size|quantity|qty|amount|notional)|qty must be (>|greater)"
)
"""Less than may be traded. A price that "does not fulfill minimum pricing criteria" is something else."""
_KINDS = {"CSD": TransferKind.DEPOSIT, "CSW": TransferKind.WITHDRAWAL, "JNLC": TransferKind.JOURNAL}
_NOT_BOOKED = frozenset({"pending", "canceled"})
SUSPENDED = "trading is suspended in this account by its own setting (suspend_trade): lift it in its configuration"
_T = TypeVar("_T")
_Word = TypeVar("_Word", bound=StrEnum)


def read_account(body: Json) -> Account:
    """Raises one of `SENSELESS`."""
    return Account(
        id=body["account_number"],
        currency=body["currency"],
        equity=_decimal(body["equity"]),
        buying_power=_decimal(body["buying_power"]),
        trading_blocked=_why_blocked(body),
        trading_suspended=SUSPENDED if body.get("trade_suspended_by_user") else "",
        initial_margin=_optional(body.get("initial_margin"), _decimal),
        maintenance_margin=_optional(body.get("maintenance_margin"), _decimal),
    )


def _why_blocked(body: Json) -> str:
    """Alpaca, account: the venue's two locks; the third is the account's own."""
    if body.get("account_blocked"):
        return "the venue has blocked this account: only the venue's support lifts that"
    if body.get("trading_blocked"):
        return "the venue has blocked trading in this account: only the venue's support lifts that"
    return ""


def read_clock(body: Json) -> MarketClock:
    """Raises one of `SENSELESS`."""
    return MarketClock(
        now=time_of(body["timestamp"]),
        is_open=bool(body["is_open"]),
        next_open=_optional(body.get("next_open"), time_of),
        next_close=_optional(body.get("next_close"), time_of),
    )


def read_orders(page: Iterable[Any]) -> Iterator[Order | Unreadable]:
    """Every order of a page, legs as orders of their own; an order with several legs is its legs."""
    for body in _a_list(page):
        if not isinstance(body, dict):
            yield Unreadable("order", "", "", f"{body!r:.60} is no order")
            continue
        legs = [leg for leg in body.get("legs") or () if isinstance(leg, dict)]
        if body.get("order_class") == "mleg" and legs:
            yield from (_order_or_not(leg, parent=body) for leg in legs)
            continue
        yield _order_or_not(body)
        yield from (_order_or_not(leg) for leg in legs)


def _order_or_not(body: Json, parent: Json | None = None) -> Order | Unreadable:
    try:
        return read_order(body, parent)
    except SENSELESS as error:
        of = parent or body
        return Unreadable("order", _symbol_or_none(body), str(of.get("id") or ""), _problem(error))


def _name(body: Json, of: str) -> str:
    name = body[of]
    if not isinstance(name, str) or not name:
        raise ValueError(f"its {of} is {name!r:.40}")
    return name


def read_order(body: Json, parent: Json | None = None) -> Order:
    """One order. Raises one of `SENSELESS`: what is not said is not guessed.

    A leg of an order with several (`parent`) is as open as that is, and goes under its client order id.
    """
    filled = _decimal(body.get("filled_qty") or "0")
    quantity = body.get("qty")
    by_amount = quantity is None and body.get("notional") is not None
    if quantity is None and not by_amount:
        raise ValueError("it has neither a quantity nor an amount")
    of = parent or body
    return Order(
        id=_name(body, "id"),
        client_order_id=_name(of, "client_order_id") if of.get("client_order_id") else "",
        symbol=_symbol(body),
        side=_side(body["side"]),
        quantity=filled if by_amount else _decimal(quantity),
        filled_quantity=filled,
        # A word that is not in the table is an order that may still fill: accepted, suspended, done for the day, …
        status=_STATUS.get(of["status"], OrderStatus.NEW),
        type=_word(OrderType, body.get("type") or body.get("order_type"), OrderType.LIMIT),
        time_in_force=_word(TimeInForce, body.get("time_in_force"), TimeInForce.DAY),
        limit_price=_optional(body.get("limit_price"), _decimal),
        stop_price=_optional(body.get("stop_price"), _decimal),
        average_price=_optional(body.get("filled_avg_price"), _decimal),
        submitted_at=_optional(body.get("submitted_at"), time_of),
        parent_id="" if parent is None else str(parent["id"]),
        by_amount=by_amount,
    )


def read_positions(body: Iterable[Any]) -> Listed[Position]:
    """Every position; one that can't be read is named."""
    found: list[Position] = []
    unreadable: list[Unreadable] = []
    for item in _a_list(body):
        try:
            found.append(_position(item))
        except SENSELESS as error:
            unreadable.append(Unreadable("position", _symbol_or_none(item), "", _problem(error)))
    return Listed(tuple(found), tuple(unreadable))


def _position(body: Json) -> Position:
    quantity = _decimal(body["qty"])
    available = body.get("qty_available")
    symbol = _symbol(body)
    return Position(
        symbol=symbol,
        quantity=-abs(quantity) if body.get("side") == "short" else quantity,
        available=abs(quantity if available is None else _decimal(available)),
        average_entry_price=_decimal(body.get("avg_entry_price") or "0"),
        current_price=_optional(body.get("current_price"), _decimal),
        market_value=_optional(body.get("market_value"), _decimal),
        instrument=instrument_of(symbol, body.get("asset_class")),
    )


def instrument_of(symbol: str, asset_class: Any) -> Instrument:
    """By the venue's word, else by the symbol's form; an equity where neither says more."""
    if asset_class == "crypto":
        return CRYPTO
    if asset_class == "us_option" or (asset_class is None and is_option(symbol)):
        return OPTION
    return EQUITY


def read_instruments(assets: Iterable[Any], symbols: Collection[str]) -> dict[str, Instrument]:
    """Those of the symbols that are pairs, spelled as asked for (Alpaca, assets). Raises one of `SENSELESS`."""
    wanted = {canonical_symbol(symbol): symbol for symbol in symbols}
    return {
        wanted[canonical_symbol(body["symbol"])]: replace(
            CRYPTO,
            price_increment=_optional(body.get("price_increment"), _decimal),
            quantity_increment=_optional(body.get("min_trade_increment"), _decimal),
            minimum_quantity=_optional(body.get("min_order_size"), _decimal),
        )
        for body in _a_list(assets)
        if body.get("class") == "crypto" and canonical_symbol(body["symbol"]) in wanted
    }


def read_fills(page: Iterable[Any]) -> Iterator[Fill | Unreadable]:
    """Every execution of a page of activities; one that can't be read is named."""
    for body in _a_list(page):
        try:
            yield _fill(body)
        except SENSELESS as error:
            of = body if isinstance(body, dict) else {}
            yield Unreadable("fill", _symbol_or_none(of), str(of.get("id") or ""), _problem(error))


def _fill(body: Json) -> Fill:
    """A pair is spelled as in orders, and without the word that would say that it is one (Alpaca, TradeActivity)."""
    return Fill(
        id=body["id"],
        order_id=body["order_id"],
        symbol=canonical_symbol(_symbol(body)),
        side=_side(body["side"]),
        quantity=_decimal(body["qty"]),
        price=_decimal(body["price"]),
        at=time_of(body["transaction_time"]),
        cumulative_quantity=_optional(body.get("cum_qty"), _decimal),
    )


def read_transfers(page: Iterable[Any]) -> Iterator[Transfer | Unreadable]:
    """Every transfer of a page of activities; one that can't be read is named, one that was undone is left out."""
    for body in _a_list(page):
        try:
            if body.get("status") not in _NOT_BOOKED:
                yield _transfer(body)
        except SENSELESS as error:
            of = body if isinstance(body, dict) else {}
            yield Unreadable("transfer", "", str(of.get("id") or ""), _problem(error))


def _transfer(body: Json) -> Transfer:
    """Alpaca, NonTradeActivity: `date` is the day of settlement; newer ones say when they were booked."""
    kind = str(body["activity_type"])
    booked = body.get("created_at")
    return Transfer(
        _name(body, "id"),
        _decimal(body["net_amount"]),
        time_of(booked or f"{body['date']}T00:00:00+00:00"),
        _KINDS.get(kind, TransferKind.DIVIDEND),
        by_day=not booked,
    )


def read_quote_time(body: Json, symbol: str) -> datetime:
    """When it was last quoted. Raises one of `SENSELESS`, also where the venue knows of no quote."""
    return time_of(body["quotes"][symbol]["t"])


def cancel_result(order_id: str, status: int, body: Any) -> CancelResult:
    """What became of one cancel, as the status of a request or of an item of a 207."""
    message = str(body.get("message", "")) if isinstance(body, dict) else ""
    if status in (httpx.codes.OK, httpx.codes.NO_CONTENT):
        return CancelResult(order_id, CancelOutcome.ACCEPTED)
    if status == httpx.codes.NOT_FOUND or _OVER.search(message.lower()):
        return CancelResult(order_id, CancelOutcome.NOT_OPEN, message)
    return CancelResult(order_id, CancelOutcome.REFUSED, message or f"status {status}")


def close_result(symbol: str, status: int, body: Json) -> CloseResult:
    """What became of one item of a bulk close."""
    if status == httpx.codes.OK:
        return CloseResult(symbol, CloseOutcome.ACCEPTED, read_order(body))
    message = str(body.get("message", f"status {status}"))
    return refused_close(symbol, message, str(body.get("code", status)), body)


def refused_close(symbol: str, message: str, code: str, body: Mapping[str, Any]) -> CloseResult:
    """A close that the venue refused, with as much of the reason as it tells."""
    words, refusal, reason = message.lower(), Refusal.OTHER, message
    related = [str(item) for item in body.get("related_orders") or ()]
    if "client_order_id must be unique" in words:
        return CloseResult(symbol, CloseOutcome.DUPLICATE, None, message, code)
    if _BELOW_MINIMUM.search(words):
        refusal = Refusal.BELOW_MINIMUM
    elif "fraction" in words and "sold short" not in words:  # that would say that there is nothing to sell
        refusal = Refusal.FRACTION
    elif "pricing criteria" in words or ("price" in words and "increment" in words):
        refusal = Refusal.PRICE_STEP
    elif related or "held_for_orders" in body or "insufficient qty available" in words:
        refusal = Refusal.HELD
        reason = f"{message}; held by orders {', '.join(related[:3]) or 'that it does not name'}"
    elif lifted_by := _lifted_by(words):
        refusal = Refusal.SUSPENDED
        reason = f"{message}; {lifted_by}"
    return CloseResult(symbol, CloseOutcome.REFUSED, None, reason, code, refusal)


def _lifted_by(words: str) -> str:
    """Who lifts the lock on the whole account that these words of a refusal tell of; empty where they tell of none.

    The lock that its owner has set is told as `new orders are rejected by user request`.
    """
    if "user request" in words or "suspended" in words:
        return "trading is suspended in the account: lift suspend_trade in its configuration"
    if "trading is blocked" in words or "account is blocked" in words:
        return "the venue has blocked the account: only the venue's support lifts that"
    return ""


def json_of(response: httpx.Response) -> Any:
    """The answer's JSON; None where it has none."""
    try:
        return response.json()
    except ValueError:
        return None


def error_of(response: httpx.Response) -> tuple[str, str]:
    """Code and message of an answer that is no success."""
    body = json_of(response)
    if isinstance(body, dict):
        return str(body.get("code", response.status_code)), str(body.get("message", response.reason_phrase))
    return str(response.status_code), response.reason_phrase


def time_of(text: str) -> datetime:
    """ISO 8601 with a zone; Alpaca's nanoseconds are cut to the microseconds that `datetime` holds."""
    return datetime.fromisoformat(text).astimezone(UTC)


def open_ones(read: Sequence[Order | Unreadable]) -> Listed[Order]:
    """The orders that may still fill, and what can't be read."""
    orders = tuple(item for item in read if isinstance(item, Order) and item.status.is_open)
    return Listed(orders, tuple(item for item in read if isinstance(item, Unreadable)))


def _a_list(answer: Any) -> list[Any]:
    if not isinstance(answer, list):
        raise TypeError(f"{answer!r:.40} is no list")
    return answer


def _symbol(body: Json) -> str:
    """Alpaca calls a pair `BTC/USD` in orders and `BTCUSD` in positions, and takes either in a request."""
    symbol = body["symbol"]
    if not isinstance(symbol, str) or not symbol:
        raise ValueError("it names no symbol")
    return canonical_symbol(symbol) if body.get("asset_class") == "crypto" else symbol


def _symbol_or_none(body: Any) -> str:
    try:
        return _symbol(body)
    except SENSELESS:
        return ""


def _side(word: Any) -> Side:
    if word not in _SIDES:
        raise ValueError(f"its side is {word!r:.40}")
    return _SIDES[word]


def _problem(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"{error.args[0]} is missing"
    return f"{error}" if type(error) is ValueError else f"{type(error).__name__}: {error}"


def _word(words: type[_Word], value: Any, otherwise: _Word) -> _Word:
    return words(value) if value in set(words) else otherwise


def _optional(value: Any, convert: Callable[[Any], _T]) -> _T | None:
    return None if value is None else convert(value)


def _decimal(value: Any) -> Decimal:
    """A finite number; a quantity that is none would pass every comparison."""
    try:
        number = Decimal(str(value))
    except ArithmeticError:
        raise ValueError(f"{value!r:.40} is not a number") from None
    if not number.is_finite():
        raise ValueError(f"{value!r:.40} is not a number")
    return number
