"""Write what answers look like, in Alpaca's JSON (Trading API reference)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Final
from uuid import NAMESPACE_URL, uuid5

from breaker.instruments import AssetClass
from sandbox.exchange.assets import Asset, in_positions
from sandbox.exchange.book import Transfer
from sandbox.exchange.exchange import Exchange
from sandbox.exchange.orders import QUANTITY_STEP, Fill, OrderClass, PaperOrder, PaperPosition
from sandbox.exchange.scenario import Account, Market, Session

Json = dict[str, object]
_CENT: Final = Decimal("0.01")
_RATIO: Final = Decimal("0.000001")
_CLASSES: Final = {AssetClass.EQUITY: "us_equity", AssetClass.OPTION: "us_option", AssetClass.CRYPTO: "crypto"}
_VENUES: Final = {AssetClass.EQUITY: "NASDAQ", AssetClass.OPTION: "", AssetClass.CRYPTO: "CRYPTO"}


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
        """An order with several legs says nothing of symbol and side, and its legs nothing of their kind."""
        submitted = self.time(order.submitted_at)
        is_parent = bool(order.joint_legs)
        asset_class = "" if is_parent else _CLASSES[self._exchange.book.asset(order.symbol).asset_class]
        kind = "" if order.goes_with_parent else order.type.value
        average = order.filled_value / order.filled_qty if order.filled_qty else None
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
            "asset_id": "" if is_parent else asset_id(order.symbol),
            "symbol": order.symbol,
            "asset_class": asset_class,
            "notional": _text(order.notional),
            "qty": None if order.notional is not None else _text(order.qty),
            "filled_qty": _text(order.filled_qty),
            "filled_avg_price": _text(average),
            "order_class": "" if order.order_class is OrderClass.SIMPLE else order.order_class.value,
            "order_type": kind,
            "type": kind,
            "side": "" if is_parent else order.side_word or order.side.value,
            "time_in_force": order.time_in_force.value,
            "limit_price": "" if order.unreadable else _text(order.limit_price),
            "stop_price": _text(order.stop_price),
            "status": order.status.value,
            "extended_hours": order.extended_hours,
            "legs": [self.order(leg) for leg in order.legs] if legs and order.legs else None,
            "trail_percent": _text(order.trail_percent),
            "trail_price": _text(order.trail_price),
            "hwm": _text(order.high_water_mark),
            **({"ratio_qty": _text(order.ratio)} if order.goes_with_parent else {}),
            "source": None,
            "subtag": None,
        }

    def position(self, position: PaperPosition) -> Json:
        book = self._exchange.book
        price, asset = book.prices[position.symbol], book.asset(position.symbol)
        value = book.value(position.symbol, position.qty)
        cost = book.value(position.symbol, position.qty, position.average_price)
        gain = value - cost
        available = _text(book.available(position).copy_sign(position.qty))
        return {
            "asset_id": asset_id(position.symbol),
            "symbol": in_positions(position.symbol),
            "exchange": _VENUES[asset.asset_class],
            "asset_class": _CLASSES[asset.asset_class],
            "asset_marginable": asset.asset_class is AssetClass.EQUITY,
            "avg_entry_price": _text(position.average_price),
            "qty": _text(position.qty),
            "qty_available": "" if position.unreadable else available,
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
        book, locks = self._exchange.book, self._exchange.locks
        values = [book.value(p.symbol, p.qty) for p in book.positions.values()]
        equity, power = _money(book.equity), _money(book.buying_power)
        return {
            "id": str(account.id),
            "account_number": "PA" + account.id.hex[:8].upper(),
            "status": "ACTIVE",
            "crypto_status": "ACTIVE",
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
            "trading_blocked": locks.trading_blocked,
            "transfers_blocked": False,
            "account_blocked": locks.account_blocked,
            "trade_suspended_by_user": locks.suspended_by_user,
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

    def fill(self, number: int, fill: Fill, order: PaperOrder) -> Json:
        """One execution as an activity of the account; `number` counts them from the first."""
        moment = self._epoch + timedelta(seconds=fill.at)
        return {
            "id": _activity_id(moment, f"fill:{number}"),
            "activity_type": "FILL",
            "transaction_time": _iso(moment),
            "type": "fill" if fill.left == 0 else "partial_fill",
            "price": _text(fill.price),
            "qty": _text(fill.qty),
            "side": order.side_word or fill.side.value,
            "symbol": fill.symbol,
            "leaves_qty": _text(fill.left),
            "order_id": fill.order_id,
            "cum_qty": _text(fill.filled_qty),
            "order_status": "filled" if fill.left == 0 else "partially_filled",
        }

    def transfer(self, number: int, transfer: Transfer) -> Json:
        """Money in or out as an activity of the account; `number` counts them from the first."""
        moment = self._epoch + timedelta(seconds=transfer.at)
        return {
            "id": _activity_id(moment, f"transfer:{number}"),
            "activity_type": transfer.kind,
            "date": f"{moment:%Y-%m-%d}",
            "created_at": _iso(moment),
            "net_amount": _text(transfer.amount),
            "status": "executed",
        }

    def quote(self, symbol: str) -> Json:
        """The latest; without a spread, as the market has one price."""
        price = float(self._exchange.book.prices[symbol])
        at = self._exchange.book.silent_since.get(symbol, self._exchange.now)
        return {
            "t": self.time(at),
            "ap": price,
            "as": 1,
            "ax": "V",
            "bp": price,
            "bs": 1,
            "bx": "V",
            "c": ["R"],
            "z": "C",
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


def asset(listed: Asset) -> Json:
    is_equity = listed.asset_class is AssetClass.EQUITY
    steps: Json = {}
    if listed.asset_class is AssetClass.CRYPTO:
        steps = {
            "min_order_size": _text(listed.minimum_quantity),
            "min_trade_increment": _text(listed.quantity_increment),
            "price_increment": _text(listed.price_increment),
        }
    return {
        "id": asset_id(listed.symbol),
        "class": _CLASSES[listed.asset_class],
        "exchange": _VENUES[listed.asset_class],
        "symbol": listed.symbol,
        "name": f"{listed.symbol} Common Stock" if is_equity else listed.symbol,
        "status": "active",
        "tradable": True,
        "marginable": is_equity,
        "maintenance_margin_requirement": 30 if is_equity else 100,
        "shortable": is_equity,
        "easy_to_borrow": is_equity,
        "fractionable": listed.asset_class is not AssetClass.OPTION,
        "attributes": [],
        **steps,
    }


_ASSET_IDS: dict[str, str] = {}


def asset_id(symbol: str) -> str:
    """The same id for the same symbol, always."""
    known = _ASSET_IDS.get(symbol)
    if known is None:
        known = _ASSET_IDS[symbol] = str(uuid5(NAMESPACE_URL, f"asset:{symbol}"))
    return known


def _activity_id(moment: datetime, name: str) -> str:
    return f"{moment:%Y%m%d%H%M%S}{moment.microsecond // 1000:03}::{uuid5(NAMESPACE_URL, name)}"


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
