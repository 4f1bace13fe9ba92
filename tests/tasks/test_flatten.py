"""One account at a difficult venue: what must never be sent, and what a kill switch that is cut off leaves behind."""

from __future__ import annotations

import asyncio
import time
from random import Random

import pytest

from breaker.orders import Position
from breaker.uuid7 import uuid7
from brokers.alpaca import AlpacaBroker
from brokers.protocol import Listed
from configuration.settings import KillSettings
from flows import kill_procedure
from sandbox.embedded_redis import EmbeddedRedis
from sandbox.exchange.server import PaperExchange
from tasks.kill import account, flatten
from tasks.kill.book import READING_SHARE, ReadingAllowance
from tests.helpers import FULL, eventually, in_time
from tests.tasks.campaign import FASTER, Outcome, judge, kill, kill_settings, scaled

pytestmark = [pytest.mark.usefixtures("scaled_time"), pytest.mark.timeout(3_600 if FULL else 120)]

SEEDS = range(200 if FULL else 3)
BOOK = "latency_ms = 10\nenforce_available = false\n[book]\norders = 20\npositions = 10\n"
FILLS = "[fills]\ndelay = { low = 0.0, high = 1.0 }\npartial_probability = 0.4\n"


class LateBooks(AlpacaBroker):
    """A venue whose positions are told from a copy that lags behind its fills, now more, now less."""

    def __init__(self, real: AlpacaBroker, seed: int) -> None:
        self.__dict__ = real.__dict__
        self._seed = Random(seed)
        self._copies: list[tuple[float, Listed[Position]]] = []

    async def positions(self) -> Listed[Position]:
        self._copies.append((time.monotonic(), await super().positions()))
        oldest = time.monotonic() - self._seed.uniform(0, 3.0) / FASTER
        return next((copy for at, copy in self._copies if at >= oldest), self._copies[-1][1])


@pytest.mark.parametrize("bulk_from", [100, 5], ids=["closed one by one", "closed in bulk"])
async def test_positions_that_lag_behind_their_fills_are_not_closed_twice(
    bulk_from: int, exchange: PaperExchange, redis_server: EmbeddedRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flatten, "BULK_CLOSE_FROM", bulk_from)
    for seed in SEEDS:
        late = kill(exchange, redis_server.url, through=lambda broker, seed=seed: LateBooks(broker, seed))  # type: ignore[misc]
        outcome = await judge(exchange, scaled(BOOK + FILLS, seed), [late])
        assert outcome.faults() == [] and outcome.report.flat, seed


@pytest.mark.parametrize("bulk_from", [100, 5], ids=["closed one by one", "closed in bulk"])
async def test_cut_off_at_any_moment_and_started_again_it_ends_flat_and_nothing_was_made_worse(
    bulk_from: int, exchange: PaperExchange, redis_server: EmbeddedRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flatten, "BULK_CLOSE_FROM", bulk_from)
    for seed in SEEDS:
        random, incident = Random(seed), uuid7()
        exchange.restart(scaled(BOOK + FILLS, seed))
        for _ in range(4):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(random.uniform(0.01, 0.2)):
                    await kill(exchange, redis_server.url, incident_id=incident)
        report = await kill(exchange, redis_server.url, incident_id=incident)
        outcome = Outcome([report], exchange.report())
        assert outcome.faults() == [] and report.flat, seed


async def test_wrong_keys_are_named_and_nothing_is_called_flat(
    exchange: PaperExchange, redis_server: EmbeddedRedis
) -> None:
    wrong = kill(exchange, redis_server.url, secret="not the secret")
    outcome = await judge(exchange, scaled(BOOK), [wrong])
    progress = outcome.report.accounts[0]
    assert not outcome.report.flat and progress.phase == "failed"
    assert "refuses the keys (401)" in progress.note and "not the secret" not in progress.note


async def test_what_redis_was_asked_for_in_vain_before_keeps_no_position_waiting(
    exchange: PaperExchange, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kill_procedure, "CONFIRMATION_WAIT", 60.0)
    book = "[book]\norders = 4\npositions = 3\n"
    nowhere = kill(exchange, "redis://127.0.0.1:1/0", redis_timeout=0.1, trip_event_id=uuid7())
    outcome = await judge(exchange, scaled(book), [nowhere])
    assert outcome.faults() == [] and outcome.report.flat
    assert any("the trip could not be confirmed" in missing for missing in outcome.report.missing)
    assert outcome.report.flat_after is not None and outcome.report.flat_after < 3, "confirming takes more than four"


async def test_the_closes_of_another_run_of_the_incident_are_not_cancelled_at_the_start(
    exchange: PaperExchange, redis_server: EmbeddedRedis
) -> None:
    incident = uuid7()
    exchange.restart(scaled("[book]\norders = 8\npositions = 3\n[fills]\ndelay = 15\n"))
    settings = kill_settings(escalate_after=300, stuck_after=200, deadline=600)
    first = asyncio.create_task(kill(exchange, redis_server.url, incident_id=incident, settings=settings))
    await asyncio.to_thread(eventually, lambda: sum(exchange.report()["closes"].values()) >= 3)
    second = await kill(exchange, redis_server.url, incident_id=incident, settings=settings)
    assert (await first).flat and second.flat
    assert sum(exchange.report()["closes"].values()) == 3


async def test_orders_beside_some_that_are_already_going_are_cancelled_in_bulk_and_those_are_left_in_peace(
    exchange: PaperExchange, redis_server: EmbeddedRedis
) -> None:
    book = "[book]\norders = 30\npending_cancel = 10\npending_cancel_for = 2.0\n[cancels]\ndelay = 0.5\n"
    outcome = await judge(exchange, scaled(book), [kill(exchange, redis_server.url)])
    assert outcome.faults() == [] and outcome.report.flat
    assert outcome.venue["requests"]["DELETE /v2/orders"] == 1
    assert "DELETE /v2/orders/{id}" not in outcome.venue["requests"]


async def test_250_positions_that_need_orders_of_their_own_fit_into_the_rate_limit(
    exchange: PaperExchange, redis_server: EmbeddedRedis
) -> None:
    """A resting order that can't be cancelled rules out a bulk close; 200 requests a minute do not allow 250 closes."""
    book = "rate_limit = 200\n[book]\npositions = 250\norders = 1\npending_replace = 1\nreducing = 0\n"
    run = kill(
        exchange,
        redis_server.url,
        settings=kill_settings(deadline=900, stuck_after=30),
        requests_per_minute=200 * FASTER,
        timeout=2.0,
    )
    outcome = await judge(exchange, scaled(book), [run])
    assert outcome.faults() == []
    assert [reason for reason in outcome.stuck.values() if "pending_replace" not in reason] == []
    assert outcome.left <= set(outcome.stuck)
    assert len(outcome.venue["closes"]) >= 249
    assert outcome.venue["responses"].get("429", 0) <= 10


def test_readings_never_use_more_than_their_share_of_the_rate_limit() -> None:
    allowance, now, readings = ReadingAllowance(200), 0.0, 0
    while now < 600:
        readings += 1
        now += max(0.25, allowance.wait(3, now))
    burst, share = 200 * READING_SHARE, 200 * READING_SHARE * 10
    assert share <= 3 * readings <= share + burst + 3


def test_a_venue_without_a_limit_is_read_as_often_as_wanted() -> None:
    assert ReadingAllowance(None).wait(1_000_000, 0.0) == 0.0


async def test_a_venue_that_is_slow_at_everything_is_still_made_flat(
    exchange: PaperExchange, redis_server: EmbeddedRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each answer takes longer than a reading stays fresh, beside an order that resists for ever."""
    monkeypatch.setattr(flatten, "FRESH_FOR", 0.07)
    slow = (
        "latency_ms = 1600\nenforce_available = false\n[book]\npositions = 9\norders = 1\nreducing = 0\n"
        "pending_replace = 1\n[[exit_refusals]]\nfirst = 3\n"
    )
    run = kill(exchange, redis_server.url, settings=kill_settings(deadline=900, stuck_after=20), timeout=2.0)
    outcome = await judge(exchange, scaled(slow), [run])
    assert outcome.faults() == [] and outcome.left == set()
    assert ["pending_replace" in reason for reason in outcome.stuck.values()] == [True]


async def test_a_bulk_close_without_an_answer_makes_nothing_stuck_that_was_not_tried(
    exchange: PaperExchange, redis_server: EmbeddedRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wait for the answer is longer than a position may stand still before it is called stuck."""
    monkeypatch.setattr(flatten, "BULK_CLOSE_FROM", 5)
    silent = '[[trouble]]\nkind = "timeout"\nroutes = ["DELETE /v2/positions"]\nfirst = 1\n'
    run = kill(exchange, redis_server.url, settings=kill_settings(stuck_after=24), timeout=1.5)
    outcome = await judge(exchange, scaled(BOOK + silent), [run])
    assert outcome.faults() == [] and outcome.report.flat


async def test_letting_many_stops_go_takes_no_close_back_that_was_just_sent(
    exchange: PaperExchange, redis_server: EmbeddedRedis
) -> None:
    held = [f"S{number:02}" for number in range(24)]
    positions = ", ".join(f'{{ symbol = "{symbol}", qty = 10, price = 100 }}' for symbol in held)
    stops = ", ".join(
        f'{{ symbol = "{symbol}", side = "sell", qty = 10, type = "stop", stop_price = 1 }}' for symbol in held[4:]
    )
    book = f"positions = [{positions}]\norders = [{stops}]\n[fills]\ndelay = 4.0\n"
    patient = kill_settings(escalate_after=60.0)
    outcome = await judge(exchange, scaled(book), [kill(exchange, redis_server.url, settings=patient)])
    assert outcome.faults() == [] and outcome.report.flat
    assert set(outcome.venue["closes"].values()) == {1}
    assert len(outcome.venue["unprotected"]) == len(held) - 4, "each was without stop and close once, for a moment"


async def test_dust_beside_what_is_stuck_keeps_nobody_waiting_for_the_deadline(
    exchange: PaperExchange, redis_server: EmbeddedRedis
) -> None:
    book = (
        'positions = [{ symbol = "AAPL", qty = 10, price = 100 }, '
        '{ symbol = "BTCUSD", qty = "0.000000005", price = 95000 }]\n[[halts]]\nsymbol = "AAPL"\n'
    )
    run = kill(exchange, redis_server.url, settings=kill_settings(deadline=4_000, stuck_after=8))
    async with asyncio.timeout(60):
        outcome = await judge(exchange, scaled(book), [run])
    assert set(outcome.stuck) == {"AAPL"} and outcome.dust == {"BTCUSD"}


# --- A venue that answers nothing of use, when the time is up ---------------------------------------------------------

FOUR = "[book]\norders = 4\npositions = 4\n"


async def test_a_venue_that_answers_503_to_everything_is_given_up_at_the_deadline_and_says_why(
    exchange: PaperExchange, redis_server: EmbeddedRedis
) -> None:
    run = kill(exchange, redis_server.url, settings=KillSettings(deadline=0.5), timeout=5.0)
    with in_time(0.5):  # a reading alone is tried again for eight seconds
        outcome = await judge(exchange, scaled(FOUR + '[[trouble]]\nkind = "503"\n'), [run])
    (progress,) = outcome.report.accounts
    assert not outcome.report.flat and "the venue answered 503" in progress.note
    assert (progress.orders_open, progress.positions_open) == (None, None), "nothing was read"


async def test_a_venue_that_says_nothing_at_all_is_given_up_soon_after_the_deadline(
    exchange: PaperExchange, redis_server: EmbeddedRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(account, "ANSWERS_AFTER_DEADLINE", 0.3)
    monkeypatch.setattr(account, "LAST_QUESTION", 0.2)
    run = kill(exchange, redis_server.url, settings=KillSettings(deadline=0.2), timeout=60.0)
    with in_time(1.0):
        outcome = await judge(exchange, scaled(FOUR + '[[trouble]]\nkind = "timeout"\n'), [run])
    (progress,) = outcome.report.accounts
    assert not outcome.report.flat and "no answer of the venue when the time was up" in progress.note


async def test_a_close_whose_answer_does_not_come_before_the_time_is_up_is_known_to_the_next_run(
    exchange: PaperExchange, redis_server: EmbeddedRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(account, "ANSWERS_AFTER_DEADLINE", 0.3)
    silent = '[[trouble]]\nkind = "timeout"\napplied = true\nroutes = ["POST /v2/orders"]\nfirst = 4\n'
    incident = uuid7()
    exchange.restart(scaled(FOUR + silent))
    deadline = 60.0  # on the fast clock, and long enough for a busy machine to have sent its closes
    with in_time(deadline / FASTER + 2):
        first = await kill(
            exchange, redis_server.url, incident_id=incident, settings=kill_settings(deadline=deadline), timeout=400.0
        )
    assert {close.outcome for close in first.accounts[0].closes} == {"unknown"}
    second = await kill(exchange, redis_server.url, incident_id=incident)
    outcome = Outcome([first, second], exchange.report())
    assert second.flat and not first.flat and outcome.venue["violations"] == []
    assert set(outcome.venue["closes"].values()) == {1}, "none was sent twice"
