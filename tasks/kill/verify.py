"""Flat means flat: the venue says so twice, and still says so after a while."""

from __future__ import annotations

import asyncio
import time
from collections import Counter

from breaker.orders import ZERO
from brokers.coverage import POSITIONS_UNKNOWN
from brokers.protocol import BrokerError
from tasks.kill.account import AccountRun, StuckItem
from tasks.kill.book import Book, read_book


def reappeared(book: Book) -> list[StuckItem]:
    """What appeared after the book had been flat; it is closed in the next round, if there is time for one."""
    quantities = {position.key: position.quantity for position in book.positions if position.quantity}
    orders = Counter(order.key for order in book.orders)
    return [
        StuckItem(
            key,
            quantities.get(key, ZERO),
            orders[key],
            "it appeared after the book was flat: a fill was reported late, or an engine is still trading; stop that",
        )
        for key in sorted({*quantities, *orders})
    ]


async def verify_flat(run: AccountRun) -> bool:
    """Whether nothing is left of what the run covers of the account; it is flat then, where positions can be told.

    Two readings `settle` seconds apart must both show no order and no position; then the venue is read on for `guard`
    seconds, because a fill can be reported after its order was called cancelled. Anything that appears makes it False.
    """
    settings = run.settings
    flat_after = run.elapsed
    first_read_at: float | None = None
    readings = 0
    dust = {item.symbol: item.quantity for item in run.progress.dust}
    while True:
        try:
            read = await run.in_time(read_book(run.broker, run.coverage), settings.settle + settings.guard)
            run.note_book(read)
            book = read.without(dust)
        except BrokerError as error:
            run.update(note=str(error))
            if run.elapsed > settings.deadline + settings.guard:
                return False
            await asyncio.sleep(settings.poll_interval)
            continue
        if not book.empty:
            positions = [position.key for position in book.held]
            run.record("NOT_FLAT_AFTER_ALL", orders=book.open_orders, positions=positions[:50])
            run.update(
                orders_open=book.open_orders,
                positions_open=book.open_positions,
                flat_after=None,
                stuck=tuple(reappeared(book)),
            )
            return False
        readings += 1
        run.update(orders_open=0, positions_open=0)
        now = time.monotonic()
        first_read_at = now if first_read_at is None else first_read_at
        left = first_read_at + settings.settle + settings.guard - now
        if left <= 0:
            if not run.coverage.positions_known:
                run.update(positions_at_start=None, positions_open=None, notional_at_start=None, note=POSITIONS_UNKNOWN)
                run.record("ORDERS_GONE", after_seconds=round(flat_after, 3), readings=readings)
                return True
            run.update(flat=True, flat_after=flat_after)
            run.record("ACCOUNT_FLAT", after_seconds=round(flat_after, 3), readings=readings)
            return True
        await asyncio.sleep(min(settings.settle, left))
