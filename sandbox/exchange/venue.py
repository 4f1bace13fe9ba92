"""Run one venue by the clock: the exchange, its trouble, its rate limit and its record."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Final

from sandbox.exchange.acceptance import Acceptance
from sandbox.exchange.assets import in_positions
from sandbox.exchange.closable import closable
from sandbox.exchange.opening import open_exchange
from sandbox.exchange.rate_limit import RateLimit
from sandbox.exchange.scenario import Protocol, Scenario
from sandbox.exchange.trouble import TroubleRules
from sandbox.exchange.venue_record import VenueRecord

_LISTED: Final = 50
"""At most that many open orders are spelled out in the report."""


class Venue:
    """`rules` are those for new orders; `elapsed` gives seconds that never go back.

    The exchange's clock is that times the scenario's `time_scale`.
    """

    def __init__(
        self,
        scenario: Scenario,
        rules: type[Acceptance] = Acceptance,
        elapsed: Callable[[], float] = time.monotonic,
    ) -> None:
        self.scenario = scenario
        self.record = VenueRecord()
        self.exchange = open_exchange(scenario, self.record, rules)
        self.trouble = TroubleRules(scenario, Random(f"{scenario.seed}:trouble"))  # noqa: S311 - not a secret
        self.rate_limit = RateLimit(scenario.requests_a_minute, ban_after=scenario.ban_after, ban_for=scenario.ban_for)
        self.order_limit = RateLimit(scenario.orders_in_ten_seconds, window=10.0)
        self.configuration: dict[str, object] = {}
        """What clients have set of the account's configuration."""
        self._elapsed = elapsed
        self._started = elapsed()
        self.opened_at = datetime.now(UTC) + timedelta(milliseconds=scenario.clock_ahead_ms)
        """Second zero of the exchange's clock, as the venue's own has it."""

    def now(self) -> float:
        """Seconds on the exchange's clock."""
        return (self._elapsed() - self._started) * self.scenario.time_scale

    def advance(self) -> float:
        """Let the exchange catch up with its clock."""
        now = self.now()
        self.exchange.advance(now)
        return now

    def report(self) -> dict[str, object]:
        """What the venue saw, and what is so right now."""
        now = self.advance()
        book = self.exchange.book
        no_orders = not book.open_orders
        return {
            "now": now,
            "is_flat": book.is_flat,
            "open_orders": len(book.open_orders),
            "open_order_ids": list(book.open_orders)[:_LISTED],
            "positions": {in_positions(name): f"{p.qty:f}" for name, p in book.positions.items()},
            "closable": {symbol: f"{qty:f}" for symbol, qty in closable(self.exchange, self.scenario).items()},
            "no_open_orders_at": self.record.no_open_orders_at if no_orders else None,
            "flat_at": self.record.flat_at if book.is_flat else None,
            "dead_man": self.exchange.dead_man.as_dict(),
            **self.record.as_dict(),
        }


class Host:
    """Holds the venue being served, so that a test can put another scenario in its place."""

    def __init__(self, scenario: Scenario, rules: Mapping[Protocol, type[Acceptance]]) -> None:
        self._rules = rules
        self.restart(scenario)

    def restart(self, scenario: Scenario) -> None:
        self.venue = Venue(scenario, self._rules[scenario.protocol])
