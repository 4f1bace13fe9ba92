"""Read one account at its venue, keep what it said, and let the rules judge it.

Each request is made once: one that fails is an API error of the account's breaker, as an engine's own would be.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import TypeVar

from breaker.orders import Account, Position
from breaker.rules import AsyncRules, Outcome
from brokers.protocol import Broker, BrokerError, Listed, repeat_until
from tasks.monitor.measurements import Kept, Measurements, Reading

HEARTBEAT = "monitor"
"""The feed, of the account's breaker, that tells when the monitor last measured."""
_T = TypeVar("_T")


class RequestPace:
    """A share of a rate limit, so that whoever needs the rest finds it: the kill switch, and engines.

    Args:
        per_minute: The venue's limit; None where it has none.
        share: The fraction of it that may be used.
    """

    def __init__(self, per_minute: int | None, share: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds_each = 0.0 if per_minute is None else 60.0 / (per_minute * share)
        self._clock = clock
        self._free_at = float("-inf")

    @property
    def seconds_to_wait(self) -> float:
        """Until as much time has passed as the requests so far have used up."""
        return max(0.0, self._free_at - self._clock())

    def used(self, requests: int) -> None:
        self._free_at = max(self._free_at, self._clock()) + requests * self._seconds_each


@dataclass(frozen=True, slots=True)
class Judged:
    """A measurement, and what the rules that look at equity said of it."""

    kept: Kept
    reading: Reading
    outcome: Outcome


class MonitoredAccount:
    """One account under the eyes of one holder. `patience`: seconds that one request may take, waiting included."""

    def __init__(
        self,
        name: str,
        broker: Broker,
        rules: AsyncRules,
        measurements: Measurements,
        pace: RequestPace,
        patience: float,
    ) -> None:
        self.name = name
        self._broker = broker
        self._rules = rules
        self._measurements = measurements
        self._pace = pace
        self._patience = patience
        self._source = f"monitor of {name}"

    @property
    def seconds_to_wait(self) -> float:
        """Before the next reading, lest the rate limit's share is exceeded."""
        return self._pace.seconds_to_wait

    async def measure(self) -> Judged | None:
        """Read it once and have it judged.

        Returns:
            None for a reading that is not to be judged: another process has taken over, or the venue's figures are the
            same as before, or not to be relied on.

        Raises:
            BrokerError: the venue gave no answer, which is counted as an API error.
            TimeoutError: this process's share of the venue's rate limit was not to be had in time.
            BreakerUnavailable, RedisRefused: it could not be kept, or not be judged.
        """
        reading = await self._read()
        kept = await self._measurements.keep(self.name, reading)
        if kept is None:
            return None
        await self._rules.record_api_success(self._source)
        await self._rules.heartbeat(HEARTBEAT)
        if reading.untrusted:
            return None
        # Its time comes along: one that a later one has overtaken, while this process was stopped, is refused.
        return Judged(kept, reading, await self._rules.record_equity(reading.equity, kept.at))

    async def _read(self) -> Reading:
        account = await self._asked(self._broker.account)
        return reading_of(account, await self._asked(self._broker.positions))

    async def _asked(self, ask: Callable[[], Awaitable[_T]]) -> _T:
        self._pace.used(1)
        repeating = repeat_until.set(float("-inf"))
        try:
            async with asyncio.timeout(self._patience):
                return await ask()
        except BrokerError:
            await self._rules.record_api_error(self._source)
            raise
        finally:
            repeat_until.reset(repeating)

    async def aclose(self) -> None:
        await self._broker.aclose()
        await self._rules.close()


def reading_of(account: Account, positions: Listed[Position]) -> Reading:
    """What is kept and judged of the two answers. Pure."""
    worth = [position.notional for position in positions]
    return Reading(
        equity=account.equity,
        currency=account.currency,
        positions=len(positions),
        gross_exposure=sum(worth, Decimal(0)),
        largest_position=max(worth, default=Decimal(0)),
        initial_margin=account.initial_margin,
        maintenance_margin=account.maintenance_margin,
        as_of=account.as_of,
        untrusted=account.untrusted,
    )
