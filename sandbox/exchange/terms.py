"""Check an order's terms against the rules of what it is for. Pure; what breaks one is refused in the venue's words.

Sources: Alpaca's documentation (orders, fractional trading, crypto trading, options trading) and the answers that
people have recorded of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import Decimal
from typing import Final

from breaker.instruments import AssetClass
from breaker.orders import OrderType, TimeInForce
from sandbox.exchange.assets import Asset
from sandbox.exchange.orders import OrderClass, OrderRequest
from sandbox.exchange.refusal import forbidden, unprocessable
from sandbox.exchange.scenario import Session

_STEPS: Final = "price step"
_WHOLE: Final = "quantity step"
_FORCE: Final = "time in force"
_KIND: Final = "kind of order"
_HOURS: Final = "session"
_MINIMUM: Final = "minimum"
_MOST_LEGS: Final = 4


def check_terms(
    request: OrderRequest, asset: Asset, qty: Decimal, session: Session, *, fractions_anytime: bool
) -> None:
    """Raises `Refusal` for the first rule that the order breaks."""
    check_prices(request, asset)
    match asset.asset_class:
        case AssetClass.CRYPTO:
            _check_crypto(request, qty, asset)
        case AssetClass.OPTION:
            _check_option(request, qty, session)
        case AssetClass.FUTURE | AssetClass.FOREX:
            _check_brokered(qty, asset)
        case _:
            _check_equity(request, qty, fractions_anytime=fractions_anytime)
    if qty < asset.minimum_quantity:
        raise forbidden(f"order qty must be >= minimal qty of order {asset.minimum_quantity:f}", _MINIMUM)


def check_prices(request: OrderRequest, asset: Asset) -> None:
    """Each price must be in whole steps."""
    prices = {
        "limit_price": request.limit_price,
        "stop_price": request.stop_price,
        "take_profit.limit_price": request.take_profit,
        "stop_loss.stop_price": request.stop_loss,
        "stop_loss.limit_price": request.stop_loss_limit,
    }
    for name, price in prices.items():
        if price is not None and price % asset.tick(price):
            words = f"invalid {name} {price:f}. sub-penny increment does not fulfill minimum pricing criteria"
            raise unprocessable(words, _STEPS)


def check_cost(asset: Asset, cost: Decimal) -> None:
    """Raises `Refusal` for what costs less than the venue's minimum."""
    if cost < asset.minimum_cost:
        raise forbidden(f"cost basis must be >= minimal amount of order {asset.minimum_cost:f}", _MINIMUM)


def check_multi_leg(request: OrderRequest, assets: Sequence[Asset], session: Session) -> None:
    """An order with several legs: options only, in whole contracts and the smallest whole ratios."""
    if not 2 <= len(request.legs) <= _MOST_LEGS or len({leg.symbol for leg in request.legs}) < len(request.legs):
        raise unprocessable(f"mleg orders need 2 to {_MOST_LEGS} legs of different symbols", _KIND)
    if any(asset.asset_class is not AssetClass.OPTION for asset in assets):
        raise unprocessable("mleg orders are for options only", _KIND)
    ratios = [leg.ratio for leg in request.legs]
    if any(ratio % 1 for ratio in ratios) or math.gcd(*(int(ratio) for ratio in ratios)) != 1:
        raise unprocessable("ratio_qty of the legs must be whole and relatively prime", _WHOLE)
    if request.qty is None or request.type not in {OrderType.MARKET, OrderType.LIMIT}:
        raise unprocessable("mleg orders are market or limit orders for a qty", _KIND)
    check_prices(request, assets[0])
    _check_option(request, request.qty, session)


def _check_crypto(request: OrderRequest, qty: Decimal, asset: Asset) -> None:
    if request.time_in_force not in {TimeInForce.GTC, TimeInForce.IOC}:
        raise unprocessable("invalid crypto time_in_force", _FORCE)
    if request.type not in {OrderType.MARKET, OrderType.LIMIT, OrderType.STOP_LIMIT}:
        raise unprocessable("invalid order type for crypto order", _KIND)
    if request.order_class is not OrderClass.SIMPLE:
        raise unprocessable("crypto orders must be simple orders", _KIND)
    if request.extended_hours:
        raise unprocessable("extended_hours is not supported for crypto orders", _HOURS)
    if qty % asset.quantity_increment:
        raise unprocessable(f"qty increment must be {asset.quantity_increment:f}", _WHOLE)


def _check_option(request: OrderRequest, qty: Decimal, session: Session) -> None:
    if qty % 1 or request.notional is not None:
        raise unprocessable("options orders must be for whole contracts", _WHOLE)
    if request.time_in_force not in {TimeInForce.DAY, TimeInForce.GTC}:
        raise unprocessable("order_time_in_force provided not supported for options trading", _FORCE)
    if request.type is OrderType.TRAILING_STOP or request.order_class not in {OrderClass.SIMPLE, OrderClass.MLEG}:
        raise unprocessable("order type provided not supported for options trading", _KIND)
    if request.extended_hours:
        raise unprocessable("extended hours are not supported for options trading", _HOURS)
    if request.type is OrderType.MARKET and session is not Session.OPEN:
        raise unprocessable("options market orders are only allowed during market hours", _HOURS)


def _check_brokered(qty: Decimal, asset: Asset) -> None:
    """A future or a pair of currencies, as Interactive Brokers takes them: any kind of order, in whole units."""
    if qty % asset.quantity_increment:
        raise unprocessable("This order does not support fractional quantity trading", _WHOLE)


def _check_equity(request: OrderRequest, qty: Decimal, *, fractions_anytime: bool) -> None:
    if request.extended_hours and (request.type is not OrderType.LIMIT or request.time_in_force is not TimeInForce.DAY):
        raise unprocessable("extended hours order must be DAY limit orders", _HOURS)
    if qty % 1 == 0:
        return
    if request.time_in_force is not TimeInForce.DAY:
        raise unprocessable("fractional orders must be DAY orders", _FORCE)
    if request.order_class is not OrderClass.SIMPLE:
        raise unprocessable("fractional orders must be simple orders", _KIND)
    if request.extended_hours and not fractions_anytime:
        raise unprocessable("fractional orders are not allowed in extended hours", _HOURS)
