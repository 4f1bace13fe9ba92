"""Read what a request for a new order says, in the words of the two APIs.

Sources: "New Order" of the spot API and of USDⓈ-M futures, "New Algo Order" (developers.binance.com).
"""

from __future__ import annotations

from decimal import Decimal
from typing import Final

from breaker.orders import OrderType, PositionSide, Side, TimeInForce
from sandbox.exchange.binance import errors
from sandbox.exchange.binance.parameters import Parameters
from sandbox.exchange.orders import OrderRequest

_SPOT_KINDS: Final = {
    "LIMIT": OrderType.LIMIT,
    "LIMIT_MAKER": OrderType.LIMIT,
    "MARKET": OrderType.MARKET,
    "STOP_LOSS": OrderType.STOP,
    "STOP_LOSS_LIMIT": OrderType.STOP_LIMIT,
    "TAKE_PROFIT": OrderType.STOP,
    "TAKE_PROFIT_LIMIT": OrderType.STOP_LIMIT,
}
_FUTURES_KINDS: Final = {"LIMIT": OrderType.LIMIT, "MARKET": OrderType.MARKET}
_CONDITIONAL_KINDS: Final = {
    "STOP": OrderType.STOP_LIMIT,
    "STOP_MARKET": OrderType.STOP,
    "TAKE_PROFIT": OrderType.STOP_LIMIT,
    "TAKE_PROFIT_MARKET": OrderType.STOP,
    "TRAILING_STOP_MARKET": OrderType.TRAILING_STOP,
}
_FORCES: Final = {
    "GTC": TimeInForce.GTC,
    "IOC": TimeInForce.IOC,
    "FOK": TimeInForce.FOK,
    "GTX": TimeInForce.GTC,
    "GTD": TimeInForce.GTC,
}
_POSITION_SIDES: Final = {"BOTH": None, "LONG": PositionSide.LONG, "SHORT": PositionSide.SHORT}
_PRICED: Final = frozenset({OrderType.LIMIT, OrderType.STOP_LIMIT})


def spot_order(parameters: Parameters, symbol: str) -> OrderRequest:
    """An order for the listed pair `symbol`. Raises `BinanceRefusal` for what makes none."""
    word = parameters.required("type")
    kind = _SPOT_KINDS.get(word)
    if kind is None:
        raise errors.invalid_order_type()
    is_priced = kind in _PRICED
    waits = kind in {OrderType.STOP, OrderType.STOP_LIMIT}
    by_amount = kind is OrderType.MARKET and parameters.text("quantity") is None
    return OrderRequest(
        symbol=symbol,
        side=_side(parameters),
        type=kind,
        time_in_force=_force(parameters, needed=is_priced and word != "LIMIT_MAKER"),
        qty=None if by_amount else _number(parameters, "quantity"),
        notional=_number(parameters, "quoteOrderQty") if by_amount else None,
        limit_price=_number(parameters, "price") if is_priced else None,
        stop_price=_number(parameters, "stopPrice") if waits else None,
        client_order_id=parameters.text("newClientOrderId"),
        takes_profit=word.startswith("TAKE_PROFIT"),
    )


def futures_order(parameters: Parameters, symbol: str) -> OrderRequest:
    """An ordinary order for the contract `symbol`. Raises `BinanceRefusal`, also for a conditional one."""
    word = parameters.required("type")
    if word in _CONDITIONAL_KINDS:
        raise errors.belongs_to_algo_api()
    kind = _FUTURES_KINDS.get(word)
    if kind is None:
        raise errors.invalid_order_type()
    is_priced = kind in _PRICED
    return OrderRequest(
        symbol=symbol,
        side=_side(parameters),
        type=kind,
        time_in_force=_force(parameters, needed=is_priced),
        qty=_number(parameters, "quantity"),
        limit_price=_number(parameters, "price") if is_priced else None,
        client_order_id=parameters.text("newClientOrderId"),
        position_side=_position_side(parameters),
        reduce_only=parameters.flag("reduceOnly"),
    )


def algo_order(parameters: Parameters, symbol: str) -> OrderRequest:
    """A conditional order for the contract `symbol`; `callbackRate` is in per cent. Raises `BinanceRefusal`."""
    if parameters.required("algoType") != "CONDITIONAL":
        raise errors.invalid_parameter("algoType")
    word = parameters.required("type")
    kind = _CONDITIONAL_KINDS.get(word)
    if kind is None:
        raise errors.invalid_order_type()
    closes_all = parameters.flag("closePosition")
    if closes_all and parameters.text("quantity"):
        raise errors.BinanceRefusal(-4137, "Quantity must be zero with closePosition equals true")
    if closes_all and parameters.text("reduceOnly"):
        raise errors.not_required("reduceonly")
    trails = kind is OrderType.TRAILING_STOP
    return OrderRequest(
        symbol=symbol,
        side=_side(parameters),
        type=kind,
        time_in_force=_force(parameters, needed=False),
        qty=None if closes_all else _number(parameters, "quantity"),
        limit_price=_number(parameters, "price") if kind in _PRICED else None,
        stop_price=None if trails else _number(parameters, "triggerPrice"),
        trail_percent=_number(parameters, "callbackRate") if trails else None,
        client_order_id=parameters.text("clientAlgoId"),
        position_side=_position_side(parameters),
        reduce_only=parameters.flag("reduceOnly"),
        close_position=closes_all,
        takes_profit=word.startswith("TAKE_PROFIT"),
        conditional=True,
    )


def takes_though_it_must_rest(parameters: Parameters, order: OrderRequest, price: Decimal) -> bool:
    """Whether an order that is to be a maker's, or none at all, would fill at once at the market's `price`."""
    must_rest = parameters.text("type") == "LIMIT_MAKER" or parameters.text("timeInForce") == "GTX"
    return must_rest and order.limit_price is not None and (order.limit_price - price) * order.side.sign >= 0


def _side(parameters: Parameters) -> Side:
    try:
        return Side(parameters.required("side").lower())
    except ValueError as error:
        raise errors.invalid_side() from error


def _position_side(parameters: Parameters) -> PositionSide | None:
    word = parameters.text("positionSide") or "BOTH"
    if word not in _POSITION_SIDES:
        raise errors.BinanceRefusal(-4060, "Invalid position side.")
    return _POSITION_SIDES[word]


def _force(parameters: Parameters, *, needed: bool) -> TimeInForce:
    word = parameters.required("timeInForce") if needed else parameters.text("timeInForce") or "GTC"
    if word not in _FORCES:
        raise errors.invalid_time_in_force()
    return _FORCES[word]


def _number(parameters: Parameters, name: str) -> Decimal:
    value = parameters.number(name)
    if value is None:
        raise errors.missing(name)
    return value
