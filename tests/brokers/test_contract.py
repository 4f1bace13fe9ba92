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
OF_TIME_AND_KEYS = """
import hashlib, hmac, time
from decimal import Decimal as D
from urllib.parse import urlencode
import httpx
from breaker.orders import *
from brokers.protocol import *
from sandbox.exchange.venue_under_test import BINANCE_SPOT, SandboxVenue

def slashed(symbol):
    return symbol.replace("USDT", "/USDT")

class Careless(Broker):
    capabilities = Capabilities(False, False, False, True, None, 500)
    def __init__(self, url, key, secret, timeout):
        self.name, self.secret = "CARELESS", secret.encode()
        self.http = httpx.AsyncClient(base_url=url + "/api/v3", headers={"X-MBX-APIKEY": key}, timeout=timeout)
    async def ask(self, method, path, **more):
        query = urlencode({**more, "timestamp": int(time.time() * 1000)})
        signature = hmac.new(self.secret, query.encode(), hashlib.sha256).hexdigest()
        return (await self.http.request(method, f"/{path}?{query}&signature={signature}")).json()
    async def account(self):
        return Account("1", "USDT", D(0), D(0))
    async def clock(self):
        return MarketClock(datetime.now(timezone.utc), True)
    async def open_orders(self):
        listed = [o for o in await self.ask("GET", "openOrders") if "orderId" in o]
        return Listed(tuple(Order(f"{o['symbol']} {o['orderId']}", o["clientOrderId"], slashed(o["symbol"]),
                                  Side(o["side"].lower()), D(o["origQty"]), D(o["executedQty"]), OrderStatus.NEW,
                                  OrderType.LIMIT, TimeInForce.GTC) for o in listed))
    async def positions(self):
        told = (await self.ask("GET", "account")).get("balances", ())
        held = {b["asset"]: D(b["free"]) for b in told if b["asset"] != "USDT" and D(b["free"])}
        return Listed(tuple(Position(name + "/USDT", free, free, D(0), D(100)) for name, free in held.items()))
    async def order(self, name, symbol=None):
        return None
    async def not_permitted(self):
        tried = await self.ask("POST", "order", symbol="BTCUSDT", side="BUY", type="MARKET", quantity="1")
        return [tried["msg"]] if "msg" in tried else []
    async def cancel(self, order_id):
        symbol, number = order_id.split()
        gone = "status" in await self.ask("DELETE", "order", symbol=symbol, orderId=number)
        return CancelResult(order_id, CancelOutcome.ACCEPTED if gone else CancelOutcome.NOT_OPEN)
    async def cancel_all(self):
        return [await self.cancel(o.id) for o in await self.open_orders()]
    async def close(self, c):
        sent = await self.ask("POST", "order", symbol=c.symbol.replace("/", ""), side=c.side.upper(), type="MARKET",
                              quantity=str(c.quantity))
        outcome = CloseOutcome.ACCEPTED if "orderId" in sent else CloseOutcome.REFUSED
        return CloseResult(c.symbol, outcome, reason=sent.get("msg", ""))
    async def aclose(self):
        await self.http.aclose()

def make():
    return SandboxVenue(Careless, BINANCE_SPOT)
"""
WRONG_OF_TIME_AND_KEYS = {
    "a_clock_that_differs_hides_nothing_and_is_told_as_it_is",
    "a_cancel_that_comes_first_is_never_refused_for_its_time",
    "a_close_that_comes_first_is_taken_or_not_and_never_refused_for_its_time",
    "what_keys_may_not_do_is_told_in_words_and_no_order_is_placed_to_learn_it",
    "what_keys_may_not_do_is_refused_and_not_unknown",
}
GOOD_ENOUGH = {
    "an_empty_account_has_neither_orders_nor_positions",
    "positions_have_their_sign_and_their_exact_size",
    "account_and_clock_are_told",
    "one_order_is_cancelled_and_no_other",
    "a_position_is_closed_whole",
    "a_part_is_closed_and_no_more",
    "a_refused_close_has_the_venues_reason",
    "it_can_be_closed_twice",
    "a_clock_that_differs_hides_nothing_and_is_told_as_it_is",
    "keys_that_may_only_read_are_let_read",
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
    "what_keys_may_not_do_is_refused_and_not_unknown",
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


def run_somebodys(where: Path, written: str, asked: set[str]) -> str:
    """What the suite prints of an adapter that lies in a package of its own."""
    package = where / "somebodys"
    package.mkdir()
    (package / "__init__.py").write_text("from datetime import datetime, timezone\n" + written)
    done = run_suite(where, "somebodys:make", "-k", " or ".join(sorted(asked)))
    assert done.returncode == 1, done.stdout[-4000:] + done.stderr[-2000:]
    return done.stdout


@pytest.mark.timeout(300)
def test_a_careless_adapter_in_a_package_of_somebody_elses_fails_where_it_is_wrong(tmp_path: Path) -> None:
    printed = run_somebodys(tmp_path, CARELESS, WRONG | GOOD_ENOUGH)
    failed = named(printed, "FAILED")
    assert failed == WRONG, printed[-4000:]
    assert named(printed, "PASSED") - failed == GOOD_ENOUGH
    assert "a list without its later pages is BrokerUnavailable" in printed


@pytest.mark.timeout(300)
def test_one_that_minds_neither_the_venues_clock_nor_what_its_keys_may_do_fails_where_it_is_wrong(
    tmp_path: Path,
) -> None:
    fine = {"an_empty_account_has_neither_orders_nor_positions", "keys_that_may_only_read_are_let_read"}
    printed = run_somebodys(tmp_path, OF_TIME_AND_KEYS, WRONG_OF_TIME_AND_KEYS | fine)
    failed = named(printed, "FAILED")
    assert failed == WRONG_OF_TIME_AND_KEYS, printed[-4000:]
    assert named(printed, "PASSED") - failed == fine
    assert "its time stamp is put right, and the next close is taken" in printed
    assert "an order was placed to learn what these keys may do" in printed


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
