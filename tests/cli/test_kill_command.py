"""`breaker kill` from the outside: what it says, what it leaves at the venue, and its exit status."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from proofs.fork_server import ForkServer
from sandbox.child_process import free_port
from sandbox.embedded_redis import EmbeddedRedis
from sandbox.exchange.scenario import parse
from sandbox.exchange.server import PaperExchangeThread
from tests.cli.conftest import RunCli, WriteConfiguration
from tests.cli.terminal import Terminal
from tests.cli.test_circuit_commands import state_of
from tests.helpers import eventually

PACE = """
[kill]
settle = 0.1
guard = 0.2
poll_interval = 0.05
stuck_after = 1.0
escalate_after = 0.3
retry_backoff = 0.2
"""
HALTED = """
positions = [{ symbol = "AAPL", qty = "10" }, { symbol = "MSFT", qty = "-5" }]
halts = [{ symbol = "MSFT" }]
"""


def account(url: str, *, secret: str = "secret") -> str:
    return f'[accounts.ALPHA]\nbase_url = "{url}"\nkey_id = "key"\nsecret_key = "{secret}"\n'


@pytest.fixture
def with_broker(
    configured: redis.Redis,
    redis_server: EmbeddedRedis,
    exchange: PaperExchangeThread,
    write_configuration: WriteConfiguration,
) -> redis.Redis:
    write_configuration(f'redis_url = "{redis_server.url}"\n{PACE}{account(exchange.url)}')
    return configured


def test_promise_5_flat_without_the_orchestrator(
    with_broker: redis.Redis, breaker_cli: RunCli, exchange: PaperExchangeThread
) -> None:
    outcome = breaker_cli("kill", "--yes", "--reason", "drill", "--json")
    assert outcome.returncode == 0, outcome.stderr
    report = json.loads(outcome.stdout)
    assert report["halted"] is True
    assert report["flat"] is True
    assert report["accounts"][0]["positions_at_start"] == 12
    assert any("Prefect" in what for what in report["missing"])
    seen = exchange.report()
    assert seen["is_flat"]
    assert seen["violations"] == []
    assert state_of(with_broker) == "TRIPPED"


def test_a_halt_that_is_not_as_durable_as_configured_ends_with_4_and_the_book_is_flat(
    with_broker: redis.Redis, environment: dict[str, str], breaker_cli: RunCli, exchange: PaperExchangeThread
) -> None:
    environment["BREAKER_TRIP_DURABILITY"] = "replicas"
    outcome = breaker_cli("kill", "--yes", "--json")
    assert outcome.returncode == 4, outcome.stderr
    assert "NOT AS DURABLY AS CONFIGURED" in outcome.stderr and "0 of 1 replicas" in outcome.stderr
    report = json.loads(outcome.stdout)
    assert report["halted"] and report["flat"] and "0 of 1 replicas" in report["unconfirmed"]
    assert state_of(with_broker) == "TRIPPED" and exchange.report()["is_flat"]


def test_a_kill_switch_on_a_flat_book_is_flat_again(with_broker: redis.Redis, breaker_cli: RunCli) -> None:
    assert breaker_cli("kill", "--yes").returncode == 0
    again = breaker_cli("kill", "--yes")
    assert again.returncode == 0
    assert "FLAT" in again.stderr


def test_without_a_terminal_and_without_yes_it_stops_after_the_trip(
    with_broker: redis.Redis, breaker_cli: RunCli, exchange: PaperExchangeThread
) -> None:
    outcome = breaker_cli("kill", "--reason", "x")
    assert outcome.returncode == 3
    assert "--yes" in outcome.stderr
    assert state_of(with_broker) == "TRIPPED"
    assert exchange.report()["open_orders"] == 40


def test_no_broker_configured_halts_and_says_loudly_that_nothing_else_was_done(
    configured: redis.Redis, breaker_cli: RunCli
) -> None:
    outcome = breaker_cli("kill", "--yes")
    assert outcome.returncode == 3
    assert "NOTHING WAS CANCELLED OR FLATTENED" in outcome.stderr
    assert "no broker is configured" in outcome.stderr
    assert state_of(configured) == "TRIPPED"


def test_an_adapter_that_is_not_installed_halts_and_names_it(
    configured: redis.Redis, redis_server: EmbeddedRedis, breaker_cli: RunCli, write_configuration: WriteConfiguration
) -> None:
    write_configuration(f'redis_url = "{redis_server.url}"\n{account("http://127.0.0.1:1")}adapter = "nyse"\n')
    outcome = breaker_cli("kill", "--yes")
    assert outcome.returncode == 3
    assert "no adapter 'nyse' is installed" in outcome.stderr
    assert state_of(configured) == "TRIPPED"


def test_wrong_keys_are_named_without_being_shown(
    configured: redis.Redis,
    redis_server: EmbeddedRedis,
    exchange: PaperExchangeThread,
    breaker_cli: RunCli,
    write_configuration: WriteConfiguration,
) -> None:
    write_configuration(f'redis_url = "{redis_server.url}"\n{PACE}{account(exchange.url, secret="hunter2")}')
    outcome = breaker_cli("kill", "--yes")
    assert outcome.returncode == 3
    assert "401" in outcome.stderr
    assert "hunter2" not in outcome.stderr + outcome.stdout
    assert exchange.report()["open_orders"] == 40


def test_promise_5_redis_down_still_cancels_and_flattens(
    exchange: PaperExchangeThread, breaker_cli: RunCli, write_configuration: WriteConfiguration
) -> None:
    write_configuration(
        f'redis_url = "redis://127.0.0.1:{free_port()}/0"\nredis_timeout = 0.3\n{PACE}{account(exchange.url)}'
    )
    outcome = breaker_cli("kill", "--yes")
    assert outcome.returncode == 4
    assert "COULD NOT HALT" in outcome.stderr
    assert exchange.report()["is_flat"]


def test_promise_5_orders_are_cancelled_while_redis_is_still_silent(
    exchange: PaperExchangeThread, write_configuration: WriteConfiguration, environment: dict[str, str]
) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        redis_url = f"redis://127.0.0.1:{silent.getsockname()[1]}/0"
        write_configuration(
            f'redis_url = "{redis_url}"\nredis_timeout = 50\n{PACE}cancel = "all"\n{account(exchange.url)}'
        )
        command = [sys.executable, "-m", "cli", "kill", "--yes"]
        with subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                eventually(lambda: not exchange.report()["open_orders"], "the first sweep waits for Redis", within=40)
            finally:
                process.kill()
            assert process.stderr is not None and "COULD NOT HALT" not in process.stderr.read()


def test_promise_7_what_is_stuck_is_named_with_the_venues_reason(
    configured: redis.Redis, redis_server: EmbeddedRedis, breaker_cli: RunCli, write_configuration: WriteConfiguration
) -> None:
    with PaperExchangeThread(parse(HALTED)) as venue:
        write_configuration(f'redis_url = "{redis_server.url}"\n{PACE}{account(venue.url)}')
        outcome = breaker_cli("kill", "--yes")
        assert outcome.returncode == 3
        assert "NOT FLAT" in outcome.stderr
        assert "MSFT, -5 held" in outcome.stderr
        assert "halt" in outcome.stderr
        assert set(venue.report()["positions"]) == {"MSFT"}


def test_requests_that_are_tried_again_leave_no_log_lines_on_the_screen(
    configured: redis.Redis, redis_server: EmbeddedRedis, breaker_cli: RunCli, write_configuration: WriteConfiguration
) -> None:
    with PaperExchangeThread(parse('[book]\npositions = 2\n[[trouble]]\nkind = "503"\n')) as venue:
        pace = PACE.replace("[kill]", "[kill]\ndeadline = 2.0")
        # A request is tried again for three times as long as it may take.
        alpha = f"{account(venue.url)}request_timeout = 1.5\n"
        write_configuration(f'redis_url = "{redis_server.url}"\n{pace}{alpha}')
        outcome = breaker_cli("kill", "--yes")
    assert outcome.returncode == 3
    assert "503" in outcome.stderr
    assert "retry_scheduled" not in outcome.stderr + outcome.stdout


@pytest.fixture
def terminal(
    fork_server: ForkServer, with_broker: redis.Redis, environment: dict[str, str], tmp_path: Path
) -> Iterator[Terminal]:
    opened = Terminal(fork_server, environment, "kill", "--reason", "drill")
    yield opened
    opened.close()


def test_on_a_terminal_it_halts_then_shows_the_book_then_asks(
    terminal: Terminal, with_broker: redis.Redis, exchange: PaperExchangeThread
) -> None:
    terminal.wait_for("Type FLATTEN")
    assert "HALTED" in terminal.seen
    assert "40" in terminal.seen
    assert state_of(with_broker) == "TRIPPED"
    assert exchange.report()["open_orders"] == 40
    terminal.type("FLATTEN")
    assert terminal.ended() == 0, terminal.seen
    assert "FLAT" in terminal.seen
    assert exchange.report()["is_flat"]


def test_any_other_word_leaves_the_book_alone_but_halted(
    terminal: Terminal, with_broker: redis.Redis, exchange: PaperExchangeThread
) -> None:
    terminal.wait_for("Type FLATTEN")
    terminal.type("yes")
    assert terminal.ended() == 3
    assert state_of(with_broker) == "TRIPPED"
    assert exchange.report()["open_orders"] == 40
