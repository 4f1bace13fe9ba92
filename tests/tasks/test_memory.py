"""What a kill switch remembers of a symbol between its rounds, and what it makes of what became of its closes."""

from __future__ import annotations

import string
from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from breaker.orders import Order, OrderStatus, OrderType, Position, PositionKey, PositionSide, Side, TimeInForce
from brokers.protocol import ALPACA_IDS, ClientOrderIds, Refusal
from tasks.kill.ladder import Pace
from tasks.kill.memory import (
    PositionMemory,
    attempt_named,
    attempt_of,
    client_order_id,
    gone,
    may_close_again,
    refused,
    remember,
    sent,
    take_over,
    untried,
)

D = Decimal
INCIDENT = "0190aaaa-bbbb-7ccc-8ddd-eeeeeeeeeeee"
PACE = Pace(
    escalate_after=3,
    collars=(D("0.02"),),
    retry_backoff=0.5,
    retry_backoff_max=8,
    stuck_after=30,
    position_lag=5,
    cancel_settles=1,
)
SIDES = [None, *PositionSide]
FRESH = PositionMemory(changed_at=1.0, quantity=D(100))


def close(name: str, filled: str = "0", status: OrderStatus = OrderStatus.NEW) -> Order:
    return Order(name, name, "AAPL", Side.SELL, D(100), D(filled), status, OrderType.MARKET, TimeInForce.DAY)


def attempt(number: int, filled: str = "0", status: OrderStatus = OrderStatus.NEW) -> Order:
    return close(client_order_id(INCIDENT, "AAPL", number), filled, status)


def test_a_name_is_readable_as_long_as_the_venue_takes_it_with_the_longest_number() -> None:
    room = 128 - len("-999999") - len(f"{INCIDENT}-")
    assert client_order_id(INCIDENT, "X" * room, 1) == f"{INCIDENT}-{'X' * room}-1"
    assert "X" not in client_order_id(INCIDENT, "X" * (room + 1), 1)


BINANCE = ClientOrderIds(36, string.ascii_letters + string.digits + "-_.:/")
"""Binance USDⓈ-M, new order: `^[\\.A-Z\\:/a-z0-9_-]{1,36}$`."""
LETTERS_AND_DIGITS = ClientOrderIds(32, string.ascii_letters + string.digits)
CAPITALS = ClientOrderIds(20, string.ascii_uppercase + string.digits)
HEX = ClientOrderIds(32, string.hexdigits.lower())
NUMBERS = ClientOrderIds(18, string.digits)
SHORTEST = ClientOrderIds(18, "-" + string.hexdigits)


@pytest.mark.parametrize("ids", [ALPACA_IDS, BINANCE, LETTERS_AND_DIGITS, CAPITALS, HEX, NUMBERS, SHORTEST])
@given(number=st.integers(1, 999_999), symbol=st.text("ABU/:. -", min_size=1, max_size=90), side=st.sampled_from(SIDES))
def test_every_venue_gets_a_name_that_it_takes_and_that_is_known_again(
    ids: ClientOrderIds, number: int, symbol: str, side: PositionSide | None
) -> None:
    key = PositionKey(symbol, side)
    name = client_order_id(INCIDENT, key, number, ids)
    assert 0 < len(name) <= ids.longest and {*name} <= {*ids.alphabet}
    assert attempt_named(name, INCIDENT, key) == number
    assert attempt_named(name, INCIDENT, PositionKey(symbol + "Z", side)) is None
    assert attempt_named(name, "another incident", key) is None
    assert client_order_id(INCIDENT, key, number % 999_999 + 1, ids) != name


def test_a_name_is_the_same_wherever_it_is_made() -> None:
    assert client_order_id(INCIDENT, "BTCUSDT", 7, BINANCE) == "4902cead13c60a65d6fbc6a734288-7"


def test_where_the_venue_knows_no_names_a_close_has_one_for_us() -> None:
    assert client_order_id(INCIDENT, "AAPL", 3, ClientOrderIds(0, "")) == f"{INCIDENT}-AAPL-3"


@pytest.mark.parametrize(("longest", "alphabet"), [(17, string.digits), (36, string.ascii_letters)])
def test_ids_that_no_name_can_be_made_of_are_refused_when_the_adapter_is_made(longest: int, alphabet: str) -> None:
    with pytest.raises(ValueError, match=r"the ten digits; say longest=0"):
        ClientOrderIds(longest, alphabet)


@pytest.mark.parametrize("name", ["", "1", "000001", "abc-1", f"{'0' * 10}-1", f"{INCIDENT}-AAPL-1x"])
def test_a_short_or_strange_name_is_nobodys_close(name: str) -> None:
    assert attempt_named(name, INCIDENT, "AAPL") is None


def test_a_number_in_other_digits_is_not_one_of_ours() -> None:
    assert attempt_of(close(f"{INCIDENT}-AAPL-١"), INCIDENT) is None


def test_each_close_that_the_venue_took_is_the_next_attempt() -> None:
    memory = sent(sent(FRESH, "first", 2.0), "second", 3.0)
    assert (memory.attempt, memory.last_close, memory.sent_at, memory.sent_against) == (2, "second", 3.0, D(100))


def test_only_what_was_never_tried_is_not_stuck() -> None:
    assert untried(FRESH, 9.0).changed_at == 9.0
    assert untried(replace(FRESH, sent_at=2.0), 9.0).changed_at == 1.0
    assert untried(replace(FRESH, refusals=1), 9.0).changed_at == 1.0


def test_a_close_that_ended_without_a_fill_hides_none_even_where_the_position_grew() -> None:
    grown = replace(sent(FRESH, "first", 2.0), quantity=D(150))
    memory, settled = may_close_again(grown, close("first", "0", OrderStatus.CANCELED), 3.0, PACE)
    assert settled and memory.refusals == 0
    memory, settled = may_close_again(grown, close("first", "0.5", OrderStatus.CANCELED), 3.0, PACE)
    assert not settled and memory.ended_at == 3.0


def test_a_close_that_filled_in_part_and_then_expired_was_not_refused() -> None:
    shown = replace(sent(FRESH, "first", 2.0), quantity=D(70))
    memory, settled = may_close_again(shown, close("first", "30", OrderStatus.EXPIRED), 3.0, PACE)
    assert settled and memory.refusals == 0


def test_a_refused_fraction_is_tried_as_whole_units_before_another_kind_and_that_is_kept() -> None:
    memory = refused(FRESH, "no fractions", 2.0, PACE, Refusal.FRACTION)
    assert (memory.whole_units, memory.rung, memory.refusals) == (True, 0, 1)
    again = refused(memory, "halted", 3.0, PACE)
    assert (again.whole_units, again.rung, again.refusals) == (True, 1, 2)
    assert refused(memory, "no fractions", 3.0, PACE, Refusal.FRACTION).rung == 1


def test_a_refused_price_is_tried_in_coarser_steps_three_times_and_then_another_kind() -> None:
    memory, tried = FRESH, []
    for _ in range(5):
        memory = refused(memory, "sub-penny", 2.0, PACE, Refusal.PRICE_STEP)
        tried.append((memory.coarser, memory.rung))
    assert tried == [(1, 0), (2, 0), (3, 0), (3, 1), (3, 2)]
    assert refused(memory, "halted", 3.0, PACE).coarser == 3


def test_refusals_are_waited_for_from_the_shortest_wait_on() -> None:
    first = refused(FRESH, "halted", 2.0, PACE)
    assert (first.retry_at, refused(first, "halted", 3.0, PACE).retry_at) == (2.5, 4.0)


@pytest.mark.parametrize(
    ("refusal", "quantity", "dust"),
    [
        (Refusal.BELOW_MINIMUM, "100", True),
        (Refusal.BELOW_MINIMUM, "40", False),
        (Refusal.OTHER, "100", False),
    ],
)
def test_only_a_whole_position_below_the_minimum_is_dust(refusal: Refusal, quantity: str, dust: bool) -> None:
    assert refused(FRESH, "no", 2.0, PACE, refusal, D(quantity)).dust is dust


def test_a_position_is_remembered_by_its_size_long_or_short() -> None:
    def of(quantity: str) -> Position:
        return Position("AAPL", D(quantity), abs(D(quantity)), D(50))

    tried = replace(FRESH, refusals=3, dust=True)
    assert remember(tried, of("-100"), 9.0) == remember(tried, of("100"), 9.0) == tried
    assert remember(tried, of("-120"), 9.0) == replace(tried, changed_at=9.0, quantity=D(120), dust=False)
    assert remember(tried, of("-60"), 9.0) == replace(tried, changed_at=9.0, quantity=D(60), refusals=0)
    assert remember(FRESH, of("120"), 9.0).dust is False


def test_of_a_symbol_that_is_gone_only_its_closes_are_remembered() -> None:
    memory = PositionMemory(
        changed_at=1.0,
        quantity=D(100),
        attempt=3,
        rung=2,
        sent_at=2.0,
        last_close="third",
        sent_against=D(100),
        excess=D(5),
        refusals=4,
        retry_at=99.0,
        reason="halted",
        placed_since=frozenset({"other"}),
        asked_since=2.0,
        whole_units=True,
        coarser=1,
        dust=True,
    )
    assert gone(memory, 9.0) == PositionMemory(
        changed_at=9.0,
        attempt=3,
        sent_at=2.0,
        last_close="third",
        sent_against=D(100),
        ended_at=9.0,
        placed_since=frozenset({"other"}),
        whole_units=True,
        coarser=1,
    )
    assert gone(gone(memory, 9.0), 12.0).ended_at == 9.0


def test_the_newest_of_several_closes_is_taken_over_and_one_without_a_number_counts_as_none() -> None:
    assert take_over(FRESH, [attempt(3), attempt(2)], INCIDENT).last_close == attempt(3).client_order_id
    in_bulk = close("named by the venue")
    assert take_over(FRESH, [in_bulk, attempt(1)], INCIDENT).attempt == 1
    assert take_over(FRESH, [in_bulk, attempt(1)], INCIDENT).last_close == attempt(1).client_order_id
    alone = take_over(FRESH, [in_bulk], INCIDENT)
    assert (alone.attempt, alone.last_close) == (0, in_bulk.client_order_id)


def test_a_close_taken_over_was_sent_against_what_is_left_and_what_it_filled_and_only_once() -> None:
    ours = attempt(2, "30", OrderStatus.PARTIALLY_FILLED)
    taken = take_over(replace(FRESH, quantity=D(70)), [ours], INCIDENT)
    assert (taken.attempt, taken.sent_against) == (2, D(100))
    assert take_over(taken, [replace(ours, filled_quantity=D(60))], INCIDENT) == taken
