"""Positions, margin, order rate, executions and silence: each judged where it is recorded; early warnings once."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
import redis
import redis.asyncio

from breaker import CircuitBreaker, InvalidInput, State
from breaker.limits import Limits, Rule
from breaker.rule_table import RULE_TABLE
from breaker.rules import AsyncRules, Rules, Verdict
from configuration.rules import RuleSettings
from sandbox.embedded_redis import EmbeddedRedis

WARNINGS = "circuit_breaker:rule_warnings"


@pytest.fixture
def breaker(redis_client: redis.Redis) -> Iterator[CircuitBreaker]:
    made = CircuitBreaker(redis_client, quiet_period=0, reset_interval=0)
    made.initialize_state()
    yield made
    made.close()


def rule_set(client: redis.Redis, **limits: Any) -> Rules:
    return Rules(client, limits=Limits(**limits))


def held(**positions: tuple[str, str]) -> dict[str, tuple[Decimal, Decimal]]:
    return {symbol: (Decimal(quantity), Decimal(notional)) for symbol, (quantity, notional) in positions.items()}


def test_every_rule_has_a_row_and_its_limit_a_setting() -> None:
    assert set(RULE_TABLE) == set(Rule)
    settings = {row.setting for row in RULE_TABLE.values()}
    assert settings <= {field.name for field in fields(Limits)} & set(RuleSettings.model_fields)
    for row in RULE_TABLE.values():
        assert row.default == RuleSettings.model_fields[row.setting].default, row.rule
        off: dict[str, Any] = {row.setting: None}
        assert row.limit(Limits(**off)) is None


def test_one_position_too_large_trips_and_so_do_all_together(
    breaker: CircuitBreaker, redis_client: redis.Redis
) -> None:
    rules = rule_set(redis_client, position_size=Decimal(50_000), gross_exposure=Decimal(90_000))
    assert rules.record_positions(held(AAPL=("100", "50000"), TSLA=("-100", "40000"))).verdict is Verdict.WITHIN
    assert rules.record_positions(held(AAPL=("100", "50000"), TSLA=("-100", "40001"))).verdict is Verdict.TRIPPED
    assert breaker.get_status().trip_reason == "GROSS_EXPOSURE"
    breaker.reset(reset_by="ada")
    assert rules.record_positions(held(AAPL=("-100", "-50001"))).verdict is Verdict.TRIPPED
    status = breaker.get_status()
    assert (status.trip_reason, status.trip_details["symbol"]) == ("POSITION_SIZE", "AAPL")
    assert rules.record_positions(held(AAPL=("1", "NaN"))).verdict is Verdict.REFUSED
    assert rules.refused_measurements() == {"POSITIONS": 1}


def test_a_mismatch_trips_when_it_persists(breaker: CircuitBreaker, redis_client: redis.Redis) -> None:
    rules = rule_set(redis_client, position_mismatch=Decimal("0.01"))
    venue = held(BTCUSD=("2", "120000"), AAPL=("100", "20000"))
    assert rules.record_positions(venue).verdict is Verdict.OFF, "no engine has said what it believes in"
    rules.publish_positions({"BTC/USD": Decimal(2), "AAPL": Decimal(100)})
    assert rules.record_positions(venue).verdict is Verdict.WITHIN
    rules.publish_positions({"BTC/USD": Decimal(2), "AAPL": Decimal(100), "TSLA": Decimal(-5)})
    seen = [rules.record_positions(venue).verdict for _ in range(3)]
    assert seen == [Verdict.UNCONFIRMED, Verdict.UNCONFIRMED, Verdict.TRIPPED]
    details = breaker.get_status().trip_details
    assert (details["symbol"], details["venue"], details["engine"]) == ("TSLA", "0", "-5")
    with pytest.raises(InvalidInput, match="no number"):
        rules.publish_positions({"AAPL": Decimal("NaN")})


@pytest.mark.parametrize("believed", ['{"positions": [1, 2]}', '{"positions": {"AAPL": "nan", "MSFT": {}}}'])
def test_positions_that_are_no_numbers_are_none_that_the_engine_holds(
    breaker: CircuitBreaker, redis_client: redis.Redis, believed: str
) -> None:
    redis_client.set("circuit_breaker:believed_positions", believed)
    rules = rule_set(redis_client, position_mismatch=Decimal("0.1"), confirmations={Rule.POSITION_MISMATCH: 1})
    outcome = rules.record_positions(held(AAPL=("1", "5"), MSFT=("1", "5")))
    assert (outcome.verdict, outcome.details["engine"]) == (Verdict.TRIPPED, "0")


@pytest.mark.parametrize(("required", "equity"), [("1e300", "1e-300"), ("1e999999", "1e-999999"), ("1e999999", 5)])
def test_a_margin_of_almost_nothing_is_beyond_any_limit(
    breaker: CircuitBreaker, redis_client: redis.Redis, required: str, equity: str | int
) -> None:
    outcome = rule_set(redis_client, margin=Decimal("0.9")).record_margin(required, equity)
    assert (outcome.verdict, outcome.details["measured"]) == (Verdict.TRIPPED, "1000000.000000")


def test_a_margin_of_an_account_with_nothing_left_is_beyond_any_limit(
    breaker: CircuitBreaker, redis_client: redis.Redis
) -> None:
    rules = rule_set(redis_client, margin=Decimal("0.8"))
    assert rules.record_margin(80_000, 100_000).verdict is Verdict.WITHIN
    assert rules.record_margin(0, -5).verdict is Verdict.WITHIN
    assert rules.record_margin("much", 100_000).verdict is Verdict.REFUSED
    assert rules.record_margin(1, 0).verdict is Verdict.TRIPPED
    assert breaker.get_status().trip_reason == "MARGIN"


def test_more_messages_within_a_second_than_allowed_trip(breaker: CircuitBreaker, redis_client: redis.Redis) -> None:
    rules = rule_set(redis_client, order_rate=3, api_errors=0)
    now = datetime.now(UTC).timestamp()
    old = {f"{i} order": (now - 30) * 1e6 for i in range(50)}
    redis_client.zadd("circuit_breaker:orders_sent", old)
    assert rules.record_order_sent().details["measured"] == "1", "those of before are over"
    soon = {f"soon {i} order": (now + 60) * 1e6 for i in range(3)}  # whatever the machine's pace: within the second
    redis_client.zadd("circuit_breaker:orders_sent", soon)
    assert rules.record_order_sent("cancel").verdict is Verdict.TRIPPED
    assert breaker.get_status().trip_reason == "ORDER_RATE"


def test_three_slow_answers_in_a_row_trip(breaker: CircuitBreaker, redis_client: redis.Redis) -> None:
    assert rule_set(redis_client).record_latency(30, "alpaca").verdict is Verdict.OFF
    rules = rule_set(redis_client, api_latency=0.5)
    seen = [rules.record_latency(seconds, "alpaca").verdict for seconds in (0.5, 0.6, 2, 0.1, 0.501, 3)]
    within, waiting = Verdict.WITHIN, Verdict.UNCONFIRMED
    assert seen == [within, waiting, waiting, within, waiting, waiting], "a quick answer ends the row"
    assert rules.record_latency(float("nan"), "alpaca").verdict is Verdict.REFUSED
    assert rules.record_latency(1.25, "alpaca").verdict is Verdict.TRIPPED
    status = breaker.get_status()
    assert status.trip_reason == "API_LATENCY"
    assert status.trip_details == {"measured": "1.250", "limit": "0.5", "window": "answer of alpaca"}


def test_how_many_slow_answers_trip_is_a_limit_too(breaker: CircuitBreaker, redis_client: redis.Redis) -> None:
    rules = rule_set(redis_client, api_latency=1, confirmations={Rule.API_LATENCY: 1})
    assert rules.record_latency(1.1, "alpaca").verdict is Verdict.TRIPPED
    with pytest.raises(InvalidInput, match="api_latency is 0"):
        Limits(api_latency=0)


def test_a_strategy_that_ran_too_often_stays_disabled_until_a_person_enables_it(
    breaker: CircuitBreaker, redis_client: redis.Redis
) -> None:
    """RTS 6 Art. 15(3)."""
    rules = rule_set(redis_client, repeated_executions=2)
    assert [rules.record_execution().verdict for _ in range(3)] == [Verdict.WITHIN, Verdict.WITHIN, Verdict.TRIPPED]
    again = Rules(redis_client, limits=Limits(repeated_executions=2))
    assert again.record_execution().verdict is Verdict.ALREADY_TRIPPED, "a restart of the engine enables nothing"
    breaker.reset(reset_by="ada")
    assert [rules.record_execution().verdict for _ in range(3)] == [Verdict.WITHIN, Verdict.WITHIN, Verdict.TRIPPED]
    assert breaker.get_status().trip_details["window"] == "since a person enabled it"


class Closed:
    """A calendar of a market that is closed."""

    def open_since(self, at: datetime) -> datetime | None:
        return None


class OpenFor:
    def __init__(self, minutes: int) -> None:
        self.minutes = minutes

    def open_since(self, at: datetime) -> datetime | None:
        return at - timedelta(minutes=self.minutes)


def test_a_rule_that_hears_nothing_is_named_and_trips_only_where_that_is_asked_for(
    breaker: CircuitBreaker, redis_client: redis.Redis
) -> None:
    expected = (Rule.DRAWDOWN, Rule.API_ERRORS)
    rules = rule_set(redis_client)
    rules.record_api_success("venue")
    first = rules.check_silence(expected)
    assert (first.verdict, first.details["silent"]) == (Verdict.OFF, ""), "the waiting begins"
    long_ago = int((datetime.now(UTC) - timedelta(minutes=11)).timestamp() * 1e6)
    redis_client.hset("circuit_breaker:judged", "waiting DRAWDOWN", long_ago)
    assert rules.check_silence(expected).details["silent"] == "DRAWDOWN"
    assert breaker.get_state() is State.OPEN
    limits = Limits(silence_trips=True)
    for calendar in (Closed(), OpenFor(9)):
        assert Rules(redis_client, limits=limits, calendar=calendar).check_silence(expected).details["silent"] == ""
    assert Rules(redis_client, limits=limits, calendar=OpenFor(11)).check_silence(expected).verdict is Verdict.TRIPPED
    assert breaker.get_status().trip_reason == "SILENT_INPUT"
    rules.record_equity(100)
    assert rules.check_silence(expected).details["silent"] == ""
    with pytest.raises(InvalidInput, match="No rule was named"):
        rules.check_silence([])


def warned(client: Any) -> list[tuple[str, str]]:
    return [(each[b"rule"].decode(), each[b"percent"].decode()) for _, each in client.xrange(WARNINGS)]


def test_people_are_warned_once_at_half_and_at_four_fifths_of_a_limit(
    breaker: CircuitBreaker, redis_client: redis.Redis
) -> None:
    rules = rule_set(redis_client, api_errors=None)
    for equity in (100, 98, "97.4", "97.6", "97.3", 96, "96.4", "95.9"):
        rules.record_equity(equity)
    assert warned(redis_client) == [("DRAWDOWN", "50"), ("DRAWDOWN", "80")], "hovering is no news"
    rules.record_equity(99)
    assert warned(redis_client)[2:] == [("DRAWDOWN", "0")], "it is over"
    rules.record_equity("95.5")
    assert warned(redis_client)[3:] == [("DRAWDOWN", "80")], "and from far to near it is told once, as what it is"
    rules.record_equity(99)
    rules.record_equity(90)
    assert warned(redis_client)[4:] == [("DRAWDOWN", "0")], "a trip is told as a trip"
    for _ in range(9):
        rules.record_api_error("venue")
    assert len(warned(redis_client)) == 5, "what is off warns of nothing"


def test_a_process_that_has_the_rule_off_ends_no_warning_of_another_one(
    breaker: CircuitBreaker, redis_client: redis.Redis
) -> None:
    monitor = rule_set(redis_client, daily_loss=Decimal("0.02"), drawdown=None)
    engine = rule_set(redis_client, drawdown=None)
    for rules, equity in ((monitor, "100"), (engine, "98.8"), (monitor, "98.8"), (engine, "98.8"), (monitor, "98.8")):
        rules.record_equity(equity)
    assert warned(redis_client) == [("DAILY_LOSS", "50")]


def test_asyncio_offers_the_further_rules_too(breaker: CircuitBreaker, redis_server: EmbeddedRedis) -> None:
    async def record() -> list[Verdict]:
        async with redis.asyncio.Redis.from_url(redis_server.url) as client:
            rules = AsyncRules(client, limits=Limits(order_rate=100, position_mismatch=Decimal("0.1")))
            await rules.publish_positions({"AAPL": Decimal(1)})
            outcomes = [
                await rules.record_equity(100),
                await rules.record_transfer(10, None, "T"),
                await rules.record_order_sent(),
                await rules.record_positions(held(AAPL=("1", "200"))),
                await rules.record_margin(1, 2),
                await rules.record_execution(),
                await rules.record_latency(0.1, "alpaca"),
                await rules.check_silence([Rule.DRAWDOWN]),
            ]
            await rules.close()
            return [outcome.verdict for outcome in outcomes]

    assert asyncio.run(record()) == [Verdict.WITHIN] * 4 + [Verdict.OFF] * 4
