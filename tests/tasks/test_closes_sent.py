"""Which closes are sent after which answers of a venue, and what is told of them. To the second."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from breaker.orders import MarketClock, OrderStatus, Side, Unreadable
from brokers.coverage import Coverage, coverage_of
from brokers.protocol import BrokerUnavailable, CloseOrder, CloseOutcome, CloseResult, Refusal
from tasks.kill.account import CloseRecord, StuckItem, TimeIsUp
from tasks.kill.flatten import Flattening, LiftLock
from tasks.kill.memory import client_order_id
from tests.tasks.timed_venue import (
    INCIDENT,
    NAME,
    OPEN,
    WHOLE,
    StillClock,
    TimedVenue,
    Watched,
    bulk_close_of,
    order,
    position,
    watched,
)

LIMITED = BrokerUnavailable("the venue's rate limit is used up", account=NAME)
PACE: dict[str, Any] = {
    "poll_interval": 0.25,
    "deadline": 60.0,
    "stuck_after": 10.0,
    "escalate_after": 100.0,
    "retry_backoff": 1.0,
    "retry_backoff_max": 100.0,
}
MANY = [position(f"S{number:03}") for number in range(100)]
FIRST = client_order_id(INCIDENT, "AAPL", 1)

Answer = Callable[[CloseOrder], CloseResult]


async def flattened(
    venue: TimedVenue, lift: LiftLock | None = None, coverage: Coverage = WHOLE, **settings: Any
) -> tuple[Watched, bool]:
    account = watched(venue, coverage, **{**PACE, **settings})
    flattening = Flattening(account.run, lift)
    assert isinstance(venue.market, MarketClock)
    flattening.note_market(venue.market)
    return account, await flattening.until_flat()


def says(outcome: CloseOutcome, reason: str = "", refusal: Refusal = Refusal.OTHER) -> Answer:
    return lambda close: CloseResult(close.symbol, outcome, reason=reason, refusal=refusal)


def one_after_another(venue: TimedVenue, *answers: Answer | Exception) -> Answer:
    """Each close is answered with the next; when there is none left it fills."""
    left = list(answers)

    def answer(close: CloseOrder) -> CloseResult:
        if not left:
            venue.holdings = [held for held in venue.holdings if held.symbol != close.symbol]
            return CloseResult(close.symbol, CloseOutcome.ACCEPTED)
        following = left.pop(0)
        if isinstance(following, Exception):
            raise following
        return following(close)

    return answer


def attempts(venue: TimedVenue) -> list[int]:
    return [int(close.client_order_id.rpartition("-")[2]) for close in venue.closes]


REFUSED, UNKNOWN, ACCEPTED = CloseOutcome.REFUSED, CloseOutcome.UNKNOWN, CloseOutcome.ACCEPTED
SUSPENDED = says(REFUSED, "trading is suspended", Refusal.SUSPENDED)


# One close


async def test_a_close_is_recorded_when_it_is_sent_and_when_it_is_answered_and_told_in_the_report(
    clock: StillClock,
) -> None:
    venue = TimedVenue(clock, holdings=[position()])
    venue.answer = one_after_another(venue, says(REFUSED, "trading is halted"))
    account, flat = await flattened(venue)
    assert flat and attempts(venue) == [1, 1] and venue.when("close") == [0, 1], "a refused one has taken no attempt"
    about = {"account": NAME, "symbol": "AAPL", "client_order_id": FIRST}
    sent = {**about, "side": "sell", "quantity": "10"}
    assert account.recorded("POSITION_CLOSE_SENT") == [
        {**sent, "type": "market", "limit_price": None},
        {**sent, "type": "limit", "limit_price": "49.00"},
    ]
    assert account.recorded("POSITION_CLOSE_ANSWERED") == [
        {**about, "outcome": "refused", "reason": "trading is halted"},
        {**about, "outcome": "accepted", "reason": ""},
    ]
    progress = account.run.progress
    assert progress.closes_sent == 1 and progress.rounds == len(venue.when("orders"))
    first = CloseRecord("AAPL", "sell", Decimal(10), "market", FIRST, "refused", "trading is halted")
    assert progress.closes == (first, CloseRecord("AAPL", "sell", Decimal(10), "limit", FIRST, "accepted"))
    assert account.run.opening.unnamed == {FIRST: "AAPL"}, "its fills are told of the exit's cost"
    assert account.run.opening.quantities == {"AAPL": 0}


async def test_every_close_that_was_taken_is_counted(clock: StillClock) -> None:
    account, _ = await flattened(TimedVenue(clock, holdings=[position("AAPL"), position("MSFT")]))
    assert account.run.progress.closes_sent == 2


async def test_one_that_the_venue_has_already_is_not_sent_again_and_the_next_has_another_name(
    clock: StillClock,
) -> None:
    ended = replace(order(3, side=Side.SELL, attempt=1), status=OrderStatus.CANCELED)
    venue = TimedVenue(clock, holdings=[position()], ended=[ended])
    venue.answer = one_after_another(venue, says(CloseOutcome.DUPLICATE, "client_order_id must be unique"))
    account, flat = await flattened(venue)
    assert flat and attempts(venue) == [1, 2] and venue.when("close") == [0, 0.25]
    assert account.run.progress.closes_sent == 1
    assert venue.asked.index((0.25, "order")) < venue.asked.index((0.25, "close")), "what became of it is asked first"
    assert venue.when("positions") == [0, 0.25, 0.5], "and in the same round, as nothing of it had filled"


@pytest.mark.parametrize("lost", [says(UNKNOWN, "no answer; the venue does not know the order (yet)"), "time is up"])
async def test_one_whose_answer_was_lost_is_sent_again_by_the_same_name_at_once(
    lost: Answer | str, clock: StillClock
) -> None:
    venue = TimedVenue(clock, holdings=[position()])
    answer = TimeIsUp("no answer of the venue when the time was up", account=NAME) if isinstance(lost, str) else lost
    venue.answer = one_after_another(venue, answer)
    account, flat = await flattened(venue)
    assert flat and attempts(venue) == [1, 1] and venue.when("close") == [0, 0.25]
    assert [close.type.value for close in venue.closes] == ["market", "market"], "nothing was wrong with its kind"
    assert [close.outcome for close in account.run.progress.closes] == ["unknown", "accepted"]
    assert account.run.progress.closes[0].reason.startswith("no answer")


async def test_why_nothing_is_known_of_a_close_is_told_at_the_deadline(clock: StillClock) -> None:
    venue = TimedVenue(clock, holdings=[position()], answer=says(UNKNOWN, "no answer to the close"))
    account, flat = await flattened(venue, deadline=1.0)
    assert not flat and [item.reason for item in account.run.progress.stuck] == ["no answer to the close"]


async def test_a_rate_limit_that_let_no_close_through_makes_nothing_stuck(clock: StillClock) -> None:
    venue = TimedVenue(clock, holdings=[position()])
    venue.answer = one_after_another(venue, *[LIMITED] * 25)
    account, flat = await flattened(venue, deadline=1_000.0)
    assert flat and attempts(venue) == [1] * 26 and venue.when("close")[-1] > 2 * PACE["stuck_after"]
    assert {each["error"] for each in account.recorded("VENUE_UNAVAILABLE")} == {"the venue's rate limit is used up"}
    assert venue.when("close")[:3] == [0, 0.5, 1.0], "it is left in peace for a moment each time"


async def test_what_a_slow_venue_left_no_time_for_is_not_stuck(clock: StillClock) -> None:
    """Of twelve positions one can be closed in a round, before the reading is too old; two seconds of each count."""
    venue = TimedVenue(clock, holdings=[position(f"S{number:02}") for number in range(12)], latency=3.0)
    _, flat = await flattened(venue, deadline=1_000.0, poll_interval=0.125)
    assert flat and len(venue.closes) == 12


async def test_a_reading_of_two_seconds_is_fresh_enough_to_close_by(clock: StillClock) -> None:
    """Looking up what became of the last close takes just so long."""
    ended = replace(order(3, side=Side.SELL, attempt=1), status=OrderStatus.CANCELED)
    venue = TimedVenue(clock, holdings=[position()], ended=[ended], latency=2.0)
    venue.answer = one_after_another(venue, says(CloseOutcome.DUPLICATE))
    _, flat = await flattened(venue, deadline=1_000.0)
    assert flat and attempts(venue) == [1, 2]
    assert venue.when("positions") == [2, 8.25, 18.312], "in the first round that could"


# A lock of the venue's on the whole account


async def test_a_close_that_a_kill_switchs_lock_refused_is_sent_again_at_once_when_that_is_lifted(
    clock: StillClock,
) -> None:
    asked: list[float] = []

    async def lift(sent_at: float) -> bool:
        asked.append(sent_at - venue.started)
        clock.now += 4.0
        return True

    venue = TimedVenue(clock, holdings=[position()], latency=0.5)
    venue.answer = one_after_another(venue, SUSPENDED)
    account, flat = await flattened(venue, lift)
    assert flat and asked == [1.0], "when it was sent: what was lifted since then needs no lifting"
    assert venue.when("close") == [1.0, 6.75] and [close.type.value for close in venue.closes] == ["market", "market"]
    assert [close.outcome for close in account.run.progress.closes] == ["refused", "accepted"]


async def test_a_position_whose_lock_is_lifted_again_and_again_is_not_stuck(clock: StillClock) -> None:
    async def lift(_: float) -> bool:
        return True

    venue = TimedVenue(clock, holdings=[position()])
    venue.answer = one_after_another(venue, *[SUSPENDED] * 25)
    _, flat = await flattened(venue, lift, deadline=1_000.0)
    assert flat and len(venue.closes) == 26 and venue.when("close")[-1] > PACE["stuck_after"]


@pytest.mark.parametrize("lift", [False, None])
async def test_where_it_is_not_lifted_the_close_is_tried_ever_less_often(lift: bool | None, clock: StillClock) -> None:
    async def lifted(_: float) -> bool:
        return bool(lift)

    venue = TimedVenue(clock, holdings=[position()], answer=SUSPENDED)
    account, flat = await flattened(venue, None if lift is None else lifted, poll_interval=1.0)
    assert not flat and venue.when("close")[:3] == [0, 1, 3]
    assert [item.reason for item in account.run.progress.stuck] == ["trading is suspended"]


async def test_nothing_is_lifted_for_any_other_refusal(clock: StillClock) -> None:
    async def lift(_: float) -> bool:
        raise AssertionError("nobody has asked for that")

    venue = TimedVenue(clock, holdings=[position()], answer=says(REFUSED, "trading is halted"))
    _, flat = await flattened(venue, lift, poll_interval=1.0)
    assert not flat and venue.when("close")[:3] == [0, 1, 3]


# Cancels beside closes


FIVE = [order(number, "MSFT") for number in range(1, 6)]


async def test_nothing_is_cancelled_in_bulk_beside_a_close_that_was_just_sent(clock: StillClock) -> None:
    venue = TimedVenue(clock, orders=FIVE, holdings=[position()])
    _, flat = await flattened(venue)
    assert flat and venue.canceled == ["o1", "o2", "o3", "o4", "o5"] and not venue.when("cancel all")
    whats = [what for _, what in venue.asked]
    assert whats.index("close") < whats.index("cancel"), "a close belongs to the reading just made"


async def test_many_orders_are_cancelled_in_bulk_where_no_close_was_sent(clock: StillClock) -> None:
    venue = TimedVenue(clock, orders=FIVE)
    _, flat = await flattened(venue)
    assert flat and venue.canceled == [] and venue.when("cancel all") == [0]


async def test_an_order_that_resists_its_cancel_is_waited_for_for_a_second_and_its_reason_told(
    clock: StillClock,
) -> None:
    """Beside it the rest is closed then; five of the ten may be sold by it."""
    resisting = replace(order(1, side=Side.SELL), quantity=Decimal(5))
    others = [order(2, "MSFT"), order(3, "MSFT")]
    venue = TimedVenue(clock, orders=[resisting, *others], holdings=[position()], resisting="it is being replaced")
    venue.answer = lambda close: CloseResult(close.symbol, CloseOutcome.ACCEPTED)
    account, flat = await flattened(venue, deadline=4.0)
    assert not flat and venue.when("close") == [1.0] and venue.closes[0].quantity == 5
    assert account.run.progress.stuck == (
        StuckItem("AAPL", Decimal(10), 1, "the venue will not cancel order o1: it is being replaced", None),
        StuckItem("MSFT", Decimal(0), 2, "the venue will not cancel order o3: it is being replaced", None),
    )
    assert account.run.progress.orders_open == 3 and account.run.progress.positions_open == 1


async def test_an_order_without_a_symbol_that_resists_its_cancel_keeps_nothing_else_from_being_closed(
    clock: StillClock,
) -> None:
    venue = TimedVenue(
        clock,
        holdings=[position()],
        unreadable_orders=[Unreadable("order", "", "u1", "it names no symbol")],
        resisting="it is being replaced",
        changes={5.0: {"unreadable_orders": []}},
    )
    _, flat = await flattened(venue)
    assert flat and venue.when("close") == [0] and "u1" in venue.canceled


async def test_what_can_not_be_read_is_not_cancelled_where_it_may_be_beside_what_is_covered(clock: StillClock) -> None:
    venue = TimedVenue(
        clock,
        holdings=[position()],
        unreadable_orders=[Unreadable("order", "", "u1", "it names no symbol")],
        changes={1.0: {"unreadable_orders": []}},
    )
    _, flat = await flattened(venue, coverage=coverage_of("symbol:AAPL", [NAME]))
    assert flat and venue.canceled == [] and venue.when("close") == [0]


async def test_cancels_without_an_answer_are_told_and_keep_nothing_from_being_closed(clock: StillClock) -> None:
    away = BrokerUnavailable("no answer to a cancel", account=NAME)
    back: dict[float, dict[str, Any]] = {2.0: {"cancel_trouble": None}}
    venue = TimedVenue(clock, orders=[order(1, "MSFT")], holdings=[position()], cancel_trouble=away, changes=back)
    account, flat = await flattened(venue)
    assert flat and venue.when("close") == [0] and venue.when("cancel")[:3] == [0, 0.5, 1.0]
    assert {each["error"] for each in account.recorded("VENUE_UNAVAILABLE")} == {"no answer to a cancel"}
    assert account.run.progress.note == "", "what is flat has no trouble"


# Everything in one request


def bulk(venue: TimedVenue, *results: CloseResult) -> Callable[[], Sequence[CloseResult]]:
    """These positions are answered so; the others close."""
    named = {result.symbol: result for result in results}

    def answer() -> Sequence[CloseResult]:
        gone = [held for held in venue.holdings if held.symbol not in named]
        venue.holdings = [held for held in venue.holdings if held.symbol in named]
        return [*(CloseResult(held.symbol, ACCEPTED, bulk_close_of(held)) for held in gone), *results]

    return answer


async def test_what_closing_in_bulk_leaves_is_closed_one_by_one_and_all_of_it_told(clock: StillClock) -> None:
    venue = TimedVenue(clock, holdings=MANY)
    venue.bulk_answer = bulk(venue, CloseResult("S007", REFUSED, reason="trading is halted"))
    account, flat = await flattened(venue)
    assert flat and venue.when("close all") == [0] and venue.when("close") == [0.25]
    assert [close.client_order_id for close in venue.closes] == [client_order_id(INCIDENT, "S007", 1)]
    assert account.recorded("POSITIONS_CLOSE_ALL_SENT") == [{"account": NAME}]
    names = {held.symbol: f"venue-{held.symbol}" for held in MANY if held.symbol != "S007"}
    assert account.recorded("POSITIONS_CLOSE_ALL_ANSWERED") == [
        {"account": NAME, "accepted": names, "refused": {"S007": "trading is halted"}}
    ]
    told = {close.symbol: close for close in account.run.progress.closes if close.kind == "bulk close"}
    assert len(told) == 100 and account.run.progress.closes_sent == 100
    assert (told["S001"].client_order_id, told["S001"].quantity, told["S001"].side) == (
        "venue-S001",
        Decimal(10),
        "sell",
    )
    assert (told["S007"].client_order_id, told["S007"].outcome, told["S007"].reason) == (
        "",
        "refused",
        "trading is halted",
    )
    assert account.run.opening.sent == {f"bS{number:03}" for number in range(100) if number != 7}
    assert account.run.opening.positions.keys() == {held.symbol for held in MANY}


async def test_a_bulk_close_is_asked_for_once(clock: StillClock) -> None:
    venue = TimedVenue(clock, holdings=MANY)
    venue.bulk_answer = lambda: [CloseResult(held.symbol, REFUSED, reason="trading is halted") for held in MANY]
    _, flat = await flattened(venue)
    assert flat and len(venue.when("close all")) == 1 and len(venue.closes) == 100


async def test_positions_that_lag_behind_a_bulk_close_are_not_closed_once_more(clock: StillClock) -> None:
    venue = TimedVenue(clock, holdings=MANY, changes={3.0: {"holdings": []}}, most=5_000)
    filled = [bulk_close_of(held) for held in MANY]
    venue.bulk_answer = lambda: [CloseResult(order.symbol, ACCEPTED, order) for order in filled]
    venue.ended = filled
    _, flat = await flattened(venue, stuck_after=100.0)
    assert flat and venue.closes == []


async def test_the_orders_of_a_bulk_close_are_left_to_work(clock: StillClock) -> None:
    venue = TimedVenue(clock, holdings=MANY, changes={3.0: {"holdings": [], "orders": []}})
    working = [bulk_close_of(held, OrderStatus.NEW) for held in MANY]

    def answer() -> Sequence[CloseResult]:
        venue.orders = working
        return [CloseResult(order.symbol, ACCEPTED, order) for order in working]

    venue.bulk_answer = answer
    _, flat = await flattened(venue, stuck_after=100.0)
    assert flat and venue.closes == [] and venue.canceled == [] and not venue.when("cancel all")


async def test_a_position_that_a_bulk_close_reached_before_it_was_read_is_not_closed_once_more(
    clock: StillClock,
) -> None:
    late = position("ZZZ")
    venue = TimedVenue(clock, holdings=MANY, changes={0.125: {"holdings": [late]}, 3.0: {"holdings": []}})
    filled = [bulk_close_of(held) for held in (*MANY, late)]
    venue.bulk_answer = lambda: [CloseResult(order.symbol, ACCEPTED, order) for order in filled]
    venue.ended = filled
    _, flat = await flattened(venue, stuck_after=100.0)
    assert flat and venue.closes == []


async def test_of_a_short_position_that_a_bulk_close_left_a_part_of_the_rest_is_bought_at_once(
    clock: StillClock,
) -> None:
    """The position tells of all that has filled, so that there is nothing to wait for."""
    shorts = [position(f"S{number:03}", "-10") for number in range(100)]
    rest = [position(f"S{number:03}", "-6") for number in range(100)]
    ended = [bulk_close_of(held, OrderStatus.CANCELED, filled="4") for held in shorts]
    venue = TimedVenue(clock, holdings=shorts, ended=ended)

    def answer() -> Sequence[CloseResult]:
        venue.holdings = rest
        return [CloseResult(order.symbol, ACCEPTED, order) for order in ended]

    venue.bulk_answer = answer
    _, flat = await flattened(venue)
    assert flat and {*venue.when("close")} == {0.25} and attempts(venue) == [1] * 100
    assert {(close.side, close.quantity) for close in venue.closes} == {(Side.BUY, Decimal(6))}


async def test_a_bulk_close_without_an_answer_may_have_been_done_and_positions_are_left_alone_until_that_shows(
    clock: StillClock,
) -> None:
    def silent() -> Sequence[CloseResult]:
        clock.now += 20.0
        raise BrokerUnavailable("no answer to the bulk close", account=NAME)

    venue = TimedVenue(clock, holdings=MANY, bulk_answer=silent)
    account, flat = await flattened(venue, poll_interval=1.0)
    assert flat and len(venue.closes) == 100
    assert venue.when("close")[0] == 25.0, "five seconds"
    assert [each["error"] for each in account.recorded("VENUE_UNAVAILABLE")] == ["no answer to the bulk close"]
    assert venue.when("positions")[1] == 22.0, "the venue is left in peace for a moment"
    assert account.recorded("POSITIONS_CLOSE_ALL_ANSWERED") == []


async def test_what_a_bulk_close_refuses_after_a_long_wait_is_tried_one_by_one_all_the_same(clock: StillClock) -> None:
    def slow() -> Sequence[CloseResult]:
        clock.now += 20.0
        return [CloseResult(held.symbol, REFUSED, reason="trading is halted") for held in MANY]

    venue = TimedVenue(clock, holdings=MANY, bulk_answer=slow)
    _, flat = await flattened(venue)
    assert flat and len(venue.closes) == 100


@pytest.mark.parametrize("taken", [100, 1, 0])
async def test_nothing_is_closed_in_bulk_beside_closes_whose_fills_the_positions_may_not_show_yet(
    taken: int, clock: StillClock
) -> None:
    """An order that resists for a moment: the closes go one by one, and those taken have filled when it is gone."""
    venue = TimedVenue(
        clock,
        orders=[order(1, "MSFT")],
        holdings=MANY,
        resisting="it is being replaced",
        changes={0.125: {"orders": []}, 0.5: {"holdings": []}},
    )
    taking = {held.symbol for held in MANY[:taken]}
    venue.answer = lambda close: says(ACCEPTED if close.symbol in taking else REFUSED, "not now")(close)
    venue.bulk_answer = lambda: []
    _, flat = await flattened(venue, stuck_after=100.0)
    assert flat and len(venue.closes) == 100
    assert venue.when("close all") == ([] if taken else [0.25]), "what was refused can't have filled"


# How it ends


async def test_an_account_that_is_flat_has_nothing_stuck_and_no_trouble(clock: StillClock) -> None:
    """Even after it was stuck, and where dust counts as a failure."""
    away = BrokerUnavailable("the venue is away", account=NAME)
    changes: dict[float, dict[str, Any]] = {0.5: {"trouble": None}, 1.0: {"orders": []}}
    venue = TimedVenue(clock, trouble=away, orders=[order(1)], resisting="it is being replaced", changes=changes)
    account = watched(venue, **{**PACE, "stuck_after": 0.25}, dust="fail")
    flattening = Flattening(account.run)
    assert not await flattening.until_flat() and account.run.progress.stuck
    assert account.run.progress.note == "the venue is away"
    clock.now += 1.0
    assert await flattening.until_flat() is True
    assert (account.run.progress.stuck, account.run.progress.dust, account.run.progress.note) == ((), (), "")
    assert (account.run.progress.orders_open, account.run.progress.positions_open) == (0, 0)


async def test_the_first_moment_without_orders_is_told_and_no_later_one(clock: StillClock) -> None:
    venue = TimedVenue(
        clock,
        orders=[order(1)],
        holdings=[position()],
        answer=says(ACCEPTED),
        resisting="it is being replaced",
        changes={1.0: {"orders": []}, 2.0: {"orders": [order(2)]}, 3.0: {"orders": [], "holdings": []}},
    )
    account, flat = await flattened(venue)
    assert flat and account.run.progress.no_orders_after == 1.0


@pytest.mark.parametrize("there", [True, False])
async def test_an_engine_that_goes_on_trading_is_named_and_not_for_orders_that_were_there(
    there: bool, clock: StillClock
) -> None:
    placed: dict[str, Any] = {"orders": [order(1)]}
    venue = TimedVenue(clock, resisting="it is being replaced", holdings=[position("MSFT")], answer=says(ACCEPTED))
    venue.changes = {0.0 if there else 0.25: placed}
    account, flat = await flattened(venue, deadline=2.0)
    assert not flat
    (reason,) = [item.reason for item in account.run.progress.stuck if item.symbol == "AAPL"]
    assert ("something is still trading: 1 orders were placed" in reason) is not there


async def test_a_venue_that_is_away_at_the_deadline_is_named_by_its_last_word(clock: StillClock) -> None:
    away = BrokerUnavailable("the venue is away", account=NAME)
    closed = BrokerUnavailable("the venue is closed for maintenance", account=NAME)
    venue = TimedVenue(clock, trouble=away, changes={2.0: {"trouble": closed}})
    account, flat = await flattened(venue, deadline=2.0)
    assert flat is False and account.run.progress.note == "the venue is closed for maintenance"
    assert venue.when("orders")[-1] == 2.0


async def test_what_is_left_is_named_when_the_time_is_up_in_the_middle_of_a_round(clock: StillClock) -> None:
    """Whichever of the looks at the clock it is that finds it up."""
    for offset in range(20):
        clock.tick = 0.0
        venue = TimedVenue(clock, holdings=[position()], answer=says(ACCEPTED))
        clock.tick = 0.01
        account, flat = await flattened(venue, deadline=1.0 + offset * 0.01)
        assert not flat and [item.symbol for item in account.run.progress.stuck] == ["AAPL"], offset


async def test_the_venues_session_is_asked_for_when_what_is_known_of_it_is_old(clock: StillClock) -> None:
    venue = TimedVenue(clock, holdings=[position()], answer=says(ACCEPTED), changes={7.0: {"holdings": []}})
    await flattened(venue)
    assert len(venue.when("clock")) == 1 and 5.0 < venue.when("clock")[0] <= 6.5


async def test_nothing_waits_for_the_venues_session_when_everything_is_done(clock: StillClock) -> None:
    class Silent(TimedVenue):
        async def clock(self) -> MarketClock:
            await asyncio.Event().wait()
            return OPEN

    before = asyncio.all_tasks()
    venue = Silent(clock, holdings=[position()], answer=says(ACCEPTED), changes={7.0: {"holdings": []}})
    _, flat = await flattened(venue)
    await asyncio.sleep(0)
    assert flat and asyncio.all_tasks() == before
