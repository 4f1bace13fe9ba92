"""Run one account at one venue, in memory: take what clients ask, and let strategies and late fills get in the way.

No I/O and no clock of its own: `advance(now)` moves it to a moment and lets everything happen that was due until then,
in order. The same seed and the same calls at the same moments give the same exchange.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from decimal import ROUND_DOWN, Decimal
from random import Random
from uuid import UUID

from breaker.instruments import AssetClass
from breaker.orders import ZERO, OrderType, PositionSide, Side, TimeInForce
from sandbox.exchange.acceptance import Acceptance, Locks, accepted_order
from sandbox.exchange.book import Book, Transfer
from sandbox.exchange.dead_man import DeadManTimers
from sandbox.exchange.event_queue import EventQueue
from sandbox.exchange.life_cycle import LifeCycle
from sandbox.exchange.matching import MatchingEngine
from sandbox.exchange.orders import (
    QUANTITY_STEP,
    OrderRequest,
    Origin,
    PaperOrder,
    PaperPosition,
    Resubmission,
    Status,
    request_for_the_rest,
)
from sandbox.exchange.refusal import Refusal, unprocessable
from sandbox.exchange.scenario import Protocol, Scenario
from sandbox.exchange.venue_record import VenueRecord

_FIRST_ORDER_NUMBER = 8_389_765_000_001
_REPLACEABLE = ("qty", "time_in_force", "limit_price", "stop_price", "trail_price", "trail_percent")


class Exchange:
    """Public methods act at the moment of the last `advance`; they raise `Refusal`.

    `rules` are those of the venue for new orders.
    """

    def __init__(
        self, scenario: Scenario, record: VenueRecord, random: Random, rules: type[Acceptance] = Acceptance
    ) -> None:
        self.record = record
        self.book = Book(scenario)
        self._scenario = scenario
        self._random = random
        self._late_fills_left = scenario.late_fill.times if scenario.late_fill else 0
        self._events = EventQueue()
        self._acceptance = rules(scenario, self.book, self._events, record, random)
        self._order_numbers = itertools.count(_FIRST_ORDER_NUMBER)
        self._life_cycle = LifeCycle(
            self.book, self._events, record, on_cancelled=self._resubmit, on_flat=self._schedule_late_fill
        )
        self.matching = MatchingEngine(scenario, self.book, self._events, self._life_cycle, record, random)
        self.dead_man = DeadManTimers(self._events, self._cancel_silenced)
        """The venue's own timers, which cancel what clients that fell silent have left."""

    # Time

    @property
    def now(self) -> float:
        """Seconds since the exchange started."""
        return self._events.now

    def advance(self, now: float) -> None:
        """Let everything happen that is due until `now`; a moment already passed changes nothing."""
        self._events.advance(now)

    def after(self, delay: float, happen: Callable[[], None]) -> None:
        """Let this happen `delay` seconds from now."""
        self._events.after(delay, happen)

    # What clients ask

    @property
    def locks(self) -> Locks:
        """What keeps the account from trading; the account's configuration changes it."""
        return self._acceptance.locks

    def submit(self, request: OrderRequest, origin: Origin = Origin.CLIENT) -> PaperOrder:
        """Accept an order; it fills, if it does, from the next `advance` on."""
        try:
            return self._submit(request, origin)
        except Refusal as refusal:
            if refusal.rule and origin is Origin.CLIENT:
                self.record.rules_broken[refusal.rule] += 1
            raise

    def check(self, request: OrderRequest) -> Decimal:
        """The quantity of an order whose terms are good; it may be too much for the account all the same."""
        self._acceptance.check_account()
        for symbol in [leg.symbol for leg in request.legs] or [request.symbol]:
            self._acceptance.check_tradable(symbol, self.matching.halt_of(symbol))
        self._acceptance.check_client_order_id(request.client_order_id)
        return self._acceptance.check_terms(request, self.matching.session)

    def _submit(self, request: OrderRequest, origin: Origin) -> PaperOrder:
        qty = self.check(request)
        if request.legs:
            return self._submit_with_legs(request, qty, origin)
        reduces = self._acceptance.check_size(request, qty)
        refusal = self._acceptance.exit_refusal(request.symbol) if reduces and origin is Origin.CLIENT else None
        if refusal and not refusal.later:
            raise self._acceptance.refuse_exit(refusal)
        name = request.position_name
        if origin is Origin.CLIENT and not request.conditional:
            working = self.book.held(name, request.side, reduce_only_too=False) if reduces else ZERO
            self.record.submitted(name, request.side, qty, self.book.position_qty(name), working)
        order = self._begin(request, self._acceptance.trimmed(request, qty), origin)
        order.closing = reduces and origin is Origin.CLIENT
        if refusal:
            self.after(self.matching.fill_delay(), lambda: self._life_cycle.end(order, Status.REJECTED))
        else:
            self.matching.expose(order)
        return order

    def _submit_with_legs(self, request: OrderRequest, qty: Decimal, origin: Origin) -> PaperOrder:
        changes = {leg.symbol: leg.side.sign * leg.ratio * qty for leg in request.legs}
        self._acceptance.check_cover(changes)
        for leg in request.legs if origin is Origin.CLIENT else ():
            working = self.book.held(leg.symbol, leg.side)
            self.record.submitted(leg.symbol, leg.side, leg.ratio * qty, self.book.position_qty(leg.symbol), working)
        order = self._begin(request, qty, origin)
        self.matching.expose(order)
        return order

    def cancel(self, order_id: str) -> None:
        """Ask for one order's cancellation. It takes effect after the scenario's cancel delay."""
        self._cancel(self.book.order(order_id))

    def cancel_all(self, which: Callable[[PaperOrder], bool] | None = None) -> list[tuple[PaperOrder, Refusal | None]]:
        """Ask for the cancellation of every open order, or of those; what was refused comes with its refusal."""
        results: list[tuple[PaperOrder, Refusal | None]] = []
        open_orders = [order for order in self.book.open_orders.values() if not order.goes_with_parent]
        orders = [order for order in open_orders if which is None or which(order)]
        for place, order in enumerate(orders):
            try:
                if place < self._scenario.cancels.bulk_leaves:
                    raise unprocessable("unable to cancel order")
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
        old = self.book.order(order_id)
        if not old.is_open or old.status in {Status.PENDING_CANCEL, Status.PENDING_REPLACE, Status.HELD}:
            raise unprocessable(f"cannot replace order in {old.status} status")
        if old.notional is not None or old.joint_legs or old.goes_with_parent:
            raise unprocessable("cannot replace a notional or multi-leg order")
        if qty is not None and qty <= old.filled_qty:
            raise unprocessable("qty must be > filled_qty")
        self._acceptance.check_client_order_id(client_order_id)
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
        if old.filled_qty == 0 and all(getattr(old, term) == getattr(new, term) for term in _REPLACEABLE):
            raise unprocessable("order parameters are not changed")
        if new.remaining > old.remaining:
            self._acceptance.check_size(request_for_the_rest(new), new.remaining - old.remaining)
        self._put_in_place_of(old, new)
        return new

    def close_position(self, name: str, qty: Decimal | None = None, percentage: Decimal | None = None) -> PaperOrder:
        """A market order that closes the position, or that much of it."""
        position = self.book.position(name)
        symbol, size = position.symbol, abs(position.qty)
        if qty is None:
            qty = size if percentage is None else (size * percentage / 100).quantize(QUANTITY_STEP, ROUND_DOWN)
        is_crypto = self.book.asset(symbol).asset_class is AssetClass.CRYPTO
        force = TimeInForce.GTC if is_crypto else TimeInForce.DAY
        return self.submit(OrderRequest(symbol, position.closing_side, OrderType.MARKET, force, qty=qty.normalize()))

    def close_all(self, *, cancel_orders: bool) -> list[tuple[str, PaperOrder | Refusal]]:
        """Close every position, after asking for every order's cancellation if wanted."""
        if cancel_orders:
            self.cancel_all()
            self.advance(self.now)
        results: list[tuple[str, PaperOrder | Refusal]] = []
        for name in list(self.book.positions):
            try:
                results.append((name, self.close_position(name)))
            except Refusal as refusal:
                results.append((name, refusal))
        return results

    # What else happens to the account

    def submit_strategy_order(self, request: OrderRequest, resubmission: Resubmission) -> PaperOrder:
        """A strategy's order, which comes back when it is cancelled."""
        order = self.submit(request, Origin.STRATEGY)
        order.resubmission = resubmission
        return order

    def late_fill(self, symbol: str, side: Side, qty: Decimal, position_side: PositionSide | None = None) -> None:
        """A fill nobody expects any more, of an order nobody can find among the open ones.

        In hedge mode for the position that its side opens, unless another is given: as deleveraging takes from one.
        """
        concerned = position_side or self.book.opened_by(side)
        request = OrderRequest(symbol, side, OrderType.MARKET, TimeInForce.DAY, qty=qty, position_side=concerned)
        order = self._begin(request, qty, Origin.VENUE)
        self.matching.fill(order, order.remaining, self.book.prices[symbol])

    def transfer(self, amount: Decimal, kind: str) -> None:
        """Money is moved in or out (negative) of the account."""
        self.book.add_transfer(Transfer(self.now, amount, kind))

    def silence(self, symbol: str) -> None:
        """From now on the symbol is not quoted any more."""
        self.book.silent_since.setdefault(symbol, self.now)

    def quote_again(self, symbol: str) -> None:
        self.book.silent_since.pop(symbol, None)

    def add_position(self, position: PaperPosition) -> None:
        """A position of the book, held since before the exchange started."""
        self._life_cycle.add_position(position)

    def add_order(self, order: PaperOrder) -> PaperOrder:
        """An order of the book, taken as it is; it starts to work at once unless it is held or pending."""
        self._life_cycle.begin(order)
        self.matching.consider(order)
        return order

    def release(self, order: PaperOrder, status: Status) -> None:
        """The end of a long pending state: back to working, cancelled at last, or settled."""
        if order.status is Status.CALCULATED:
            self._life_cycle.close(order, Status.FILLED)
        elif not order.is_open:
            return
        elif status is Status.CANCELED:
            self._life_cycle.end(order, Status.CANCELED)
        else:
            order.become(Status.PARTIALLY_FILLED if order.filled_qty else Status.NEW, self.now)
            self.matching.consider(order)

    def new_id(self) -> str:
        """As the venue has them: a UUID, or a number."""
        if self._scenario.protocol is not Protocol.ALPACA:
            return str(next(self._order_numbers))
        return str(UUID(int=self._random.getrandbits(128), version=4))

    def _begin(self, request: OrderRequest, qty: Decimal, origin: Origin) -> PaperOrder:
        price = self.book.prices.get(request.symbol, ZERO)
        order = accepted_order(request, qty, origin, price=price, now=self.now, new_id=self.new_id)
        self._life_cycle.begin(order)
        return order

    def _put_in_place_of(self, old: PaperOrder, new: PaperOrder) -> None:
        old.replaced_by, old.replaced_at = new.id, self.now
        for leg in new.legs:
            leg.parent = new
        if old.sibling:
            old.sibling.sibling = new
        self._life_cycle.close(old, Status.REPLACED)
        self._life_cycle.begin(new)
        self.matching.expose(new)

    def _cancel(self, order: PaperOrder) -> None:
        if not order.is_open or order.status is Status.PENDING_CANCEL:
            raise unprocessable(f'order is already in "{order.status}" state')
        if order.status is Status.PENDING_REPLACE:
            raise unprocessable("order is pending_replace, cannot be canceled")
        if order.goes_with_parent:
            raise unprocessable("a leg of a multi-leg order cannot be canceled by itself")
        worked = self.matching.works(order) and not order.is_apart
        order.become(Status.PENDING_CANCEL, self.now)
        delay = self._scenario.cancels.delay.sample(self._random)
        if worked:
            self.matching.race(order, delay)
        self.after(delay, lambda: self._life_cycle.end(order, Status.CANCELED))
        cancels = self._scenario.cancels
        if worked and cancels.late_fill_probability and self._random.random() < cancels.late_fill_probability:
            self.after(delay + cancels.late_fill_after, lambda: self.matching.fill_late(order))

    def _cancel_silenced(self, symbol: str) -> int:
        """Of the symbol, or of every one if it is empty; what is kept apart or can't be cancelled now stays."""
        cancelled = 0
        for order in list(self.book.open_orders.values()):
            if symbol not in ("", order.symbol) or order.goes_with_parent or order.is_apart:
                continue
            with suppress(Refusal):
                self._cancel(order)
                cancelled += 1
        return cancelled

    def _resubmit(self, order: PaperOrder) -> None:
        """A strategy places its cancelled order again, while it may."""
        terms = order.resubmission
        if terms is None or terms.times == 0 or self.now + terms.delay > terms.until:
            return
        request = request_for_the_rest(order)

        def place() -> None:
            try:
                new = self.submit(request, Origin.STRATEGY)
            except Refusal:
                # The strategy's order no longer fits the position; it gives up, as a real one would on a 403.
                self.record.strategy_orders_refused += 1
                return
            new.resubmission = replace(terms, times=terms.times - 1)

        self.after(terms.delay, place)

    def _schedule_late_fill(self) -> None:
        late = self._scenario.late_fill
        if late is None or self._late_fills_left == 0:
            return
        self._late_fills_left -= 1
        symbol = late.symbol or self._random.choice(sorted(self.book.prices))
        self.after(late.after_flat, lambda: self.late_fill(symbol, late.side, late.qty))
