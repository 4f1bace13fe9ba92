"""Kill switches against the paper exchange, fast: the exchange's clock and the kill switch's patience, both scaled.

The exchange's own report is the judge, never the kill switch's bookkeeping.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pytest
import redis.asyncio

from breaker import AsyncCircuitBreaker
from breaker.uuid7 import uuid7
from brokers.alpaca import AlpacaBroker
from brokers.coverage import Coverage, coverage_of
from brokers.protocol import Broker
from configuration.settings import KillSettings
from flows.drivers import without_prefect
from flows.kill_procedure import halt_and_flatten
from sandbox.exchange.scenario import Scenario, parse
from sandbox.exchange.server import PaperExchange, PaperExchangeThread
from tasks.kill import book, cancel, flatten
from tasks.kill.report import KillReport
from tasks.kill.run import KillRun, current_kill

FASTER: Final = 20
"""Exchange seconds per real second, and how much less patient the kill switch is than by default."""
SLOW: Final = "latency_ms = { median = 20, sigma = 0.6, cap = 200 }\n"
RACING: Final = """\
[cancels]
delay = { low = 0.0, high = 0.6 }
race_probability = 0.1
[fills]
delay = { low = 0.0, high = 0.8 }
partial_probability = 0.3
stall_probability = 0.1
"""
"""A rough market: fills race with cancels, come in parts, and stop half-way."""


def kill_settings(**changes: Any) -> KillSettings:
    """The defaults, scaled, except for what is in `changes` (unscaled seconds of the exchange's clock)."""
    normal = {
        "deadline": 120.0,
        "cancel_patience": 5.0,
        "poll_interval": 0.25,
        "escalate_after": 3.0,
        "retry_backoff": 1.0,
        "retry_backoff_max": 8.0,
        "stuck_after": 20.0,
        "settle": 1.0,
        "guard": 5.0,
        **changes,
    }
    return KillSettings(**{name: value / FASTER for name, value in normal.items()})


def scale_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flatten, "POSITION_LAG", flatten.POSITION_LAG / FASTER)
    monkeypatch.setattr(flatten, "CANCEL_SETTLES", flatten.CANCEL_SETTLES / FASTER)
    monkeypatch.setattr(flatten, "BULK_CLOSE_FROM", flatten.BULK_CLOSE_FROM)  # put back what a test makes of it
    monkeypatch.setattr(flatten, "FRESH_FOR", 0.3)  # not by the whole factor: our own requests don't get faster
    monkeypatch.setattr(flatten, "READ_AHEAD", 0.05)
    monkeypatch.setattr(book, "MARKET_CLOCK_AGE", book.MARKET_CLOCK_AGE / FASTER)
    monkeypatch.setattr(cancel, "ASK_AGAIN_AFTER", cancel.ASK_AGAIN_AFTER / FASTER)


def scaled(toml: str, seed: int = 1) -> Scenario:
    """A scenario of this TOML on the fast clock; its rate limit is out of the way unless it is named."""
    limit = "" if "rate_limit" in toml else "rate_limit = 1000000\n"
    return parse(f"seed = {seed}\ntime_scale = {FASTER}\n{limit}{toml}")


@dataclass(frozen=True)
class Outcome:
    """One or more kill switches that ended, and what the exchange says then."""

    reports: Sequence[KillReport]
    venue: dict[str, Any]

    @property
    def report(self) -> KillReport:
        return self.reports[0]

    @property
    def same_incident(self) -> bool:
        """Then client order ids keep apart what is sent; two incidents have only what the venue checks."""
        return len({report.incident_id for report in self.reports}) == 1

    @property
    def said_flat(self) -> bool:
        return any(report.flat for report in self.reports)

    @property
    def stuck(self) -> dict[str, str]:
        return {item.symbol: item.reason for r in self.reports for a in r.accounts for item in a.stuck}

    @property
    def dust(self) -> set[str]:
        """Symbols that were named as below the venue's minimum."""
        return {item.symbol for report in self.reports for account in report.accounts for item in account.dust}

    @property
    def left(self) -> set[str]:
        """Symbols that the exchange still has a position of, but for dust that was named."""
        return set(self.venue["positions"]) - self.dust

    @property
    def is_flat(self) -> bool:
        """Whether the exchange has no order, and no position but dust that was named."""
        return not self.venue["open_orders"] and not self.left

    def faults(self) -> list[str]:
        """Broken promises: a false flat, something left without a name, or what the exchange calls a violation."""
        faults = list(self.venue["violations"])
        if self.same_incident:
            faults += [f"turned over: {change}" for change in self.venue["sign_changes"] if change["by"] == "client"]
        if self.said_flat and not self.is_flat:
            faults.append(
                f"said flat, but the exchange has {self.venue['positions']}, {self.venue['open_orders']} orders"
            )
        for report in self.reports:
            named = {item.symbol for account in report.accounts for item in account.stuck}
            unreadable = any("the venue answered" in account.note for account in report.accounts)
            if not report.flat and not self.left <= named and not unreadable:
                faults.append(f"left without a name: {sorted(self.left - named)} of {report.accounts}")
            if not report.flat and not named and not any(account.note for account in report.accounts):
                faults.append("not flat, and no word of what is left")
        return faults


Exchange = PaperExchange | PaperExchangeThread


async def kill(
    exchange: Exchange,
    redis_url: str,
    *,
    incident_id: str | None = None,
    settings: KillSettings | None = None,
    timeout: float = 0.5,
    requests_per_minute: int = 1_000_000,
    secret: str = "secret",
    redis_timeout: float = 1.0,
    trip_event_id: str | None = None,
    coverage: Coverage | None = None,
    through: Callable[[AlpacaBroker], Broker] = lambda broker: broker,
) -> KillReport:
    """One kill switch from its start to its report, on connections of its own, without an orchestrator."""
    broker = AlpacaBroker(
        "PAPER", exchange.url, "key", secret, timeout=timeout, requests_per_minute=requests_per_minute
    )
    client = redis.asyncio.Redis.from_url(redis_url)
    run = KillRun(
        incident_id=incident_id or uuid7(),
        reason="campaign",
        operator="tests",
        breaker=AsyncCircuitBreaker(client, timeout=redis_timeout),
        brokers={"PAPER": through(broker)},
        settings=settings or kill_settings(),
        coverage=coverage or coverage_of("global", ["PAPER"]),
        trip_event_id=trip_event_id,
    )
    token = current_kill.set(run)
    try:
        return await halt_and_flatten(run, without_prefect)
    finally:
        current_kill.reset(token)
        await broker.aclose()
        await client.aclose()


async def judge(exchange: Exchange, scenario: Scenario, kills: Iterable[Any]) -> Outcome:
    """Run these kill switches at once on a fresh exchange of this scenario."""
    exchange.restart(scenario)
    reports = await asyncio.gather(*kills)
    return Outcome(reports, exchange.report())
