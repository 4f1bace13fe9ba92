"""The automatic trips: recorded and judged in one step, once, and never on an impossible measurement."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from breaker import BreakerUnavailable, CircuitBreaker, InvalidInput, RedisRefused, State
from breaker.deadline_client import DeadlineClient
from breaker.gate import Gate
from breaker.gate.staleness_watch import StalenessWatch
from breaker.keys import Keys
from breaker.rule_requests import RuleRequests, read_outcome
from breaker.rules import AsyncRules, Limits, Rule, Rules, Verdict
from breaker.uuid7 import uuid7
from configuration.breakers import limits_from
from configuration.settings import Settings, load_settings
from proofs.fork_server import ForkServer
from sandbox.embedded_redis import EmbeddedRedis
from tests.helpers import eventually

ALL = Limits(daily_loss=Decimal("0.03"), consecutive_rejections=3)


@pytest.fixture
def breaker(redis_client: redis.Redis) -> Iterator[CircuitBreaker]:
    cb = CircuitBreaker(redis_client, quiet_period=0, reset_interval=0)
    cb.initialize_state()
    yield cb
    cb.close()


@pytest.fixture
def rules(redis_client: redis.Redis) -> Iterator[Rules]:
    made = Rules(redis_client)
    yield made
    made.close()


def rule_set(client: redis.Redis, scope: str = "global", **limits: Any) -> Rules:
    return Rules(client, scope, limits=Limits(**limits))


def test_the_eleventh_error_in_five_minutes_trips(breaker: CircuitBreaker, rules: Rules) -> None:
    assert [rules.record_api_error("alpaca").verdict for _ in range(10)] == [Verdict.WITHIN] * 10
    assert breaker.get_state() is State.OPEN
    outcome = rules.record_api_error("alpaca")
    assert outcome.verdict is Verdict.TRIPPED
    status = breaker.get_status()
    assert status.trip_reason == "API_ERRORS"
    assert status.trip_details == {"measured": "11", "limit": "10", "window": "300 s", "source": "alpaca"}
    assert rules.record_api_error("alpaca").verdict is Verdict.ALREADY_TRIPPED
    event = breaker.get_history(1)[0]
    assert (event.source, event.by, event.reason) == ("rule", "rule", "API_ERRORS")
    assert len(breaker.get_history(10)) == 2


def test_an_error_sent_again_after_the_reset_of_its_trip_does_not_trip_anew(
    breaker: CircuitBreaker, redis_client: redis.Redis
) -> None:
    """Its answer was lost; meanwhile somebody has reset the breaker."""
    deadline_client = DeadlineClient(redis_client, 2.0)
    error = RuleRequests(Keys.of(), Limits(api_errors=0)).api_error("alpaca")
    assert read_outcome(deadline_client.execute(error)[0]).verdict is Verdict.TRIPPED
    breaker.reset(reset_by="me")
    assert read_outcome(deadline_client.execute(error)[0]).verdict is Verdict.TRIPPED
    assert breaker.get_state() is State.OPEN
    deadline_client.close()


def test_a_burst_from_eight_processes_trips_exactly_once_at_the_eleventh(
    breaker: CircuitBreaker, redis_server: EmbeddedRedis, fork_server: ForkServer
) -> None:
    program = (
        "import sys, redis; from breaker.rules import Rules\n"
        f"rules = Rules(redis.Redis.from_url({redis_server.url!r}))\n"
        "print('ready', flush=True); sys.stdin.read()\n"
        "for _ in range(4):\n"
        "    outcome = rules.record_api_error('venue')\n"
        "    print(outcome.verdict.value, outcome.details['measured'], flush=True)\n"
    )
    ready, go = os.pipe()
    processes = [fork_server.start("-c", program, stdin=ready, stdout=subprocess.PIPE) for _ in range(8)]
    os.close(ready)
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    os.close(go)
    lines = [line for process in processes if process.stdout is not None for line in process.stdout]
    assert [process.wait(30) for process in processes] == [0] * 8
    verdicts = sorted((int(line.split()[1]), line.split()[0]) for line in lines)
    assert [verdict for _, verdict in verdicts] == ["WITHIN"] * 10 + ["TRIPPED"] + ["ALREADY_TRIPPED"] * 21
    assert [count for count, _ in verdicts] == list(range(1, 33))
    assert [event.transition for event in breaker.get_history(10)].count("TRIP") == 1  # type: ignore[arg-type]


def test_errors_older_than_the_window_do_not_count(breaker: CircuitBreaker, redis_client: redis.Redis) -> None:
    rules = rule_set(redis_client, api_errors=2, api_error_window=1.0)
    for _ in range(2):
        rules.record_api_error("x")
    time.sleep(1.05)
    assert rules.record_api_error("x").details["measured"] == "1"
    assert breaker.get_state() is State.OPEN


@pytest.mark.parametrize(
    ("equities", "tripped"),
    [
        (["100", "95"], False),
        (["100", "94.99"], True),
        (["100", "200", "189"], True),
        (["1.1", "1.045"], False),
        (["100", "96", "110", "104.5", "104.4"], True),
        (["100", "120", "114", "130", "123.5"], False),
    ],
)
def test_equity_more_than_five_percent_under_its_high_water_mark_trips(
    breaker: CircuitBreaker, rules: Rules, equities: list[str], tripped: bool
) -> None:
    outcomes = [rules.record_equity(equity) for equity in equities]
    assert breaker.is_tripped() is tripped
    if tripped:
        assert outcomes[-1].verdict is Verdict.TRIPPED
        assert breaker.get_status().trip_reason == "DRAWDOWN"
        details = breaker.get_status().trip_details
        assert details["equity"] == equities[-1]
        assert details["limit"] == "5%"
        assert all(isinstance(value, str) for value in details.values())


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.decimals("1", "1000", places=2), min_size=1, max_size=12))
def test_drawdown_is_measured_from_the_highest_so_far(redis_client: redis.Redis, equities: list[Decimal]) -> None:
    redis_client.flushall()
    with_breaker = CircuitBreaker(redis_client)
    with_breaker.initialize_state()
    rules = Rules(redis_client)
    high = Decimal(0)
    expected = False
    for equity in equities:
        high = max(high, equity)
        expected = expected or (high - equity) / high > Decimal("0.05")
        rules.record_equity(equity)
        assert with_breaker.is_tripped() is expected


@pytest.mark.parametrize("value", ["NaN", float("nan"), float("inf"), "-inf", "", "ten", None, True, "0x10"])
def test_an_impossible_equity_is_refused_and_counted(breaker: CircuitBreaker, rules: Rules, value: Any) -> None:
    rules.record_equity(100)
    assert rules.record_equity(value).verdict is Verdict.REFUSED
    assert rules.refused_measurements() == {"EQUITY": 1}
    assert rules.record_equity("99").details["reference"] == "100"
    assert breaker.get_state() is State.OPEN


@pytest.mark.parametrize("garbage", ["nan", "inf", "-1", "a lot", ""])
def test_a_mark_that_somebody_has_damaged_hides_no_fall_for_long(
    breaker: CircuitBreaker, redis_client: redis.Redis, garbage: str
) -> None:
    rules = rule_set(redis_client, daily_loss=Decimal("0.05"))
    rules.record_equity(100)
    fields = ("high_water", "day_start", "equity", "lowest_rise", "rising", "measured_at")
    redis_client.hset("circuit_breaker:equity", mapping=dict.fromkeys(fields, garbage))
    assert rules.record_equity(100).verdict is Verdict.WITHIN
    assert rules.record_equity(90).verdict is Verdict.TRIPPED


def test_a_rise_whose_lowest_was_taken_away_is_counted_anew(breaker: CircuitBreaker, redis_client: redis.Redis) -> None:
    rules = rule_set(redis_client, confirmations={Rule.DRAWDOWN: 3})
    for equity in (100, 110):
        rules.record_equity(equity)
    redis_client.hdel("circuit_breaker:equity", "lowest_rise")
    assert rules.record_equity(111).verdict is Verdict.WITHIN


def test_a_feed_is_not_young_for_ever_because_somebody_wrote_garbage(
    breaker: CircuitBreaker, redis_client: redis.Redis
) -> None:
    rules = rule_set(redis_client, data_age=1.0)
    redis_client.set("circuit_breaker:heartbeat:prices", "2999-01-01T00:00:00Z")
    redis_client.hset("circuit_breaker:feeds", "prices", "soon")
    rules.check_staleness(["prices"])
    eventually(lambda: rules.check_staleness(["prices"]).verdict is Verdict.TRIPPED)


def test_what_somebody_else_wrote_among_counts_and_dry_runs_hides_none(rules: Rules, redis_client: redis.Redis) -> None:
    rules.record_equity("none")
    redis_client.hset("circuit_breaker:refused_measurements", mapping={b"\xff": b"1", "mine": "many"})
    assert rules.refused_measurements() == {"EQUITY": 1, "\ufffd": 1}
    redis_client.xadd("circuit_breaker:would_have_tripped", {b"\xfe": b"\xff"})
    assert rules.would_have_tripped() == [{"\ufffd": "\ufffd"}]


def test_measurements_from_the_future_or_out_of_order_are_refused(breaker: CircuitBreaker, rules: Rules) -> None:
    now = datetime.now(UTC)
    assert rules.record_equity(100, at=now).verdict is Verdict.WITHIN
    assert rules.record_equity(1, at=now + timedelta(hours=1)).verdict is Verdict.REFUSED
    assert "is known already" in rules.record_equity(1, at=now - timedelta(minutes=1)).details["problem"]
    assert rules.heartbeat("prices", at=now + timedelta(hours=1)).verdict is Verdict.REFUSED
    assert rules.refused_measurements() == {"EQUITY": 2, "HEARTBEAT": 1}
    with pytest.raises(InvalidInput, match="time zone"):
        rules.record_equity(100, at=datetime(2026, 1, 1))  # noqa: DTZ001
    assert breaker.get_state() is State.OPEN


def test_a_deposit_or_withdrawal_moves_the_mark_when_told(breaker: CircuitBreaker, rules: Rules) -> None:
    rules.record_equity(100)
    rules.rebase_equity(50)
    assert rules.record_equity(48).verdict is Verdict.WITHIN
    assert breaker.get_state() is State.OPEN


def test_a_mark_begins_anew_at_the_last_equity_which_is_no_younger_for_that(
    breaker: CircuitBreaker, redis_client: redis.Redis
) -> None:
    rules = Rules(redis_client, limits=ALL)
    assert rules.rebase_equity().verdict is Verdict.REFUSED, "there is none yet"
    rules.record_equity(100, datetime.now(UTC) - timedelta(hours=1))
    rules.record_equity(90, datetime.now(UTC) - timedelta(minutes=30))
    breaker.reset(reset_by="me")
    before = redis_client.hget("circuit_breaker:equity", "measured_at")
    event_id = uuid7()
    first = rules.rebase_equity(event_id=event_id)
    assert (first.verdict, first.details["high_water_before"]) == (Verdict.WITHIN, "100")
    assert redis_client.hget("circuit_breaker:equity", "measured_at") == before
    assert rules.record_equity(89).verdict is Verdict.WITHIN, "neither a drawdown nor a daily loss"
    assert rules.rebase_equity(event_id=event_id) == first
    assert redis_client.hget("circuit_breaker:equity", "high_water") == b"90", "the same event does it once"
    assert rules.rebase_equity("nonsense").verdict is Verdict.REFUSED
    assert rules.refused_measurements() == {"EQUITY": 1}
    assert rules.record_equity(80).verdict is Verdict.TRIPPED


def test_confirmations_guard_against_phantom_ticks_both_ways(
    breaker: CircuitBreaker, redis_client: redis.Redis
) -> None:
    rules = rule_set(redis_client, confirmations={Rule.DRAWDOWN: 3})
    verdicts = [rules.record_equity(equity).verdict for equity in (100, 10, 100, 1000, 100, 94, 94)]
    assert set(verdicts) == {Verdict.WITHIN, Verdict.UNCONFIRMED}
    assert rules.record_equity(94).verdict is Verdict.TRIPPED


def test_daily_loss_and_rejections_are_off_unless_asked_for(breaker: CircuitBreaker, redis_client: redis.Redis) -> None:
    plain = Rules(redis_client)
    plain.record_equity(100)
    assert plain.record_equity("96").verdict is Verdict.WITHIN
    assert {plain.record_order_rejected("no").verdict for _ in range(50)} == {Verdict.OFF}
    plain.record_order_accepted()
    strict = Rules(redis_client, limits=ALL)
    assert strict.record_equity("96").verdict is Verdict.TRIPPED
    assert breaker.get_status().trip_reason == "DAILY_LOSS"
    breaker.reset(reset_by="me")
    assert [strict.record_order_rejected("insufficient funds").verdict for _ in range(3)] == [Verdict.WITHIN] * 3
    strict.record_order_accepted()
    assert [strict.record_order_rejected("halted").verdict for _ in range(4)][-1] is Verdict.TRIPPED
    assert breaker.get_status().trip_details["last"] == "halted"


def test_a_new_day_begins_with_the_last_equity_of_the_day_before(
    breaker: CircuitBreaker, redis_client: redis.Redis
) -> None:
    rules = rule_set(redis_client, drawdown=None, daily_loss=Decimal("0.03"))
    yesterday = datetime.now(UTC) - timedelta(days=1)
    rules.record_equity(200, at=yesterday - timedelta(seconds=1))
    rules.record_equity(100, at=yesterday)
    breaker.trip("MANUAL")
    breaker.reset(reset_by="me")
    assert rules.record_equity("97.1").verdict is Verdict.WITHIN
    assert rules.record_equity("96.9").verdict is Verdict.TRIPPED


class Sessions:
    """A calendar whose market is open since the given time, or closed."""

    def __init__(self, since: datetime | None) -> None:
        self.since = since

    def open_since(self, at: datetime) -> datetime | None:
        assert at.tzinfo is not None
        return self.since


def test_old_data_trips_once_whoever_looks_first(breaker: CircuitBreaker, redis_client: redis.Redis) -> None:
    watchers = [Rules(redis_client) for _ in range(3)]
    watchers[0].heartbeat("prices", at=datetime.now(UTC) - timedelta(minutes=29))
    watchers[0].heartbeat("news")
    assert watchers[0].check_staleness(["prices", "news"]).verdict is Verdict.WITHIN
    redis_client.set("circuit_breaker:heartbeat:prices", (datetime.now(UTC) - timedelta(minutes=31)).isoformat())
    verdicts = [watcher.check_staleness(["prices", "news"]).verdict for watcher in watchers]
    assert verdicts == [Verdict.TRIPPED, Verdict.ALREADY_TRIPPED, Verdict.ALREADY_TRIPPED]
    details = breaker.get_status().trip_details
    assert (details["feed"], details["limit"]) == ("prices", "1800 s")
    assert breaker.get_status().trip_reason == "DATA_STALENESS"


def test_data_is_not_missed_while_the_market_is_closed(breaker: CircuitBreaker, redis_client: redis.Redis) -> None:
    old = datetime.now(UTC) - timedelta(days=3)
    Rules(redis_client).heartbeat("prices", at=old)
    closed = Rules(redis_client, calendar=Sessions(None))
    assert closed.check_staleness(["prices"]).verdict is Verdict.WITHIN
    just_opened = Rules(redis_client, calendar=Sessions(datetime.now(UTC) - timedelta(minutes=5)))
    assert just_opened.check_staleness(["prices"]).verdict is Verdict.WITHIN
    assert breaker.get_state() is State.OPEN
    long_open = Rules(redis_client, calendar=Sessions(datetime.now(UTC) - timedelta(minutes=31)))
    assert long_open.check_staleness(["prices"]).verdict is Verdict.TRIPPED


def test_a_feed_that_never_came_is_as_old_as_the_waiting(breaker: CircuitBreaker, redis_client: redis.Redis) -> None:
    rules = rule_set(redis_client, data_age=1.0)
    assert rules.check_staleness(["prices"]).verdict is Verdict.WITHIN
    time.sleep(1.05)
    assert rules.check_staleness(["prices"]).verdict is Verdict.TRIPPED


def test_a_gate_looks_at_the_age_of_data(
    breaker: CircuitBreaker, redis_server: EmbeddedRedis, redis_client: redis.Redis
) -> None:
    rules = rule_set(redis_client, data_age=1.0)
    rules.heartbeat("prices", at=datetime.now(UTC) - timedelta(seconds=0.8))
    with Gate(redis_server.url) as gate:
        assert gate.wait_until_open(20)
        gate.watch_feeds(rules, ["prices"], every=0.05)
        eventually(lambda: not gate.is_open)
    assert breaker.get_status().trip_reason == "DATA_STALENESS"


def test_a_watch_outlives_an_outage(own_server: EmbeddedRedis) -> None:
    client = redis.Redis.from_url(own_server.url)
    breaker = CircuitBreaker(client)
    breaker.initialize_state()
    rules = Rules(client, limits=Limits(data_age=1.0), timeout=0.2)
    rules.heartbeat("prices")
    own_server.kill()
    watch = StalenessWatch(rules, ["prices"], every=0.05)
    watch.start()
    with pytest.raises(BreakerUnavailable):
        rules.check_staleness(["prices"])
    own_server.start()
    eventually(breaker.is_tripped)
    watch.stop()
    assert breaker.get_status().trip_reason == "DATA_STALENESS"


def test_a_dry_run_records_once_what_it_would_have_done(breaker: CircuitBreaker, redis_client: redis.Redis) -> None:
    rules = rule_set(redis_client, api_errors=2, dry_run=frozenset({Rule.API_ERRORS}))
    verdicts = [rules.record_api_error("venue").verdict for _ in range(5)]
    assert verdicts == [Verdict.WITHIN] * 2 + [Verdict.WOULD_TRIP] * 3
    assert breaker.get_state() is State.OPEN
    (entry,) = rules.would_have_tripped()
    assert (entry["rule"], entry["scope"]) == ("API_ERRORS", "global")
    assert json.loads(entry["details"])["measured"] == "3"


def test_each_scope_has_its_own_measurements_and_limits(breaker: CircuitBreaker, redis_client: redis.Redis) -> None:
    limits = {"account:ALPHA": Limits(api_errors=1), "global": Limits(api_errors=100)}
    alpha = Rules(redis_client, "account:ALPHA", limits=limits)
    desk = Rules(redis_client, limits=limits)
    beta = Rules(redis_client, "account:BETA", limits=limits)
    for _ in range(2):
        for rules in (alpha, desk, beta):
            rules.record_api_error("venue")
    assert CircuitBreaker(redis_client, "account:ALPHA").get_state() is State.TRIPPED
    assert breaker.get_state() is State.OPEN
    assert redis_client.exists("circuit_breaker:state:account:BETA") == 0
    assert desk.record_api_error("venue").details == {
        "measured": "3", "limit": "100", "window": "300 s", "source": "venue",
    }  # fmt: skip


@pytest.mark.parametrize(
    "key", ["api_errors", "confirmations", "refused_measurements", "would_have_tripped", "history"]
)
def test_somebody_elses_value_in_a_key_does_not_stop_a_trip(
    breaker: CircuitBreaker, redis_client: redis.Redis, key: str
) -> None:
    redis_client.delete(f"circuit_breaker:{key}")
    redis_client.set(f"circuit_breaker:{key}", "x")
    rules = rule_set(redis_client, api_errors=0)
    assert rules.record_api_error("venue").verdict is Verdict.TRIPPED
    assert breaker.is_tripped()


def test_a_trip_succeeds_from_a_flushed_redis(redis_client: redis.Redis) -> None:
    assert rule_set(redis_client, api_errors=0).record_api_error("venue").verdict is Verdict.TRIPPED
    assert CircuitBreaker(redis_client).get_state() is State.TRIPPED


def test_a_rule_that_may_not_trip_says_so(breaker: CircuitBreaker, redis_client: redis.Redis) -> None:
    redis_client.acl_setuser(
        "recorder", enabled=True, passwords=["+x"], keys=["circuit_breaker:*"], commands=["+@all", "-xadd"]
    )
    settings = redis_client.connection_pool.connection_kwargs
    limited = redis.Redis(host=settings["host"], port=settings["port"], username="recorder", password="x")
    with pytest.raises(RedisRefused, match="could not be tripped"):
        rule_set(limited, api_errors=0).record_api_error("venue")
    redis_client.acl_deluser("recorder")


@pytest.mark.parametrize(
    "limits",
    [
        {"api_errors": -1},
        {"drawdown": Decimal(5)},
        {"daily_loss": Decimal(0)},
        {"api_error_window": 0},
        {"data_age": float("nan")},
        {"confirmations": {Rule.DRAWDOWN: 0}},
    ],
)
def test_limits_that_make_no_sense_are_refused(limits: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        Limits(**limits)


def test_limits_come_from_the_configuration_by_scope(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    configuration = tmp_path / "breaker.toml"
    configuration.write_text(
        '[rules.global]\napi_errors = 5\noff = ["DATA_STALENESS"]\ndry_run = ["DRAWDOWN"]\n'
        '[rules."account:ALPHA"]\ndrawdown = 0.02\ndaily_loss = 0.01\nconfirmations = { DRAWDOWN = 3 }\n'
    )
    assert limits_from(Settings()) == Limits()
    monkeypatch.setenv("BREAKER_CONFIG", str(configuration))
    settings = load_settings()
    desk = limits_from(settings, "account:BETA")
    assert desk == limits_from(settings)
    assert (desk.api_errors, desk.data_age, desk.dry_run) == (5, None, frozenset({Rule.DRAWDOWN}))
    alpha = limits_from(settings, "account:ALPHA")
    assert (alpha.drawdown, alpha.daily_loss, alpha.confirmations) == (
        Decimal("0.02"), Decimal("0.01"), {Rule.DRAWDOWN: 3},
    )  # fmt: skip


def test_names_that_cant_be_keys_are_refused(rules: Rules) -> None:
    with pytest.raises(InvalidInput, match="feed's name"):
        rules.heartbeat("a b")
    with pytest.raises(InvalidInput, match="can't be recorded"):
        rules.record_api_error("")
    with pytest.raises(InvalidInput, match="No feed"):
        rules.check_staleness([])


def test_asyncio_offers_the_same(breaker: CircuitBreaker, redis_server: EmbeddedRedis) -> None:
    async def record() -> list[Verdict]:
        client: redis.asyncio.Redis = redis.asyncio.Redis.from_url(redis_server.url)
        try:
            rules = AsyncRules(client, limits=ALL, calendar=Sessions(None))
            outcomes = [
                await rules.record_api_error("x"),
                await rules.record_api_success("x"),
                await rules.record_equity(100),
                await rules.rebase_equity(90),
                await rules.heartbeat("prices"),
                await rules.check_staleness(["prices"]),
                await rules.record_order_accepted(),
                await rules.record_order_rejected("no"),
                await rules.record_equity(80),
            ]
            await rules.close()
            return [outcome.verdict for outcome in outcomes]
        finally:
            await client.aclose()

    assert asyncio.run(record()) == [Verdict.WITHIN] * 8 + [Verdict.TRIPPED]
    assert breaker.get_status().trip_reason == "DRAWDOWN"
