"""Cancel orders in bulk where nothing is to stay, and one by one what a bulk request leaves, until the venue obeys."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from breaker.orders import Order, OrderStatus, Unreadable
from brokers.cancel_by_id import cancel_each
from brokers.protocol import BrokerError, CancelOutcome, CancelResult
from tasks.kill.account import AccountRun

BULK_CANCEL_FROM = 5
"""From this many orders on, one bulk request comes first and single ones follow for what survives it."""
MOST_AT_ONCE = 40
"""Requests that cancel by id in one round; a bulk request is tried again in between."""
ASK_AGAIN_AFTER = 1.0
ASK_AGAIN_MOST = 15.0
"""Seconds before an order is asked again that is still open although its cancel was accepted; doubling, up to these."""


@dataclass(frozen=True, slots=True)
class _Asked:
    times: int
    again_at: float
    """On the monotonic clock; at once for one that was refused."""
    in_bulk: bool


class Cancelling:
    """Cancels one account's orders and remembers how each was asked, so that no way that fails is taken for ever."""

    def __init__(self, run: AccountRun) -> None:
        self._run = run
        self._broker = run.broker
        self._asked: dict[str, _Asked] = {}
        self._bulk_failed = False
        """The last bulk request failed as a whole: single ones come before the next."""
        self._only_in_bulk: set[str] = set()
        """Orders that the venue cancels for nobody of ours by their ids."""

    async def cancel(
        self,
        orders: Sequence[Order],
        open_orders: Sequence[Order],
        unread: Sequence[Unreadable] = (),
        *,
        in_bulk: bool = True,
    ) -> dict[str, str]:
        """Cancel these of the open orders, and those that can't be read by their ids; `in_bulk` where one may do that.

        Returns why the venue will not cancel, by the positions that the orders are for. Raises `BrokerError` when it
        could not be asked.
        """
        now = time.monotonic()
        keys: dict[str, set[str]] = {order.cancel_id: {order.key} for order in orders}
        keys |= {item.id: {item.symbol} for item in unread}
        for order in open_orders:  # of one with several legs each leg has its own
            if order.cancel_id in keys:
                keys[order.cancel_id].add(order.key)
        self._asked = {order_id: asked for order_id, asked in self._asked.items() if order_id in keys}
        due = [order_id for order_id in keys if order_id not in self._asked or self._asked[order_id].again_at <= now]
        if not due:
            return {}
        spared = [o for o in open_orders if o.cancel_id not in keys and o.status is not OrderStatus.PENDING_CANCEL]
        fresh = [order_id for order_id in due if order_id not in self._asked or not self._asked[order_id].in_bulk]
        in_bulk = in_bulk and self._may_cancel_all
        # What would stay goes too where a request for all is the only one that some obey: they could open a position.
        must = any(order_id in self._only_in_bulk for order_id in fresh)
        if in_bulk and not self._bulk_failed and (must or (len(fresh) >= BULK_CANCEL_FROM and not spared)):
            if spared:
                self._run.record("CANCEL_POLICY", protective=len(spared), protective_last=False)
            results = await self._in_bulk(due, now)
        else:
            self._bulk_failed = False
            asked = due[: self._most_at_once]
            results = await cancel_each(self._broker, asked)
            self._note(asked, results, now, in_bulk=False)
        return self._tell(due, results, keys)

    async def cancel_unseen(self) -> None:
        """The orders can't be read, but perhaps they can be cancelled all the same. Raises `BrokerError`."""
        if self._may_cancel_all:
            results = await self._broker.cancel_all()
            self._run.record("ORDERS_CANCELED_UNSEEN", answers=len(results))

    @property
    def _most_at_once(self) -> int:
        """Orders that are asked to go by their ids in one round."""
        return MOST_AT_ONCE * max(1, self._broker.capabilities.batch_cancel)

    @property
    def _may_cancel_all(self) -> bool:
        return self._broker.capabilities.bulk_cancel and self._run.coverage.whole_accounts

    async def _in_bulk(self, due: Sequence[str], now: float) -> Sequence[CancelResult]:
        try:
            results = await self._broker.cancel_all()
        except BrokerError:
            self._bulk_failed = True
            raise
        self._note(due, results, now, in_bulk=True)
        return results

    def _note(self, due: Sequence[str], results: Sequence[CancelResult], now: float, *, in_bulk: bool) -> None:
        accepted = {result.order_id for result in results if result.outcome is CancelOutcome.ACCEPTED}
        only_in_bulk = {result.order_id for result in results if result.only_in_bulk}
        self._only_in_bulk |= only_in_bulk
        for order_id in due:
            times = self._asked[order_id].times + 1 if order_id in self._asked else 1
            # What a bulk request refused or did not name goes by its own id at once.
            wait = min(ASK_AGAIN_AFTER * 2 ** (times - 1), ASK_AGAIN_MOST)
            waits = order_id in accepted or (not in_bulk and order_id not in only_in_bulk)
            again_at = now + wait if waits else now
            self._asked[order_id] = _Asked(times, again_at, in_bulk)

    def _tell(self, due: Sequence[str], results: Sequence[CancelResult], keys: dict[str, set[str]]) -> dict[str, str]:
        accepted = sum(result.outcome is CancelOutcome.ACCEPTED for result in results)
        refused = [result for result in results if result.outcome is CancelOutcome.REFUSED]
        self._run.record(
            "ORDERS_CANCELED",
            asked=len(due),
            accepted=accepted,
            refused=[f"{result.order_id}: {result.reason}" for result in refused[:50]],
        )
        self._run.update(canceled=self._run.progress.canceled + accepted)
        return {
            key: f"the venue will not cancel order {result.order_id}: {result.reason}"
            for result in refused
            for key in keys.get(result.order_id, ())
        }
