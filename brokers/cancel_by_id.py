"""Cancel orders by their ids: as many in one request as the venue takes, and a few requests at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from brokers.protocol import Broker, CancelOutcome, CancelResult

CONCURRENT = 8
"""Requests under way at once for one account."""

_T = TypeVar("_T")
_R = TypeVar("_R")


async def cancel_each(broker: Broker, order_ids: Sequence[str]) -> list[CancelResult]:
    """Cancel these by their ids, as many in one request as the venue takes; a result for each.

    What an answer to several leaves out may have been cancelled or not. Raises `BrokerError` once each was tried.
    """
    most = broker.capabilities.batch_cancel
    if not most:
        return await together(order_ids, broker.cancel)
    batches = [order_ids[start : start + most] for start in range(0, len(order_ids), most)]
    answers = await together(batches, broker.cancel_many)
    told = {result.order_id: result for answer in answers for result in answer}
    return [told.get(order_id) or _not_named(order_id) for order_id in order_ids]


def _not_named(order_id: str) -> CancelResult:
    return CancelResult(order_id, CancelOutcome.UNKNOWN, "the venue's answer does not name it")


async def together(items: Sequence[_T], action: Callable[[_T], Awaitable[_R]]) -> list[_R]:
    """Run `action` on each item, at most `CONCURRENT` at once; every item is tried before the first error is raised."""
    places = asyncio.Semaphore(CONCURRENT)

    async def one(item: _T) -> _R:
        async with places:
            return await action(item)

    outcomes = await asyncio.gather(*(one(item) for item in items), return_exceptions=True)
    results = []
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
        results.append(outcome)
    return results
