"""What is made of NautilusTrader's orders, told by stand-ins with the properties that it documents."""

from __future__ import annotations

from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest

from breaker.engines.nautilus_orders import held_of, list_intent, modify_intent, order_intent, working_in
from breaker.gate import ListKind, OrderIntent
from breaker.gate.intents import OrderList

NAME = "ETHUSDT-PERP.BINANCE"


def quantity(value: str) -> Any:
    return SimpleNamespace(as_decimal=lambda: Decimal(value))


def order(name: str = "1", side: str = "SELL", whole: str = "10", filled: str = "0", **more: Any) -> Any:
    said = {
        "instrument_id": NAME,
        "strategy_id": "S-000",
        "client_order_id": name,
        "side": SimpleNamespace(name=side),
        "quantity": quantity(whole),
        "filled_qty": quantity(filled),
        "leaves_qty": quantity(str(Decimal(whole) - Decimal(filled))),
        "is_quote_quantity": False,
        "is_reduce_only": False,
        "parent_order_id": None,
        "linked_order_ids": None,
        "contingency_type": SimpleNamespace(name="NO_CONTINGENCY"),
    }
    return SimpleNamespace(**{**said, **more})


def exits() -> list[Any]:
    oco = SimpleNamespace(name="OUO")
    pair: dict[str, Any] = {"parent_order_id": "1", "contingency_type": oco}
    return [order("2", linked_order_ids=["3"], **pair), order("3", linked_order_ids=["2"], **pair)]


def test_an_order_is_told_with_its_venue_and_strategy() -> None:
    found = order_intent(order(side="BUY", whole="1.5", is_reduce_only=True))
    assert found == OrderIntent(NAME, "buy", Decimal("1.5"), strategy="S-000", reduce_only=True, client_order_id="1")


def test_an_order_in_the_quote_currency_is_for_an_amount() -> None:
    found = order_intent(order(is_quote_quantity=True))
    assert (found.quantity, found.notional) == (None, Decimal(10))


def test_a_bracket_is_an_entry_that_triggers_exits_of_which_one_fills() -> None:
    found = list_intent([order(side="BUY", contingency_type=SimpleNamespace(name="OTO")), *exits()])
    assert found.kind is ListKind.OTO
    assert found.orders[1].kind is ListKind.OCO
    assert found.malformed is None


def test_other_lists_are_exits_that_cancel_each_other_or_independent() -> None:
    assert list_intent(exits()).kind is ListKind.OCO
    assert list_intent([order("1"), order("2")]).kind is ListKind.INDEPENDENT


@pytest.mark.parametrize(("price", "only"), [(None, True), (3500, False)])
def test_a_change_counts_what_may_still_fill(price: int | None, only: bool) -> None:
    command = SimpleNamespace(quantity=quantity("8"), price=price, trigger_price=None)
    found = modify_intent(command, order(filled="3"))
    assert (found.order_id, found.order.quantity, found.only_quantity) == ("1", Decimal(5), only)


def test_positions_in_an_instrument_count_together() -> None:
    def position(held: str) -> Any:
        return SimpleNamespace(instrument_id=NAME, signed_decimal_qty=lambda: Decimal(held))

    cache = SimpleNamespace(positions_open=lambda: [position("10"), position("-4")])
    assert held_of(cache) == {NAME: Decimal(6)}


def test_what_works_counts_once_whatever_list_it_is_in() -> None:
    lone, pair = order("1", filled="3"), exits()
    cache = SimpleNamespace(
        orders_open=lambda: [lone, *pair], orders_inflight=lambda: [lone], orders_emulated=lambda: []
    )
    found = working_in(cache)
    assert len(found) == 2
    (both,) = (each for each in found if isinstance(each, OrderList))
    (single,) = (each for each in found if not isinstance(each, OrderList))
    assert both.kind is ListKind.OCO
    assert single.remaining == Decimal(7)
