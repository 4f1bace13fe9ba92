"""What a broker reads is whole, exact, and says of what can't be read that it can't."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

import pytest

from breaker.orders import Account, MarketClock, Order, Position, PositionKey, PositionSide, Side
from brokers.contract.asking import GIVES_UP_AFTER, ask, error_of, needs
from brokers.contract.venue import Beginning, Call, Held, Resting, Trouble, VenueUnderTest
from brokers.protocol import Broker, BrokerUnavailable, Listed

MOST_PAGED = 1_201
"""Orders at most that a venue is filled with, where its pages are large."""


def many(venue: VenueUnderTest, count: int) -> Sequence[Resting]:
    """So many orders, in all of the venue's symbols."""
    return [Resting(venue.symbols[number % 3], Side.BUY, venue.unit) for number in range(count)]


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
    venue.start(Beginning(orders=many(venue, count), positions=[Held(venue.symbols[0], venue.unit)]))
    venue.bring_into(Trouble.UNAVAILABLE, Call.ORDERS, skip=skip)
    venue.bring_into(Trouble.UNAVAILABLE, Call.POSITIONS)

    async def check(broker: Broker) -> None:
        for listed in (broker.positions(), *([broker.open_orders()] if not skip else [])):
            assert isinstance(await error_of(broker, listed, venue.secret), BrokerUnavailable), (
                "what the venue could not list is BrokerUnavailable, and no list"
            )
        if skip:
            try:
                listed_orders = await broker.open_orders()
            except BrokerUnavailable:
                return
            assert len(listed_orders) == count, "a list without its later pages is BrokerUnavailable, and no list"

    ask(venue, check, timeout=GIVES_UP_AFTER)


def test_positions_have_their_sign_and_their_exact_size(venue: VenueUnderTest) -> None:
    long, short = venue.symbols[:2]
    venue.start(Beginning(positions=[Held(long, 3 * venue.unit), Held(short, -7 * venue.unit)]))
    listed = ask(venue, positions_of)
    assert {position.key: position.quantity for position in listed.items if position.quantity} == dict(venue.holds())
    for position in listed.items:
        assert isinstance(position.quantity, Decimal), "quantities are Decimal"
        assert 0 <= position.available <= abs(position.quantity), "what is available is part of |quantity|"


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
    listed = {position.key: position.quantity for position in ask(venue, positions_of).items if position.quantity}
    assert listed == {PositionKey(leg.symbol, leg.side): leg.quantity for leg in legs}
    assert sorted(order.key for order in ask(venue, orders_of).items) == sorted(listed), "orders say which leg is meant"


def test_orders_are_read_as_they_are(venue: VenueUnderTest) -> None:
    symbol = venue.symbols[0]
    venue.start(
        Beginning(
            positions=[Held(symbol, 10 * venue.unit)],
            orders=[Resting(symbol, Side.SELL, 3 * venue.unit), Resting(symbol, Side.BUY, 4 * venue.unit)],
        )
    )
    orders = sorted(ask(venue, orders_of).items, key=lambda order: order.remaining)
    assert [(order.side, order.remaining) for order in orders] == [
        (Side.SELL, 3 * venue.unit),
        (Side.BUY, 4 * venue.unit),
    ]
    held = {position.symbol for position in ask(venue, positions_of).items}
    for order in orders:
        assert {order.symbol} == held, "orders and positions spell a symbol alike"
        assert order.status.is_open and order.id, "an open order is open, and has an id to cancel it by"


def test_what_can_not_be_read_is_named_and_hides_nothing_else(venue: VenueUnderTest) -> None:
    broken, whole = venue.symbols[:2]
    venue.start(
        Beginning(
            positions=[Held(broken, venue.unit), Held(whole, venue.unit)],
            orders=[Resting(broken, Side.BUY, venue.unit, unreadable=True), Resting(whole, Side.BUY, venue.unit)],
            unreadable_position=broken,
        )
    )
    orders, positions = ask(venue, orders_of), ask(venue, positions_of)
    assert [order.symbol for order in orders.items] == [whole]
    assert [position.symbol for position in positions.items] == [whole]
    (order,) = orders.unreadable
    assert order.what == "order" and order.id, "an order that can't be read can still be cancelled by its id"
    (position,) = positions.unreadable
    assert (position.what, position.symbol) == ("position", broken), "it says of which symbol it is"


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
