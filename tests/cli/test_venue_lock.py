"""The venue's own lock, at the terminal: set after flat, lifted to close, set again, released by the reset, told."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import redis

from configuration.login import login_name
from ledger.record import FAILED
from sandbox.embedded_redis import EmbeddedRedis
from sandbox.exchange.scenario import parse
from sandbox.exchange.server import PaperExchangeThread
from tests.cli.conftest import MAY_RESET, RunCli, WriteConfiguration
from tests.cli.test_audit_commands import rows
from tests.cli.test_circuit_commands import GOOD_REASON, state_of
from tests.cli.test_kill_command import HALTED, account

RESET = ("reset", "--reason", GOOD_REASON, "--acknowledge", "--operator", "bob")
KILL = """
[kill]
venue_lock = true
deadline = 20.0
settle = 0.05
guard = 0.1
poll_interval = 0.02
stuck_after = 12.0
retry_backoff = 0.1
retry_backoff_max = 0.3
"""
BOOK = 'rate_limit = 100000\n[[positions]]\nsymbol = "AAPL"\nqty = 10\n[[positions]]\nsymbol = "MSFT"\nqty = -5\n'
NO_BOOK = "rate_limit = 100000\n"
KEYS = {"APCA-API-KEY-ID": "key", "APCA-API-SECRET-KEY": "secret"}


def suspended(venue: PaperExchangeThread) -> bool:
    with httpx.Client(base_url=venue.url, headers=KEYS) as client:
        return bool(client.get("/v2/account/configurations").json()["suspend_trade"])


def buy(venue: PaperExchangeThread) -> dict[str, Any]:
    order = {"symbol": "AAPL", "qty": "1", "side": "buy", "type": "market", "time_in_force": "day"}
    with httpx.Client(base_url=venue.url, headers=KEYS) as client:
        answer: dict[str, Any] = client.post("/v2/orders", json=order).json()
    return answer


def lock_rows(breaker_cli: RunCli) -> list[str]:
    """The actions about the lock, oldest first."""
    found = [row for row in rows(breaker_cli) if str(row["action"]).startswith("VENUE_LOCK")]
    return [str(row["action"]) for row in sorted(found, key=lambda row: int(str(row["seq"])))]


@pytest.fixture
def venue(
    configured: redis.Redis, redis_server: EmbeddedRedis, write_configuration: WriteConfiguration
) -> Iterator[PaperExchangeThread]:
    with PaperExchangeThread(parse(BOOK)) as running:
        write_configuration(f'redis_url = "{redis_server.url}"\n{KILL}{account(running.url)}{MAY_RESET}')
        yield running


def test_it_is_set_after_flat_lifted_to_close_set_again_and_released_by_the_reset(
    venue: PaperExchangeThread, breaker_cli: RunCli, configured: redis.Redis, environment: dict[str, str]
) -> None:
    killed = breaker_cli("kill", "--yes")
    assert killed.returncode == 0, killed.stderr
    assert "✓ FLAT" in killed.stderr
    assert "locked  ALPHA: locked at the venue" in killed.stderr
    assert suspended(venue)
    assert buy(venue)["code"] == 40310000, "an engine that was not stopped is refused by the venue"
    shown = breaker_cli("status")
    assert "ALPHA is locked at its venue, since 20" in shown.stdout and "the reset lifts that" in shown.stdout
    (lock,) = json.loads(breaker_cli("status", "--json").stdout)["venue_locks"]
    assert (lock["account"], lock["phase"]) == ("ALPHA", "set")

    venue.control("late-fill", {"symbol": "AAPL", "side": "buy", "qty": "7"})
    again = breaker_cli("kill", "--yes", "--json")
    assert again.returncode == 0, again.stdout + again.stderr
    assert json.loads(again.stdout)["accounts"][0]["venue_lock"]["engaged"] is True
    report = venue.report()
    assert report["is_flat"] and report["violations"] == [] and report["sign_changes"] == []
    assert suspended(venue)

    del environment["PREFECT_API_URL"]
    assert breaker_cli(*RESET).returncode == 0
    assert state_of(configured) == "OPEN"
    assert not suspended(venue) and "code" not in buy(venue)
    assert "locked" not in breaker_cli("status").stdout
    assert lock_rows(breaker_cli)[:7] == [
        *("VENUE_LOCK_SENT", "VENUE_LOCK_SET"),
        *("VENUE_LOCK_SENT", "VENUE_LOCK_LIFTED", "VENUE_LOCK_SENT", "VENUE_LOCK_SET"),
        "VENUE_LOCK_RELEASE",
    ]
    (released,) = rows(breaker_cli, "--action", "VENUE_LOCK_RELEASE")
    assert released["user_id"] == login_name() and released["incident_id"]


def test_what_waits_for_its_close_keeps_the_account_unlocked(
    venue: PaperExchangeThread,
    breaker_cli: RunCli,
    redis_server: EmbeddedRedis,
    write_configuration: WriteConfiguration,
) -> None:
    impatient = KILL.replace("stuck_after = 12.0", "stuck_after = 0.5")
    write_configuration(f'redis_url = "{redis_server.url}"\n{impatient}{account(venue.url)}')
    venue.restart(parse(HALTED))
    killed = breaker_cli("kill", "--yes")
    assert killed.returncode == 3
    assert "not locked at the venue, as it would refuse to close what is left: MSFT" in killed.stderr
    assert not suspended(venue)
    venue.control("resume", {"symbol": "MSFT"})
    resumed = breaker_cli("kill", "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert suspended(venue), "once it is flat it is locked"


def test_a_reset_whose_release_fails_is_made_and_says_what_to_do(
    venue: PaperExchangeThread, breaker_cli: RunCli, configured: redis.Redis, environment: dict[str, str]
) -> None:
    venue.restart(parse(NO_BOOK))
    assert breaker_cli("kill", "--yes").returncode == 0
    venue.control("trouble", {"kind": "503", "routes": ["PATCH /v2/account/configurations"]})
    del environment["PREFECT_API_URL"]
    reset = breaker_cli(*RESET)
    assert reset.returncode == 0, reset.stderr
    assert state_of(configured) == "OPEN"
    assert "reset, but ALPHA is still locked at its venue" in reset.stderr
    assert "lift suspend_trade in the account's configuration" in reset.stderr
    assert suspended(venue)
    (row,) = rows(breaker_cli, "--action", "VENUE_LOCK_RELEASE")
    assert row["outcome"] == FAILED


def test_it_is_recommended_where_it_is_off_and_expected_where_it_is_ours(
    venue: PaperExchangeThread,
    breaker_cli: RunCli,
    redis_server: EmbeddedRedis,
    write_configuration: WriteConfiguration,
) -> None:
    venue.restart(parse(NO_BOOK))
    assert breaker_cli("kill", "--yes").returncode == 0
    checks = {check["name"]: check for check in json.loads(breaker_cli("doctor", "--json").stdout)["checks"]}
    assert checks["venue-lock"]["value"] == "on"
    assert checks["venue/ALPHA"]["colour"] == "yellow" and "is locked at its venue" in checks["venue/ALPHA"]["problem"]
    write_configuration(f'redis_url = "{redis_server.url}"\n{account(venue.url)}')
    checks = {check["name"]: check for check in json.loads(breaker_cli("doctor", "--json").stdout)["checks"]}
    assert checks["venue-lock"]["colour"] == "yellow"
    assert "kill.venue_lock = true" in checks["venue-lock"]["problem"]
