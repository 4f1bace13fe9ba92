"""Whatever the venue is in, every call ends in time, and says in one line what is the matter."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta

import pytest

from breaker.orders import Order, Side
from brokers.contract.asking import GIVES_UP_AFTER, ask, error_of, needs
from brokers.contract.test_closing import close_of, holding, name
from brokers.contract.venue import Beginning, Call, Trouble, VenueUnderTest, order, position
from brokers.protocol import (
    Broker,
    BrokerUnavailable,
    CancelOutcome,
    CancelResult,
    CloseOrder,
    CloseOutcome,
    CloseResult,
    repeat_until,
)

_NOTHING_SAID = (CloseOutcome.UNKNOWN, CancelOutcome.UNKNOWN)


def a_book(venue: VenueUnderTest) -> Beginning:
    return Beginning(positions=[position(venue, 0, 5)], orders=[order(venue, 0, 1, Side.BUY)])


def a_close(broker: Broker, venue: VenueUnderTest) -> CloseOrder:
    able, leg = broker.capabilities, position(venue, 0, 5).side
    return CloseOrder(
        venue.symbols[0],
        Side.SELL,
        venue.unit,
        name(able.client_order_ids),
        position_side=leg,
        reduce_only=able.reduce_only,
    )


async def known_book(broker: Broker) -> Order:
    """Its one order. A broker is asked for the book before anything else, as a kill switch does."""
    await broker.positions()
    (listed,) = (await broker.open_orders()).items
    return listed


def since() -> datetime:
    return datetime.now(UTC) - timedelta(hours=1)


CALLS: Mapping[str, Callable[[Broker, VenueUnderTest, str], Awaitable[object]]] = {
    "account": lambda broker, *_: broker.account(),
    "clock": lambda broker, *_: broker.clock(),
    "open_orders": lambda broker, *_: broker.open_orders(),
    "positions": lambda broker, *_: broker.positions(),
    "order": lambda broker, *_: broker.order(name(broker.capabilities.client_order_ids)),
    "cancel": lambda broker, _, order_id: broker.cancel(order_id),
    "cancel_all": lambda broker, *_: broker.cancel_all(),
    "cancel_many": lambda broker, _, order_id: broker.cancel_many([order_id]),
    "close": lambda broker, venue, _: broker.close(a_close(broker, venue)),
    "close_all": lambda broker, *_: broker.close_all(),
    "fills": lambda broker, *_: broker.fills(since()),
    "transfers": lambda broker, *_: broker.transfers(since()),
    "instruments": lambda broker, venue, _: broker.instruments(venue.symbols),
    "not_permitted": lambda broker, *_: broker.not_permitted(),
    "safety_net": lambda broker, *_: broker.safety_net(),
}
"""Every call of a broker by its name; what its capabilities don't promise ends at once."""
NEEDS_NO_ANSWER = ("instruments", "not_permitted", "safety_net")
"""Of a venue that tells of neither they say what is safe."""


@pytest.mark.parametrize("call", CALLS)
def test_every_call_ends_where_the_venue_says_nothing(venue: VenueUnderTest, call: str) -> None:
    needs(venue, Trouble.NO_ANSWER)
    venue.start(a_book(venue))

    async def check(broker: Broker) -> None:
        order_id = (await known_book(broker)).cancel_id
        venue.bring_into(Trouble.NO_ANSWER, Call.EVERYTHING)
        answers: list[object] = []

        async def kept() -> None:
            answers.append(await CALLS[call](broker, venue, order_id))

        if await error_of(broker, kept(), venue.secret) is None and call not in NEEDS_NO_ANSWER:
            (answer,) = answers
            told = answer if isinstance(answer, list | tuple) and answer else [answer]
            nothing = [isinstance(each, CancelResult | CloseResult) and each.outcome in _NOTHING_SAID for each in told]
            assert all(nothing), f"nothing was answered, and {call} says {answer!r:.200}"

    ask(venue, check, timeout=2 * GIVES_UP_AFTER)
    assert dict(venue.holds()) == holding(position(venue, 0, 5))


def test_a_short_outage_is_ridden_out_or_told_and_hides_nothing(venue: VenueUnderTest) -> None:
    needs(venue, Trouble.UNAVAILABLE)
    venue.start(a_book(venue))
    venue.bring_into(Trouble.UNAVAILABLE, Call.POSITIONS, times=1)

    async def check(broker: Broker) -> None:
        try:
            listed = await broker.positions()
        except BrokerUnavailable:
            listed = await broker.positions()
        assert len(listed) == 1, "the venue has one position"

    ask(venue, check)


def test_nothing_is_repeated_once_that_is_asked_for_no_more(venue: VenueUnderTest) -> None:
    needs(venue, Trouble.UNAVAILABLE)
    venue.start(a_book(venue))
    venue.bring_into(Trouble.UNAVAILABLE, Call.POSITIONS)

    async def check(broker: Broker) -> None:
        repeat_until.set(time.monotonic())
        assert isinstance(await error_of(broker, broker.positions(), venue.secret), BrokerUnavailable)

    ask(venue, check)
    assert venue.received(Call.POSITIONS) == 1, "after `repeat_until` the last answer is what is told"


def test_a_close_that_the_rate_limit_held_back_was_not_taken(venue: VenueUnderTest) -> None:
    needs(venue, Trouble.RATE_LIMIT)
    venue.start(a_book(venue))

    async def check(broker: Broker) -> None:
        close = await close_of(broker, venue.symbols[0])
        venue.bring_into(Trouble.RATE_LIMIT, Call.CLOSE)
        assert isinstance(await error_of(broker, broker.close(close), venue.secret), BrokerUnavailable), (
            "nothing was taken, for want of requests: BrokerUnavailable"
        )

    ask(venue, check)
    assert venue.received(Call.CLOSE) <= 1, "a close belongs to a position as it was just read: it is not repeated"
    assert dict(venue.holds()) == holding(position(venue, 0, 5))


def test_a_reading_that_the_rate_limit_held_back_is_no_empty_list(venue: VenueUnderTest) -> None:
    needs(venue, Trouble.RATE_LIMIT)
    venue.start(a_book(venue))
    venue.bring_into(Trouble.RATE_LIMIT, Call.ORDERS)

    async def check(broker: Broker) -> None:
        assert isinstance(await error_of(broker, broker.open_orders(), venue.secret), BrokerUnavailable)

    ask(venue, check, timeout=GIVES_UP_AFTER)


def test_a_timer_is_armed_told_and_taken_away(venue: VenueUnderTest) -> None:
    venue.start(a_book(venue))

    async def check(broker: Broker) -> None:
        if not broker.capabilities.safety_net:
            net = await broker.safety_net()
            assert net.armed_until is None and net.detail, "a venue without a timer says so"
            return
        await known_book(broker)
        net = await broker.arm_safety_net(timedelta(minutes=2))
        assert net.armed_until is not None and net.armed_until.utcoffset() is not None
        await broker.disarm_safety_net()
        assert (await broker.safety_net()).armed_until is None

    ask(venue, check)
    assert venue.open_orders() == 1


def test_it_can_be_closed_twice(venue: VenueUnderTest) -> None:
    async def check(broker: Broker) -> None:
        await broker.positions()
        await broker.aclose()

    venue.start(Beginning(positions=[position(venue, 0, 5)]))
    ask(venue, check)
