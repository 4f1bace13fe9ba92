"""An account is measured, kept and judged, without an engine: in this process, at a real venue, with a real Redis."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
import redis
from pydantic import SecretStr

from breaker import CircuitBreaker
from breaker.deadline_client import AsyncDeadlineClient
from breaker.orders import Account
from breaker.rules import AsyncRules
from brokers.alpaca import AlpacaBroker
from brokers.protocol import BrokerUnavailable, Listed
from configuration.accounts import AccountSettings
from configuration.monitor import MonitorSettings, monitored_scope
from configuration.redis_clients import async_redis_client
from configuration.settings import GivenSettings, Settings
from sandbox.embedded_redis import EmbeddedRedis
from sandbox.exchange.scenario import parse
from sandbox.exchange.server import PaperExchangeThread
from services.account_monitor import AccountMonitor
from tasks.checks.measurement import Colour
from tasks.monitor.account import MonitoredAccount, RequestPace, reading_of
from tasks.monitor.check import measure_monitor
from tasks.monitor.leases import FEEDS, Holder, Leases, lease_key, lease_of_account
from tasks.monitor.measurements import Measurements, Reading, measurements_key, read_measurement
from tests.helpers import eventually

BOOK = """
rate_limit = 1000000
account.equity = 100000
prices.AAPL = 200
[[positions]]
symbol = "AAPL"
qty = 100
"""
READING = Reading(Decimal(100_000), "USD", 1, Decimal(20_000), Decimal(20_000))


@pytest.fixture(scope="module")
def exchange() -> Iterator[PaperExchangeThread]:
    with PaperExchangeThread() as exchange:
        yield exchange


def settings_for(server: EmbeddedRedis, folder: Path, *urls: str, interval: float = 0.05) -> Settings:
    """An account at each of these venues: ALPHA, BETA, …"""
    accounts = {
        name: AccountSettings(
            base_url=url, key_id=SecretStr("key"), secret_key=SecretStr("secret"), requests_per_minute=1_000_000
        )
        for name, url in zip(("ALPHA", "BETA"), urls, strict=False)
    }
    return GivenSettings(
        redis_url=server.url, state_dir=folder, accounts=accounts, monitor=MonitorSettings(interval=interval)
    )


def measured(client: redis.Redis) -> list[tuple[datetime, Mapping[str, str]]]:
    """What is kept of ALPHA, oldest first."""
    return [read_measurement(entry) for entry in client.xrange(measurements_key("ALPHA")) or []]


@contextmanager
def monitoring(settings: Settings, lease: float = 6.0) -> Iterator[AccountMonitor]:
    monitor = AccountMonitor(settings, lease=lease)
    thread = threading.Thread(target=lambda: asyncio.run(monitor.run()))
    thread.start()
    try:
        yield monitor
    finally:
        monitor.stop()
        thread.join(30)
        assert not thread.is_alive()


@asynccontextmanager
async def client_of(server: EmbeddedRedis, folder: Path) -> AsyncIterator[AsyncDeadlineClient]:
    client = AsyncDeadlineClient(async_redis_client(settings_for(server, folder)), 10)
    yield client
    await client.close()


def test_an_account_that_loses_money_trips_by_itself(
    redis_server: EmbeddedRedis, redis_client: redis.Redis, tmp_path: Path, exchange: PaperExchangeThread
) -> None:
    exchange.restart(parse(BOOK))
    breaker = CircuitBreaker(redis_client)
    breaker.initialize_state()
    with monitoring(settings_for(redis_server, tmp_path, exchange.url)):
        eventually(lambda: redis_client.xlen(measurements_key("ALPHA")) > 2)
        assert not breaker.is_tripped()
        exchange.control("price", {"symbol": "AAPL", "price": "140"})
        eventually(breaker.is_tripped)
    status = breaker.get_status()
    assert (status.trip_reason, status.tripped_by) == ("DRAWDOWN", "rule")
    assert status.trip_details["equity"] == "94000.00"
    times = [at for at, _ in measured(redis_client)]
    assert times == sorted(set(times))
    assert redis_client.get(lease_key(lease_of_account("ALPHA"))) is None, "whoever leaves lets the next one begin"


def test_a_scenario_s_price_move_is_enough(
    redis_server: EmbeddedRedis, redis_client: redis.Redis, tmp_path: Path, exchange: PaperExchangeThread
) -> None:
    breaker = CircuitBreaker(redis_client)
    breaker.initialize_state()
    redis_client.hset("circuit_breaker:equity", mapping={"equity": 100_000, "high_water": 100_000, "measured_at": 1})
    exchange.restart(parse(BOOK + '[[price_moves]]\nat = 0.5\nsymbol = "AAPL"\nprice = 140\n'))
    with monitoring(settings_for(redis_server, tmp_path, exchange.url)):
        eventually(breaker.is_tripped)
    assert breaker.get_status().trip_reason == "DRAWDOWN"


def test_of_several_accounts_each_trips_its_own_breaker(
    redis_server: EmbeddedRedis, redis_client: redis.Redis, tmp_path: Path, exchange: PaperExchangeThread
) -> None:
    exchange.restart(parse(BOOK))
    with PaperExchangeThread(parse(BOOK)) as other:
        breakers = [CircuitBreaker(redis_client, scope) for scope in ("global", "account:ALPHA", "account:BETA")]
        for breaker in breakers:
            breaker.initialize_state()
        with monitoring(settings_for(redis_server, tmp_path, exchange.url, other.url)):
            eventually(lambda: all(redis_client.xlen(measurements_key(name)) for name in ("ALPHA", "BETA")))
            other.control("price", {"symbol": "AAPL", "price": "140"})
            eventually(breakers[2].is_tripped)
            before = redis_client.xlen(measurements_key("ALPHA"))
            eventually(lambda: redis_client.xlen(measurements_key("ALPHA")) > before + 2)
        assert [breaker.is_tripped() for breaker in breakers] == [False, False, True]


def test_a_venue_that_fails_is_an_api_error_each_time_and_trips_as_errors_do(
    redis_server: EmbeddedRedis, redis_client: redis.Redis, tmp_path: Path, exchange: PaperExchangeThread
) -> None:
    exchange.restart(parse(BOOK + '[[trouble]]\nkind = "503"\n'))
    breaker = CircuitBreaker(redis_client)
    breaker.initialize_state()
    with monitoring(settings_for(redis_server, tmp_path, exchange.url)):
        eventually(breaker.is_tripped)
    assert breaker.get_status().trip_reason == "API_ERRORS"
    assert exchange.report()["requests"] == {"GET /v2/account": 11 + (exchange.report()["responses"]["503"] - 11)}


async def test_one_request_that_is_rate_limited_is_not_repeated_and_counts_once(
    redis_server: EmbeddedRedis, redis_client: redis.Redis, tmp_path: Path, exchange: PaperExchangeThread
) -> None:
    exchange.restart(parse(BOOK + '[[trouble]]\nkind = "429"\nfirst = 1\nroutes = ["GET /v2/positions"]\n'))
    async with client_of(redis_server, tmp_path) as client:
        holder = Holder()
        account = MonitoredAccount(
            "ALPHA",
            AlpacaBroker("ALPHA", exchange.url, "key", "secret"),
            AsyncRules(async_redis_client(settings_for(redis_server, tmp_path))),
            Measurements(client, holder, timedelta(days=7)),
            RequestPace(None, 0.1),
            patience=10,
        )
        await Leases(client, holder, [lease_of_account("ALPHA")], lease=60).hold()
        with pytest.raises(BrokerUnavailable, match="429"):
            await account.measure()
        assert redis_client.zcard("circuit_breaker:api_errors") == 1
        judged = await account.measure()
        await account.aclose()
    assert judged is not None and judged.outcome.verdict == "WITHIN"
    assert exchange.report()["requests"]["GET /v2/positions"] == 2
    assert redis_client.exists("circuit_breaker:heartbeat:monitor")


async def test_only_the_holder_s_measurements_count_and_each_of_the_venue_s_once(
    redis_server: EmbeddedRedis, redis_client: redis.Redis, tmp_path: Path
) -> None:
    first, second, name = Holder(), Holder(), lease_of_account("ALPHA")
    async with client_of(redis_server, tmp_path) as client:
        assert await Leases(client, first, [name, FEEDS], lease=60).hold() == {name, FEEDS}
        assert await Leases(client, second, [name, FEEDS], lease=60).hold() == frozenset()
        of_first, of_second = (Measurements(client, each, timedelta(days=7)) for each in (first, second))
        assert await of_second.keep("ALPHA", READING) is None
        assert await of_first.keep("ALPHA", READING) is not None
        dated = Reading(Decimal(1), "USD", 0, Decimal(0), Decimal(0), as_of=datetime.now(UTC) + timedelta(seconds=5))
        kept = await of_first.keep("ALPHA", dated)
        assert kept is not None and dated.as_of is not None and abs(kept.at - dated.as_of) < timedelta(milliseconds=2)
        assert await of_first.keep("ALPHA", dated) is None, "the same figures of the venue, asked for again"
        await Leases(client, first, [name, FEEDS]).release()
        assert await Leases(client, second, [name, FEEDS], lease=60).hold() == {name, FEEDS}
        assert await of_first.keep("ALPHA", READING) is None, "it was stopped, and another one has taken over"
        assert await of_second.keep("ALPHA", dated) is None, "which knows what the first one has counted"
    assert redis_client.xlen(measurements_key("ALPHA")) == 2


async def test_measurements_are_kept_for_a_while_only(
    redis_server: EmbeddedRedis, redis_client: redis.Redis, tmp_path: Path
) -> None:
    key = measurements_key("ALPHA")
    for number in range(1, 1_001):  # more than one node of the stream, which is what is dropped as a whole
        redis_client.xadd(key, {"equity": "1"}, id=f"{number}-0")
    async with client_of(redis_server, tmp_path) as client:
        holder = Holder()
        await Leases(client, holder, [lease_of_account("ALPHA")], lease=60).hold()
        await Measurements(client, holder, timedelta(days=7)).keep("ALPHA", READING)
    assert redis_client.xlen(key) <= 101
    _, fields = measured(redis_client)[-1]
    assert fields == {
        "equity": "100000", "gross_exposure": "20000", "largest_position": "20000", "currency": "USD", "positions": "1",
    }  # fmt: skip


async def test_a_reading_that_the_venue_does_not_stand_behind_is_kept_and_not_judged(
    redis_server: EmbeddedRedis, redis_client: redis.Redis, tmp_path: Path, exchange: PaperExchangeThread
) -> None:
    exchange.restart(parse(BOOK))
    broker = AlpacaBroker("ALPHA", exchange.url, "key", "secret")

    async def doubtful() -> Account:
        return Account("A", "USD", Decimal(1), Decimal(1), untrusted="prices are being corrected")

    broker.account = doubtful  # type: ignore[method-assign]  # no venue of ours marks its figures so
    async with client_of(redis_server, tmp_path) as client:
        holder = Holder()
        await Leases(client, holder, [lease_of_account("ALPHA")], lease=60).hold()
        rules = AsyncRules(async_redis_client(settings_for(redis_server, tmp_path)))
        measurements = Measurements(client, holder, timedelta(days=7))
        account = MonitoredAccount("ALPHA", broker, rules, measurements, RequestPace(None, 0.1), patience=10)
        assert await account.measure() is None
        await account.aclose()
    assert not redis_client.exists("circuit_breaker:equity")
    _, fields = measured(redis_client)[-1]
    assert fields["untrusted"] == "prices are being corrected"


def test_a_share_of_the_rate_limit_is_never_exceeded() -> None:
    now = 1_000.0
    pace = RequestPace(200, 0.1, lambda: now)
    asked = 0
    while now < 1_000.0 + 600:
        assert not pace.seconds_to_wait
        pace.used(2)
        asked += 2
        now += max(pace.seconds_to_wait, 1.0)
    assert asked <= 200 * 0.1 * 10
    assert RequestPace(None, 0.1).seconds_to_wait == 0


def test_an_account_without_positions_has_no_exposure() -> None:
    reading = reading_of(Account("A", "USD", Decimal(-5), Decimal(0)), Listed())
    assert (reading.equity, reading.positions) == (Decimal(-5), 0)
    assert (reading.gross_exposure, reading.largest_position) == (Decimal(0), Decimal(0))


async def test_the_check_is_red_while_nobody_monitors_and_when_no_measurement_comes(
    redis_server: EmbeddedRedis, redis_client: redis.Redis, tmp_path: Path, exchange: PaperExchangeThread
) -> None:
    exchange.restart(parse(BOOK))
    settings = settings_for(redis_server, tmp_path, exchange.url)
    assert await measure_monitor(settings_for(redis_server, tmp_path)) == []
    (alone,) = await measure_monitor(settings)
    assert alone.colour is Colour.RED and alone.problem.startswith("Nobody monitors ALPHA")
    (unexpected,) = await measure_monitor(settings, services_expected=False)
    assert unexpected.colour is Colour.YELLOW
    redis_client.set(lease_key(lease_of_account("ALPHA")), Holder("elsewhere", 7).as_stored())
    (late,) = await measure_monitor(settings)
    assert late.colour is Colour.RED and late.problem.startswith("No equity of ALPHA was measured for")
    redis_client.delete(lease_key(lease_of_account("ALPHA")))
    with monitoring(settings):
        await asyncio.to_thread(eventually, lambda: redis_client.xlen(measurements_key("ALPHA")) > 0)
        (found,) = await measure_monitor(settings)
    assert found.colour is Colour.GREEN and found.value.startswith("1 of 1, by ")


def test_which_breaker_an_account_is_judged_for() -> None:
    def account(monitored_as: str | None = None) -> AccountSettings:
        return AccountSettings(
            base_url="http://127.0.0.1:1",
            key_id=SecretStr("k"),
            secret_key=SecretStr("s"),
            monitored_as=monitored_as,
        )

    assert monitored_scope("ALPHA", {"ALPHA": account()}) == "global"
    assert monitored_scope("ALPHA", {"ALPHA": account("strategy:meanrev")}) == "strategy:meanrev"
    assert monitored_scope("ALPHA", {"ALPHA": account(), "BETA": account()}) == "account:ALPHA"
    with pytest.raises(ValueError, match="ALPHA is monitored as global already; give each its own"):
        GivenSettings(accounts={"ALPHA": account("global"), "BETA": account("global")})
