"""Generated books of crypto venues, in memory: what a scenario asks for is there, and nothing turns over by itself."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from decimal import Decimal
from random import Random

import pytest

from breaker.orders import OrderType, PositionSide, Side, TimeInForce
from sandbox.exchange.binance.balances import balances
from sandbox.exchange.closable import closable
from sandbox.exchange.exchange import Exchange
from sandbox.exchange.orders import OrderRequest, Status, position_name
from sandbox.exchange.refusal import Refusal
from sandbox.exchange.scenario import parse

Market = Callable[[str], Exchange]
FUTURES = 'protocol = "binance-futures"\n'
SPOT = 'protocol = "binance-spot"\n'
TROUBLED = """
[book]
positions = 4
orders = 10
algo = 4
[cancels]
delay = 0.3
race_probability = 0.5
[fills]
delay = { low = 0, high = 0.4 }
partial_probability = 0.5
"""
BOOK = "[book]\npositions = 12\norders = 40\nalgo = 8\nreduce_only = 3\nstrategies = 4\npending_cancel = 2\n"


@pytest.mark.parametrize("seed", range(1, 6))
def test_a_futures_book_has_what_was_asked_for(market: Market, seed: int) -> None:
    exchange = market(f"seed = {seed}\n{FUTURES}{BOOK}")
    book = exchange.book
    assert len(book.positions) == 12 and len(book.open_orders) == 40 + 8 + 3
    apart = [order for order in book.open_orders.values() if order.is_apart]
    assert len(apart) == 8 and {order.close_position for order in apart} == {True, False}
    for position in book.positions.values():
        assert position.qty % book.asset(position.symbol).quantity_increment == 0
        assert book.available(position) >= 0
    held = [position for position in book.positions.values() if book.available(position) == 0]
    assert len(held) >= 3


def test_a_hedged_book_has_both_legs(market: Market) -> None:
    exchange = market(f"{FUTURES}account.hedge_mode = true\n{BOOK}both_legs = 5\n")
    book = exchange.book
    assert len(book.positions) == 12 + 5
    sides = [(position.symbol, position.position_side) for position in book.positions.values()]
    symbols = {symbol for symbol, _ in sides}
    both = [symbol for symbol in symbols if {(symbol, side) for side in PositionSide} <= set(sides)]
    assert len(both) == 5
    for position in book.positions.values():
        assert (position.qty > 0) == (position.position_side is PositionSide.LONG)
    assert all(order.position_side for order in book.open_orders.values())


def test_a_spot_book_has_dust_that_cannot_be_sold(market: Market) -> None:
    toml = f"{SPOT}[book]\npositions = 6\norders = 20\ndust = 4\n"
    exchange = market(toml)
    assert len(exchange.book.positions) == 10
    assert len(closable(exchange, parse(toml))) == 6
    assert all(position.qty > 0 for position in exchange.book.positions.values())
    assert all(balance.free >= 0 for balance in balances(exchange.book).values())


def test_the_same_seed_makes_the_same_book(market: Market) -> None:
    def book(seed: int) -> list[tuple[str, Decimal]]:
        made = market(f"seed = {seed}\n{FUTURES}{BOOK}").book
        return [(order.symbol, order.qty) for order in made.open_orders.values()]

    assert book(1) == book(1) != book(2)


@pytest.mark.parametrize("hedged", [False, True])
@pytest.mark.parametrize("seed", range(1, 6))
def test_cancelling_with_racing_fills_turns_nothing_over(market: Market, seed: int, hedged: bool) -> None:
    exchange = market(
        f"seed = {seed}\n{FUTURES}account.hedge_mode = {str(hedged).lower()}\n{BOOK}both_legs = {4 if hedged else 0}\n"
        "[cancels]\ndelay = 0.2\nrace_probability = 0.7\nrace_fraction = 0.6\n[fills]\npartial_probability = 0.5\n"
    )
    before = {name: position.qty > 0 for name, position in exchange.book.positions.items()}
    for at in range(60):
        exchange.cancel_all()
        exchange.advance(at / 4)
    assert exchange.record.raced_cancels > 0
    for name, position in exchange.book.positions.items():
        assert before.get(name, position.qty > 0) == (position.qty > 0)
    assert exchange.record.as_dict()["violations"] == []


def test_a_reduce_only_order_never_fills_more_than_there_is(market: Market) -> None:
    exchange = market(
        FUTURES + 'prices.BTCUSDT = 95000\n[[positions]]\nsymbol = "BTCUSDT"\nqty = 1\n'
        '[[orders]]\nsymbol = "BTCUSDT"\nside = "sell"\nqty = 1\nlimit_price = 99000\nreduce_only = true\n'
    )
    (resting,) = exchange.book.open_orders.values()
    part = OrderRequest("BTCUSDT", Side.SELL, OrderType.MARKET, TimeInForce.GTC, qty=Decimal("0.4"))
    exchange.submit(part)
    exchange.advance(1)
    exchange.matching.set_price("BTCUSDT", Decimal(99_500))
    exchange.advance(2)
    assert exchange.book.positions == {}
    assert (resting.status, resting.filled_qty) == (Status.EXPIRED, Decimal("0.6"))


def test_closes_of_one_side_are_judged_by_that_side(market: Market) -> None:
    exchange = market(
        FUTURES + "account.hedge_mode = true\nprices.BTCUSDT = 95000\nfills.delay = 9\n"
        '[[positions]]\nsymbol = "BTCUSDT"\nqty = 1\n[[positions]]\nsymbol = "BTCUSDT"\nqty = -3\n'
    )
    for side, position_side, qty in ((Side.SELL, PositionSide.LONG, 1), (Side.BUY, PositionSide.SHORT, 3)):
        request = OrderRequest(
            "BTCUSDT", side, OrderType.MARKET, TimeInForce.GTC, qty=Decimal(qty), position_side=position_side
        )
        exchange.submit(request)
    exchange.advance(10)
    report = exchange.record.as_dict()
    assert exchange.book.positions == {} and report["violations"] == []
    assert report["closes"] == {"BTCUSDT long": 1, "BTCUSDT short": 1}


@pytest.mark.parametrize("hedged", [False, True])
@pytest.mark.parametrize("seed", range(1, 9))
def test_whatever_clients_do_the_books_add_up(market: Market, seed: int, hedged: bool) -> None:
    random = Random(seed)
    exchange = market(f"seed = {seed}\n{FUTURES}account.hedge_mode = {str(hedged).lower()}\n{TROUBLED}")
    book = exchange.book
    start, cash = {name: position.qty for name, position in book.positions.items()}, book.cash
    symbols = sorted({position.symbol for position in book.positions.values()})
    reducing = []
    for step in range(120):
        symbol, side = random.choice(symbols), random.choice(list(Side))
        asset = book.asset(symbol)
        qty = random.randint(1, 400) * asset.quantity_increment
        position_side = random.choice(list(PositionSide)) if hedged else None
        reduce_only = not hedged and random.random() < 0.5
        request = OrderRequest(
            symbol,
            side,
            OrderType.MARKET,
            TimeInForce.GTC,
            qty=qty,
            position_side=position_side,
            reduce_only=reduce_only,
        )
        with suppress(Refusal):
            order = exchange.submit(request)
            if order.only_reduces:
                reducing.append(order)
        if random.random() < 0.2:
            exchange.cancel_all()
        exchange.advance(step / 5)
    exchange.advance(1_000)
    filled = dict(start)
    for fill in book.fills:
        name = position_name(fill.symbol, fill.position_side)
        filled[name] = filled.get(name, Decimal(0)) + fill.side.sign * fill.qty
    assert {name: qty for name, qty in filled.items() if qty} == {n: p.qty for n, p in book.positions.items()}
    assert book.cash == cash - sum(fill.side.sign * fill.qty * fill.price for fill in book.fills)
    assert any(order.filled_qty for order in reducing)
    for name, position in book.positions.items():
        assert not hedged or (position.qty > 0) == name.endswith("long")


def test_a_trailing_stop_follows_the_market_and_closes(market: Market) -> None:
    exchange = market(FUTURES + 'prices.BTCUSDT = 95000\n[[positions]]\nsymbol = "BTCUSDT"\nqty = 1\n')
    stop = exchange.submit(
        OrderRequest(
            "BTCUSDT",
            Side.SELL,
            OrderType.TRAILING_STOP,
            TimeInForce.GTC,
            qty=Decimal(1),
            trail_percent=Decimal(1),
            reduce_only=True,
            conditional=True,
        )
    )
    exchange.matching.set_price("BTCUSDT", Decimal(100_000))
    assert stop.stop_price == 99_000 and stop.is_apart
    exchange.matching.set_price("BTCUSDT", Decimal(98_900))
    exchange.advance(1)
    assert exchange.book.positions == {} and stop.status is Status.FILLED
