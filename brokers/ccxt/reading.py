"""Read what ccxt has made of an exchange's answers. Pure: its dictionaries in, orders, positions and results out.

ccxt turns every exchange's words into the same ones, and keeps the answer itself under `info`. What ccxt leaves out or
guesses is read from there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, TypeVar

from breaker.instruments import AssetClass, Instrument, Session
from breaker.orders import (
    ZERO,
    Fill,
    Order,
    OrderStatus,
    OrderType,
    Position,
    PositionSide,
    Side,
    TimeInForce,
    Unreadable,
)
from brokers.protocol import Transfer, TransferKind

Json = Mapping[str, Any]
SENSELESS = (KeyError, TypeError, ValueError, AttributeError, ArithmeticError, LookupError)
"""What reading an answer of an unexpected shape raises, here and in ccxt."""
UNREAD = "unread"
"""The key under which an item is marked that ccxt itself could not read."""

DECIMAL_PLACES, TICK_SIZE = 2, 4
"""Two of ccxt's precision modes; the third, 3, counts significant digits (bitfinex, bithumb)."""

_STATUS = {
    "open": OrderStatus.NEW,
    "closed": OrderStatus.FILLED,
    "canceled": OrderStatus.CANCELED,
    "cancelled": OrderStatus.CANCELED,
    "canceling": OrderStatus.PENDING_CANCEL,
    "expired": OrderStatus.EXPIRED,
    "rejected": OrderStatus.REJECTED,
}
_TIME_IN_FORCE = {"GTC": TimeInForce.GTC, "IOC": TimeInForce.IOC, "FOK": TimeInForce.FOK, "DAY": TimeInForce.DAY}
_LEGS = {"long": PositionSide.LONG, "short": PositionSide.SHORT}
_SIZE_KEYS = frozenset({"positionAmt", "size", "pos", "currentQty", "total"})
"""Under which of them exchanges say how large a position is."""
_LEG_KEYS = ("positionSide", "posSide", "holdSide")
_BYBIT_LEGS = {"1": PositionSide.LONG, "2": PositionSide.SHORT}
_TRANSFERS = {
    "deposit": TransferKind.DEPOSIT,
    "withdrawal": TransferKind.WITHDRAWAL,
    "transfer": TransferKind.JOURNAL,
    "airdrop": TransferKind.DEPOSIT,
}
_T = TypeVar("_T")
_SAID = ("msg", "sMsg", "message", "errorMsg", "errorMessage")
_DONE = frozenset({"ok", None})
_HTTP_FAILURE = re.compile(r"[45]\d\d")
_SUCCESS = frozenset({"0", "200", "00000", "200000", "1000", "success", "ok"})
"""Codes by which exchanges say that all is well: 1000 is BitMart's, the words are of several."""


def read_order(body: Json, view: str = "", id_prefix: str = "") -> Order:
    """One order. Raises one of `SENSELESS`: what is not said is not guessed."""
    check_read(body)
    symbol = _text(body, "symbol")
    filled = _optional(body.get("filled"), decimal) or ZERO
    quantity = _optional(body.get("amount"), decimal)
    by_amount = quantity is None or _closes_position(body)
    if quantity is None and body.get("cost") is None and not _closes_position(body):
        raise ValueError("it has neither a quantity nor an amount")
    stop = _optional(body.get("triggerPrice") or body.get("stopPrice"), decimal)
    limit = _optional(body.get("price"), decimal) or None
    if limit is None and body.get("type") == "limit" and _info(body).get("price") == "":
        raise ValueError("it is a limit order without a price")
    return Order(
        id=order_id(_text(body, "id"), symbol, view),
        client_order_id=str(body.get("clientOrderId") or "").removeprefix(id_prefix),
        symbol=symbol,
        side=Side(_text(body, "side")),
        quantity=filled if quantity is None else quantity,
        filled_quantity=filled,
        status=_status(body, filled),
        type=_type(str(body.get("type") or ""), limit, stop),
        time_in_force=_TIME_IN_FORCE.get(str(body.get("timeInForce") or ""), TimeInForce.GTC),
        limit_price=limit,
        stop_price=stop,
        average_price=_optional(body.get("average"), decimal) or None,
        submitted_at=_optional(body.get("timestamp"), moment),
        by_amount=by_amount,
        position_side=leg_of(body.get("info")),
        reduce_only=bool(body.get("reduceOnly")) or _closes_position(body),
    )


def _closes_position(body: Json) -> bool:
    """Binance, algo orders: one with `closePosition` has no quantity, and takes what is left of the position."""
    info = body.get("info")
    return isinstance(info, Mapping) and str(info.get("closePosition", "")).lower() == "true"


def _status(body: Json, filled: Decimal) -> OrderStatus:
    """A word that is not in the table is an order that may still fill."""
    status = _STATUS.get(str(body.get("status") or "").lower(), OrderStatus.NEW)
    return OrderStatus.PARTIALLY_FILLED if status is OrderStatus.NEW and filled else status


def _type(word: str, limit: Decimal | None, stop: Decimal | None) -> OrderType:
    words = word.lower()
    if "trail" in words:
        return OrderType.TRAILING_STOP
    if stop is not None:
        return OrderType.STOP if limit is None else OrderType.STOP_LIMIT
    return OrderType.MARKET if "market" in words else OrderType.LIMIT


def check_read(body: Json) -> None:
    """Raises ValueError for an item that ccxt itself could not read."""
    if UNREAD in body:
        raise ValueError(body[UNREAD])


def is_nothing(body: Json) -> bool:
    """Whether a position is one of no contracts, as exchanges list them of symbols that they no longer trade, too."""
    try:
        _check_size(body.get("info"))
        return UNREAD not in body and decimal(body.get("contracts")) == ZERO
    except ValueError:
        return False


def read_position(body: Json, instrument: Instrument) -> Position | None:
    """One position, in the exchange's contracts; None where there is nothing of it. Raises one of `SENSELESS`."""
    check_read(body)
    info = body.get("info")
    _check_size(info)
    contracts = _optional(body.get("contracts"), decimal)
    if contracts is None:
        raise ValueError("it has no number of contracts")
    if not contracts:
        return None
    symbol = _text(body, "symbol")
    side = body.get("side") or _side_of_amount(info)
    if side not in _LEGS:
        raise ValueError(f"its side is {side!r:.40}")
    sign = 1 if side == "long" else -1
    hedged = leg_of(info) is not None if body.get("hedged") is None else body["hedged"]
    value = (
        _value(body, abs(contracts) * instrument.multiplier)
        if instrument.inverse
        else _optional(body.get("notional"), decimal)
    )
    return Position(
        symbol=symbol,
        quantity=sign * abs(contracts),
        available=abs(contracts),
        average_entry_price=_optional(body.get("entryPrice"), decimal) or ZERO,
        current_price=_optional(body.get("markPrice") or body.get("lastPrice"), decimal) or None,
        market_value=sign * abs(value) if value else None,
        instrument=instrument,
        position_side=_LEGS[side] if hedged else None,
    )


def _value(body: Json, face: Decimal) -> Decimal:
    """What an inverse position is worth in money: ccxt says it in the coin, but for OKX, which tells dollars.

    Args:
        face: what its contracts are for, in money.
    """
    notional = _optional(body.get("notional"), decimal)
    if notional is None or "notionalUsd" in _info(body):
        return notional or face
    price = _optional(body.get("markPrice") or body.get("entryPrice"), decimal)
    return notional * price if price else face


def _check_size(info: Any) -> None:
    """Raises ValueError where the exchange gives no size: ccxt works one out of the notional then, which is a guess."""
    if isinstance(info, Mapping):
        for key in _SIZE_KEYS & {*info}:
            decimal(info[key])


def _side_of_amount(info: Any) -> str | None:
    """Binance tells the side by the sign of `positionAmt`; ccxt by that of the notional, which may be zero."""
    if not isinstance(info, Mapping) or info.get("positionAmt") is None:
        return None
    return "long" if decimal(info["positionAmt"]) > 0 else "short"


def leg_of(info: Any) -> PositionSide | None:
    """Which of a symbol's two positions an answer concerns, in hedge mode; None where the account nets."""
    if not isinstance(info, Mapping) or "one_way_mode" in (info.get("posMode"), info.get("holdMode")):
        return None
    for key in _LEG_KEYS:
        if (leg := _LEGS.get(str(info.get(key, "")).lower())) is not None:
            return leg
    if str(info.get("mode", "")).startswith("dual_"):
        return _LEGS.get(str(info["mode"]).removeprefix("dual_"))
    return _BYBIT_LEGS.get(str(info.get("positionIdx", "")))


def read_instrument(market: Json, precision_mode: int = TICK_SIZE, *, in_coins: bool = False) -> Instrument:
    """What an exchange says of one of its markets. Raises one of `SENSELESS`.

    Args:
        precision_mode: ccxt's, of the exchange: whether what it calls a precision is a step or a number of digits.
        in_coins: whether its inverse contracts are so many coins, and not so much money.
    """
    limits, precision = market.get("limits") or {}, market.get("precision") or {}
    amount, at_market = limits.get("amount") or {}, limits.get("market") or {}
    most = [_optional(each.get("max"), decimal) for each in (amount, at_market)]
    return Instrument(
        _asset_class(market),
        multiplier=_optional(market.get("contractSize"), decimal) or Decimal(1),
        price_increment=_step(precision.get("price"), precision_mode),
        quantity_increment=_step(precision.get("amount"), precision_mode),
        minimum_quantity=_optional(amount.get("min"), decimal) or None,
        maximum_quantity=min((limit for limit in most if limit), default=None),
        minimum_notional=_optional((limits.get("cost") or {}).get("min"), decimal) or None,
        trades=Session.ALWAYS,
        inverse=market.get("inverse") is True and not in_coins,
    )


def _step(precision: Any, mode: int) -> Decimal | None:
    """None where there is no one step: of significant digits, or not told."""
    told = _optional(precision, decimal)
    if told is None or mode == DECIMAL_PLACES:
        return None if told is None else Decimal(1).scaleb(-int(told))
    return (told or None) if mode == TICK_SIZE else None


def _asset_class(market: Json) -> AssetClass:
    if market.get("option"):
        return AssetClass.OPTION
    if market.get("swap"):
        return AssetClass.PERPETUAL
    return AssetClass.FUTURE if market.get("future") else AssetClass.CRYPTO


def read_fill(body: Json) -> Fill:
    """One execution. Raises one of `SENSELESS`."""
    symbol = _text(body, "symbol")
    fee = body.get("fee") or {}
    cost = _optional(fee.get("cost"), decimal)
    return Fill(
        id=f"{_text(body, 'id')}@{symbol}",
        order_id=order_id(str(body.get("order") or ""), symbol),
        symbol=symbol,
        side=Side(_text(body, "side")),
        quantity=decimal(body["amount"]),
        price=decimal(body["price"]),
        at=moment(body["timestamp"]),
        fee=cost,
        fee_currency="" if cost is None else str(fee.get("currency") or ""),
        position_side=leg_of(body.get("info")),
        client_order_id=str(body.get("clientOrderId") or ""),
    )


def read_transfer(body: Json, worth: Callable[[str], Decimal]) -> Transfer | None:
    """One movement of money, worth that much in the account's currency; None for a trade, a fee, or one not booked.

    Args:
        worth: of one unit of a currency.
    """
    kind = _TRANSFERS.get(str(body.get("type") or "").lower())
    if kind is None or body.get("status") not in _DONE:
        return None
    amount = abs(decimal(body["amount"])) * worth(_text(body, "currency"))
    out = body.get("direction") == "out" or kind is TransferKind.WITHDRAWAL
    return Transfer(_text(body, "id"), -amount if out else amount, moment(body["timestamp"]), kind)


def unreadable(what: str, body: Any, error: Exception, view: str = "") -> Unreadable:
    """An item that makes no sense, with as much of it as can be told."""
    of = body if isinstance(body, Mapping) else {}
    info = _info(of)
    symbol = str(of.get("symbol") or info.get("symbol") or info.get("instId") or info.get("contract") or "")
    raw_id = of.get("id") or info.get("orderId") or info.get("ordId") or info.get("id") or ""
    name = order_id(str(raw_id), symbol, view) if raw_id and what == "order" else ""
    if isinstance(error, KeyError):
        return Unreadable(what, symbol, name, f"{error.args[0]} is missing")
    return Unreadable(what, symbol, name, f"{error}"[:200] or type(error).__name__)


def order_id(raw: str, symbol: str, view: str = "") -> str:
    """The name of an order here: exchanges number orders by symbol and by kind, and want both to cancel one."""
    return "@".join(part for part in (raw, symbol, view) if part)


def parts_of(name: str) -> tuple[str, str, str]:
    """The exchange's id, the symbol and the view in the name of an order."""
    raw, _, rest = name.partition("@")
    symbol, _, view = rest.partition("@")
    return raw, symbol, view


def failure_in(body: Any) -> str:
    """What went wrong with one item of an answer that is itself no failure; empty where nothing did.

    ccxt hands such an item on as an order: with `status: '500'` (Alpaca), as `rejected` (Binance), or with the
    exchange's code under `info`.
    """
    if not isinstance(body, Mapping):
        return ""
    info = _info(body)
    said = next((str(info[key]) for key in _SAID if isinstance(info.get(key), str) and info[key]), "")
    if isinstance(info.get("error"), str) and info["error"]:
        return str(info["error"])  # Hyperliquid
    status = str(body.get("status") or "")
    if _HTTP_FAILURE.fullmatch(status):  # any other number is the exchange's own word for how the order stands
        return said or f"status {status}"
    for key in ("code", "sCode", "errorCode", "retCode"):
        code = str(info.get(key) or "0")
        if code.lower() not in _SUCCESS:
            return f"{said or 'refused'} ({code})"
    return (said or "rejected") if status == "rejected" else ""


def _info(body: Json) -> Json:
    """The exchange's own answer."""
    info = body.get("info")
    return info if isinstance(info, Mapping) else {}


def decimal(value: Any) -> Decimal:
    """A finite number; a quantity that is none would pass every comparison."""
    try:
        number = Decimal(str(value))
    except ArithmeticError:
        raise ValueError(f"{value!r:.40} is not a number") from None
    if not number.is_finite():
        raise ValueError(f"{value!r:.40} is not a number")
    return number


def moment(milliseconds: Any) -> datetime:
    """Unix milliseconds, as ccxt has every time."""
    return datetime.fromtimestamp(int(milliseconds) / 1000, UTC)


def at_path(body: Any, path: Iterable[str]) -> Any:
    """What is there in nested dictionaries and lists; None where nothing is."""
    for key in path:
        if isinstance(body, list) and key.isdecimal():
            body = body[int(key)] if int(key) < len(body) else None
        elif isinstance(body, Mapping):
            body = body.get(key)
        else:
            return None
    return body


def check_none_told(body: Any, keys: Collection[str]) -> None:
    """Raises ValueError where an answer of which ccxt makes nothing does not itself say that there is nothing.

    ccxt takes an answer without the list for one with an empty list.

    Args:
        keys: under which the exchange has its lists, however deep.
    """
    if isinstance(body, list) or _has_nothing_under(body, keys):
        return
    raise ValueError(f"there is nothing in it under {' or '.join(keys)}")


def _has_nothing_under(body: Any, keys: Collection[str]) -> bool:
    if isinstance(body, list):
        return any(_has_nothing_under(item, keys) for item in body)
    if not isinstance(body, Mapping):
        return False
    here = any(key in keys and (value is None or value in ([], {})) for key, value in body.items())
    return here or any(_has_nothing_under(value, keys) for value in body.values())


def list_at(body: Any, path: Iterable[str]) -> list[Any]:
    """The list that is there. Raises TypeError where there is none: an answer without it does not say so."""
    found = at_path(body, path)
    if not isinstance(found, list):
        raise TypeError(f"there is no list in it under {'.'.join(path)}")
    return found


def _text(body: Json, key: str) -> str:
    value = body[key]
    if value is None or value == "":
        raise ValueError(f"its {key} is {value!r}")
    return str(value)


def _optional(value: Any, convert: Callable[[Any], _T]) -> _T | None:
    return None if value is None or value == "" else convert(value)
