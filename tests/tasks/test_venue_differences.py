"""What a venue can't do is not asked of it, and what it does better than others is used."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from breaker.instruments import CRYPTO, EQUITY, AssetClass, Instrument
from breaker.orders import MarketClock, OrderType, Position, PositionSide, Side
from brokers.cancel_by_id import cancel_each
from brokers.coverage import coverage_of
from brokers.protocol import (
    BrokerUnavailable,
    CancelOutcome,
    CancelResult,
    Capabilities,
    CloseOrder,
    CloseOutcome,
    CloseResult,
    Refusal,
    Weights,
)
from brokers.sweep import first_sweep
from tasks.kill.book import Book
from tasks.kill.flatten import Flattening
from tasks.kill.ladder import Rung, ladder
from tasks.kill.memory import refused
from tasks.kill.snapshot import forecast
from tests.tasks.test_plan import ABLE, CLOSED, OPEN, PACE, close_of, order, plan, position, remembered
from tests.tasks.timed_venue import NAME, StillClock, TimedVenue, watched
from tests.tasks.timed_venue import order as listed_order
from tests.tasks.timed_venue import position as held_position

D = Decimal
PERPETUAL = Instrument(AssetClass.PERPETUAL)
NO_MARKET_ORDERS = replace(ABLE, market_orders=False)
NATIVE = replace(ABLE, native_close=True, reduce_only=True)
NO_EXTENDED_HOURS = replace(ABLE, extended_hours=False)


def rungs(able: Capabilities, instrument: Instrument, market: MarketClock | None, price: Decimal | None) -> list[Rung]:
    return [kind for kind, _ in ladder(D(10), price, market, PACE, instrument, able)]


@pytest.mark.parametrize(
    ("able", "instrument", "market", "price", "kinds"),
    [
        (NO_MARKET_ORDERS, PERPETUAL, None, D(50), [Rung.LIMIT, Rung.LIMIT]),
        (NO_MARKET_ORDERS, EQUITY, OPEN, D(50), [Rung.LIMIT, Rung.LIMIT]),
        (NO_MARKET_ORDERS, EQUITY, OPEN, None, []),
        (NO_MARKET_ORDERS, EQUITY, CLOSED, D(50), [Rung.EXTENDED_HOURS, Rung.EXTENDED_HOURS]),
        (replace(NO_MARKET_ORDERS, extended_hours=False), EQUITY, CLOSED, D(50), []),
        (replace(NO_MARKET_ORDERS, extended_hours=False), EQUITY, None, D(50), [Rung.LIMIT, Rung.LIMIT]),
        (NO_EXTENDED_HOURS, EQUITY, CLOSED, D(50), [Rung.QUEUED]),
        (NO_EXTENDED_HOURS, EQUITY, None, D(50), [Rung.MARKET]),
        (NATIVE, PERPETUAL, None, D(50), [Rung.NATIVE, Rung.MARKET, Rung.LIMIT, Rung.LIMIT]),
        (NATIVE, EQUITY, CLOSED, D(50), [Rung.EXTENDED_HOURS, Rung.EXTENDED_HOURS, Rung.QUEUED]),
    ],
)
def test_only_kinds_of_orders_are_tried_that_the_venue_takes(
    able: Capabilities, instrument: Instrument, market: MarketClock | None, price: Decimal | None, kinds: list[Rung]
) -> None:
    assert rungs(able, instrument, market, price) == kinds


def closes(able: Capabilities, held: Position, *orders: object, at: float = 100.0) -> Sequence[CloseOrder]:
    return plan(orders, [held], able=able, now=at).closes  # type: ignore[arg-type]


@pytest.mark.parametrize("reduce_only", [True, False])
def test_a_close_is_reduce_only_where_the_venue_has_that(reduce_only: bool) -> None:
    (close,) = closes(replace(ABLE, reduce_only=reduce_only), position())
    assert close.reduce_only is reduce_only and not close.native


def test_the_venue_itself_closes_a_position_whole_and_an_order_what_else_is_to_be_closed() -> None:
    (whole,) = closes(NATIVE, position())
    assert whole.native and whole.quantity == 100
    (part,) = closes(NATIVE, position(available="40"))
    assert not part.native and (part.quantity, part.type) == (D(40), OrderType.MARKET)
    only_native = replace(NATIVE, market_orders=False)
    assert closes(only_native, replace(position(available="40"), current_price=None)) == ()


def test_after_the_venues_own_close_was_refused_an_order_is_sent() -> None:
    memory = replace(refused(remembered(), "not now", 90.0, PACE), retry_at=0.0)
    (close,) = plan([], [position()], {"AAPL": memory}, able=NATIVE).closes
    assert not close.native and close.type is OrderType.MARKET


def test_a_close_larger_than_the_venue_takes_at_once_goes_in_pieces() -> None:
    held = replace(position(), instrument=replace(PERPETUAL, maximum_quantity=D(30), quantity_increment=D(4)))
    (close,) = closes(ABLE, held)
    assert close.quantity == 28
    (whole,) = closes(NATIVE, held)
    assert whole.native and whole.quantity == 100


def test_without_market_orders_and_without_a_price_a_person_is_told_what_to_do() -> None:
    held = replace(position(), current_price=None)
    first = plan([], [held], able=NO_MARKET_ORDERS)
    later = plan([], [held], first.memory, able=NO_MARKET_ORDERS, now=100 + PACE.stuck_after)
    assert later.closes == () and later.stuck == {
        "AAPL": "the venue takes no market orders and gives no price for a limit order: close it there"
    }


def test_a_position_goes_by_the_session_of_its_own_market() -> None:
    opens = datetime(2026, 11, 30, 23, tzinfo=UTC)
    closed = MarketClock(datetime(2026, 11, 28, 12, tzinfo=UTC), is_open=False, next_open=opens)
    held = replace(position(), instrument=replace(EQUITY, asset_class=AssetClass.OPTION), market=closed)
    decided = plan([], [held, position(symbol="MSFT")], market=OPEN)
    assert [close.symbol for close in decided.closes] == ["MSFT"]
    assert decided.opens_at == {"AAPL": opens} and "2026-11-30 23:00 UTC" in decided.stuck["AAPL"]
    assert close_of([], replace(position(), market=OPEN), market=CLOSED) is not None
    assert replace(held, market=OPEN) == held, "a clock that moves on is no change of the book"


def test_nothing_is_wrong_with_the_kind_of_order_where_nothing_is_left_to_reduce() -> None:
    memory = refused(remembered(), "ReduceOnly Order is rejected", 100.0, PACE, Refusal.NOTHING_LEFT)
    assert (memory.rung, memory.refusals) == (0, 1)


async def test_a_leg_that_the_venue_calls_closed_before_its_list_does_is_waited_for(clock: StillClock) -> None:
    """Binance, −2022 on a reduce-only close: it is closed already, as by a liquidation."""
    short = replace(held_position(quantity="-10"), position_side=PositionSide.SHORT)
    venue = TimedVenue(clock, holdings=[short], capabilities=replace(ABLE, reduce_only=True))
    venue.answer = lambda close: CloseResult(
        close.symbol, CloseOutcome.REFUSED, reason="closed already", refusal=Refusal.NOTHING_LEFT
    )
    venue.changes = {2.0: {"holdings": []}}
    account = watched(venue, deadline=60.0)
    assert await Flattening(account.run).until_flat()
    assert {close.type for close in venue.closes} == {OrderType.MARKET}


class Batching(TimedVenue):
    """Cancels several orders in one request, and leaves what it can't find out of its answer."""

    async def cancel_many(self, order_ids: Sequence[str]) -> Sequence[CancelResult]:
        self._ask(f"cancel {len(order_ids)}")
        return [self._cancel(order_id) for order_id in order_ids if order_id in self._ids()]


def batching(clock: StillClock, orders: int, batch: int = 10) -> Batching:
    able = replace(ABLE, bulk_cancel=False, batch_cancel=batch)
    return Batching(clock, orders=[listed_order(number) for number in range(orders)], capabilities=able)


async def test_orders_are_cancelled_as_many_at_once_as_the_venue_takes(clock: StillClock) -> None:
    venue = batching(clock, 25)
    results = await cancel_each(venue, [*(f"o{number}" for number in range(25)), "gone"])
    assert sorted(asked for _, asked in venue.asked) == ["cancel 10", "cancel 10", "cancel 6"]
    assert [result.outcome for result in results] == [CancelOutcome.ACCEPTED] * 25 + [CancelOutcome.UNKNOWN]
    assert not venue.orders and results[-1].order_id == "gone"


async def test_each_batch_is_tried_before_the_first_error_is_told(clock: StillClock) -> None:
    venue = batching(clock, 30)
    venue.changes = {0.09: {"trouble": None}}
    venue.trouble = BrokerUnavailable("away", account=NAME)
    venue.latency = 0.05
    with pytest.raises(BrokerUnavailable):
        await cancel_each(venue, [f"o{number}" for number in range(30)])
    assert len(venue.asked) == 3


async def test_a_book_of_many_orders_is_cancelled_in_batches_from_the_first_sweep_on(clock: StillClock) -> None:
    venue = batching(clock, 60, batch=20)
    (swept,) = await first_sweep([venue], 5.0, "protective_last", coverage=coverage_of("symbol:AAPL", [NAME]))
    assert swept.accepted == 60 and venue.canceled == []
    again = batching(clock, 60, batch=20)
    account = watched(again, deadline=60.0)
    assert await Flattening(account.run).until_flat()
    assert again.canceled == [] and len(again.when("cancel 20")) == 3


def test_the_forecast_counts_what_each_request_weighs() -> None:
    orders = tuple(order("1", symbol=f"S{number}", side=Side.BUY) for number in range(100))
    held = tuple(position(symbol=f"S{number}") for number in range(20))
    weights = Weights(open_orders=40, positions=5, cancel_many=1, close=1)
    able = replace(ABLE, bulk_cancel=False, batch_cancel=10, page_size=1_000, requests_per_minute=100, weights=weights)
    told = forecast(Book(orders, held), None, OPEN, able)
    assert told.requests == 10 + 20 + 4 * 2
    assert told.floor_seconds == 60 * math.floor((10 + 20 + 4 * 45 - 1) / 100)


async def test_readings_of_a_heavy_list_leave_room_for_cancels_and_closes(clock: StillClock) -> None:
    able = replace(ABLE, requests_per_minute=1_200, weights=Weights(open_orders=40, positions=5))
    venue = TimedVenue(clock, holdings=[held_position()], capabilities=able, most=5_000)
    venue.answer = lambda close: CloseResult(close.symbol, CloseOutcome.ACCEPTED)
    account = watched(venue, deadline=120.0, stuck_after=1_000.0, escalate_after=1_000.0, poll_interval=0.05)
    await Flattening(account.run).until_flat()
    read = len(venue.when("orders"))
    assert (read - 2) * 85 <= 600 + 600 * 120 / 60, "half of what a minute allows, and a burst"
    assert read > 10


def test_a_pair_whose_steps_the_venue_tells_is_closed_in_those() -> None:
    held = replace(position("1.23456"), instrument=replace(CRYPTO, quantity_increment=D("0.001")))
    (close,) = closes(ABLE, held)
    assert close.quantity == D("1.234")
