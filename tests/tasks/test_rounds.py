"""The rounds of one account: how often it is read, when they end, and what is asked in bulk. To the second."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from itertools import pairwise
from typing import Any

import pytest

from breaker.instruments import CRYPTO, EQUITY, OPTION
from breaker.orders import MarketClock, OrderStatus, Side, Unreadable
from brokers.coverage import coverage_of
from brokers.protocol import BrokerRefused, BrokerUnavailable, CloseOrder, CloseOutcome, CloseResult, Refusal
from tasks.kill.flatten import Flattening
from tests.tasks.timed_venue import ABLE, CLOSED, NAME, OPEN, StillClock, TimedVenue, Watched, order, position, watched

AWAY = BrokerUnavailable("the venue is away", account=NAME)
PACE: dict[str, Any] = {
    "poll_interval": 0.1,
    "deadline": 60.0,
    "stuck_after": 10.0,
    "escalate_after": 3.0,
    "cancel_patience": 1.0,
}
UNREAD = Unreadable("position", "MSFT", "", "its quantity is empty")
RESISTS = replace(order(1), status=OrderStatus.PENDING_REPLACE)


async def flattened(venue: TimedVenue, **settings: Any) -> tuple[Watched, bool]:
    account = watched(venue, **{**PACE, **settings})
    flattening = Flattening(account.run)
    if isinstance(venue.market, MarketClock):
        flattening.note_market(venue.market)
    return account, await flattening.until_flat()


def refuses(reason: str, refusal: Refusal = Refusal.OTHER) -> Callable[[CloseOrder], CloseResult]:
    return lambda close: CloseResult(close.symbol, CloseOutcome.REFUSED, reason=reason, refusal=refusal)


def stands(close: CloseOrder) -> CloseResult:
    """Taken, and filled by nobody."""
    return CloseResult(close.symbol, CloseOutcome.ACCEPTED)


# How often the book is read


async def test_a_book_that_changes_is_read_each_interval_and_one_that_stands_ever_less_often(clock: StillClock) -> None:
    venue = TimedVenue(clock, holdings=[position()], changes={100.0: {"holdings": []}}, answer=stands)
    _, flat = await flattened(venue, deadline=200.0, stuck_after=1_000.0, escalate_after=1_000.0)
    assert flat and venue.repeats_until == {200}, "nothing is repeated beyond the deadline"
    read = venue.when("positions")
    pauses = [round(later - earlier, 3) for earlier, later in pairwise(read)]
    assert pauses[:5] == [0.1] * 5, "a quarter of the time since it changed, and no less than the interval"
    assert pauses == sorted(pauses) and pauses[-1] == 2.0, "no more than twenty intervals"
    growing = [(at, pause) for at, pause in zip(read, pauses, strict=False) if 0.1 < pause < 2.0]
    assert growing and all(pause == pytest.approx(at / 4, abs=0.002) for at, pause in growing)


async def test_a_change_begins_the_frequent_readings_anew(clock: StillClock) -> None:
    venue = TimedVenue(
        clock,
        holdings=[position(), position("MSFT")],
        changes={20.0: {"holdings": [position()]}, 40.0: {"holdings": []}},
        answer=stands,
    )
    await flattened(venue, stuck_after=1_000.0, escalate_after=1_000.0)
    read = venue.when("positions")
    seen = next(at for at in read if at >= 20.0)
    assert [round(at - seen, 3) for at in read if seen < at < seen + 0.35] == [0.1, 0.2, 0.3]


@pytest.mark.parametrize(
    ("orders", "page_size", "requests"), [(1, 20, 3), (19, 20, 3), (20, 20, 4), (3, 2, 4), (9, 2, 7)]
)
async def test_readings_leave_half_of_the_rate_limit_to_cancels_and_closes(
    orders: int, page_size: int, requests: int, clock: StillClock
) -> None:
    """One request for each page of orders, one that confirms their end, one for the positions."""
    able = replace(ABLE, requests_per_minute=120, page_size=page_size)
    resisting = [replace(order(number, side=Side.BUY), status=OrderStatus.PENDING_CANCEL) for number in range(orders)]
    venue = TimedVenue(clock, orders=resisting, capabilities=able, changes={3_000.0: {"orders": []}}, most=100_000)
    await flattened(venue, deadline=4_000.0, stuck_after=5_000.0, poll_interval=0.01)
    late = [at for at in venue.when("orders") if 1_000 < at < 2_000]
    a_minute = requests * len(late) / (1_000 / 60)
    assert a_minute == pytest.approx(60, rel=0.03)


# When they end


async def test_dust_alone_is_the_end_and_counts_as_it_was_settled(clock: StillClock) -> None:
    def venue() -> TimedVenue:
        return TimedVenue(
            clock,
            holdings=[position("BTCUSD", "0.000000005", CRYPTO)],
            answer=refuses("cost basis below the minimum", Refusal.BELOW_MINIMUM),
        )

    account, flat = await flattened(venue())
    assert flat and [item.symbol for item in account.run.progress.dust] == ["BTCUSD"]
    account, flat = await flattened(venue(), dust="fail")
    assert not flat and [item.symbol for item in account.run.progress.dust] == ["BTCUSD"]


async def test_what_is_stuck_ends_it_only_when_nothing_else_is_left_and_is_cancelled_once_more(
    clock: StillClock,
) -> None:
    venue = TimedVenue(
        clock,
        holdings=[position("AAPL"), position("MSFT")],
        answer=refuses("trading is halted"),
        changes={30.0: {"holdings": [position("AAPL")]}},
    )
    account, flat = await flattened(venue, stuck_after=10.0)
    assert not flat
    assert [item.symbol for item in account.run.progress.stuck] == ["AAPL", "MSFT"]
    assert 10 <= venue.when("positions")[-1] < 13, "both have been stuck for as long as that"


async def test_the_deadline_ends_it_with_everything_that_is_left_named_and_cancelled(clock: StillClock) -> None:
    venue = TimedVenue(clock, holdings=[position()], answer=stands, changes={60.0: {"orders": [order(1, "MSFT")]}})
    account, flat = await flattened(venue, stuck_after=1_000.0, escalate_after=1_000.0, deadline=60.0)
    assert not flat and 60 <= venue.when("orders")[-1] <= 62.1
    assert {item.symbol for item in account.run.progress.stuck} == {"AAPL", "MSFT"}
    assert list(venue.orders) == [], "what is too late to wait for is cancelled all the same"


async def test_what_a_late_fill_opens_again_has_all_its_time_anew(clock: StillClock) -> None:
    """Also where the symbol had been held up before, until it was nearly given up."""
    venue = TimedVenue(clock, holdings=[position()], changes={9.0: {"holdings": []}}, answer=refuses("halted"))
    account = watched(venue, **{**PACE, "deadline": 300.0})
    flattening = Flattening(account.run)
    flattening.note_market(OPEN)
    assert await flattening.until_flat()
    clock.now += 3.0
    venue.answer, venue.holdings = None, [position()]
    assert await flattening.until_flat()
    assert venue.closes[-1].quantity == Decimal(10) and not venue.holdings


async def test_what_a_late_fill_opens_beside_dust_is_closed_and_the_dust_is_left(clock: StillClock) -> None:
    tiny = position("BTCUSD", "0.000000005", CRYPTO)
    venue = TimedVenue(clock, holdings=[tiny], answer=refuses("too small", Refusal.BELOW_MINIMUM))
    flattening = Flattening(watched(venue, **PACE).run)
    flattening.note_market(OPEN)
    assert await flattening.until_flat()
    venue.answer, venue.holdings = None, [tiny, position()]
    assert await flattening.until_flat()
    assert [close.symbol for close in venue.closes] == ["BTCUSD", "AAPL"]


@pytest.mark.parametrize("quantity", ["12", "-12"])
async def test_what_has_grown_or_turned_has_all_its_time_anew(clock: StillClock, quantity: str) -> None:
    changes: dict[float, dict[str, Any]]
    changes = {9.0: {"holdings": [position(quantity=quantity)]}, 12.0: {"answer": None}}
    venue = TimedVenue(clock, holdings=[position()], answer=refuses("halted"), changes=changes)
    _, flat = await flattened(venue, deadline=300.0)
    assert flat and venue.closes[-1].quantity == Decimal(12)


async def test_dust_keeps_nothing_else_from_being_closed(clock: StillClock) -> None:
    tiny = position("BTCUSD", "0.000000005", CRYPTO)
    too_little = refuses("cost basis below the minimum", Refusal.BELOW_MINIMUM)
    venue = TimedVenue(
        clock,
        holdings=[tiny, position()],
        answer=lambda close: too_little(close) if close.symbol == "BTCUSD" else stands(close),
        changes={5.0: {"holdings": [tiny]}},
    )
    _, flat = await flattened(venue)
    assert flat and venue.when("positions")[-1] >= 5


# What counts as having been tried


@pytest.mark.parametrize(("poll_interval", "rounds"), [(0.1, 4), (0.001, 6)])
async def test_of_a_round_that_the_venue_keeps_waiting_two_seconds_and_our_own_rest_make_for_being_stuck(
    poll_interval: float, rounds: int, clock: StillClock
) -> None:
    """Each answer takes 20 s: ten seconds of being refused would be over in the first round."""
    venue = TimedVenue(clock, holdings=[position()], answer=refuses("halted"), latency=20.0)
    _, flat = await flattened(venue, deadline=5_000.0, stuck_after=10.0, poll_interval=poll_interval)
    assert not flat and len(venue.when("positions")) == rounds


async def test_a_venue_that_answers_at_once_leaves_a_position_stuck_when_it_has_been_refused_for_so_long(
    clock: StillClock,
) -> None:
    venue = TimedVenue(clock, holdings=[position()], answer=refuses("halted"))
    _, flat = await flattened(venue, deadline=5_000.0, stuck_after=10.0)
    assert not flat and 10 <= venue.when("positions")[-1] <= 12.1


# Closing in bulk


MANY = [position(f"S{number:03}") for number in range(100)]


@pytest.mark.parametrize(
    ("changed", "in_bulk"),
    [
        ({}, True),
        ({"holdings": MANY[1:]}, False),
        ({"capabilities": replace(ABLE, bulk_close=False)}, False),
        ({"holdings": [*MANY[1:], position("BTCUSD", instrument=CRYPTO)]}, False),
        ({"holdings": [*MANY[1:], position("AAPL261218C00200000", instrument=OPTION)]}, False),
        ({"orders": [RESISTS]}, False),
        ({"unreadable_holdings": [UNREAD]}, False),
        ({"market": CLOSED}, False),
    ],
)
async def test_everything_is_closed_in_one_request_only_where_nothing_could_fill_beside_it(
    changed: dict[str, Any], in_bulk: bool, clock: StillClock
) -> None:
    venue = TimedVenue(
        clock, **{"holdings": MANY, "changes": {1.0: {"unreadable_holdings": [], "orders": []}}, **changed}
    )
    _, flat = await flattened(venue)
    assert flat and bool(venue.when("close all")) is in_bulk and bool(venue.closes) is not in_bulk


async def test_nothing_is_closed_in_bulk_where_the_session_is_not_known(clock: StillClock) -> None:
    venue = TimedVenue(clock, holdings=MANY, market=AWAY)
    assert await Flattening(watched(venue, **PACE).run).until_flat()
    assert not venue.when("close all") and len(venue.closes) == 100


async def test_nothing_is_closed_in_bulk_where_only_a_part_of_the_account_is_covered(clock: StillClock) -> None:
    options = [position(f"AAPL261218C{number:05}000", instrument=EQUITY) for number in range(100)]
    venue = TimedVenue(clock, holdings=options)
    flattening = Flattening(watched(venue, coverage_of("symbol:AAPL", [NAME]), **PACE).run)
    flattening.note_market(OPEN)
    assert await flattening.until_flat()
    assert not venue.when("close all") and len(venue.closes) == 100


# What is sent, and what a venue that refuses or says nothing means


REFUSES = BrokerRefused("the venue refuses the keys", account=NAME)


async def test_a_refusal_is_believed_once_it_has_persisted_and_not_for_what_came_before_an_answer(
    clock: StillClock,
) -> None:
    one_answer: dict[float, dict[str, Any]] = {3.0: {"trouble": None}, 4.0: {"trouble": REFUSES}}
    venue = TimedVenue(clock, holdings=[position()], trouble=REFUSES, answer=stands, changes=one_answer)
    account = watched(venue, **PACE, refusal_patience=5.0)
    with pytest.raises(BrokerRefused, match="refuses the keys"):
        await Flattening(account.run).until_flat()
    assert 9 <= venue.asked[-1][0] <= 10.2
    assert account.run.progress.note == "the venue refuses the keys"
    assert len(account.recorded("VENUE_UNAVAILABLE")) > 50


@pytest.mark.parametrize(("poll_interval", "pause"), [(0.1, 0.1), (0.01, 0.05)])
async def test_a_venue_that_is_away_is_asked_until_the_deadline(
    poll_interval: float, pause: float, clock: StillClock
) -> None:
    venue = TimedVenue(clock, trouble=AWAY)
    account, flat = await flattened(venue, deadline=10.0, poll_interval=poll_interval, refusal_patience=1.0)
    moments = venue.when("orders")
    assert not flat and 10 <= moments[-1] <= 10.1 and account.run.progress.note == "the venue is away"
    assert {round(later - earlier, 3) for earlier, later in pairwise(moments)} == {pause}


async def test_no_close_goes_by_an_old_reading_nor_before_it_is_known_what_became_of_the_last(
    clock: StillClock,
) -> None:
    """Each answer takes three seconds, so that looking up the last close makes the reading too old."""
    venue = TimedVenue(clock, holdings=[position()], answer=stands, latency=3.0)
    await flattened(venue, deadline=200.0, stuck_after=1_000.0, escalate_after=1.0)
    sent, looked_up, read = venue.when("close"), venue.when("order"), venue.when("positions")
    assert len(sent) >= 2
    for earlier, later in pairwise(sent):
        assert any(earlier < at < later for at in looked_up)
        assert later - max(at + venue.latency for at in read if at < later) <= 2.0


async def test_what_became_of_the_last_close_is_asked_until_it_is_known(clock: StillClock) -> None:
    answered: dict[float, dict[str, Any]] = {20.0: {"lookup_trouble": None}}
    venue = TimedVenue(clock, holdings=[position()], answer=stands, lookup_trouble=AWAY, changes=answered)
    account, _ = await flattened(venue, stuck_after=1_000.0, escalate_after=1.0)
    first, second, *_ = venue.when("close")
    assert first < 1 and 20 <= second < 30
    assert account.recorded("VENUE_UNAVAILABLE")[0]["error"] == "the venue is away"


async def test_a_refusal_is_believed_at_once_when_its_time_has_come(clock: StillClock) -> None:
    venue = TimedVenue(clock, trouble=REFUSES)
    with pytest.raises(BrokerRefused):
        await flattened(venue, poll_interval=0.125, refusal_patience=0.5)
    assert venue.when("orders")[-1] == 0.5
