"""What a client sees reaches the automatic rules without an order waiting for it."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
import redis

from breaker import CircuitBreaker
from breaker.engines import RulesFeed
from breaker.rules import Limits, Rules
from tests.helpers import eventually


@pytest.fixture
def cb(redis_client: redis.Redis) -> Iterator[CircuitBreaker]:
    breaker = CircuitBreaker(redis_client)
    breaker.initialize_state()
    yield breaker
    breaker.close()


def test_errors_trip_and_a_success_ends_the_row(cb: CircuitBreaker, redis_client: redis.Redis) -> None:
    feed = RulesFeed(Rules(redis_client, limits=Limits(api_errors=2)), "alpaca")
    for _ in range(3):
        feed.call_failed()
    eventually(cb.is_tripped)
    assert cb.get_status()["trip_reason"] == "API_ERRORS"
    feed.close()


def test_rejections_in_a_row_trip_unless_an_order_is_accepted(cb: CircuitBreaker, redis_client: redis.Redis) -> None:
    feed = RulesFeed(Rules(redis_client, limits=Limits(consecutive_rejections=3)), "alpaca")
    for _ in range(2):
        for _ in range(2):
            feed.order_rejected("insufficient buying power")
        feed.order_accepted()
    feed.order_rejected("x" * 1000)
    feed.order_rejected("")
    feed.close()
    assert not cb.is_tripped()


def test_equity_trips(cb: CircuitBreaker, redis_client: redis.Redis) -> None:
    feed = RulesFeed(Rules(redis_client), "alpaca")
    feed.equity(Decimal(100_000))
    feed.equity(Decimal(90_000))
    eventually(cb.is_tripped)
    feed.close()


def test_slow_answers_trip_and_while_the_rule_is_off_none_is_told(
    cb: CircuitBreaker, redis_client: redis.Redis
) -> None:
    off = RulesFeed(Rules(redis_client), "alpaca")
    off.latency(60)
    off.close()
    assert not redis_client.hexists("circuit_breaker:judged", "API_LATENCY")
    feed = RulesFeed(Rules(redis_client, limits=Limits(api_latency=2)), "alpaca")
    for _ in range(3):
        feed.latency(2.5)
    eventually(cb.is_tripped)
    feed.close()
    assert cb.get_status()["trip_reason"] == "API_LATENCY"


def test_of_many_successes_one_is_told_and_always_the_first_after_an_error() -> None:
    told: list[str] = []

    class Heard:
        def record_api_success(self, source: str) -> None:
            told.append("success")

        def record_api_error(self, source: str) -> None:
            told.append("error")

    heard: Any = Heard()
    feed = RulesFeed(heard, "alpaca")
    for _ in range(3):
        feed.call_succeeded()
    feed.call_failed()
    feed.call_succeeded()
    feed.close()
    assert told[0] == "success"
    assert told[-2:] == ["error", "success"]


def test_without_redis_nothing_is_raised_and_what_is_lost_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    client = redis.Redis(port=1)
    feed = RulesFeed(Rules(client, timeout=0.2), "alpaca")
    feed.call_failed()
    feed.call_failed()
    eventually(lambda: feed.dropped == 2)
    feed.close()
    feed.call_failed()
    assert sum("automatic rules miss" in record.message for record in caplog.records) == 1


def test_without_rules_it_does_nothing() -> None:
    feed = RulesFeed(None, "alpaca")
    feed.order_sent("submit_order")
    feed.close()
    assert feed.dropped == 0
