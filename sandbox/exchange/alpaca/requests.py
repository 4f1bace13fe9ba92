"""Read what requests say, in Alpaca's JSON and query strings (Trading API reference)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from typing import Final, TypeVar
from uuid import UUID

from breaker.orders import OrderType, Side, TimeInForce
from sandbox.exchange.orders import LegRequest, OrderClass, OrderRequest
from sandbox.exchange.refusal import Refusal, invalid, unprocessable

Json = dict[str, object]
_Word = TypeVar("_Word", bound=StrEnum)
_NEEDS_LIMIT: Final = frozenset({OrderType.LIMIT, OrderType.STOP_LIMIT})
_NEEDS_STOP: Final = frozenset({OrderType.STOP, OrderType.STOP_LIMIT})


def read_object(body: bytes) -> Json:
    """The JSON object of a request body, its fractions exact."""
    try:
        value = json.loads(body, parse_float=Decimal)
    except ValueError as error:
        raise Refusal(400, 40010000, "request body format is invalid") from error
    if not isinstance(value, dict):
        raise Refusal(400, 40010000, "request body format is invalid")
    return value


def read_order(body: Json) -> OrderRequest:
    """The order that a POST asks for. Raises `Refusal` (422) naming what is wrong."""
    order_class = _word({"order_class": body.get("order_class") or "simple"}, "order_class", OrderClass)
    has_legs = order_class is OrderClass.MLEG
    symbol = body.get("symbol")
    if not has_legs and (not isinstance(symbol, str) or not symbol):
        raise invalid("symbol is required")
    kind = _word(body, "type", OrderType)
    qty, notional = number(body, "qty"), number(body, "notional")
    if (qty is None) == (notional is None):
        raise invalid("qty or notional is required" if qty is None else "only one of qty or notional is accepted")
    take_profit, stop_loss = _leg(body, "take_profit"), _leg(body, "stop_loss")
    request = OrderRequest(
        symbol="" if has_legs else str(symbol),
        side=Side.BUY if has_legs else _word(body, "side", Side),
        type=kind,
        time_in_force=_word(body, "time_in_force", TimeInForce),
        qty=qty,
        notional=notional,
        limit_price=number(body, "limit_price", signed=has_legs),
        stop_price=number(body, "stop_price"),
        trail_price=number(body, "trail_price"),
        trail_percent=number(body, "trail_percent"),
        extended_hours=bool(body.get("extended_hours")),
        client_order_id=read_client_order_id(body),
        order_class=order_class,
        take_profit=number(take_profit, "limit_price"),
        stop_loss=number(stop_loss, "stop_price"),
        stop_loss_limit=number(stop_loss, "limit_price"),
        legs=tuple(_leg_of_many(leg) for leg in _legs(body)) if has_legs else (),
    )
    _check_prices(request)
    return request


def _legs(body: Json) -> list[object]:
    legs = body.get("legs")
    if not isinstance(legs, list) or not legs:
        raise invalid("legs are required for mleg orders")
    return legs


def _leg_of_many(leg: object) -> LegRequest:
    """A leg names its side, or what it opens or closes."""
    if not isinstance(leg, dict) or not isinstance(leg.get("symbol"), str):
        raise invalid("legs.symbol is required")
    intent = str(leg.get("position_intent") or "")
    side = _word({"side": leg.get("side") or intent.partition("_")[0] or None}, "side", Side)
    return LegRequest(leg["symbol"], side, number(leg, "ratio_qty") or Decimal(1))


def _check_prices(request: OrderRequest) -> None:
    if request.qty is not None and -int(request.qty.as_tuple().exponent) > 9:
        raise invalid("qty can have at most 9 decimal places")
    is_oco = request.order_class is OrderClass.OCO
    if request.type in _NEEDS_LIMIT and request.limit_price is None and not (is_oco and request.take_profit):
        raise unprocessable(f"{request.type} orders require limit price")
    if request.type in _NEEDS_STOP and request.stop_price is None:
        raise unprocessable(f"{request.type} orders require stop price")
    if request.type is OrderType.TRAILING_STOP and (request.trail_price is None) == (request.trail_percent is None):
        raise unprocessable("trailing stop orders require one of trail price and trail percent")
    if request.order_class in {OrderClass.BRACKET, OrderClass.OCO} and not (request.take_profit and request.stop_loss):
        raise unprocessable(f"{request.order_class} orders require take_profit.limit_price and stop_loss.stop_price")
    if is_oco and request.type is not OrderType.LIMIT:
        raise unprocessable("oco orders must be limit orders")
    if request.order_class is OrderClass.OTO and not (request.take_profit or request.stop_loss):
        raise unprocessable("oto orders require take_profit or stop_loss")


def read_client_order_id(body: Json) -> str | None:
    value = body.get("client_order_id")
    if value is None or value == "":
        return None
    if not isinstance(value, str) or len(value) > 128:
        raise invalid("client_order_id must be no more than 128 characters")
    return value


def number(source: Mapping[str, object], key: str, *, signed: bool = False) -> Decimal | None:
    """A positive number, or any, written as a JSON number or a string; None when absent."""
    value = source.get(key)
    if value is None:
        return None
    try:
        parsed = Decimal(str(value))
    except InvalidOperation as error:
        raise invalid(f"{key} is invalid") from error
    if not parsed.is_finite() or (parsed <= 0 and not signed):
        raise invalid(f"{key} must be > 0")
    return parsed.normalize()


def flag(query: Mapping[str, str], key: str) -> bool:
    """A boolean of the query string; clients write it in any case."""
    value = query.get(key, "false").lower()
    if value not in {"true", "false"}:
        raise invalid(f"{key} must be true or false")
    return value == "true"


def moment(query: Mapping[str, str], key: str) -> datetime | None:
    """An RFC 3339 time of the query string."""
    value = query.get(key)
    if value is None:
        return None
    try:
        parsed = datetime.fromisoformat(value.replace(" ", "+"))
    except ValueError as error:
        raise invalid(f"{key} is not an RFC 3339 time") from error
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)


def word(query: Mapping[str, str], key: str, allowed: tuple[str, ...]) -> str:
    """One of some words, the first when absent."""
    value = query.get(key, allowed[0])
    if value not in allowed:
        raise invalid(f"{key} must be one of {', '.join(allowed)}")
    return value


def _word(body: Json, key: str, words: Callable[[str], _Word]) -> _Word:
    value = body.get(key)
    if value is None:
        raise invalid(f"{key} is required")
    try:
        return words(str(value))
    except ValueError as error:
        raise invalid(f"invalid {key}") from error


def _leg(body: Json, key: str) -> Json:
    value = body.get(key) or {}
    if not isinstance(value, dict):
        raise invalid(f"{key} is invalid")
    return value


def is_uuid(text: str) -> bool:
    try:
        UUID(text)
    except ValueError:
        return False
    return True
