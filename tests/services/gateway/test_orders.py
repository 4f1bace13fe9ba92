"""Alpaca's orders as the gate is asked about them; what two readers could read differently is no order."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest

from breaker.engines import Book
from breaker.gate import CancelIntent, ListKind, OrderIntent, OrderList, ReplaceIntent
from breaker.orders import Order, OrderStatus, OrderType, Position, Side, TimeInForce
from services.gateway.orders import NotUnderstood, read_request
from services.gateway.routes import Kind, Route

BUY = {"symbol": "AAPL", "qty": "10", "side": "buy", "type": "market", "time_in_force": "day"}
NEW = Route(Kind.NEW)


def asked(body: Any, route: Route = NEW, query: bytes = b"") -> Any:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return read_request(route, raw, query, "ALPHA", "meanrev")


def order(symbol: str, side: Side, quantity: Any = None, **more: Any) -> OrderIntent:
    return OrderIntent(symbol, side, quantity, "ALPHA", "meanrev", **more)


@pytest.mark.parametrize(
    ("body", "intent"),
    [
        (BUY, order("AAPL", Side.BUY, Decimal(10))),
        ({**BUY, "qty": 10, "client_order_id": "c"}, order("AAPL", Side.BUY, Decimal(10), client_order_id="c")),
        ({**BUY, "qty": None, "notional": "500.5"}, order("AAPL", Side.BUY, notional=Decimal("500.5"))),
        ({**BUY, "qty": 0.1, "side": "sell"}, order("AAPL", Side.SELL, Decimal("0.1"))),
        ({**BUY, "side": None, "position_intent": "sell_to_close"}, order("AAPL", Side.SELL, Decimal(10))),
        (
            {**BUY, "order_class": "bracket", "take_profit": {"limit_price": "1"}, "stop_loss": {"stop_price": "2"}},
            OrderList(
                [
                    order("AAPL", Side.BUY, Decimal(10)),
                    OrderList([order("AAPL", Side.SELL, Decimal(10))] * 2, ListKind.OCO),
                ],
                ListKind.OTO,
            ),
        ),
        (
            {
                **BUY,
                "side": "sell",
                "order_class": "oco",
                "take_profit": {"limit_price": 1},
                "stop_loss": {"stop_price": 2},
            },
            OrderList([order("AAPL", Side.SELL, Decimal(10))] * 2, ListKind.OCO),
        ),
        (
            {"order_class": "mleg", "qty": "2", "legs": [{"symbol": "X", "side": "buy", "ratio_qty": "3"}]},
            OrderList([order("X", Side.BUY, Decimal(6))], ListKind.LEGS),
        ),
    ],
)
def test_a_new_order(body: Any, intent: Any) -> None:
    assert asked(body).order == intent


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b"{",
        b'{"symbol": "AAPL"} {}',
        b'{"symbol": "AAPL", "qty": 1, "qty": 1000, "side": "buy"}',
        b'{"symbol": "AAPL", "qty": 1, "QTY": 1000, "side": "buy"}',
        '{"symbol": "AAPL", "qty": 1, "\u017fide": "sell", "side": "buy"}'.encode(),
        b'{"symbol": "AAPL", "qty": 1, "s\\u0131de": "sell", "side": "buy"}',
        b'{"symbol": "AAPL", "qty": NaN, "side": "buy"}',
        b'{"symbol": "AAPL", "qty": Infinity, "side": "buy"}',
        b'{"symbol": "AAPL", "qty": 1e400, "side": "buy"}',
        b'{"symbol": "AAPL", "qty": ' + b"9" * 5000 + b', "side": "buy"}',
        b"[" * 60_000,
        '{"symbol": "AAPL", "qty": 1, "side": "buy"}'.encode("utf-16"),
        b'\xef\xbb\xbf{"symbol": "AAPL", "qty": 1, "side": "buy"}',
        {**BUY, "legs": [{"symbol": "X", "side": "buy", "ratio_qty": "9"}]},
        {"order_class": "mleg", "qty": "2", "notional": "9", "legs": [{"symbol": "X", "side": "buy"}]},
        {
            "order_class": "mleg",
            "qty": "2",
            "take_profit": {"limit_price": 1},
            "legs": [{"symbol": "X", "side": "buy"}],
        },
        {**BUY, "qty": "1_0"},
        {**BUY, "qty": " 1"},
        {**BUY, "qty": "٣"},
        {**BUY, "qty": "1e3"},
        {**BUY, "qty": "-1"},
        {**BUY, "qty": True},
        {**BUY, "qty": [1]},
        {**BUY, "side": "BUY"},
        {**BUY, "side": "sell", "position_intent": "buy_to_open"},
        {**BUY, "symbol": " AAPL"},
        {**BUY, "symbol": "AAPL,TSLA"},
        {**BUY, "symbol": None},
        {**BUY, "order_class": "iceberg"},
        {**BUY, "take_profit": {"limit_price": 1}},
        {**BUY, "order_class": "bracket"},
        {**BUY, "order_class": "mleg", "legs": {}},
        {"order_class": "mleg", "qty": 1, "legs": [{"symbol": "X", "side": "buy", "ratio_qty": 1, "Ratio_qty": 9}]},
    ],
)
def test_what_can_be_read_in_two_ways_is_no_order(body: Any) -> None:
    with pytest.raises(NotUnderstood):
        asked(body)


def held(quantity: int, *orders: Order) -> Book:
    size = Decimal(quantity)
    return Book([Position("AAPL", size, abs(size), Decimal(1))], orders)


def open_order(number: str, side: Side, quantity: int, filled: int = 0) -> Order:
    day, limit = TimeInForce.DAY, OrderType.LIMIT
    sizes = Decimal(quantity), Decimal(filled)
    return Order(number, f"c{number}", "AAPL", side, *sizes, OrderStatus.NEW, limit, day)


@pytest.mark.parametrize(
    ("changes", "quantity", "only_quantity"),
    [({"qty": "5"}, 5, True), ({"qty": "5", "limit_price": "2"}, 5, False), ({"limit_price": "2"}, 7, False)],
)
def test_a_replacement_is_of_the_order_that_works(changes: Any, quantity: int, only_quantity: bool) -> None:
    replaced = asked(changes, Route(Kind.REPLACE, "1"))
    intent = replaced.by_book(held(10, open_order("1", Side.SELL, 10, 3)))
    assert intent == ReplaceIntent("1", order("AAPL", Side.SELL, Decimal(quantity)), only_quantity=only_quantity)
    for book in (held(10), None):
        unknown = replaced.by_book(book)
        assert (unknown.order.quantity, unknown.order.side) == (None, Side.BUY)


@pytest.mark.parametrize(
    ("position", "query", "side", "quantity"),
    [
        (100, b"", Side.SELL, 100),
        (-100, b"percentage=50", Side.BUY, 50),
        (100, b"qty=30", Side.SELL, 30),
        (100, b"qty=3000", Side.SELL, 100),
        (100, b"qty=1&qty=2", Side.SELL, 100),
        (100, b"qty=1&percentage=2", Side.SELL, 100),
        (100, b"qty=x", Side.SELL, 100),
    ],
)
def test_a_close_is_of_what_is_held(position: int, query: bytes, side: Side, quantity: int) -> None:
    closing = asked(b"", Route(Kind.CLOSE, "AAPL"), query)
    assert closing.by_book(held(position)) == order("AAPL", side, Decimal(quantity), reduce_only=True)


def test_a_close_of_what_is_not_known_to_be_held_passes_as_a_cancel_does() -> None:
    closing = asked(b"", Route(Kind.CLOSE, "TSLA"))
    assert closing.by_book(held(100)) == closing.by_book(None) == CancelIntent()
    assert asked(b"", Route(Kind.CLOSE_ALL)).order == CancelIntent()
