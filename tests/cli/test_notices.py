"""With neither Prefect nor a service up, a command itself tells people what it did, once it is done, and says so."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest
import redis

from proofs.fork_server import ForkServer
from sandbox.child_process import free_port
from sandbox.embedded_redis import EmbeddedRedis
from sandbox.exchange.server import PaperExchangeThread
from tests.cli.conftest import MAY_RESET, RunCli, WriteConfiguration
from tests.cli.terminal import CTRL_C, Terminal
from tests.cli.test_circuit_commands import GOOD_REASON
from tests.cli.test_kill_command import PACE, account
from tests.helpers import eventually
from tests.tasks.web import Answer, Web

Configure = Callable[..., None]


@pytest.fixture
def web() -> Iterator[Web]:
    with Web(lambda _: Answer(202)) as server:
        yield server


@pytest.fixture
def configure(web: Web, write_configuration: WriteConfiguration, no_orchestrator: None) -> Configure:
    def write(redis_url: str, more: str = "") -> None:
        write_configuration(
            f'redis_url = "{redis_url}"\nredis_timeout = 2\n{MAY_RESET}\n{more}\n'
            f'[notifications]\npagerduty = "KEY"\npagerduty_url = "{web.url}/enqueue"\ntimeout = 1\n'
        )

    return write


def actions(web: Web) -> list[str]:
    return [asked.json.get("payload", {}).get("class", asked.json["event_action"]) for asked in web.asked]


def summaries(web: Web) -> list[str]:
    return [asked.json["payload"]["summary"] for asked in web.asked]


def texts(web: Web) -> list[str]:
    return [asked.json["payload"]["custom_details"]["text"] for asked in web.asked]


def test_a_trip_and_the_end_of_its_reset_are_told_by_the_commands(
    configure: Configure, redis_server: EmbeddedRedis, redis_client: redis.Redis, breaker_cli: RunCli, web: Web
) -> None:
    configure(redis_server.url)
    breaker_cli("init")
    tripped = breaker_cli("trip", "--reason", "the feed repeats itself")
    assert tripped.returncode == 0
    assert "people are told: global was tripped: MANUAL" in tripped.stderr
    assert "Reason: the feed repeats itself" in str(web.asked[0].json)
    done = breaker_cli("reset", "--reason", GOOD_REASON, "--acknowledge")
    assert done.returncode == 0, done.stderr
    assert actions(web) == ["tripped", "resolve"]
    assert len({asked.json["dedup_key"] for asked in web.asked}) == 1


def test_a_channel_that_hangs_changes_nothing_of_the_trip(
    configure: Configure, redis_server: EmbeddedRedis, redis_client: redis.Redis, breaker_cli: RunCli, web: Web
) -> None:
    configure(redis_server.url)
    breaker_cli("init")
    web.answering = lambda _: Answer(wait=threading.Event())
    tripped = breaker_cli("trip", "--reason", "the feed repeats itself")
    assert tripped.returncode == 0 and "TRIPPED" in tripped.stdout
    assert "nobody could be told (pagerduty not delivered within 1 s" in tripped.stderr


def test_a_trip_that_redis_is_not_told_of_is_told_to_people(
    configure: Configure, redis_client: redis.Redis, breaker_cli: RunCli, web: Web
) -> None:
    configure(f"redis://127.0.0.1:{free_port()}/0")
    assert breaker_cli("trip", "--reason", "the feed repeats itself").returncode != 0
    assert actions(web) == ["not tripped"]
    assert breaker_cli("kill", "--yes", "--reason", "all out").returncode != 0
    assert actions(web) == ["not tripped", "kill started"]


def test_a_kill_that_asks_is_told_at_its_halt_and_again_when_it_is_declined(
    fork_server: ForkServer,
    configure: Configure,
    redis_server: EmbeddedRedis,
    redis_client: redis.Redis,
    exchange: PaperExchangeThread,
    environment: dict[str, str],
    web: Web,
) -> None:
    configure(redis_server.url, PACE + account(exchange.url))
    with closing(Terminal(fork_server, environment, "kill", "--reason", "the feed repeats itself")) as kill:
        kill.wait_for("Type FLATTEN")
        eventually(lambda: web.asked, within=30)
        assert summaries(web) == ["Kill switch started (global): halted; asks before it flattens"]
        assert "the feed repeats itself" in texts(web)[0] and "Exposed: ALPHA: 40 open orders" in texts(web)[0]
        assert "people are told" not in kill.seen, "not amid the question"
        kill.press(CTRL_C)
        assert kill.ended() == 3
    assert summaries(web)[1:] == ["Kill switch not confirmed (global): halted, but nothing was cancelled or closed"]
    assert "Open: ALPHA: 40 open orders, 12 positions" in texts(web)[1] and "breaker kill`" in texts(web)[1]
    assert len({asked.json["dedup_key"] for asked in web.asked}) == 1
    assert kill.seen.count("people are told") == 2, kill.seen


def test_a_kill_that_is_confirmed_pages_for_its_start_only_once(
    fork_server: ForkServer,
    configure: Configure,
    exchange: PaperExchangeThread,
    environment: dict[str, str],
    web: Web,
) -> None:
    """Without Redis nothing remembers who was told of what."""
    configure(f"redis://127.0.0.1:{free_port()}/0", f"{PACE}record_wait = 1.0\n{account(exchange.url)}")
    # One that refuses: with none configured, the run is told to a temporary one, which takes most of a minute.
    environment["PREFECT_API_URL"] = f"http://127.0.0.1:{free_port()}/api"
    with closing(Terminal(fork_server, environment, "kill", "--reason", "all out")) as kill:
        kill.wait_for("Type FLATTEN")
        kill.type("FLATTEN")
        kill.ended(60)
    assert exchange.report()["is_flat"]
    assert actions(web) == ["kill started", "kill report"], summaries(web)
