"""The first sweep: every account at once, and none waits for another one's trouble."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from decimal import Decimal

from breaker.orders import Side
from brokers.alpaca import AlpacaBroker
from brokers.coverage import coverage_of
from brokers.protocol import CancelResult, CloseOrder
from brokers.sweep import first_sweep
from sandbox.exchange.scenario import parse
from sandbox.exchange.server import PaperExchangeThread
from tests.helpers import in_time


class Broken(AlpacaBroker):
    """An adapter with a mistake in it."""

    async def cancel_all(self) -> Sequence[CancelResult]:
        raise ZeroDivisionError("a mistake")


async def test_a_sweep_asks_every_account_and_says_what_each_answered() -> None:
    book = "[book]\norders = 30\npending_replace = 4\n"
    with PaperExchangeThread(parse(book)) as exchange, socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        hung = f"http://127.0.0.1:{silent.getsockname()[1]}"
        brokers = [
            AlpacaBroker("GOOD", exchange.url, "key", "secret"),
            AlpacaBroker("HUNG", hung, "key", "secret"),
            AlpacaBroker("KEYS", exchange.url, "key", "wrong"),
            Broken("BROKEN", exchange.url, "key", "secret"),
            AlpacaBroker("HASTY", hung, "key", "secret", timeout=0.05),
        ]
        covered = coverage_of("global", [broker.name for broker in brokers])
        with in_time(1.5):
            swept = {result.account: result for result in await first_sweep(brokers, 1.5, coverage=covered)}
        for broker in brokers:
            await broker.aclose()
        assert (swept["GOOD"].accepted, swept["GOOD"].refused, swept["GOOD"].problem) == (26, 4, "")
        assert "no answer to the first sweep within 1.5 s" in swept["HUNG"].problem
        assert swept["BROKEN"].problem == "BROKEN: ZeroDivisionError: a mistake"
        assert "refuses the keys" in swept["KEYS"].problem
        assert "no answer within 0.05 s" in swept["HASTY"].problem
        assert exchange.report()["open_orders"] == 4


async def test_closes_of_the_kill_switch_stay_at_work_beside_what_is_cancelled() -> None:
    book = """
[[positions]]
symbol = "AAPL"
qty = 10
[[orders]]
symbol = "AAPL"
side = "buy"
qty = 1
limit_price = 1
[[halts]]
symbol = "AAPL"
mode = "hold"
"""
    with PaperExchangeThread(parse(book)) as exchange:
        broker = AlpacaBroker("GOOD", exchange.url, "key", "secret")
        await broker.close(CloseOrder("AAPL", Side.SELL, Decimal(10), "incident-AAPL-1"))
        covered = coverage_of("global", ["GOOD"])
        (swept,) = await first_sweep(
            [broker], 1.5, is_close=lambda order: order.client_order_id == "incident-AAPL-1", coverage=covered
        )
        (left,) = await broker.open_orders()
        assert (swept.accepted, left.client_order_id) == (1, "incident-AAPL-1")
        (swept,) = await first_sweep([broker], 1.5, coverage=covered)
        assert swept.accepted == 1 and not await broker.open_orders()
        await broker.aclose()


async def test_an_order_with_several_legs_counts_once() -> None:
    book = """
prices.SPY261218C00600000 = 4
prices.SPY261218C00610000 = 2.5
[[orders]]
qty = 1
limit_price = 0.10
legs = [{ symbol = "SPY261218C00600000", side = "buy" }, { symbol = "SPY261218C00610000", side = "sell" }]
"""
    with PaperExchangeThread(parse(book)) as exchange:
        broker = AlpacaBroker("GOOD", exchange.url, "key", "secret")
        (swept,) = await first_sweep([broker], 1.5, coverage=coverage_of("global", ["GOOD"]))
        await broker.aclose()
    assert swept.orders is not None
    assert (swept.open_orders, len(swept.orders), swept.accepted) == (1, 2, 1)


async def test_no_account_is_no_trouble() -> None:
    assert await first_sweep([], timeout=0.1, coverage=coverage_of("global", ())) == []
