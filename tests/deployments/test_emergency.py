"""The last resort, run as a person runs it: a bare interpreter, one file, a credentials file."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import redis
from pydantic import SecretStr

from ledger.ledger import Ledger
from ledger.schema import upgrade
from ledger.spool import UNREADABLE, Spool
from sandbox.exchange.scenario import parse
from sandbox.exchange.server import PaperExchangeThread
from tasks.kill.venue_lock import Phase, begun, from_json, in_phase
from tasks.kill.venue_lock_store import VenueLockStore
from tests.helpers import in_time

FILE = Path(__file__).parents[2] / "deployments" / "emergency.py"
PACE = {
    "deadline": 30,
    "request_timeout": 1.0,
    "cancel_patience": 0.5,
    "poll_interval": 0.02,
    "escalate_after": 0.2,
    "retry_backoff": 0.05,
    "retry_backoff_max": 0.4,
    "stuck_after": 2.0,
    "position_lag": 0.3,
    "settle": 0.05,
    "guard": 0.1,
}
LOOSE = "enforce_available = false\n"
"""The venue does not catch a close that is too large: whatever is sent is seen."""


class LastResort:
    def __init__(self, directory: Path) -> None:
        self.spool = directory / "spool"
        self.credentials = directory / "credentials.json"

    def configure(
        self, url: str, *, mode: int = 0o600, secret: str = "secret", pace: Mapping[str, float] | None = None
    ) -> None:
        body = {"account": "ALPHA", "base_url": url, "key_id": "key", "secret_key": secret, "spool": str(self.spool)}
        self.credentials.write_text(json.dumps({**body, "pace": {**PACE, **(pace or {})}}))
        self.credentials.chmod(mode)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-S", "-I", str(FILE), str(self.credentials), *arguments],
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str) -> tuple[int, str]:
        process = self.start(*arguments)
        try:
            _, said = process.communicate(timeout=60)
        finally:
            process.kill()
        return process.returncode, said


@pytest.fixture
def last_resort(tmp_path: Path) -> LastResort:
    return LastResort(tmp_path)


@pytest.fixture
def venue() -> Iterator[PaperExchangeThread]:
    with PaperExchangeThread() as running:
        yield running


def flatten(
    last_resort: LastResort, venue: PaperExchangeThread, scenario: str, **pace: float
) -> tuple[int, str, dict[str, Any]]:
    venue.restart(parse(scenario))
    last_resort.configure(venue.url, pace=pace)
    status, said = last_resort.run("--yes", "--reason", "drill")
    return status, said, venue.report()


def test_promise_5_a_bare_interpreter_flattens_a_book(last_resort: LastResort, venue: PaperExchangeThread) -> None:
    scenario = (
        f"rate_limit = 100000\n{LOOSE}[book]\norders = 1200\npositions = 30\norders_per_timestamp = 7\nbrackets = 3\n"
    )
    status, said, seen = flatten(last_resort, venue, scenario)
    assert status == 0, said
    assert "✓ FLAT" in said
    assert seen["is_flat"] and seen["violations"] == []


TROUBLE = {
    "partial fills": "[fills]\ndelay = 0.05\npartial_probability = 0.5\nstall_probability = 0.3\n",
    "fills racing cancels": "[fills]\ndelay = 0.02\n[cancels]\ndelay = 0.1\nrace_probability = 0.5\n",
    "lost answers": '[[trouble]]\nkind = "drop"\napplied = true\nroutes = ["POST /v2/orders"]\nfirst = 5\n',
    "no answers": '[[trouble]]\nkind = "timeout"\napplied = true\nfirst = 3\n',
    "errors": '[[trouble]]\nkind = "503"\nprobability = 0.3\nfirst = 25\n',
    "cancels that resist": "[cancels]\ndelay = 0.4\n",
    "late fill": '[late_fill]\nafter_flat = 0.02\nsymbol = "AAPL"\n',
}


@pytest.mark.parametrize("trouble", TROUBLE.values(), ids=TROUBLE.keys())
def test_promise_6_trouble_makes_no_close_too_large_and_none_twice(
    trouble: str, last_resort: LastResort, venue: PaperExchangeThread
) -> None:
    scenario = f"rate_limit = 100000\n{LOOSE}[book]\norders = 8\npositions = 6\n{trouble}"
    status, said, seen = flatten(last_resort, venue, scenario)
    assert seen["violations"] == [] and seen["sign_changes"] == []
    assert status == 0, said
    assert seen["is_flat"]


def test_the_rate_limit_is_waited_for_and_not_run_against(last_resort: LastResort, venue: PaperExchangeThread) -> None:
    """A minute of the venue's is a second here; the book takes several."""
    scenario = f"time_scale = 60\nrate_limit = 12\n{LOOSE}[book]\norders = 4\npositions = 12\n"
    status, said, seen = flatten(last_resort, venue, scenario, stuck_after=20)
    assert status == 0, said
    assert seen["is_flat"] and seen["violations"] == []
    assert seen["responses"].get("429", 0) <= 2


def test_a_429_while_something_is_left_of_the_limit_costs_no_minute(
    last_resort: LastResort, venue: PaperExchangeThread
) -> None:
    scenario = f'{LOOSE}[[trouble]]\nkind = "429"\nfirst = 2\n[book]\norders = 4\npositions = 3\n'
    with in_time(30):
        status, said, seen = flatten(last_resort, venue, scenario)
    assert status == 0, said
    assert seen["is_flat"] and seen["responses"]["429"] == 2


def test_promise_7_a_halted_symbol_is_named_with_the_venues_reason(
    last_resort: LastResort, venue: PaperExchangeThread
) -> None:
    positions = '[{ symbol = "AAPL", qty = "10" }, { symbol = "MSFT", qty = "-5" }]'
    status, said, seen = flatten(last_resort, venue, f'positions = {positions}\nhalts = [{{ symbol = "MSFT" }}]\n')
    assert status == 3
    assert "stuck  ALPHA MSFT: " in said and "halt" in said
    assert set(seen["positions"]) == {"MSFT"}


def test_a_market_order_that_does_not_fill_becomes_a_marketable_limit(
    last_resort: LastResort, venue: PaperExchangeThread
) -> None:
    positions = '[{ symbol = "AAPL", qty = "10", price = "100" }]'
    hold = '[[halts]]\nsymbol = "AAPL"\nmode = "hold"\nuntil = 2.5\n'
    status, said, _ = flatten(last_resort, venue, f"positions = {positions}\n{hold}", stuck_after=10)
    assert status == 0, said
    kinds = [r.details["kind"] for r in Spool(last_resort.spool).records() if r.action == "POSITION_CLOSE_SENT"]
    assert kinds[:2] == ["market", "limit"]


def test_a_closed_market_queues_and_says_until_when(last_resort: LastResort, venue: PaperExchangeThread) -> None:
    scenario = (
        '[market]\nsession = "closed"\nnext_open = 2026-11-25T14:30:00Z\n[[positions]]\nsymbol = "AAPL"\nqty = "1.5"\n'
    )
    status, said, _ = flatten(last_resort, venue, scenario)
    assert status == 3
    assert "queued for the open at 2026-11-25T14:30:00" in said


def test_two_at_once_send_each_close_once(last_resort: LastResort, venue: PaperExchangeThread) -> None:
    venue.restart(
        parse(
            f"rate_limit = 100000\nlatency_ms = 5\n{LOOSE}[book]\norders = 10\npositions = 10\n[fills]\ndelay = 0.1\n"
        )
    )
    last_resort.configure(venue.url, pace={"escalate_after": 3})
    both = [last_resort.start("--yes") for _ in range(2)]
    ended = [process.communicate(timeout=60)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], ended
    seen = venue.report()
    assert seen["is_flat"] and seen["violations"] == [] and seen["sign_changes"] == []


def test_killed_at_any_moment_and_run_again_it_ends_flat(last_resort: LastResort, venue: PaperExchangeThread) -> None:
    venue.restart(parse(f"rate_limit = 100000\n{LOOSE}[book]\norders = 10\npositions = 10\n[fills]\ndelay = 0.3\n"))
    last_resort.configure(venue.url, pace={"escalate_after": 2})
    for after in (0.1, 0.15, 0.2):
        process = last_resort.start("--yes")
        with pytest.raises(subprocess.TimeoutExpired):
            process.communicate(timeout=after)
        process.kill()
        process.communicate()
    status, said = last_resort.run("--yes")
    assert status == 0, said
    seen = venue.report()
    assert seen["is_flat"] and seen["violations"] == [] and seen["sign_changes"] == []


def test_the_ledger_takes_in_what_it_did_once(
    last_resort: LastResort, venue: PaperExchangeThread, tmp_path: Path
) -> None:
    status, said, _ = flatten(last_resort, venue, "[book]\norders = 3\npositions = 2\n")
    assert status == 0, said
    ledger = Ledger.connect(SecretStr(f"sqlite:///{tmp_path / 'audit.db'}"))
    try:
        upgrade(ledger)
        spool = Spool(last_resort.spool)
        waiting = spool.records()
        drained = spool.drain(ledger)
        assert drained.moved == len(waiting) and drained.unreadable == 0
        assert ledger.append(waiting).new == ()
        rows = ledger.query(limit=100).rows
    finally:
        ledger.close()
    actions = Counter(row.action for row in rows)
    assert actions["POSITION_CLOSE_SENT"] == actions["POSITION_CLOSE_ANSWERED"] >= 2
    assert actions["KILL_SWITCH_STARTED"] == actions["KILL_SWITCH_FINISHED"] == actions["ACCOUNT_FLAT"] == 1
    assert UNREADABLE not in actions
    assert {row.source for row in rows} == {"emergency"}
    assert len({row.incident_id for row in rows}) == 1


def test_a_spool_that_cannot_be_written_does_not_stop_it(last_resort: LastResort, venue: PaperExchangeThread) -> None:
    last_resort.spool.write_text("a file where the directory should be")
    status, said, seen = flatten(last_resort, venue, "[book]\norders = 3\npositions = 2\n")
    assert status == 0 and seen["is_flat"]
    assert "not in the spool" in said and "ACCOUNT_FLAT" in said


LOCKED = "[account]\ntrade_suspended_by_user = true\n[book]\norders = 3\npositions = 2\n"


def locked_by_a_kill_switch(last_resort: LastResort, phase: Phase) -> Path:
    """As the kill switch of this host has left it; the record of it."""
    directory = last_resort.spool.parent / "venue_locks"
    lock = in_phase(begun(None, "ALPHA", "global", "an-incident", datetime.now(UTC)), phase, datetime.now(UTC))
    with redis.Redis(port=1, socket_connect_timeout=0.1) as nowhere:
        assert len(VenueLockStore(directory, nowhere).write(lock)) == 1, "on disk it is"
    return directory / "ALPHA.json"


def test_an_account_that_our_kill_switch_has_locked_is_unlocked_to_be_closed(
    last_resort: LastResort, venue: PaperExchangeThread
) -> None:
    record = locked_by_a_kill_switch(last_resort, Phase.SET)
    before = from_json(record.read_bytes())
    status, said, seen = flatten(last_resort, venue, LOCKED)
    assert status == 0 and seen["is_flat"] and seen["violations"] == [], said
    assert "UNLOCKED at the venue" in said and seen["requests"]["PATCH /v2/account/configurations"] == 1
    after = from_json(record.read_bytes())
    assert not after.ours and after.version > before.version and after.holders == before.holders
    actions = [written.action for written in Spool(last_resort.spool).records()]
    assert actions.index("VENUE_LOCK_SENT") < actions.index("VENUE_LOCK_LIFTED") < actions.index("ACCOUNT_FLAT")


def test_what_somebody_else_has_suspended_stays_and_says_what_lifts_it_until_a_person_asks_for_it(
    last_resort: LastResort, venue: PaperExchangeThread
) -> None:
    locked_by_a_kill_switch(last_resort, Phase.LIFTED)
    status, said, seen = flatten(last_resort, venue, LOCKED, stuck_after=0.3)
    assert status == 3 and "trading is suspended in the account" in said and "--unlock" in said
    assert "PATCH /v2/account/configurations" not in seen["requests"] and len(seen["positions"]) == 2
    status, said = last_resort.run("--yes", "--unlock")
    assert status == 0 and venue.report()["is_flat"], said


def test_a_lock_that_the_venue_does_not_let_go_leaves_the_positions_stuck_with_the_reason(
    last_resort: LastResort, venue: PaperExchangeThread
) -> None:
    locked_by_a_kill_switch(last_resort, Phase.SET)
    away = '[[trouble]]\nkind = "503"\nroutes = ["PATCH /v2/account/configurations"]\n'
    status, said, _ = flatten(last_resort, venue, LOCKED + away, stuck_after=0.3)
    assert status == 3 and "could not be unlocked" in said and "trading is suspended" in said


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_credentials_that_others_can_read_or_change_are_refused(
    mode: int, last_resort: LastResort, venue: PaperExchangeThread
) -> None:
    last_resort.configure(venue.url, mode=mode)
    status, said = last_resort.run("--yes")
    assert status == 2 and "chmod 600" in said
    assert "DELETE /v2/orders" not in venue.report()["requests"]


def test_without_a_terminal_it_does_nothing_unless_told_yes(
    last_resort: LastResort, venue: PaperExchangeThread
) -> None:
    venue.restart(parse("[book]\norders = 3\n"))
    last_resort.configure(venue.url)
    status, said = last_resort.run()
    assert status == 2 and "--yes" in said
    assert venue.report()["open_orders"] == 3


def test_wrong_keys_are_not_flat_and_not_shown(last_resort: LastResort, venue: PaperExchangeThread) -> None:
    last_resort.configure(venue.url, secret="hunter2")
    status, said = last_resort.run("--yes")
    assert status == 3
    assert "refuses the keys" in said and "hunter2" not in said


def test_a_venue_that_is_gone_ends_within_the_deadline(last_resort: LastResort, venue: PaperExchangeThread) -> None:
    last_resort.configure("http://127.0.0.1:1", pace={"deadline": 1})
    status, said = last_resort.run("--yes")
    assert status == 3 and "can't be read" in said


def test_it_is_written_for_python_3_9_and_needs_nothing_else() -> None:
    tree = ast.parse(FILE.read_text(), feature_version=(3, 9))
    roots = {
        name.split(".")[0]
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert roots <= set(sys.stdlib_module_names)
