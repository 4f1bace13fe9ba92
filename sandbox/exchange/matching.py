"""The exchange itself, in memory: orders, positions, fills, holds and the life cycle of an order.

No I/O and no clock of its own: `advance(now)` moves it to a moment and lets everything happen that was due until then,
in order. The same seed and the same calls at the same moments give the same exchange.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from decimal import ROUND_DOWN, Decimal
from random import Random
from typing import Final
from uuid import UUID

from breaker.orders import ZERO, OrderType, Side, TimeInForce
from sandbox.exchange.venue_record import VenueRecord
from sandbox.exchange.orders import (
    Resubmission,
    Fill,
    PaperPosition,
    OrderClass,
    OrderRequest,
    Origin,
    PaperOrder,
    Refusal,
    Session,
    Status,
    invalid,
    not_found,
    unprocessable,
)
from sandbox.exchange.scenario import ExitRefusal, Scenario

NANO: Final = Decimal("0.000000001")
"""The smallest fraction of a share."""
_PRICE_STEP: Final = Decimal("0.01")
_MINIMUM_NOTIONAL: Final = Decimal(1)
_EXIT_REASONS: Final = {
    "day_trade": (40310100, "trade denied due to pattern day trading protection"),
    "buying_power": (40310000, "insufficient buying power"),
}


@dataclass(slots=True)
class _Halted:
    rejects: bool
    status: int = 422


class Exchange:
    """One account at one venue. Public methods act at the moment of the last `advance`; they raise `Refusal`."""

    def __init__(self, scenario: Scenario, record: VenueRecord, random: Random) -> None:
        self.record = record
        self.now = 0.0
        self.session = scenario.market.session
        self.prices: dict[str, Decimal] = dict(scenario.prices)
        self.positions: dict[str, PaperPosition] = {}
        self.orders: dict[str, PaperOrder] = {}
        """Every order ever, in the order of submission."""
        self.open_orders: dict[str, PaperOrder] = {}
        self.fills: list[Fill] = []
        self.cash = scenario.account.cash
        self._scenario = scenario
        self._random = random
        self._by_client_id: dict[str, PaperOrder] = {}
        self._open_by_symbol: dict[str, dict[str, PaperOrder]] = {}
        self._halts: dict[str, _Halted] = {}
        self._exit_refusals_left: dict[int, int] = {
            index: rule.first for index, rule in enumerate(scenario.exit_refusals) if rule.first is not None
        }
        self._late_fills_left = scenario.late_fill.times if scenario.late_fill else 0
        self._was_flat = False
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._sequence = itertools.count()

    # Time

    def advance(self, now: float) -> None:
        """Let everything happen that is due until `now`; a moment already passed changes nothing."""
        while self._events and self._events[0][0] <= now:
            at, _, happen = heapq.heappop(self._events)
            self.now = max(self.now, at)
            happen()
        self.now = max(self.now, now)

    def after(self, delay: float, happen: Callable[[], None]) -> None:
        """Let this happen `delay` seconds from now."""
        heapq.heappush(self._events, (self.now + delay, next(self._sequence), happen))

    # What clients ask

    def submit(self, request: OrderRequest, origin: Origin = Origin.CLIENT) -> PaperOrder:
        """Accept an order; it fills, if it does, from the next `advance` on."""
        if request.symbol not in self.prices:
            raise unprocessable(f'asset "{request.symbol}" not found')
        halted = self._halts.get(request.symbol)
        if halted and halted.rejects:
            raise Refusal(
                halted.status,
                42210000 if halted.status == 422 else 40310000,
                f'asset "{request.symbol}" is not tradable: trading is halted',
            )
        if request.client_order_id is not None and request.client_order_id in self._by_client_id:
            self.record.duplicate_refused(request.client_order_id)
            raise invalid("client_order_id must be unique")
        qty = self._quantity(request)
        self._check_fraction(request, qty)
        reduces = self._check_quantity(request, qty)
        refusal = self._exit_refusal(request.symbol) if reduces and origin is Origin.CLIENT else None
        if refusal and not refusal.later:
            self.record.exits_refused += 1
            raise self._exit_error(refusal)
        if origin is Origin.CLIENT:
            self.record.submitted(
                request.symbol, request.side, qty, self._position_qty(request.symbol), self._working(request, reduces)
            )
        order = self._add(self._order_from(request, qty, origin))
        order.closing = reduces and origin is Origin.CLIENT
        if refusal:
            self.after(self._fill_delay(), lambda: self._end(order, Status.REJECTED))
        else:
            self._expose(order)
        return order

    def cancel(self, order_id: str) -> None:
        """Ask for one order's cancellation. It takes effect after the scenario's cancel delay."""
        self._cancel(self.order(order_id))

    def cancel_all(self) -> list[tuple[PaperOrder, Refusal | None]]:
        """Ask for every open order's cancellation; what was refused comes with its refusal."""
        results: list[tuple[PaperOrder, Refusal | None]] = []
        for order in list(self.open_orders.values()):
            try:
                self._cancel(order)
            except Refusal as refusal:
                results.append((order, refusal))
            else:
                results.append((order, None))
        return results

    def replace(
        self,
        order_id: str,
        *,
        qty: Decimal | None = None,
        time_in_force: TimeInForce | None = None,
        limit_price: Decimal | None = None,
        stop_price: Decimal | None = None,
        trail: Decimal | None = None,
        client_order_id: str | None = None,
    ) -> PaperOrder:
        """Replace an order by a new one with these terms; the old one ends as `replaced`."""
        old = self.order(order_id)
        if not old.is_open or old.status in {Status.PENDING_CANCEL, Status.PENDING_REPLACE, Status.HELD}:
            raise unprocessable(f"cannot replace order in {old.status} status")
        if old.notional is not None:
            raise unprocessable("cannot replace a notional order")
        if qty is not None and qty <= old.filled_qty:
            raise unprocessable("qty must be > filled_qty")
        if client_order_id is not None and client_order_id in self._by_client_id:
            self.record.duplicate_refused(client_order_id)
            raise invalid("client_order_id must be unique")
        by_percent = old.trail_percent is not None
        new = replace(
            old,
            id=self.new_id(),
            client_order_id=client_order_id or self.new_id(),
            qty=(qty or old.qty) - old.filled_qty,
            time_in_force=time_in_force or old.time_in_force,
            limit_price=limit_price or old.limit_price,
            stop_price=stop_price or old.stop_price,
            trail_percent=(trail or old.trail_percent) if by_percent else None,
            trail_price=None if by_percent else (trail or old.trail_price),
            filled_qty=ZERO,
            filled_value=ZERO,
            filled_at=None,
            submitted_at=self.now,
            updated_at=self.now,
            origin=Origin.CLIENT,
            replaces=old.id,
            status=Status.NEW,
            filling=False,
            legs=list(old.legs),
        )
        terms = ("qty", "time_in_force", "limit_price", "stop_price", "trail_price", "trail_percent")
        if old.filled_qty == 0 and all(getattr(old, term) == getattr(new, term) for term in terms):
            raise unprocessable("order parameters are not changed")
        if new.remaining > old.remaining:
            self._check_quantity(replace_request(new), new.remaining - old.remaining)
        old.replaced_by, old.replaced_at = new.id, self.now
        for leg in new.legs:
            leg.parent = new
        if old.sibling:
            old.sibling.sibling = new
        self._close_books_on(old, Status.REPLACED)
        self._add(new)
        self._expose(new)
        return new

    def close_position(self, symbol: str, qty: Decimal | None = None, percentage: Decimal | None = None) -> PaperOrder:
        """A market order that closes the position, or that much of it."""
        holding = self.position(symbol)
        size = abs(holding.qty)
        if qty is None:
            qty = size if percentage is None else (size * percentage / 100).quantize(NANO, ROUND_DOWN)
        return self.submit(
            OrderRequest(symbol, holding.closing_side, OrderType.MARKET, TimeInForce.DAY, qty=qty.normalize())
        )

    def close_all(self, *, cancel_orders: bool) -> list[tuple[str, PaperOrder | Refusal]]:
        """Close every position, after asking for every order's cancellation if wanted."""
        if cancel_orders:
            self.cancel_all()
            self.advance(self.now)
        results: list[tuple[str, PaperOrder | Refusal]] = []
        for symbol in list(self.positions):
            try:
                results.append((symbol, self.close_position(symbol)))
            except Refusal as refusal:
                results.append((symbol, refusal))
        return results

    def order(self, order_id: str) -> PaperOrder:
        order = self.orders.get(order_id)
        if order is None:
            raise not_found(f"order not found for {order_id}")
        return order

    def order_by_client_id(self, client_order_id: str) -> PaperOrder:
        order = self._by_client_id.get(client_order_id)
        if order is None:
            raise not_found(f"order not found for {client_order_id}")
        return order

    def position(self, symbol: str) -> PaperPosition:
        holding = self.positions.get(symbol)
        if holding is None:
            raise not_found("position does not exist")
        return holding

    def available(self, holding: PaperPosition) -> Decimal:
        """How much of |position| no open order holds; never negative."""
        return max(abs(holding.qty) - self._held(holding.symbol, holding.closing_side), ZERO)

    @property
    def equity(self) -> Decimal:
        return self.cash + sum((p.qty * self.prices[p.symbol] for p in self.positions.values()), ZERO)

    @property
    def buying_power(self) -> Decimal:
        """Equity times the multiplier, less what positions and opening orders use; never negative."""
        used = sum((abs(p.qty) * self.prices[p.symbol] for p in self.positions.values()), ZERO)
        for order in self.open_orders.values():
            holding = self.positions.get(order.symbol)
            if holding is None or holding.closing_side is not order.side:
                used += order.holds * (order.limit_price or self.prices[order.symbol])
        return max(self.equity * self._scenario.account.multiplier - used, ZERO)

    # What happens at the venue

    def set_price(self, symbol: str, price: Decimal) -> None:
        """The market moves: stops trigger, trailing stops follow, limits become marketable."""
        self.prices[symbol] = price
        for order in list(self._open_by_symbol.get(symbol, {}).values()):
            _trail(order, price)
            self._release_held_stop(order)
            self._consider(order)

    def halt(self, symbol: str, *, rejects: bool, status: int = 422) -> None:
        self._halts[symbol] = _Halted(rejects, status)

    def resume(self, symbol: str) -> None:
        self._halts.pop(symbol, None)
        self._consider_all(self._open_by_symbol.get(symbol, {}).values())

    def change_session(self, session: Session) -> None:
        """Open or close the market. At the close day orders expire; at the open queued orders start to work."""
        leaving_open = self.session is Session.OPEN and session is not Session.OPEN
        self.session = session
        for order in list(self.open_orders.values()):
            if leaving_open and order.time_in_force is TimeInForce.DAY and not order.extended_hours:
                self._end(order, Status.EXPIRED)
            elif order.status is Status.ACCEPTED and self._tradable_now(order):
                order.status = Status.NEW
        self._consider_all(self.open_orders.values())

    def fast_market(self, symbol: str | None = None) -> None:
        """Both legs of each open pair fill before either can cancel the other."""
        pairs = [
            (leg, leg.sibling)
            for leg in self.open_orders.values()
            if leg.sibling and leg.sibling.is_open and leg.status is not Status.HELD and symbol in {None, leg.symbol}
        ]
        for first, second in pairs:
            self._fill_pair(first, second)

    def late_fill(self, symbol: str, side: Side, qty: Decimal) -> None:
        """A fill nobody expects any more, of an order nobody can find among the open ones."""
        order = self._add(
            self._order_from(OrderRequest(symbol, side, OrderType.MARKET, TimeInForce.DAY, qty=qty), qty, Origin.VENUE)
        )
        self._fill(order, order.remaining, self.prices[symbol])

    def submit_strategy_order(self, request: OrderRequest, again: Resubmission) -> PaperOrder:
        """A strategy's order, which comes back when it is cancelled."""
        order = self.submit(request, Origin.STRATEGY)
        order.again = again
        return order

    def add_position(self, symbol: str, qty: Decimal, price: Decimal) -> None:
        """A position of the book, held since before the exchange started."""
        self.positions[symbol] = PaperPosition(symbol, qty, price)
        self._was_flat = False

    def add_order(self, order: PaperOrder) -> PaperOrder:
        """An order of the book, taken as it is; it starts to work at once unless it is held or pending."""
        self._add(order)
        self._consider(order)
        return order

    def release(self, order: PaperOrder, status: Status) -> None:
        """The end of a long pending state: back to working, or cancelled at last."""
        if not order.is_open:
            return
        if status is Status.CANCELED:
            self._end(order, Status.CANCELED)
        else:
            order.status = Status.PARTIALLY_FILLED if order.filled_qty else Status.NEW
            order.updated_at = self.now
            self._consider(order)

    def new_id(self) -> str:
        return str(UUID(int=self._random.getrandbits(128), version=4))

    # Accepting

    def _quantity(self, request: OrderRequest) -> Decimal:
        if request.qty is not None:
            return request.qty
        assert request.notional is not None  # noqa: S101 - exactly one is set
        if request.notional < _MINIMUM_NOTIONAL:
            raise unprocessable("cost basis must be >= minimal amount of order 1")
        return (request.notional / self.prices[request.symbol]).quantize(NANO, ROUND_DOWN)

    def _check_fraction(self, request: OrderRequest, qty: Decimal) -> None:
        if request.extended_hours and (
            request.type is not OrderType.LIMIT or request.time_in_force is not TimeInForce.DAY
        ):
            raise unprocessable("extended hours order must be DAY limit orders")
        if qty == qty.to_integral_value():
            return
        if request.time_in_force is not TimeInForce.DAY:
            raise unprocessable("fractional orders must be DAY orders")
        if request.order_class is not OrderClass.SIMPLE:
            raise unprocessable("fractional orders must be simple orders")
        if request.extended_hours:
            raise unprocessable("fractional orders are not allowed in extended hours")
        if request.side is Side.SELL and self._position_qty(request.symbol) <= 0:
            raise unprocessable("fractional orders cannot be sold short")

    def _check_quantity(self, request: OrderRequest, qty: Decimal) -> bool:
        """Whether the order reduces the position. Refuses more than is available and more than can be paid."""
        holding = self.positions.get(request.symbol)
        if holding is None or holding.closing_side is not request.side:
            cost = qty * (request.limit_price or self.prices[request.symbol])
            if cost > (power := self.buying_power):
                raise Refusal(
                    403,
                    40310000,
                    "insufficient buying power",
                    buying_power=str(power.quantize(_PRICE_STEP)),
                    cost_basis=str(cost.quantize(_PRICE_STEP)),
                )
            return False
        available = self.available(holding)
        if qty > available and self._scenario.enforce_available:
            existing = abs(holding.qty)
            if qty > existing:
                self.record.refused_as_too_large(request.symbol, qty, existing)
            raise Refusal(
                403,
                40310000,
                f"insufficient qty available for order (requested: {qty:f}, available: {available:f})",
                symbol=request.symbol,
                existing_qty=f"{existing:f}",
                held_for_orders=f"{existing - available:f}",
                available=f"{available:f}",
                related_orders=[order.id for order in self._holding_orders(request.symbol, request.side)],
            )
        return True

    def _working(self, request: OrderRequest, reduces: bool) -> Decimal:
        return self._held(request.symbol, request.side) if reduces else ZERO

    def _exit_refusal(self, symbol: str) -> ExitRefusal | None:
        for index, rule in enumerate(self._scenario.exit_refusals):
            if rule.symbols and symbol not in rule.symbols:
                continue
            if self.now < rule.after or (rule.until is not None and self.now >= rule.until):
                continue
            if self._exit_refusals_left.get(index, 1) == 0 or self._random.random() >= rule.probability:
                continue
            if index in self._exit_refusals_left:
                self._exit_refusals_left[index] -= 1
            return rule
        return None

    def _exit_error(self, rule: ExitRefusal) -> Refusal:
        code, message = _EXIT_REASONS[rule.reason]
        extra: dict[str, object] = {"buying_power": "0"} if rule.reason == "buying_power" else {}
        return Refusal(403, code, message, **extra)

    def _order_from(self, request: OrderRequest, qty: Decimal, origin: Origin) -> PaperOrder:
        price = self.prices[request.symbol]
        stop_price = request.stop_price
        if request.type is OrderType.TRAILING_STOP:
            stop_price = _trailing_stop(request.side, price, request.trail_price, request.trail_percent)
        order = PaperOrder(
            id=self.new_id(),
            client_order_id=request.client_order_id or self.new_id(),
            symbol=request.symbol,
            side=request.side,
            type=request.type,
            time_in_force=request.time_in_force,
            qty=qty,
            notional=request.notional,
            status=Status.ACCEPTED,
            submitted_at=self.now,
            updated_at=self.now,
            origin=origin,
            limit_price=request.limit_price,
            stop_price=stop_price,
            trail_price=request.trail_price,
            trail_percent=request.trail_percent,
            high_water_mark=price if request.type is OrderType.TRAILING_STOP else None,
            extended_hours=request.extended_hours,
            order_class=request.order_class,
        )
        order.legs = self._legs_of(order, request)
        return order

    def _legs_of(self, order: PaperOrder, request: OrderRequest) -> list[PaperOrder]:
        """Legs wait until their entry has filled; the stop of a one-cancels-other order is held by its limit."""
        leg_side = order.side if order.order_class is OrderClass.OCO else order.side.opposite

        def leg(kind: OrderType, limit_price: Decimal | None, stop_price: Decimal | None) -> PaperOrder:
            return replace(
                order,
                id=self.new_id(),
                client_order_id=self.new_id(),
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

    def _add(self, order: PaperOrder) -> PaperOrder:
        for each in (order, *order.legs):
            if each.id in self.orders:
                continue
            self.orders[each.id] = each
            self._by_client_id[each.client_order_id] = each
            self.open_orders[each.id] = each
            self._open_by_symbol.setdefault(each.symbol, {})[each.id] = each
        self._was_flat = False
        self.record.orders_created[order.origin] += 1
        return order

    def _expose(self, order: PaperOrder) -> None:
        """Let a new order meet the market."""
        if self._tradable_now(order):
            order.status = Status.NEW
        self._consider(order)
        if order.time_in_force in {TimeInForce.IOC, TimeInForce.FOK} and not order.filling:
            self.after(0, lambda: self._end(order, Status.CANCELED))

    # Filling

    def _tradable_now(self, order: PaperOrder) -> bool:
        if self.session is Session.OPEN:
            return order.time_in_force not in {TimeInForce.OPG, TimeInForce.CLS}
        return self.session is Session.EXTENDED and order.extended_hours

    def _consider_all(self, orders: Iterable[PaperOrder]) -> None:
        for order in list(orders):
            self._consider(order)

    def _consider(self, order: PaperOrder) -> None:
        """Start filling the order if it works, can trade now and meets the market."""
        if order.filling or order.stalled or not self._works(order) or not self._meets_market(order):
            return
        order.filling = True
        self.after(self._fill_delay(), lambda: self._fill_next(order))

    def _works(self, order: PaperOrder) -> bool:
        return (
            order.is_open
            and order.status is not Status.HELD
            and order.symbol not in self._halts
            and self._tradable_now(order)
        )

    def _meets_market(self, order: PaperOrder) -> bool:
        price = self.prices[order.symbol]
        sign = order.side.sign
        if order.stop_price is not None and not order.triggered:
            if (price - order.stop_price) * sign < 0:
                return False
            order.triggered = True
        return order.limit_price is None or (order.limit_price - price) * sign >= 0

    def _fill_next(self, order: PaperOrder) -> None:
        order.filling = False
        if order.stalled or not self._works(order) or not self._meets_market(order):
            return
        qty = order.remaining
        fills = self._scenario.fills
        if order.time_in_force is not TimeInForce.FOK and self._random.random() < fills.partial_probability:
            qty = _part(order.remaining, fills.partial_fraction)
        self._fill(order, qty, self.prices[order.symbol])
        if not order.is_open:
            return
        if order.time_in_force is TimeInForce.IOC:
            self._end(order, Status.CANCELED)
        elif self._random.random() < fills.stall_probability:
            order.stalled = True
        else:
            order.filling = True
            self.after(fills.pause, lambda: self._fill_next(order))

    def _fill(self, order: PaperOrder, qty: Decimal, price: Decimal) -> None:
        """One execution, and everything that follows from it."""
        order.filled_qty += qty
        order.filled_value += qty * price
        order.updated_at = self.now
        self.fills.append(Fill(self.now, order.id, order.symbol, order.side, qty, price))
        self.cash -= order.side.sign * qty * price
        before = self._position_qty(order.symbol)
        self._move_position(order.symbol, order.side.sign * qty, price)
        self.record.filled(self.now, order, before, self._position_qty(order.symbol))
        if order.remaining == 0:
            order.filled_at = self.now
            self._close_books_on(order, Status.FILLED)
            self._after_complete_fill(order)
        elif order.status is not Status.PENDING_CANCEL:
            order.status = Status.PARTIALLY_FILLED
        if order.sibling and order.sibling.is_open and order.is_open:
            order.sibling.qty = order.sibling.filled_qty + order.remaining
        self._settle()

    def _after_complete_fill(self, order: PaperOrder) -> None:
        if order.sibling and order.sibling.is_open:
            self._end(order.sibling, Status.CANCELED)
        if order.order_class is OrderClass.OCO:
            return
        for position, leg in enumerate(order.legs):
            # Of a pair only the first works; the other is held until the first's fate is known, and triggers by price.
            if leg.status is Status.HELD and position == 0:
                leg.status = Status.NEW
                leg.updated_at = self.now
                self._consider(leg)

    def _release_held_stop(self, stop: PaperOrder) -> None:
        """A stop that its pair's limit holds takes over when its price is reached."""
        limit = stop.sibling
        if stop.status is not Status.HELD or limit is None or not self._works(limit) or not self._meets_market(stop):
            return
        limit.sibling = stop.sibling = None
        stop.status = Status.NEW
        self._end(limit, Status.CANCELED)

    def _fill_pair(self, first: PaperOrder, second: PaperOrder) -> None:
        if not (first.is_open and second.is_open):
            return
        first.sibling = second.sibling = None
        for leg in (first, second):
            self._fill(leg, leg.remaining, leg.limit_price or leg.stop_price or self.prices[leg.symbol])

    def _move_position(self, symbol: str, change: Decimal, price: Decimal) -> None:
        holding = self.positions.get(symbol)
        if holding is None:
            self.positions[symbol] = PaperPosition(symbol, change, price)
            return
        after = holding.qty + change
        if after == 0:
            del self.positions[symbol]
            return
        if holding.qty * change > 0:
            holding.average_price = (holding.average_price * holding.qty + price * change) / after
        elif holding.qty * after < 0:
            holding.average_price = price
        holding.qty = after

    # Cancelling and ending

    def _cancel(self, order: PaperOrder) -> None:
        if not order.is_open or order.status is Status.PENDING_CANCEL:
            raise unprocessable(f'order is already in "{order.status}" state')
        if order.status is Status.PENDING_REPLACE:
            raise unprocessable("cannot cancel order in pending_replace status")
        worked = self._works(order)
        order.status = Status.PENDING_CANCEL
        order.updated_at = self.now
        delay = self._scenario.cancels.delay.sample(self._random)
        if worked:
            self._race(order, delay)
        self.after(delay, lambda: self._end(order, Status.CANCELED))

    def _race(self, order: PaperOrder, delay: float) -> None:
        """Perhaps the market gets to the order before its cancel does."""
        if self._random.random() < self._scenario.cancels.race_probability:
            self.after(self._random.uniform(0, delay), lambda: self._fill_in_race(order))
        pair = order.sibling
        if pair and self._random.random() < self._scenario.brackets.both_fill_probability:
            self.after(self._random.uniform(0, delay), lambda: self._fill_pair(order, pair))

    def _fill_in_race(self, order: PaperOrder) -> None:
        if not self._works(order):
            return
        fraction = self._scenario.cancels.race_fraction
        qty = order.remaining if fraction == 1 else _part(order.remaining, fraction)
        self.record.raced_cancels += 1
        self._fill(order, qty, order.limit_price or order.stop_price or self.prices[order.symbol])

    def _end(self, order: PaperOrder, status: Status) -> None:
        """Close an order that did not fill, and what depends on it."""
        if not order.is_open:
            return
        if status is Status.CANCELED:
            order.canceled_at = self.now
        elif status is Status.EXPIRED:
            order.expired_at = self.now
        elif status is Status.REJECTED:
            order.failed_at = self.now
        self._close_books_on(order, status)
        waiting = [leg for leg in order.legs if leg.status in {Status.HELD, Status.PENDING_CANCEL}]
        for dependent in (order.sibling, *waiting):
            if dependent:
                self._end(dependent, Status.CANCELED)
        if order.again and status is Status.CANCELED:
            self._place_again(order, order.again)
        self._settle()

    def _close_books_on(self, order: PaperOrder, status: Status) -> None:
        order.status = status
        order.updated_at = self.now
        self.open_orders.pop(order.id, None)
        self._open_by_symbol.get(order.symbol, {}).pop(order.id, None)
        if not self.open_orders:
            self.record.no_open_orders(self.now)

    def _place_again(self, order: PaperOrder, again: Resubmission) -> None:
        if again.times == 0 or self.now + again.delay > again.until:
            return
        request = replace_request(order)

        def place() -> None:
            try:
                new = self.submit(request, Origin.STRATEGY)
            except Refusal:
                # The strategy's order no longer fits the position; it gives up, as a real one would on a 403.
                self.record.strategy_orders_refused += 1
                return
            new.again = replace(again, times=again.times - 1)

        self.after(again.delay, place)

    def _settle(self) -> None:
        """Note when the book becomes flat, and let the scenario's late fill follow."""
        flat = not self.open_orders and not self.positions
        if flat and not self._was_flat:
            self.record.became_flat(self.now)
            self._schedule_late_fill()
        self._was_flat = flat

    def _schedule_late_fill(self) -> None:
        late = self._scenario.late_fill
        if late is None or self._late_fills_left == 0:
            return
        self._late_fills_left -= 1
        symbol = late.symbol or self._random.choice(sorted(self.prices))
        self.after(late.after_flat, lambda: self.late_fill(symbol, late.side, late.qty))

    # Looking

    def _position_qty(self, symbol: str) -> Decimal:
        holding = self.positions.get(symbol)
        return ZERO if holding is None else holding.qty

    def _holding_orders(self, symbol: str, side: Side) -> list[PaperOrder]:
        return [o for o in self._open_by_symbol.get(symbol, {}).values() if o.side is side and o.holds > 0]

    def _held(self, symbol: str, side: Side) -> Decimal:
        held = ZERO
        counted: set[str] = set()
        for order in self._holding_orders(symbol, side):
            if order.sibling and order.sibling.id in counted:
                continue
            counted.add(order.id)
            held += order.holds
        return held

    def _fill_delay(self) -> float:
        return self._scenario.fills.delay.sample(self._random)


def replace_request(order: PaperOrder) -> OrderRequest:
    """What one would ask for to get the rest of this order again."""
    return OrderRequest(
        symbol=order.symbol,
        side=order.side,
        type=order.type,
        time_in_force=order.time_in_force,
        qty=order.remaining or order.qty,
        limit_price=order.limit_price,
        stop_price=order.stop_price,
        trail_price=order.trail_price,
        trail_percent=order.trail_percent,
        extended_hours=order.extended_hours,
    )


def _part(remaining: Decimal, fraction: float) -> Decimal:
    """That fraction, in whole shares when the rest is whole, and never nothing."""
    step = Decimal(1) if remaining == remaining.to_integral_value() else NANO
    part = (remaining * Decimal(str(fraction))).quantize(step, ROUND_DOWN)
    return max(part, min(step, remaining))


def _trail(order: PaperOrder, price: Decimal) -> None:
    if order.type is not OrderType.TRAILING_STOP or order.triggered:
        return
    mark = order.high_water_mark
    if mark is None or (price - mark) * order.side.sign < 0:
        order.high_water_mark = price
        order.stop_price = _trailing_stop(order.side, price, order.trail_price, order.trail_percent)


def _trailing_stop(side: Side, price: Decimal, trail_price: Decimal | None, trail_percent: Decimal | None) -> Decimal:
    distance = trail_price if trail_price is not None else price * (trail_percent or ZERO) / 100
    return (price + side.sign * distance).quantize(_PRICE_STEP)
