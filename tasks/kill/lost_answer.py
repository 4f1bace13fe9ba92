"""Settle what became of closes at a venue that would take the same one twice, before another one is sent.

Most venues refuse a second order with the client order id of the first, so that a close whose answer was lost is simply
sent again by its name. Some take it again, and some know no such ids. There a close without an answer is looked for:
among the open orders, which every round reads; by its id, where the venue lets orders be looked up; among the fills.
What is not found is waited for; only then is it sent again. Of several runs one claims each close, where a second one
could turn the position over: reduce-only closes can't.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from breaker.orders import ZERO, Fill, Order
from brokers.protocol import CloseOrder
from tasks.kill.account import AccountRun
from tasks.kill.ladder import Pace
from tasks.kill.memory import PositionMemory, may_close_again, sent, taken_after_all

LOOKED_FOR = 15.0
"""Seconds that a close which may still be on its way is looked for, where a second one could turn the position over.

More than a request takes before its own deadline. Where closes are reduce-only a second one can't, so that what the
venue's positions may lag behind is waited for and no more.
"""
CLOCKS_DIFFER = timedelta(seconds=60)
"""How much further back than the run's start fills are asked for."""


Claim = Callable[[str], Awaitable[bool | None]]
"""Asked before the close of that name is sent: whether no other run sends it; None where nobody can tell."""


class LostAnswers:
    """Looks for the closes of one account at a venue that does not itself refuse a second one."""

    def __init__(self, run: AccountRun, claim: Claim | None = None) -> None:
        self._run = run
        self._claim = claim
        self._broker = run.broker
        self._able = run.broker.capabilities

    async def settle(
        self, memory: PositionMemory, close: CloseOrder, now: float, pace: Pace
    ) -> tuple[PositionMemory, bool]:
        """Whether `close` may be sent now, and what is known of the one before. Raises `BrokerError`."""
        if memory.last_close:
            unanswered = memory.last_close == close.client_order_id
            found = await self._order(memory.last_close, close)
            filled = None if found is not None else await self._filled(memory.last_close, close)
            was_taken = unanswered and (found is not None or filled is not None)
            memory = taken_after_all(memory) if was_taken else memory
            memory, settled = may_close_again(memory, found, now, self._patient(pace, unanswered), filled=filled)
            if unanswered or not settled:  # one that turns out to be there has used up the name that was planned
                return memory, settled and not was_taken
        elsewhere = not self._able.reduce_only and await self._is_elsewhere(close)
        return (sent(memory, close.client_order_id, now), False) if elsewhere else (memory, True)

    async def _is_elsewhere(self, close: CloseOrder) -> bool:
        """Whether another process has sent the same attempt, or is about to. This run has sent nothing by that name.

        The venue is asked only where no claim can tell: a request less for each close.
        """
        name = close.client_order_id
        claimed = None if self._claim is None else await self._claim(name)
        return not claimed if claimed is not None else await self._order(name, close) is not None

    async def _order(self, name: str, close: CloseOrder) -> Order | None:
        """The one of that name, sent for the same symbol as `close`."""
        if not self._able.client_order_ids.longest:
            return None
        return await self._run.in_time(self._broker.order(name, close.symbol))

    async def _filled(self, name: str, close: CloseOrder) -> Decimal | None:
        """How much of it has filled by the venue's own list; None where that shows nothing."""
        if not self._able.fills:
            return None
        since = datetime.now(UTC) - timedelta(seconds=self._run.elapsed) - CLOCKS_DIFFER
        listed = await self._run.in_time(self._broker.fills(since))
        return sum((fill.quantity for fill in listed if self._may_be_of(fill, name, close)), ZERO) or None

    def _may_be_of(self, fill: Fill, name: str, close: CloseOrder) -> bool:
        """By the name of its order; without one, every fill that reduces the position and is of no order known."""
        if fill.client_order_id:
            return fill.client_order_id == name
        opening = self._run.opening
        known = fill.order_id in opening.filled or fill.order_id in opening.sent
        return fill.key == close.key and fill.side is close.side and not known

    def _patient(self, pace: Pace, unanswered: bool) -> Pace:
        if not unanswered or self._able.reduce_only:
            return pace
        return replace(pace, position_lag=max(pace.position_lag, LOOKED_FOR))
