"""Match orders with the market: prices, the session, halts, and the fills that come of them."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import ROUND_DOWN, Decimal
from random import Random

from breaker.instruments import AssetClass
from breaker.orders import OrderType, TimeInForce
from sandbox.exchange.assets import ALWAYS_OPEN
from sandbox.exchange.book import Book
from sandbox.exchange.event_queue import EventQueue
from sandbox.exchange.halt import Halt
from sandbox.exchange.life_cycle import LifeCycle
from sandbox.exchange.orders import Fill, OrderClass, PaperOrder, Status, trailing_stop_price
from sandbox.exchange.scenario import Scenario, Session
from sandbox.exchange.venue_record import VenueRecord


class MatchingEngine:
    """Lets orders that meet the market fill, as the scenario has it."""

    def __init__(
        self,
        scenario: Scenario,
        book: Book,
        events: EventQueue,
        life_cycle: LifeCycle,
        record: VenueRecord,
        random: Random,
    ) -> None:
        self.session = scenario.market.session
        self._scenario = scenario
        self._book = book
        self._events = events
        self._life_cycle = life_cycle
        self._record = record
        self._random = random
        self._halts: dict[str, Halt] = {}

    # What happens in the market

    def set_price(self, symbol: str, price: Decimal) -> None:
        """The market moves: stops trigger, trailing stops follow, limits become marketable."""
        self._book.prices[symbol] = price
        for order in self._book.open_orders_in(symbol):
            _trail(order, price)
            self._release_held_stop(order)
            self.consider(order.parent if order.parent and order.goes_with_parent else order)

    def halt(self, symbol: str, *, rejects: bool, status: int = 422) -> None:
        """Fill nothing in this symbol; if it `rejects`, refuse new orders with this HTTP status."""
        self._halts[symbol] = Halt(rejects, status)

    def resume(self, symbol: str) -> None:
        self._halts.pop(symbol, None)
        self._consider_all(self._book.open_orders_in(symbol))

    def change_session(self, session: Session) -> None:
        """Open or close the market. At the close day orders expire; at the open queued orders start to work."""
        leaving_open = self.session is Session.OPEN and session is not Session.OPEN
        self.session = session
        for order in list(self._book.open_orders.values()):
            if order.goes_with_parent:
                continue
            if leaving_open and order.time_in_force is TimeInForce.DAY and not order.extended_hours:
                self._life_cycle.end(order, Status.EXPIRED)
            elif order.status is Status.ACCEPTED and self._tradable_now(order):
                order.become(Status.NEW, order.updated_at)
        self._consider_all(self._book.open_orders.values())

    def fast_market(self, symbol: str | None = None) -> None:
        """Both legs of each open pair fill before either can cancel the other."""
        pairs = [
            (leg, leg.sibling)
            for leg in self._book.open_orders.values()
            if leg.sibling and leg.sibling.is_open and leg.status is not Status.HELD and symbol in {None, leg.symbol}
        ]
        for first, second in pairs:
            self._fill_pair(first, second)

    # Orders and the market

    def halt_of(self, symbol: str) -> Halt | None:
        """The symbol's halt, while there is one."""
        return self._halts.get(symbol)

    def is_halted(self, symbol: str) -> bool:
        """Whether nothing fills in this symbol, for whatever time."""
        return symbol in self._halts

    def expose(self, order: PaperOrder) -> None:
        """Let a new order meet the market."""
        if self._tradable_now(order):
            order.become(Status.NEW, order.updated_at)
        self.consider(order)
        if order.time_in_force in {TimeInForce.IOC, TimeInForce.FOK} and not order.filling:
            self._events.after(0, lambda: self._life_cycle.end(order, Status.CANCELED))

    def consider(self, order: PaperOrder) -> None:
        """Start filling the order if it works, can trade now and meets the market."""
        if order.filling or order.stalled or not self.works(order) or not self._meets_market(order):
            return
        order.filling = True
        self._events.after(self.fill_delay(), lambda: self._fill_next(order))

    def works(self, order: PaperOrder) -> bool:
        """Whether it could fill now, if the price were right."""
        return (
            order.is_open
            and order.status is not Status.HELD
            and not order.goes_with_parent
            and not any(self.is_halted(each.symbol) for each in (order.joint_legs or (order,)))
            and self._tradable_now(order)
        )

    def fill_delay(self) -> float:
        return self._scenario.fills.delay.sample(self._random)

    def race(self, order: PaperOrder, delay: float) -> None:
        """Perhaps the market gets to the order before its cancel does, `delay` seconds from now."""
        if self._random.random() < self._scenario.cancels.race_probability:
            self._events.after(self._random.uniform(0, delay), lambda: self._fill_in_race(order))
        pair = order.sibling
        if pair and self._random.random() < self._scenario.brackets.both_fill_probability:
            self._events.after(self._random.uniform(0, delay), lambda: self._fill_pair(order, pair))

    def fill(self, order: PaperOrder, qty: Decimal, price: Decimal) -> None:
        """One execution, and everything that follows from it. One that may only reduce never does more than that."""
        now = self._events.now
        if order.is_apart:
            order.triggered, order.triggered_at = True, now
        if order.only_reduces:
            qty = min(qty, self._book.reducible(order.position_name, order.side))
            if not qty:
                self._life_cycle.end(order, Status.EXPIRED)
                return
        for leg in order.joint_legs:
            self.fill(leg, qty * (leg.ratio or Decimal(1)), self._book.prices[leg.symbol])
        order.filled_qty += qty
        order.filled_value += qty * price
        order.updated_at = now
        if not order.joint_legs:
            before = self._book.position_qty(order.position_name)
            realised = self._book.realised_by(order, qty, price)
            left, side = order.remaining, order.position_side
            self._book.add_fill(
                Fill(now, order.id, order.symbol, order.side, qty, price, order.filled_qty, left, side, realised)
            )
            self._record.filled(now, order, before, self._book.position_qty(order.position_name))
            self._life_cycle.note_protection(order.position_name)
        if order.remaining == 0:
            order.filled_at = now
            self._life_cycle.close(order, Status.FILLED)
            self._after_complete_fill(order)
        elif order.status is not Status.PENDING_CANCEL:
            order.status = Status.PARTIALLY_FILLED
        if order.sibling and order.sibling.is_open and order.is_open:
            order.sibling.qty = order.sibling.filled_qty + order.remaining
        self._expire_what_has_nothing_to_reduce(order.position_name)
        self._life_cycle.settle()

    def fill_late(self, order: PaperOrder) -> None:
        """An execution of an order that has been cancelled, told after its end; none where it has filled or waits."""
        if order.status is not Status.CANCELED or order.joint_legs or not order.remaining:
            return
        now, name = self._events.now, order.position_name
        fraction = self._scenario.cancels.race_fraction
        qty = order.remaining if fraction == 1 else self._part(order, fraction)
        before, price = self._book.position_qty(name), self._own_price(order)
        realised = self._book.realised_by(order, qty, price)
        order.filled_qty += qty
        order.filled_value += qty * price
        self._book.add_fill(
            Fill(
                *(now, order.id, order.symbol, order.side, qty, price, order.filled_qty),
                *(order.remaining, order.position_side, realised),
            )
        )
        self._record.filled(now, order, before, self._book.position_qty(name))
        self._life_cycle.note_protection(name)
        self._life_cycle.settle()

    def _expire_what_has_nothing_to_reduce(self, name: str) -> None:
        """With its position gone, the venue ends what may only reduce it; what it keeps apart stays."""
        if not self._book.position_qty(name):
            for order in self._book.open_orders_for(name):
                if order.only_reduces and not order.is_apart:
                    self._life_cycle.end(order, Status.EXPIRED)

    def _consider_all(self, orders: Iterable[PaperOrder]) -> None:
        for order in list(orders):
            self.consider(order)

    def _tradable_now(self, order: PaperOrder) -> bool:
        asset_class = None if order.joint_legs else self._book.asset(order.symbol).asset_class
        if asset_class in ALWAYS_OPEN:
            return True
        if self.session is Session.EXTENDED and asset_class is AssetClass.FOREX:
            return True
        if self.session is Session.OPEN:
            return order.time_in_force not in {TimeInForce.OPG, TimeInForce.CLS}
        return self.session is Session.EXTENDED and order.extended_hours

    def _meets_market(self, order: PaperOrder) -> bool:
        price = self._book.net_price(order)
        sign = order.side.sign
        if order.stop_price is not None and not order.triggered:
            if (price - order.stop_price) * (-sign if order.takes_profit else sign) < 0:
                return False
            order.triggered, order.triggered_at = True, self._events.now
            if order.close_position:
                order.qty = self._book.reducible(order.position_name, order.side)
        return order.limit_price is None or (order.limit_price - price) * sign >= 0

    def _fill_next(self, order: PaperOrder) -> None:
        order.filling = False
        if order.stalled or not self.works(order) or not self._meets_market(order):
            return
        qty = order.remaining
        fills = self._scenario.fills
        if order.time_in_force is not TimeInForce.FOK and self._random.random() < fills.partial_probability:
            qty = self._part(order, fills.partial_fraction)
        self.fill(order, qty, self._price_of_fill(order))
        if not order.is_open:
            return
        if order.time_in_force is TimeInForce.IOC:
            self._life_cycle.end(order, Status.CANCELED)
        elif self._random.random() < fills.stall_probability:
            order.stalled = True
        else:
            order.filling = True
            self._events.after(fills.pause, lambda: self._fill_next(order))

    def _price_of_fill(self, order: PaperOrder) -> Decimal:
        price = self._book.net_price(order)
        worse = Decimal(str(self._scenario.fills.slippage_bp.sample(self._random))) / 10_000
        if order.type is not OrderType.MARKET or order.joint_legs or not worse:
            return price
        tick = self._book.asset(order.symbol).tick(price)
        steps = (price * (1 + order.side.sign * worse) / tick).to_integral_value()
        return max(steps, Decimal(1)) * tick

    def _after_complete_fill(self, order: PaperOrder) -> None:
        if order.sibling and order.sibling.is_open:
            self._life_cycle.end(order.sibling, Status.CANCELED)
        if order.order_class is OrderClass.OCO:
            return
        for place, leg in enumerate(order.legs):
            # Of a pair only the first works; the other is held until the first's fate is known, and triggers by price.
            if leg.status is Status.HELD and place == 0:
                leg.status = Status.NEW
                leg.updated_at = self._events.now
                self.consider(leg)

    def _release_held_stop(self, stop: PaperOrder) -> None:
        """A stop that its pair's limit holds takes over when its price is reached."""
        limit = stop.sibling
        if stop.status is not Status.HELD or limit is None or not self.works(limit) or not self._meets_market(stop):
            return
        limit.sibling = stop.sibling = None
        stop.status = Status.NEW
        self._life_cycle.end(limit, Status.CANCELED)

    def _fill_pair(self, first: PaperOrder, second: PaperOrder) -> None:
        if not (first.is_open and second.is_open):
            return
        first.sibling = second.sibling = None
        for leg in (first, second):
            self.fill(leg, leg.remaining, self._own_price(leg))

    def _fill_in_race(self, order: PaperOrder) -> None:
        if not self.works(order):
            return
        fraction = self._scenario.cancels.race_fraction
        qty = order.remaining if fraction == 1 else self._part(order, fraction)
        self._record.raced_cancels += 1
        self.fill(order, qty, self._own_price(order))

    def _part(self, order: PaperOrder, fraction: float) -> Decimal:
        """That fraction of the rest, in whole units when the rest is whole, and never nothing."""
        rest = order.remaining
        step = Decimal(1) if rest == rest.to_integral_value() else self._book.asset(order.symbol).quantity_increment
        part = (rest * Decimal(str(fraction)) / step).to_integral_value(ROUND_DOWN) * step
        return max(part, min(step, rest))

    def _own_price(self, order: PaperOrder) -> Decimal:
        return order.limit_price or order.stop_price or self._book.net_price(order)


def _trail(order: PaperOrder, price: Decimal) -> None:
    if order.type is not OrderType.TRAILING_STOP or order.triggered:
        return
    mark = order.high_water_mark
    if mark is None or (price - mark) * order.side.sign < 0:
        order.high_water_mark = price
        order.stop_price = trailing_stop_price(order.side, price, order.trail_price, order.trail_percent)
