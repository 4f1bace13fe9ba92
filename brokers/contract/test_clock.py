"""A venue whose clock differs from this host's is read, cancelled and closed at all the same, and its time is told."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from brokers.contract.asking import ask
from brokers.contract.test_cancelling import until_left
from brokers.contract.test_closing import close_of, until_holding
from brokers.contract.test_trouble import a_book, a_close, known_book
from brokers.contract.venue import Beginning, VenueUnderTest, position
from brokers.protocol import Broker, BrokerUnavailable, CancelOutcome, CancelResult, CloseOutcome

APART = timedelta(seconds=30)
"""More than a venue lets the time stamp of a request be off."""
READ_TO = timedelta(seconds=1)
"""How exactly a venue tells its time: some by the second."""
ASKED_BACK = timedelta(seconds=60)
"""How much further back than they may have been executions are asked for, as clocks differ."""

both_ways = pytest.mark.parametrize("ahead", [APART, -APART], ids=["ahead", "behind"])


def apart(venue: VenueUnderTest, ahead: timedelta) -> Beginning:
    if not venue.sets_clock:
        pytest.skip("the clock of the venue under test can't be set")
    return replace(a_book(venue), clock_ahead=ahead)


@both_ways
def test_a_clock_that_differs_hides_nothing_and_is_told_as_it_is(venue: VenueUnderTest, ahead: timedelta) -> None:
    venue.start(apart(venue, ahead))

    async def check(broker: Broker) -> None:
        assert len(await broker.positions()) == len(await broker.open_orders()) == 1, "a reading rides it out"
        await broker.account()
        before = datetime.now(UTC)
        told = (await broker.clock()).now
        assert before + ahead - READ_TO <= told <= datetime.now(UTC) + ahead + READ_TO, (
            f"the venue's clock is {ahead} ahead of this host's, and `clock` tells {told - before}: its time, not ours"
        )

    ask(venue, check)


@both_ways
@pytest.mark.parametrize("call", ["cancel", "cancel_all"])
def test_a_cancel_that_comes_first_is_never_refused_for_its_time(
    venue: VenueUnderTest, ahead: timedelta, call: str
) -> None:
    venue.start(apart(venue, ahead))
    listed = ask(venue, known_book)

    async def cancel(broker: Broker) -> list[CancelResult]:
        if call == "cancel_all":
            return [*await broker.cancel_all()]
        return [await broker.cancel(listed.cancel_id)]

    async def check(broker: Broker) -> None:
        try:
            results = await cancel(broker)
            again = any(result.outcome is CancelOutcome.UNKNOWN for result in results)
        except BrokerUnavailable:
            again = True
        if again:
            assert venue.open_orders() == 1, "a cancel was taken, and told as one that may not have been"
            results = await cancel(broker)
        assert {result.outcome for result in results} <= {CancelOutcome.ACCEPTED}, (
            f"its time stamp is put right, and the next cancel is taken: {results!r:.200}"
        )
        await until_left(venue, 0)

    ask(venue, check)


@both_ways
def test_a_close_that_comes_first_is_taken_or_not_and_never_refused_for_its_time(
    venue: VenueUnderTest, ahead: timedelta
) -> None:
    venue.start(apart(venue, ahead))
    before = dict(venue.holds())

    async def check(broker: Broker) -> None:
        close = a_close(broker, venue)
        try:
            result = await broker.close(close)
        except BrokerUnavailable:
            assert dict(venue.holds()) == before, "BrokerUnavailable from a close means that nothing was taken"
            result = await broker.close(close)
        assert result.outcome in (CloseOutcome.ACCEPTED, CloseOutcome.DUPLICATE), (
            f"its time stamp is put right, and the next close is taken: {result.outcome}, {result.reason}"
        )
        await until_holding(venue, position(venue, 0, 4))

    ask(venue, check)


@both_ways
def test_executions_are_found_by_the_venues_time(venue: VenueUnderTest, ahead: timedelta) -> None:
    venue.start(apart(venue, ahead))

    async def check(broker: Broker) -> None:
        if not broker.capabilities.fills:
            pytest.skip("its capabilities say that the venue lists no executions")
        began = datetime.now(UTC)
        await broker.close(await close_of(broker, venue.symbols[0]))
        await until_holding(venue)
        fills = (await broker.fills(began - ASKED_BACK)).items
        assert sum((fill.quantity for fill in fills), Decimal(0)) == 5 * venue.unit

    ask(venue, check)
