"""A close is sent once, is never more than was asked for, and is told as what became of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from breaker.instruments import Session
from breaker.orders import Order, Position, PositionSide, Side, TimeInForce
from brokers.contract.asking import GIVES_UP_AFTER, ask, needs, until
from brokers.contract.venue import Beginning, Call, Held, Trouble, VenueUnderTest, order, position
from brokers.protocol import Broker, BrokerUnavailable, ClientOrderIds, CloseOrder, CloseOutcome, CloseResult, Refusal

_TAKEN = (CloseOutcome.ACCEPTED, CloseOutcome.DUPLICATE)


def name(ids: ClientOrderIds, number: int = 1) -> str:
    """As long as may be, of every character that may be, and of its own for each number."""
    if not ids.longest:
        return f"unknown-to-the-venue-{number}"
    others = sorted({*ids.alphabet} - {*str(number)})
    return (str(number) + "".join(others) * ids.longest)[: ids.longest]


async def close_of(broker: Broker, symbol: str, number: int = 1) -> CloseOrder:
    """All of its position there, as the kill switch asks for it."""
    held = [each for each in (await broker.positions()).items if each.symbol == symbol and each.quantity]
    return closing(broker, held[0], number)


def closing(broker: Broker, held: Position, number: int = 1) -> CloseOrder:
    able = broker.capabilities
    always = held.instrument.session is Session.ALWAYS
    close = CloseOrder(
        symbol=held.symbol,
        side=held.closing_side,
        quantity=abs(held.quantity),
        client_order_id=name(able.client_order_ids, number),
        time_in_force=TimeInForce.GTC if always else TimeInForce.DAY,
        position_side=held.position_side,
        reduce_only=able.reduce_only,
    )
    if able.market_orders:
        return close
    pytest.skip("its capabilities say that the venue takes no market orders")


def holding(*held: Held) -> dict[str, Decimal]:
    """As `VenueUnderTest.holds` tells it."""
    return {str(each.key): each.quantity for each in held}


async def until_holding(venue: VenueUnderTest, *held: Held) -> None:
    """What was taken may fill a moment later."""
    await until(lambda: dict(venue.holds()) == holding(*held), f"the venue was to hold {holding(*held) or 'nothing'}")


@pytest.mark.parametrize("sign", [1, -1])
def test_a_position_is_closed_whole(venue: VenueUnderTest, sign: int) -> None:
    if sign < 0 and not venue.shorts:
        pytest.skip("the venue under test has no short positions")
    symbol, other = venue.symbols[0], position(venue, 1, 2)
    venue.start(Beginning(positions=[position(venue, 0, sign * 5), other]))

    async def check(broker: Broker) -> None:
        result = await broker.close(await close_of(broker, symbol))
        assert (result.symbol, result.outcome) == (symbol, CloseOutcome.ACCEPTED), result.reason
        await until_holding(venue, other)

    ask(venue, check)


def test_a_part_is_closed_and_no_more(venue: VenueUnderTest) -> None:
    symbol = venue.symbols[0]
    venue.start(Beginning(positions=[position(venue, 0, 5)]))

    async def check(broker: Broker) -> None:
        close = replace(await close_of(broker, symbol), quantity=2 * venue.unit)
        assert (await broker.close(close)).outcome is CloseOutcome.ACCEPTED
        await until_holding(venue, position(venue, 0, 3))

    ask(venue, check)


def test_each_leg_is_closed_by_itself(venue: VenueUnderTest) -> None:
    if not venue.hedge_mode:
        pytest.skip("the venue under test has no hedge mode")
    symbol = venue.symbols[0]
    long = Held(symbol, 3 * venue.unit, PositionSide.LONG)
    short = Held(symbol, -2 * venue.unit, PositionSide.SHORT)
    venue.start(Beginning(positions=[long, short]))

    async def check(broker: Broker) -> None:
        held = {each.key: each for each in (await broker.positions()).items}
        assert (await broker.close(closing(broker, held[long.key], 1))).outcome is CloseOutcome.ACCEPTED
        await until_holding(venue, short)
        assert (await broker.close(closing(broker, held[short.key], 2))).outcome is CloseOutcome.ACCEPTED
        await until_holding(venue)

    ask(venue, check)


@pytest.mark.parametrize("trouble", [Trouble.LOST_ANSWER, Trouble.NO_ANSWER, Trouble.UNAVAILABLE])
def test_a_close_without_an_answer_is_looked_up_and_sent_only_once(venue: VenueUnderTest, trouble: Trouble) -> None:
    needs(venue, trouble)
    symbol = venue.symbols[0]
    venue.start(Beginning(positions=[position(venue, 0, 5)]))

    async def check(broker: Broker) -> CloseResult | None:
        close = await close_of(broker, symbol)
        venue.bring_into(trouble, Call.CLOSE, times=1)
        try:
            return await broker.close(close)
        except BrokerUnavailable:
            assert trouble is Trouble.UNAVAILABLE, "nobody knows whether it was taken: that is UNKNOWN, and no error"
            return None

    result = ask(venue, check, timeout=2 * GIVES_UP_AFTER)
    assert venue.received(Call.CLOSE) == 1, "a close is never sent again by the adapter: nobody knows what became of it"
    if result is None:
        assert dict(venue.holds()) == holding(position(venue, 0, 5))
    elif trouble is Trouble.LOST_ANSWER:
        assert result.outcome in (CloseOutcome.ACCEPTED, CloseOutcome.UNKNOWN), "it was taken: not REFUSED"
        assert dict(venue.holds()) == {}
    else:
        assert result.outcome in (CloseOutcome.UNKNOWN, CloseOutcome.REFUSED), "nothing was taken: not ACCEPTED"
        assert result.outcome is CloseOutcome.UNKNOWN or trouble is Trouble.UNAVAILABLE, "no answer is no refusal"
        assert result.reason, "people are told why nothing is known"
        assert dict(venue.holds()) == holding(position(venue, 0, 5))


def test_the_same_close_is_taken_once(venue: VenueUnderTest) -> None:
    symbol = venue.symbols[0]
    venue.start(Beginning(positions=[position(venue, 0, 5)], fills=False))

    async def check(broker: Broker) -> None:
        ids = broker.capabilities.client_order_ids
        if not ids.settles:
            pytest.skip("its capabilities say that the venue itself refuses no second one")
        close = await close_of(broker, symbol)
        first, second = await broker.close(close), await broker.close(close)
        assert first.outcome is CloseOutcome.ACCEPTED, first.reason
        assert second.outcome is CloseOutcome.DUPLICATE, f"the venue has it already: {second.outcome}, {second.reason}"
        assert venue.open_orders() == 1

    ask(venue, check)


def test_a_close_is_found_by_its_name_open_or_closed(venue: VenueUnderTest) -> None:
    symbol = venue.symbols[0]
    for fills in (False, True):
        venue.start(Beginning(positions=[position(venue, 0, 5)], fills=fills))

        async def check(broker: Broker) -> tuple[Order | None, Order | None, CloseOrder, Sequence[Order]]:
            able = broker.capabilities
            if not (able.looks_up_orders and able.client_order_ids.longest):
                pytest.skip("its capabilities say that the venue finds no order by a client order id")
            close = await close_of(broker, symbol)
            assert (await broker.close(close)).outcome in _TAKEN
            found, listed = await broker.order(close.client_order_id, symbol), (await broker.open_orders()).items
            return found, await broker.order(name(able.client_order_ids, 99)), close, listed

        found, nobodys, close, listed = ask(venue, check)
        assert nobodys is None, "an order that the venue doesn't know is None, and no error"
        assert found is not None and found.client_order_id == close.client_order_id, "the id is sent as it is"
        assert (found.symbol, found.side, found.quantity) == (close.symbol, close.side, close.quantity)
        if fills:
            assert not found.status.is_open and found.filled_quantity == close.quantity
        else:
            assert found.remaining == close.quantity and [each.id for each in listed] == [found.id]


def test_a_reduce_only_close_never_turns_a_position_over(venue: VenueUnderTest) -> None:
    symbol = venue.symbols[0]
    venue.start(Beginning(positions=[position(venue, 0, 5)]))

    async def check(broker: Broker) -> None:
        if not broker.capabilities.reduce_only:
            pytest.skip("its capabilities say that the venue has no reduce-only orders")
        close = await close_of(broker, symbol)
        await broker.close(replace(close, quantity=8 * venue.unit))
        assert all(quantity > 0 for quantity in venue.holds().values()), "it turned the position over"
        await broker.close(await close_of(broker, symbol, 2) if venue.holds() else close)
        await until_holding(venue)
        over = replace(close, client_order_id=name(broker.capabilities.client_order_ids, 3))
        result = await broker.close(over)
        assert (result.outcome, result.refusal) == (CloseOutcome.REFUSED, Refusal.NOTHING_LEFT), (
            "where nothing is left to reduce, the close is REFUSED as NOTHING_LEFT"
        )
        assert dict(venue.holds()) == {}

    ask(venue, check)


def test_the_venues_own_close_takes_all_of_a_position_and_no_more(venue: VenueUnderTest) -> None:
    symbol, other = venue.symbols[0], position(venue, 1, 1)
    venue.start(Beginning(positions=[position(venue, 0, 5), other]))

    async def check(broker: Broker) -> None:
        if not broker.capabilities.native_close:
            pytest.skip("its capabilities say that the venue has no such request")
        close = replace(await close_of(broker, symbol), native=True)
        assert (await broker.close(close)).outcome is CloseOutcome.ACCEPTED
        await until_holding(venue, other)
        await broker.close(close)
        assert dict(venue.holds()) == holding(other)

    ask(venue, check)


def test_all_positions_are_closed_in_one_request_with_a_result_for_each(venue: VenueUnderTest) -> None:
    venue.start(Beginning(positions=[position(venue, number, 2) for number in range(3)]))

    async def check(broker: Broker) -> None:
        if not broker.capabilities.bulk_close:
            pytest.skip("its capabilities say that positions are closed one by one")
        results = await broker.close_all()
        assert {result.symbol: result.outcome for result in results} == dict.fromkeys(
            venue.symbols[:3], CloseOutcome.ACCEPTED
        )
        assert all(result.order is not None for result in results), "each names the order that the venue made"
        await until_holding(venue)

    ask(venue, check)


def test_a_refused_close_has_the_venues_reason(venue: VenueUnderTest) -> None:
    symbol = venue.symbols[0]
    venue.start(Beginning(positions=[position(venue, 0, 5)]))

    async def check(broker: Broker) -> CloseResult:
        close = await close_of(broker, symbol)
        return await broker.close(replace(close, symbol="NOSUCHTHING"))

    result = ask(venue, check)
    assert result.outcome is CloseOutcome.REFUSED, "a symbol that the venue doesn't have is REFUSED, and no error"
    assert result.reason and "\n" not in result.reason
    assert dict(venue.holds()) == holding(position(venue, 0, 5))


def test_executions_are_listed_as_they_were(venue: VenueUnderTest) -> None:
    symbol = venue.symbols[0]
    venue.start(Beginning(positions=[position(venue, 0, 5)], orders=[order(venue, 0, 1, Side.BUY)]))
    began = datetime.now(UTC) - timedelta(minutes=1)

    async def check(broker: Broker) -> None:
        if not broker.capabilities.fills:
            pytest.skip("its capabilities say that the venue lists no executions")
        result = await broker.close(await close_of(broker, symbol))
        await until_holding(venue)
        fills = (await broker.fills(began)).items
        assert sum((fill.quantity for fill in fills), Decimal(0)) == 5 * venue.unit
        assert {(fill.symbol, fill.side) for fill in fills} == {(symbol, Side.SELL)}
        assert all(fill.price > 0 and fill.at.utcoffset() is not None for fill in fills)
        if result.order is not None:
            assert {fill.order_id for fill in fills} == {result.order.id}, "an execution names its order"

    ask(venue, check)
