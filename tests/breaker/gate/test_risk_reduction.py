"""An order called risk-reducing can't add risk, whatever fills."""

from __future__ import annotations

from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from breaker.gate.intents import OrderIntent
from breaker.gate.order_terms import InvalidOrder, as_quantity
from breaker.gate.risk_reduction import why_not_reducing
from breaker.orders import Order, OrderStatus, OrderType, Position, Side, TimeInForce, Unreadable

quantities = st.decimals(min_value="0.001", max_value="1000", places=3)
positions = st.decimals(min_value="-1000", max_value="1000", places=3)
sides = st.sampled_from(Side)


def working(side: Side, quantity: Decimal, filled: Decimal = Decimal(0), symbol: str = "X") -> Order:
    return Order(
        id="1",
        client_order_id="1",
        symbol=symbol,
        side=side,
        quantity=quantity,
        filled_quantity=filled,
        status=OrderStatus.PARTIALLY_FILLED if filled else OrderStatus.NEW,
        type=OrderType.LIMIT,
        time_in_force=TimeInForce.DAY,
    )


@st.composite
def working_orders(draw: st.DrawFn) -> Order:
    quantity = draw(quantities)
    filled = draw(st.decimals(min_value=0, max_value=quantity, places=3))
    return working(draw(sides), quantity, filled, draw(st.sampled_from(["X", "Y"])))


@given(
    positions,
    sides,
    quantities,
    st.lists(working_orders(), max_size=4),
    st.lists(st.floats(0, 1), min_size=5, max_size=5),
)
def test_no_fill_of_an_admitted_order_and_of_working_closes_grows_or_flips_the_position(
    held: Decimal, side: Side, quantity: Decimal, orders: list[Order], filled: list[float]
) -> None:
    if why_not_reducing(OrderIntent("X", side, quantity), held, orders) is not None:
        return
    closing = [quantity, *(o.remaining for o in orders if o.symbol == "X" and o.side is side)]
    after = held + side.sign * sum(
        (amount * Decimal(repr(share)) for amount, share in zip(closing, filled, strict=False)), Decimal(0)
    )
    assert after * held >= 0, "crossed zero"
    assert abs(after) <= abs(held), "grew"


@given(positions.filter(lambda held: held != 0), st.decimals(min_value="0.001", max_value=1, places=3))
def test_closing_any_part_of_a_position_passes_long_or_short(held: Decimal, share: Decimal) -> None:
    side = Side.SELL if held > 0 else Side.BUY
    assert why_not_reducing(OrderIntent("X", side, abs(held) * share), held) is None


@given(positions, quantities)
def test_an_order_in_the_direction_of_the_position_never_passes(held: Decimal, quantity: Decimal) -> None:
    side = Side.BUY if held >= 0 else Side.SELL
    assert why_not_reducing(OrderIntent("X", side, quantity), held) is not None


@pytest.mark.parametrize(
    ("held", "side", "quantity", "orders", "passes"),
    [
        (100, "sell", 100, [], True),
        (100, "sell", "100.001", [], False),
        (100, "sell", 150, [], False),
        (-100, "buy", 100, [], True),
        (-100, "BUY", 40, [working(Side.BUY, Decimal(60))], True),
        (-100, "buy", 41, [working(Side.BUY, Decimal(60))], False),
        (-100, "buy", 80, [working(Side.BUY, Decimal(60), filled=Decimal(40))], True),
        (100, "sell", 100, [working(Side.BUY, Decimal(60))], True),
        (100, "sell", 100, [working(Side.SELL, Decimal(60), symbol="Y")], True),
        (100, "sell", 1, [working(Side.SELL, Decimal(100))], False),
        (0, "buy", 1, [], False),
        (None, "sell", 1, [], False),
        ("0.3", "sell", 0.1, [working(Side.SELL, Decimal("0.2"))], True),
    ],
)
def test_examples(held: Any, side: str, quantity: Any, orders: list[Order], passes: bool) -> None:
    assert (why_not_reducing(OrderIntent("X", side, quantity), held, orders) is None) is passes


def test_a_venue_that_says_less_is_available_is_believed() -> None:
    position = Position("X", Decimal(100), Decimal(30), Decimal(1))
    assert why_not_reducing(OrderIntent("X", "sell", 30), position) is None
    assert "could cross zero" in (why_not_reducing(OrderIntent("X", "sell", 31), position) or "")
    with pytest.raises(InvalidOrder, match="position is in 'X'"):
        why_not_reducing(OrderIntent("Y", "sell", 1), position)


def test_a_closed_working_order_takes_no_room() -> None:
    done = replace(working(Side.SELL, Decimal(100)), status=OrderStatus.CANCELED)
    assert why_not_reducing(OrderIntent("X", "sell", 100), 100, [done]) is None


@dataclass
class Oddity:
    symbol: Any = "X"
    side: Any = "buy"
    quantity: Any = 1


@pytest.mark.parametrize(
    "order",
    [
        None,
        Oddity(symbol=""),
        Oddity(symbol=7),
        Oddity(side="sideways"),
        Oddity(side=None),
        Oddity(quantity=None),
        Oddity(quantity=0),
        Oddity(quantity=-1),
        Oddity(quantity=True),
        Oddity(quantity="NaN"),
        Oddity(quantity="sNaN"),
        Oddity(quantity=float("inf")),
        Oddity(quantity="a lot"),
    ],
)
def test_an_order_that_makes_no_sense_is_not_called_reducing(order: Any) -> None:
    with pytest.raises(InvalidOrder):
        why_not_reducing(order, -100)


@given(st.one_of(st.none(), st.text(), st.floats(), st.binary(), st.booleans(), st.lists(st.integers())))
def test_a_quantity_is_finite_or_refused(value: Any) -> None:
    try:
        assert as_quantity(value, "it").is_finite()
    except InvalidOrder as error:
        assert "\n" not in str(error)


# What other people's engines and clients hand over


def test_an_exit_given_by_a_clients_own_enum_is_understood() -> None:
    enums = pytest.importorskip("alpaca.trading.enums")
    exit_order = Oddity(symbol="X", side=enums.OrderSide.SELL, quantity="5")
    assert why_not_reducing(exit_order, 5) is None
    entry = why_not_reducing(Oddity(symbol="X", side=enums.OrderSide.BUY, quantity="5"), 5)
    assert entry is not None and "adds to a position" in entry


@pytest.mark.parametrize(("side", "held"), [("sell_to_close", 5), ("SELL", 5), ("buy_to_cover", -5), ("sell_short", 5)])
def test_the_words_for_a_side_are_understood(side: str, held: int) -> None:
    assert why_not_reducing(Oddity(symbol="X", side=side, quantity=5), held) is None


def test_a_pair_is_one_symbol_with_and_without_its_slash() -> None:
    held = Position("BTCUSD", Decimal("0.5"), Decimal("0.5"), Decimal(60_000))
    close = OrderIntent("BTC/USD", "sell", "0.5")
    assert why_not_reducing(close, held) is None
    beside = why_not_reducing(close, held, [working(Side.SELL, Decimal("0.2"), symbol="BTC/USD")])
    assert beside is not None and "could cross zero" in beside


@dataclass
class ByAmount:
    symbol: str = "X"
    side: str = "sell"
    quantity: Any = None
    notional: Any = "600"
    remaining: Any = 0
    legs: Any = ()


def test_a_working_order_for_an_amount_of_money_blocks_its_own_symbol_only() -> None:
    partly_filled = ByAmount()  # 600 of it, 2 filled: it may still take what is left of the 3
    refused = why_not_reducing(OrderIntent("X", "sell", 3), 3, [partly_filled])
    assert refused is not None and "not known" in refused
    assert why_not_reducing(OrderIntent("Y", "sell", 3), 3, [partly_filled]) is None


@pytest.mark.parametrize("bad", [Oddity(symbol="X", side="?"), Unreadable("order", "X", "1", "its price is empty")])
def test_one_bad_working_order_blocks_its_own_symbol_only(bad: Any) -> None:
    assert why_not_reducing(OrderIntent("X", "sell", 3), 3, [bad]) is not None
    assert why_not_reducing(OrderIntent("Y", "sell", 3), 3, [bad, Oddity(symbol=None), object()]) is None


def test_an_order_with_several_legs_counts_by_its_legs() -> None:
    parent = ByAmount(
        symbol="", notional=None, legs=[working(Side.SELL, Decimal(2)), working(Side.BUY, Decimal(2), symbol="Y")]
    )
    assert why_not_reducing(OrderIntent("X", "sell", 3), 5, [parent]) is None
    assert why_not_reducing(OrderIntent("X", "sell", 4), 5, [parent]) is not None
    assert why_not_reducing(OrderIntent("Z", "sell", 4), 5, [parent]) is None
