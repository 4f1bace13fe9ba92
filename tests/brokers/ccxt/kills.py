"""Whole kill switches through ccxt against the sandbox's Binance; its own report is the judge."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from breaker.instruments import canonical_symbol
from brokers.ccxt import from_settings
from configuration.accounts import AccountSettings
from configuration.settings import KillSettings
from tasks.kill.report import KillReport
from tests.tasks.campaign import Exchange, Outcome, judge, kill, kill_settings, scaled


@dataclass(frozen=True)
class Market:
    """One kind of account at Binance: what the sandbox is told to be, and how the account is configured."""

    name: str
    toml: str
    settings: dict[str, Any]


FUTURES = {"exchange": "binanceusdm", "market": "swap"}
ONE_WAY = Market("one-way", 'protocol = "binance-futures"\n', FUTURES)
HEDGED = Market("hedged", 'protocol = "binance-futures"\naccount = { hedge_mode = true }\n', FUTURES)
SPOT = Market("spot", 'protocol = "binance-spot"\n', {"exchange": "binance", "market": "spot", "keep": ["USDT"]})
MARKETS = (ONE_WAY, HEDGED, SPOT)


class BinanceOutcome(Outcome):
    """As Binance spells what it lists. What is left and could not be sold there is dust."""

    @property
    def stuck(self) -> dict[str, str]:
        return {_as_binance_has(name): reason for name, reason in super().stuck.items()}

    @property
    def left(self) -> set[str]:
        return {name for name in self.venue["positions"] if name in self.venue["closable"]}

    def faults(self) -> list[str]:
        faults = [
            *self.venue["violations"],
            *(f"turned over: {each}" for each in self.venue["sign_changes"] if each["by"] == "client"),
        ]
        if self.said_flat and not self.is_flat:
            faults.append(f"said flat, but could close {self.left} of {self.venue['positions']}")
        if not self.said_flat and not self.left <= {*self.stuck}:
            faults.append(f"left without a name: {sorted(self.left - {*self.stuck})}")
        return faults


def _as_binance_has(name: str) -> str:
    """`BTC/USDT:USDT long` is `BTCUSDT long` there."""
    symbol, space, side = name.partition(" ")
    return canonical_symbol(symbol.partition(":")[0]) + space + side


def account_of(exchange: Exchange, market: Market, timeout: float = 1.0) -> AccountSettings:
    return AccountSettings.model_validate(
        {
            "adapter": "ccxt",
            "key_id": "key",
            "secret_key": "secret",
            "urls": exchange.url,
            "request_timeout": timeout,
            "requests_per_minute": 1_000_000,
            **market.settings,
        }
    )


async def kill_through_ccxt(
    exchange: Exchange,
    redis_url: str,
    market: Market,
    *,
    settings: KillSettings | None = None,
    timeout: float = 1.0,
    markets_dir: Path | None = None,
) -> KillReport:
    """One kill switch from its start to its report, on connections of its own, without an orchestrator."""
    broker = from_settings("PAPER", account_of(exchange, market, timeout), markets_dir)
    try:
        return await kill(exchange, redis_url, settings=settings or kill_settings(), through=lambda _: broker)
    finally:
        await broker.aclose()


async def run(
    exchange: Exchange,
    redis_url: str,
    market: Market,
    toml: str,
    seed: int,
    settings: KillSettings | None = None,
    markets_dir: Path | None = None,
) -> BinanceOutcome:
    """A kill switch on a fresh exchange of this market and scenario."""
    scenario = scaled(market.toml + toml, seed)
    killing = kill_through_ccxt(exchange, redis_url, market, settings=settings, markets_dir=markets_dir)
    ended = await judge(exchange, scenario, [killing])
    return BinanceOutcome(ended.reports, ended.venue)
