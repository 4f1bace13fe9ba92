"""A scope decides what is touched: `breaker kill` with two accounts, and what both venues say of it afterwards."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from pydantic import SecretStr

from breaker import CircuitBreaker
from configuration.settings import KillSettings, Settings
from console.auth.permissions import Role
from proofs.fork_server import ForkServer
from sandbox.embedded_redis import EmbeddedRedis
from tests.cli.conftest import ROOT, RunCli, WriteConfiguration
from tests.cli.terminal import Terminal
from tests.cli.test_circuit_commands import state_of
from tests.cli.test_kill_command import PACE
from tests.console.harness import Console
from tests.two_accounts import EVERYTHING, NOTHING, WITHOUT_AAPL, WITHOUT_MEANREV, Venues

QUICK = KillSettings(settle=0.2, guard=0.2, poll_interval=0.05, record_wait=0.1, orchestrator_wait=0.5)


@pytest.fixture
def venues() -> Iterator[Venues]:
    with Venues() as running:
        yield running


@pytest.fixture
def two(
    venues: Venues, redis_server: EmbeddedRedis, configured: redis.Redis, write_configuration: WriteConfiguration
) -> redis.Redis:
    write_configuration(f'redis_url = "{redis_server.url}"\n{PACE}{venues.sections()}')
    return configured


def tripped(client: redis.Redis) -> set[str]:
    scopes = ("global", "account:ALPHA", "account:BETA", "symbol:AAPL", "strategy:meanrev")
    return {scope for scope in scopes if CircuitBreaker(client, scope).get_state().value == "TRIPPED"}


@pytest.mark.parametrize(
    ("arguments", "trips", "alpha", "beta", "names"),
    [
        ((), "global", NOTHING, NOTHING, "ALPHA, BETA"),
        (("--scope", "account:ALPHA"), "account:ALPHA", NOTHING, EVERYTHING, "ALPHA"),
        (("--scope", "account:alpha"), "account:ALPHA", NOTHING, EVERYTHING, "ALPHA"),
        (("--account", "BETA"), "global", EVERYTHING, NOTHING, "BETA"),
        (
            ("--scope", "symbol:AAPL"),
            "symbol:AAPL",
            WITHOUT_AAPL,
            WITHOUT_AAPL,
            "AAPL and the options on it in ALPHA, BETA",
        ),
        (
            ("--scope", "symbol:AAPL", "--account", "BETA"),
            "symbol:AAPL",
            EVERYTHING,
            WITHOUT_AAPL,
            "AAPL and the options on it in BETA",
        ),
    ],
)
def test_a_scope_decides_what_is_tripped_and_touched_and_flat_names_it(
    two: redis.Redis,
    venues: Venues,
    breaker_cli: RunCli,
    arguments: tuple[str, ...],
    trips: str,
    alpha: Any,
    beta: Any,
    names: str,
) -> None:
    outcome = breaker_cli("kill", "--yes", *arguments)
    assert outcome.returncode == 0, outcome.stderr
    assert f"FLAT  {names}  halted" in outcome.stderr
    assert f"HALTED  {trips}" in outcome.stderr
    assert (venues.left("ALPHA"), venues.left("BETA")) == (alpha, beta)
    assert tripped(two) == {trips}
    for account, left in (("ALPHA", alpha), ("BETA", beta)):
        assert left != EVERYTHING or venues.untouched(account)


def test_of_a_strategy_the_orders_with_its_tag_go_and_nothing_is_called_flat(
    two: redis.Redis, venues: Venues, breaker_cli: RunCli
) -> None:
    outcome = breaker_cli("kill", "--yes", "--scope", "strategy:meanrev", "--json")
    assert outcome.returncode == 3, outcome.stderr
    report = json.loads(outcome.stdout)
    assert report["flat"] is False and report["covers"] == "the orders of meanrev in ALPHA, BETA"
    for account in report["accounts"]:
        assert account["orders_open"] == 0 and account["positions_open"] is None
        assert "no engine publishes its own: none was closed" in account["note"]
    assert report["pending_exits"] == []
    assert venues.left("ALPHA") == venues.left("BETA") == WITHOUT_MEANREV
    assert tripped(two) == {"strategy:meanrev"}


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("--scope", "account:ALPHA", "--account", "BETA"), "BETA is outside of the scope account:ALPHA"),
        (("--scope", "account:GAMMA"), "No account GAMMA is configured (there are: ALPHA, BETA)"),
        (("--account", "GAMMA"), "No account GAMMA is configured (there are: ALPHA, BETA)"),
        (("--scope", "venue:alpaca"), "A kill switch can't tell what venue:alpaca covers"),
    ],
)
def test_what_would_widen_or_can_not_be_told_is_refused_in_one_line_with_nothing_done(
    two: redis.Redis, venues: Venues, breaker_cli: RunCli, arguments: tuple[str, ...], why: str
) -> None:
    outcome = breaker_cli("kill", "--yes", *arguments)
    assert outcome.returncode == 2
    assert why in outcome.stderr and outcome.stderr.count("\n") == 1
    assert tripped(two) == set()
    assert venues.untouched("ALPHA") and venues.untouched("BETA")


def test_the_question_names_what_it_is_about(
    fork_server: ForkServer, two: redis.Redis, venues: Venues, environment: dict[str, str]
) -> None:
    terminal = Terminal(fork_server, environment, "kill", "--scope", "symbol:AAPL", "--account", "ALPHA")
    try:
        terminal.wait_for("Type FLATTEN")
        said = " ".join(terminal.seen.split())
        effect = "Every order of AAPL and of the options on it is cancelled and every such position closed in ALPHA."
        assert effect in said
        assert "ALPHA 3 2 " in said
        assert "BETA" not in said
        terminal.type("FLATTEN")
        assert terminal.ended() == 0, terminal.seen
    finally:
        terminal.close()
    assert venues.left("ALPHA") == WITHOUT_AAPL
    assert venues.untouched("BETA")


def test_make_passes_the_scope_on(two: redis.Redis, venues: Venues, environment: dict[str, str]) -> None:
    outcome = subprocess.run(
        ["make", "--no-print-directory", "kill-switch", "SCOPE=account:BETA", "REASON=drill", "YES=1"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert outcome.returncode == 0, outcome.stderr
    assert venues.left("BETA") == NOTHING
    assert venues.untouched("ALPHA")
    assert tripped(two) == {"account:BETA"}


def test_a_part_of_an_account_leaves_what_is_pending_of_the_rest(
    two: redis.Redis, venues: Venues, breaker_cli: RunCli
) -> None:
    venues["ALPHA"].control("halt", {"symbol": "MSFT"})
    first = breaker_cli("kill", "--yes", "--scope", "account:ALPHA", "--json")
    assert first.returncode == 3, first.stderr
    assert [item["symbol"] for item in json.loads(first.stdout)["pending_exits"]] == ["MSFT"]
    second = breaker_cli("kill", "--yes", "--scope", "symbol:AAPL", "--json")
    assert second.returncode == 0, second.stderr
    pending = json.loads(breaker_cli("status", "--json").stdout)["pending_exits"]
    kept = [(item["account"], item["symbol"], item["scope"]) for item in pending]
    assert kept == [("ALPHA", "MSFT", "account:ALPHA")]
    assert venues.left("BETA") == WITHOUT_AAPL


def test_resuming_takes_whole_accounts(two: redis.Redis, venues: Venues, breaker_cli: RunCli) -> None:
    refused = breaker_cli("kill", "--resume", "--scope", "symbol:AAPL")
    assert refused.returncode == 2
    assert "--resume takes whole accounts" in refused.stderr
    venues["ALPHA"].control("halt", {"symbol": "MSFT"})
    assert breaker_cli("kill", "--yes", "--scope", "account:ALPHA").returncode == 3
    venues["ALPHA"].control("resume", {"symbol": "MSFT"})
    elsewhere = breaker_cli("kill", "--resume", "--scope", "account:BETA")
    assert "Nothing is pending" in elsewhere.stdout
    resumed = breaker_cli("kill", "--resume", "--scope", "account:ALPHA")
    assert resumed.returncode == 0, resumed.stderr
    assert "FLAT  ALPHA  halted" in resumed.stderr
    assert venues.left("ALPHA") == NOTHING
    assert venues.untouched("BETA")
    assert state_of(two) != "TRIPPED"


def test_a_console_is_asked_for_the_scope_and_says_what_was_made_flat(
    two: redis.Redis,
    venues: Venues,
    redis_server: EmbeddedRedis,
    environment: dict[str, str],
    breaker_cli: RunCli,
    tmp_path: Path,
) -> None:
    settings = Settings(
        redis_url=SecretStr(redis_server.url), state_dir=tmp_path / "console", accounts=venues.settings(), kill=QUICK
    )
    with Console(settings) as console:
        environment["BREAKER_URL"] = console.url
        environment["BREAKER_TOKEN"] = console.api(Role.OPERATOR).headers["authorization"].removeprefix("Bearer ")
        refused = breaker_cli("kill", "--scope", "account:ALPHA", "--account", "BETA")
        assert refused.returncode == 2 and "BETA is outside of the scope account:ALPHA" in refused.stderr
        assert tripped(two) == set()
        killed = breaker_cli("kill", "--yes", "--scope", "symbol:AAPL", "--account", "BETA")
    assert killed.returncode == 0, killed.stderr
    assert any(line.endswith("s: AAPL and the options on it in BETA") for line in killed.stdout.splitlines())
    assert venues.untouched("ALPHA") and venues.left("BETA") == WITHOUT_AAPL
    assert tripped(two) == {"symbol:AAPL"}
