"""Whatever a halted gate lets through, in whatever order it arrives and fills, no position grows or flips."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import count
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from breaker.gate import intents, risk_reduction
from breaker.gate.decision import Permit, Reason
from breaker.gate.intents import CancelIntent, ListKind, OrderIntent, OrderList, ReplaceIntent
from breaker.gate.judge import judge, judge_permit
from breaker.gate.lease import Lease, ScopeState, ScopeView, StateReading, StoredState
from breaker.gate.quiet_period import OrderRateLimiter, QuietPeriodLimits
from breaker.gate.reservations import Reservations
from breaker.orders import Order, OrderStatus, OrderType, Position, PositionSide, Side, TimeInForce

TRIPPED = Lease(0.2, (ScopeView("global", ScopeState.TRIPPED, StateReading(StoredState.TRIPPED, epoch=1)),))
RESERVED_FOR = 10.0
Key = tuple[str, PositionSide | None]
BOOKS: list[list[Key]] = [
    [("X", None)],
    [("X", None), ("Y", None)],
    [("H", PositionSide.LONG), ("H", PositionSide.SHORT)],
]
"""Few positions at a time, so that what goes wrong soon meets itself."""
SIZE = 6
quantities = st.integers(1, SIZE).map(Decimal)


@dataclass
class AtVenue:
    """One order as the venue has it."""

    id: str
    key: Key
    side: Side
    total: Decimal
    filled: Decimal = Decimal(0)
    open: bool = True
    client_order_id: str = ""
    reduce_only: bool = False
    by_amount: bool = False
    siblings: list[AtVenue] = field(default_factory=list, repr=False)
    """Of an OCO: what fills of one leaves the others that much smaller."""

    @property
    def remaining(self) -> Decimal:
        return max(self.total - self.filled, Decimal(0)) if self.open else Decimal(0)

    def shown(self) -> Order:
        status = OrderStatus.NEW if self.remaining else OrderStatus.CANCELED
        return Order(
            self.id, self.client_order_id, self.key[0], self.side, self.total, self.total - self.remaining, status,
            OrderType.LIMIT, TimeInForce.DAY, by_amount=self.by_amount and bool(self.remaining),
            position_side=self.key[1], reduce_only=self.reduce_only,
        )  # fmt: skip


@dataclass
class OnItsWay:
    """What was let through and the venue doesn't have yet."""

    intent: Any
    permit: Permit
    filled_when_asked: Decimal = Decimal(0)


class Desk(RuleBasedStateMachine):
    """An engine, a gate that is halted, and a venue. The engine reads orders first, positions after, both late."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.ids = count(1)
        self.reservations = Reservations(RESERVED_FOR)
        self.venue: list[AtVenue] = []
        self.on_their_way: list[OnItsWay] = []
        self.hung: list[OnItsWay] = []
        """Sent, and not heard of: the engine itself keeps them among its working orders."""

    # The world before the trip

    @initialize(data=st.data())
    def begin(self, data: st.DataObject) -> None:
        self.held: dict[Key, Decimal] = {}
        self.most: dict[Key, Decimal] = {}
        self.keys = data.draw(st.sampled_from(BOOKS))
        for key in self.keys:
            size = data.draw(st.integers(0, SIZE).map(Decimal))
            long = key[1] is PositionSide.LONG or (key[1] is None and data.draw(st.booleans()))
            self.held[key] = size if long else -size
            closing = data.draw(st.integers(0, int(size)).map(Decimal))
            if closing:
                self.place(key, Side.SELL if long else Side.BUY, closing)
            entry = data.draw(st.sampled_from([Decimal(0), Decimal(4)])) if size else Decimal(0)
            if entry:
                self.place(key, Side.BUY if long else Side.SELL, entry)
            self.most[key] = size + entry
        self.sign = {key: 1 if held > 0 else -1 for key, held in self.held.items()}
        self.look(data)

    def place(self, key: Key, side: Side, quantity: Decimal, **more: Any) -> AtVenue:
        order = AtVenue(f"v{next(self.ids)}", key, side, quantity, **more)
        self.venue.append(order)
        return order

    # What the engine does

    def look(self, data: st.DataObject) -> None:
        """Read the open orders, then the positions; fills may come in between. What is known by then is settled."""
        orders: list[Any] = []
        for order in self.venue:
            if order.siblings and order is order.siblings[0]:
                orders.append(OrderList([each.shown() for each in order.siblings], ListKind.OCO))
            elif not order.siblings:
                orders.append(order.shown())
        for permit in getattr(self, "arrived", []):
            self.reservations.settle(permit.reservation, 0)
        self.arrived: list[Permit] = []
        for _ in range(data.draw(st.integers(0, 2))):
            self.fill_some(data)
        self.seen_orders = orders
        self.seen_positions = [
            Position(symbol, held, abs(held), Decimal(1), position_side=side)
            for (symbol, side), held in self.held.items()
        ]

    @rule(data=st.data())
    def looks_again(self, data: st.DataObject) -> None:
        self.look(data)

    def order(self, data: st.DataObject) -> OrderIntent:
        symbol, position_side = key = data.draw(st.sampled_from(self.keys))
        closing = Side.SELL if self.sign[key] > 0 else Side.BUY
        side = data.draw(st.sampled_from([closing, closing, closing, closing.opposite]))
        reduce_only = data.draw(st.integers(0, 2)) == 0
        by_amount = data.draw(st.integers(0, 4)) == 0
        size: dict[str, Any] = {"notional": 100} if by_amount else {"quantity": data.draw(quantities)}
        named = data.draw(st.booleans())
        return OrderIntent(
            symbol, side, position_side=position_side, reduce_only=reduce_only,
            client_order_id=f"c{next(self.ids)}" if named else "", **size,
        )  # fmt: skip

    @rule(data=st.data())
    def asks_for_an_order(self, data: st.DataObject) -> None:
        self.ask(self.order(data))

    @rule(data=st.data())
    def asks_to_close_whole(self, data: st.DataObject) -> None:
        """What a hurried engine does, again and again."""
        position = data.draw(st.sampled_from(self.seen_positions))
        if position.quantity:
            side = position.position_side
            self.ask(OrderIntent(position.symbol, position.closing_side, abs(position.quantity), position_side=side))

    @rule(data=st.data(), kind=st.sampled_from([ListKind.INDEPENDENT, ListKind.OCO, ListKind.OTO, ListKind.LEGS]))
    def asks_for_a_list(self, data: st.DataObject, kind: ListKind) -> None:
        self.ask(OrderList([self.order(data) for _ in range(data.draw(st.integers(1, 3)))], kind))

    @precondition(lambda self: self.replaceable())
    @rule(data=st.data())
    def asks_to_replace(self, data: st.DataObject) -> None:
        old = data.draw(st.sampled_from(self.replaceable()))
        shown = next((each for each in self.seen_orders if getattr(each, "id", "") == old.id), None)
        new = OrderIntent(old.key[0], old.side, data.draw(quantities), position_side=old.key[1])
        filled = Decimal(0) if shown is None else shown.filled_quantity
        self.ask(ReplaceIntent(old.id, new, only_quantity=data.draw(st.booleans())), filled)

    def replaceable(self) -> list[AtVenue]:
        return [each for each in self.venue if not each.siblings and not each.by_amount]

    def ask(self, intent: Any, filled: Decimal = Decimal(0)) -> None:
        working = [*self.seen_orders, *(hung.intent for hung in self.hung)]
        limits, rate = QuietPeriodLimits(), OrderRateLimiter()
        with self.reservations.lock:
            active = self.reservations.active(self.now)
            decision = judge(TRIPPED, None, self.now, intent, self.seen_positions, working, limits, rate, active)
            decision = self.reservations.reserve(decision, intent, self.now)
        if decision:
            assert decision.permit is not None and decision.reason is Reason.REDUCES_RISK
            self.on_their_way.append(OnItsWay(intent, decision.permit, filled))

    @rule(data=st.data(), hangs=st.booleans())
    def time_passes(self, data: st.DataObject, hangs: bool) -> None:
        """Beyond every permit: what was not sent is not sent any more, what hangs the engine lists by itself.

        It looks at the venue more often than that.
        """
        self.look(data)
        self.now += RESERVED_FOR
        for each in self.on_their_way:
            assert not judge_permit(each.permit, TRIPPED, None, self.now, each.intent)
        if hangs:
            self.hung += [each for each in self.on_their_way if not isinstance(each.intent, ReplaceIntent)]
        self.on_their_way.clear()

    # What the venue does

    @precondition(lambda self: self.on_their_way or self.hung)
    @rule(data=st.data())
    def one_arrives(self, data: st.DataObject) -> None:
        each = data.draw(st.sampled_from([*self.on_their_way, *self.hung]))
        if data.draw(st.booleans()):
            self.take(each)
        if each in self.hung:
            # The engine's own record of it goes only with the next look, at which the venue's takes its place.
            self.hung.remove(each)
            self.look(data)
        else:
            self.on_their_way.remove(each)
            self.arrived.append(each.permit)

    def take(self, each: OnItsWay) -> None:
        if isinstance(each.intent, ReplaceIntent):
            old = next(order for order in self.venue if order.id == each.intent.order_id)
            if old.remaining:
                old.total = each.filled_when_asked + Decimal(str(each.intent.order.quantity))
            return
        orders = list(each.intent.orders) if isinstance(each.intent, OrderList) else [each.intent]
        placed = [self.place_intent(order) for order in orders]
        if isinstance(each.intent, OrderList) and each.intent.kind is ListKind.OCO:
            for order in placed:
                order.siblings = placed

    def place_intent(self, order: OrderIntent) -> AtVenue:
        by_amount = order.notional is not None
        quantity = Decimal(2 * SIZE) if by_amount else Decimal(str(order.quantity))
        side = order.side if isinstance(order.side, Side) else Side(order.side)
        key = (order.symbol, order.position_side if isinstance(order.position_side, PositionSide) else None)
        return self.place(
            key, side, quantity, client_order_id=order.client_order_id, reduce_only=order.reduce_only,
            by_amount=by_amount,
        )  # fmt: skip

    @rule(data=st.data())
    def something_fills(self, data: st.DataObject) -> None:
        self.fill_some(data)

    def fill_some(self, data: st.DataObject) -> None:
        open_orders = [order for order in self.venue if order.remaining]
        if not open_orders:
            return
        order = data.draw(st.sampled_from(open_orders))
        self.fill(order, data.draw(st.sampled_from([order.remaining, Decimal(1)])))

    def fill(self, order: AtVenue, amount: Decimal) -> None:
        held = self.held[order.key]
        if order.reduce_only:
            amount = min(amount, abs(held)) if order.side.sign * held < 0 else Decimal(0)
        self.held[order.key] = held + order.side.sign * amount
        for each in order.siblings or [order]:
            each.filled += amount
        self.no_position_has_grown_or_flipped()

    @rule(data=st.data())
    def one_is_cancelled(self, data: st.DataObject) -> None:
        if self.venue:
            data.draw(st.sampled_from(self.venue)).open = False

    @rule()
    def a_cancel_always_passes(self) -> None:
        decision = judge(TRIPPED, None, self.now, CancelIntent("v1"), None, (), QuietPeriodLimits(), OrderRateLimiter())
        assert decision.reason is Reason.CANCEL

    # What must hold

    @invariant()
    def no_position_has_grown_or_flipped(self) -> None:
        for key, held in getattr(self, "held", {}).items():
            assert 0 <= held * self.sign[key] <= self.most[key], f"{key}: {held}, at most {self.most[key]}"

    def teardown(self) -> None:
        """The worst of it: all that is on its way arrives, and all fills, the venue's own guard first of no use."""
        if not hasattr(self, "sign"):
            return
        for each in sorted([*self.on_their_way, *self.hung], key=lambda one: not isinstance(one.intent, ReplaceIntent)):
            self.take(each)
        closing_first = sorted(self.venue, key=lambda one: (one.side.sign == self.sign[one.key], not one.reduce_only))
        for order in sorted(closing_first, key=lambda one: -one.remaining if one.siblings else Decimal(0)):
            if order.remaining:
                self.fill(order, order.remaining)


def search(examples: int, *phases: Phase) -> None:
    run_state_machine_as_test(
        Desk,
        settings=settings(
            max_examples=examples,
            stateful_step_count=30,
            deadline=None,
            phases=phases or tuple(Phase),
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_promise_6_no_admitted_set_grows_or_flips_a_position_whatever_fills() -> None:
    search(200)


def _no_reservations(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Reservations, "active", lambda self, now: ())


def _every_list_is_an_oco(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(intents, "_is_oco", lambda intent: isinstance(intent, OrderList))


def _replacements_pass(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(risk_reduction, "_why_not_replacing", lambda *_: None)


def _reduce_only_is_enough(patch: pytest.MonkeyPatch) -> None:
    whole = risk_reduction._why_not
    patch.setattr(
        risk_reduction,
        "_why_not",
        lambda asked, held, claims, freed=Decimal(0): whole(asked, held, () if asked.reduce_only else claims, freed),
    )


@pytest.mark.parametrize(
    "wrong",
    [
        _no_reservations,
        _every_list_is_an_oco,
        _replacements_pass,
        _reduce_only_is_enough,
    ],
)
def test_the_search_finds_rules_that_are_wrong(
    wrong: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong(monkeypatch)
    with pytest.raises(AssertionError, match="at most"):
        search(2_000, Phase.generate)
