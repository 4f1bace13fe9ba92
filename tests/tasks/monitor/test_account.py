"""An account is measured, kept and judged, without an engine: in this process, at a real venue, with a real Redis."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
import redis
from pydantic import SecretStr

from breaker import CircuitBreaker
from breaker.deadline_client import AsyncDeadlineClient
from breaker.limits import Limits
from breaker.orders import Account, Position, PositionSide, Unreadable
from breaker.rules import AsyncRules, Rules
from brokers.alpaca import AlpacaBroker
from brokers.protocol import Listed, Transfer, TransferKind
from configuration.accounts import AccountSettings
from configuration.monitor import MonitorSettings, monitored_scope
from configuration.redis_clients import async_redis_client
from configuration.settings import GivenSettings, Settings
from sandbox.embedded_redis import EmbeddedRedis
from sandbox.exchange.scenario import parse
from sandbox.exchange.server import PaperExchangeThread
from services.account_monitor import AccountMonitor
from tasks.checks.measurement import Colour
from tasks.monitor.account import MonitoredAccount, RequestPace, held, reading_of
from tasks.monitor.check import measure_monitor
from tasks.monitor.leases import FEEDS, Holder, Leases, lease_key, lease_of_account
from tasks.monitor.measurements import Measurements, Reading, measurements_key, read_measurement
from tasks.monitor.sessions import ExchangeSession, OpenPeriod
from tasks.monitor.transfer_time import moved_at
from tasks.monitor.transfers import KnownTransfers, transfers_key
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


@asynccontextmanager
async def opened(server: EmbeddedRedis, folder: Path, url: str) -> AsyncIterator[tuple[MonitoredAccount, AlpacaBroker]]:
    """ALPHA at that venue, held for a minute, to be measured when the test says so."""
    broker = AlpacaBroker("ALPHA", url, "key", "secret")
    async with client_of(server, folder) as client:
        holder = Holder()
        await Leases(client, holder, [lease_of_account("ALPHA")], lease=60).hold()
        account = MonitoredAccount(
            "ALPHA",
            broker,
            AsyncRules(async_redis_client(settings_for(server, folder)), timeout=10),
            Measurements(client, holder, timedelta(days=7)),
            KnownTransfers(client, "ALPHA"),
            RequestPace(None, 0.1),
            patience=30,
        )
        yield account, broker
        await account.aclose()


@pytest.mark.parametrize("route", ["GET /v2/positions", "GET /v2/account/activities"])
async def test_what_a_venue_does_not_tell_is_asked_once_counts_once_and_hides_no_loss(
    redis_server: EmbeddedRedis, redis_client: redis.Redis, tmp_path: Path, exchange: PaperExchangeThread, route: str
) -> None:
    exchange.restart(parse(BOOK + f'[[trouble]]\nkind = "429"\nroutes = ["{route}"]\n'))
    CircuitBreaker(redis_client).initialize_state()
    async with opened(redis_server, tmp_path, exchange.url) as (account, _):
        judged = await account.measure()
        assert judged is not None and judged.outcomes[0].verdict == "WITHIN"
        assert len(judged.problems) == 1 and "429" in str(judged.problems[0])
        assert redis_client.zcard("circuit_breaker:api_errors") == 1
        assert exchange.report()["requests"][route] == 1
        exchange.control("price", {"symbol": "AAPL", "price": "140"})
        judged = await account.measure()
        assert judged is not None and judged.outcomes[0].verdict == "TRIPPED"
    assert redis_client.exists("circuit_breaker:heartbeat:monitor")


async def test_money_in_and_out_is_no_gain_and_no_loss_and_hides_none(
    redis_server: EmbeddedRedis, redis_client: redis.Redis, tmp_path: Path, exchange: PaperExchangeThread
) -> None:
    exchange.restart(parse(BOOK + "[[transfers]]\nat = 0\namount = 500000\n"))
    CircuitBreaker(redis_client).initialize_state()
    async with opened(redis_server, tmp_path, exchange.url) as (account, _):

        async def verdict() -> str:
            judged = await account.measure()
            assert judged is not None
            return judged.outcomes[0].verdict

        exchange.control("transfer", {"amount": "-500000"})
        assert await verdict() == "WITHIN"  # what was moved before the first look is in the equity since
        exchange.control("transfer", {"amount": "-6000"})
        assert await verdict() == "WITHIN"
        assert redis_client.hget("circuit_breaker:equity", "equity") == b"94000.00"
        assert await verdict() == "WITHIN"
        exchange.control("transfer", {"amount": "9400", "kind": "JNLC"})
        assert await verdict() == "WITHIN"
        exchange.control("transfer", {"amount": "10340"})
        exchange.control("price", {"symbol": "AAPL", "price": "130"})  # 7,000 of 113,740 are lost
        assert await verdict() == "TRIPPED"
    assert CircuitBreaker(redis_client).get_status().trip_reason == "DRAWDOWN"


async def test_transfers_are_told_once_whoever_monitors(
    redis_server: EmbeddedRedis, redis_client: redis.Redis, tmp_path: Path, exchange: PaperExchangeThread
) -> None:
    exchange.restart(parse(BOOK))
    for _ in range(2):
        async with opened(redis_server, tmp_path, exchange.url) as (account, _):
            await account.measure()
            exchange.control("transfer", {"amount": "-6000"})
            await account.measure()
        redis_client.delete(lease_key(lease_of_account("ALPHA")))
    told = redis_client.hgetall("circuit_breaker:transfers")
    assert len(told) == 2
    assert not redis_client.hgetall("circuit_breaker:refused_measurements")


async def test_money_that_moves_while_transfers_are_read_again_is_no_loss(
    redis_server: EmbeddedRedis, redis_client: redis.Redis, tmp_path: Path, exchange: PaperExchangeThread
) -> None:
    exchange.restart(parse(BOOK))
    CircuitBreaker(redis_client).initialize_state()
    async with opened(redis_server, tmp_path, exchange.url) as (account, broker):
        await account.measure()
        listed = broker.transfers

        async def then_moved(since: datetime) -> Listed[Transfer]:
            found = await listed(since)
            broker.transfers = listed  # type: ignore[method-assign]
            exchange.control("transfer", {"amount": "-6000"})
            return found

        exchange.control("transfer", {"amount": "-1000"})
        broker.transfers = then_moved  # type: ignore[method-assign]
        judged = await account.measure()
    assert judged is not None and judged.reading.equity == Decimal(93_000)
    assert judged.outcomes[0].verdict == "WITHIN"


async def test_a_deposit_that_is_listed_late_is_put_in_its_place_by_whoever_has_taken_over(
    redis_server: EmbeddedRedis, redis_client: redis.Redis, tmp_path: Path, exchange: PaperExchangeThread
) -> None:
    exchange.restart(parse(BOOK))
    CircuitBreaker(redis_client).initialize_state()
    now = datetime.now(UTC)

    def milliseconds(ago: float) -> int:
        return int((now - timedelta(seconds=ago)).timestamp() * 1000)

    rules = Rules(redis_client)
    rules.record_equity(90_000, now - timedelta(seconds=60))
    rules.record_equity(100_000, now - timedelta(seconds=20))  # has it already
    redis_client.xadd(measurements_key("ALPHA"), {"equity": "100000"}, id=f"{milliseconds(20)}-0")
    redis_client.zadd(transfers_key("ALPHA"), {"begun": float("inf")})
    deposit = Transfer("D", Decimal(10_000), now - timedelta(seconds=40), TransferKind.DEPOSIT)

    async def late(since: datetime) -> Listed[Transfer]:
        return Listed((deposit,))

    async with opened(redis_server, tmp_path, exchange.url) as (account, broker):
        broker.transfers = late  # type: ignore[method-assign]
        judged = await account.measure()
    assert judged is not None and judged.outcomes[0].verdict == "WITHIN"
    assert redis_client.hget("circuit_breaker:equity", "high_water") == b"100000"


async def test_money_that_came_and_went_between_two_readings_is_no_loss_while_it_is_told(
    redis_server: EmbeddedRedis, redis_client: redis.Redis, tmp_path: Path, exchange: PaperExchangeThread
) -> None:
    exchange.restart(parse(BOOK))
    CircuitBreaker(redis_client).initialize_state()
    now = datetime.now(UTC)
    rules = Rules(redis_client)
    for ago in (60, 20):
        rules.record_equity(100_000, now - timedelta(seconds=ago))
    redis_client.xadd(measurements_key("ALPHA"), {"equity": "1"}, id=f"{int((now.timestamp() - 20) * 1000)}-0")
    redis_client.zadd(transfers_key("ALPHA"), {"begun": float("inf")})
    at = now - timedelta(seconds=40)
    moved = [
        Transfer("IN", Decimal(10_000), at, TransferKind.JOURNAL),
        Transfer("OUT", Decimal(-10_000), at, TransferKind.JOURNAL),
    ]

    async def late(since: datetime) -> Listed[Transfer]:
        return Listed(tuple(moved))

    async with opened(redis_server, tmp_path, exchange.url) as (account, broker):
        broker.transfers = late  # type: ignore[method-assign]
        judged = await account.measure()
    assert judged is not None and judged.outcomes[0].verdict == "WITHIN"
    assert not CircuitBreaker(redis_client).is_tripped()
    assert redis_client.hget("circuit_breaker:equity", "high_water") == b"100000"


async def test_a_deposit_that_is_listed_late_with_its_day_alone_is_no_drawdown(
    redis_server: EmbeddedRedis, redis_client: redis.Redis, tmp_path: Path, exchange: PaperExchangeThread
) -> None:
    exchange.restart(parse(BOOK))
    CircuitBreaker(redis_client).initialize_state()
    deposit: list[Transfer] = []

    async def late(since: datetime) -> Listed[Transfer]:
        return Listed(tuple(deposit))

    async with opened(redis_server, tmp_path, exchange.url) as (account, broker):
        broker.transfers = late  # type: ignore[method-assign]
        await account.measure()
        exchange.control("transfer", {"amount": "10000"})
        for _ in range(3):  # it is taken for a gain as long as nobody says what it was
            await account.measure()
        today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        deposit.append(Transfer("D", Decimal(10_000), today, TransferKind.DEPOSIT, by_day=True))
        judged = await account.measure()
        assert judged is not None and judged.outcomes[0].verdict == "WITHIN"
        assert redis_client.hget("circuit_breaker:equity", "high_water") == b"110000"
        exchange.control("price", {"symbol": "AAPL", "price": "140"})  # 6,000 of 110,000
        judged = await account.measure()
    assert judged is not None and judged.outcomes[0].verdict == "TRIPPED"


async def test_what_a_failover_has_lost_of_transfers_is_told_again(
    redis_server: EmbeddedRedis, redis_client: redis.Redis, tmp_path: Path, exchange: PaperExchangeThread
) -> None:
    exchange.restart(parse(BOOK))
    CircuitBreaker(redis_client).initialize_state()
    names = (
        "circuit_breaker:equity",
        "circuit_breaker:equity_readings",
        "circuit_breaker:transfers",
        measurements_key("ALPHA"),
        transfers_key("ALPHA"),
    )
    async with opened(redis_server, tmp_path, exchange.url) as (account, _):
        await account.measure()
        replicated = {name: value for name in names if (value := redis_client.dump(name)) is not None}
        exchange.control("transfer", {"amount": "-6000"})
        await account.measure()
        redis_client.delete(*names)  # the primary dies with the last second, and its replica takes over
        for name, value in replicated.items():
            redis_client.restore(name, 0, value)
        judged = await account.measure()
        assert judged is not None and judged.outcomes[0].verdict == "WITHIN"
        assert redis_client.hlen("circuit_breaker:transfers") == 1
        await account.measure()
    assert redis_client.hget("circuit_breaker:equity", "high_water") == b"94000"


@pytest.mark.parametrize("what", ["positions", "transfers"])
async def test_a_rate_limit_that_others_use_up_hides_no_loss(
    redis_server: EmbeddedRedis, redis_client: redis.Redis, tmp_path: Path, exchange: PaperExchangeThread, what: str
) -> None:
    exchange.restart(parse(BOOK))
    CircuitBreaker(redis_client).initialize_state()

    async def throttled(*_: object) -> Listed[Transfer]:
        raise TimeoutError

    async with opened(redis_server, tmp_path, exchange.url) as (account, broker):
        await account.measure()
        exchange.control("price", {"symbol": "AAPL", "price": "140"})
        setattr(broker, what, throttled)
        judged = await account.measure()
    assert judged is not None and judged.outcomes[0].verdict == "TRIPPED"
    assert "rate limit is used up by others" in str(judged.problems[0])
    assert not redis_client.exists("circuit_breaker:api_errors"), "which is no error of the venue's"


async def test_transfers_and_positions_that_make_no_sense_are_said_and_hide_no_loss(
    redis_server: EmbeddedRedis, redis_client: redis.Redis, tmp_path: Path, exchange: PaperExchangeThread
) -> None:
    exchange.restart(parse(BOOK))
    CircuitBreaker(redis_client).initialize_state()
    nameless = Unreadable("transfer", "", "", "its id is empty")
    endless = Transfer("x" * 300, Decimal(-5), datetime.now(UTC), TransferKind.WITHDRAWAL)

    async def senseless(since: datetime) -> Listed[Transfer]:
        return Listed((endless,), (nameless,))

    async def unreadable() -> Listed[Position]:
        return Listed((), (Unreadable("position", "AAPL", "", "its quantity is empty"),))

    async with opened(redis_server, tmp_path, exchange.url) as (account, broker):
        await account.measure()
        exchange.control("price", {"symbol": "AAPL", "price": "140"})
        broker.transfers = senseless  # type: ignore[method-assign]
        broker.positions = unreadable  # type: ignore[method-assign]
        judged = await account.measure()
    assert judged is not None and judged.outcomes[0].verdict == "TRIPPED"
    said = "\n".join(map(str, judged.problems))
    for words in (
        "its id is empty; what they moved counts",
        "use text of 1 to 200",
        "rules of positions are not judged",
    ):
        assert words in said


async def test_a_clock_that_was_ahead_stops_no_measurement(
    redis_server: EmbeddedRedis, redis_client: redis.Redis, tmp_path: Path
) -> None:
    holder, key, ahead = Holder(), measurements_key("ALPHA"), timedelta(hours=1)
    later = round((datetime.now(UTC) + ahead).timestamp() * 1000)
    redis_client.xadd(key, {"equity": "1"}, id=f"{later}-0")  # by the clock of a primary that is gone
    dated = Reading(Decimal(1), "USD", as_of=datetime.now(UTC) + ahead)
    async with client_of(redis_server, tmp_path) as client:
        await Leases(client, holder, [lease_of_account("ALPHA")], lease=60).hold()
        measurements = Measurements(client, holder, timedelta(days=7))
        for reading in (READING, dated, READING):
            async with asyncio.timeout(30):
                while (kept := await measurements.keep("ALPHA", reading)) is None:
                    pass  # two of one millisecond are one
            assert kept.at < datetime.now(UTC) + timedelta(seconds=5)
    assert redis_client.xlen(key) == 3
    (aside,) = redis_client.keys(f"{key}:aside:*")
    assert redis_client.pttl(aside) > 0


def test_the_venue_s_time_counts_only_where_the_equity_was_read_since() -> None:
    at = datetime(2026, 11, 30, 14, 0, tzinfo=UTC)
    booked = Transfer("1", Decimal(-6), at, TransferKind.WITHDRAWAL)
    by_day = Transfer("1", Decimal(-6), at, TransferKind.WITHDRAWAL, by_day=True)
    assert moved_at(booked, at + timedelta(minutes=5)) == at
    assert moved_at(booked, at + timedelta(seconds=2)) is None, "the two clocks may differ by that"
    assert moved_at(booked, at - timedelta(minutes=5)) is None
    assert moved_at(booked, None) is None
    assert moved_at(by_day, at + timedelta(minutes=5)) is None


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


async def test_a_reading_that_the_venue_does_not_stand_behind_is_kept_and_set_aside(
    redis_server: EmbeddedRedis, redis_client: redis.Redis, tmp_path: Path, exchange: PaperExchangeThread
) -> None:
    exchange.restart(parse(BOOK))
    CircuitBreaker(redis_client).initialize_state()

    async def doubtful() -> Account:
        return Account("A", "USD", Decimal(1), Decimal(1), untrusted="prices are being corrected")

    async with opened(redis_server, tmp_path, exchange.url) as (account, broker):
        await account.measure()
        broker.account = doubtful  # type: ignore[method-assign]  # no venue of ours marks its figures so
        judged = await account.measure()
    assert judged is not None and judged.outcomes[0].verdict == "REFUSED"
    assert redis_client.hget("circuit_breaker:equity", "equity") == b"100000.00"
    _, fields = measured(redis_client)[-1]
    assert fields["untrusted"] == "prices are being corrected"


async def test_an_account_that_is_kept_in_another_currency_is_not_judged_by_amounts(
    redis_server: EmbeddedRedis, redis_client: redis.Redis, tmp_path: Path, exchange: PaperExchangeThread
) -> None:
    exchange.restart(parse(BOOK))
    CircuitBreaker(redis_client).initialize_state()
    settings = settings_for(redis_server, tmp_path, exchange.url)
    limits = Limits(position_size=Decimal(100_000), position_mismatch=Decimal("0.1"))

    async def in_yen() -> Account:
        return Account("A", "JPY", Decimal(15_000_000), Decimal(1))

    async def worth_yen() -> Listed[Position]:
        return Listed((Position("AAPL", Decimal(100), Decimal(100), Decimal(30_000)),))

    async with opened(redis_server, tmp_path, exchange.url) as (account, broker):
        account._rules = AsyncRules(async_redis_client(settings), limits=limits, timeout=10)
        await account.measure()
        broker.account, broker.positions = in_yen, worth_yen  # type: ignore[method-assign]
        await account._rules.publish_positions({"AAPL": Decimal(100)})
        judged = await account.measure()
    assert judged is not None
    assert [outcome.verdict for outcome in judged.outcomes] == ["REFUSED", "WITHIN"]
    assert str(redis_client.hget("circuit_breaker:equity", "in_other_currency")).endswith(" 15000000 JPY'")
    assert not CircuitBreaker(redis_client).is_tripped()


async def test_the_trading_day_is_the_session_s(
    redis_server: EmbeddedRedis, redis_client: redis.Redis, tmp_path: Path, exchange: PaperExchangeThread
) -> None:
    exchange.restart(parse(BOOK))
    yesterday = datetime.now(UTC).date() - timedelta(days=1)
    periods = [OpenPeriod(datetime.now(UTC) - timedelta(days=1), datetime.now(UTC), yesterday)]

    async def session() -> ExchangeSession:
        return ExchangeSession(periods)

    async with opened(redis_server, tmp_path, exchange.url) as (account, _):
        account._session = session
        await account.measure()
    day = redis_client.hget("circuit_breaker:equity", "day")
    assert day == str((yesterday - date(1970, 1, 1)).days).encode()


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


def test_both_sides_of_a_hedged_symbol_are_one_position() -> None:
    long = Position("BTC", Decimal(3), Decimal(3), Decimal(10), position_side=PositionSide.LONG)
    short = Position("BTC", Decimal(-1), Decimal(1), Decimal(10), position_side=PositionSide.SHORT)
    assert held([long, short]) == {"BTC": (Decimal(2), Decimal(40))}


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
