"""An account in hedge mode holds two positions in one symbol: each is closed by itself, and nothing of the other's."""

from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from breaker.orders import (
    Fill,
    Order,
    OrderStatus,
    OrderType,
    Position,
    PositionKey,
    PositionSide,
    Side,
    TimeInForce,
    Unreadable,
)
from brokers.coverage import coverage_of
from brokers.protective import protective_orders
from brokers.protocol import CloseOutcome, CloseResult
from brokers.sweep import order_row, position_row, row_key
from tasks.kill.account import AccountProgress, StuckItem
from tasks.kill.book import Book
from tasks.kill.cost import exit_cost
from tasks.kill.flatten import Flattening
from tasks.kill.memory import attempt_of, client_order_id
from tasks.kill.opening_book import OpeningBook
from tasks.kill.pending_exits import from_json, is_covered, left_by, to_json
from tasks.kill.verify import reappeared
from tests.tasks.test_plan import PACE, plan
from tests.tasks.timed_venue import INCIDENT, NAME, StillClock, TimedVenue, watched

D = Decimal
LONG, SHORT = PositionSide.LONG, PositionSide.SHORT
SYMBOL = "BTCUSDT"
NOW = datetime(2026, 11, 24, 20, tzinfo=UTC)


def leg(side: PositionSide, quantity: str, symbol: str = SYMBOL) -> Position:
    size = D(quantity)
    return Position(symbol, size if side is LONG else -size, size, D(50), D(50), position_side=side)


def resting(
    number: int, leg: PositionSide, side: Side, quantity: str, kind: OrderType = OrderType.LIMIT, name: str = ""
) -> Order:
    return Order(
        f"o{number}",
        name or f"theirs-{number}",
        SYMBOL,
        side,
        D(quantity),
        D(0),
        OrderStatus.NEW,
        kind,
        TimeInForce.GTC,
        position_side=leg,
    )


def closes_of(orders: Sequence[Order], held: Sequence[Position]) -> dict[str, tuple[Side, Decimal]]:
    """What is sent once the orders that were asked to go have had their time."""
    first = plan(orders, held)
    later = plan(orders, held, first.memory, now=100.0 + PACE.cancel_settles)
    closes = {close.key: close for close in (*later.closes, *first.closes)}
    return {str(key): (close.side, close.quantity) for key, close in closes.items()}


@given(st.text("ABC/ 12", min_size=1).filter(str.strip), st.sampled_from([None, LONG, SHORT]))
def test_a_key_is_read_back_from_any_record(symbol: str, side: PositionSide | None) -> None:
    key = PositionKey(symbol, side)
    for again in (
        PositionKey.read(key),
        PositionKey.read(json.loads(json.dumps(key))),
        pickle.loads(pickle.dumps(key)),
    ):
        assert (again, again.symbol, again.side) == (key, symbol, side)
    assert (key == symbol) is (side is None)


def test_both_legs_are_closed_each_whole_and_its_own_way() -> None:
    assert closes_of([], [leg(LONG, "3"), leg(SHORT, "2")]) == {
        "BTCUSDT long": (Side.SELL, D(3)),
        "BTCUSDT short": (Side.BUY, D(2)),
    }


def test_what_works_on_one_leg_takes_nothing_off_the_close_of_the_other() -> None:
    closing_short = resting(1, SHORT, Side.BUY, "2")
    opening_short = resting(2, SHORT, Side.SELL, "5")
    assert closes_of([closing_short, opening_short], [leg(LONG, "3"), leg(SHORT, "2")]) == {
        "BTCUSDT long": (Side.SELL, D(3))
    }, "the short leg is all taken, and an order that sells for it is none that closes the long one"


def test_the_orders_of_each_leg_are_asked_to_go() -> None:
    orders = [resting(1, LONG, Side.BUY, "1"), resting(2, SHORT, Side.SELL, "1")]
    assert {order.id for order in plan(orders, [leg(LONG, "3")]).cancels} == {"o1", "o2"}


def test_a_stop_protects_its_own_leg_only() -> None:
    stop = resting(1, SHORT, Side.BUY, "2", OrderType.STOP)
    assert protective_orders([stop], [leg(LONG, "3"), leg(SHORT, "2")]) == [stop]
    assert protective_orders([stop], [leg(LONG, "3")]) == []


def test_closes_of_the_two_legs_have_names_of_their_own() -> None:
    names = {side: client_order_id(INCIDENT, PositionKey(SYMBOL, side), 1) for side in (LONG, SHORT, None)}
    assert len({*names.values()}) == 3
    ours = resting(1, LONG, Side.SELL, "1", name=names[LONG])
    assert attempt_of(ours, INCIDENT) == 1
    assert attempt_of(replace(ours, position_side=SHORT), INCIDENT) is None
    assert attempt_of(replace(ours, position_side=None), INCIDENT) is None


def test_a_close_that_works_on_one_leg_is_reviewed_against_that_leg() -> None:
    ours = resting(1, LONG, Side.SELL, "3", OrderType.MARKET, client_order_id(INCIDENT, PositionKey(SYMBOL, LONG), 1))
    decided = plan([ours], [leg(LONG, "3"), leg(SHORT, "2")])
    assert [close.key for close in decided.closes] == ["BTCUSDT short"]
    assert decided.cancels == () and decided.memory["BTCUSDT long"].attempt == 1


def test_what_can_not_be_read_of_a_symbol_holds_both_its_legs_back_and_no_other_symbol() -> None:
    unread = Unreadable("position", SYMBOL, "", "its quantity is empty")
    held = [leg(LONG, "3"), leg(SHORT, "2"), leg(LONG, "1", "ETHUSDT")]
    decided = plan([], held, unreadable=[unread], time_is_up=False)
    assert [close.key for close in decided.closes] == ["ETHUSDT long"]
    stuck = plan([], held, unreadable=[unread], time_is_up=True).stuck
    assert {*stuck} == plan([], held, unreadable=[unread]).remaining
    assert stuck["BTCUSDT long"] == stuck["BTCUSDT short"] == stuck[SYMBOL] == str(unread)


async def test_an_account_in_hedge_mode_is_flattened_leg_by_leg(clock: StillClock) -> None:
    venue = TimedVenue(
        clock,
        orders=[resting(1, LONG, Side.BUY, "1"), resting(2, SHORT, Side.BUY, "1")],
        holdings=[leg(LONG, "3"), leg(SHORT, "2")],
    )
    account = watched(venue, deadline=60.0)
    assert await Flattening(account.run).until_flat()
    assert {(close.key, close.side, close.quantity, close.position_side) for close in venue.closes} == {
        ("BTCUSDT long", Side.SELL, D(3), LONG),
        ("BTCUSDT short", Side.BUY, D(2), SHORT),
    }
    assert len(venue.closes) == 2
    assert {record.symbol for record in account.run.progress.closes} == {"BTCUSDT long", "BTCUSDT short"}


async def test_a_leg_that_can_not_be_closed_is_stuck_alone(clock: StillClock) -> None:
    def answer(close: object) -> CloseResult:
        return CloseResult(SYMBOL, CloseOutcome.REFUSED, reason="in liquidation")

    venue = TimedVenue(clock, holdings=[leg(LONG, "3"), leg(SHORT, "2")], changes={5.0: {"holdings": [leg(LONG, "3")]}})
    venue.answer = answer
    account = watched(venue, deadline=30.0, stuck_after=10.0)
    assert not await Flattening(account.run).until_flat()
    (item,) = account.run.progress.stuck
    assert (item.symbol, item.quantity) == ("BTCUSDT long", D(3)) and "in liquidation" in item.reason


def test_a_leg_that_comes_back_after_flat_is_named() -> None:
    book = Book((), (leg(SHORT, "2"),))
    assert [(item.symbol, item.quantity) for item in reappeared(book)] == [("BTCUSDT short", D(-2))]
    assert book.without({"BTCUSDT short": D(-2)}).empty


def test_a_leg_that_is_left_is_pending_under_its_key_also_for_the_scope_of_its_symbol() -> None:
    item = StuckItem(PositionKey(SYMBOL, LONG), D(3), 0, "in liquidation")
    progress = AccountProgress(NAME, stuck=(item,))
    whole = coverage_of("global", [NAME])
    (pending,) = left_by(progress, (), incident_id="incident", coverage=whole, now=NOW)
    assert from_json(to_json(pending)) == pending and pending.symbol == "BTCUSDT long"
    assert json.loads(json.dumps(asdict(item), default=str))["symbol"] == "BTCUSDT long"
    assert is_covered(pending, coverage_of(f"symbol:{SYMBOL}", [NAME]))
    assert not is_covered(pending, coverage_of("symbol:ETHUSDT", [NAME]))


def test_what_an_exit_cost_is_worked_out_leg_by_leg() -> None:
    book = OpeningBook()
    book.note_sweep((), [position_row(leg(LONG, "3")), position_row(leg(SHORT, "2"))], 0.1)
    book.note_positions([], [], 2.0)

    def fill(number: int, side: Side, of: PositionSide, quantity: str, price: str) -> Fill:
        at = NOW + timedelta(seconds=number)
        book.sent.add(f"o{number}")
        return Fill(f"f{number}", f"o{number}", SYMBOL, side, D(quantity), D(price), at, position_side=of)

    cost = exit_cost(
        NAME, "USDT", book, [fill(1, Side.SELL, LONG, "3", "49"), fill(2, Side.BUY, SHORT, "2", "51")], NOW
    )
    assert cost.whole
    assert {line.symbol: (line.slippage, line.realised) for line in cost.lines} == {
        "BTCUSDT long": (D(3), D(-3)),
        "BTCUSDT short": (D(2), D(-2)),
    }


def test_rows_of_a_book_name_the_leg_and_those_of_an_account_that_nets_are_as_ever() -> None:
    assert row_key(position_row(leg(SHORT, "2"))) == "BTCUSDT short"
    assert row_key(order_row(resting(1, LONG, Side.BUY, "1"))) == "BTCUSDT long"
    netting = replace(leg(LONG, "2"), position_side=None)
    assert "position_side" not in position_row(netting) and row_key(position_row(netting)) == SYMBOL


@pytest.mark.parametrize("text", ["AAPL", "long", "BRK B", "AAPL  261218C00200000"])
def test_a_symbol_that_is_no_key_of_a_leg_stays_whole(text: str) -> None:
    assert (PositionKey.read(text).symbol, PositionKey.read(text).side) == (text, None)
