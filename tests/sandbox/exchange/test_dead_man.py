"""The venue's own timers cancel what a client that fell silent has left, and nothing while it is heard of."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal

import httpx

from breaker.orders import OrderType, Side, TimeInForce
from sandbox.exchange.exchange import Exchange
from sandbox.exchange.orders import OrderRequest
from sandbox.exchange.server import PaperExchange
from tests.helpers import eventually

Market = Callable[..., Exchange]
RESTING = '[prices]\nAAPL = 200\nMSFT = 400\n[[positions]]\nsymbol = "AAPL"\nqty = 100\n'


def rest(exchange: Exchange, symbol: str, side: Side = Side.BUY, price: str = "1") -> None:
    terms = OrderRequest(symbol, side, OrderType.LIMIT, TimeInForce.DAY, qty=Decimal(1), limit_price=Decimal(price))
    exchange.submit(terms)


def test_the_accounts_timer_cancels_every_order_once_and_is_off_then(market: Market) -> None:
    exchange = market(RESTING)
    rest(exchange, "AAPL")
    rest(exchange, "MSFT")
    assert exchange.dead_man.arm(60) == 60
    exchange.advance(59.9)
    assert len(exchange.book.open_orders) == 2 and exchange.dead_man.armed == {"": 60}
    exchange.advance(61)
    assert not exchange.book.open_orders and exchange.book.positions, "orders go, positions stay"
    rest(exchange, "AAPL")
    exchange.advance(1_000)
    assert len(exchange.book.open_orders) == 1 and not exchange.dead_man.armed, "it stays off until it is armed again"
    assert [(firing.at, firing.symbol, firing.cancelled) for firing in exchange.dead_man.firings] == [(60, "", 2)]


def test_renewing_puts_it_off_and_disarming_ends_it(market: Market) -> None:
    exchange = market(RESTING)
    rest(exchange, "AAPL")
    exchange.dead_man.arm(60)
    exchange.advance(50)
    exchange.dead_man.arm(60)
    exchange.advance(109)
    exchange.dead_man.disarm()
    exchange.dead_man.disarm()
    exchange.advance(1_000)
    assert len(exchange.book.open_orders) == 1 and not exchange.dead_man.firings


def test_a_symbols_timer_leaves_other_symbols_alone(market: Market) -> None:
    exchange = market(RESTING)
    rest(exchange, "AAPL")
    rest(exchange, "MSFT")
    exchange.dead_man.arm(10, "AAPL")
    exchange.dead_man.arm(20, "MSFT")
    exchange.advance(15)
    assert [order.symbol for order in exchange.book.open_orders.values()] == ["MSFT"]
    assert exchange.dead_man.armed == {"MSFT": 20}


def test_the_report_tells_of_it(venue: Callable[[str], PaperExchange], http: httpx.Client) -> None:
    exchange = venue("time_scale = 100\n" + RESTING)
    terms = {"symbol": "AAPL", "side": "buy", "type": "limit", "time_in_force": "day", "qty": 1, "limit_price": 1}
    assert http.post("/v2/orders", json=terms).status_code == 200
    exchange.control("dead-man", {"seconds": 30})
    eventually(lambda: not exchange.report()["open_orders"], exchange.report)
    (fired,) = exchange.report()["dead_man"]["fired"]
    assert (fired["symbol"], fired["cancelled"]) == ("", 1)
    assert exchange.report()["dead_man"]["armed"] == {}
