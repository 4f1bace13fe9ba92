"""Decide about a new order as the venue does: its terms, its size, its cost, and what the scenario refuses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from decimal import ROUND_DOWN, Decimal
from random import Random
from typing import Final

from breaker.orders import OrderType, Side, TimeInForce
from sandbox.exchange.book import Book
from sandbox.exchange.event_queue import EventQueue
from sandbox.exchange.orders import (
    PRICE_STEP,
    QUANTITY_STEP,
    OrderClass,
    OrderRequest,
    Origin,
    PaperOrder,
    Status,
    trailing_stop_price,
)
from sandbox.exchange.refusal import Refusal, invalid, unprocessable
from sandbox.exchange.scenario import ExitRefusal, Scenario
from sandbox.exchange.venue_record import VenueRecord

_MINIMUM_NOTIONAL: Final = Decimal(1)
_EXIT_REASONS: Final = {
    "day_trade": (40310100, "trade denied due to pattern day trading protection"),
    "buying_power": (40310000, "insufficient buying power"),
}


class Acceptance:
    """The venue's rules for new orders; what breaks one is refused with `Refusal`."""

    def __init__(self, scenario: Scenario, book: Book, events: EventQueue, record: VenueRecord, random: Random) -> None:
        self._scenario = scenario
        self._book = book
        self._events = events
        self._record = record
        self._random = random
        self._exit_refusals_left: dict[int, int] = {
            index: rule.first for index, rule in enumerate(scenario.exit_refusals) if rule.first is not None
        }

    def check_client_order_id(self, client_order_id: str | None) -> None:
        if client_order_id is not None and self._book.knows_client_order_id(client_order_id):
            self._record.duplicate_refused(client_order_id)
            raise invalid("client_order_id must be unique")

    def check_terms(self, request: OrderRequest) -> Decimal:
        """The order's quantity, when its terms go together."""
        qty = self._quantity(request)
        if request.extended_hours and (
            request.type is not OrderType.LIMIT or request.time_in_force is not TimeInForce.DAY
        ):
            raise unprocessable("extended hours order must be DAY limit orders")
        if qty == qty.to_integral_value():
            return qty
        if request.time_in_force is not TimeInForce.DAY:
            raise unprocessable("fractional orders must be DAY orders")
        if request.order_class is not OrderClass.SIMPLE:
            raise unprocessable("fractional orders must be simple orders")
        if request.extended_hours:
            raise unprocessable("fractional orders are not allowed in extended hours")
        if request.side is Side.SELL and self._book.position_qty(request.symbol) <= 0:
            raise unprocessable("fractional orders cannot be sold short")
        return qty

    def check_size(self, request: OrderRequest, qty: Decimal) -> bool:
        """Whether the order reduces the position. Refuses more than is available and more than can be paid."""
        position = self._book.positions.get(request.symbol)
        if position is None or position.closing_side is not request.side:
            cost = qty * (request.limit_price or self._book.prices[request.symbol])
            if cost > (power := self._book.buying_power):
                raise Refusal(
                    403,
                    40310000,
                    "insufficient buying power",
                    buying_power=str(power.quantize(PRICE_STEP)),
                    cost_basis=str(cost.quantize(PRICE_STEP)),
                )
            return False
        available = self._book.available(position)
        if qty > available and self._scenario.enforce_available:
            existing = abs(position.qty)
            if qty > existing:
                self._record.refused_as_too_large(request.symbol, qty, existing)
            raise Refusal(
                403,
                40310000,
                f"insufficient qty available for order (requested: {qty:f}, available: {available:f})",
                symbol=request.symbol,
                existing_qty=f"{existing:f}",
                held_for_orders=f"{existing - available:f}",
                available=f"{available:f}",
                related_orders=[order.id for order in self._book.holding_orders(request.symbol, request.side)],
            )
        return True

    def exit_refusal(self, symbol: str) -> ExitRefusal | None:
        """The scenario's rule that hits this exit, if any does; it counts as used."""
        now = self._events.now
        for index, rule in enumerate(self._scenario.exit_refusals):
            if rule.symbols and symbol not in rule.symbols:
                continue
            if now < rule.after or (rule.until is not None and now >= rule.until):
                continue
            if self._exit_refusals_left.get(index, 1) == 0 or self._random.random() >= rule.probability:
                continue
            if index in self._exit_refusals_left:
                self._exit_refusals_left[index] -= 1
            return rule
        return None

    def refuse_exit(self, rule: ExitRefusal) -> Refusal:
        """Count it, and say it in the venue's words."""
        self._record.exits_refused += 1
        code, message = _EXIT_REASONS[rule.reason]
        extra: dict[str, object] = {"buying_power": "0"} if rule.reason == "buying_power" else {}
        return Refusal(403, code, message, **extra)

    def _quantity(self, request: OrderRequest) -> Decimal:
        if request.qty is not None:
            return request.qty
        assert request.notional is not None  # noqa: S101 - exactly one is set
        if request.notional < _MINIMUM_NOTIONAL:
            raise unprocessable("cost basis must be >= minimal amount of order 1")
        return (request.notional / self._book.prices[request.symbol]).quantize(QUANTITY_STEP, ROUND_DOWN)


def accepted_order(
    request: OrderRequest, qty: Decimal, origin: Origin, *, price: Decimal, now: float, new_id: Callable[[], str]
) -> PaperOrder:
    """The order that a request becomes, with its legs; `price` is the market's."""
    stop_price = request.stop_price
    if request.type is OrderType.TRAILING_STOP:
        stop_price = trailing_stop_price(request.side, price, request.trail_price, request.trail_percent)
    order = PaperOrder(
        id=new_id(),
        client_order_id=request.client_order_id or new_id(),
        symbol=request.symbol,
        side=request.side,
        type=request.type,
        time_in_force=request.time_in_force,
        qty=qty,
        notional=request.notional,
        status=Status.ACCEPTED,
        submitted_at=now,
        updated_at=now,
        origin=origin,
        limit_price=request.limit_price,
        stop_price=stop_price,
        trail_price=request.trail_price,
        trail_percent=request.trail_percent,
        high_water_mark=price if request.type is OrderType.TRAILING_STOP else None,
        extended_hours=request.extended_hours,
        order_class=request.order_class,
    )
    order.legs = _legs_of(order, request, new_id)
    return order


def _legs_of(order: PaperOrder, request: OrderRequest, new_id: Callable[[], str]) -> list[PaperOrder]:
    """Legs wait until their entry has filled; the stop of a one-cancels-other order is held by its limit."""
    leg_side = order.side if order.order_class is OrderClass.OCO else order.side.opposite

    def leg(kind: OrderType, limit_price: Decimal | None, stop_price: Decimal | None) -> PaperOrder:
        return replace(
            order,
            id=new_id(),
            client_order_id=new_id(),
            side=leg_side,
            type=kind,
            limit_price=limit_price,
            stop_price=stop_price,
            status=Status.HELD,
            parent=order,
            legs=[],
        )

    legs: list[PaperOrder] = []
    if order.order_class in {OrderClass.BRACKET, OrderClass.OTO} and request.take_profit is not None:
        legs.append(leg(OrderType.LIMIT, request.take_profit, None))
    if order.order_class is not OrderClass.SIMPLE and request.stop_loss is not None:
        kind = OrderType.STOP if request.stop_loss_limit is None else OrderType.STOP_LIMIT
        legs.append(leg(kind, request.stop_loss_limit, request.stop_loss))
    if order.order_class is OrderClass.BRACKET:
        legs[0].sibling, legs[1].sibling = legs[1], legs[0]
    elif order.order_class is OrderClass.OCO:
        order.limit_price = request.take_profit if request.take_profit is not None else order.limit_price
        legs[0].sibling, order.sibling = order, legs[0]
    return legs
