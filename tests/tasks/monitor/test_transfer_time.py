"""A transfer that is listed late, with its day alone, is put where the equity shows it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from breaker import CircuitBreaker
from breaker.rules import Rules, Verdict
from brokers.protocol import Transfer, TransferKind
from tasks.monitor.transfer_time import KnownEquity, day_began, moved_on_their_days

EVERY = timedelta(seconds=15)
DAY = datetime(2026, 3, 2, tzinfo=UTC)
BEGUN = DAY - timedelta(hours=15)
"""Before the day began anywhere."""
shared_server = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def by_day(amount: object, name: str = "T") -> Transfer:
    return Transfer(name, Decimal(str(amount)), DAY, TransferKind.DEPOSIT, by_day=True)


def course(*equities: object, begun: datetime = BEGUN) -> list[KnownEquity]:
    """One reading of before that day, unless said otherwise, and the others during it."""
    first, *others = (Decimal(str(each)) for each in equities)
    later = DAY + timedelta(hours=9)
    return [KnownEquity(begun, first), *(KnownEquity(later + place * EVERY, each) for place, each in enumerate(others))]


def placed(transfer: Transfer, readings: Sequence[KnownEquity], equity: object) -> int | None:
    """Which reading was the first to have it; None for the one that is being made."""
    at = moved_on_their_days([transfer], readings, Decimal(str(equity)), ())[transfer.id]
    return None if at is None else next(place for place, each in enumerate(readings) if each.at >= at)


def test_it_was_moved_where_the_equity_shows_it() -> None:
    assert placed(by_day(10), course(100, 110, 110), 110) == 1
    assert placed(by_day(10), course(100, 104, 104), 104) == 1, "with a loss beside it"
    assert placed(by_day(10), course(100, 100, 100), 110) is None
    assert placed(by_day(-6), course(100, 100, 94), 94) == 2


def test_what_shows_nowhere_was_in_the_equity_before_the_first_reading_of_that_day() -> None:
    began = DAY + timedelta(hours=8)
    assert placed(by_day(10), course(110, 110, 110, begun=began), 110) == 0
    assert placed(by_day(10), course(100, 104, 104, begun=began), 104) == 1, "so large a gain is rather that one"
    assert placed(by_day(10), course(110, 110, 110), 110) is None, "with a loss as large: somebody looked all the time"


def test_of_two_that_show_it_that_one_counts_that_leaves_the_greater_fall() -> None:
    assert placed(by_day(10), course(100, 110, 120), 120) == 2
    assert placed(by_day(-10), course(100, 90, 80), 80) == 1
    assert placed(by_day(10), course(100, 110, 116), 116) == 1, "the other one shows it worse"


def test_what_is_known_to_have_moved_explains_its_own() -> None:
    readings = course(100, 110, 120)
    known = [(readings[1].at - EVERY / 2, Decimal(10))]
    assert moved_on_their_days([by_day(10)], readings, Decimal(120), known) == {"T": readings[2].at}
    both = moved_on_their_days([by_day(10, "A"), by_day(10, "B")], readings, Decimal(120), ())
    assert set(both.values()) == {readings[1].at, readings[2].at}
    assert moved_on_their_days([by_day(10)], readings, Decimal(140), [(None, Decimal(20))]) == {"T": readings[2].at}


def test_of_another_day_it_was_not() -> None:
    readings = [KnownEquity(DAY - timedelta(days=2), Decimal(100)), KnownEquity(DAY - timedelta(days=1), Decimal(110))]
    assert placed(by_day(10), readings, 120) is None
    assert day_began([by_day(1)]) == DAY - timedelta(hours=14)


gains = st.integers(-20, 20).map(lambda parts: Decimal(parts) / 10_000)


@shared_server
@given(st.data())
def test_told_late_by_its_day_alone_it_counts_as_told_at_once(redis_client: redis.Redis, data: st.DataObject) -> None:
    """Of an account whose transfer is larger than what it gains or loses between two readings."""
    share = data.draw(st.sampled_from([Decimal(share) / 100 for share in (-40, -10, -6, -2, 2, 6, 10, 50, 200)]))
    count = data.draw(st.integers(2, 10))
    moved = data.draw(st.integers(1, count))
    listed = data.draw(st.integers(moved, count))
    loss = data.draw(st.sampled_from([Decimal(0), Decimal("-0.06")])) if share >= Decimal("0.1") else Decimal(0)
    equity, readings, amount = Decimal(100_000), [], Decimal(0)
    for index in range(count + 1):
        if index == moved:
            amount = (equity * share).quantize(Decimal("0.01"))
            equity = equity * (1 + loss) + amount
        equity *= 1 + data.draw(gains)
        readings.append(KnownEquity(BEGUN if index == 0 else DAY + timedelta(hours=9) + index * EVERY, equity))
    transfer = by_day(amount)

    def marks(told: int, at: datetime | None) -> tuple[float, bool]:
        """The mark after all readings, where it is told before that one; and whether it is tripped from then on."""
        redis_client.flushall()
        breaker, rules = CircuitBreaker(redis_client), Rules(redis_client)
        breaker.initialize_state()
        tripped = False
        for index, reading in enumerate(readings):
            if index == told:
                when = reading.at - EVERY / 2 if at is None else at
                tripped = rules.record_transfer(transfer.amount, when, "T").verdict in _BEYOND
            verdict = rules.record_equity(reading.equity, reading.at, day=date(2026, 3, 2)).verdict
            tripped = verdict in _BEYOND if index >= listed else tripped
        rules.close()
        breaker.close()
        return float(redis_client.hget("circuit_breaker:equity", "high_water") or 0), tripped

    at = moved_on_their_days([transfer], readings[:listed], readings[listed].equity, ())["T"]
    mark, tripped = marks(listed, at)
    exact, is_fallen = marks(moved, None)
    assert mark == pytest.approx(exact, rel=1e-9)
    assert tripped == is_fallen
    assert loss or not is_fallen


_BEYOND = frozenset({Verdict.TRIPPED, Verdict.ALREADY_TRIPPED})
