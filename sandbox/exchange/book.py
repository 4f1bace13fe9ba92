"""Hold the book of one account: orders, positions, fills, cash and prices, and what follows from them."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from breaker.orders import ZERO, PositionSide, Side
from sandbox.exchange.assets import Asset, in_orders
from sandbox.exchange.orders import (
    Fill,
    OrderClass,
    PaperOrder,
    PaperPosition,
    Status,
    position_name,
    position_names,
)
from sandbox.exchange.refusal import not_found
from sandbox.exchange.scenario import Scenario


@dataclass(frozen=True, slots=True)
class Transfer:
    """Money that was moved in or out (negative), at a moment of the exchange's clock."""

    at: float
    amount: Decimal
    kind: str


class Book:
    """One account at one venue. It is told what happened, and checks nothing."""

    def __init__(self, scenario: Scenario) -> None:
        self.prices = dict(scenario.prices)
        """Of everything that is listed, by its symbol as orders have it."""
        self.cash = scenario.account.cash
        self.hedged = scenario.account.hedge_mode
        """Whether a symbol has a long and a short position instead of one that nets."""
        self.positions: dict[str, PaperPosition] = {}
        """By their names: the symbol, and in hedge mode the side too."""
        self.orders: dict[str, PaperOrder] = {}
        """Every order ever, in the order of submission."""
        self.open_orders: dict[str, PaperOrder] = {}
        self.fills: list[Fill] = []
        self.transfers: list[Transfer] = []
        self.silent_since: dict[str, float] = {}
        """Symbols whose quotes stand still, by when the last of them came."""
        self._settling: dict[str, PaperOrder] = {}
        self._scenario = scenario
        self._assets: dict[str, Asset] = {}
        self._by_client_id: dict[str, PaperOrder] = {}
        self._open_by_position: dict[str, dict[str, PaperOrder]] = {}

    # Looking

    def asset(self, symbol: str) -> Asset:
        """What this symbol's orders must obey."""
        known = self._assets.get(symbol)
        if known is None:
            known = self._assets[symbol] = self._scenario.asset(symbol)
        return known

    def listed(self, symbol: str) -> str | None:
        """The symbol as orders have it, given in either spelling; None when nothing of that name is listed."""
        for spelling in (symbol, in_orders(symbol)):
            if spelling in self.prices:
                return spelling
        return next((listed for listed in self.prices if "/" in listed and listed.replace("/", "") == symbol), None)

    def value(self, symbol: str, qty: Decimal, price: Decimal | None = None) -> Decimal:
        """What that much of it is worth in the account's currency, at the market's price unless another is given."""
        asset = self.asset(symbol)
        amount = qty * (self.prices[symbol] if price is None else price) * asset.multiplier
        return self.value(asset.paid_from, amount) if asset.paid_from else amount

    def net_price(self, order: PaperOrder) -> Decimal:
        """What one unit of the order costs at the market; of one with several legs it may be negative."""
        if order.order_class is not OrderClass.MLEG or order.goes_with_parent:
            return self.prices[order.symbol]
        return sum((leg.side.sign * (leg.ratio or ZERO) * self.prices[leg.symbol] for leg in order.legs), ZERO)

    @property
    def listed_as_open(self) -> list[PaperOrder]:
        """The open orders, and what has been executed and is still being settled."""
        return [*self.open_orders.values(), *self._settling.values()]

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

    def position(self, name: str) -> PaperPosition:
        """Raises `Refusal` when there is none."""
        position = self.positions.get(name)
        if position is None:
            raise not_found("position does not exist")
        return position

    def knows_client_order_id(self, client_order_id: str) -> bool:
        return client_order_id in self._by_client_id

    def position_qty(self, name: str) -> Decimal:
        """Signed; zero without a position."""
        position = self.positions.get(name)
        return ZERO if position is None else position.qty

    def reducible(self, name: str, side: Side) -> Decimal:
        """How much of the position an order of this side can close."""
        return max(-side.sign * self.position_qty(name), ZERO)

    def opened_by(self, side: Side) -> PositionSide | None:
        """Which position an order of this side opens, in hedge mode."""
        if not self.hedged:
            return None
        return PositionSide.LONG if side is Side.BUY else PositionSide.SHORT

    def held_as(self, qty: Decimal) -> PositionSide | None:
        """Which position this signed quantity is, in hedge mode."""
        return self.opened_by(Side.BUY if qty > 0 else Side.SELL)

    def open_orders_in(self, symbol: str) -> list[PaperOrder]:
        return [order for name in position_names(symbol) for order in self.open_orders_for(name)]

    def open_orders_for(self, name: str) -> list[PaperOrder]:
        """The open orders for this position."""
        return list(self._open_by_position.get(name, {}).values())

    def holding_orders(self, name: str, side: Side) -> list[PaperOrder]:
        """The open orders of this side that keep others from closing the position."""
        orders = self._open_by_position.get(name, {}).values()
        return [order for order in orders if order.side is side and order.holds > 0]

    def held(self, name: str, side: Side, *, reduce_only_too: bool = True) -> Decimal:
        """How much open orders of this side hold; a one-cancels-other pair holds once."""
        held = ZERO
        counted: set[str] = set()
        for order in self.holding_orders(name, side):
            if order.only_reduces and not reduce_only_too:
                continue
            if order.sibling and order.sibling.id in counted:
                continue
            counted.add(order.id)
            held += order.holds
        return held

    def available(self, position: PaperPosition) -> Decimal:
        """How much of |position| no open order holds; never negative."""
        held = self.held(position.name, position.closing_side) + position.withheld
        return max(abs(position.qty) - held, ZERO)

    @property
    def is_flat(self) -> bool:
        return not self.open_orders and not self.positions

    @property
    def equity(self) -> Decimal:
        return self.cash + sum((self.value(p.symbol, p.qty) for p in self.positions.values()), ZERO)

    @property
    def buying_power(self) -> Decimal:
        """Equity times the multiplier, less what positions and opening orders use; never negative."""
        used = sum((abs(self.value(p.symbol, p.qty)) for p in self.positions.values()), ZERO)
        for order in self.open_orders.values():
            position = self.positions.get(order.position_name)
            opens = position is None or position.closing_side is not order.side
            if not order.joint_legs and opens and not order.only_reduces:
                used += self.value(order.symbol, order.holds, order.limit_price)
        return max(self.equity * self._scenario.account.multiplier - used, ZERO)

    # Being told

    def add_order(self, order: PaperOrder) -> None:
        """An order and its legs, all open."""
        for each in (order, *order.legs):
            if each.id in self.orders:
                continue
            self.orders[each.id] = each
            self._by_client_id[each.client_order_id] = each
            if each.status is Status.CALCULATED:
                self._settling[each.id] = each
                continue
            self.open_orders[each.id] = each
            self._open_by_position.setdefault(each.position_name, {})[each.id] = each

    def close_order(self, order: PaperOrder) -> None:
        """The order works no more."""
        self.open_orders.pop(order.id, None)
        self._settling.pop(order.id, None)
        self._open_by_position.get(order.position_name, {}).pop(order.id, None)

    def add_transfer(self, transfer: Transfer) -> None:
        """Money comes or goes without a trade."""
        self.transfers.append(transfer)
        self.cash += transfer.amount

    def add_fill(self, fill: Fill) -> None:
        """One execution: its money and its effect on the position."""
        self.fills.append(fill)
        asset = self.asset(fill.symbol)
        if asset.paid_from:
            paid = (fill.side.sign * fill.qty * fill.price).normalize()
            self._move_position(asset.paid_from, None, -paid, self.prices[asset.paid_from])
        else:
            self.cash -= fill.side.sign * self.value(fill.symbol, fill.qty, fill.price)
        self._move_position(fill.symbol, fill.position_side, fill.side.sign * fill.qty, fill.price)

    def realised_by(self, order: PaperOrder, qty: Decimal, price: Decimal) -> Decimal:
        """What an execution makes of the part of the position that it closes."""
        position = self.positions.get(order.position_name)
        if position is None or position.closing_side is not order.side:
            return ZERO
        part = min(qty, abs(position.qty)).copy_sign(position.qty)
        return part * (price - position.average_price) * self.asset(order.symbol).multiplier

    def _move_position(self, symbol: str, side: PositionSide | None, change: Decimal, price: Decimal) -> None:
        name = position_name(symbol, side)
        position = self.positions.get(name)
        if position is None:
            self.positions[name] = PaperPosition(symbol, change, price, position_side=side)
            return
        after = position.qty + change
        if after == 0:
            del self.positions[name]
            return
        if position.qty * change > 0:
            position.average_price = (position.average_price * position.qty + price * change) / after
        elif position.qty * after < 0:
            position.average_price = price
        position.qty = after
