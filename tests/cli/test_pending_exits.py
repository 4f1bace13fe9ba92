"""What a kill switch could not close, at the terminal: shown, asked about at a reset, dropped, resumed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import cast

import pytest
import redis

from configuration.login import login_name
from sandbox.embedded_redis import EmbeddedRedis
from sandbox.exchange.scenario import parse
from sandbox.exchange.server import PaperExchangeThread
from tasks.kill.pending_exit_store import KEY
from tests.cli.conftest import MAY_RESET, RunCli, WriteConfiguration
from tests.cli.test_audit_commands import rows
from tests.cli.test_circuit_commands import GOOD_REASON, state_of
from tests.cli.test_kill_command import HALTED, PACE, account

RESET = ("reset", "--reason", GOOD_REASON, "--acknowledge", "--operator", "bob")


@pytest.fixture
def halted_venue(
    configured: redis.Redis, redis_server: EmbeddedRedis, write_configuration: WriteConfiguration
) -> Iterator[PaperExchangeThread]:
    """A venue at which MSFT is halted, and its account."""
    with PaperExchangeThread(parse(HALTED)) as venue:
        write_configuration(f'redis_url = "{redis_server.url}"\n{PACE}{account(venue.url)}{MAY_RESET}')
        yield venue


def test_it_is_named_at_the_kill_shown_by_status_and_resumed_by_hand(
    halted_venue: PaperExchangeThread, breaker_cli: RunCli, configured: redis.Redis
) -> None:
    killed = breaker_cli("kill", "--yes")
    assert killed.returncode == 3
    assert "pending  ALPHA MSFT -5, tried again at 20" in killed.stderr
    assert "breaker kill --resume" in killed.stderr
    shown = breaker_cli("status")
    assert "pending  ALPHA MSFT -5, tried again at 20" in shown.stdout and "halt" in shown.stdout
    (pending,) = json.loads(breaker_cli("status", "--json").stdout)["pending_exits"]
    assert (pending["symbol"], pending["quantity"]) == ("MSFT", "-5")

    again = breaker_cli("kill", "--resume")
    assert again.returncode == 3 and "NOT FLAT" in again.stderr
    halted_venue.control("resume", {"symbol": "MSFT"})
    closed = breaker_cli("kill", "--resume", "--json", "--operator", "ada")
    assert closed.returncode == 0, closed.stderr
    assert json.loads(closed.stdout)[0]["flat"] is True
    assert halted_venue.report()["is_flat"] and halted_venue.report()["violations"] == []
    nothing = breaker_cli("kill", "--resume")
    assert nothing.returncode == 0 and "Nothing is pending" in nothing.stdout
    assert "pending" not in breaker_cli("status").stdout
    assert len(rows(breaker_cli, "--action", "CIRCUIT_BREAKER_TRIP")) == 1, "resuming trips nothing"


def test_promise_9_a_reset_asks_about_it_and_drops_it_with_a_reason(
    halted_venue: PaperExchangeThread, breaker_cli: RunCli, configured: redis.Redis, environment: dict[str, str]
) -> None:
    assert breaker_cli("kill", "--yes").returncode == 3
    del environment["PREFECT_API_URL"]
    refused = breaker_cli(*RESET)
    assert refused.returncode == 1
    assert "position-sizes/pending-exits is 1 pending: ALPHA MSFT -5" in refused.stderr
    why = "hedged at another venue until the halt is over"
    halted = breaker_cli(*RESET, "--drop-pending", why)
    assert halted.returncode == 2 and "use --override" in halted.stderr
    assert state_of(configured) == "TRIPPED" and configured.hlen(KEY) == 1

    dropped = breaker_cli(*RESET, "--override", why)
    assert "overridden: position-sizes/pending-exits, 1 pending: ALPHA" in dropped.stderr
    assert "what was pending is given up" in dropped.stderr
    assert dropped.returncode == 0, dropped.stderr
    assert state_of(configured) == "OPEN" and configured.hlen(KEY) == 0
    (row,) = rows(breaker_cli, "--action", "PENDING_EXIT_DROPPED")
    details = cast("dict[str, str]", row["details"])
    assert (details["symbol"], details["reason"], row["user_id"]) == ("MSFT", why, login_name())
    assert "Nothing is pending" in breaker_cli("kill", "--resume").stdout


def test_it_is_not_traded_past_a_breaker_that_was_reset_and_can_be_given_up_then(
    halted_venue: PaperExchangeThread, breaker_cli: RunCli, configured: redis.Redis
) -> None:
    assert breaker_cli("kill", "--yes").returncode == 3
    configured.set("circuit_breaker:state", json.dumps({"state": "OPEN"}))
    held = breaker_cli("kill", "--resume")
    assert held.returncode == 1 and "the breaker of global is OPEN" in held.stderr
    assert breaker_cli(*RESET, "--drop-pending", "closed by hand at the venue's desk").returncode == 0
    assert configured.hlen(KEY) == 0 and state_of(configured) == "OPEN"
