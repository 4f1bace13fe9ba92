"""Conditions, measured on real servers: the right colour, a sentence that helps, and never an exception."""

from __future__ import annotations

import os
import signal
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from breaker.orders import Position
from breaker.rules import Limits, Rules
from brokers.protocol import Listed
from configuration.settings import RecoverySettings, Settings
from ledger.ledger import Ledger
from ledger.record import AuditRecord
from ledger.schema import upgrade
from ledger.verify import verify
from sandbox.child_process import free_port
from sandbox.embedded_redis import EmbeddedRedis
from sandbox.exchange.scenario import parse
from sandbox.exchange.server import PaperExchange
from tasks.checks.conditions import (
    judge_drawdown,
    judge_positions,
    judge_redis,
    measure_api_errors,
    measure_conditions,
    measure_database,
    measure_drawdown,
    measure_positions,
    measure_redis,
)
from tasks.checks.measurement import Colour, Measurement
from tasks.checks.probe import Probe
from tasks.recovery.checklist import ITEMS
from tests.helpers import eventually, in_time
from tests.ledger.servers import Postgres
from tests.tasks.recovery.conftest import Configure

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
NOW_MICROS = int(NOW.timestamp() * 1_000_000)
PROBE = Probe("name", "limit", "how")
amounts = st.decimals(min_value=1, max_value=10**9, places=2)


def explains_itself(measured: Measurement) -> None:
    """Whatever is not green says why."""
    assert bool(measured.problem) == (measured.colour is not Colour.GREEN)


# --- drawdown


async def test_drawdown_is_yellow_as_long_as_no_equity_is_recorded(configure: Configure) -> None:
    measured = await measure_drawdown(configure())
    assert measured.colour is Colour.YELLOW
    assert "no equity" in measured.value


@pytest.mark.parametrize(
    ("equity", "colour"),
    [("100000", Colour.GREEN), ("96500", Colour.GREEN), ("95500", Colour.YELLOW), ("94999", Colour.RED)],
)
async def test_drawdown_is_judged_from_what_the_rule_recorded(
    configure: Configure, redis_client: redis.Redis, equity: str, colour: Colour
) -> None:
    rules = Rules(redis_client, limits=Limits(drawdown=None))
    rules.record_equity("100000")
    rules.record_equity(equity)
    rules.close()
    measured = await measure_drawdown(configure())
    assert measured.colour is colour
    assert equity in measured.value
    explains_itself(measured)


async def test_drawdown_is_that_of_the_scope(configure: Configure, redis_client: redis.Redis) -> None:
    rules = Rules(redis_client, "account:ALPHA", limits=Limits(drawdown=None))
    rules.record_equity("100")
    rules.record_equity("50")
    rules.close()
    assert (await measure_drawdown(configure(), "account:ALPHA")).colour is Colour.RED
    assert (await measure_drawdown(configure())).colour is Colour.YELLOW


@given(high=amounts, equity=amounts, limit=st.decimals("0.01", "0.99", places=2))
def test_drawdown_is_red_exactly_when_the_rule_would_trip(high: Decimal, equity: Decimal, limit: Decimal) -> None:
    stored = {"equity": str(equity), "high_water": str(high), "measured_at": str(NOW_MICROS)}
    measured = judge_drawdown(PROBE, stored, NOW_MICROS, Limits(drawdown=limit))
    assert (measured.colour is Colour.RED) == (high - equity > limit * high)
    explains_itself(measured)


def test_an_old_equity_proves_nothing() -> None:
    stored = {"equity": "100", "high_water": "100", "measured_at": str(NOW_MICROS - 3_600_000_000)}
    assert judge_drawdown(PROBE, stored, NOW_MICROS, Limits()).colour is Colour.YELLOW


def test_an_account_that_is_not_funded_yet_is_told_as_that() -> None:
    stored = {"equity": "0", "high_water": "", "measured_at": str(NOW_MICROS)}
    found = judge_drawdown(PROBE, stored, NOW_MICROS, Limits())
    assert (found.colour, found.value) == (Colour.YELLOW, "not funded")
    explains_itself(found)
    debts = judge_drawdown(PROBE, {**stored, "equity": "-3"}, NOW_MICROS, Limits())
    assert debts.colour is Colour.RED


def test_equity_in_another_currency_is_told_and_not_compared() -> None:
    told = {"currency": "USD", "in_other_currency": f"{NOW_MICROS} 86000 EUR"}
    stored = {"equity": "100", "high_water": "100", "measured_at": str(NOW_MICROS), **told}
    found = judge_drawdown(PROBE, stored, NOW_MICROS, Limits())
    assert (found.colour, found.value) == (Colour.YELLOW, "86000 EUR")
    assert "high-water mark in USD" in found.problem and "re-base" in found.problem
    explains_itself(found)


@pytest.mark.parametrize("stored", [{"equity": "x"}, {"equity": "1", "high_water": "0", "measured_at": "0"}])
def test_an_equity_that_is_none_is_red(stored: dict[str, str]) -> None:
    assert judge_drawdown(PROBE, stored, NOW_MICROS, Limits()).colour is Colour.RED


async def test_limits_are_those_of_the_automatic_trips(configure: Configure, redis_client: redis.Redis) -> None:
    rules = Rules(redis_client, limits=Limits(drawdown=None, api_errors=None))
    rules.record_equity("100")
    rules.record_equity("90")
    for _ in range(3):
        rules.record_api_error("gateway")
    rules.close()
    strict = configure(rules={"global": {"api_errors": 2}})
    assert (await measure_drawdown(strict)).colour is (await measure_api_errors(strict)).colour is Colour.RED
    lenient = configure(rules={"global": {"drawdown": "0.2", "off": ["API_ERRORS"]}})
    assert (await measure_drawdown(lenient)).colour is Colour.GREEN
    assert (await measure_api_errors(lenient)).colour is Colour.YELLOW
    off = await measure_drawdown(configure(rules={"global": {"off": ["DRAWDOWN"]}}))
    assert off.colour is Colour.YELLOW
    explains_itself(off)


# --- positions


@pytest.mark.parametrize(("most", "colour"), [(None, Colour.YELLOW), ("1000000000", Colour.GREEN), ("1", Colour.RED)])
async def test_positions_are_read_from_the_venue(
    configure: Configure, exchange: PaperExchange, most: str | None, colour: Colour
) -> None:
    exchange.restart(parse("[book]\norders = 0\npositions = 4\n"))
    settings = configure(accounts={"ALPHA": account(exchange)}, recovery={"max_position_notional": most})
    (measured,) = [await measuring for measuring in measure_positions(settings)]
    assert measured.name == "position-sizes/ALPHA"
    assert measured.colour is colour
    assert "4 positions" in measured.value
    explains_itself(measured)


async def test_a_flat_book_is_within_any_limit(configure: Configure, exchange: PaperExchange) -> None:
    exchange.restart(parse("[book]\norders = 0\npositions = 0\n"))
    settings = configure(accounts={"ALPHA": account(exchange)})
    (measured,) = [await measuring for measuring in measure_positions(settings)]
    assert (measured.colour, measured.value) == (Colour.GREEN, "flat")


async def test_an_accounts_scope_looks_at_that_account_only(configure: Configure, exchange: PaperExchange) -> None:
    exchange.restart(parse("[book]\norders = 0\npositions = 0\n"))
    settings = configure(accounts={"ALPHA": account(exchange), "BETA": account(exchange)})
    named = [(await measuring).name for measuring in measure_positions(settings, "account:BETA")]
    assert named == ["position-sizes/BETA"]
    (missing,) = [await measuring for measuring in measure_positions(settings, "account:GAMMA")]
    assert (missing.name, missing.colour) == ("position-sizes", Colour.YELLOW)


async def test_a_venue_that_is_down_is_red(configure: Configure) -> None:
    nowhere = {"base_url": f"http://127.0.0.1:{free_port()}", "key_id": "k", "secret_key": "s", "request_timeout": 1}
    (measured,) = [await measuring for measuring in measure_positions(configure(accounts={"ALPHA": nowhere}))]
    assert (measured.colour, measured.value) == (Colour.RED, "not measured")


@given(quantities=st.lists(st.decimals(-1000, 1000, places=3), max_size=8), most=st.decimals(1, 100_000, places=2))
def test_a_position_beyond_the_limit_is_red_whichever_way_it_points(quantities: list[Decimal], most: Decimal) -> None:
    held = [Position(f"S{i}", quantity, abs(quantity), Decimal(50)) for i, quantity in enumerate(quantities)]
    measured = judge_positions(PROBE, Listed(tuple(held)), most)
    assert (measured.colour is Colour.RED) == any(abs(quantity) * 50 > most for quantity in quantities)
    explains_itself(measured)


def account(exchange: PaperExchange) -> dict[str, str]:
    return {"base_url": exchange.url, "key_id": "key", "secret_key": "secret"}


# --- API errors


@pytest.mark.parametrize(
    ("count", "colour"), [(0, Colour.GREEN), (1, Colour.YELLOW), (10, Colour.YELLOW), (11, Colour.RED)]
)
async def test_api_errors_of_the_last_five_minutes(
    configure: Configure, redis_client: redis.Redis, count: int, colour: Colour
) -> None:
    rules = Rules(redis_client, limits=Limits(api_errors=None))
    for _ in range(count):
        rules.record_api_error("gateway")
    rules.close()
    measured = await measure_api_errors(configure())
    assert (measured.colour, measured.value) == (colour, str(count))
    explains_itself(measured)


async def test_older_api_errors_no_longer_count(configure: Configure, redis_client: redis.Redis) -> None:
    seconds, micros = redis_client.time()
    now = seconds * 1_000_000 + micros
    redis_client.zadd("circuit_breaker:api_errors", {"old": now - 301_000_000, "new": now - 290_000_000})
    assert (await measure_api_errors(configure())).value == "1"


async def test_a_key_of_another_kind_is_red_and_named(configure: Configure, redis_client: redis.Redis) -> None:
    redis_client.set("circuit_breaker:api_errors", "x")
    measured = await measure_api_errors(configure())
    assert measured.colour is Colour.RED
    assert "WRONGTYPE" in measured.problem


# --- Redis


async def test_a_redis_with_an_append_only_file_is_green(configure: Configure) -> None:
    measured = await measure_redis(configure())
    assert measured.colour is Colour.GREEN, measured
    assert "append-only file on" in measured.value


async def test_a_redis_that_keeps_nothing_is_yellow(own_server: EmbeddedRedis, configure: Configure) -> None:
    with redis.Redis.from_url(own_server.url) as client:
        client.config_set("appendonly", "no")
        settings = configure(redis_url=own_server.url)
        assert (await measure_redis(settings)).colour is Colour.YELLOW
        client.config_set("save", "3600 1")
        assert (await measure_redis(settings)).colour is Colour.GREEN


async def test_replicas_are_seen_from_both_sides(
    own_server: EmbeddedRedis, configure: Configure, tmp_path: Path
) -> None:
    with redis.Redis.from_url(own_server.url) as client:
        client.config_set("repl-diskless-sync-delay", "0")
    follow = {"replicaof": f"127.0.0.1 {own_server.port}"}
    with redis.Redis.from_url(own_server.url) as client, EmbeddedRedis(tmp_path / "replica", config=follow) as replica:
        eventually(
            lambda: client.info("replication").get("slave0", {}).get("state") == "online", "the replica did not connect"
        )
        primary = await measure_redis(configure(redis_url=own_server.url))
        assert (primary.colour, "1 replicas" in primary.value) == (Colour.GREEN, True), primary
        secondary = await measure_redis(configure(redis_url=replica.url))
        assert secondary.colour is Colour.RED
        assert "primary" in secondary.problem


@pytest.mark.parametrize(
    ("info", "colour"),
    [
        ({}, Colour.GREEN),
        ({"aof_last_write_status": "err"}, Colour.RED),
        ({"loading": "1"}, Colour.RED),
        ({"role": "slave"}, Colour.RED),
        ({"slave0": "ip=10.0.0.2,port=6379,state=online,offset=1,lag=6"}, Colour.RED),
        ({"slave0": "ip=10.0.0.2,port=6379,state=wait_bgsave,offset=1,lag=0"}, Colour.RED),
        ({"slave0": "ip=10.0.0.2,port=6379,state=online,offset=1,lag=1"}, Colour.GREEN),
    ],
)
def test_what_redis_says_of_itself(info: dict[str, str], colour: Colour) -> None:
    healthy = {"role": "master", "aof_enabled": "1", "aof_last_write_status": "ok", "loading": "0"}
    measured = judge_redis(PROBE, 0.001, healthy | info, saves=False, limits=RecoverySettings())
    assert measured.colour is colour
    explains_itself(measured)


@given(round_trip=st.floats(0, 1))
def test_a_slow_redis_turns_yellow_and_then_red(round_trip: float) -> None:
    info = {"role": "master", "aof_enabled": "1"}
    measured = judge_redis(PROBE, round_trip, info, saves=False, limits=RecoverySettings(redis_latency=0.1))
    expected = Colour.RED if round_trip > 0.1 else Colour.YELLOW if round_trip > 0.1 * 0.8 else Colour.GREEN
    assert measured.colour is expected


async def test_a_frozen_redis_is_red_within_its_deadline(own_server: EmbeddedRedis, configure: Configure) -> None:
    assert own_server.pid is not None
    os.kill(own_server.pid, signal.SIGSTOP)
    settings = configure(redis_url=own_server.url, redis_timeout=0.5)
    with in_time(1):
        measured = {found.name: found for found in await measure_conditions(settings)}
    assert {name for name, found in measured.items() if found.colour is Colour.RED} == {
        "drawdown",
        "position-sizes/pending-exits",
        "api-errors",
        "redis",
    }
    assert measured["ledger"].colour is Colour.GREEN


# --- the ledger's database


@pytest.fixture
def settings(configure: Configure, database_url: str) -> Settings:
    return configure(database_url=database_url)


async def test_a_migrated_database_is_green_and_keeps_no_trace_of_the_check(settings: Settings) -> None:
    assert settings.database_url is not None
    ledger = Ledger.connect(settings.database_url)
    upgrade(ledger)
    ledger.append([AuditRecord(action="BEFORE", source="cli")])
    head = ledger.head()
    measured = await measure_database(settings)
    assert measured.colour is Colour.GREEN, measured
    assert measured.name == "ledger"
    kind = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}[ledger.engine.dialect.name]
    assert measured.value.startswith(f"{kind}, round trip") and kind in measured.how
    assert ledger.head() == head
    assert verify(ledger).whole
    ledger.close()


async def test_a_database_without_the_newest_migration_is_red(settings: Settings) -> None:
    assert settings.database_url is not None
    assert (await measure_database(settings)).colour is Colour.RED
    ledger = Ledger.connect(settings.database_url)
    upgrade(ledger, "0001")
    ledger.close()
    measured = await measure_database(settings)
    assert measured.colour is Colour.RED
    assert "breaker audit upgrade" in measured.problem


async def test_a_database_that_takes_no_rows_is_red(
    configure: Configure, postgres: Postgres, postgres_url: str
) -> None:
    ledger = Ledger.connect(postgres_url)
    upgrade(ledger)
    ledger.close()
    postgres.execute(
        "postgres", f"ALTER DATABASE {postgres_url.rsplit('/', maxsplit=1)[-1]} SET default_transaction_read_only = on"
    )
    measured = await measure_database(configure(database_url=postgres_url))
    assert measured.colour is Colour.RED
    assert "read-only" in measured.problem


async def test_a_user_that_may_not_read_the_version_is_told_the_grant(
    configure: Configure, postgres: Postgres, postgres_url: str
) -> None:
    ledger = Ledger.connect(postgres_url)
    upgrade(ledger)
    ledger.close()
    database = postgres_url.rsplit("/", maxsplit=1)[-1]
    postgres.execute(database, f"CREATE ROLE reader_{database} LOGIN IN ROLE breaker_audit")
    postgres.execute(database, "REVOKE SELECT ON audit_log_version FROM breaker_audit")  # as older migrations left it
    measured = await measure_database(configure(database_url=postgres_url.replace("postgres@", f"reader_{database}@")))
    postgres.execute(database, f"DROP ROLE reader_{database}")
    assert measured.colour is Colour.YELLOW
    assert "GRANT SELECT" in measured.problem


async def test_a_frozen_database_is_red_within_its_deadline(
    configure: Configure, postgres: Postgres, postgres_url: str
) -> None:
    postgres.freeze()
    try:
        with in_time(5):
            measured = await measure_database(configure(database_url=postgres_url))
        assert measured.colour is Colour.RED
    finally:
        postgres.thaw()


async def test_the_embedded_database_is_made_when_it_is_missing(configure: Configure) -> None:
    assert (await measure_database(configure())).colour is Colour.GREEN


# --- all together


async def test_every_item_of_the_section_is_measured_also_when_nothing_can_be_reached(configure: Configure) -> None:
    nowhere = free_port()
    settings = configure(
        redis_url=f"redis://127.0.0.1:{nowhere}",
        redis_timeout=0.3,
        database_url=f"postgresql://someone:hunter2222@127.0.0.1:{nowhere}/x",
        accounts={
            "ALPHA": {"base_url": f"http://127.0.0.1:{nowhere}", "key_id": "k", "secret_key": "s", "request_timeout": 1}
        },
    )
    measured = await measure_conditions(settings)
    assert {"position-sizes/ALPHA", "position-sizes/pending-exits"} <= {found.name for found in measured}
    items = list(dict.fromkeys(found.name.partition("/")[0] for found in measured))
    assert items == ["drawdown", "position-sizes", "api-errors", "redis", "ledger"]
    assert set(items) <= set(ITEMS)
    assert all(found.colour is Colour.RED and found.problem for found in measured)
    assert not any("hunter2222" in found.problem for found in measured)
