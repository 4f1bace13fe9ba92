"""With the rules that `breaker acl` prints, everything works, and Redis denies nothing to anybody."""

from __future__ import annotations

import asyncio
import shlex
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from prefect.settings import PREFECT_API_URL, temporary_settings

from breaker import AsyncCircuitBreaker, CircuitBreaker
from breaker.deadman import DeadMansSwitch, overdue_switches
from breaker.durability import Durability
from breaker.gate import Gate, OrderIntent, Topology
from breaker.rules import Rules
from configuration.running import RunningConfiguration
from configuration.settings import Settings
from sandbox.child_process import free_port
from sandbox.embedded_redis import EmbeddedRedis
from sandbox.exchange.scenario import parse
from sandbox.exchange.server import PaperExchangeThread
from services.account_monitor import MonitorThread
from services.exporter.exporter import Exporter
from services.notification_watch import NotificationWatch
from services.standby import Standby
from services.trip_watch import TripWatch
from services.unwatched_resets import ResetWatch
from tasks.checks import conditions, system
from tasks.checks.stores import (
    check_chain,
    check_drain,
    check_feeds,
    check_reconciliation,
    check_states,
    open_stores,
)
from tasks.running_services import reported
from tests.cli.conftest import RunCli, WriteConfiguration
from tests.console.harness import Console
from tests.helpers import eventually

REASON = "Market conditions normalized, system verified"
UrlOf = Callable[[str], str]


@pytest.fixture
def url_of(own_server: EmbeddedRedis, breaker_cli: RunCli, write_configuration: WriteConfiguration) -> UrlOf:
    """Redis's address as one of the three users, who were made as printed for it."""
    write_configuration(f'redis_url = "{own_server.url}"\n')
    printed = breaker_cli("acl")
    assert (printed.returncode, printed.stderr) == (0, "")
    with redis.Redis.from_url(own_server.url) as client:
        for line in printed.stdout.splitlines():
            assert client.execute_command(*line.replace("PASSWORD", "word").split()) == b"OK"
        CircuitBreaker(client).initialize_state()
        client.acl_log_reset()
    return lambda role: own_server.url.replace("redis://", f"redis://breaker-{role}:word@")


@pytest.fixture
def denied(own_server: EmbeddedRedis) -> Callable[[], list[tuple[str, str]]]:
    """What Redis has denied to anybody: the user and the command."""

    def log() -> list[tuple[str, str]]:
        with redis.Redis.from_url(own_server.url) as client:
            return sorted({(entry["username"], entry["object"]) for entry in client.acl_log(128)})

    return log


def test_an_engine(url_of: UrlOf, denied: Callable[[], list[tuple[str, str]]]) -> None:
    with redis.Redis.from_url(url_of("engine")) as client:
        breaker = CircuitBreaker(client, quiet_period=0, reset_interval=0, durability=Durability("aof"))
        assert breaker.trip("MANUAL").unconfirmed is None
        breaker.reset()
        CircuitBreaker(client, "account:A", durability=Durability("replicas"), timeout=0.5).trip("MANUAL")
        breaker.get_history()
        rules = Rules(client)
        rules.record_equity(100_000)
        rules.rebase_equity()
        rules.heartbeat("prices")
        rules.check_staleness(["prices", "orders"])
        rules.record_api_error("venue")
        rules.record_api_success("venue")
        rules.record_order_rejected("price")
        rules.record_order_accepted()
        rules.refused_measurements()
        rules.would_have_tripped()
        switch = DeadMansSwitch(client, "engine", 30)
        switch.renew()
        assert overdue_switches(client) == []
        switch.release()
        for topology in (Topology.single(), Topology.replicated(1)):
            with Gate(url_of("engine"), topology=topology) as gate:
                if topology.replicas == 0:
                    assert gate.wait_until_open(20), gate.status()
                gate.check(OrderIntent("AAPL", "buy", 1), 0)
                eventually(lambda: client.zcard("circuit_breaker:gates"))
        assert denied() == []
        for beyond in (("GET", "other"), ("FLUSHALL",), ("CONFIG", "GET", "*"), ("KEYS", "*")):
            with pytest.raises(redis.exceptions.NoPermissionError):
                client.execute_command(*beyond)


async def test_an_engine_on_asyncio(url_of: UrlOf, denied: Callable[[], list[tuple[str, str]]]) -> None:
    client = redis.asyncio.Redis.from_url(url_of("engine"))
    breaker = AsyncCircuitBreaker(client, quiet_period=0, reset_interval=0)
    await breaker.trip("MANUAL")
    await breaker.reset()
    await breaker.close()
    await client.aclose()
    assert await asyncio.to_thread(denied) == []


def test_an_operator(
    url_of: UrlOf,
    denied: Callable[[], list[tuple[str, str]]],
    breaker_cli: RunCli,
    write_configuration: WriteConfiguration,
    exchange: PaperExchangeThread,
    tmp_path: Path,
) -> None:
    write_configuration(
        f'redis_url = "{url_of("operator")}"\n[accounts.ALPHA]\nbase_url = "{exchange.url}"\nkey_id = "key"\n'
        f'secret_key = "secret"\n[kill]\nsettle = 0.1\nguard = 0.1\npoll_interval = 0.05\n'
    )
    archive = str(tmp_path / "backup.tar.gz")
    for command in (
        "status",
        "trip --reason looking",
        "kill --yes",
        f"reset --acknowledge --reason '{REASON}' --override '{REASON}'",
        "history",
        "doctor --json",
        "audit",
        "audit verify",
        "audit drain",
        "config",
        "incidents",
        "equity show",
        "deadman renew desk --within 60",
        "deadman release desk",
        "init --force --reason again",
        "recover status",
        f"backup {archive}",
        f"restore --check {archive}",
        "kill --resume",
    ):
        breaker_cli(*shlex.split(command))
        assert denied() == [], command


@pytest.fixture
def venue() -> Iterator[PaperExchangeThread]:
    with PaperExchangeThread(parse("[book]\norders = 2\npositions = 1\n")) as running:
        yield running


def test_the_services(
    url_of: UrlOf,
    denied: Callable[[], list[tuple[str, str]]],
    own_server: EmbeddedRedis,
    venue: PaperExchangeThread,
    tmp_path: Path,
) -> None:
    settings = Settings.model_validate(
        {
            "redis_url": url_of("service"),
            "state_dir": tmp_path / "state",
            "accounts": {"ALPHA": {"base_url": venue.url, "key_id": "key", "secret_key": "secret"}},
        }
    )
    running = RunningConfiguration(settings)
    standby = Standby(running, {})
    watches = (TripWatch(settings), ResetWatch(settings), NotificationWatch(settings), MonitorThread(settings))
    with (
        temporary_settings({PREFECT_API_URL: None}),
        Console(settings),
        redis.Redis.from_url(own_server.url) as client,
        reported("serve", running),
    ):
        for watch in watches:
            watch.start()
        stood = threading.Thread(target=asyncio.run, args=(standby.run(),))
        stood.start()
        exporter = Exporter(settings)
        try:
            exporter.scrape()
            asyncio.run(verify(settings))
            eventually(lambda: client.xlen("circuit_breaker:measurements:ALPHA"))
            eventually(lambda: any(b"standby" in name for name in client.hkeys("circuit_breaker:services")))
            DeadMansSwitch(client, "night", 0.1, scope="account:ALPHA", action="kill").renew()
            eventually(lambda: venue.report()["is_flat"])
            eventually(lambda: client.xlen("circuit_breaker:outbox:account:ALPHA") == 0, "the watch drained nothing")
        finally:
            standby.stop()
            stood.join(20)
            exporter.close()
            for watch in watches:
                watch.stop()
    assert denied() == []


async def verify(settings: Settings) -> None:
    await conditions.measure_conditions(settings, "global")
    await system.measure_health(settings)
    await check_feeds(settings)
    with open_stores(settings) as stores:
        check_states(stores)
        check_drain(stores)
        check_reconciliation(stores, None)
        check_chain(stores, whole=True)


def test_a_kind_of_user_that_there_is_not_is_refused(breaker_cli: RunCli) -> None:
    refused = breaker_cli("acl", "trader")
    assert refused.returncode == 2 and "'trader' is no kind of user; use engine, operator, service" in refused.stderr
    assert len(breaker_cli("acl", "engine").stdout.splitlines()) == 1


@pytest.mark.parametrize(
    ("version", "has"), [("7.0", False), ("7.0.15", False), ("7.2", True), ("7.10.1", True), ("8.0", True)]
)
def test_a_rule_names_no_command_that_this_redis_has_not(breaker_cli: RunCli, version: str, has: bool) -> None:
    printed = breaker_cli("acl", "service", "--redis-version", version)
    for command in ("+client|setinfo", "+waitaof"):
        assert (command in printed.stdout.split()) is has
    assert "+client|setname" in printed.stdout and printed.stderr == ""


def test_a_version_that_is_none_is_refused_and_one_that_nobody_tells_is_said(
    breaker_cli: RunCli, write_configuration: WriteConfiguration
) -> None:
    assert "'seven' is no version of Redis" in breaker_cli("acl", "--redis-version", "seven").stderr
    write_configuration(f'redis_url = "redis://127.0.0.1:{free_port()}/0"\n')
    printed = breaker_cli("acl", "engine")
    assert "for Redis 7.2 and later" in printed.stderr and "+waitaof" in printed.stdout.split()
