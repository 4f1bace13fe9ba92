"""The decisions of the kill switch: what is cancelled, what is closed, and what a person is told about the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from breaker.instruments import CRYPTO, EQUITY, OPTION
from breaker.orders import MarketClock, Order, OrderStatus, OrderType, Position, Side, TimeInForce, Unreadable
from brokers.cancel_by_id import CONCURRENT
from brokers.protocol import ALPACA_IDS, Capabilities, CloseOrder, Refusal
from tasks.kill.ladder import Pace, Rung, ladder, limit_price
from tasks.kill.memory import (
    PositionMemory,
    attempt_of,
    client_order_id,
    may_close_again,
    refused,
    sent,
    unanswered,
)
from tasks.kill.plan import LET_GO_AT_ONCE, Plan, entries, plan_round

D = Decimal
INCIDENT = "0190aaaa-bbbb-7ccc-8ddd-eeeeeeeeeeee"
PACE = Pace(
    escalate_after=3,
    collars=(D("0.02"), D("0.05")),
    retry_backoff=1,
    retry_backoff_max=8,
    stuck_after=30,
    position_lag=5,
    cancel_settles=1,
)
ABLE = Capabilities(
    bulk_cancel=True, bulk_close=True, reduce_only=False, fractional=True, requests_per_minute=200, page_size=500
)
NOON = datetime(2026, 11, 24, 17, tzinfo=UTC)
OPEN = MarketClock(NOON, is_open=True)
CLOSED = MarketClock(NOON, is_open=False, next_open=NOON + timedelta(hours=21))
_ids = count()


def order(
    quantity: str = "10",
    side: Side = Side.SELL,
    *,
    symbol: str = "AAPL",
    filled: str = "0",
    status: OrderStatus = OrderStatus.NEW,
    attempt: int | None = None,
    kind: OrderType = OrderType.MARKET,
) -> Order:
    number = f"o{next(_ids)}"
    name = number if attempt is None else client_order_id(INCIDENT, symbol, attempt)
    return Order(number, name, symbol, side, D(quantity), D(filled), status, kind, TimeInForce.DAY)


def position(quantity: str = "100", *, available: str | None = None, symbol: str = "AAPL") -> Position:
    free = abs(D(quantity)) if available is None else D(available)
    return Position(symbol, D(quantity), free, D(50), D(50))


def plan(
    orders: Sequence[Order] = (),
    positions: Sequence[Position] = (),
    memory: Mapping[str, PositionMemory] | None = None,
    *,
    market: MarketClock | None = OPEN,
    now: float = 100.0,
    time_is_up: bool = False,
    own: frozenset[str] = frozenset(),
    at_start: Sequence[Order] | None = None,
    unreadable: Sequence[Unreadable] = (),
    protective_last: bool = False,
    able: Capabilities = ABLE,
) -> Plan:
    return plan_round(
        orders,
        positions,
        market,
        memory or {},
        incident_id=INCIDENT,
        able=able,
        own_order_ids=own,
        orders_at_start=frozenset(each.id for each in (orders if at_start is None else at_start)),
        now=now,
        pace=PACE,
        time_is_up=time_is_up,
        unreadable=unreadable,
        protective_last=protective_last,
    )


def close_of(
    orders: Sequence[Order], held: Position, memory: PositionMemory | None = None, market: MarketClock = OPEN
) -> CloseOrder | None:
    """What is sent once the orders that were asked to go have had their time."""
    first = plan(orders, [held], {held.symbol: memory} if memory else None, market=market)
    closes = first.closes or plan(orders, [held], first.memory, market=market, now=100.0 + PACE.cancel_settles).closes
    assert len(closes) <= 1
    return closes[0] if closes else None


def remembered(**changes: object) -> PositionMemory:
    return replace(PositionMemory(changed_at=100.0, quantity=D(100)), **changes)  # type: ignore[arg-type]


# How much


@pytest.mark.parametrize(("quantity", "side"), [("100", Side.SELL), ("-7.125", Side.BUY)])
def test_a_position_is_closed_whole_and_the_other_way(quantity: str, side: Side) -> None:
    close = close_of([], position(quantity))
    assert close is not None
    assert (close.side, close.quantity, close.type) == (side, abs(D(quantity)), OrderType.MARKET)


@pytest.mark.parametrize("status", [OrderStatus.NEW, OrderStatus.PENDING_CANCEL, OrderStatus.PENDING_REPLACE])
def test_what_may_still_fill_is_left_out_of_a_close(status: OrderStatus) -> None:
    close = close_of([order("30", filled="10", status=status)], position())
    assert close is not None and close.quantity == 80
    assert close_of([order("100", status=status)], position()) is None


def test_orders_that_add_to_the_position_take_nothing_off_its_close() -> None:
    close = close_of([order("30", Side.BUY)], position())
    assert close is not None and close.quantity == 100


def test_a_close_is_never_more_than_the_venue_calls_available() -> None:
    close = close_of([], position("100", available="25"))
    assert close is not None and close.quantity == 25
    assert close_of([], position("100", available="0")) is None


def test_an_order_for_an_amount_of_money_may_take_any_part_so_its_end_is_awaited() -> None:
    by_amount = order("0", kind=OrderType.LIMIT)
    decided = plan([by_amount], [position()])
    assert decided.closes == () and decided.cancels == (by_amount,)
    partly = order("0.5", filled="0.5", status=OrderStatus.PARTIALLY_FILLED)
    assert close_of([partly], position()) is None


def test_a_position_of_nothing_needs_nothing() -> None:
    decided = plan([], [position("0")])
    assert (decided.closes, decided.cancels, decided.remaining, decided.dust) == ((), (), frozenset(), {})


def test_one_close_works_per_symbol() -> None:
    ours = order("40", attempt=1)
    decided = plan([ours], [position()], {"AAPL": remembered(sent_at=99.0, attempt=1)})
    assert decided.closes == () and decided.cancels == ()


@given(
    held=st.decimals("-1000", "1000", places=3).filter(bool),
    others=st.lists(
        st.tuples(st.decimals("0.001", "900", places=3), st.sampled_from(Side), st.sampled_from(OrderStatus)),
        max_size=6,
    ),
    available=st.decimals("0", "1000", places=3),
)
def test_a_close_with_everything_that_works_never_exceeds_the_position(
    held: Decimal, others: list[tuple[Decimal, Side, OrderStatus]], available: Decimal
) -> None:
    orders = [order(str(quantity), side, status=status) for quantity, side, status in others]
    of = position(str(held), available=str(available))
    close = close_of(orders, of)
    if close is not None:
        reducing = sum(o.remaining for o in orders if o.side is of.closing_side)
        assert close.side is of.closing_side
        assert 0 < close.quantity <= min(abs(held) - reducing, available)


# Under which name


def test_the_same_attempt_has_the_same_name_in_every_process_and_the_next_one_another() -> None:
    first = close_of([], position())
    assert first is not None and first.client_order_id == f"{INCIDENT}-AAPL-1"
    assert close_of([], position()) == first
    after = sent(remembered(), first.client_order_id, 100.0)
    second = close_of([], position(), after)
    assert second is not None and second.client_order_id == f"{INCIDENT}-AAPL-2"


def test_an_attempt_that_the_venue_refused_keeps_its_name() -> None:
    after = replace(refused(remembered(), "no", 90.0, PACE), retry_at=0.0)
    close = close_of([], position(), after)
    assert close is not None and close.client_order_id == f"{INCIDENT}-AAPL-1"


@pytest.mark.parametrize("symbol", ["AAPL", "BTC/USD", "BRK.B", "SPY-261218", "X" * 200, "AAPL  261218C00150000"])
def test_every_symbol_has_names_of_its_own_that_a_venue_takes(symbol: str) -> None:
    name = client_order_id(INCIDENT, symbol, 12)
    assert len(name) <= ALPACA_IDS.longest
    made = replace(order(symbol=symbol), client_order_id=name)
    assert attempt_of(made, INCIDENT) == 12
    assert attempt_of(made, "another incident") is None
    assert client_order_id(INCIDENT, symbol + "Y", 12) != name != client_order_id(INCIDENT, symbol, 13)


def test_a_slash_does_not_make_two_symbols_one() -> None:
    assert client_order_id(INCIDENT, "BTC/USD", 1) != client_order_id(INCIDENT, "BTCUSD", 1)


@pytest.mark.parametrize("name", ["", "-", f"{INCIDENT}-AAPL-", f"{INCIDENT}-AAPL-²", f"{INCIDENT}-MSFT-1", "AAPL-1"])
def test_other_peoples_names_are_not_taken_for_ours(name: str) -> None:
    strange = replace(order(), client_order_id=name)
    assert attempt_of(strange, INCIDENT) is None
    assert plan([strange], [position()]).cancels == (strange,)


# Readings that don't fit together


def test_a_close_that_filled_between_the_readings_is_neither_cancelled_nor_sent_again() -> None:
    ours = order("100", attempt=1)
    decided = plan([ours], [position("40")], {"AAPL": remembered(sent_at=99.0, attempt=1)})
    assert decided.cancels == () and decided.closes == ()
    gone = plan([ours], [], {"AAPL": remembered(sent_at=99.0, attempt=1)})
    assert gone.cancels == () and gone.closes == ()


def test_a_close_that_is_too_large_in_two_readings_is_taken_back() -> None:
    ours = order("100", attempt=1)
    first = plan([ours], [position("40")], {"AAPL": remembered(sent_at=99.0, attempt=1)})
    assert plan([ours], [position("40")], first.memory, now=101.0).cancels == (ours,)


def test_a_close_on_the_wrong_side_is_taken_back_at_once() -> None:
    ours = order("100", Side.SELL, attempt=1)
    assert plan([ours], [position("-100")]).cancels == (ours,)


def test_a_close_of_an_earlier_run_is_left_to_work_and_counted() -> None:
    ours = order("100", attempt=7)
    decided = plan([ours], [position()])
    assert decided.cancels == () and decided.memory["AAPL"].attempt == 7
    assert decided.memory["AAPL"].last_close == ours.client_order_id


def test_a_bulk_close_of_this_run_is_known_by_the_venues_id() -> None:
    made = order("100")
    assert plan([made], [position()], own=frozenset({made.id})).cancels == ()
    assert plan([made], [position()]).cancels == (made,)


# What became of the last close


def ended(status: OrderStatus, filled: str, attempt: int = 1) -> Order:
    return order("100", attempt=attempt, filled=filled, status=status)


def after_sending(quantity: str = "100") -> PositionMemory:
    return replace(sent(remembered(), client_order_id(INCIDENT, "AAPL", 1), 99.0), quantity=D(quantity))


@pytest.mark.parametrize(
    ("shown", "last"),
    [
        ("100", ended(OrderStatus.FILLED, "100")),
        ("50", ended(OrderStatus.FILLED, "100")),
        ("100", ended(OrderStatus.CANCELED, "30")),
        ("100", None),
    ],
)
def test_a_position_that_lags_behind_a_fill_is_waited_for_but_not_for_ever(shown: str, last: Order | None) -> None:
    memory, settled = may_close_again(after_sending(shown), last, 100.0, PACE)
    assert not settled
    memory, settled = may_close_again(memory, last, 104.9, PACE)
    assert not settled
    memory, settled = may_close_again(memory, last, 105.0, PACE)
    assert settled and memory.last_close == ""


def test_a_position_that_shows_the_fill_is_closed_again_at_once() -> None:
    memory, settled = may_close_again(after_sending("70"), ended(OrderStatus.CANCELED, "30"), 100.0, PACE)
    assert settled and memory.last_close == ""


def test_a_close_that_was_taken_over_half_filled_is_measured_against_what_it_was_sent_for() -> None:
    taken_over = plan([order("100", attempt=1, filled="30")], [position("70")]).memory["AAPL"]
    assert may_close_again(taken_over, ended(OrderStatus.CANCELED, "30"), 100.0, PACE)[1]


def test_nothing_is_sent_while_the_last_close_is_open_anywhere() -> None:
    still_open = order("100", attempt=1)
    assert not may_close_again(after_sending(), still_open, 10_000.0, PACE)[1]


def test_a_lag_does_not_start_anew_because_the_position_was_gone_in_between() -> None:
    memory = plan([], [], {"AAPL": after_sending()}, now=100.0).memory
    back = plan([], [position("10")], memory, now=104.0).memory["AAPL"]
    last = ended(OrderStatus.FILLED, "100")
    assert not may_close_again(back, last, 104.0, PACE)[1]
    assert may_close_again(back, last, 105.0, PACE)[1]


@pytest.mark.parametrize("status", [OrderStatus.REJECTED, OrderStatus.EXPIRED])
def test_a_close_that_the_venue_took_and_then_ended_counts_as_refused(status: OrderStatus) -> None:
    memory, settled = may_close_again(after_sending(), ended(status, "0"), 100.0, PACE)
    assert not settled
    assert (memory.rung, memory.retry_at) == (1, 101.0)
    assert status.value in memory.reason


# Faster and more patient


def test_a_market_order_that_stands_is_replaced_by_ever_wider_limits_and_then_again_by_a_market_order() -> None:
    memory: Mapping[str, PositionMemory] = {}
    now, kinds = 100.0, []
    for attempt in range(1, 5):
        close = plan([], [position()], memory, now=now).closes[0]
        kinds.append((close.type, close.limit_price))
        memory = {"AAPL": sent(remembered(attempt=attempt - 1, rung=attempt - 1), close.client_order_id, now)}
        standing = order("100", attempt=attempt, kind=close.type)
        assert plan([standing], [position()], memory, now=now + 2.9).cancels == ()
        taken_back = plan([standing], [position()], memory, now=now + 3 * (2 if attempt > 3 else 1))
        assert taken_back.cancels == (standing,)
        memory, now = taken_back.memory, now + 4
    assert kinds == [
        (OrderType.MARKET, None),
        (OrderType.LIMIT, D("49.00")),
        (OrderType.LIMIT, D("47.50")),
        (OrderType.MARKET, None),
    ]


def test_each_refusal_waits_twice_as_long_up_to_the_longest_and_tries_another_kind() -> None:
    memory, waits = remembered(), []
    for _ in range(5):
        memory = refused(memory, "halted", 200.0, PACE)
        waits.append(memory.retry_at - 200.0)
    assert waits == [1, 2, 4, 8, 8]
    assert memory.rung == 5
    assert plan([], [position()], {"AAPL": memory}, now=207.9).closes == ()
    assert len(plan([], [position()], {"AAPL": memory}, now=208.0).closes) == 1


def test_other_symbols_go_on_while_one_waits() -> None:
    waiting = refused(remembered(), "halted", 100.0, PACE)
    closes = plan([], [position(), position(symbol="MSFT")], {"AAPL": waiting}, now=100.1).closes
    assert [close.symbol for close in closes] == ["MSFT"]


@pytest.mark.parametrize(
    ("market", "quantity", "kinds"),
    [
        (OPEN, "100", [Rung.MARKET, Rung.LIMIT, Rung.LIMIT]),
        (CLOSED, "100", [Rung.EXTENDED_HOURS, Rung.EXTENDED_HOURS, Rung.QUEUED]),
        (CLOSED, "1.5", [Rung.EXTENDED_HOURS, Rung.EXTENDED_HOURS, Rung.QUEUED]),
        (None, "100", [Rung.EXTENDED_HOURS, Rung.EXTENDED_HOURS, Rung.MARKET]),
    ],
)
def test_the_ladder_follows_the_session_and_tries_what_works_in_any_where_it_is_not_known(
    market: MarketClock | None, quantity: str, kinds: list[Rung]
) -> None:
    assert [kind for kind, _ in ladder(D(quantity), D(50), market, PACE, EQUITY, ABLE)] == kinds
    without_price = [kind for kind, _ in ladder(D(quantity), None, market, PACE, EQUITY, ABLE)]
    assert Rung.LIMIT not in without_price and Rung.EXTENDED_HOURS not in without_price and without_price


def test_where_no_fractions_are_taken_at_all_whole_units_go_in_the_session_too() -> None:
    able = replace(ABLE, fractional=False)
    half = position("10.5")
    memory = refused(remembered(quantity=D("10.5")), "fractions can't be sold by the API", 99.0, PACE, Refusal.FRACTION)
    (close,) = plan([], [half], {"AAPL": memory}, able=able).closes
    assert (close.type, close.quantity) == (OrderType.MARKET, D(10))
    (all_of_it,) = plan([], [half], {"AAPL": memory}).closes
    assert all_of_it.quantity == D("10.5"), "elsewhere fractions go in the session"
    rest = position("0.5")
    left = plan([], [rest], {"AAPL": replace(memory, quantity=D("0.5"), changed_at=0.0)}, able=able)
    assert not left.closes and left.stuck == {"AAPL": "fractions can't be sold by the API"}


@pytest.mark.parametrize(
    ("quantity", "whole_units", "kinds"),
    [
        ("0.5", False, [Rung.EXTENDED_HOURS, Rung.EXTENDED_HOURS, Rung.QUEUED]),
        ("0.5", True, [Rung.QUEUED]),
        ("1", True, [Rung.EXTENDED_HOURS, Rung.EXTENDED_HOURS, Rung.QUEUED]),
        ("1.5", True, [Rung.EXTENDED_HOURS, Rung.EXTENDED_HOURS, Rung.QUEUED]),
    ],
)
def test_a_fraction_waits_for_the_open_only_where_the_venue_has_refused_fractions_outside_the_session(
    quantity: str, whole_units: bool, kinds: list[Rung]
) -> None:
    rungs = ladder(D(quantity), D(50), CLOSED, PACE, EQUITY, ABLE, whole_units=whole_units)
    assert [kind for kind, _ in rungs] == kinds
    assert ladder(D(quantity), D(50), CLOSED, PACE, EQUITY, ABLE) == ladder(
        D(quantity), D(50), CLOSED, PACE, EQUITY, ABLE, whole_units=False
    )


def test_an_option_is_tried_at_a_limit_first_where_the_session_is_not_known_and_never_queued() -> None:
    unknown = ladder(D(3), D("2.50"), None, PACE, OPTION, ABLE)
    assert unknown == ((Rung.LIMIT, D("0.02")), (Rung.LIMIT, D("0.05")), (Rung.MARKET, D(0)))
    assert ladder(D(3), D("2.50"), CLOSED, PACE, OPTION, ABLE) == ()
    in_session = ladder(D(3), D("2.50"), OPEN, PACE, OPTION, ABLE)
    assert [kind for kind, _ in in_session] == [Rung.MARKET, Rung.LIMIT, Rung.LIMIT]


def test_extended_hours_take_a_limit_for_the_day() -> None:
    close = close_of([], position(), market=CLOSED)
    assert close is not None and close.extended_hours
    assert (close.type, close.time_in_force, close.limit_price) == (OrderType.LIMIT, TimeInForce.DAY, D("49.00"))


def test_an_order_queued_for_the_open_is_left_there_and_told_at_once() -> None:
    queued = order("100", attempt=1)
    decided = plan([queued], [position()], {"AAPL": remembered(attempt=1, sent_at=1.0, rung=1)}, market=CLOSED)
    assert decided.cancels == ()
    assert "queued for the open at 2026-11-25 14:00 UTC" in decided.stuck["AAPL"]


@pytest.mark.parametrize(
    ("side", "price", "limit"),
    [
        (Side.SELL, "50", "49.00"),
        (Side.BUY, "50.005", "51.01"),
        (Side.SELL, "0.5", "0.4900"),
        (Side.SELL, "0.00001", "0.0001"),
        (Side.BUY, "0.99", "1.01"),
    ],
)
def test_limits_are_whole_ticks_past_the_price(side: Side, price: str, limit: str) -> None:
    assert limit_price(side, D(price), D("0.02"), EQUITY) == D(limit)


# What a person is told


def test_a_symbol_is_stuck_when_it_made_no_progress_and_says_the_venues_reason() -> None:
    memory = {"AAPL": remembered(reason="trading is halted", changed_at=100.0, retry_at=1e9)}
    assert plan([], [position()], memory, now=129.9).stuck == {}
    assert plan([], [position()], memory, now=130.0).stuck == {"AAPL": "trading is halted"}
    smaller = plan([], [position("99")], memory, now=130.0)
    assert smaller.stuck == {} and smaller.memory["AAPL"].changed_at == 130.0


def test_when_the_time_is_up_everything_that_is_left_is_named() -> None:
    orders = [order(symbol="MSFT", status=OrderStatus.PENDING_REPLACE)]
    decided = plan(orders, [position()], time_is_up=True)
    assert set(decided.stuck) == decided.remaining == {"AAPL", "MSFT"}
    assert "no close could be sent" in decided.stuck["AAPL"]
    assert "pending_replace" in decided.stuck["MSFT"]
    after = plan([], [position()], {"AAPL": after_sending()}, time_is_up=True)
    assert "still trading" in after.stuck["AAPL"]


def test_orders_placed_during_the_kill_are_called_what_they_are() -> None:
    there = order("1", Side.BUY)
    first = plan([there], [], now=100.0)
    nothing = plan([], [], first.memory, now=101.0, at_start=[there])
    placed = order("1", Side.BUY)
    again = plan([placed], [], nothing.memory, now=102.0, at_start=[there], time_is_up=True)
    assert again.cancels == (placed,)
    assert "still trading: 1 orders were placed since the trip" in again.stuck["AAPL"]
    assert "still trading" not in plan([there], [], first.memory, time_is_up=True).stuck["AAPL"]


def test_a_symbol_that_comes_back_has_its_time_anew_but_goes_on_counting_its_closes() -> None:
    memory = plan([], [], {"AAPL": after_sending()}, now=125.0).memory
    back = plan([], [position("10")], memory, now=126.0)
    assert back.stuck == {}
    assert back.closes[0].client_order_id == f"{INCIDENT}-AAPL-2"


# Two kill switches and a market, in any order


@dataclass
class Venue:
    """One symbol of a venue that would fill anything; it accepts a client order id once."""

    held: Decimal
    orders: dict[str, Order] = field(default_factory=dict)

    def open_orders(self) -> list[Order]:
        return [each for each in self.orders.values() if each.status.is_open]

    def positions(self) -> list[Position]:
        if not self.held:
            return []
        holds = sum(o.remaining for o in self.open_orders() if o.side.sign * self.held < 0)
        return [Position("AAPL", self.held, max(abs(self.held) - holds, D(0)), D(50), D(50))]

    def close(self, asked: CloseOrder) -> bool:
        if asked.client_order_id in self.orders:
            return False
        assert asked.side.sign * self.held < 0, f"{asked} would open a position, not close {self.held}"
        working = sum(o.remaining for o in self.open_orders() if o.side is asked.side)
        assert asked.quantity + working <= abs(self.held), f"{asked} beside {working} is more than {self.held}"
        name = asked.client_order_id
        self.orders[name] = Order(
            name, name, "AAPL", asked.side, asked.quantity, D(0), OrderStatus.NEW, asked.type, TimeInForce.DAY
        )
        return True

    def fill(self, which: Order, quantity: Decimal) -> None:
        filled = which.filled_quantity + quantity
        status = OrderStatus.FILLED if filled == which.quantity else OrderStatus.PARTIALLY_FILLED
        before, self.held = self.held, self.held + which.side.sign * quantity
        assert before * self.held >= 0, f"turned over from {before} to {self.held}"
        self.orders[which.client_order_id] = replace(which, filled_quantity=filled, status=status)

    def cancel(self, which: Order) -> None:
        now = self.orders[which.client_order_id]
        if now.status.is_open:
            self.orders[which.client_order_id] = replace(now, status=OrderStatus.CANCELED)


@dataclass
class Switch:
    """A kill switch in single steps, between which anything may happen."""

    venue: Venue
    memory: Mapping[str, PositionMemory] = field(default_factory=dict)
    seen: list[Order] | None = None
    to_cancel: list[Order] = field(default_factory=list)
    to_close: list[CloseOrder] = field(default_factory=list)

    def step(self, now: float, lost: bool) -> None:
        if self.to_cancel:
            self.venue.cancel(self.to_cancel.pop())
        elif self.to_close:
            self._close(self.to_close.pop(), now, lost)
        elif self.seen is None:
            self.seen = self.venue.open_orders()
        else:
            decided = plan(self.seen, self.venue.positions(), self.memory, now=now)
            self.seen, self.memory = None, decided.memory
            self.to_cancel = list(decided.cancels)
            canceling = {each.symbol for each in decided.cancels}
            self.to_close = [close for close in decided.closes if close.symbol not in canceling]

    def _close(self, asked: CloseOrder, now: float, lost: bool) -> None:
        memory = self.memory["AAPL"]
        if memory.last_close not in ("", asked.client_order_id):
            last = self.venue.orders.get(memory.last_close)
            memory, settled = may_close_again(memory, last, now, PACE)
            self.memory = {"AAPL": memory}
            if not settled:
                return
        self.venue.close(asked)
        name = asked.client_order_id
        self.memory = {"AAPL": unanswered(memory, name, "lost") if lost else sent(memory, name, now)}

    def restart(self) -> None:
        """Killed and started over: nothing is remembered."""
        self.memory, self.seen, self.to_cancel, self.to_close = {}, None, [], []


@settings(max_examples=300, deadline=None)
@given(
    held=st.integers(-60, 60).filter(bool),
    resting=st.lists(st.integers(1, 20), max_size=3),
    schedule=st.lists(st.tuples(st.integers(0, 9), st.integers(1, 60)), max_size=80),
)
def test_two_kill_switches_in_any_order_with_fills_losses_and_restarts_never_turn_the_position_over(
    held: int, resting: list[int], schedule: list[tuple[int, int]]
) -> None:
    venue = Venue(D(held))
    side = Side.SELL if held > 0 else Side.BUY
    room = abs(held)
    for size in resting:
        if size <= room:
            room -= size
            made = order(str(size), side, kind=OrderType.LIMIT)
            venue.orders[made.client_order_id] = made
    switches = [Switch(venue), Switch(venue)]
    now = 100.0
    for what, amount in schedule:
        now += 0.7
        match what:
            case 0 | 1 | 2:
                switches[0].step(now, lost=False)
            case 3 | 4:
                switches[1].step(now, lost=False)
            case 5:
                switches[amount % 2].step(now, lost=True)
            case 6:
                switches[amount % 2].restart()
            case _ if venue.open_orders():
                chosen = venue.open_orders()[amount % len(venue.open_orders())]
                venue.fill(chosen, min(D(amount), chosen.remaining))
    for _ in range(200):
        now += 1.0
        for switch in switches:
            switch.step(now, lost=False)
        for each in venue.open_orders():
            venue.fill(each, each.remaining)
        if not venue.held and not venue.open_orders():
            break
    assert not venue.held and not venue.open_orders()


# Stops while positions are closed


def plan_with_stops(
    orders: Sequence[Order],
    held: Sequence[Position],
    memory: Mapping[str, PositionMemory] | None = None,
    at: float = 100,
) -> Plan:
    return plan(orders, held, memory, now=at, protective_last=True)


def protected(count: int) -> tuple[list[Order], list[Position]]:
    symbols = [f"S{number:02}" for number in range(count)]
    stops = [order(symbol=symbol, kind=OrderType.STOP) for symbol in symbols]
    return stops, [position("10", available="0", symbol=symbol) for symbol in symbols]


def test_only_some_positions_at_once_are_without_their_stop_and_the_next_go_as_their_closes_are_sent() -> None:
    stops, held = protected(20)
    first = plan_with_stops(stops, held, {}, 100.0)
    assert len(first.cancels) == LET_GO_AT_ONCE and not first.closes
    gone = {each.symbol for each in first.cancels}
    left = [each for each in stops if each.symbol not in gone]
    free = [position("10", symbol=each.symbol) if each.symbol in gone else each for each in held]
    second = plan_with_stops(left, free, first.memory, 100.5)
    assert {each.symbol for each in second.closes} == gone
    assert len(second.cancels) == LET_GO_AT_ONCE and not gone & {each.symbol for each in second.cancels}


def test_stops_that_resist_hold_up_no_other_positions_turn_and_waiting_is_not_being_stuck() -> None:
    stops, held = protected(20)
    resisting = plan_with_stops(stops, held, {}, 100.0)
    later = 100.0 + PACE.cancel_settles
    again = plan_with_stops(stops, held, resisting.memory, later)
    assert len({each.symbol for each in again.cancels}) == 2 * LET_GO_AT_ONCE
    much_later = plan_with_stops(stops, held, plan_with_stops(stops, held, {}, 100.0).memory, 100.0 + PACE.stuck_after)
    waiting = {each.symbol for each in held} - {each.symbol for each in much_later.cancels}
    assert waiting and not waiting & {*much_later.stuck}


def test_a_position_that_is_not_about_to_be_closed_keeps_its_stop_and_takes_nobodys_turn() -> None:
    stops, held = protected(LET_GO_AT_ONCE + 1)
    waiting = {each.symbol: refused(remembered(quantity=D(10)), "halted", 100.0, PACE) for each in held[:-1]}
    decided = plan_with_stops(stops, held, waiting)
    assert decided.cancels == (stops[-1],)
    assert plan(stops[:1], held[:1], waiting).cancels == (stops[0],)  # where stops are not to stay


def test_positions_without_stops_take_no_turn_and_a_close_at_work_needs_none() -> None:
    bare = [position(symbol=f"A{number:02}") for number in range(LET_GO_AT_ONCE)]
    stops, held = protected(LET_GO_AT_ONCE + 1)
    assert len(plan_with_stops(stops[:-1], [*bare, *held[:-1]]).cancels) == LET_GO_AT_ONCE
    ours = order("10", symbol=held[-1].symbol, attempt=1)
    assert stops[-1] in plan_with_stops([*stops, ours], held).cancels
    memory = {ours.symbol: remembered(quantity=D(10), sent_at=99.0, attempt=1, retry_at=1e9)}
    assert stops[-1] in plan_with_stops([*stops, ours], held, memory).cancels


def test_a_position_that_waits_for_its_turn_is_not_stuck_for_waiting() -> None:
    stops, held = protected(LET_GO_AT_ONCE + 1)
    last = held[-1].symbol
    assert (
        plan_with_stops(stops, held, {last: remembered(quantity=D(10), changed_at=1.0)}).memory[last].changed_at == 100
    )


def test_what_goes_before_anything_is_closed_is_neither_a_close_nor_protective() -> None:
    ours, stop, entry = order(attempt=1), order("100", kind=OrderType.STOP), order("5", Side.BUY)
    assert entries([ours, stop, entry], [position()], INCIDENT) == [entry]
    assert entries([ours, stop, entry], None, INCIDENT) == [entry]
    assert entries([ours, stop, entry], [], INCIDENT) == [stop, entry]


# What can't be read, can't be closed, or must stay


def test_what_cannot_be_read_is_cancelled_by_its_id_and_blocks_its_own_symbol_only() -> None:
    strange, nameless = Unreadable("order", "AAPL", "7", "no side"), Unreadable("order", "", "8", "no symbol")
    what = Unreadable("position", "", "", "no symbol")
    decided = plan([], [position(), position(symbol="MSFT")], unreadable=[strange, nameless, what])
    assert [close.symbol for close in decided.closes] == ["MSFT"]
    assert decided.cancel_unread == (strange, nameless)
    assert decided.remaining == {"AAPL", "MSFT", "8", "position"}
    assert {*decided.memory} == {"AAPL", "MSFT"} and decided.stuck == {}
    late = plan([], [], unreadable=[strange, nameless, what], time_is_up=True)
    assert late.stuck == {"AAPL": str(strange), "8": str(nameless), "position": str(what)}


def test_once_the_time_is_up_nothing_is_closed_any_more_and_stops_stay() -> None:
    stop = order("100", kind=OrderType.STOP)
    decided = plan([stop], [position()], time_is_up=True, protective_last=True)
    assert decided.closes == () and decided.cancels == ()
    assert plan([], [position()], time_is_up=True).closes == ()


CALL, OTHER_CALL = "SPY261218C00600000", "SPY261218C00610000"


def contract(symbol: str, quantity: str) -> Position:
    return replace(position(quantity, symbol=symbol), instrument=OPTION)


def test_what_covers_a_short_option_is_held_back_and_says_so() -> None:
    held = [contract(CALL, "-2"), contract(OTHER_CALL, "2"), position("300", symbol="SPY")]
    decided = plan([], held, now=100.0)
    assert [(close.symbol, close.quantity) for close in decided.closes] == [("SPY", D(100)), (CALL, D(2))]
    late = plan([], held, time_is_up=True)
    assert late.stuck[OTHER_CALL].startswith(f"held back: the short {CALL} is bought back first")
    assert "held back" not in late.stuck["SPY"] and "held back" not in late.stuck[CALL]


def test_a_position_that_covers_a_short_option_keeps_its_stop() -> None:
    stop = order("300", symbol="SPY", kind=OrderType.STOP)
    held = [contract(CALL, "-2"), position("300", available="0", symbol="SPY")]
    assert plan_with_stops([stop], held).cancels == ()
    late = plan([stop], held, protective_last=True, time_is_up=True)
    assert "may be covered by this; its protective orders stay until then" in late.stuck["SPY"]


def test_a_position_that_keeps_its_stop_since_time_is_up_says_what_is_still_open() -> None:
    stop = order("100", kind=OrderType.STOP)
    late = plan([stop], [position()], protective_last=True, time_is_up=True)
    assert late.stuck["AAPL"] == f"1 orders are still open at the venue (new): {stop.id}"


def test_as_many_let_go_at_once_as_are_cancelled_beside_each_other() -> None:
    assert LET_GO_AT_ONCE == CONCURRENT


@pytest.mark.parametrize("quantity", ["0.4", "-0.4"])
def test_less_than_the_venues_smallest_quantity_is_dust(quantity: str) -> None:
    decided = plan([], [contract(CALL, quantity)])
    assert decided.dust == {CALL: "0.4 is dust: it is less than the venue's smallest quantity"}
    assert (decided.closes, decided.remaining, decided.stuck) == ((), frozenset(), {})
    assert plan([], [contract(CALL, "1.4")]).dust == {}
    assert plan([], [replace(contract(CALL, "1"), available=D(0))]).dust == {}


@pytest.mark.parametrize(
    ("quantity", "price", "dust"),
    [
        ("9000", "30000", False),
        ("0.0005", "30000", True),
        ("1", None, False),
        ("0.00015", None, True),
        ("0.02", "0.1", True),
    ],
)
def test_promise_7_what_is_plainly_more_than_the_venues_minimum_is_no_dust_whatever_a_refusal_is_called(
    quantity: str, price: str | None, dust: bool
) -> None:
    steps = replace(CRYPTO, minimum_quantity=D("0.0001"), minimum_notional=D(10))
    held = position(quantity, symbol="BTC/USDT")
    held = replace(held, instrument=steps, current_price=None if price is None else D(price))
    known = remembered(quantity=D(quantity))
    memory = refused(known, "Filter failure: LOT_SIZE", 99.0, PACE, Refusal.BELOW_MINIMUM, D(quantity))
    decided = plan([], [held], {"BTC/USDT": memory})
    assert (bool(decided.dust), bool(decided.remaining)) == (dust, not dust)


def test_what_the_venue_refused_as_too_little_is_dust_unless_something_else_of_its_symbol_is_open() -> None:
    memory = {"AAPL": refused(remembered(), "too little", 100.0, PACE, Refusal.BELOW_MINIMUM, D(100))}
    assert plan([], [position()], memory).dust == {"AAPL": "100 is dust: too little"}
    beside = order("1", Side.BUY)
    strange = Unreadable("order", "AAPL", "7", "no side")
    assert (held := plan([beside], [position()], memory)).dust == {} and held.remaining == {"AAPL"}
    assert plan([], [position()], memory, unreadable=[strange]).dust == {}
    assert plan([], [position("99")], memory).dust == {"AAPL": "99 is dust: too little"}
    assert plan([], [position("101")], memory).dust == {}
    part = refused(remembered(), "too little", 100.0, PACE, Refusal.BELOW_MINIMUM, D(40))
    assert plan([], [position()], {"AAPL": part}).dust == {}


def test_orders_placed_in_several_rounds_are_all_counted() -> None:
    first, second = order("1", Side.BUY), order("1", Side.BUY)
    memory = plan([first], [], at_start=[]).memory
    late = plan([second], [], memory, at_start=[], time_is_up=True)
    assert "still trading: 2 orders were placed" in late.stuck["AAPL"]
    assert second.client_order_id in late.stuck["AAPL"]


# What waits for the open


def test_a_stuck_symbol_names_the_open_only_where_it_waits_for_it() -> None:
    opens = CLOSED.next_open
    option = contract(CALL, "2")
    assert plan([], [option], market=CLOSED).opens_at == {CALL: opens}
    unnamed = plan([], [option], market=replace(CLOSED, next_open=None))
    assert unnamed.opens_at == {} and unnamed.stuck == {
        CALL: "market closed; nothing can be queued for the open, when it is to be closed"
    }
    halted = {"AAPL": remembered(changed_at=1.0, reason="halted", retry_at=1e9)}
    for market in (CLOSED, None, replace(OPEN, next_open=opens)):
        late = plan([], [position()], halted, market=market)
        assert (late.opens_at, late.stuck) == ({}, {"AAPL": "halted"})


def test_only_a_market_order_of_ours_waits_for_the_open_and_nothing_does_that_trades_always() -> None:
    limit = order("100", attempt=1, kind=OrderType.LIMIT)
    assert plan([limit], [position()], market=CLOSED).stuck == {}
    coin = replace(position(symbol="BTCUSD"), instrument=CRYPTO)
    queued = order("100", symbol="BTCUSD", attempt=1)
    assert plan([queued], [coin], market=CLOSED).stuck == {}
    assert plan([order("100", attempt=1)], [position()], market=OPEN).stuck == {}
    assert plan([order("100", attempt=1)], [position()], market=None).stuck == {}
    assert plan([order("100", attempt=1)], [], market=CLOSED).stuck == {}


# What the rules come to at their edges


def test_as_much_of_a_short_position_as_no_short_put_may_need_is_bought_back() -> None:
    held = [contract("SPY261218P00600000", "-1"), position("-300", symbol="SPY")]
    assert [(each.symbol, each.quantity) for each in plan([], held).closes] == [
        ("SPY", D(200)),
        ("SPY261218P00600000", D(1)),
    ]


def test_stops_that_were_asked_to_go_a_moment_ago_hold_up_the_next() -> None:
    stops, held = protected(2 * LET_GO_AT_ONCE)
    first = plan_with_stops(stops, held, {}, 100.0)
    assert plan_with_stops(stops, held, first.memory, 100.5).cancels == first.cancels == tuple(stops[:LET_GO_AT_ONCE])


def test_a_close_at_work_is_measured_against_the_size_of_a_short_position_too() -> None:
    ours = order("100", Side.BUY, attempt=1)
    memory = plan([ours], [position("-100")]).memory["AAPL"]
    assert (memory.excess, memory.sent_at) == (None, 100.0)
    wrong = order("1", Side.SELL, attempt=2)
    assert set(plan([ours, wrong], [position("-100")]).cancels) == {ours, wrong}


def test_an_excess_that_was_not_there_in_between_is_a_new_one() -> None:
    ours, memory = order("100", attempt=1), {"AAPL": remembered(sent_at=100.0, attempt=1)}
    assert plan([ours], [position("40")], memory).memory["AAPL"].excess == 100
    fits = plan([ours], [position()], {"AAPL": remembered(sent_at=100.0, excess=D(100))})
    assert plan([ours], [position("40")], fits.memory).cancels == ()


def test_a_close_that_filled_whole_and_is_still_listed_needs_nothing() -> None:
    ours = order("100", attempt=1, filled="100", status=OrderStatus.PARTIALLY_FILLED)
    assert plan([ours], [], {"AAPL": remembered(sent_at=1.0, attempt=1)}).cancels == ()


@pytest.mark.parametrize(("rung", "patience"), [(0, 3), (3, 6), (6, 8), (30, 8)])
def test_each_time_round_the_ladder_a_close_stands_longer_up_to_the_longest_wait(rung: int, patience: int) -> None:
    ours, memory = order("100", attempt=1), {"AAPL": remembered(sent_at=100.0, attempt=1, rung=rung)}
    assert plan([ours], [position()], memory, now=99.9 + patience).cancels == ()
    assert plan([ours], [position()], memory, now=100.0 + patience).cancels == (ours,)


@pytest.mark.parametrize("quantity", ["1.5", "-1.5"])
def test_whole_units_go_outside_the_session_where_a_fraction_was_refused_and_all_of_it_within(quantity: str) -> None:
    memory = remembered(quantity=D("1.5"), whole_units=True)
    outside = close_of([], position(quantity), memory, CLOSED)
    assert outside is not None and outside.quantity == 1 and outside.extended_hours
    within = close_of([], position(quantity), memory)
    assert within is not None and within.quantity == D("1.5")
    assert close_of([], position("1.5"), None, CLOSED).quantity == D("1.5")  # type: ignore[union-attr]


def test_an_order_for_an_amount_of_money_is_awaited_whatever_it_says_is_left() -> None:
    assert close_of([replace(order("30", kind=OrderType.LIMIT), by_amount=True)], position()) is None


def test_what_is_cancelled_keeps_its_order_and_legs_go_once() -> None:
    first, second = order(symbol="A"), order(symbol="B")
    legs = [replace(order(symbol=symbol), parent_id="parent") for symbol in ("C", "D")]
    assert plan([first, second, *legs]).cancels == (first, second, legs[0])


def test_a_person_is_told_what_is_seen_where_the_venue_gives_no_reason() -> None:
    ours, theirs = order("40", attempt=1), [order(symbol="MSFT") for _ in range(4)]
    tried = {"AAPL": remembered(reason="halted", sent_at=100.0, attempt=1)}
    queued = [order("40", attempt=1), order("1", attempt=2, kind=OrderType.LIMIT)]

    def said(
        orders: Sequence[Order], held: Sequence[Position], memory: Mapping[str, PositionMemory] | None = None
    ) -> str:
        (words,) = plan(orders, held, memory, time_is_up=True).stuck.values()
        return words

    assert said([ours], [position()], tried) == "halted; a close for 40 is working"
    assert said([], [position()], tried) == "halted"
    assert said([ours], [position()]) == "the venue accepted a close for 40 but has not filled it"
    assert said([], [position(available="0")]).startswith("the venue says that nothing of it is available")
    listed = ", ".join(sorted(each.id for each in theirs)[:3])
    assert said(theirs, []) == f"4 orders are still open at the venue (new): {listed}"
    placed = {"AAPL": remembered(placed_since=frozenset({"gone"}))}
    assert "still trading" not in said([ours], [position()], placed)
    assert "for 40 is queued" in plan(queued, [position()], market=CLOSED).stuck["AAPL"]


def test_every_short_call_is_covered_by_the_shares_and_a_part_of_a_share_is_one_too() -> None:
    short = [contract(CALL, "-1"), contract(OTHER_CALL, "-1")]
    closes = {each.symbol: each.quantity for each in plan([], [*short, position("500", symbol="SPY")]).closes}
    assert closes["SPY"] == 300
    assert "SPY" not in {each.symbol for each in plan([], [*short, position("0.5", symbol="SPY")]).closes}
    put = contract("SPY261218P00600000", "-1")
    assert "SPY" not in {each.symbol for each in plan([], [put, position("-0.5", symbol="SPY")]).closes}


def test_an_order_that_cannot_be_read_is_no_short_option() -> None:
    decided = plan([], [contract(OTHER_CALL, "1")], unreadable=[Unreadable("order", CALL, "7", "no side")])
    assert [each.symbol for each in decided.closes] == [OTHER_CALL]
