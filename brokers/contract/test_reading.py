"""What a broker reads is whole, exact, and says of what can't be read that it can't."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

import pytest

from breaker.orders import Account, MarketClock, Order, Position, PositionSide, Side
from brokers.contract.asking import GIVES_UP_AFTER, ask, error_of, needs
from brokers.contract.venue import Beginning, Call, Held, Resting, Trouble, VenueUnderTest, order, position
from brokers.protocol import Broker, BrokerUnavailable, Listed

MOST_PAGED = 1_201
"""Orders at most that a venue is filled with, where its pages are large."""


def many(venue: VenueUnderTest, count: int) -> Sequence[Resting]:
    """So many orders, in all of the venue's symbols."""
    return [order(venue, number % 3, 1, Side.BUY) for number in range(count)]


async def orders_of(broker: Broker) -> Listed[Order]:
    return await broker.open_orders()


async def positions_of(broker: Broker) -> Listed[Position]:
    return await broker.positions()


def test_it_has_all_that_a_broker_has(venue: VenueUnderTest) -> None:
    async def check(broker: Broker) -> None:
        assert isinstance(broker, Broker), "it lacks something of brokers.protocol.Broker"
        able = broker.capabilities
        assert able.page_size > 0, "capabilities.page_size is the most orders in one answer"
        for offered, method in (
            (able.batch_cancel, "cancel_many"),
            (able.bulk_close, "close_all"),
            (able.fills, "fills"),
            (able.transfers, "transfers"),
            (able.quotes, "latest_quote"),
            (able.suspends_trading, "set_trading_suspended"),
            (able.safety_net, "arm_safety_net"),
        ):
            written = getattr(type(broker), method, None) is not getattr(Broker, method)
            assert written or not offered, f"its capabilities promise `{method}`, which it doesn't have"

    ask(venue, check)


def test_an_empty_account_has_neither_orders_nor_positions(venue: VenueUnderTest) -> None:
    venue.start(Beginning())
    assert len(ask(venue, orders_of)) == 0
    assert len(ask(venue, positions_of)) == 0


def test_every_page_of_orders_is_read(venue: VenueUnderTest) -> None:
    async def page_size(broker: Broker) -> int:
        return broker.capabilities.page_size

    count = min(2 * ask(venue, page_size) + 1, MOST_PAGED)
    venue.start(Beginning(orders=many(venue, count)))
    listed = ask(venue, orders_of, timeout=10.0)
    assert len({order.id for order in listed.items}) == count, f"the venue has {count} open orders"
    assert len(listed) == count, "one of them is listed more than once"


@pytest.mark.parametrize("skip", [0, 1])
def test_a_list_that_was_not_read_whole_is_none(venue: VenueUnderTest, skip: int) -> None:
    needs(venue, Trouble.UNAVAILABLE)

    async def page_size(broker: Broker) -> int:
        return broker.capabilities.page_size

    count = min(2 * ask(venue, page_size) + 1, MOST_PAGED)
    venue.start(Beginning(orders=many(venue, count), positions=[position(venue, 0, 1)]))
    venue.bring_into(Trouble.UNAVAILABLE, Call.ORDERS, skip=skip)
    venue.bring_into(Trouble.UNAVAILABLE, Call.POSITIONS)

    async def check(broker: Broker) -> None:
        error = await error_of(broker, broker.positions(), venue.secret)
        assert isinstance(error, BrokerUnavailable), f"what the venue could not list is unavailable: {error!r}"
        try:
            listed = await broker.open_orders()
        except BrokerUnavailable:
            return
        missing = [item for item in listed.unreadable if item.what == "order" and not item.symbol and not item.id]
        assert skip and (len(listed) == count or missing), (
            "a list without its later pages is BrokerUnavailable, and no list; one of several that can't be had is an "
            "unreadable order without symbol or id"
        )

    ask(venue, check, timeout=GIVES_UP_AFTER)


def test_positions_have_their_sign_and_their_exact_size(venue: VenueUnderTest) -> None:
    begun = [position(venue, 0, 3), position(venue, 1, -7 if venue.shorts else 7)]
    venue.start(Beginning(positions=begun))
    listed = ask(venue, positions_of)
    assert {each.key: each.quantity for each in listed.items if each.quantity} == {
        each.key: each.quantity for each in begun
    }
    for each in listed.items:
        assert isinstance(each.quantity, Decimal), "quantities are Decimal"
        assert 0 <= each.available <= abs(each.quantity), "what is available is part of |quantity|"


def test_each_leg_of_an_account_in_hedge_mode_is_a_position_of_its_own(venue: VenueUnderTest) -> None:
    if not venue.hedge_mode:
        pytest.skip("the venue under test has no hedge mode")
    symbol = venue.symbols[0]
    legs = [Held(symbol, 3 * venue.unit, PositionSide.LONG), Held(symbol, -2 * venue.unit, PositionSide.SHORT)]
    orders = [
        Resting(symbol, Side.SELL, venue.unit, PositionSide.LONG),
        Resting(symbol, Side.SELL, venue.unit, PositionSide.SHORT),
    ]
    venue.start(Beginning(positions=legs, orders=orders))
    listed = {each.key: each.quantity for each in ask(venue, positions_of).items if each.quantity}
    assert listed == {leg.key: leg.quantity for leg in legs}
    assert sorted(each.key for each in ask(venue, orders_of).items) == sorted(listed), "orders say which leg is meant"


def test_orders_are_read_as_they_are(venue: VenueUnderTest) -> None:
    venue.start(
        Beginning(
            positions=[position(venue, 0, 10)],
            orders=[order(venue, 0, 3, Side.SELL), order(venue, 0, 4, Side.BUY)],
        )
    )
    orders = sorted(ask(venue, orders_of).items, key=lambda each: each.remaining)
    assert [(each.side, each.remaining) for each in orders] == [
        (Side.SELL, 3 * venue.unit),
        (Side.BUY, 4 * venue.unit),
    ]
    held = {each.key for each in ask(venue, positions_of).items if each.quantity}
    for each in orders:
        assert {each.key} == held, "orders and positions spell a symbol, and a leg, alike"
        assert each.status.is_open and each.id, "an open order is open, and has an id to cancel it by"


def test_what_can_not_be_read_is_named_and_hides_nothing_else(venue: VenueUnderTest) -> None:
    broken, whole = venue.symbols[:2]
    venue.start(
        Beginning(
            positions=[position(venue, 0, 1), position(venue, 1, 1)],
            orders=[order(venue, 0, 1, Side.BUY, unreadable=True), order(venue, 1, 1, Side.BUY)],
            unreadable_position=broken,
        )
    )
    orders, positions = ask(venue, orders_of), ask(venue, positions_of)
    assert (len(orders), len(positions)) == (2, 2), "nothing that the venue lists may be dropped"
    assert whole in {each.symbol for each in orders.items}, "what can't be read hides no other order"
    assert [each.symbol for each in positions.items if each.quantity] == [whole]
    for unread in orders.unreadable:  # what is missing of an order may be nothing that the adapter needs
        assert unread.what == "order" and unread.id, "an order that can't be read can still be cancelled by its id"
    (position_unread,) = positions.unreadable
    assert (position_unread.what, position_unread.symbol) == ("position", broken), "it says of which symbol it is"


def test_account_and_clock_are_told(venue: VenueUnderTest) -> None:
    venue.start(Beginning())

    async def both(broker: Broker) -> tuple[Account, MarketClock]:
        return await broker.account(), await broker.clock()

    account, clock = ask(venue, both)
    assert account.currency and isinstance(account.equity, Decimal), "equity is a Decimal, in a currency"
    for moment in (clock.now, clock.next_open, clock.next_close, account.as_of):
        assert moment is None or moment.utcoffset() is not None, "times are UTC-aware"


def test_what_is_traded_is_told_or_left_out(venue: VenueUnderTest) -> None:
    venue.start(Beginning())

    async def check(broker: Broker) -> None:
        told = await broker.instruments([*venue.symbols, "NOSUCHTHING"])
        assert {*told} <= {*venue.symbols}, "only what was asked for, and what the venue knows, spelled as asked"
        for instrument in told.values():
            for number in (instrument.price_increment, instrument.quantity_increment, instrument.minimum_quantity):
                assert number is None or number > 0, "a step of nothing is no step"

    ask(venue, check)
