"""Keys that are wrong, or may not trade, are told as what they are, and nothing is done to learn that."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest

from brokers.contract.asking import ask, error_of
from brokers.contract.test_closing import holding
from brokers.contract.test_trouble import CALLS, a_book, a_close, known_book
from brokers.contract.venue import Beginning, Call, Keys, VenueUnderTest, position
from brokers.protocol import Broker, BrokerRefused, CancelOutcome, CancelResult, CloseOutcome, CloseResult

_REFUSED = (CancelOutcome.REFUSED, CloseOutcome.REFUSED)
CHANGES = ("cancel", "cancel_all", "cancel_many", "close", "close_all")
"""Of a broker's calls those that ask a venue to do something."""


def read_only(venue: VenueUnderTest) -> Beginning:
    if not venue.has_read_only_keys:
        pytest.skip("the venue under test has no keys that may only read")
    return replace(a_book(venue), keys_may_trade=False)


def nothing_happened(venue: VenueUnderTest) -> bool:
    return (venue.open_orders(), dict(venue.holds())) == (1, holding(position(venue, 0, 5)))


def test_wrong_keys_are_named_and_not_shown(venue: VenueUnderTest, caplog: pytest.LogCaptureFixture) -> None:
    venue.start(a_book(venue))
    caplog.set_level(logging.DEBUG)

    async def check(broker: Broker) -> None:
        for ask_for in (broker.positions, broker.open_orders, broker.account):
            error = await error_of(broker, ask_for(), venue.secret)
            assert isinstance(error, BrokerRefused), "keys that the venue refuses are BrokerRefused"
        assert venue.secret not in repr(broker), "the secret key is in its repr"

    ask(venue, check, keys=Keys.WRONG)
    assert venue.secret not in caplog.text, "the secret key is in a log"


def test_a_close_with_wrong_keys_closes_nothing_and_says_so(venue: VenueUnderTest) -> None:
    venue.start(a_book(venue))

    async def check(broker: Broker) -> None:
        results: list[CloseResult] = []

        async def kept() -> None:
            results.append(await broker.close(a_close(broker, venue)))

        error = await error_of(broker, kept(), venue.secret)
        assert isinstance(error, BrokerRefused) or (results and results[0].outcome is CloseOutcome.REFUSED)

    ask(venue, check, keys=Keys.WRONG)
    assert dict(venue.holds()) == holding(position(venue, 0, 5))


def test_what_good_keys_may_not_do_is_nothing_and_no_order_is_placed_to_learn_it(venue: VenueUnderTest) -> None:
    venue.start(a_book(venue))

    async def check(broker: Broker) -> None:
        assert [*await broker.not_permitted()] == []

    ask(venue, check)
    assert venue.received(Call.CLOSE) == 0
    assert (venue.open_orders(), dict(venue.holds())) == (1, holding(position(venue, 0, 5)))


def test_keys_that_may_only_read_are_let_read(venue: VenueUnderTest) -> None:
    venue.start(read_only(venue))

    async def check(broker: Broker) -> None:
        await known_book(broker)
        assert len(await broker.positions()) == 1, "what these keys may not do hides nothing that they may"
        await broker.account()

    ask(venue, check)


def test_what_keys_may_not_do_is_told_in_words_and_no_order_is_placed_to_learn_it(venue: VenueUnderTest) -> None:
    venue.start(read_only(venue))

    async def check(broker: Broker) -> None:
        missing = await broker.not_permitted()
        assert missing or not venue.tells_rights, "the venue tells that these keys may not trade, and nobody hears it"
        for words in missing:
            assert words.strip() and "\n" not in words, f"each thing that is not permitted is one line: {words!r}"
            assert venue.secret not in words, "it tells the secret key"

    ask(venue, check)
    assert venue.received(Call.CLOSE) == 0, "an order was placed to learn what these keys may do"
    assert nothing_happened(venue)


@pytest.mark.parametrize("call", CHANGES)
def test_what_keys_may_not_do_is_refused_and_not_unknown(venue: VenueUnderTest, call: str) -> None:
    venue.start(read_only(venue))

    async def check(broker: Broker) -> None:
        order_id = (await known_book(broker)).cancel_id
        if call == "cancel_many" and not broker.capabilities.batch_cancel:
            pytest.skip("its capabilities say that orders are cancelled one by one")
        if call == "close_all" and not broker.capabilities.bulk_close:
            pytest.skip("its capabilities say that positions are closed one by one")
        told: list[CancelResult | CloseResult] = []

        async def kept() -> None:
            answer = await CALLS[call](broker, venue, order_id)
            told.extend(answer if isinstance(answer, list | tuple) else [answer])  # type: ignore[list-item]

        error = await error_of(broker, kept(), venue.secret)
        if error is not None:
            assert isinstance(error, BrokerRefused), f"it is no use to ask again: BrokerRefused, and not {error!r}"
            return
        assert told, f"{call} says of nothing that it was refused"
        for result in told:
            assert result.outcome in _REFUSED, f"the venue refused it to these keys: {call} says {result!r:.200}"
            assert result.reason, "people are told why"

    ask(venue, check)
    assert nothing_happened(venue)
