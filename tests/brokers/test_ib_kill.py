"""Whole kill switches at Interactive Brokers: flat, nothing turned over, and the other accounts go on."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from breaker.uuid7 import uuid7
from brokers.alpaca import AlpacaBroker
from brokers.ib import IbBroker, connection, logins
from brokers.registry import open_brokers
from configuration.accounts import AccountSettings
from proofs.tws_kills import ENGINE, TIMEOUT, Case, account, case, connected_as, fast, judge, kill, problems
from sandbox.child_process import free_port
from sandbox.embedded_redis import EmbeddedRedis
from sandbox.exchange.server import PaperExchangeThread
from tests.tasks.campaign import Outcome, kill_settings, scaled

pytestmark = pytest.mark.timeout(180)
ALONE = "enforce_available = false\n"
"""As TWS is: nothing keeps an order from crossing zero."""


@pytest.fixture(scope="module")
def exchange() -> Iterator[PaperExchangeThread]:
    with PaperExchangeThread() as server:
        yield server


@pytest.fixture(autouse=True)
def _fast() -> Iterator[None]:
    with fast():
        yield


@pytest.mark.parametrize("seed", [0, 5, 6, 40])
async def test_flat_whatever_tws_does(seed: int, exchange: PaperExchangeThread, redis_server: EmbeddedRedis) -> None:
    assert not problems(await judge(case(seed), seed, exchange, redis_server.url))


async def test_the_orders_of_a_connected_engine_go_with_those_that_protect(
    exchange: PaperExchangeThread, redis_server: EmbeddedRedis
) -> None:
    """Few enough that each would be cancelled by itself, if they were not a connected client's."""
    toml = f"{ALONE}[book]\norders = 2\npositions = 3\nbrackets = 2\n[tws]\nengine_client = {ENGINE}\n"
    outcome = await judge(Case(toml, engine_connected=True, kills=1), 1, exchange, redis_server.url)
    assert not problems(outcome)
    assert outcome.venue["requests"]["TWS reqGlobalCancel"] >= 1


@pytest.mark.parametrize("placed", ["by_hand = 2", "other_login = 2"])
async def test_nothing_is_flat_while_an_order_is_left_that_only_tws_can_cancel(
    exchange: PaperExchangeThread, redis_server: EmbeddedRedis, placed: str
) -> None:
    """A login with several accounts, whose orders are never all cancelled at once, and somebody is client 0."""
    toml = f'{ALONE}[book]\norders = 2\npositions = 2\n[tws]\n{placed}\naccounts = ["U1000001", "U1000002"]\n'
    exchange.restart(scaled(toml))
    broker = IbBroker("IB", "127.0.0.1", exchange.tws_port, 911, "U1000001", timeout=TIMEOUT)
    settings = kill_settings(stuck_after=20.0, deadline=120.0)
    async with connected_as(exchange, 0):
        report = await kill({"IB": broker}, redis_server.url, incident_id=uuid7(), settings=settings)
    outcome = Outcome([report], await asyncio.to_thread(exchange.report))
    assert not outcome.faults() and not outcome.said_flat and outcome.venue["open_orders"] == 2
    assert outcome.stuck and all("can take it back" in reason for reason in outcome.stuck.values()), outcome.stuck


@pytest.mark.parametrize("placed", ["by_hand = 2", "other_login = 2"])
async def test_orders_by_hand_and_of_another_tws_go_without_a_cancel_of_all(
    exchange: PaperExchangeThread, redis_server: EmbeddedRedis, placed: str
) -> None:
    toml = f"{ALONE}[book]\norders = 2\npositions = 2\nbrackets = 1\n[tws]\n{placed}\n"
    outcome = await judge(Case(toml, engine_connected=False, kills=1), 1, exchange, redis_server.url)
    assert not problems(outcome)
    assert "TWS reqGlobalCancel" not in outcome.venue["requests"]


@pytest.mark.parametrize("events", ["1100 1101", "1100 1102", "1100 unsaid", "reset", "1100 reset"])
async def test_flat_though_tws_loses_its_venue_or_restarts_in_the_middle(
    exchange: PaperExchangeThread, redis_server: EmbeddedRedis, events: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Orders of the book fill meanwhile, of which TWS tells nothing as long as it answers from what it knew."""
    monkeypatch.setattr(logins, "ASK_FOR_VENUE", 0.2)
    toml = f"{ALONE}[book]\norders = 8\npositions = 5\n[fills]\ndelay = 0.6\n[cancels]\ndelay = 0.4\n"
    toml += "race_probability = 1.0\n"
    toml += "".join(
        f'[[tws.events]]\nat = {0.8 + 5 * number}\nevent = "{event}"\nseconds = 3\n'
        for number, event in enumerate(events.split())
    )
    outcome = await judge(Case(toml, engine_connected=False, kills=1), 1, exchange, redis_server.url)
    assert not problems(outcome)


@pytest.mark.parametrize(
    ("book", "tws"),
    [
        ("", "inactive = 2"),
        ("", "stuck = 2"),
        ("[[exit_refusals]]\nreason = 'buying_power'\nlater = true\nfirst = 2\n", ""),
        ("", "notices = [399, 404, 10349, 2109]"),
        ("", "refusals = [{ code = 110, first = 3 }, { code = 10147 }, { code = 201, first = 2 }]"),
        ("[fills]\nstall_probability = 0.7\npartial_probability = 1.0\n[cancels]\nlate_fill_probability = 1.0\n", ""),
    ],
    ids=["inactive", "pending submit", "rejected later", "notices", "refusals", "fills after cancelled"],
)
async def test_flat_whatever_tws_says_of_our_closes(
    exchange: PaperExchangeThread, redis_server: EmbeddedRedis, book: str, tws: str
) -> None:
    toml = f"{ALONE}[book]\norders = 2\npositions = 5\nfutures = 1\n{book}[tws]\n{tws}\n"
    outcome = await judge(Case(toml, engine_connected=False, kills=1), 1, exchange, redis_server.url)
    assert not problems(outcome)


async def test_a_book_that_was_flat_when_the_venue_was_lost_is_not_called_flat(
    exchange: PaperExchangeThread, redis_server: EmbeddedRedis
) -> None:
    exchange.restart(scaled(f"{ALONE}[prices]\nAAPL = 200\n"))
    exchange.control("tws", {"event": "1100"})
    exchange.control("late-fill", {"symbol": "AAPL", "side": "buy", "qty": "40"})
    settings = kill_settings(deadline=40.0)
    report = await kill({"IB": account(exchange)}, redis_server.url, incident_id=uuid7(), settings=settings)
    (told,) = report.accounts
    assert not report.flat and told.note
    exchange.control("tws", {"event": "1101"})
    report = await kill({"IB": account(exchange)}, redis_server.url, incident_id=uuid7())
    assert report.flat and exchange.report()["closes"] == {"AAPL": 1}


async def test_two_kill_switches_at_once_close_once(exchange: PaperExchangeThread, redis_server: EmbeddedRedis) -> None:
    toml = f"{ALONE}[book]\norders = 4\npositions = 6\n[fills]\ndelay = 0.5\n"
    outcome = await judge(Case(toml, engine_connected=False, kills=2), 1, exchange, redis_server.url)
    assert not problems(outcome)
    assert set(outcome.venue["closes"].values()) == {1}


async def test_what_cannot_be_closed_now_is_named_with_its_reason(
    exchange: PaperExchangeThread, redis_server: EmbeddedRedis
) -> None:
    toml = f'{ALONE}[book]\npositions = 2\noptions = 1\n[market]\nsession = "closed"\n'
    exchange.restart(scaled(toml))
    settings = kill_settings(stuck_after=40.0, deadline=200.0)
    report = await kill({"IB": account(exchange)}, redis_server.url, incident_id=uuid7(), settings=settings)
    outcome = Outcome([report], await asyncio.to_thread(exchange.report))
    assert not outcome.faults() and not outcome.said_flat
    assert all("market closed" in reason for reason in outcome.stuck.values()) and len(outcome.stuck) == 3


async def test_futures_and_currencies_wait_for_their_open_and_an_expired_one_is_named(
    exchange: PaperExchangeThread, redis_server: EmbeddedRedis
) -> None:
    toml = f'{ALONE}[assets.ESU6]\nlast_trade = 2020-09-18\n[market]\nsession = "closed"\n'
    toml += "".join(f'[[positions]]\nsymbol = "{symbol}"\nqty = 3\n' for symbol in ("CLF7", "ESU6", "EUR.USD"))
    exchange.restart(scaled(toml))
    settings = kill_settings(stuck_after=40.0, deadline=200.0)
    report = await kill({"IB": account(exchange)}, redis_server.url, incident_id=uuid7(), settings=settings)
    outcome = Outcome([report], await asyncio.to_thread(exchange.report))
    assert not outcome.faults() and not outcome.said_flat
    stuck = outcome.stuck
    assert "traded last on 2020-09-18" in stuck.pop("ESU6")
    assert {*stuck} == {"CLF7", "EUR.USD"}
    assert all("market closed; nothing can be queued" in reason for reason in stuck.values())


async def test_a_tws_that_does_not_listen_holds_up_no_other_account(
    exchange: PaperExchangeThread, redis_server: EmbeddedRedis
) -> None:
    exchange.restart(scaled(f"{ALONE}[book]\norders = 5\npositions = 4\n"))
    brokers = {
        "PAPER": AlpacaBroker("PAPER", exchange.url, "key", "secret", requests_per_minute=1_000_000),
        "IB": IbBroker("IB", "127.0.0.1", free_port(), 911, timeout=1.0),
    }
    report = await kill(brokers, redis_server.url, incident_id=uuid7(), settings=kill_settings(deadline=60.0))
    paper, ib = sorted(report.accounts, key=lambda progress: progress.account, reverse=True)
    assert paper.flat and not ib.flat and not report.flat
    assert "nothing listens there" in ib.note and "\n" not in ib.note


async def test_a_missing_package_holds_up_no_other_account(
    exchange: PaperExchangeThread, redis_server: EmbeddedRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(connection, "import_module", missing)
    exchange.restart(scaled(f"{ALONE}[book]\norders = 5\npositions = 4\n"))
    accounts = {
        "PAPER": {"base_url": exchange.url, "key_id": "key", "secret_key": "secret", "requests_per_minute": 1_000_000},
        "IB": {"adapter": "ib", "port": exchange.tws_port},
    }
    brokers = open_brokers({name: AccountSettings.model_validate(given) for name, given in accounts.items()})
    report = await kill(brokers, redis_server.url, incident_id=uuid7(), settings=kill_settings(deadline=60.0))
    paper, ib = sorted(report.accounts, key=lambda progress: progress.account, reverse=True)
    assert paper.flat and not ib.flat and not report.flat
    assert 'pip install "trading-breaker-ops[ib]"' in ib.note and "\n" not in ib.note
