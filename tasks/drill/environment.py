"""Open an environment for one drill: a Redis, a venue, a ledger and a state directory that nobody else has."""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr

from breaker.keys import GLOBAL
from configuration.accounts import AccountSettings
from configuration.settings import GivenSettings, RecoverySettings, ServiceSettings, Settings
from sandbox.embedded_redis import EmbeddedRedis
from sandbox.exchange.distribution import Distribution
from sandbox.exchange.scenario import Account, Cancels, Fills, GeneratedBook, Scenario
from sandbox.exchange.server import PaperExchange
from tasks.initialization import initialize

AUTHOR, APPROVER = "drill author", "drill approver"


@dataclass(frozen=True, slots=True)
class DrillEnvironment:
    settings: Settings
    """Its own; nothing in them leads out of it."""
    exchange: PaperExchange


CONDITIONS_WITHIN = 30.0
"""Seconds; a flat book and a fresh Redis are in order at once."""


@contextmanager
def open_drill_environment(production: Settings) -> Iterator[DrillEnvironment]:
    """Start it, with a book and an open breaker; everything is gone at the end. `production` only lends its paces.

    Raises:
        EmbeddedRedisError, PaperExchangeFailed: it can't be started here.
    """
    scenario = _scenario(production)
    with (
        tempfile.TemporaryDirectory(prefix="breaker-drill-", ignore_cleanup_errors=True) as home,
        EmbeddedRedis(Path(home) / "redis") as redis,
        PaperExchange(scenario) as exchange,
    ):
        settings = _settings(production, Path(home), redis.url, exchange.url, scenario.account)
        initialize(settings, GLOBAL, by="drill", source="flow")
        yield DrillEnvironment(settings, exchange)


def _settings(production: Settings, home: Path, redis: str, venue: str, account: Account) -> Settings:
    watch = production.drill.watch
    return GivenSettings(
        environment="drill",
        redis_url=SecretStr(redis),
        state_dir=home / "state",
        quiet_period=watch,
        kill=production.kill,
        accounts={
            "PAPER": AccountSettings(
                base_url=venue, key_id=SecretStr(account.key), secret_key=SecretStr(account.secret)
            )
        },
        recovery=RecoverySettings(
            people={AUTHOR: ("APPROVE_RECOVERY",), APPROVER: ("RESET_CIRCUIT",)},
            watch=watch,
            watch_interval=min(1.0, watch / 4),
            condition_deadline=CONDITIONS_WITHIN,
            condition_interval=1,
            redis_latency=1,
            database_latency=2,
            services={"venue": ServiceSettings(url=f"{venue}/_paper/report", timeout=5, slow_after=2)},
        ),
    )


def _scenario(production: Settings) -> Scenario:
    """Another book each time, with fills that race cancels, partial fills and answers that take their time."""
    size = production.drill
    return Scenario(
        seed=secrets.randbelow(2**31),
        latency_ms=Distribution(median=6, sigma=0.6, cap=80),
        account=Account(key=secrets.token_hex(8), secret=secrets.token_hex(16)),
        book=GeneratedBook(orders=size.orders, positions=size.positions),
        cancels=Cancels(delay=Distribution(low=0, high=0.3), race_probability=0.05),
        fills=Fills(delay=Distribution(low=0, high=0.4), partial_probability=0.25),
    )
