"""Promises 6 and 7 through ccxt: one-way, hedged and spot accounts at the sandbox's Binance end flat, none turned over.

A few seeds of each by default; `BREAKER_TEST_SCALE=full` (`make campaigns`) runs 200.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator

import pytest

from sandbox.embedded_redis import EmbeddedRedis
from sandbox.exchange.server import PaperExchange
from tasks.kill import lost_answer
from tests.brokers.ccxt.kills import HEDGED, MARKETS, ONE_WAY, SPOT, Market, run
from tests.helpers import FULL
from tests.tasks.campaign import FASTER, RACING, SLOW, Outcome, kill_settings, scale_time

pytestmark = [pytest.mark.usefixtures("scaled_time"), pytest.mark.timeout(14_400 if FULL else 120)]

SEEDS = range(1, 201 if FULL else 4)
PATIENT = kill_settings(deadline=900.0, stuck_after=120.0)
ROUGH = f"""
{SLOW}{RACING}[[trouble]]
kind = "500"
probability = 0.03
[[trouble]]
kind = "504"
applied = true
probability = 0.03
[[trouble]]
kind = "503"
probability = 0.02
[[trouble]]
kind = "drop"
probability = 0.02
[[trouble]]
kind = "drop"
applied = true
probability = 0.03
"""
LIMITED = """
[[trouble]]
kind = "429"
probability = 0.02
first = 1
[[trouble]]
kind = "418"
probability = 0.01
first = 1
"""
"""Told in whole seconds, which no clock can speed up: only where there is time for hundreds of seeds."""


@pytest.fixture(scope="module")
def exchange() -> Iterator[PaperExchange]:
    with PaperExchange() as server:
        yield server


@pytest.fixture
def scaled_time(monkeypatch: pytest.MonkeyPatch) -> None:
    scale_time(monkeypatch)
    monkeypatch.setattr(lost_answer, "LOOKED_FOR", lost_answer.LOOKED_FOR / FASTER)


def book(market: Market) -> str:
    """Something of everything that this market can have."""
    extra = {
        ONE_WAY.name: "algo = 3\nreduce_only = 2\n",
        HEDGED.name: "both_legs = 3\nalgo = 3\nreduce_only = 2\n",
        SPOT.name: "dust = 2\n",
    }[market.name]
    return f"[book]\norders = 12\npositions = 6\n{extra}"


def ended_flat(outcome: Outcome) -> bool:
    return outcome.said_flat and outcome.is_flat


@pytest.mark.parametrize("market", MARKETS, ids=lambda market: market.name)
async def test_promise_7_a_calm_account_ends_flat(
    market: Market, exchange: PaperExchange, redis_server: EmbeddedRedis
) -> None:
    outcome = await run(exchange, redis_server.url, market, "latency_ms = 5\n" + book(market), seed=1)
    assert outcome.faults() == []
    assert ended_flat(outcome), outcome.stuck or outcome.venue


@pytest.mark.parametrize("market", MARKETS, ids=lambda market: market.name)
async def test_promise_6_a_rough_market_makes_nothing_worse(
    market: Market, exchange: PaperExchange, redis_server: EmbeddedRedis, capsys: pytest.CaptureFixture[str]
) -> None:
    failures: dict[int, str] = {}
    figures = dict.fromkeys(("runs", "flat", "false flats", "violations"), 0)
    for seed in SEEDS:
        toml = ROUGH + (LIMITED if FULL else "") + book(market)
        outcome = await run(exchange, redis_server.url, market, toml, seed, PATIENT)
        if (faults := outcome.faults()) or not ended_flat(outcome):
            notes = [account.note for account in outcome.report.accounts]
            failures[seed] = f"{faults or 'not flat'}; stuck {outcome.stuck}; notes {notes}"
        figures["runs"] += 1
        figures["flat"] += ended_flat(outcome)
        figures["false flats"] += outcome.said_flat and not outcome.is_flat
        figures["violations"] += len(outcome.venue["violations"])
    if FULL:
        with capsys.disabled():
            print(json.dumps({"campaign": f"ccxt, {market.name}", **figures, "fail": [*failures]}), file=sys.stderr)
    assert not failures, json.dumps(failures, indent=1)
