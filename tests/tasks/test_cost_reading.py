"""Reading what an exit cost at a real venue, through what venues do to it: late, in part, not at all."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from breaker.orders import Fill
from breaker.uuid7 import uuid7
from brokers.alpaca import AlpacaBroker
from brokers.coverage import coverage_of
from brokers.protocol import Listed
from brokers.sweep import first_sweep
from configuration.settings import KillSettings
from sandbox.exchange.scenario import parse
from sandbox.exchange.server import PaperExchangeThread
from tasks.kill import cost_reading
from tasks.kill.account import AccountProgress, AccountRun, RunClock
from tasks.kill.cost import ExitCost, Origin
from tasks.kill.cost_reading import read_cost
from tasks.kill.flatten import Flattening
from tasks.kill.verify import verify_flat
from tests.helpers import BUSY
from tests.tasks.timed_venue import nothing_to_write

EVERYTHING = coverage_of("global", ["ALPHA"])
PACE = KillSettings(settle=0.05, guard=0.1, poll_interval=0.02, deadline=20.0, escalate_after=1.0, stuck_after=4.0)
PRICES = "rate_limit = 100000\nprices.AAPL = 200\nprices.MSFT = 400\nprices.NVDA = 120\n"
AAPL = '[[positions]]\nsymbol = "AAPL"\nqty = 10\nprice = 150\n'
MSFT = '[[positions]]\nsymbol = "MSFT"\nqty = -5\nprice = 420\n'
TEN_BP = "[fills]\nslippage_bp = 10\n"


@pytest.fixture(scope="module")
def venue() -> Iterator[PaperExchangeThread]:
    with PaperExchangeThread() as running:
        yield running


class LateFills(AlpacaBroker):
    """Lists one fill less than there are, so many times."""

    times = 0

    async def fills(self, since: datetime) -> Listed[Fill]:
        listed = await super().fills(since)
        self.times -= 1
        return listed if self.times < 0 else Listed(listed.items[1:], listed.unreadable)


class BrokenFills(AlpacaBroker):
    async def fills(self, since: datetime) -> Listed[Fill]:
        raise ZeroDivisionError("a mistake")


async def exit_of(venue: PaperExchangeThread, toml: str, broker: AlpacaBroker | None = None) -> ExitCost:
    venue.restart(parse(PRICES + toml))
    broker = broker or AlpacaBroker("ALPHA", venue.url, "key", "secret", timeout=2.0)
    began = datetime.now(UTC)
    alpha = AccountProgress("ALPHA")
    run = AccountRun(broker, uuid7(), PACE, RunClock(20.0), lambda *_: None, alpha, EVERYTHING, nothing_to_write)
    try:
        (swept,) = await first_sweep([broker], timeout=2.0, coverage=EVERYTHING)
        run.opening.note_sweep(swept.orders or (), swept.positions, run.elapsed)
        flattening = Flattening(run)
        await flattening.until_no_orders()
        while await flattening.until_flat() and not await verify_flat(run):
            pass
        assert venue.report()["is_flat"]
        return await read_cost(run, began)
    finally:
        await broker.aclose()


async def test_longs_and_shorts_in_the_accounts_currency(venue: PaperExchangeThread) -> None:
    cost = await exit_of(venue, TEN_BP + AAPL + MSFT)
    assert cost.whole and (cost.currency, cost.closed, cost.priced) == ("USD", 2, 2)
    assert [(line.symbol, line.slippage, line.realised) for line in cost.lines] == [
        ("AAPL", Decimal(2), Decimal(498)),
        ("MSFT", Decimal(2), Decimal(98)),
    ]
    assert (cost.closes.slippage, cost.closes.basis_points) == (Decimal(4), Decimal(10))
    assert (cost.closes.fees, cost.closes.with_fee, cost.problem) == (None, 0, "")
    assert all(fill.at.tzinfo and fill.order_id for fill in cost.fills)


async def test_what_fills_while_it_is_being_cancelled_is_named_apart(venue: PaperExchangeThread) -> None:
    race = "[cancels]\nrace_probability = 1\ndelay = 0.2\n"
    order = '[[orders]]\nsymbol = "{}"\nside = "buy"\nqty = 4\nlimit_price = {}\n'
    cost = await exit_of(venue, TEN_BP + race + AAPL + order.format("AAPL", 150) + order.format("NVDA", 100))
    assert cost.whole
    assert {(line.symbol, line.origin, line.side.value, line.quantity) for line in cost.lines} == {
        ("AAPL", Origin.CLOSE, "sell", Decimal(14)),
        ("AAPL", Origin.RACED, "buy", Decimal(4)),
        ("NVDA", Origin.CLOSE, "sell", Decimal(4)),
        ("NVDA", Origin.RACED, "buy", Decimal(4)),
    }
    raced = [line for line in cost.lines if line.origin is Origin.RACED]
    assert cost.beside.slippage == sum(line.slippage or 0 for line in raced) == -200 - 80
    assert cost.closes.realised == 14 * (Decimal("199.8") - 150) + 4 * (Decimal("119.88") - 100)


async def test_a_close_whose_answer_was_lost_is_still_a_close(venue: PaperExchangeThread) -> None:
    lost = '[[trouble]]\nkind = "drop"\napplied = true\nroutes = ["POST /v2/orders"]\nfirst = 1\n'
    cost = await exit_of(venue, TEN_BP + AAPL + lost)
    assert cost.whole and [line.origin for line in cost.lines] == [Origin.CLOSE]


async def test_a_symbol_that_a_late_fill_entered_after_the_trip(venue: PaperExchangeThread) -> None:
    late = '[late_fill]\nafter_flat = 0.05\nsymbol = "NVDA"\nqty = 3\n'
    cost = await exit_of(venue, TEN_BP + AAPL + late)
    assert cost.whole and cost.closed == 2
    assert [(line.symbol, line.origin, line.side.value) for line in cost.lines] == [
        ("AAPL", Origin.CLOSE, "sell"),
        ("NVDA", Origin.CLOSE, "sell"),
        ("NVDA", Origin.OTHER, "buy"),
    ]
    assert cost.last_reference is not None and cost.first_reference is not None
    assert cost.last_reference > cost.first_reference


async def test_fills_that_the_venue_lists_a_little_later_are_waited_for(venue: PaperExchangeThread) -> None:
    broker = LateFills("ALPHA", venue.url, "key", "secret")
    broker.times = 2
    cost = await exit_of(venue, TEN_BP + AAPL + MSFT, broker)
    assert cost.whole and cost.priced == 2 and broker.times == -1


async def test_fills_that_never_come_are_said_to_be_missing_and_nothing_stands_in_for_them(
    venue: PaperExchangeThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cost_reading, "COST_WITHIN", 0.5)
    broker = LateFills("ALPHA", venue.url, "key", "secret")
    broker.times = 1_000_000
    begun = time.monotonic()
    cost = await exit_of(venue, TEN_BP + AAPL + MSFT, broker)
    assert time.monotonic() - begun < 5 + BUSY
    assert (cost.priced, cost.closed, len(cost.lines)) == (1, 2, 1)
    assert not cost.whole and cost.problem == "the venue has not told of all of its fills within 0.5 s"


async def test_a_venue_that_lists_no_fills_costs_nothing_to_ask(venue: PaperExchangeThread) -> None:
    broker = AlpacaBroker("ALPHA", venue.url, "key", "secret")
    broker.capabilities = replace(broker.capabilities, fills=False)
    cost = await exit_of(venue, AAPL, broker)
    assert (cost.problem, cost.lines, cost.closes.slippage) == ("not given by this venue", (), None)
    assert not [route for route in venue.report()["requests"] if "activities" in route]


@pytest.mark.parametrize(
    ("trouble", "said"),
    [
        ('kind = "403"', "GET /v2/account/activities/FILL: the venue answered 403"),
        ('kind = "timeout"', "the venue has not told of its fills within 0.5 s"),
    ],
)
async def test_a_venue_that_refuses_or_says_nothing_is_told_and_held_against_nobody(
    venue: PaperExchangeThread, monkeypatch: pytest.MonkeyPatch, trouble: str, said: str
) -> None:
    monkeypatch.setattr(cost_reading, "COST_WITHIN", 0.5)
    cost = await exit_of(venue, AAPL + f'[[trouble]]\n{trouble}\nroutes = ["GET /v2/account/activities*"]\n')
    assert said in cost.problem and "\n" not in cost.problem
    assert (cost.lines, cost.closes.slippage, cost.closes.realised) == ((), None, None)


async def test_a_mistake_in_an_adapter_is_told_too(venue: PaperExchangeThread) -> None:
    cost = await exit_of(venue, AAPL, BrokenFills("ALPHA", venue.url, "key", "secret"))
    assert cost.problem == "ZeroDivisionError: a mistake"
