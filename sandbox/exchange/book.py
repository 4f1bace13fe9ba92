"""Hold the book of one account: orders, positions, fills, cash and prices, and what follows from them."""

from __future__ import annotations

from decimal import Decimal

from breaker.orders import ZERO, Side
from sandbox.exchange.orders import Fill, PaperOrder, PaperPosition
from sandbox.exchange.refusal import not_found
from sandbox.exchange.scenario import Account


class Book:
    """One account at one venue. It is told what happened, and checks nothing."""

    def __init__(self, account: Account, prices: dict[str, Decimal]) -> None:
        self.prices = dict(prices)
        self.cash = account.cash
        self.positions: dict[str, PaperPosition] = {}
        self.orders: dict[str, PaperOrder] = {}
        """Every order ever, in the order of submission."""
        self.open_orders: dict[str, PaperOrder] = {}
        self.fills: list[Fill] = []
        self._multiplier = account.multiplier
        self._by_client_id: dict[str, PaperOrder] = {}
        self._open_by_symbol: dict[str, dict[str, PaperOrder]] = {}

    # Looking

    def order(self, order_id: str) -> PaperOrder:
        """Raises `Refusal` when there is none."""
        order = self.orders.get(order_id)
        if order is None:
            raise not_found(f"order not found for {order_id}")
        return order

    def order_by_client_id(self, client_order_id: str) -> PaperOrder:
        """Raises `Refusal` when there is none."""
        order = self._by_client_id.get(client_order_id)
        if order is None:
            raise not_found(f"order not found for {client_order_id}")
        return order

    def position(self, symbol: str) -> PaperPosition:
        """Raises `Refusal` when there is none."""
        position = self.positions.get(symbol)
        if position is None:
            raise not_found("position does not exist")
        return position

    def knows_client_order_id(self, client_order_id: str) -> bool:
        return client_order_id in self._by_client_id

    def position_qty(self, symbol: str) -> Decimal:
        """Signed; zero without a position."""
        position = self.positions.get(symbol)
        return ZERO if position is None else position.qty

    def open_orders_in(self, symbol: str) -> list[PaperOrder]:
        return list(self._open_by_symbol.get(symbol, {}).values())

    def holding_orders(self, symbol: str, side: Side) -> list[PaperOrder]:
        """The open orders of this side that keep others from closing the position."""
        of_symbol = self._open_by_symbol.get(symbol, {}).values()
        return [order for order in of_symbol if order.side is side and order.holds > 0]

    def held(self, symbol: str, side: Side) -> Decimal:
        """How much open orders of this side hold; a one-cancels-other pair holds once."""
        held = ZERO
        counted: set[str] = set()
        for order in self.holding_orders(symbol, side):
            if order.sibling and order.sibling.id in counted:
                continue
            counted.add(order.id)
            held += order.holds
        return held

    def available(self, position: PaperPosition) -> Decimal:
        """How much of |position| no open order holds; never negative."""
        return max(abs(position.qty) - self.held(position.symbol, position.closing_side), ZERO)

    @property
    def is_flat(self) -> bool:
        return not self.open_orders and not self.positions

    @property
    def equity(self) -> Decimal:
        return self.cash + sum((p.qty * self.prices[p.symbol] for p in self.positions.values()), ZERO)

    @property
    def buying_power(self) -> Decimal:
        """Equity times the multiplier, less what positions and opening orders use; never negative."""
        used = sum((abs(p.qty) * self.prices[p.symbol] for p in self.positions.values()), ZERO)
        for order in self.open_orders.values():
            position = self.positions.get(order.symbol)
            if position is None or position.closing_side is not order.side:
                used += order.holds * (order.limit_price or self.prices[order.symbol])
        return max(self.equity * self._multiplier - used, ZERO)

    # Being told

    def add_order(self, order: PaperOrder) -> None:
        """An order and its legs, all open."""
        for each in (order, *order.legs):
            if each.id in self.orders:
                continue
            self.orders[each.id] = each
            self._by_client_id[each.client_order_id] = each
            self.open_orders[each.id] = each
            self._open_by_symbol.setdefault(each.symbol, {})[each.id] = each

    def close_order(self, order: PaperOrder) -> None:
        """The order works no more."""
        self.open_orders.pop(order.id, None)
        self._open_by_symbol.get(order.symbol, {}).pop(order.id, None)

    def add_fill(self, fill: Fill) -> None:
        """One execution: its money and its effect on the position."""
        self.fills.append(fill)
        self.cash -= fill.side.sign * fill.qty * fill.price
        self._move_position(fill.symbol, fill.side.sign * fill.qty, fill.price)

    def _move_position(self, symbol: str, change: Decimal, price: Decimal) -> None:
        position = self.positions.get(symbol)
        if position is None:
            self.positions[symbol] = PaperPosition(symbol, change, price)
            return
        after = position.qty + change
        if after == 0:
            del self.positions[symbol]
            return
        if position.qty * change > 0:
            position.average_price = (position.average_price * position.qty + price * change) / after
        elif position.qty * after < 0:
            position.average_price = price
        position.qty = after
