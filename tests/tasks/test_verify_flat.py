"""Flat means flat: two readings that agree and a watch for late fills, to the second."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from breaker.orders import Unreadable
from brokers.coverage import POSITIONS_UNKNOWN, coverage_of
from brokers.protocol import BrokerUnavailable
from tasks.kill.account import StuckItem
from tasks.kill.verify import verify_flat
from tests.tasks.timed_venue import NAME, StillClock, TimedVenue, order, position, watched

AWAY = BrokerUnavailable("the venue is away", account=NAME)
DUST = StuckItem("BTCUSD", Decimal("0.000000005"), 0, "below the venue's minimum")
PACE: dict[str, Any] = {"settle": 1.0, "guard": 5.0, "poll_interval": 0.1, "deadline": 60.0}


async def test_it_is_read_until_it_has_stood_for_the_settling_time_and_the_guard(clock: StillClock) -> None:
    venue = TimedVenue(clock)
    account = watched(venue, **PACE)
    clock.now += 0.12345
    account.run.update(orders_open=None, positions_open=None)
    assert await verify_flat(account.run)
    assert venue.when("orders") == [0.123, 1.123, 2.123, 3.123, 4.123, 5.123, 6.123]
    progress = account.run.progress
    assert venue.repeats_until == {66}, "the deadline, and what proving it takes"
    assert progress.flat and (progress.orders_open, progress.positions_open) == (0, 0)
    assert progress.flat_after == pytest.approx(0.12345), "it was flat when it was first seen, not when it was proven"
    assert account.records == [("ACCOUNT_FLAT", {"account": NAME, "after_seconds": 0.123, "readings": 7})]


@pytest.mark.parametrize(
    ("settle", "guard", "readings"),
    [
        (1.0, 0.0, [0, 1]),
        (1.0, 0.5, [0, 1, 1.5]),
        (2.0, 1.0, [0, 2, 3]),
        (0.0625, 0.0, [0, 0.062]),
        (4.0, 0.25, [0, 4, 4.25]),
    ],
)
async def test_a_short_guard_is_kept_to_the_moment(
    settle: float, guard: float, readings: list[float], clock: StillClock
) -> None:
    venue = TimedVenue(clock)
    assert await verify_flat(watched(venue, **{**PACE, "settle": settle, "guard": guard}).run)
    assert venue.when("positions") == readings


async def test_a_slow_venue_is_read_twice_all_the_same(clock: StillClock) -> None:
    venue = TimedVenue(clock, latency=4.0)
    assert await verify_flat(watched(venue, **PACE).run)
    assert venue.when("orders") == [0, 9]


@pytest.mark.parametrize("late", [0.5, 5.7])
async def test_whatever_appears_before_the_guard_has_passed_is_named_and_nothing_is_flat(
    late: float, clock: StillClock
) -> None:
    left = {"orders": [order(1, "MSFT"), order(2, "MSFT")], "holdings": [position("AAPL", "3"), position("NVDA", "0")]}
    venue = TimedVenue(clock, changes={late: left})
    account = watched(venue, **PACE)
    account.run.update(flat_after=0.0)
    assert not await verify_flat(account.run)
    progress = account.run.progress
    assert not progress.flat and progress.flat_after is None
    assert (progress.orders_open, progress.positions_open) == (2, 1)
    assert [(item.symbol, item.quantity, item.open_orders) for item in progress.stuck] == [
        ("AAPL", Decimal(3), 0),
        ("MSFT", Decimal(0), 2),
    ]
    assert "appeared after the book was flat" in progress.stuck[0].reason
    assert account.recorded("NOT_FLAT_AFTER_ALL") == [{"account": NAME, "orders": 2, "positions": ["AAPL"]}]
    assert account.recorded("ACCOUNT_FLAT") == []
    assert account.run.opening.quantities["AAPL"] == 3, "its cost is told too"


async def test_what_cannot_be_read_is_not_nothing(clock: StillClock) -> None:
    venue = TimedVenue(clock, unreadable_holdings=[Unreadable("position", "AAPL", "", "its quantity is empty")])
    assert not await verify_flat(watched(venue, **PACE).run)


async def test_readings_that_fail_prove_nothing_and_are_tried_again_until_the_deadline_and_its_guard(
    clock: StillClock,
) -> None:
    venue = TimedVenue(clock, trouble=AWAY)
    account = watched(venue, **{**PACE, "deadline": 2.0, "guard": 1.0, "poll_interval": 0.5})
    assert not await verify_flat(account.run)
    assert venue.when("orders") == [0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5]
    assert not account.run.progress.flat and account.run.progress.note == "the venue is away"


async def test_a_venue_that_comes_back_is_read_as_if_it_had_never_been_read(clock: StillClock) -> None:
    """However long it was away: two readings a moment apart would not be two that agree."""
    venue = TimedVenue(clock, trouble=AWAY, changes={30.0: {"trouble": None}})
    account = watched(venue, **{**PACE, "poll_interval": 10.0})
    assert await verify_flat(account.run)
    assert venue.when("positions") == [30, 31, 32, 33, 34, 35, 36]


async def test_dust_that_is_still_the_same_does_not_count_and_what_it_became_does(clock: StillClock) -> None:
    speck = position("BTCUSD", "0.000000005")
    account = watched(TimedVenue(clock, holdings=[speck]), **PACE)
    account.run.update(dust=(DUST,))
    assert await verify_flat(account.run)
    grown = watched(TimedVenue(clock, holdings=[replace(speck, quantity=Decimal("0.5"))]), **PACE)
    grown.run.update(dust=(DUST,))
    assert not await verify_flat(grown.run)


async def test_a_strategys_orders_are_gone_and_nothing_is_said_of_positions(clock: StillClock) -> None:
    account = watched(TimedVenue(clock), coverage_of("strategy:meanrev", [NAME]), **PACE)
    account.run.update(positions_at_start=3, notional_at_start=Decimal(7))
    clock.now += 0.12345
    assert await verify_flat(account.run)
    progress = account.run.progress
    assert not progress.flat and progress.note == POSITIONS_UNKNOWN
    assert (progress.positions_at_start, progress.positions_open, progress.notional_at_start) == (None, None, None)
    assert account.records == [("ORDERS_GONE", {"account": NAME, "after_seconds": 0.123, "readings": 7})]


async def test_a_record_of_what_came_back_names_fifty_positions_and_counts_all(clock: StillClock) -> None:
    account = watched(TimedVenue(clock, holdings=[position(f"S{number:02}") for number in range(60)]), **PACE)
    assert not await verify_flat(account.run)
    (recorded,) = account.recorded("NOT_FLAT_AFTER_ALL")
    assert recorded["positions"] == [f"S{number:02}" for number in range(50)]
    assert account.run.progress.positions_open == 60
