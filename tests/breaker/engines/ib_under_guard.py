"""A TWS on a book of the sandbox exchange, and ib_async connected to it behind a gate."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

from ib_async import Stock, Trade

from breaker import CircuitBreaker
from breaker.engines import GuardedIB, OrderRefused
from breaker.gate import Gate, Reason
from sandbox.exchange.scenario import parse
from sandbox.exchange.server import PaperExchangeThread
from tests.helpers import PATIENCE

AAPL = Stock("AAPL", "SMART", "USD")
PRICES = "enforce_available = false\n[prices]\nAAPL = 200\nTSLA = 100\n"
LONG = f'{PRICES}[[positions]]\nsymbol = "AAPL"\nqty = 100\n'


@contextlib.asynccontextmanager
async def connected(
    exchange: PaperExchangeThread, gate: Gate, book: str = LONG, *, client_id: int = 7, **more: Any
) -> AsyncIterator[GuardedIB]:
    if book:
        exchange.restart(parse(book))
    ib = GuardedIB(gate, **more)
    await ib.connectAsync("127.0.0.1", exchange.tws_port or 0, clientId=client_id, timeout=PATIENCE)
    try:
        yield ib
    finally:
        ib.disconnect()


async def until(holds: Callable[[], object], what: str = "it never happened") -> None:
    """As `eventually`, on the loop that ib_async lives in."""
    deadline = asyncio.get_running_loop().time() + PATIENCE
    while not holds():
        assert asyncio.get_running_loop().time() < deadline, what
        await asyncio.sleep(0.01)


async def told(trade: Trade, *statuses: str) -> None:
    await until(lambda: trade.orderStatus.status in statuses, f"it stayed {trade.orderStatus.status}")


async def trip(cb: CircuitBreaker, gate: Gate) -> None:
    cb.trip("MANUAL")
    await until(lambda: gate.status().reason is Reason.TRIPPED, "the gate never heard of the trip")


def refusal(place: Callable[[], object]) -> str:
    """Why an order may not be sent; empty if it was."""
    try:
        place()
    except OrderRefused as refused:
        return str(refused)
    return ""


def sent(exchange: PaperExchangeThread, what: str = "TWS placeOrder") -> int:
    """How many such messages have reached TWS."""
    return int(exchange.report()["requests"].get(what, 0))
