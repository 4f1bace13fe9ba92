"""Kill an account at Interactive Brokers, seed after seed, through ib_async at a TWS that gets into trouble.

`python -m proofs.tws_kills` runs the kill switch's own procedure on books of stocks, options, futures, currencies and
crypto, with orders of a connected engine, of one that has left, and by hand; fills race, are partial, stall; answers
are lost, late or errors, connections drop; TWS restarts, or loses its venue and answers from what it knew. The
exchange's clock is fast, and its own report the judge.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Final

import ib_async
import pytest
import redis.asyncio

from breaker import AsyncCircuitBreaker
from breaker.uuid7 import uuid7
from brokers.coverage import coverage_of
from brokers.ib import IbBroker, logins, orders
from brokers.protocol import Broker
from configuration.settings import KillSettings
from flows.drivers import without_prefect
from flows.kill_procedure import halt_and_flatten
from sandbox.embedded_redis import EmbeddedRedis
from sandbox.exchange.server import PaperExchange, PaperExchangeThread
from tasks.kill import lost_answer
from tasks.kill.report import KillReport
from tasks.kill.run import KillRun, current_kill
from tests.tasks.campaign import FASTER, Outcome, kill_settings, scale_time, scaled

SEEDS: Final = 200
ENGINE: Final = 7
"""The client id under which the book's orders were placed."""
TIMEOUT: Final = 0.5
"""Real seconds that an answer may take."""
SETTINGS: Final = kill_settings(deadline=900.0, stuck_after=150.0)


@dataclass(frozen=True)
class Case:
    """One book and its trouble."""

    toml: str
    engine_connected: bool
    """Then nobody but it, and a cancel of everything, can cancel its orders."""
    kills: int
    """At once, of the same incident."""


def case(seed: int) -> Case:
    """The same for the same seed."""
    random, more = Random(f"tws:{seed}"), Random(f"tws:{seed}:more")
    book = {
        "orders": random.randint(0, 25),
        "positions": random.randint(1, 12),
        "fractional": random.choice([0, 0.3]),
        "brackets": random.randint(0, 2),
        "crypto": random.randint(0, 2),
        "options": random.randint(0, 2),
        "spreads": random.randint(0, 1),
        "multi_leg": random.randint(0, 1),
        "notional": random.randint(0, 1),
        "unreadable_orders": random.choice([0, 0, 1]),
        "futures": more.randint(0, 4),
        "forex": more.randint(0, 3),
    }
    toml = "enforce_available = false\n"
    toml += f"latency_ms = {random.choice([0, 10, 40])}\n[book]\n"
    toml += "".join(f"{name} = {count}\n" for name, count in book.items())
    toml += f"[tws]\nby_hand = {random.choice([0, 0, 3])}\nengine_client = {ENGINE}\n"
    toml += f"inactive = {more.choice([0, 0, 1])}\nstuck = {more.choice([0, 0, 1])}\n"
    toml += f"notices = {more.choice(['[]', '[399, 404, 10349, 2109]'])}\n"
    toml += f"other_login = {more.choice([0, 0, 2])}\nnegative_ids = {more.choice(['true', 'false'])}\n"
    toml += f"[fills]\ndelay = {{ low = 0.0, high = {random.choice([0.1, 0.8])} }}\n"
    toml += f"partial_probability = {random.choice([0, 0.4])}\nstall_probability = {random.choice([0, 0.1])}\n"
    toml += f"[cancels]\ndelay = {{ low = 0.0, high = {random.choice([0.0, 0.6])} }}\n"
    toml += f"race_probability = {random.choice([0, 0.2])}\n"
    toml += f"late_fill_probability = {more.choice([0, 0, 0.2])}\n"
    toml += _trouble(random) + _events(more)
    return Case(toml, engine_connected=random.random() < 0.4, kills=random.choice([1, 1, 2]))


def _trouble(random: Random) -> str:
    """Lost answers, whose request took effect or not; dropped connections; errors; too many messages."""
    toml = ""
    for kind, applied, routes, most in (
        ("timeout", True, "TWS placeOrder", 0.1),
        ("timeout", False, "TWS placeOrder", 0.1),
        ("drop", True, "TWS placeOrder", 0.1),
        ("drop", False, "TWS *", 0.02),
        ("timeout", False, "TWS req*", 0.01),
        ("500", False, "TWS req*", 0.05),
        ("429", False, "TWS *", 0.03),
    ):
        if random.random() < 0.4:
            probability = random.uniform(0, most)
            toml += f'[[trouble]]\nkind = "{kind}"\napplied = {str(applied).lower()}\n'
            toml += f'routes = ["{routes}"]\nprobability = {probability:.3f}\n'
    return toml


def _events(random: Random) -> str:
    """TWS loses its venue and has it again, with or without a word; or restarts."""
    if random.random() < 0.5:
        return ""
    at, back = random.uniform(0, 4), random.uniform(0.1, 6)
    found = random.choice(["1101", "1102", "unsaid", "reset"])
    happens = random.choice([[(at, "reset")], [(at, "1100"), (at + back, found)]])
    return "".join(
        f'[[tws.events]]\nat = {moment:.2f}\nevent = "{event}"\nseconds = {random.uniform(0, 5):.2f}\n'
        for moment, event in happens
    )


Exchange = PaperExchange | PaperExchangeThread


async def kill(
    brokers: dict[str, Broker], redis_url: str, *, incident_id: str, settings: KillSettings = SETTINGS
) -> KillReport:
    """One kill switch of these accounts from its start to its report, without an orchestrator; closes them."""
    client = redis.asyncio.Redis.from_url(redis_url)
    run = KillRun(
        incident_id=incident_id,
        reason="campaign",
        operator="proofs",
        breaker=AsyncCircuitBreaker(client, timeout=5.0),
        brokers=brokers,
        settings=settings,
        coverage=coverage_of("global", list(brokers)),
    )
    token = current_kill.set(run)
    try:
        return await halt_and_flatten(run, without_prefect)
    finally:
        current_kill.reset(token)
        for broker in brokers.values():
            await broker.aclose()
        await client.aclose()


def account(exchange: Exchange, name: str = "IB", *, timeout: float = TIMEOUT) -> IbBroker:
    """The account at this exchange's TWS."""
    return IbBroker(name, "127.0.0.1", exchange.tws_port or 0, 911, timeout=timeout)


async def judge(this: Case, seed: int, exchange: Exchange, redis_url: str) -> Outcome:
    """Kill it, and hear the exchange."""
    await asyncio.to_thread(exchange.restart, scaled(this.toml, seed))
    incident = uuid7()
    async with connected_as(exchange, ENGINE) if this.engine_connected else contextlib.nullcontext():
        reports = await asyncio.gather(
            *(kill({"IB": account(exchange)}, redis_url, incident_id=incident) for _ in range(this.kills))
        )
    return Outcome(reports, await asyncio.to_thread(exchange.report))


@contextlib.asynccontextmanager
async def connected_as(exchange: Exchange, client_id: int) -> AsyncIterator[None]:
    """Somebody, such as the engine, is connected as this client of TWS, and does nothing."""
    client = ib_async.client.Client(_Deaf())
    with contextlib.suppress(Exception):
        await client.connectAsync("127.0.0.1", exchange.tws_port, client_id, 5.0)
    try:
        yield
    finally:
        client.disconnect()


class _Deaf:
    """Listens to nothing."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        if name in {"priceSizeTick", "tcpDataArrived", "tcpDataProcessed"}:
            raise AttributeError(name)
        return lambda *_: None


def problems(outcome: Outcome) -> list[str]:
    """What was promised and is not so."""
    found = outcome.faults()
    if not (outcome.said_flat and outcome.is_flat):
        found.append(f"not flat: {outcome.stuck}, {[a.note for r in outcome.reports for a in r.accounts]}")
    return found


@contextlib.contextmanager
def fast() -> Iterator[None]:
    """The kill switch's patience on the exchange's fast clock; what an answer takes in real time stays."""
    with pytest.MonkeyPatch.context() as patch:
        scale_time(patch)
        # A request that its connection outlives is known of within its own deadline.
        patch.setattr(lost_answer, "LOOKED_FOR", max(lost_answer.LOOKED_FOR / FASTER, 2 * TIMEOUT))
        patch.setattr(logins, "ASK_FOR_VENUE", logins.ASK_FOR_VENUE / FASTER)
        patch.setattr(orders, "FILLS_COME_WITHIN", orders.FILLS_COME_WITHIN / FASTER)
        yield


async def _campaign(seeds: range) -> dict[str, Any]:
    failures: dict[int, list[str]] = {}
    figures = {"runs": 0, "flat": 0, "violations": 0, "closes": 0, "fills": 0, "trouble": 0}
    with (
        tempfile.TemporaryDirectory() as directory,
        EmbeddedRedis(Path(directory)) as server,
        PaperExchange(tws_port=0) as exchange,
        fast(),
    ):
        for seed in seeds:
            outcome = await judge(case(seed), seed, exchange, server.url)
            if found := problems(outcome):
                failures[seed] = found
            figures["runs"] += 1
            figures["flat"] += outcome.said_flat and outcome.is_flat
            figures["violations"] += len(outcome.venue["violations"])
            figures["closes"] += sum(outcome.venue["closes"].values())
            figures["fills"] += outcome.venue["fills"]["client"]
            figures["trouble"] += sum(outcome.venue["trouble"].values())
            sys.stderr.write(f"seed {seed}: {'; '.join(found) or 'flat'}\n")
    return {**figures, "seeds that fail": failures}


def main() -> int:
    """Exit code 1 if anything that was promised is not so."""
    parser = argparse.ArgumentParser(prog="python -m proofs.tws_kills", description=__doc__)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--first", type=int, default=0)
    arguments = parser.parse_args()
    figures = asyncio.run(_campaign(range(arguments.first, arguments.first + arguments.seeds)))
    sys.stdout.write(json.dumps(figures, indent=1) + "\n")
    return 1 if figures["seeds that fail"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
