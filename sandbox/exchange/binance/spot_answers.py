"""Write orders, trades and the account as the spot API does (developers.binance.com, "Spot", REST API)."""

from __future__ import annotations

from decimal import Decimal
from typing import Final

from breaker.orders import ZERO, OrderType, Side
from sandbox.exchange.binance.answers import (
    SELF_TRADE_PREVENTION,
    Json,
    fixed,
    has_price,
    milliseconds,
    status,
    symbol_of,
    tick_of,
    time_in_force,
)
from sandbox.exchange.binance.balances import Balance, balances
from sandbox.exchange.crypto_assets import currencies_of
from sandbox.exchange.orders import Fill, PaperOrder
from sandbox.exchange.venue import Venue

_DECIMALS: Final = 8


class SpotWriter:
    """Writes one venue's things."""

    def __init__(self, venue: Venue) -> None:
        self._venue = venue
        self._book = venue.exchange.book

    def order(self, order: PaperOrder) -> Json:
        """As queries have it."""
        submitted = milliseconds(self._venue, order.submitted_at)
        return self._terms(order) | {
            "stopPrice": _text(order.stop_price),
            "icebergQty": _text(None),
            "time": submitted,
            "updateTime": milliseconds(self._venue, order.updated_at),
            "isWorking": order.stop_price is None or order.triggered,
            "workingTime": submitted,
        }

    def placed(self, order: PaperOrder, kind: str) -> Json:
        """The answer to a new order, `ACK`, `RESULT` or `FULL`."""
        acknowledged: Json = {
            "symbol": symbol_of(order.symbol),
            "orderId": int(order.id),
            "orderListId": -1,
            "clientOrderId": order.client_order_id,
            "transactTime": milliseconds(self._venue, order.submitted_at),
        }
        if kind == "ACK":
            return acknowledged
        answer = acknowledged | self._terms(order) | {"workingTime": acknowledged["transactTime"]}
        if kind == "FULL":
            fills = [(number, fill) for number, fill in enumerate(self._book.fills) if fill.order_id == order.id]
            answer["fills"] = [
                {
                    "price": _text(fill.price),
                    "qty": _text(fill.qty),
                    "commission": _text(None),
                    "commissionAsset": "BNB",
                    "tradeId": number + 1,
                }
                for number, fill in fills
            ]
        return answer

    def cancelled(self, order: PaperOrder, client_order_id: str) -> Json:
        """The answer to a cancel, which has a client order id of its own."""
        return self._terms(order) | {
            "origClientOrderId": order.client_order_id,
            "clientOrderId": client_order_id,
            "transactTime": milliseconds(self._venue, order.updated_at),
        }

    def trade(self, number: int, fill: Fill) -> Json:
        """One execution; `number` counts them from the first."""
        return {
            "symbol": symbol_of(fill.symbol),
            "id": number + 1,
            "orderId": int(fill.order_id),
            "orderListId": -1,
            "price": _text(fill.price),
            "qty": _text(fill.qty),
            "quoteQty": _text(fill.qty * fill.price),
            "commission": _text(None),
            "commissionAsset": "BNB",
            "time": milliseconds(self._venue, fill.at),
            "isBuyer": fill.side is Side.BUY,
            "isMaker": False,
            "isBestMatch": True,
        }

    def account(self, *, with_empty: bool) -> Json:
        """What it may do and what it has; of listed currencies that nothing is held of, if wanted, too."""
        found = balances(self._book)
        if with_empty:
            for symbol in self._book.prices:
                for currency in currencies_of(symbol):
                    found.setdefault(currency, Balance())
        unreadable = {currencies_of(p.symbol)[0] for p in self._book.positions.values() if p.unreadable}
        return {
            "makerCommission": 10,
            "takerCommission": 10,
            "buyerCommission": 0,
            "sellerCommission": 0,
            "canTrade": not self._venue.exchange.locks.why,
            "canWithdraw": True,
            "canDeposit": True,
            "brokered": False,
            "requireSelfTradePrevention": False,
            "preventSor": False,
            "updateTime": milliseconds(self._venue, self._venue.exchange.now),
            "accountType": "SPOT",
            "balances": [
                {
                    "asset": currency,
                    "free": "" if currency in unreadable else _text(balance.free),
                    "locked": _text(balance.locked),
                }
                for currency, balance in found.items()
            ],
            "permissions": ["SPOT"],
            "uid": 354937868,
        }

    def listed(self, symbol: str) -> Json:
        """A symbol with its filters, as `exchangeInfo` has it."""
        asset = self._book.asset(symbol)
        base, quote = currencies_of(symbol)
        tick, step = _text(tick_of(asset)), _text(asset.quantity_increment)
        halt = self._venue.exchange.matching.halt_of(symbol)
        return {
            "symbol": symbol_of(symbol),
            "status": "BREAK" if halt and halt.rejects else "TRADING",
            "baseAsset": base,
            "baseAssetPrecision": 8,
            "quoteAsset": quote,
            "quotePrecision": 8,
            "quoteAssetPrecision": 8,
            "baseCommissionPrecision": 8,
            "quoteCommissionPrecision": 8,
            "orderTypes": [
                "LIMIT",
                "LIMIT_MAKER",
                "MARKET",
                "STOP_LOSS",
                "STOP_LOSS_LIMIT",
                "TAKE_PROFIT",
                "TAKE_PROFIT_LIMIT",
            ],
            "icebergAllowed": True,
            "ocoAllowed": True,
            "otoAllowed": True,
            "quoteOrderQtyMarketAllowed": True,
            "allowTrailingStop": True,
            "cancelReplaceAllowed": True,
            "isSpotTradingAllowed": True,
            "isMarginTradingAllowed": False,
            "filters": [
                {"filterType": "PRICE_FILTER", "minPrice": tick, "maxPrice": "1000000.00000000", "tickSize": tick},
                {
                    "filterType": "LOT_SIZE",
                    "minQty": _text(asset.minimum_quantity),
                    "maxQty": _text(asset.maximum_quantity),
                    "stepSize": step,
                },
                {
                    "filterType": "MARKET_LOT_SIZE",
                    "minQty": _text(None),
                    "maxQty": _text(asset.maximum_market_quantity),
                    "stepSize": _text(None),
                },
                {
                    "filterType": "NOTIONAL",
                    "minNotional": _text(asset.minimum_cost),
                    "applyMinToMarket": True,
                    "maxNotional": "9000000.00000000",
                    "applyMaxToMarket": False,
                    "avgPriceMins": 5,
                },
                {"filterType": "MAX_NUM_ORDERS", "maxNumOrders": 200},
                {"filterType": "MAX_NUM_ALGO_ORDERS", "maxNumAlgoOrders": 5},
            ],
            "permissions": [],
            "permissionSets": [["SPOT"]],
            "defaultSelfTradePreventionMode": SELF_TRADE_PREVENTION,
            "allowedSelfTradePreventionModes": ["EXPIRE_TAKER", "EXPIRE_MAKER", "EXPIRE_BOTH"],
        }

    def _terms(self, order: PaperOrder) -> Json:
        """What every answer about an order has."""
        return {
            "symbol": symbol_of(order.symbol),
            "orderId": int(order.id),
            "orderListId": -1,
            "clientOrderId": order.client_order_id,
            "price": "" if order.unreadable else _text(order.limit_price),
            "origQty": _text(order.qty),
            "executedQty": _text(order.filled_qty),
            "origQuoteOrderQty": _text(order.notional),
            "cummulativeQuoteQty": _text(order.filled_value),
            "status": status(order),
            "timeInForce": time_in_force(order),
            "type": _kind(order),
            "side": order.side.upper(),
            "selfTradePreventionMode": SELF_TRADE_PREVENTION,
        }


def _kind(order: PaperOrder) -> str:
    if order.type in {OrderType.LIMIT, OrderType.MARKET}:
        return order.type.upper()
    word = "TAKE_PROFIT" if order.takes_profit else "STOP_LOSS"
    return f"{word}_LIMIT" if has_price(order) else word


def _text(value: Decimal | None) -> str:
    return fixed(value or ZERO, _DECIMALS)
