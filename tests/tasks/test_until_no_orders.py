"""What is cancelled before anything is closed, in which order, and when that is given up. To the second."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from breaker.orders import Order, OrderStatus, OrderType, Side, Unreadable
from brokers.coverage import coverage_of
from brokers.protocol import BrokerRefused, BrokerUnavailable
from tasks.kill.flatten import Flattening
from tests.tasks.timed_venue import ABLE, NAME, WHOLE, StillClock, TimedVenue, order, position, watched

AWAY = BrokerUnavailable("the venue is away", account=NAME)
REFUSES = BrokerRefused("the venue refuses the keys", account=NAME)
PACE: dict[str, Any] = {"poll_interval": 0.25, "deadline": 60.0, "cancel_patience": 1.0}
STOP = replace(order(9, side=Side.SELL), type=OrderType.STOP, stop_price=Decimal(40))
"""It protects the ten of `position()`."""
OURS = replace(order(8, side=Side.SELL, attempt=1), quantity=Decimal(4))
UNREAD = Unreadable("order", "AAPL", "u1", "its limit price is empty")
NAMELESS = Unreadable("order", "", "u2", "it names no symbol")


def with_id(listed: list[Order]) -> list[str]:
    return [each.id for each in listed]


async def test_orders_are_cancelled_until_none_is_listed_and_that_reading_serves_flattening_too(
    clock: StillClock,
) -> None:
    venue = TimedVenue(clock, orders=[order(1), order(2)])
    account = watched(venue, **PACE)
    flattening = Flattening(account.run)
    clock.now += 3.5
    await flattening.until_no_orders()
    assert venue.asked == [(3.5, "orders"), (3.5, "positions"), (3.5, "cancel"), (3.5, "cancel"), (3.75, "orders")]
    assert venue.canceled == ["o1", "o2"]
    progress = account.run.progress
    assert (progress.orders_open, progress.canceled, progress.no_orders_after) == (0, 2, 3.75)
    assert account.recorded("CANCEL_POLICY") == [], "nothing protects"
    assert {*account.run.opening.filled} == {"o1", "o2"}, "what fills of them meanwhile is told of the exit's cost"
    clock.now += 0.25
    assert await flattening.until_flat()
    assert [what for _, what in venue.asked[5:]] == ["positions", "clock"], "the orders have been read just now"


async def test_an_older_reading_of_no_orders_is_made_anew(clock: StillClock) -> None:
    venue = TimedVenue(clock)
    flattening = Flattening(watched(venue, **PACE).run)
    await flattening.until_no_orders()
    clock.now += 0.3125
    assert await flattening.until_flat()
    assert [what for _, what in venue.asked] == ["orders", "orders", "positions", "clock"]


async def test_a_reading_with_closes_in_it_is_made_anew_too(clock: StillClock) -> None:
    venue = TimedVenue(clock, orders=[OURS], holdings=[position()], changes={0.125: {"orders": [], "holdings": []}})
    flattening = Flattening(watched(venue, **PACE).run)
    await flattening.until_no_orders()
    clock.now += 0.125
    assert await flattening.until_flat()
    assert [what for _, what in venue.asked] == ["orders", "positions", "orders", "positions", "clock"]


async def test_what_is_being_cancelled_protects_nothing_and_is_waited_for(clock: StillClock) -> None:
    """One stop on its way out kept 200 positions from closing in bulk: they took a minute of the rate limit."""
    going = replace(STOP, status=OrderStatus.PENDING_CANCEL)
    venue = TimedVenue(clock, orders=[going], holdings=[position()], changes={0.5: {"orders": []}})
    await Flattening(watched(venue, **PACE).run).until_no_orders()
    assert venue.when("orders") == [0, 0.25, 0.5] and venue.canceled == []


async def test_protective_orders_and_closes_of_the_incident_stay(clock: StillClock) -> None:
    venue = TimedVenue(clock, orders=[STOP, OURS, order(1)], holdings=[position()])
    account = watched(venue, **PACE)
    await Flattening(account.run).until_no_orders()
    assert venue.canceled == ["o1"] and with_id([*venue.orders]) == ["o9", "o8"]
    assert venue.when("orders") == [0, 0.25] and venue.when("positions") == [0, 0.25]
    assert account.recorded("CANCEL_POLICY") == [{"account": NAME, "protective": 1, "protective_last": True}]
    assert account.run.progress.orders_open == 2 and account.run.progress.no_orders_after is None
    assert account.run.opening.incident == {"o8"}


async def test_what_only_a_request_for_all_takes_is_taken_by_one_with_what_would_have_stayed(clock: StillClock) -> None:
    venue = TimedVenue(clock, orders=[STOP, order(1)], holdings=[position()], only_in_bulk=frozenset({"o1"}))
    account = watched(venue, **PACE)
    await Flattening(account.run).until_no_orders()
    assert venue.canceled == ["o1"] and venue.when("cancel all") == [0.25] and not venue.orders
    policies = [policy["protective_last"] for policy in account.recorded("CANCEL_POLICY")]
    assert policies == [True, False], "that stops go first is on record"


async def test_it_is_not_asked_for_all_where_only_a_part_of_the_account_is_covered(clock: StillClock) -> None:
    venue = TimedVenue(clock, orders=[order(1)], holdings=[position()], only_in_bulk=frozenset({"o1"}))
    account = watched(venue, coverage_of("symbol:AAPL", [NAME]), **PACE)
    await Flattening(account.run).until_no_orders()
    assert venue.when("cancel all") == [] and "resist" in account.run.progress.note


async def test_everything_but_closes_of_the_incident_goes_where_that_is_wanted(clock: StillClock) -> None:
    venue = TimedVenue(clock, orders=[STOP, OURS, order(1)], holdings=[position()])
    await Flattening(watched(venue, **PACE, cancel="all").run).until_no_orders()
    assert venue.canceled == ["o9", "o1"] and with_id([*venue.orders]) == ["o8"]
    assert venue.when("positions") == [], "they decide nothing"


@pytest.mark.parametrize(
    ("limit", "wanted", "stays"),
    [(8, "auto", True), (7, "auto", False), (7, "protective_last", True), (None, "auto", True)],
)
async def test_protective_orders_go_with_the_rest_where_the_rate_limit_has_no_room_for_them(
    limit: int | None, wanted: str, stays: bool, clock: StillClock
) -> None:
    """Two others are cancelled one by one, and so is the stop beside a close: four requests, of half a minute's."""
    able = replace(ABLE, requests_per_minute=limit)
    going = replace(order(2), status=OrderStatus.PENDING_CANCEL)
    gone = {0.125: {"orders": [STOP, going] if stays else [going]}, 0.375: {"orders": [STOP] if stays else []}}
    venue = TimedVenue(
        clock, orders=[STOP, order(1), going], holdings=[position()], capabilities=able, resisting="not yet"
    )
    venue.changes = gone
    account = watched(venue, **PACE, cancel=wanted)
    await Flattening(account.run).until_no_orders()
    assert venue.canceled == (["o1"] if stays else ["o9", "o1"])
    (policy,) = account.recorded("CANCEL_POLICY")
    assert policy["protective_last"] is stays
    read = len(venue.when("orders"))
    assert read > 1 and len(venue.when("positions")) == (read if stays else 1), "once all are to go they decide nothing"


async def test_what_is_decided_of_protective_orders_stays_decided(clock: StillClock) -> None:
    """Two hundred more would not fit beside it; it must not go in bulk with them all the same."""
    more = {0.25: {"orders": [STOP, *(order(number) for number in range(100, 300))]}}
    venue = TimedVenue(clock, orders=[STOP, order(1)], holdings=[position()], changes=more)
    account = watched(venue, **{**PACE, "cancel_patience": 10.0})
    await Flattening(account.run).until_no_orders()
    assert with_id([*venue.orders]) == ["o9"] and not venue.when("cancel all")
    assert len(account.recorded("CANCEL_POLICY")) == 1


async def test_of_a_strategy_its_orders_go_and_positions_are_not_asked_for(clock: StillClock) -> None:
    tagged = replace(STOP, client_order_id="meanrev-7")
    venue = TimedVenue(clock, orders=[tagged, order(1)], holdings=[position()])
    coverage = coverage_of("strategy:meanrev", [NAME])
    await Flattening(watched(venue, coverage, **PACE).run).until_no_orders()
    assert venue.canceled == ["o9"] and venue.when("positions") == []


async def test_positions_that_are_not_covered_are_none_of_the_exits(clock: StillClock) -> None:
    """They would be missing from every later reading, and count as closed."""
    venue = TimedVenue(clock, orders=[order(1)], holdings=[position(), position("MSFT")])
    account = watched(venue, coverage_of("symbol:AAPL", [NAME]), **PACE)
    await Flattening(account.run).until_no_orders()
    assert account.run.opening.quantities == {"AAPL": 10}


async def test_positions_are_what_the_last_reading_of_them_said(clock: StillClock) -> None:
    """The one that finds no order reads none; it says nothing of positions."""
    venue = TimedVenue(clock, orders=[order(1)], holdings=[position()])
    account = watched(venue, **PACE)
    await Flattening(account.run).until_no_orders()
    assert account.run.opening.quantities == {"AAPL": 10} and venue.when("positions") == [0]


@pytest.mark.parametrize(
    ("scope", "unread", "canceled"),
    [
        ("global", [UNREAD], ["u1"]),
        ("global", [NAMELESS], ["u2"]),
        ("global", [replace(UNREAD, id="")], []),
        ("symbol:AAPL", [UNREAD], ["u1"]),
        ("symbol:AAPL", [NAMELESS], []),
        ("symbol:AAPL", [replace(UNREAD, id="")], []),
    ],
)
async def test_an_order_that_cannot_be_read_is_cancelled_by_its_id_where_it_is_certain_that_it_is_covered(
    scope: str, unread: list[Unreadable], canceled: list[str], clock: StillClock
) -> None:
    venue = TimedVenue(clock, unreadable_orders=unread)
    await Flattening(watched(venue, coverage_of(scope, [NAME]), **PACE).run).until_no_orders()
    assert venue.canceled == canceled and not venue.when("cancel all")


async def test_beside_an_order_that_can_be_read_one_that_cannot_goes_too(clock: StillClock) -> None:
    venue = TimedVenue(clock, orders=[order(1)], unreadable_orders=[UNREAD])
    await Flattening(watched(venue, **PACE).run).until_no_orders()
    assert venue.canceled == ["o1", "u1"]


async def test_an_order_that_is_going_already_is_waited_for_and_not_asked_again(clock: StillClock) -> None:
    going = replace(order(1), status=OrderStatus.PENDING_CANCEL)
    venue = TimedVenue(clock, orders=[going, order(2)], changes={0.5: {"orders": []}})
    await Flattening(watched(venue, **PACE).run).until_no_orders()
    assert venue.canceled == ["o2"] and venue.when("orders") == [0, 0.25, 0.5]


async def test_cancels_that_stall_are_given_up_when_none_has_gone_for_the_patience(clock: StillClock) -> None:
    """Of three one goes in between, and from then on the second counts anew."""
    venue = TimedVenue(
        clock,
        orders=[order(1), order(2)],
        unreadable_orders=[UNREAD],
        resisting="pending replace",
        changes={0.625: {"unreadable_orders": []}},
    )
    account = watched(venue, **PACE)
    await Flattening(account.run).until_no_orders()
    assert venue.when("orders") == [0, 0.25, 0.5, 0.75, 1, 1.25, 1.5, 1.75, 2], "more than a second after the last went"
    assert account.run.progress.note == "2 orders resist; flattening beside them"


async def test_a_venue_that_is_away_is_asked_until_the_deadline_and_no_longer(clock: StillClock) -> None:
    venue = TimedVenue(clock, trouble=AWAY)
    account = watched(venue, **{**PACE, "deadline": 2.0})
    await Flattening(account.run).until_no_orders()
    assert venue.asked[-1] == (1.75, "cancel all") and account.run.progress.note == "the venue is away"


async def test_orders_that_cannot_be_read_are_cancelled_all_the_same(clock: StillClock) -> None:
    venue = TimedVenue(clock, orders=[order(1), order(2)], orders_trouble=AWAY, changes={0.5: {"orders_trouble": None}})
    account = watched(venue, **PACE)
    await Flattening(account.run).until_no_orders()
    assert venue.asked == [(0, "orders"), (0.25, "cancel all"), (0.25, "orders"), (0.5, "cancel all"), (0.5, "orders")]
    assert account.recorded("ORDERS_CANCELED_UNSEEN") == [{"account": NAME, "answers": n} for n in (2, 0)]
    assert [each["error"] for each in account.recorded("VENUE_UNAVAILABLE")] == ["the venue is away"] * 2


async def test_when_they_cannot_be_cancelled_either_that_is_told_too_and_the_venue_left_in_peace_for_a_moment(
    clock: StillClock,
) -> None:
    silent = BrokerUnavailable("no answer to a cancel", account=NAME)
    venue = TimedVenue(clock, orders_trouble=AWAY, cancel_trouble=silent, changes={0.75: {"orders_trouble": None}})
    account = watched(venue, **PACE)
    await Flattening(account.run).until_no_orders()
    assert venue.asked == [(0, "orders"), (0.25, "cancel all"), (0.5, "orders"), (0.75, "cancel all"), (1.0, "orders")]
    errors = [each["error"] for each in account.recorded("VENUE_UNAVAILABLE")]
    assert errors == ["the venue is away", "no answer to a cancel"] * 2


async def test_of_a_part_of_an_account_nothing_is_cancelled_unseen(clock: StillClock) -> None:
    venue = TimedVenue(clock, orders_trouble=AWAY, changes={1.0: {"orders_trouble": None}})
    await Flattening(watched(venue, coverage_of("symbol:AAPL", [NAME]), **PACE).run).until_no_orders()
    assert not venue.when("cancel all")


async def test_a_refusal_before_an_answer_does_not_count_as_persistence(clock: StillClock) -> None:
    venue = TimedVenue(
        clock,
        orders=[order(1)],
        orders_trouble=REFUSES,
        resisting="pending replace",
        changes={
            2.0: {"orders_trouble": None},
            2.25: {"orders_trouble": REFUSES},
            4.0: {"orders_trouble": None, "orders": ()},
        },
    )
    account = watched(venue, WHOLE, **{**PACE, "cancel_patience": 10.0}, refusal_patience=3.0)
    await Flattening(account.run).until_no_orders()
    assert venue.when("orders")[-1] == 4.0
