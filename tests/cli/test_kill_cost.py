"""What `breaker kill` says an exit cost: on a screen of eighty columns, as JSON, and in the ledger."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import pytest

from cli.kill_view import COST_LINES
from proofs.fork_server import ForkServer
from sandbox.embedded_redis import EmbeddedRedis
from sandbox.exchange.scenario import parse
from sandbox.exchange.server import PaperExchangeThread
from tests.cli.conftest import RunCli, WriteConfiguration
from tests.cli.terminal import Terminal
from tests.cli.test_kill_command import PACE, account

BOOK = """
rate_limit = 100000
prices.AAPL = 200
prices.MSFT = 400
[fills]
slippage_bp = 10
partial_probability = 1
pause = 0
[[positions]]
symbol = "AAPL"
qty = 12000
price = 150
[[positions]]
symbol = "MSFT"
qty = -5
price = 420
[[positions]]
symbol = "SPY261218C00600000"
qty = 3
price = 4
"""
NO_FILLS = '[[trouble]]\nkind = "503"\nroutes = ["GET /v2/account/activities*"]\n'
Begin = Callable[[str], None]


@pytest.fixture(scope="module")
def venue() -> Iterator[PaperExchangeThread]:
    with PaperExchangeThread() as running:
        yield running


@pytest.fixture
def begin(
    venue: PaperExchangeThread,
    redis_server: EmbeddedRedis,
    write_configuration: WriteConfiguration,
) -> Begin:
    def start(toml: str) -> None:
        venue.restart(parse(toml))
        write_configuration(f'redis_url = "{redis_server.url}"\n{PACE}{account(venue.url)}')

    return start


def recorded(breaker_cli: RunCli) -> list[dict[str, Any]]:
    outcome = breaker_cli("audit", "--action", "KILL_SWITCH_COST", "--json")
    assert outcome.returncode == 0, outcome.stderr
    return [json.loads(line) for line in outcome.stdout.splitlines()]


def test_the_screen_tells_it_after_the_verdict_and_the_ledger_keeps_it(
    fork_server: ForkServer, begin: Begin, breaker_cli: RunCli, environment: dict[str, str]
) -> None:
    begin(BOOK)
    terminal = Terminal(fork_server, {**environment, "COLUMNS": "80", "TERM": "dumb"}, "kill", "--yes")
    try:
        assert terminal.ended() == 0, terminal.seen
    finally:
        terminal.close()
    said = terminal.seen
    assert said.index("✓ FLAT") < said.index("▸ COST  ALPHA  slippage")
    assert "slippage 2,402.00 USD (10.0 bp of 2,403,200.00 closed)" in said
    assert "realised P&L 597,698.00 USD · fees not given" in said
    cost = said[said.index("▸ COST") : said.index("Slippage above zero")]
    assert max(len(line) for line in cost.splitlines()) <= 80 and "…" not in cost
    rows = [line.split() for line in cost.splitlines()]
    assert ["AAPL", "-12,000", "199.80", "200.00", "2,400.00", "10.0", "597,600"] in rows
    assert ["MSFT", "+5", "400.40", "400.00", "2.00", "10.0", "98.00"] in rows
    assert ["total", "2,402.00", "10.0", "597,698"] in rows
    (row,) = recorded(breaker_cli)
    assert (row["outcome"], row["details"]["currency"], row["details"]["priced"]) == ("OK", "USD", 3)
    assert {line["symbol"]: Decimal(line["slippage"]) for line in row["details"]["lines"]}["MSFT"] == 2


def test_as_json_each_fill_has_its_price_and_time(begin: Begin, breaker_cli: RunCli) -> None:
    begin(BOOK)
    outcome = breaker_cli("kill", "--yes", "--json")
    assert outcome.returncode == 0 and "COST" not in outcome.stderr, outcome.stderr
    report = json.loads(outcome.stdout)
    (cost,) = report["costs"]
    fills = [fill for fill in cost["fills"] if fill["symbol"] == "AAPL"]
    assert len(fills) > 1 and sum(int(fill["quantity"]) for fill in fills) == 12_000
    assert {(fill["price"], fill["side"], fill["origin"]) for fill in fills} == {("199.8", "sell", "close")}
    assert all(fill["at"] >= report["started_at"] for fill in fills)
    assert (cost["closed"], cost["priced"]) == (3, 3)
    assert (cost["closes"]["basis_points"], cost["closes"]["fees"]) == ("10.00", None)


def test_fills_that_cannot_be_read_leave_the_verdict_alone_and_no_number_in_their_place(
    begin: Begin, breaker_cli: RunCli
) -> None:
    begin(BOOK + NO_FILLS)
    outcome = breaker_cli("kill", "--yes")
    assert outcome.returncode == 0, outcome.stderr
    assert "✓ FLAT" in outcome.stderr
    assert "▸ COST  ALPHA  not known: the venue has not told of its fills within 5 s" in outcome.stderr
    assert "slippage" not in outcome.stderr
    (row,) = recorded(breaker_cli)
    assert row["details"]["closes"]["slippage"] is None and row["details"]["lines"] == []


def test_of_a_big_book_the_dearest_are_shown_and_the_rest_is_counted(begin: Begin, breaker_cli: RunCli) -> None:
    begin("rate_limit = 100000\n[book]\npositions = 40\n[fills]\nslippage_bp = { low = 1, high = 30 }\n")
    outcome = breaker_cli("kill", "--yes")
    assert outcome.returncode == 0, outcome.stderr
    assert f"{40 - COST_LINES} more lines are not shown; the sums have them." in outcome.stderr


def test_of_a_book_of_one_line_more_that_line_is_counted(begin: Begin, breaker_cli: RunCli) -> None:
    begin(
        f"rate_limit = 100000\n[book]\npositions = {COST_LINES + 1}\n[fills]\nslippage_bp = {{ low = 1, high = 30 }}\n"
    )
    outcome = breaker_cli("kill", "--yes")
    assert outcome.returncode == 0, outcome.stderr
    assert "1 more line is not shown; the sums have them." in outcome.stderr


def test_a_flat_book_cost_nothing_and_says_so(begin: Begin, breaker_cli: RunCli) -> None:
    begin("")
    outcome = breaker_cli("kill", "--yes")
    assert outcome.returncode == 0
    assert "▸ COST  ALPHA  nothing was closed, and nothing filled" in outcome.stderr
