"""The contract suite passes the adapters that we give out, and fails a careless one where that is wrong."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import pytest

from tests.helpers import FULL

ROOT = Path(__file__).parents[2]
CARELESS = """
from decimal import Decimal as D
import httpx
from breaker.orders import *
from brokers.protocol import *
from sandbox.exchange.venue_under_test import SandboxVenue

class Careless(Broker):
    def __init__(self, url, key, secret, timeout):
        self.name = "CARELESS"
        self.capabilities = Capabilities(True, False, True, True, None, 500)
        headers = {"APCA-API-KEY-ID": key, "APCA-API-SECRET-KEY": secret}
        self.http = httpx.AsyncClient(base_url=url + "/v2", headers=headers, timeout=timeout)
    async def ask(self, method, path, **more):
        answer = await self.http.request(method, path, **more)
        return answer.json() if answer.content else {}
    async def account(self):
        a = await self.ask("GET", "/account")
        return Account(a["id"], a["currency"], D(a["equity"]), D(a["buying_power"]))
    async def clock(self):
        c = await self.ask("GET", "/clock")
        return MarketClock(datetime.fromisoformat(c["timestamp"]), c["is_open"])
    def order_of(self, o):
        return Order(o["id"], o["client_order_id"], o["symbol"], Side(o["side"]), D(o["qty"]), D(o["filled_qty"]),
                     OrderStatus(o["status"]), OrderType(o["type"]), TimeInForce(o["time_in_force"]))
    async def open_orders(self):
        return Listed(tuple(map(self.order_of, await self.ask("GET", "/orders?status=open&limit=500"))))
    async def positions(self):
        listed = await self.ask("GET", "/positions")
        return Listed(tuple(Position(p["symbol"], D(p["qty"]), abs(D(p["qty"])), D(0), D(100)) for p in listed))
    async def order(self, name, symbol=None):
        o = await self.ask("GET", "/orders:by_client_order_id", params={"client_order_id": name})
        return self.order_of(o) if "id" in o else None
    async def cancel_all(self):
        return [CancelResult(c["id"], CancelOutcome.ACCEPTED) for c in await self.ask("DELETE", "/orders")]
    async def cancel(self, order_id):
        await self.ask("DELETE", f"/orders/{order_id}")
        return CancelResult(order_id, CancelOutcome.ACCEPTED)
    async def close(self, c):
        body = {"symbol": c.symbol, "qty": str(c.quantity), "side": c.side, "type": c.type, "time_in_force": "day",
                "client_order_id": c.client_order_id}
        for _ in range(3):
            try:
                sent = self.order_of(await self.ask("POST", "/orders", json=body))
                return CloseResult(c.symbol, CloseOutcome.ACCEPTED, sent)
            except (httpx.HTTPError, KeyError):
                pass
        return CloseResult(c.symbol, CloseOutcome.REFUSED, reason="failed")
    async def aclose(self):
        await self.http.aclose()

def make():
    return SandboxVenue(Careless)
"""
GOOD_ENOUGH = {
    "an_empty_account_has_neither_orders_nor_positions",
    "positions_have_their_sign_and_their_exact_size",
    "account_and_clock_are_told",
    "one_order_is_cancelled_and_no_other",
    "a_position_is_closed_whole",
    "a_part_is_closed_and_no_more",
    "a_refused_close_has_the_venues_reason",
    "it_can_be_closed_twice",
}
WRONG = {
    "every_page_of_orders_is_read",
    "a_list_that_was_not_read_whole_is_none",
    "what_can_not_be_read_is_named_and_hides_nothing_else",
    "what_is_gone_already_is_not_open",
    "one_that_resists_is_told_among_all_that_go",
    "a_cancel_without_an_answer_is_not_taken_for_one",
    "a_close_without_an_answer_is_looked_up_and_sent_only_once",
    "the_same_close_is_taken_once",
    "a_reduce_only_close_never_turns_a_position_over",
    "every_call_ends_where_the_venue_says_nothing",
    "a_short_outage_is_ridden_out_or_told_and_hides_nothing",
    "a_close_that_the_rate_limit_held_back_was_not_taken",
    "wrong_keys_are_named_and_not_shown",
}


def run_suite(where: Path, adapter: str, *more: str) -> subprocess.CompletedProcess[str]:
    """As a third party runs it, in a directory of its own; the plugin is named, so that it need not be installed."""
    command = [sys.executable, "-m", "pytest", "-p", "brokers.contract.plugin", "-p", "no:cacheprovider", "-rA", "-q"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    environment.pop("PYTEST_ADDOPTS", None)
    return subprocess.run(
        [*command, "--pyargs", "brokers.contract", "--adapter", adapter, "--rootdir", str(where), *more],
        cwd=where,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def named(output: str, word: str) -> set[str]:
    """The tests of which the summary says so, without their parameters."""
    return {*re.findall(rf"^{word} .*?::test_(\w+)", output, re.MULTILINE)}


@pytest.mark.timeout(300)
def test_alpaca_passes_the_contract_suite(tmp_path: Path) -> None:
    done = run_suite(tmp_path, "tests.brokers.alpaca_under_test:make")
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert len(named(done.stdout, "PASSED")) > 30
    skipped = {*re.findall(r"^SKIPPED \[\d+\] .*?: (.*)$", done.stdout, re.MULTILINE)}
    assert skipped == {
        "the venue under test has no hedge mode",
        "its capabilities say that orders are cancelled one by one",
        "its capabilities say that the venue has no reduce-only orders",
        "its capabilities say that the venue has no such request",
    }


@pytest.mark.timeout(300)
@pytest.mark.parametrize("account", ["futures", "hedge", "spot"])
def test_ccxt_passes_the_contract_suite_at_binance(account: str, tmp_path: Path) -> None:
    # That every call ends takes most of the time, and is the same for each.
    less = () if account == "futures" or FULL else ("-k", "not every_call_ends")
    done = run_suite(tmp_path, f"tests.brokers.ccxt_under_test:{account}", *less)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert len(named(done.stdout, "PASSED")) > 20


@pytest.mark.timeout(300)
def test_the_adapter_for_interactive_brokers_passes_the_contract_suite(tmp_path: Path) -> None:
    done = run_suite(tmp_path, "tests.brokers.ib_under_test:make")
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    skipped = {*re.findall(r"^SKIPPED \[\d+\] .*?: (.*)$", done.stdout, re.MULTILINE)}
    assert skipped == {
        "the venue under test can't be brought into trouble of the kind: rate limit",
        "the venue under test has no hedge mode",
        "its capabilities say that orders are cancelled one by one",
        "its capabilities say that the venue has no reduce-only orders",
        "its capabilities say that the venue has no such request",
        "its capabilities say that the venue itself refuses no second one",
        "its capabilities say that positions are closed one by one",
    }


@pytest.mark.timeout(300)
def test_a_careless_adapter_in_a_package_of_somebody_elses_fails_where_it_is_wrong(tmp_path: Path) -> None:
    package = tmp_path / "somebodys"
    package.mkdir()
    (package / "__init__.py").write_text("from datetime import datetime\n" + CARELESS)
    done = run_suite(tmp_path, "somebodys:make", "-k", " or ".join(sorted(WRONG | GOOD_ENOUGH)))
    assert done.returncode == 1, done.stdout[-4000:] + done.stderr[-2000:]
    failed = named(done.stdout, "FAILED")
    assert failed == WRONG, done.stdout[-4000:]
    assert named(done.stdout, "PASSED") - failed == GOOD_ENOUGH
    assert "a list without its later pages is BrokerUnavailable" in done.stdout


def test_without_an_adapter_the_suite_says_how_to_name_one(tmp_path: Path) -> None:
    done = run_suite(tmp_path, "nothing", "-k", "empty_account")
    assert done.returncode != 0
    assert "name the adapter to check: --adapter mypackage:make" in done.stdout + done.stderr


def entry_points() -> Sequence[tuple[str, str]]:
    ops = tomllib.loads((ROOT / "distributions/ops/pyproject.toml").read_text())
    return [*ops["project"]["entry-points"]["pytest11"].items()]


def test_an_installed_application_gives_pytest_the_option_by_itself() -> None:
    """Of the module's own name, so that nobody registers it twice who names it by `-p` too."""
    ((name, module),) = entry_points()
    assert name == module and hasattr(import_module(module), "pytest_addoption")
