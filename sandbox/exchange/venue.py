"""One venue as the server runs it: the exchange, its clock, its trouble and its record."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Final

from sandbox.exchange.alpaca.wire import Writer
from sandbox.exchange.opening import open_exchange
from sandbox.exchange.venue_record import VenueRecord
from sandbox.exchange.scenario import Scenario
from sandbox.exchange.trouble import RateLimit, TroubleRules

_LISTED: Final = 50
"""At most that many open orders are spelled out in the report."""


class Venue:
    """`elapsed` gives seconds that never go back; the exchange's clock is that times the scenario's `time_scale`."""

    def __init__(self, scenario: Scenario, elapsed: Callable[[], float] = time.monotonic) -> None:
        self.scenario = scenario
        self.record = VenueRecord()
        self.exchange = open_exchange(scenario, self.record)
        self.trouble = TroubleRules(scenario, Random(f"{scenario.seed}:trouble"))  # noqa: S311 - not a secret
        self.rate_limit = RateLimit(scenario.rate_limit)
        self._elapsed = elapsed
        self._started = elapsed()
        self.writer = Writer(self.exchange, datetime.now(UTC))

    def now(self) -> float:
        """Seconds on the exchange's clock."""
        return (self._elapsed() - self._started) * self.scenario.time_scale

    def advance(self) -> float:
        """Let the exchange catch up with its clock."""
        now = self.now()
        self.exchange.advance(now)
        return now

    def rate_limit_headers(self) -> dict[str, str]:
        """As Alpaca's; the reset is in real Unix time, rounded up to a second."""
        wait = max(self.rate_limit.resets_at - self.now(), 0) / self.scenario.time_scale
        resets_at = datetime.now(UTC) + timedelta(seconds=wait)
        return {
            "x-ratelimit-limit": str(self.rate_limit.limit),
            "x-ratelimit-remaining": str(self.rate_limit.remaining),
            "x-ratelimit-reset": str(int(resets_at.timestamp()) + 1),
        }

    def report(self) -> dict[str, object]:
        """What the venue saw, and what is so right now."""
        now = self.advance()
        exchange = self.exchange
        no_orders, no_positions = not exchange.open_orders, not exchange.positions
        return {
            "now": now,
            "is_flat": no_orders and no_positions,
            "open_orders": len(exchange.open_orders),
            "open_order_ids": list(exchange.open_orders)[:_LISTED],
            "positions": {p.symbol: f"{p.qty:f}" for p in exchange.positions.values()},
            "no_open_orders_at": self.record.no_open_orders_at if no_orders else None,
            "flat_at": self.record.flat_at if no_orders and no_positions else None,
            **self.record.as_dict(),
        }
