"""Decide about a new order as the venue does: its terms, its size, its cost, and what the scenario refuses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from decimal import ROUND_DOWN, Decimal
from random import Random
from typing import Final

from breaker.instruments import AssetClass
from breaker.orders import ZERO, OrderType, Side
from sandbox.exchange.book import Book
from sandbox.exchange.cover import uncovered_by
from sandbox.exchange.event_queue import EventQueue
from sandbox.exchange.halt import Halt
from sandbox.exchange.orders import (
    PRICE_STEP,
    QUANTITY_STEP,
    LegRequest,
    OrderClass,
    OrderRequest,
    Origin,
    PaperOrder,
    PaperPosition,
    Status,
    trailing_stop_price,
)
from sandbox.exchange.refusal import Refusal, forbidden, invalid, unprocessable
from sandbox.exchange.scenario import Account, ExitRefusal, Scenario, Session
from sandbox.exchange.terms import check_cost, check_multi_leg, check_terms
from sandbox.exchange.venue_record import VenueRecord

_MINIMUM_NOTIONAL: Final = Decimal(1)
_EXIT_REASONS: Final = {
    "day_trade": (40310100, "trade denied due to pattern day trading protection"),
    "buying_power": (40310000, "insufficient buying power"),
}


@dataclass(slots=True)
class Locks:
    """What keeps the whole account from trading."""

    suspended_by_user: bool
    trading_blocked: bool
    account_blocked: bool

    @classmethod
    def of(cls, account: Account) -> Locks:
        return cls(account.trade_suspended_by_user, account.trading_blocked, account.account_blocked)

    @property
    def why(self) -> str:
        """In the venue's words; empty when it takes orders."""
        if self.suspended_by_user:
            return "new orders are rejected by user request"
        if self.account_blocked:
            return "account is blocked"
        return "trading is blocked in this account" if self.trading_blocked else ""


class Acceptance:
    """The venue's rules for new orders; what breaks one is refused with `Refusal`."""

    def __init__(self, scenario: Scenario, book: Book, events: EventQueue, record: VenueRecord, random: Random) -> None:
        self.locks = Locks.of(scenario.account)
        self._scenario = scenario
        self._book = book
        self._events = events
        self._record = record
        self._random = random
        self._exit_refusals_left: dict[int, int] = {
            index: rule.first for index, rule in enumerate(scenario.exit_refusals) if rule.first is not None
        }

    def check_account(self) -> None:
        """Whether the venue takes any order at all."""
        if why := self.locks.why:
            raise forbidden(why)

    def check_tradable(self, symbol: str, halt: Halt | None) -> None:
        """Refuses a symbol that is unknown, or halted so that new orders are refused."""
        if symbol not in self._book.prices:
            raise unprocessable(f'asset "{symbol}" not found')
        if halt and halt.rejects:
            raise Refusal(
                halt.status,
                42210000 if halt.status == 422 else 40310000,
                f'asset "{symbol}" is not tradable: trading is halted',
            )

    def check_client_order_id(self, client_order_id: str | None) -> None:
        if client_order_id is not None and self._book.knows_client_order_id(client_order_id):
            self._record.duplicate_refused(client_order_id)
            raise invalid("client_order_id must be unique")

    def check_terms(self, request: OrderRequest, session: Session) -> Decimal:
        """The order's quantity, when its terms go together."""
        if request.legs:
            assets = [self._book.asset(leg.symbol) for leg in request.legs]
            check_multi_leg(request, assets, session)
            return request.qty or ZERO
        asset = self._book.asset(request.symbol)
        qty = self._quantity(request)
        check_terms(request, asset, qty, session, fractions_anytime=self._scenario.fractions_outside_session)
        buying = request.side is Side.BUY
        if asset.minimum_cost and (buying or self._scenario.sales_have_minimum_cost):
            check_cost(asset, self._book.value(request.symbol, qty, request.limit_price))
        is_equity = asset.asset_class is AssetClass.EQUITY
        if is_equity and qty % 1 and not buying and self._book.position_qty(request.symbol) <= 0:
            raise unprocessable("fractional orders cannot be sold short")
        return qty

    def check_size(self, request: OrderRequest, qty: Decimal) -> bool:
        """Whether the order reduces the position. Refuses more than is available and more than can be paid."""
        position = self._book.positions.get(request.position_name)
        reduces = position is not None and position.closing_side is request.side
        if self._scenario.enforce_available and self._is_short_sale_of_crypto(request, qty, position):
            raise self._no_balance(request, qty, position)
        if not reduces:
            self._check_power(request, qty)
        elif position is not None and qty > self._book.available(position) and self._scenario.enforce_available:
            raise self._not_available(request, qty, position)
        self.check_cover({request.symbol: request.side.sign * qty})
        return reduces

    def trimmed(self, request: OrderRequest, qty: Decimal) -> Decimal:
        """What the venue makes of the quantity of an order that it accepts."""
        return qty

    def check_cover(self, changes: dict[str, Decimal]) -> None:
        """A sale must not take from a short option what covers it."""
        short = uncovered_by(self._book, changes)
        if not short:
            return
        if self._scenario.enforce_available:
            raise forbidden("account not eligible to trade uncovered option contracts", "cover")
        self._record.left_uncovered(short, changes)

    def _check_power(self, request: OrderRequest, qty: Decimal) -> None:
        cost = self._book.value(request.symbol, qty, request.limit_price)
        if cost > (power := self._book.buying_power):
            raise forbidden(
                "insufficient buying power",
                buying_power=str(power.quantize(PRICE_STEP)),
                cost_basis=str(cost.quantize(PRICE_STEP)),
            )

    def _is_short_sale_of_crypto(self, request: OrderRequest, qty: Decimal, position: PaperPosition | None) -> bool:
        is_crypto = self._book.asset(request.symbol).asset_class is AssetClass.CRYPTO
        available = self._book.available(position) if position and position.qty > 0 else ZERO
        return is_crypto and request.side is Side.SELL and qty > available

    def _no_balance(self, request: OrderRequest, qty: Decimal, position: PaperPosition | None) -> Refusal:
        available = self._book.available(position) if position else ZERO
        if position is not None:
            self._note_too_large(request, qty, position)
        return forbidden(
            f"insufficient balance for {request.symbol.partition('/')[0]} "
            f"(requested: {qty:f}, available: {available:f})",
            available=f"{available:f}",
            balance=f"{position.qty if position else ZERO:f}",
            symbol=request.symbol.partition("/")[2],
        )

    def _not_available(self, request: OrderRequest, qty: Decimal, position: PaperPosition) -> Refusal:
        available, existing = self._book.available(position), abs(position.qty)
        self._note_too_large(request, qty, position)
        return forbidden(
            f"insufficient qty available for order (requested: {qty:f}, available: {available:f})",
            symbol=request.symbol,
            existing_qty=f"{existing:f}",
            held_for_orders=f"{existing - available:f}",
            available=f"{available:f}",
            related_orders=[order.id for order in self._book.holding_orders(request.symbol, request.side)],
        )

    def _note_too_large(self, request: OrderRequest, qty: Decimal, position: PaperPosition) -> None:
        if qty > abs(position.qty):
            self._record.refused_as_too_large(request.symbol, qty, abs(position.qty))

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
        refusal = Refusal(403, code, message)
        if rule.reason == "buying_power":
            refusal.body["buying_power"] = "0"
        return refusal

    def _quantity(self, request: OrderRequest) -> Decimal:
        if request.qty is not None:
            return request.qty
        assert request.notional is not None  # noqa: S101 - exactly one is set
        if request.notional < _MINIMUM_NOTIONAL:
            raise forbidden(f"cost basis must be >= minimal amount of order {_MINIMUM_NOTIONAL}")
        price = request.limit_price or self._book.prices[request.symbol]
        return (request.notional / price).quantize(QUANTITY_STEP, ROUND_DOWN)


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
        position_side=request.position_side,
        reduce_only=request.reduce_only,
        close_position=request.close_position,
        takes_profit=request.takes_profit,
        conditional=request.conditional,
    )
    order.legs = joint_legs(order, request.legs, new_id) or _legs_of(order, request, new_id)
    return order


def joint_legs(order: PaperOrder, legs: Sequence[LegRequest], new_id: Callable[[], str]) -> list[PaperOrder]:
    """The legs of an order that fill and end with it; their limit price is the order's alone."""
    return [
        replace(
            order,
            id=new_id(),
            client_order_id=new_id(),
            symbol=leg.symbol,
            side=leg.side,
            qty=order.qty * leg.ratio,
            ratio=leg.ratio,
            limit_price=None,
            parent=order,
            legs=[],
            resubmission=None,
        )
        for leg in legs
    ]


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
