"""Write orders, positions and accounts as USDⓈ-M futures do (developers.binance.com, "USDⓈ-M Futures", REST API)."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Final

from breaker.orders import ZERO, OrderType, PositionSide, Side
from sandbox.exchange.assets import Asset
from sandbox.exchange.binance.answers import (
    SELF_TRADE_PREVENTION,
    Json,
    decimals_of,
    fixed,
    has_price,
    milliseconds,
    status,
    symbol_of,
    tick_of,
    time_in_force,
)
from sandbox.exchange.book import Transfer
from sandbox.exchange.crypto_assets import CASH, currencies_of
from sandbox.exchange.orders import Fill, PaperOrder, PaperPosition, Status, position_names
from sandbox.exchange.venue import Venue

_PERPETUAL_ENDS: Final = 4_133_404_800_000
_LISTED_AT: Final = 1_569_398_400_000
_MAINTENANCE: Final = Decimal("0.004")
_MOST_NOTIONAL: Final = "1000000000"
_MONEY: Final = 8
_TRANSFERS: Final = {"DIV": "FUNDING_FEE"}


class FuturesWriter:
    """Writes one venue's things."""

    def __init__(self, venue: Venue) -> None:
        self._venue = venue
        self._book = venue.exchange.book
        self._leverage = venue.scenario.account.multiplier

    # Orders

    def order(self, order: PaperOrder) -> Json:
        """A conditional one that was triggered has become an ordinary one, of its kind without the condition."""
        asset = self._book.asset(order.symbol)
        average = order.filled_value / order.filled_qty if order.filled_qty else ZERO
        kind = "LIMIT" if has_price(order) else "MARKET"
        original = conditional_kind(order) if order.conditional else kind
        return {
            "orderId": int(order.id),
            "symbol": symbol_of(order.symbol),
            "status": status(order),
            "clientOrderId": order.client_order_id,
            "price": "" if order.unreadable else self._price(order.limit_price or ZERO, asset),
            "avgPrice": fixed(average, 5),
            "origQty": self._qty(order.qty, asset),
            "executedQty": self._qty(order.filled_qty, asset),
            "cumQty": self._qty(order.filled_qty, asset),
            "cumQuote": fixed(order.filled_value, 5),
            "timeInForce": time_in_force(order),
            "type": kind,
            "reduceOnly": order.only_reduces,
            "closePosition": order.close_position,
            "side": order.side.upper(),
            "positionSide": _side(order.position_side),
            "stopPrice": self._price(order.stop_price or ZERO, asset),
            "workingType": "CONTRACT_PRICE",
            "priceProtect": False,
            "origType": original,
            "priceMatch": "NONE",
            "selfTradePreventionMode": SELF_TRADE_PREVENTION,
            "goodTillDate": 0,
            "time": milliseconds(self._venue, order.submitted_at),
            "updateTime": milliseconds(self._venue, order.updated_at),
        }

    def algo_order(self, order: PaperOrder) -> Json:
        """A conditional order as the algo API has it; of one that closes the position it gives no quantity."""
        asset = self._book.asset(order.symbol)
        triggered = order.triggered_at is not None
        return {
            "algoId": int(order.id),
            "clientAlgoId": order.client_order_id,
            "algoType": "CONDITIONAL",
            "orderType": conditional_kind(order),
            "symbol": symbol_of(order.symbol),
            "side": order.side.upper(),
            "positionSide": _side(order.position_side),
            "timeInForce": time_in_force(order),
            "quantity": self._qty(ZERO if order.close_position else order.qty, asset),
            "algoStatus": _algo_status(order),
            "actualOrderId": order.id if triggered else "",
            "actualPrice": self._price(order.limit_price or ZERO, asset) if triggered else "0",
            "triggerPrice": self._price(order.stop_price or ZERO, asset),
            "price": "" if order.unreadable else self._price(order.limit_price or ZERO, asset),
            "icebergQuantity": None,
            "selfTradePreventionMode": SELF_TRADE_PREVENTION,
            "workingType": "CONTRACT_PRICE",
            "priceMatch": "NONE",
            "closePosition": order.close_position,
            "priceProtect": False,
            "reduceOnly": order.only_reduces,
            "createTime": milliseconds(self._venue, order.submitted_at),
            "updateTime": milliseconds(self._venue, order.updated_at),
            "triggerTime": milliseconds(self._venue, order.triggered_at) if order.triggered_at is not None else 0,
            "goodTillDate": 0,
        }

    def trade(self, number: int, fill: Fill) -> Json:
        """One execution; `number` counts them from the first."""
        asset = self._book.asset(fill.symbol)
        return {
            "symbol": symbol_of(fill.symbol),
            "id": number + 1,
            "orderId": int(fill.order_id),
            "side": fill.side.upper(),
            "price": self._price(fill.price, asset),
            "qty": self._qty(fill.qty, asset),
            "realizedPnl": fixed(fill.realised, _MONEY),
            "quoteQty": fixed(fill.qty * fill.price, _MONEY),
            "commission": "0",
            "commissionAsset": CASH,
            "time": milliseconds(self._venue, fill.at),
            "positionSide": _side(fill.position_side),
            "buyer": fill.side is Side.BUY,
            "maker": False,
        }

    def income(self) -> Iterator[Json]:
        """What moved the wallet, in the order of time: transfers, and what executions made of positions."""
        moved: list[tuple[float, Json]] = [
            (transfer.at, self._transfer(number, transfer)) for number, transfer in enumerate(self._book.transfers)
        ]
        moved += [
            (fill.at, self._realised(number, fill)) for number, fill in enumerate(self._book.fills) if fill.realised
        ]
        for _, entry in sorted(moved, key=lambda each: each[0]):
            yield entry

    def _transfer(self, number: int, transfer: Transfer) -> Json:
        return {
            "symbol": "",
            "incomeType": _TRANSFERS.get(transfer.kind, "TRANSFER"),
            "income": fixed(transfer.amount, _MONEY),
            "asset": CASH,
            "info": "",
            "time": milliseconds(self._venue, transfer.at),
            "tranId": 7_000_000_000 + number,
            "tradeId": "",
        }

    def _realised(self, number: int, fill: Fill) -> Json:
        return {
            "symbol": symbol_of(fill.symbol),
            "incomeType": "REALIZED_PNL",
            "income": fixed(fill.realised, _MONEY),
            "asset": CASH,
            "info": str(number + 1),
            "time": milliseconds(self._venue, fill.at),
            "tranId": 8_000_000_000 + number,
            "tradeId": str(number + 1),
        }

    # Positions

    def positions(self, symbols: list[str], *, all_of_them: bool, version: int) -> list[Json]:
        """Those with a position or an open order, or all; in hedge mode a symbol has one of each side."""
        found: list[Json] = []
        for symbol in symbols:
            for side in (PositionSide.LONG, PositionSide.SHORT) if self._book.hedged else (None,):
                position = PaperPosition(symbol, ZERO, ZERO, position_side=side)
                position = self._book.positions.get(position.name, position)
                if all_of_them or position.qty or self._book.open_orders_for(position.name):
                    found.append(self.position_risk(position, version))
        return found

    def position_risk(self, position: PaperPosition, version: int) -> Json:
        """As `positionRisk` has it in its version 2 or 3."""
        asset = self._book.asset(position.symbol)
        price = self._book.prices[position.symbol]
        notional = self._book.value(position.symbol, position.qty)
        margin = fixed(abs(notional) / self._leverage, _MONEY)
        entry = self._price(position.average_price, asset)
        risk: Json = {
            "symbol": symbol_of(position.symbol),
            "positionSide": _side(position.position_side),
            "positionAmt": "" if position.unreadable else self._qty(position.qty, asset),
            "entryPrice": entry,
            "breakEvenPrice": entry,
            "markPrice": fixed(price, _MONEY),
            "unRealizedProfit": fixed(self._unrealised(position), _MONEY),
            "liquidationPrice": "0",
            "isolatedMargin": "0",
            "notional": fixed(notional, _MONEY),
            "isolatedWallet": "0",
            "updateTime": milliseconds(self._venue, self._venue.exchange.now) if position.qty else 0,
        }
        if version == 2:
            return risk | {
                "leverage": str(self._leverage),
                "maxNotionalValue": _MOST_NOTIONAL,
                "marginType": "cross",
                "isAutoAddMargin": "false",
                "isolated": False,
                "adlQuantile": 1,
            }
        return risk | {
            "marginAsset": CASH,
            "initialMargin": margin,
            "maintMargin": fixed(abs(notional) * _MAINTENANCE, _MONEY),
            "positionInitialMargin": margin,
            "openOrderInitialMargin": "0",
            "adl": 1,
            "bidNotional": "0",
            "askNotional": "0",
        }

    def _unrealised(self, position: PaperPosition) -> Decimal:
        cost = self._book.value(position.symbol, position.qty, position.average_price)
        return self._book.value(position.symbol, position.qty) - cost

    # Account

    def asset(self) -> Json:
        """What the account has of the currency that it is kept in."""
        wallet, margin = self._wallet, self._margin
        unrealised = fixed(self._book.equity - wallet, _MONEY)
        available = fixed(self._book.buying_power / self._leverage, _MONEY)
        return {
            "asset": CASH,
            "walletBalance": fixed(wallet, _MONEY),
            "unrealizedProfit": unrealised,
            "marginBalance": fixed(self._book.equity, _MONEY),
            "maintMargin": fixed(margin * self._leverage * _MAINTENANCE, _MONEY),
            "initialMargin": fixed(margin, _MONEY),
            "positionInitialMargin": fixed(margin, _MONEY),
            "openOrderInitialMargin": "0",
            "crossWalletBalance": fixed(wallet, _MONEY),
            "crossUnPnl": unrealised,
            "availableBalance": available,
            "maxWithdrawAmount": available,
            "marginAvailable": True,
            "updateTime": milliseconds(self._venue, self._venue.exchange.now),
        }

    def account(self, version: int) -> Json:
        """Totals, the one asset, and positions as `/account` has them."""
        asset = self.asset()
        symbols = sorted(self._book.prices)
        positions = self.positions(symbols, all_of_them=version == 2, version=2)
        totals: Json = {
            "totalInitialMargin": asset["initialMargin"],
            "totalMaintMargin": asset["maintMargin"],
            "totalWalletBalance": asset["walletBalance"],
            "totalUnrealizedProfit": asset["unrealizedProfit"],
            "totalMarginBalance": asset["marginBalance"],
            "totalPositionInitialMargin": asset["positionInitialMargin"],
            "totalOpenOrderInitialMargin": "0",
            "totalCrossWalletBalance": asset["crossWalletBalance"],
            "totalCrossUnPnl": asset["crossUnPnl"],
            "availableBalance": asset["availableBalance"],
            "maxWithdrawAmount": asset["maxWithdrawAmount"],
            "assets": [asset],
            "positions": [_in_account(position, version) for position in positions],
        }
        if version == 3:
            return totals
        may_trade = not self._venue.exchange.locks.why
        return {
            "feeTier": 0,
            "canTrade": may_trade,
            "canDeposit": True,
            "canWithdraw": True,
            "multiAssetsMargin": False,
            "updateTime": 0,
            **totals,
        }

    def balance(self) -> Json:
        """As `/balance` has it."""
        asset = self.asset()
        kept = ("asset", "crossWalletBalance", "crossUnPnl", "availableBalance", "maxWithdrawAmount", "updateTime")
        return {
            "accountAlias": "SgsR",
            "balance": asset["walletBalance"],
            "marginAvailable": True,
            **{name: asset[name] for name in kept},
        }

    @property
    def _wallet(self) -> Decimal:
        """What the account is worth without what its positions have not realised."""
        return self._book.equity - sum((self._unrealised(each) for each in self._book.positions.values()), ZERO)

    @property
    def _margin(self) -> Decimal:
        values = (abs(self._book.value(each.symbol, each.qty)) for each in self._book.positions.values())
        return sum(values, ZERO) / self._leverage

    # What is listed

    def listed(self, symbol: str) -> Json:
        """A symbol with its filters, as `exchangeInfo` has it."""
        asset = self._book.asset(symbol)
        base, quote = currencies_of(symbol)
        tick, step = tick_of(asset), asset.quantity_increment
        plain = f"{step:f}"
        most, most_at_market = asset.maximum_quantity, asset.maximum_market_quantity
        halt = self._venue.exchange.matching.halt_of(symbol)
        return {
            "symbol": symbol,
            "pair": symbol,
            "contractType": "PERPETUAL",
            "deliveryDate": _PERPETUAL_ENDS,
            "onboardDate": _LISTED_AT,
            "status": "SETTLING" if halt and halt.rejects else "TRADING",
            "maintMarginPercent": "2.5000",
            "requiredMarginPercent": "5.0000",
            "baseAsset": base,
            "quoteAsset": quote,
            "marginAsset": quote,
            "pricePrecision": decimals_of(tick) + 1,
            "quantityPrecision": decimals_of(step),
            "baseAssetPrecision": 8,
            "quotePrecision": 8,
            "underlyingType": "COIN",
            "underlyingSubType": [],
            "triggerProtect": "0.0500",
            "liquidationFee": "0.012500",
            "marketTakeBound": "0.05",
            "maxMoveOrderLimit": 10_000,
            "filters": [
                {"filterType": "PRICE_FILTER", "minPrice": f"{tick:f}", "maxPrice": "1000000", "tickSize": f"{tick:f}"},
                {"filterType": "LOT_SIZE", "minQty": plain, "maxQty": f"{most or 10_000_000:f}", "stepSize": plain},
                {
                    "filterType": "MARKET_LOT_SIZE",
                    "minQty": plain,
                    "maxQty": f"{most_at_market or 10_000_000:f}",
                    "stepSize": plain,
                },
                {"filterType": "MAX_NUM_ORDERS", "limit": 200},
                {"filterType": "MAX_NUM_ALGO_ORDERS", "limit": 10},
                {"filterType": "MIN_NOTIONAL", "notional": f"{asset.minimum_cost:f}"},
                {
                    "filterType": "PERCENT_PRICE",
                    "multiplierUp": "1.0500",
                    "multiplierDown": "0.9500",
                    "multiplierDecimal": "4",
                },
            ],
            "orderTypes": [
                "LIMIT",
                "MARKET",
                "STOP",
                "STOP_MARKET",
                "TAKE_PROFIT",
                "TAKE_PROFIT_MARKET",
                "TRAILING_STOP_MARKET",
            ],
            "timeInForce": ["GTC", "IOC", "FOK", "GTX", "GTD"],
        }

    def _price(self, value: Decimal, asset: Asset) -> str:
        return fixed(value, decimals_of(tick_of(asset)))

    def _qty(self, value: Decimal, asset: Asset) -> str:
        return fixed(value, decimals_of(asset.quantity_increment))


def conditional_kind(order: PaperOrder) -> str:
    """What the venue calls a conditional order."""
    if order.type is OrderType.TRAILING_STOP:
        return "TRAILING_STOP_MARKET"
    word = "TAKE_PROFIT" if order.takes_profit else "STOP"
    return word if has_price(order) else f"{word}_MARKET"


def has_positions(venue: Venue, symbol: str) -> bool:
    """Whether anything is held in the symbol."""
    return any(name in venue.exchange.book.positions for name in position_names(symbol))


def _algo_status(order: PaperOrder) -> str:
    if order.triggered_at is not None:
        return "TRIGGERED" if order.is_open else "FINISHED"
    return {Status.CANCELED: "CANCELED", Status.EXPIRED: "EXPIRED", Status.REJECTED: "REJECTED"}.get(
        order.status, "NEW"
    )


def _in_account(risk: Json, version: int) -> Json:
    """A position as `/account` has it, which calls some things otherwise and gives fewer of them in version 3."""
    margin = f"{abs(Decimal(str(risk['notional']))):f}"
    kept = ("symbol", "positionSide", "positionAmt", "isolatedMargin", "isolatedWallet", "notional", "updateTime")
    position: Json = {name: risk[name] for name in kept}
    position |= {"unrealizedProfit": risk["unRealizedProfit"], "initialMargin": margin, "maintMargin": "0"}
    if version == 2:
        position |= {name: risk[name] for name in ("entryPrice", "breakEvenPrice", "leverage", "isolated")}
        position |= {"maxNotional": _MOST_NOTIONAL, "positionInitialMargin": margin, "openOrderInitialMargin": "0"}
    return position


def _side(side: PositionSide | None) -> str:
    return "BOTH" if side is None else side.upper()
