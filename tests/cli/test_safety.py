"""`breaker safety`: what it shows, who is refused, and that it works with and without anybody who keeps the timers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest
import redis
from rich.console import Console
from typer.testing import CliRunner

from breaker import CircuitBreaker
from brokers import registry
from cli.app import command_line
from configuration.settings import load_settings
from ledger.configured import open_ready_ledger
from proofs.fork_server import ForkServer
from sandbox.embedded_redis import EmbeddedRedis
from sandbox.exchange.server import PaperExchangeThread
from tests.cli.conftest import RunCli, WriteConfiguration
from tests.helpers import eventually
from tests.services import timer_venue

WHY = "the venue's maintenance from 09:00 to 09:30"
Typed = Callable[..., Any]


def configuration(redis_url: str, exchange: str) -> str:
    keys = 'key_id = "key"\nsecret_key = "secret"\n'
    return (
        f'redis_url = "{redis_url}"\n'
        f'[accounts.ALPHA]\nadapter = "timer"\nbase_url = "{exchange}"\nsafety_net = 3600\n{keys}'
        f'[accounts.BETA]\nadapter = "alpaca"\nbase_url = "{exchange}"\n{keys}'
    )


@pytest.fixture
def typed(
    redis_server: EmbeddedRedis,
    redis_client: redis.Redis,
    write_configuration: WriteConfiguration,
    environment: dict[str, str],
    exchange: PaperExchangeThread,
    monkeypatch: pytest.MonkeyPatch,
) -> Typed:
    """Commands in this process, which has an adapter of its own."""
    CircuitBreaker(redis_client).initialize_state()
    write_configuration(configuration(redis_server.url, exchange.url))
    monkeypatch.setitem(registry._BUILT_IN, "timer", timer_venue.ADAPTER)
    for name in ("BREAKER_CONFIG", "XDG_STATE_HOME"):
        monkeypatch.setenv(name, environment[name])
    return lambda *arguments: CliRunner().invoke(command_line(), ["safety", *arguments])


@pytest.fixture
def kept(typed: Typed, fork_server: ForkServer, environment: dict[str, str]) -> Iterator[None]:
    """Somebody keeps the timers."""
    keeper = fork_server.start("-c", timer_venue.KEEPER, env=environment)
    try:
        eventually(lambda: json.loads(typed("show", "--json").stdout)["accounts"][0]["says"] == "armed")
        yield
        keeper.terminate()
        assert keeper.wait(60) == 0
    finally:
        keeper.kill()
        keeper.wait(60)


def armed(exchange: PaperExchangeThread) -> bool:
    return bool(exchange.report()["dead_man"]["armed"])


def actions() -> list[tuple[str, str | None]]:
    with closing(open_ready_ledger(load_settings())) as ledger:
        rows = ledger.query(limit=100).rows
    return [(row.action, row.user_id) for row in reversed(rows) if row.action.startswith("SAFETY_NET")]


@pytest.mark.usefixtures("kept")
def test_a_person_disarms_and_arms_what_somebody_keeps(typed: Typed, exchange: PaperExchangeThread) -> None:
    shown = json.loads(typed("show", "--json").stdout)["accounts"]
    alpha, beta = shown
    assert alpha["says"] == "armed" and alpha["kept"] and alpha["net"]["verified"] and alpha["safety_net"] == 3600
    assert beta["says"].startswith("Alpaca has no timer of its own") and beta["net"] == {}
    done = typed("disarm", "alpha", "--reason", WHY, "--operator", "ada")
    assert (done.exit_code, done.stdout) == (0, "ALPHA: disarmed\n"), done.output
    assert not armed(exchange)
    assert "off" in typed("show").output
    done = typed("arm", "--reason", WHY)
    assert done.exit_code == 0 and done.stdout.startswith("ALPHA: armed until "), done.output
    assert armed(exchange)
    words = [action for action, _ in actions()]
    assert words == [
        "SAFETY_NET_ARMED",
        "SAFETY_NET_INSTRUCTED",
        "SAFETY_NET_DISARMED",
        "SAFETY_NET_INSTRUCTED",
        "SAFETY_NET_ARMED",
    ]


def test_what_is_shown_fits_80_columns_and_breaks_no_word(typed: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cli.safety.console", lambda: Console(width=80))
    lines = typed("show").output.splitlines()
    assert max(map(len, lines)) <= 80
    assert any(line.split() == ["ALPHA", "nobody", "keeps", "it"] for line in lines), lines
    assert any(line.startswith("BETA: Alpaca has no timer of its own: when everything here is gone,") for line in lines)


def test_where_nobody_keeps_it_disarming_asks_the_venue_and_arming_is_refused(
    typed: Typed, exchange: PaperExchangeThread
) -> None:
    exchange.control("dead-man", {"seconds": 3600})
    assert "nobody keeps it" in typed("show").output
    done = typed("arm", "--reason", WHY)
    assert done.exit_code == 1 and "it would run out" in done.output
    assert armed(exchange), "as a process that died had left it"
    done = typed("disarm", "--reason", WHY)
    assert (done.exit_code, done.stdout) == (0, "ALPHA: disarmed\n"), done.output
    assert not armed(exchange)
    assert [action for action, _ in actions()][-1] == "SAFETY_NET_DISARMED"


def test_a_venue_that_does_not_answer_is_said_and_what_is_wanted_stays_wanted(
    typed: Typed, exchange: PaperExchangeThread, redis_client: redis.Redis
) -> None:
    exchange.stop()
    done = typed("disarm", "ALPHA", "--reason", WHY)
    assert done.exit_code == 1 and "the exchange did not answer" in done.output
    kept = redis_client.hget("circuit_breaker:safety_net_instructions", "ALPHA")
    assert isinstance(kept, bytes) and json.loads(kept)["armed"] is False


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("BETA",), "Alpaca has no timer of its own"),
        (("GAMMA",), "no account of the name GAMMA is configured (there are: ALPHA, BETA)"),
    ],
)
def test_what_has_no_timer_is_refused_before_anything_is_done(
    breaker_cli: RunCli,
    redis_server: EmbeddedRedis,
    redis_client: redis.Redis,
    write_configuration: WriteConfiguration,
    exchange: PaperExchangeThread,
    arguments: tuple[str, ...],
    why: str,
) -> None:
    write_configuration(configuration(redis_server.url, exchange.url))
    done = breaker_cli("safety", "arm", *arguments, "--reason", WHY)
    assert done.returncode == 2 and why in done.stderr
    assert done.stderr.count("\n") == 1
    assert not redis_client.exists("circuit_breaker:safety_net_instructions")


def test_without_redis_it_is_said_without_a_traceback(
    breaker_cli: RunCli, write_configuration: WriteConfiguration, exchange: PaperExchangeThread
) -> None:
    write_configuration("redis_timeout = 0.2\n" + configuration("redis://127.0.0.1:1/0", exchange.url))
    for arguments in (("show",), ("disarm", "--reason", WHY)):
        done = breaker_cli("safety", *arguments)
        assert done.returncode == 4 and "gave no answer within 0.2 s" in done.stderr.splitlines()[-1]
        assert all(line.startswith("breaker: ") for line in done.stderr.splitlines())
