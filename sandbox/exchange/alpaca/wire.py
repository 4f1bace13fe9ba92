"""Read what requests say and write what answers look like, in Alpaca's JSON (Trading API reference)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from typing import Final, TypeVar
from uuid import NAMESPACE_URL, UUID, uuid5

from breaker.orders import OrderType, Side, TimeInForce
from sandbox.exchange.exchange import Exchange
from sandbox.exchange.orders import QUANTITY_STEP, OrderClass, OrderRequest, PaperOrder, PaperPosition
from sandbox.exchange.refusal import Refusal, invalid, unprocessable
from sandbox.exchange.scenario import Account, Market, Session

Json = dict[str, object]
_Word = TypeVar("_Word", bound=StrEnum)
_CENT: Final = Decimal("0.01")
_RATIO: Final = Decimal("0.000001")
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
    symbol = body.get("symbol")
    if not isinstance(symbol, str) or not symbol:
        raise invalid("symbol is required")
    kind = _word(body, "type", OrderType)
    qty, notional = number(body, "qty"), number(body, "notional")
    if (qty is None) == (notional is None):
        raise invalid("qty or notional is required" if qty is None else "only one of qty or notional is accepted")
    order_class = _word({"order_class": body.get("order_class") or "simple"}, "order_class", OrderClass)
    take_profit, stop_loss = _leg(body, "take_profit"), _leg(body, "stop_loss")
    request = OrderRequest(
        symbol=symbol,
        side=_word(body, "side", Side),
        type=kind,
        time_in_force=_word(body, "time_in_force", TimeInForce),
        qty=qty,
        notional=notional,
        limit_price=number(body, "limit_price"),
        stop_price=number(body, "stop_price"),
        trail_price=number(body, "trail_price"),
        trail_percent=number(body, "trail_percent"),
        extended_hours=bool(body.get("extended_hours")),
        client_order_id=read_client_order_id(body),
        order_class=order_class,
        take_profit=number(take_profit, "limit_price"),
        stop_loss=number(stop_loss, "stop_price"),
        stop_loss_limit=number(stop_loss, "limit_price"),
    )
    _check_prices(request)
    return request


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


def number(source: Mapping[str, object], key: str) -> Decimal | None:
    """A positive number, written as a JSON number or a string; None when absent."""
    value = source.get(key)
    if value is None:
        return None
    try:
        parsed = Decimal(str(value))
    except InvalidOperation as error:
        raise invalid(f"{key} is invalid") from error
    if not parsed.is_finite() or parsed <= 0:
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


class Writer:
    """Writes the exchange's things as Alpaca does; `epoch` is the exchange's second zero."""

    def __init__(self, exchange: Exchange, epoch: datetime) -> None:
        self._exchange = exchange
        self._epoch = epoch

    def time(self, at: float | None) -> str | None:
        return None if at is None else _iso(self._epoch + timedelta(seconds=at))

    def seconds(self, moment: datetime) -> float:
        return (moment - self._epoch) / timedelta(seconds=1)

    def order(self, order: PaperOrder, *, legs: bool = True) -> Json:
        submitted = self.time(order.submitted_at)
        return {
            "id": order.id,
            "client_order_id": order.client_order_id,
            "created_at": submitted,
            "updated_at": self.time(order.updated_at),
            "submitted_at": submitted,
            "filled_at": self.time(order.filled_at),
            "expired_at": self.time(order.expired_at),
            "canceled_at": self.time(order.canceled_at),
            "failed_at": self.time(order.failed_at),
            "replaced_at": self.time(order.replaced_at),
            "replaced_by": order.replaced_by,
            "replaces": order.replaces,
            "asset_id": asset_id(order.symbol),
            "symbol": order.symbol,
            "asset_class": "us_equity",
            "notional": _text(order.notional),
            "qty": None if order.notional is not None else _text(order.qty),
            "filled_qty": _text(order.filled_qty),
            "filled_avg_price": _text(order.filled_value / order.filled_qty) if order.filled_qty else None,
            "order_class": "" if order.order_class is OrderClass.SIMPLE else order.order_class.value,
            "order_type": order.type.value,
            "type": order.type.value,
            "side": order.side.value,
            "time_in_force": order.time_in_force.value,
            "limit_price": _text(order.limit_price),
            "stop_price": _text(order.stop_price),
            "status": order.status.value,
            "extended_hours": order.extended_hours,
            "legs": [self.order(leg) for leg in order.legs] if legs and order.legs else None,
            "trail_percent": _text(order.trail_percent),
            "trail_price": _text(order.trail_price),
            "hwm": _text(order.high_water_mark),
            "source": None,
            "subtag": None,
        }

    def position(self, position: PaperPosition) -> Json:
        price = self._exchange.book.prices[position.symbol]
        value = position.qty * price
        cost = position.qty * position.average_price
        gain = value - cost
        return {
            "asset_id": asset_id(position.symbol),
            "symbol": position.symbol,
            "exchange": "NASDAQ",
            "asset_class": "us_equity",
            "asset_marginable": True,
            "avg_entry_price": _text(position.average_price),
            "qty": _text(position.qty),
            "qty_available": _text(self._exchange.book.available(position).copy_sign(position.qty)),
            "side": "long" if position.qty > 0 else "short",
            "market_value": _text(value),
            "cost_basis": _text(cost),
            "unrealized_pl": _text(gain),
            "unrealized_plpc": _text((gain / abs(cost)).quantize(_RATIO)),
            "unrealized_intraday_pl": _text(gain),
            "unrealized_intraday_plpc": _text((gain / abs(cost)).quantize(_RATIO)),
            "current_price": _text(price),
            "lastday_price": _text(price),
            "change_today": "0",
        }

    def account(self, account: Account) -> Json:
        book = self._exchange.book
        values = [p.qty * book.prices[p.symbol] for p in book.positions.values()]
        equity, power = _money(book.equity), _money(book.buying_power)
        return {
            "id": str(account.id),
            "account_number": "PA" + account.id.hex[:8].upper(),
            "status": "ACTIVE",
            "crypto_status": "INACTIVE",
            "currency": "USD",
            "buying_power": power,
            "regt_buying_power": power,
            "daytrading_buying_power": power,
            "effective_buying_power": power,
            "non_marginable_buying_power": _money(max(book.cash, Decimal(0))),
            "cash": _money(book.cash),
            "accrued_fees": "0",
            "portfolio_value": equity,
            "pattern_day_trader": False,
            "trading_blocked": False,
            "transfers_blocked": False,
            "account_blocked": False,
            "trade_suspended_by_user": False,
            "created_at": self.time(-86_400.0),
            "multiplier": str(account.multiplier),
            "shorting_enabled": True,
            "equity": equity,
            "last_equity": equity,
            "long_market_value": _money(sum((v for v in values if v > 0), Decimal(0))),
            "short_market_value": _money(sum((v for v in values if v < 0), Decimal(0))),
            "position_market_value": _money(sum((abs(v) for v in values), Decimal(0))),
            "initial_margin": "0",
            "maintenance_margin": "0",
            "last_maintenance_margin": "0",
            "sma": "0",
            "daytrade_count": 0,
        }

    def clock(self, market: Market) -> Json:
        now = self._epoch + timedelta(seconds=self._exchange.now)
        return {
            "timestamp": _iso(now),
            "is_open": self._exchange.matching.session is Session.OPEN,
            "next_open": _iso(self._next(market.opens_after, market.next_open, now, hour=14, minute=30)),
            "next_close": _iso(self._next(market.closes_after, None, now, hour=21, minute=0)),
        }

    def _next(
        self, planned: float | None, given: datetime | None, now: datetime, *, hour: int, minute: int
    ) -> datetime:
        """The planned moment if it is still to come, or the given one, or the usual time in winter, in UTC."""
        if planned is not None and planned > self._exchange.now:
            return self._epoch + timedelta(seconds=planned)
        if given is not None:
            return given
        usual = now.replace(hour=hour, minute=minute, second=0, microsecond=0)
        return usual if usual > now else usual + timedelta(days=1)


def asset(symbol: str) -> Json:
    return {
        "id": asset_id(symbol),
        "class": "us_equity",
        "exchange": "NASDAQ",
        "symbol": symbol,
        "name": f"{symbol} Common Stock",
        "status": "active",
        "tradable": True,
        "marginable": True,
        "maintenance_margin_requirement": 30,
        "shortable": True,
        "easy_to_borrow": True,
        "fractionable": True,
        "attributes": [],
    }


def configurations() -> Json:
    return {
        "dtbp_check": "entry",
        "fractional_trading": True,
        "max_margin_multiplier": "4",
        "no_shorting": False,
        "pdt_check": "entry",
        "ptp_no_exception_entry": False,
        "suspend_trade": False,
        "trade_confirm_email": "none",
    }


_ASSET_IDS: dict[str, str] = {}


def asset_id(symbol: str) -> str:
    """The same id for the same symbol, always."""
    known = _ASSET_IDS.get(symbol)
    if known is None:
        known = _ASSET_IDS[symbol] = str(uuid5(NAMESPACE_URL, f"asset:{symbol}"))
    return known


def is_uuid(text: str) -> bool:
    try:
        UUID(text)
    except ValueError:
        return False
    return True


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def _text(value: Decimal | None) -> str | None:
    """Plain digits, at most nine decimals, no trailing zeros."""
    if value is None:
        return None
    if int(value.as_tuple().exponent) < -9:
        value = value.quantize(QUANTITY_STEP)
    text = f"{value:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _money(value: Decimal) -> str:
    return f"{value.quantize(_CENT):f}"
