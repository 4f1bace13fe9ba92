"""Follow a share of a kill switch that a worker runs, and judge by what is heard of it whether it is taken over.

It publishes its status as every run does (tasks/kill/status_feed.py); the run that has split it off shows it, and
reports on it, by that.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import TYPE_CHECKING, TypeVar

from tasks.kill.account import AccountProgress
from tasks.kill.shares import Share
from tasks.kill.status import KillStatus
from tasks.kill.status_feed import KEPT, TAKEN_OVER_AFTER

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from tasks.kill.cost import ExitCost

CLAIM = "circuit_breaker:kill_share:"
"""Before a share's run id: the host that has begun it. Whoever is first has it, a worker or who takes it over."""
WANTED = "circuit_breaker:kill_share_wanted:"
"""Before a share's run id: there while whoever asked for it has time left, and for as long as that. A share that a
worker comes to later is not begun: nobody waits for it, and people may be trading again."""

_N = TypeVar("_N", int, Decimal)


@dataclass(slots=True)
class ShareElsewhere:
    """A share that a worker was asked to run, and what is known of it. Times are seconds from the run's start."""

    share: Share
    asked_at: float
    before: Mapping[str, AccountProgress]
    """Where its accounts stood when it was split off."""
    status: KillStatus | None = None
    heard_at: float | None = None
    """Its last sign of life."""
    began_at: float = 0.0
    closed_here: str = ""
    """Why whoever asked for it closes it itself, where no worker had begun it."""
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    """Nothing more will come of it: it is over, or was taken over."""

    def hear(self, status: KillStatus, now: float) -> None:
        """Its status as Redis has it, `now`."""
        self.heard_at = now - status.silent_for
        if self.status is None:
            self.began_at = max(self.heard_at - status.elapsed, self.asked_at)
        self.status = status
        if status.over:
            self.ended.set()

    def begun_by_somebody(self, now: float) -> None:
        """A worker has it, though there is no status yet."""
        self.heard_at = now

    @property
    def reported(self) -> bool:
        return self.status is not None and self.status.reported

    @property
    def failed(self) -> tuple[str, ...]:
        """The accounts that it has given up, as it reports; what is stuck or out of time there is so anywhere."""
        there = {} if self.status is None else {each.account: each.phase for each in self.status.accounts}
        return tuple(name for name in self.share.accounts if there.get(name, "failed") == "failed")

    @property
    def host(self) -> str:
        """Where it is run, as far as is known."""
        return self.status.host if self.status is not None else "a worker"

    @property
    def progress(self) -> dict[str, AccountProgress]:
        """Its accounts, with what this run knew of them before, on this run's clock."""
        there = () if self.status is None else self.status.accounts
        return {each.account: together(self.before[each.account], each, self.began_at) for each in there}

    async def cost_of(self, account: str) -> ExitCost:
        """What it says that the exit of the account cost, once it is over. Raises LookupError where it doesn't."""
        await self.ended.wait()
        costs = () if self.status is None else self.status.costs
        for cost in costs:
            if cost.account == account:
                return cost
        raise LookupError(account)


def starts_within(configured: float, left: float) -> float:
    """Seconds that a worker may take to begin it, where the run has so many `left`: half of them are for doing it here,
    should none begin. Pure.
    """
    return round(min(configured, max(left, 0.0) / 2), 1)


def why_taken_over(elsewhere: ShareElsewhere, now: float, redis_heard_at: float, begin_within: float) -> str:
    """Why the share's accounts are to be closed here, as a sentence; empty while it is waited for. Pure.

    `redis_heard_at`: when Redis last answered. Without it no share can give a sign of life.
    """
    status = elsewhere.status
    if status is not None and status.over:
        return f"it broke off on {status.host}: {status.problem or 'no result'}"
    if now - redis_heard_at >= TAKEN_OVER_AFTER:
        return f"Redis has not told of it for {TAKEN_OVER_AFTER:g} s"
    if elsewhere.heard_at is None:
        waited = now - elsewhere.asked_at
        return f"no worker has begun it within {begin_within:g} s" if waited >= begin_within else ""
    silent = now - elsewhere.heard_at
    return f"nothing was heard of {elsewhere.host} for {silent:.0f} s" if silent >= TAKEN_OVER_AFTER else ""


def together(before: AccountProgress, there: AccountProgress, began_at: float) -> AccountProgress:
    """Where an account stands that a share works on, which began `began_at` seconds after this run. Pure."""
    return replace(
        there,
        orders_at_start=_most(before.orders_at_start, there.orders_at_start),
        orders_open=before.orders_open if there.orders_open is None else there.orders_open,
        positions_at_start=_most(before.positions_at_start, there.positions_at_start),
        positions_open=before.positions_open if there.positions_open is None else there.positions_open,
        notional_at_start=_most(before.notional_at_start, there.notional_at_start),
        canceled=before.canceled + there.canceled,
        note=there.note or before.note,
        no_orders_after=_later(there.no_orders_after, began_at),
        flat_after=_later(there.flat_after, began_at),
    )


async def ask_for_share(redis: Redis, run_id: str, seconds: float) -> None:
    """Let the share be begun, with so much time left. Raises RedisError, OSError."""
    await redis.set(f"{WANTED}{run_id}", socket.gethostname(), px=max(int(seconds * 1000), 1))


async def time_left_of_share(redis: Redis, run_id: str) -> float | None:
    """Seconds that it still has, by Redis's clock; None where it is not to be begun. Raises RedisError, OSError."""
    left = int(await redis.pttl(f"{WANTED}{run_id}"))
    return left / 1000 if left > 0 else None


async def claim_share(redis: Redis, run_id: str) -> bool:
    """Whether nobody has begun the share, and it is this process's from now on. Raises RedisError, OSError."""
    return bool(await redis.set(f"{CLAIM}{run_id}", socket.gethostname(), nx=True, ex=KEPT))


def _most(one: _N | None, other: _N | None) -> _N | None:
    return max((each for each in (one, other) if each is not None), default=None)


def _later(moment: float | None, by: float) -> float | None:
    return None if moment is None else moment + by
