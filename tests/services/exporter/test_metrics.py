"""The exporter says what the runbook says it says, also when what it reads from is down, hung or flushed."""

from __future__ import annotations

import os
import signal
import threading
import urllib.request
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
import redis
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr

from breaker import CircuitBreaker
from breaker.gate import Gate, OrderIntent
from breaker.keys import Keys
from breaker.rules import Rules
from configuration.settings import Settings
from ledger.configured import open_ready_ledger, open_spool
from ledger.outbox import drain_outbox
from ledger.reconcile import reconcile
from ledger.record import DENIED, AuditRecord
from sandbox.embedded_redis import EmbeddedRedis
from services.exporter.exporter import Exporter
from services.exporter.ledger_counts import Counts, add_row
from services.exporter.server import MetricsServer
from tasks.drill.result import DrillResult
from tasks.kill.pending_exit_store import open_pending_exits
from tasks.kill.pending_exits import AccountExits, PendingExit
from tasks.safety_nets.decision import Standing
from tasks.safety_nets.records import KEY as NETS
from tasks.safety_nets.records import NetRecord
from tasks.verification.last_result import KEY, LastVerification, write_last
from tests.console.conftest import MakeSettings
from tests.console.harness import lose_a_gate
from tests.helpers import eventually, in_time

Values = dict[tuple[str, ...], float]
Scrape = Callable[[], Values]


def parse(text: str) -> Values:
    """Each sample by its name and its label values."""
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.fixture
def exporter(settings: Settings) -> Iterator[Exporter]:
    made = Exporter(settings)
    yield made
    made.close()


@pytest.fixture
def scrape(exporter: Exporter) -> Scrape:
    return lambda: parse(exporter.scrape().decode())


@pytest.fixture
def breaker(redis_client: redis.Redis) -> CircuitBreaker:
    made = CircuitBreaker(redis_client)
    made.initialize_state()
    return made


def drain(redis_client: redis.Redis, settings: Settings) -> None:
    drain_outbox(redis_client, open_ready_ledger(settings))


def test_a_state_that_was_read_is_verified(breaker: CircuitBreaker, scrape: Scrape) -> None:
    assert scrape()["cb_staleness_seconds",] == 0


def test_rules_say_how_far_they_are_from_their_limits_and_what_was_refused(
    breaker: CircuitBreaker, redis_client: redis.Redis, scrape: Scrape
) -> None:
    rules = Rules(redis_client)
    for equity in ("100", "96", "NaN"):
        rules.record_equity(equity)
    values = scrape()
    assert values["cb_rule_distance", "DRAWDOWN", "global"] == pytest.approx(0.2)
    assert ("cb_rule_distance", "DAILY_LOSS", "global") not in values, "it is off"
    assert values["cb_measurements_refused_total", "EQUITY", "global"] == 1
    rules.record_equity("-5")
    assert scrape()["cb_rule_distance", "DRAWDOWN", "global"] < 0


def test_more_than_a_thousand_breakers_are_no_false_alarm(
    breaker: CircuitBreaker, redis_client: redis.Redis, exporter: Exporter, scrape: Scrape
) -> None:
    exporter.deadline, exporter._settings = 60.0, exporter._settings.model_copy(update={"redis_timeout": 60.0})
    exporter._scopes = ("global", *(f"strategy:s{number}" for number in range(1_150)))
    redis_client.mset({Keys.of(scope).state: '{"state":"OPEN","epoch":1}' for scope in exporter._scopes[1:]})
    redis_client.delete("circuit_breaker:outbox")
    asked = redis_client.info("stats")["total_connections_received"]
    values = scrape()
    assert values["cb_staleness_seconds",] == 0
    assert values["cb_state", "strategy:s1149", "OPEN"] == values["cb_outbox_entries", "strategy:s1149"] + 1 == 1
    assert redis_client.info("stats")["total_connections_received"] - asked < 10
    redis_client.set(Keys.of("strategy:s7").state, "no json")
    values = scrape()
    assert values["cb_staleness_seconds",] == 999_999
    assert [key[1] for key, value in values.items() if key[0] == "cb_state" and key[2] == "UNKNOWN" and value] == [
        "strategy:s7"
    ]


def test_what_lies_beside_one_state_and_is_something_else_hides_no_other(
    breaker: CircuitBreaker, redis_client: redis.Redis, exporter: Exporter, scrape: Scrape
) -> None:
    CircuitBreaker(redis_client, "account:ALPHA").initialize_state()
    exporter._scopes = ("account:ALPHA", "global")
    redis_client.delete("circuit_breaker:outbox:account:ALPHA")
    redis_client.set("circuit_breaker:outbox:account:ALPHA", "foreign")
    values = scrape()
    assert values["cb_staleness_seconds",] == 0
    assert ("cb_outbox_entries", "account:ALPHA") not in values
    assert values["cb_outbox_entries", "global"] == 1


@pytest.mark.parametrize("word", ["OPEN", "TRIPPED", "QUIET_PERIOD"])
def test_exactly_one_state_is_1(breaker: CircuitBreaker, scrape: Scrape, word: str) -> None:
    if word != "OPEN":
        breaker.trip("MANUAL")
    if word == "QUIET_PERIOD":
        breaker.reset()
    states = {key[2]: value for key, value in scrape().items() if key[0] == "cb_state"}
    assert states == {name: float(name == word) for name in ("OPEN", "TRIPPED", "QUIET_PERIOD", "UNKNOWN")}


@pytest.mark.parametrize("stored", [None, "{}", "no json", '{"state":"CLOSED"}'])
def test_a_missing_or_unreadable_state_is_a_failure(
    redis_client: redis.Redis, scrape: Scrape, stored: str | None
) -> None:
    if stored is not None:
        redis_client.set("circuit_breaker:state", stored)
    values = scrape()
    assert values["cb_staleness_seconds",] == 999_999
    assert values["cb_state", "global", "UNKNOWN"] == 1
    assert values["cb_redis_up",] == 1


def test_every_scrape_reads_afresh(breaker: CircuitBreaker, redis_client: redis.Redis, scrape: Scrape) -> None:
    assert scrape()["cb_staleness_seconds",] == 0
    redis_client.flushall()
    assert scrape()["cb_staleness_seconds",] == 999_999
    breaker.initialize_state()
    assert scrape()["cb_staleness_seconds",] == 0


def test_a_redis_that_is_down_is_a_failure_and_comes_back(
    own_server: EmbeddedRedis, make_settings: MakeSettings
) -> None:
    exporter = Exporter(make_settings(own_server.url))
    CircuitBreaker(redis.Redis.from_url(own_server.url)).initialize_state()
    own_server.stop()
    down = parse(exporter.scrape().decode())
    assert (down["cb_staleness_seconds",], down["cb_redis_up",]) == (999_999, 0)
    own_server.start()
    assert parse(exporter.scrape().decode())["cb_staleness_seconds",] == 0
    exporter.close()


def test_promise_10_a_hung_redis_does_not_hang_the_scrape(
    own_server: EmbeddedRedis, make_settings: MakeSettings
) -> None:
    exporter = Exporter(make_settings(own_server.url), deadline=0.5)
    CircuitBreaker(redis.Redis.from_url(own_server.url)).initialize_state()
    assert parse(exporter.scrape().decode())["cb_staleness_seconds",] == 0
    assert own_server.pid is not None
    os.kill(own_server.pid, signal.SIGSTOP)
    try:
        for _ in range(3):  # also while the reading before still waits
            with in_time(0.5):
                values = parse(exporter.scrape().decode())
            assert values["cb_staleness_seconds",] == 999_999
            assert values["cb_state", "global", "UNKNOWN"] == 1
    finally:
        os.kill(own_server.pid, signal.SIGCONT)
    exporter.close()


def test_a_database_that_is_away_does_not_touch_the_verification(
    breaker: CircuitBreaker, make_settings: MakeSettings, redis_server: EmbeddedRedis
) -> None:
    nowhere = SecretStr("postgresql://nobody@127.0.0.1:9/nothing")
    exporter = Exporter(make_settings(redis_server.url, database_url=nowhere))
    values = parse(exporter.scrape().decode())
    assert (values["cb_staleness_seconds",], values["cb_ledger_up",]) == (0, 0)
    exporter.close()


def test_counters_are_the_ledgers_and_outlive_the_exporter(
    breaker: CircuitBreaker, redis_client: redis.Redis, settings: Settings, exporter: Exporter
) -> None:
    breaker.trip("MANUAL")
    breaker.trip("DRAWDOWN")
    breaker.reset()
    drain(redis_client, settings)
    expected = {("cb_trip_total", "MANUAL"): 1, ("cb_trip_total", "DRAWDOWN"): 1, ("cb_reset_total",): 1}
    first = parse(exporter.scrape().decode())
    assert {key: first[key] for key in expected} == expected
    breaker.trip("MANUAL")
    drain(redis_client, settings)
    assert parse(exporter.scrape().decode())["cb_trip_total", "MANUAL"] == 2
    later = Exporter(settings)
    assert parse(later.scrape().decode())["cb_trip_total", "MANUAL"] == 2
    later.close()


def test_the_first_trip_of_a_kind_is_an_increase(breaker: CircuitBreaker, scrape: Scrape) -> None:
    assert scrape()["cb_trip_total", "API_ERRORS"] == 0


def test_the_runbooks_manual_override_counts_as_a_trip(
    breaker: CircuitBreaker, redis_client: redis.Redis, settings: Settings, scrape: Scrape
) -> None:
    drain(redis_client, settings)
    redis_client.set("circuit_breaker:state", '{"state":"TRIPPED","tripped_at":"2025-01-15T10:00:00Z"}')
    reconcile(redis_client, open_ready_ledger(settings))
    values = scrape()
    assert (values["cb_trip_total", "OVERRIDE"], values["cb_override_total",]) == (1, 1)


def test_the_outbox_lag_is_the_age_of_what_the_ledger_lacks(
    breaker: CircuitBreaker, redis_client: redis.Redis, settings: Settings, scrape: Scrape
) -> None:
    waiting = scrape()
    assert waiting["cb_outbox_entries", "global"] == 1
    assert 0 <= waiting["cb_outbox_oldest_seconds", "global"] < 60
    drain(redis_client, settings)
    assert scrape()["cb_outbox_oldest_seconds", "global"] == 0


def test_the_ledger_lags_by_the_oldest_that_it_lacks_in_redis_or_in_the_spool(
    breaker: CircuitBreaker, redis_client: redis.Redis, settings: Settings, scrape: Scrape
) -> None:
    drain(redis_client, settings)
    assert scrape()["cb_ledger_lag_seconds",] == 0
    breaker.trip("MANUAL")
    eventually(lambda: 0 < scrape()["cb_ledger_lag_seconds",] < 60)
    an_hour_ago = datetime.now(UTC) - timedelta(hours=1)
    open_spool(settings).add([AuditRecord(action="LOGIN", source="console", timestamp=an_hour_ago)])
    values = scrape()
    assert (values["cb_spool_records",], values["cb_ledger_last_seq",]) == (1, 1)
    assert 3600 <= values["cb_spool_oldest_seconds",] < 3700
    assert values["cb_ledger_lag_seconds",] == values["cb_spool_oldest_seconds",]
    eventually(lambda: scrape()["cb_spool_copied_records",] == 1, "on another host it would be seen by this alone")


def test_a_lag_that_is_not_known_is_left_out(redis_client: redis.Redis, scrape: Scrape) -> None:
    redis_client.set("circuit_breaker:outbox", "no stream")
    values = scrape()
    assert ("cb_ledger_lag_seconds",) not in values
    assert values["cb_spool_oldest_seconds",] == 0


async def test_the_age_of_the_scheduled_verification_is_exported_once_there_was_one(
    breaker: CircuitBreaker, settings: Settings, redis_client: redis.Redis, scrape: Scrape
) -> None:
    age = ("cb_verification_age_seconds",)
    assert age not in scrape()
    assert await write_last(settings, LastVerification(datetime.now(UTC) - timedelta(minutes=7))) == []
    assert 420 <= scrape()[age] < 480
    redis_client.set(KEY, "no verification")
    values = scrape()
    assert age not in values and values["cb_staleness_seconds",] == 0


def test_gates_and_what_their_checks_came_to_are_exported(
    breaker: CircuitBreaker, redis_server: EmbeddedRedis, redis_client: redis.Redis, scrape: Scrape
) -> None:
    assert scrape()["cb_gates", "LOST"] == 0
    with Gate(redis_server.url) as gate:
        assert gate.wait_until_open(20)
        assert gate.check(OrderIntent("AAPL", "buy", 1), 0)
        values = eventually(lambda: values if (values := scrape())["cb_gates_open",] == 1 else None)
        assert values is not None
        assert values["cb_gates", "OPEN"] == 1
        assert 0 <= values["cb_gate_lease_age_seconds",] < 0.2
        lose_a_gate(redis_client)
        values = scrape()
        assert (values["cb_gates", "LOST"], values["cb_gates", "OPEN"]) == (1, 1)
    eventually(lambda: scrape()["cb_gates_open",] == 0)
    values = scrape()
    assert (values["cb_gates", "LOST"], values["cb_gate_checks_total", "admitted"]) == (1, 6)
    assert ("cb_gate_lease_age_seconds",) not in values


def test_reports_that_cannot_be_read_do_not_touch_the_verification(
    breaker: CircuitBreaker, redis_client: redis.Redis, scrape: Scrape
) -> None:
    redis_client.set("circuit_breaker:gates", "no set")
    values = scrape()
    assert values["cb_staleness_seconds",] == 0
    assert not [key for key in values if key[0].startswith("cb_gate")]


def test_a_changed_row_is_a_broken_chain(
    breaker: CircuitBreaker, redis_client: redis.Redis, settings: Settings, exporter: Exporter
) -> None:
    ledger = open_ready_ledger(settings)
    ledger.append([AuditRecord(action="LOGIN", source="console", user_id=f"u{n}") for n in range(3)])
    exporter.start()
    eventually(lambda: parse(exporter.scrape().decode()).get(("cb_chain_verified",)) == 1)
    with ledger.engine.begin() as connection:
        connection.exec_driver_sql("DROP TRIGGER audit_log_no_update")
        connection.exec_driver_sql("UPDATE audit_log SET user_id = 'x' WHERE seq = 3")
    again = Exporter(settings)
    again.start()
    eventually(lambda: parse(again.scrape().decode()).get(("cb_chain_verified",)) == 0)
    again.close()


def test_a_reason_that_is_no_code_never_becomes_a_label() -> None:
    counts = Counts()
    for reason in ["free text", "<script>", "", None, *(f"R{n}" for n in range(500))]:
        counts = add_row(counts, "CIRCUIT_BREAKER_TRIP", "OK", {"reason": reason})
    assert len(counts.trips) <= 41
    assert sum(counts.trips.values()) == 504


def test_a_kill_switch_shows_how_it_ended_and_how_long_it_took(settings: Settings, scrape: Scrape) -> None:
    details = {"flat": False, "halted_after": 0.1, "no_orders_after": 2.5, "flat_after": None}
    open_ready_ledger(settings).append([AuditRecord(action="KILL_SWITCH_FINISHED", source="cli", details=details)])
    values = scrape()
    assert values["cb_kill_switch_flat",] == 0
    assert values["cb_kill_switch_runs_total", "not_flat"] == 1
    assert values["cb_kill_switch_seconds", "no_orders"] == 2.5
    assert ("cb_kill_switch_seconds", "flat") not in values


def test_what_a_kill_switch_left_is_counted_by_account_also_with_redis_away(
    own_server: EmbeddedRedis, make_settings: MakeSettings
) -> None:
    account = {"base_url": "http://127.0.0.1:1", "key_id": "k", "secret_key": "s"}
    accounts = {"accounts": {"ALPHA": account, "BETA": account}}
    now = datetime.now(UTC)
    pending = PendingExit("ALPHA", "AAPL", Decimal(10), "market closed", "incident", "global", now, now)
    with open_pending_exits(make_settings(own_server.url)) as store:
        store.write(AccountExits("ALPHA", now, (pending,)))
    for away in (False, True):
        if away:
            own_server.stop()
        exporter = Exporter(make_settings(own_server.url, **accounts))
        values = parse(exporter.scrape().decode())
        exporter.close()
        assert (values["cb_pending_exits", "ALPHA"], values["cb_pending_exits", "BETA"]) == (1, 0)


def test_a_venues_own_timer_shows_where_it_stands_and_who_keeps_none(
    redis_server: EmbeddedRedis, redis_client: redis.Redis, make_settings: MakeSettings
) -> None:
    account = {"base_url": "http://127.0.0.1:1", "key_id": "k", "secret_key": "s"}
    wanted = account | {"safety_net": 60}
    seconds, micros = redis_client.time()
    now = seconds + micros / 1_000_000

    def keep(account: str, standing: Standing, as_of: float) -> None:
        record = NetRecord(
            account=account, standing=standing, timeout=60, as_of=as_of, seconds_left=50, verified=True, firings=2
        )
        redis_client.hset(NETS, account, record.as_json())

    keep("ALPHA", Standing.ARMED, now)
    keep("BETA", Standing.ARMED, now - 3_600)
    keep("DELTA", Standing.FIRED, now)
    redis_client.hset(NETS, "GAMMA", "what another version has written")
    accounts = {"ALPHA": wanted, "BETA": wanted, "GAMMA": wanted, "DELTA": account}
    exporter = Exporter(make_settings(redis_server.url, accounts=accounts))
    values = parse(exporter.scrape().decode())
    exporter.close()
    standing = {
        (name, word): values["cb_safety_net", name, word]
        for name in ("ALPHA", "BETA", "GAMMA")
        for word in ("armed", "not_kept")
    }
    assert standing == {
        ("ALPHA", "armed"): 1,
        ("ALPHA", "not_kept"): 0,
        ("BETA", "armed"): 0,
        ("BETA", "not_kept"): 1,
        ("GAMMA", "armed"): 0,
        ("GAMMA", "not_kept"): 1,
    }
    assert 0 < values["cb_safety_net_left_seconds", "ALPHA"] <= 50 and not values["cb_safety_net_left_seconds", "BETA"]
    assert values["cb_safety_net_firings_total", "ALPHA"] == 2 and values["cb_safety_net_verified", "ALPHA"] == 1
    assert ("cb_safety_net", "DELTA", "fired") not in values, "nobody asks for it any more"


def test_the_last_drill_shows_its_result_its_age_and_its_figures(settings: Settings, scrape: Scrape) -> None:
    assert ("cb_drill_passed",) not in scrape()
    failed = DrillResult(20, 6, flat_after=1.5, problems=("not recovered: it took too long",))
    for result in (DrillResult(20, 6), failed):
        record = AuditRecord(action="DRILL_FINISHED", source="flow", details=result.as_dict())
        open_ready_ledger(settings).append([record])
    values = scrape()
    assert values["cb_drill_passed",] == 0
    assert values["cb_drill_at_seconds",] == pytest.approx(failed.started_at.timestamp())
    assert values["cb_drill_seconds", "flat"] == 1.5
    assert ("cb_drill_seconds", "recovery") not in values


def test_denied_attempts_are_counted(settings: Settings, scrape: Scrape) -> None:
    open_ready_ledger(settings).append([AuditRecord(action="PERMISSION_DENIED", source="api", outcome=DENIED)])
    assert scrape()["cb_denied_total",] == 1


def test_a_second_breaker_is_verified_too(
    breaker: CircuitBreaker, redis_client: redis.Redis, settings: Settings, exporter: Exporter
) -> None:
    CircuitBreaker(redis_client, "account:ALPHA").trip("MANUAL")
    exporter.start()
    eventually(lambda: ("cb_state", "account:ALPHA", "TRIPPED") in parse(exporter.scrape().decode()))
    redis_client.delete("circuit_breaker:state:account:ALPHA")
    assert parse(exporter.scrape().decode())["cb_staleness_seconds",] == 999_999


def test_metrics_are_served_over_http(breaker: CircuitBreaker, settings: Settings) -> None:
    server = MetricsServer(Exporter(settings), "127.0.0.1", 0)
    thread = threading.Thread(target=server.serve)
    thread.start()
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics", timeout=5) as answer:
            assert answer.headers["Content-Type"].startswith("text/plain")
            assert "cb_staleness_seconds 0.0" in answer.read().decode()
    finally:
        server.stop()
        thread.join()
