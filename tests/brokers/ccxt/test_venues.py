"""What is known of each exchange before it is asked fits what ccxt and the exchange are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ccxt.async_support as ccxt
import pytest

from brokers.ccxt.paging import next_page
from brokers.ccxt.venue_table import OTHER, VENUES, venue_of
from brokers.ccxt.venues import Pages
from brokers.safety_nets import timer_of

CALLS = {
    "account": "cancelAllOrders",
    "symbol": "cancelAllOrders",
}


@pytest.mark.parametrize("name", sorted(VENUES))
def test_ccxt_has_every_exchange_of_the_table_and_every_call_that_the_table_counts_on(name: str) -> None:
    venue, exchange = VENUES[name], getattr(ccxt, name)()
    assert exchange.has["fetchOpenOrders"] and exchange.has["createOrder"] and exchange.has["cancelOrder"]
    if venue.cancels_all:
        assert exchange.has["cancelAllOrders"] is True
    if venue.batch:
        assert exchange.has["cancelOrders"] is True
    if venue.timer is not None:
        by_symbol = venue.timer.per_symbol
        assert callable(getattr(exchange, by_symbol)) if by_symbol else exchange.has["cancelAllOrdersAfter"] is True
        assert timer_of("ccxt", name, "spot" if name == "kraken" else "swap") is not None
    if venue.finds_by:
        assert exchange.has["fetchOrder"] is True
    for call in venue.transfers:
        assert callable(getattr(exchange, call))
    for raw in [view.raw for view in venue.orders] + [view.raw for view in venue.positions]:
        assert raw is None or callable(getattr(exchange, raw[0]))
    assert venue.unified is None or callable(getattr(exchange, venue.unified.call))


@pytest.mark.parametrize("name", ["okx", "hyperliquid", "coinbase"])
def test_where_ccxt_cancels_no_whole_account_none_is_asked_to(name: str) -> None:
    assert getattr(ccxt, name)().has["cancelAllOrders"] is not True
    assert not venue_of(name, "swap").cancels_all
    assert venue_of(name, "swap").batch


@pytest.mark.parametrize("name", sorted(VENUES))
@pytest.mark.parametrize("market", ["spot", "swap"])
def test_conditional_orders_are_listed_before_what_they_turn_into(name: str, market: str) -> None:
    order = [view.conditional for view in venue_of(name, market).orders]
    assert order == sorted(order, reverse=True)
    assert len({view.name for view in venue_of(name, market).orders}) == len(order)


def test_an_exchange_without_an_entry_is_taken_for_the_most_careful_one() -> None:
    venue = venue_of("lbank", "spot")
    assert venue == OTHER and not venue.known
    assert (venue.cancels_all, venue.batch, venue.timer, venue.client_order_ids.unique) == ("", 0, None, False)


def page(*ids: str, **first: str) -> list[Mapping[str, Any]]:
    return [{"id": name, "info": {"id": name, **(first if not number else {})}} for number, name in enumerate(ids)]


@pytest.mark.parametrize(
    ("pages", "expected"),
    [
        (Pages.ALL_AT_ONCE, {}),
        (Pages.CURSOR, {"cursor": "next"}),
        (Pages.AFTER_ID, {"after": "7"}),
        (Pages.BELOW_ID, {"idLessThan": "7"}),
        (Pages.OFFSET, {"offset": 4}),
        (Pages.NUMBER, {"currentPage": 3}),
    ],
)
def test_a_full_page_is_followed_by_the_next(pages: Pages, expected: Mapping[str, Any]) -> None:
    full = page("7", "8", nextPageCursor="next")
    assert next_page(pages, 2, full, seen=4, number=2) == expected
    assert next_page(pages, 3, full, seen=4, number=2) == {}, "it is not full, so it is the last"
