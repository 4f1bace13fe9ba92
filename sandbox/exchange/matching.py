"""Match orders with the market: prices, the session, halts, and the fills that come of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import ROUND_DOWN, Decimal
from random import Random

from breaker.instruments import AssetClass
from breaker.orders import OrderType, TimeInForce
from sandbox.exchange.book import Book
from sandbox.exchange.event_queue import EventQueue
from sandbox.exchange.life_cycle import LifeCycle
from sandbox.exchange.orders import QUANTITY_STEP, Fill, OrderClass, PaperOrder, Status, trailing_stop_price
from sandbox.exchange.refusal import Refusal, unprocessable
from sandbox.exchange.scenario import Scenario, Session
from sandbox.exchange.venue_record import VenueRecord


@dataclass(frozen=True, slots=True)
class _Halt:
    rejects: bool
    status: int


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
        self._halts: dict[str, _Halt] = {}

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
        self._halts[symbol] = _Halt(rejects, status)

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

    def check_tradable(self, symbol: str) -> None:
        """Raises `Refusal` for a symbol that is unknown, or halted so that new orders are refused."""
        if symbol not in self._book.prices:
            raise unprocessable(f'asset "{symbol}" not found')
        halt = self._halts.get(symbol)
        if halt and halt.rejects:
            raise Refusal(
                halt.status,
                42210000 if halt.status == 422 else 40310000,
                f'asset "{symbol}" is not tradable: trading is halted',
            )

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
        """One execution, and everything that follows from it."""
        now = self._events.now
        for leg in order.joint_legs:
            self.fill(leg, qty * (leg.ratio or Decimal(1)), self._book.prices[leg.symbol])
        order.filled_qty += qty
        order.filled_value += qty * price
        order.updated_at = now
        if not order.joint_legs:
            before = self._book.position_qty(order.symbol)
            self._book.add_fill(
                Fill(now, order.id, order.symbol, order.side, qty, price, order.filled_qty, order.remaining)
            )
            self._record.filled(now, order, before, self._book.position_qty(order.symbol))
            self._life_cycle.note_protection(order.symbol)
        if order.remaining == 0:
            order.filled_at = now
            self._life_cycle.close(order, Status.FILLED)
            self._after_complete_fill(order)
        elif order.status is not Status.PENDING_CANCEL:
            order.status = Status.PARTIALLY_FILLED
        if order.sibling and order.sibling.is_open and order.is_open:
            order.sibling.qty = order.sibling.filled_qty + order.remaining
        self._life_cycle.settle()

    def _consider_all(self, orders: Iterable[PaperOrder]) -> None:
        for order in list(orders):
            self.consider(order)

    def _tradable_now(self, order: PaperOrder) -> bool:
        if not order.joint_legs and self._book.asset(order.symbol).asset_class is AssetClass.CRYPTO:
            return True
        if self.session is Session.OPEN:
            return order.time_in_force not in {TimeInForce.OPG, TimeInForce.CLS}
        return self.session is Session.EXTENDED and order.extended_hours

    def _meets_market(self, order: PaperOrder) -> bool:
        price = self._book.net_price(order)
        sign = order.side.sign
        if order.stop_price is not None and not order.triggered:
            if (price - order.stop_price) * sign < 0:
                return False
            order.triggered = True
        return order.limit_price is None or (order.limit_price - price) * sign >= 0

    def _fill_next(self, order: PaperOrder) -> None:
        order.filling = False
        if order.stalled or not self.works(order) or not self._meets_market(order):
            return
        qty = order.remaining
        fills = self._scenario.fills
        if order.time_in_force is not TimeInForce.FOK and self._random.random() < fills.partial_probability:
            qty = _part(order.remaining, fills.partial_fraction)
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
        qty = order.remaining if fraction == 1 else _part(order.remaining, fraction)
        self._record.raced_cancels += 1
        self.fill(order, qty, self._own_price(order))

    def _own_price(self, order: PaperOrder) -> Decimal:
        return order.limit_price or order.stop_price or self._book.net_price(order)


def _part(remaining: Decimal, fraction: float) -> Decimal:
    """That fraction, in whole shares when the rest is whole, and never nothing."""
    step = Decimal(1) if remaining == remaining.to_integral_value() else QUANTITY_STEP
    part = (remaining * Decimal(str(fraction))).quantize(step, ROUND_DOWN)
    return max(part, min(step, remaining))


def _trail(order: PaperOrder, price: Decimal) -> None:
    if order.type is not OrderType.TRAILING_STOP or order.triggered:
        return
    mark = order.high_water_mark
    if mark is None or (price - mark) * order.side.sign < 0:
        order.high_water_mark = price
        order.stop_price = trailing_stop_price(order.side, price, order.trail_price, order.trail_percent)
