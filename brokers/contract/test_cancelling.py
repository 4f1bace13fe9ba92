"""A cancel says of each order what became of it, and never more than the venue has said."""

from __future__ import annotations

import asyncio

import pytest

from breaker.orders import Side
from brokers.contract.asking import ANSWERS_WITHIN, GIVES_UP_AFTER, ask, needs, until
from brokers.contract.venue import Beginning, Call, Trouble, VenueUnderTest, order
from brokers.protocol import Broker, BrokerUnavailable, CancelOutcome


def resting(venue: VenueUnderTest, count: int, *, resisting: int = 0) -> Beginning:
    return Beginning(
        orders=[order(venue, number % 3, 1, Side.BUY, resisting=number < resisting) for number in range(count)]
    )


async def until_left(venue: VenueUnderTest, left: int) -> None:
    await until(lambda: venue.open_orders() <= left, f"all but {left} of the orders were to be gone")
    assert venue.open_orders() == left, "an order was cancelled that nobody asked to cancel"


def test_one_order_is_cancelled_and_no_other(venue: VenueUnderTest) -> None:
    venue.start(resting(venue, 3))

    async def check(broker: Broker) -> None:
        first = (await broker.open_orders()).items[0]
        result = await broker.cancel(first.cancel_id)
        assert (result.order_id, result.outcome) == (first.cancel_id, CancelOutcome.ACCEPTED)
        await until_left(venue, 2)
        assert first.id not in {each.id for each in (await broker.open_orders()).items}

    ask(venue, check)


def test_what_is_gone_already_is_not_open(venue: VenueUnderTest) -> None:
    venue.start(resting(venue, 1))

    async def check(broker: Broker) -> None:
        (listed,) = (await broker.open_orders()).items
        await broker.cancel(listed.cancel_id)
        await until_left(venue, 0)
        again = await broker.cancel(listed.cancel_id)
        if again.outcome is CancelOutcome.ACCEPTED:  # what the venue says late of the first was heard as its answer
            again = await broker.cancel(listed.cancel_id)
        assert again.outcome is CancelOutcome.NOT_OPEN, "an order that is gone is NOT_OPEN, and no error"

    ask(venue, check)


def test_all_orders_are_cancelled_with_a_result_for_each(venue: VenueUnderTest) -> None:
    venue.start(resting(venue, 7))

    async def check(broker: Broker) -> None:
        ids = {each.cancel_id for each in (await broker.open_orders()).items}
        results = await broker.cancel_all()
        told = {result.order_id for result in results if result.outcome is CancelOutcome.ACCEPTED}
        assert not results or told == ids, "where results are given, each order has one"
        await until_left(venue, 0)

    ask(venue, check)


def test_one_that_resists_is_told_among_all_that_go(venue: VenueUnderTest) -> None:
    venue.start(resting(venue, 5, resisting=1))
    if venue.open_orders() != 5:
        pytest.skip("the venue under test has no orders that resist")

    async def check(broker: Broker) -> None:
        ids = {each.id for each in (await broker.open_orders()).items}
        results = {result.order_id: result for result in await broker.cancel_all()}
        await until_left(venue, 1)
        (left,) = [each for each in (await broker.open_orders()).items if each.id in ids]
        result = results.get(left.cancel_id) or await broker.cancel(left.cancel_id)
        assert result.outcome is CancelOutcome.REFUSED and result.reason, (
            "an item that failed in a bulk answer is REFUSED, with the venue's reason, and not ACCEPTED"
        )

    ask(venue, check)


def test_several_are_cancelled_in_one_request(venue: VenueUnderTest) -> None:
    venue.start(resting(venue, 4))

    async def check(broker: Broker) -> None:
        most = broker.capabilities.batch_cancel
        if not most:
            pytest.skip("its capabilities say that orders are cancelled one by one")
        ids = [each.cancel_id for each in (await broker.open_orders()).items]
        results = await broker.cancel_many(ids[: min(most, 3)])
        assert [result.order_id for result in results] == ids[: min(most, 3)]
        assert {result.outcome for result in results} == {CancelOutcome.ACCEPTED}
        await until_left(venue, 4 - len(results))
        again = await broker.cancel_many(ids[:1])
        assert [result.outcome for result in again] == [CancelOutcome.NOT_OPEN]

    ask(venue, check)


@pytest.mark.parametrize("trouble", [Trouble.NO_ANSWER, Trouble.UNAVAILABLE])
def test_a_cancel_without_an_answer_is_not_taken_for_one(venue: VenueUnderTest, trouble: Trouble) -> None:
    needs(venue, trouble)
    venue.start(resting(venue, 1))

    async def check(broker: Broker) -> None:
        (listed,) = (await broker.open_orders()).items
        venue.bring_into(trouble, Call.CANCEL)
        try:
            result = await broker.cancel(listed.cancel_id)
        except BrokerUnavailable:
            return
        assert result.outcome is CancelOutcome.UNKNOWN, "no answer came: nobody knows whether it was cancelled"

    ask(venue, check, timeout=GIVES_UP_AFTER)
    assert venue.open_orders() == 1


def test_a_cancel_waits_for_no_reading(venue: VenueUnderTest) -> None:
    needs(venue, Trouble.NO_ANSWER)
    venue.start(resting(venue, 1))

    async def check(broker: Broker) -> None:
        (listed,) = (await broker.open_orders()).items
        venue.bring_into(Trouble.NO_ANSWER, Call.POSITIONS)
        readings = [asyncio.ensure_future(broker.positions()) for _ in range(6)]
        await until(lambda: venue.received(Call.POSITIONS) > 0, "the venue was to be asked for its positions")
        result = await broker.cancel(listed.cancel_id)
        assert result.outcome is CancelOutcome.ACCEPTED
        assert not any(reading.done() for reading in readings), "the cancel waited for readings that have no answer"
        for reading in readings:
            reading.cancel()
        await asyncio.gather(*readings, return_exceptions=True)

    ask(venue, check, timeout=10 * ANSWERS_WITHIN)
