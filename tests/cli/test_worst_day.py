"""The venue's worst day: books and answers that real venues give, and how the kill switch and the last resort end.

One table for both. Each case begins on a book at the paper exchange and ends flat or with what is left, named with this
reason; the exchange's own record is the judge. Some go through `breaker kill` as a process, which takes two seconds of
work; the others through the same procedure in this process. All go through `emergency.py` as a process.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from brokers.alpaca import AlpacaBroker
from brokers.coverage import coverage_of
from brokers.sweep import first_sweep
from configuration.settings import KillSettings
from sandbox.embedded_redis import EmbeddedRedis
from sandbox.exchange.scenario import parse
from sandbox.exchange.server import PaperExchangeThread
from tests.cli.conftest import RunCli, WriteConfiguration
from tests.tasks.campaign import kill

EMERGENCY = Path(__file__).parents[2] / "deployments" / "emergency.py"
PACE = {
    "deadline": 20.0,
    "settle": 0.05,
    "guard": 0.1,
    "poll_interval": 0.02,
    "escalate_after": 0.3,
    "retry_backoff": 0.1,
    "retry_backoff_max": 0.4,
    "refusal_patience": 2.0,
    "cancel_patience": 0.3,
    "stuck_after": 4.0,
}
OF_THE_LAST_RESORT = {"request_timeout": 2.0, "position_lag": 0.5}
FAR = "limit_price = 300"
CALL, HIGHER_CALL = "SPY261218C00600000", "SPY261218C00610000"
CLOSED = '[market]\nsession = "closed"\n'
EXTENDED = '[market]\nsession = "extended"\n'
AAPL = '[[positions]]\nsymbol = "AAPL"\nqty = 10\n'
MSFT = '[[positions]]\nsymbol = "MSFT"\nqty = -5\n'
SPREAD = f"""
positions = [{{ symbol = "{CALL}", qty = -10, price = 4 }}, {{ symbol = "{HIGHER_CALL}", qty = 10, price = 2.5 }}]
"""
ONE_FILL_LATER = "[fills]\ndelay = 0.3\n"


def held(symbol: str, qty: str, price: str) -> str:
    return f'[[positions]]\nsymbol = "{symbol}"\nqty = {qty}\nprice = {price}\n'


def order(side: str, qty: str, **more: str) -> str:
    terms = "".join(f"{name} = {value}\n" for name, value in more.items())
    return f'[[orders]]\nsymbol = "AAPL"\nside = "{side}"\nqty = {qty}\n{FAR}\n{terms}'


def refused(kind: str, *routes: str, **more: object) -> str:
    terms = "".join(f"{name} = {value}\n" for name, value in more.items())
    return f'[[trouble]]\nkind = "{kind}"\nroutes = {list(routes)}\n{terms}'


@dataclass(frozen=True)
class Case:
    toml: str
    left: Mapping[str, str] = field(default_factory=dict)
    """What the exchange has in the end, by symbol."""
    reasons: Mapping[str, str] = field(default_factory=dict)
    """What is said of what is stuck; empty where it ends flat."""
    dust: Mapping[str, str] = field(default_factory=dict)
    broken: frozenset[str] = frozenset()
    """Rules of the venue that an order may have broken on the way, for want of knowing the session."""
    closable: Mapping[str, str] = field(default_factory=dict)
    """What is left although the venue would close it, if it were asked with keys that it takes."""
    orders_left: int = 0
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Of the kill switch, in this process only; the last resort has none of them."""
    notional: str = ""
    """What the book is worth in the beginning, where that is asked."""
    as_process: bool = False

    @property
    def flat(self) -> bool:
        return not self.reasons


PENDING = {"status": '"pending_replace"'}
CASES = {
    # Nothing but orders and positions is needed.
    "neither clock nor account nor assets answer": Case(
        "[book]\norders = 10\npositions = 4\n" + refused("503", "GET /v2/clock", "GET /v2/account", "GET /v2/assets*"),
        as_process=True,
    ),
    "the clock does not answer, and an option can't be sold as it could in any session": Case(
        held(CALL, "3", "4") + CLOSED + refused("503", "GET /v2/clock"),
        left={CALL: "3"},
        reasons={CALL: "options market orders are only allowed during market hours|stood"},
        broken=frozenset({"session"}),
        orders_left=0,
    ),
    # The session belongs to the instrument.
    "crypto at the weekend": Case(CLOSED + held("BTCUSD", "0.5", "95000") + ONE_FILL_LATER, as_process=True),
    # A refusal of one way in is not the end of the account.
    "good keys are refused now and then": Case(
        "[book]\norders = 6\npositions = 3\n" + refused("401", "*", probability=0.3, first=12)
    ),
    "bulk cancels are forbidden": Case(
        "[book]\norders = 10\npositions = 4\n" + refused("403", "DELETE /v2/orders"), as_process=True
    ),
    "the keys are refused for good": Case(
        "[book]\norders = 1\n" + AAPL + refused("401", "*"),
        left={"AAPL": "10"},
        reasons={"*": "refuses the keys|refuses it (401)"},
        closable={"AAPL": "10"},
        orders_left=1,
    ),
    "the keys may read and not trade": Case(
        AAPL + refused("401", "POST *", "DELETE *"),
        left={"AAPL": "10"},
        reasons={"AAPL": "lets the keys read and refuses them this (401)"},
        closable={"AAPL": "10"},
        settings={"deadline": 3},
    ),
    # What a bulk cancel leaves goes by its id.
    "a bulk cancel fails for six of ten": Case("[cancels]\nbulk_leaves = 6\n[book]\norders = 10\npositions = 4\n"),
    "a bulk cancel fails as a whole": Case("[book]\norders = 10\n" + AAPL + refused("500", "DELETE /v2/orders")),
    # What resists its cancel does not keep the rest from being closed.
    "a purchase that resists its cancel": Case(
        AAPL + order("buy", "1", **PENDING).replace(FAR, "limit_price = 100"),
        reasons={"AAPL": "order is pending_replace, cannot be canceled"},
        orders_left=1,
        as_process=True,
    ),
    "a sale of a part that resists its cancel": Case(
        AAPL + order("sell", "4", **PENDING),
        left={"AAPL": "4"},
        reasons={"AAPL": "order is pending_replace, cannot be canceled"},
        orders_left=1,
    ),
    # What can't be read is named, and blocks its own symbol only.
    "an order that can't be read": Case(AAPL + MSFT + order("sell", "2", unreadable="true")),
    "a position that can't be read": Case(
        AAPL + "unreadable = true\n" + MSFT,
        left={"AAPL": "10"},
        reasons={"AAPL": "the venue's position of AAPL can't be read"},
        as_process=True,
    ),
    # Prices and quantities go in the instrument's steps.
    "limits in the steps of what is traded": Case(
        held("SHIBUSD", "1000000.5", "0.00001234")
        + held("PENNY", "100", "0.5")
        + held(CALL, "3", "2.5")
        + "".join(
            f'[[halts]]\nsymbol = "{symbol}"\nmode = "hold"\nuntil = 0.8\n' for symbol in ("SHIBUSD", "PENNY", CALL)
        )
    ),
    "a pair in coarser steps than anybody would think": Case(
        'assets."SHIB/USD".price_increment = 0.0000005\n'
        + held("SHIBUSD", "1000000", "0.00001234")
        + '[[halts]]\nsymbol = "SHIBUSD"\nmode = "hold"\nuntil = 0.8\n',
        broken=frozenset({"price step"}),
    ),
    # Outside the session limits are tried with each collar, fractions too, and what is left waits for the open.
    "fractions in extended hours": Case(EXTENDED + held("AAPL", "10.5", "200")),
    "a venue that takes only whole shares in extended hours": Case(
        "fractions_outside_session = false\n" + EXTENDED + held("AAPL", "10.5", "200"),
        left={"AAPL": "0.5"},
        reasons={"AAPL": "queued for the open"},
        broken=frozenset({"session"}),
        orders_left=1,
    ),
    # Options: never queued at the market, shorts bought back before what covers them, legs whole.
    "an option while the market is closed": Case(
        CLOSED + held(CALL, "3", "4"),
        left={CALL: "3"},
        reasons={CALL: "nothing can be queued for the open"},
        notional="1200",
    ),
    "a spread": Case(SPREAD + ONE_FILL_LATER),
    "a short option that can't be read may be covered by what is beside it": Case(
        held(CALL, "-2", "4") + "unreadable = true\n" + held(HIGHER_CALL, "3", "2.5"),
        left={CALL: "-2", HIGHER_CALL: "3"},
        reasons={CALL: "can't be read", HIGHER_CALL: "may be a short option that is covered by this"},
    ),
    "a halted short keeps what may cover it, and no more": Case(
        held(CALL, "-2", "4")
        + held(HIGHER_CALL, "3", "2.5")
        + held("SPY", "250", "600")
        + f'[[halts]]\nsymbol = "{CALL}"\n',
        left={CALL: "-2", HIGHER_CALL: "2", "SPY": "200"},
        reasons={CALL: "trading is halted", HIGHER_CALL: "held back: the short", "SPY": "held back: the short"},
    ),
    "a halted short keeps what may cover it, with its stop": Case(
        "prices.SPY = 600\n"
        + held(CALL, "-2", "4")
        + held("SPY", "250", "600")
        + '[[orders]]\nsymbol = "SPY"\nside = "sell"\nqty = 80\ntype = "stop"\nstop_price = 550\n'
        + f'[[halts]]\nsymbol = "{CALL}"\n',
        left={CALL: "-2", "SPY": "250"},
        closable={"SPY": "50"},
        reasons={CALL: "trading is halted", "SPY": "its protective orders stay until then"},
        orders_left=1,
    ),
    "an order with two legs": Case(
        f"""
[[positions]]
symbol = "{CALL}"
qty = 3
price = 4
[[orders]]
qty = 2
limit_price = 0.10
legs = [{{ symbol = "{CALL}", side = "buy" }}, {{ symbol = "{HIGHER_CALL}", side = "sell" }}]
"""
    ),
    "an order with two legs that resists its cancel": Case(
        f"""
prices.{CALL} = 4
prices.{HIGHER_CALL} = 2.5
[[orders]]
qty = 2
limit_price = 0.10
legs = [{{ symbol = "{CALL}", side = "buy" }}, {{ symbol = "{HIGHER_CALL}", side = "sell" }}]
status = "pending_replace"
""",
        reasons={CALL: "order is pending_replace", HIGHER_CALL: "order is pending_replace"},
        orders_left=3,
    ),
    # Dust is named as that, in plain digits.
    "dust": Case(
        AAPL + held("BTCUSD", "0.000000005", "95000"),
        left={"BTCUSD": "0.000000005"},
        dust={"BTCUSD": "0.000000005 is dust: order qty must be >= minimal qty of order 0.00001"},
        as_process=True,
    ),
    "dust, where it counts against flat": Case(
        AAPL + held("BTCUSD", "0.000000005", "95000"),
        left={"BTCUSD": "0.000000005"},
        dust={"BTCUSD": "0.000000005 is dust"},
        reasons={"*": ""},
        settings={"dust": "fail"},
    ),
    "dust by its cost": Case(
        "sales_have_minimum_cost = true\n" + held("BTCUSD", "0.00005", "95000"),
        left={"BTCUSD": "0.00005"},
        dust={"BTCUSD": "0.00005 is dust: cost basis must be >= minimal amount of order 10"},
    ),
    # Words.
    "an order that is executed and not yet settled": Case(AAPL + order("sell", "10", status='"calculated"')),
    "a short sale by its own word": Case(AAPL + order("sell", "4", side_word='"sell_short"')),
    "a position that the venue withholds": Case(
        AAPL + "withheld = 10\n" + MSFT,
        left={"AAPL": "10"},
        reasons={"AAPL": "nothing of it is available, and lists no order that holds it"},
    ),
    # The account's own locks are named with what lifts them.
    "trading is suspended by the account's own setting": Case(
        AAPL + "[account]\ntrade_suspended_by_user = true\n",
        left={"AAPL": "10"},
        reasons={"AAPL": "new orders are rejected by user request; trading is suspended in the account"},
        as_process=True,
    ),
    "trading is blocked by the venue": Case(
        AAPL + "[account]\ntrading_blocked = true\n",
        left={"AAPL": "10"},
        reasons={"AAPL": "trading is blocked in this account; the venue has blocked the account: only the venue's"},
    ),
}


@pytest.fixture(scope="module")
def venue() -> Iterator[PaperExchangeThread]:
    with PaperExchangeThread() as running:
        yield running


@pytest.fixture
def begin(venue: PaperExchangeThread) -> Any:
    def start(name: str) -> Case:
        case = CASES[name]
        venue.restart(parse("rate_limit = 100000\nprices.AAPL = 200\nprices.MSFT = 400\n" + case.toml))
        return case

    return start


def judge(case: Case, venue: PaperExchangeThread) -> None:
    seen = venue.report()
    assert seen["violations"] == [] and seen["sign_changes"] == []
    assert seen["positions"] == case.left
    assert seen["closable"] == case.closable
    assert seen["open_orders"] == case.orders_left
    assert {*seen["rules_broken"]} - {"minimum"} <= case.broken


def expect(wanted: Mapping[str, str], said: Mapping[str, str]) -> None:
    assert set(said) == set(wanted)
    for symbol, words in wanted.items():
        assert any(each in said[symbol] for each in words.split("|")), said[symbol]


def check(case: Case, report: Mapping[str, Any]) -> None:
    (account,) = report["accounts"]
    assert report["flat"] is case.flat
    assert case.notional in ("", account["notional_at_start"])
    stuck = {item["symbol"]: item["reason"] for item in account["stuck"]}
    expect(case.reasons, stuck if stuck or case.flat else {"*": account["note"]})
    expect(case.dust, {item["symbol"]: item["reason"] for item in account["dust"]})


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.as_process])
def test_the_kill_switch_as_a_process(
    name: str,
    begin: Any,
    venue: PaperExchangeThread,
    redis_server: EmbeddedRedis,
    write_configuration: WriteConfiguration,
    breaker_cli: RunCli,
) -> None:
    case = begin(name)
    pace = "".join(f"{key} = {value}\n" for key, value in PACE.items())
    write_configuration(
        f'redis_url = "{redis_server.url}"\n[kill]\n{pace}'
        f'[accounts.ALPHA]\nbase_url = "{venue.url}"\nkey_id = "key"\nsecret_key = "secret"\n'
    )
    outcome = breaker_cli("kill", "--yes", "--json")
    assert outcome.returncode == (0 if case.flat else 3), outcome.stderr
    check(case, json.loads(outcome.stdout))
    judge(case, venue)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if not case.as_process])
async def test_the_kill_switch(name: str, begin: Any, venue: PaperExchangeThread, redis_server: EmbeddedRedis) -> None:
    case = begin(name)
    broker = AlpacaBroker("PAPER", venue.url, "key", "secret", timeout=2.0)
    await first_sweep([broker], timeout=2.0, coverage=coverage_of("global", ["PAPER"]))
    await broker.aclose()
    settings = KillSettings(**{**PACE, **case.settings})
    report = await kill(venue, redis_server.url, settings=settings, timeout=2.0)
    check(case, report.as_dict())
    judge(case, venue)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if not case.settings])
def test_the_last_resort(name: str, begin: Any, venue: PaperExchangeThread, tmp_path: Path) -> None:
    case = begin(name)
    credentials = tmp_path / "credentials.json"
    credentials.touch(0o600)
    credentials.write_text(
        json.dumps(
            {
                "account": "ALPHA",
                "base_url": venue.url,
                "key_id": "key",
                "secret_key": "secret",
                "spool": str(tmp_path / "spool"),
                "pace": {**PACE, **OF_THE_LAST_RESORT},
            }
        )
    )
    outcome = subprocess.run(
        [sys.executable, "-S", "-I", str(EMERGENCY), str(credentials), "--yes"],
        cwd="/",
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert outcome.returncode == (0 if case.flat else 3), outcome.stderr
    finished = [json.loads(line) for line in (tmp_path / "spool" / "current.jsonl").read_text().splitlines()]
    (end,) = [line for line in finished if line["action"] in ("KILL_SWITCH_FINISHED", "ACCOUNT_FAILED")]
    expect(case.reasons, end["details"].get("stuck", {"*": end["details"].get("error", "")}))
    expect(case.dust, end["details"].get("dust", {}))
    judge(case, venue)
