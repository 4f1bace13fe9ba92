"""Money moved in or out is neither a gain nor a loss, whenever it is told; nothing left is the worst drawdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from breaker import CircuitBreaker, InvalidInput, State
from breaker.limits import Limits, Rule
from breaker.rules import Rules, Verdict
from breaker.uuid7 import uuid7

EQUITY = "circuit_breaker:equity"
DAY = date(2026, 3, 2)
EVERY = timedelta(seconds=15)
shared_server = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def breaker(redis_client: redis.Redis) -> Iterator[CircuitBreaker]:
    made = CircuitBreaker(redis_client, quiet_period=0, reset_interval=0)
    made.initialize_state()
    yield made
    made.close()


def rule_set(client: redis.Redis, **limits: Any) -> Rules:
    return Rules(client, limits=Limits(**limits))


class Account:
    """One that is read every 15 seconds, in the past hour, so that what is told late can be told."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.at = datetime.now(UTC) - timedelta(hours=1)

    def read(self, equity: object, **more: Any) -> Verdict:
        self.at += EVERY
        return self.rules.record_equity(str(equity), self.at, day=DAY, **more).verdict

    def move(self, amount: object, after: timedelta = EVERY / 2, name: str = "") -> Verdict:
        """Tell of what was moved after the last reading, or so long after it."""
        return self.rules.record_transfer(str(amount), self.at + after, name or f"T{amount}").verdict


@pytest.fixture
def account(breaker: CircuitBreaker, redis_client: redis.Redis) -> Account:
    return Account(Rules(redis_client))


@pytest.mark.parametrize("left", ["0", "-0.01", "-250000"])
def test_an_account_with_nothing_left_is_the_worst_drawdown(
    breaker: CircuitBreaker, account: Account, left: str
) -> None:
    account.read(100)
    assert account.read(left) is Verdict.TRIPPED
    assert breaker.get_status().trip_reason == "DRAWDOWN"
    assert breaker.get_status().trip_details["equity"] == left
    assert account.read(left) is Verdict.ALREADY_TRIPPED
    assert account.read(99) is Verdict.WITHIN, "judged from the mark of before"


def test_an_account_that_has_nothing_yet_trips_not_and_begins_with_its_first_money(
    breaker: CircuitBreaker, redis_client: redis.Redis
) -> None:
    account = Account(rule_set(redis_client, daily_loss=Decimal("0.02"), loss_velocity=Decimal("0.02")))
    assert account.read(0) is Verdict.WITHIN
    assert account.rules.record_equity(0, account.at, day=DAY).details["measured"] == "not funded"
    assert account.rules.rebase_equity().details["problem"] == "the last equity is 0, from which nothing can be judged"
    account.move(50)
    assert account.read(50) is Verdict.WITHIN
    assert redis_client.hget(EQUITY, "high_water") == b"50"
    assert account.read(0) is Verdict.TRIPPED, "that was lost"


def test_debts_of_an_account_that_never_had_anything_trip(breaker: CircuitBreaker, account: Account) -> None:
    account.read(0)
    assert account.read("-0.01") is Verdict.TRIPPED
    assert breaker.get_status().trip_details["measured"] == "100.0000%"
    assert account.read(0) is Verdict.WITHIN


def test_what_the_venue_does_not_trust_is_set_aside_and_counted(breaker: CircuitBreaker, account: Account) -> None:
    account.read(100)
    assert account.read(1, trusted=False) is Verdict.REFUSED
    assert account.read("Infinity") is Verdict.REFUSED
    assert account.rules.refused_measurements() == {"EQUITY": 1, "EQUITY_UNTRUSTED": 1}
    assert account.read(99) is Verdict.WITHIN
    assert breaker.get_state() is State.OPEN


def test_a_change_of_currency_is_no_loss_and_is_judged_from_anew_after_a_rebase(
    breaker: CircuitBreaker, account: Account, redis_client: redis.Redis
) -> None:
    account.read(100_000, currency="USD")
    assert account.read(99_000) is Verdict.WITHIN, "who doesn't say means the same"
    assert account.read(92_000, currency="eur") is Verdict.REFUSED
    assert account.rules.refused_measurements() == {"EQUITY_CURRENCY": 1}
    assert breaker.get_state() is State.OPEN
    assert account.read("98999", currency="USD") is Verdict.WITHIN
    assert not redis_client.hexists(EQUITY, "in_other_currency")
    account.read(92_000, currency="EUR")
    begun = account.rules.rebase_equity().details
    assert (begun["equity"], begun["currency"], begun["currency_before"]) == ("92000", "EUR", "USD")
    assert account.read(91_000, currency="EUR") is Verdict.WITHIN
    assert account.read(99_000, currency="USD") is Verdict.REFUSED
    assert account.read(87_000, currency="EUR") is Verdict.TRIPPED
    with pytest.raises(InvalidInput, match="is no currency; use a code such as USD"):
        account.read(1, currency="US dollars")


def test_whoever_owes_has_lost_everything_in_any_currency(account: Account, redis_client: redis.Redis) -> None:
    account.read(100_000, currency="USD")
    assert account.read(0, currency="EUR") is Verdict.REFUSED, "nothing is held in it yet"
    assert account.read("-5", currency="EUR") is Verdict.TRIPPED
    assert redis_client.hmget(EQUITY, "high_water", "currency") == [b"100000", b"USD"]
    assert account.read(92_000, currency="EUR") is Verdict.REFUSED


def test_a_rebase_to_an_equity_of_one_s_own_is_in_the_newest_currency(
    breaker: CircuitBreaker, account: Account, redis_client: redis.Redis
) -> None:
    account.read(100_000, currency="USD")
    account.read(92_000, currency="EUR")
    account.rules.rebase_equity(91_000)
    assert redis_client.hmget(EQUITY, "equity", "currency") == [b"91000", b"EUR"]
    assert account.rules.record_equity(90_000, currency="EUR").verdict is Verdict.WITHIN


def test_a_reading_that_is_sent_again_counts_once(breaker: CircuitBreaker, redis_client: redis.Redis) -> None:
    account, same = Account(rule_set(redis_client, confirmations={Rule.DRAWDOWN: 2})), uuid7()
    account.read(100)
    assert account.read(90, event_id=same) is Verdict.UNCONFIRMED
    assert account.read(90, event_id=same) is Verdict.UNCONFIRMED
    assert redis_client.llen("circuit_breaker:equity_readings") == 2
    with pytest.raises(InvalidInput, match="UUID"):
        account.read(90, event_id="the first")


def test_a_withdrawal_of_six_percent_does_not_trip(breaker: CircuitBreaker, account: Account) -> None:
    account.read(100_000)
    account.move(-6_000)
    assert account.read(94_000) is Verdict.WITHIN
    assert account.read(89_301) is Verdict.WITHIN, "five percent of what was left"
    assert account.read("89299") is Verdict.TRIPPED
    assert breaker.get_status().trip_details["reference"] == "94000"


@pytest.mark.parametrize("told_late", [False, True])
@pytest.mark.parametrize("equity", [104_000, 103_400])  # the loss came before the deposit, or after it
def test_a_loss_of_six_percent_trips_beside_a_deposit_of_ten(
    breaker: CircuitBreaker, account: Account, equity: int, told_late: bool
) -> None:
    account.read(100_000)
    if told_late:
        assert account.read(equity) is Verdict.WITHIN, "nobody knows yet that it isn't a gain"
        assert account.move(10_000, -EVERY / 2) is Verdict.TRIPPED
    else:
        account.move(10_000)
        assert account.read(equity) is Verdict.TRIPPED
    assert breaker.get_status().trip_reason == "DRAWDOWN"


def test_a_withdrawal_that_is_told_late_trips_once_and_not_again(breaker: CircuitBreaker, account: Account) -> None:
    account.read(100_000)
    assert account.read(94_000) is Verdict.TRIPPED, "nobody has said yet that it was moved"
    account.move(-6_000, -EVERY / 2)
    breaker.reset(reset_by="ada")
    assert account.read(94_000) is Verdict.WITHIN
    assert breaker.get_state() is State.OPEN


def test_each_transfer_counts_once_and_those_of_before_not_at_all(
    breaker: CircuitBreaker, account: Account, redis_client: redis.Redis
) -> None:
    old = account.rules.record_transfer(5, account.at - timedelta(days=3), "OLD")
    assert old.details["effect"] == "waits for the first reading that has it"
    account.read(100)
    older = account.rules.record_transfer(5, account.at - timedelta(days=2), "OLDER")
    assert older.details["effect"] == "none: all that is judged from has it"
    assert redis_client.hget(EQUITY, "high_water") == b"100"
    for _ in range(3):
        account.move(100, name="D")
    account.read(200)
    assert account.rules.record_transfer(100, account.at, "D").details["effect"] == "counted already"
    assert redis_client.hget(EQUITY, "high_water") == b"200"
    account.move(-50, timedelta(0), "SAME MOMENT")
    assert redis_client.hget(EQUITY, "high_water") == b"200", "the reading of that moment has it"
    assert account.read(189) is Verdict.TRIPPED


def test_an_emptied_account_has_lost_nothing(breaker: CircuitBreaker, redis_client: redis.Redis) -> None:
    account = Account(rule_set(redis_client, daily_loss=Decimal("0.02"), loss_velocity=Decimal("0.02")))
    account.read(100)
    account.move(-100)
    assert account.read(0) is Verdict.WITHIN
    account.move(40)
    assert account.read(40) is Verdict.WITHIN
    assert account.read("39.5") is Verdict.WITHIN
    assert account.read("-1") is Verdict.TRIPPED


def test_what_was_moved_before_all_that_is_kept_is_refused_and_says_what_to_do(
    breaker: CircuitBreaker, account: Account, redis_client: redis.Redis
) -> None:
    account.read(100)
    line = redis_client.lindex("circuit_breaker:equity_readings", 0)
    assert line is not None
    redis_client.rpush("circuit_breaker:equity_readings", *[line] * 999)
    refused = account.rules.record_transfer(10, account.at - timedelta(days=1), "OLD")
    assert refused.verdict is Verdict.REFUSED and refused.details["problem"].endswith("re-base")
    again = account.rules.record_transfer(10, account.at - timedelta(days=1), "OLD")
    assert again == refused, "told again, it is no more counted than before"
    corrected = account.rules.record_transfer(10, None, "OLD")
    assert corrected.details["effect"] == "waits for the first reading that has it", "the day was mistyped"
    account.read(110)
    assert redis_client.llen("circuit_breaker:equity_readings") == 1000


def test_what_somebody_else_wrote_among_readings_and_transfers_hides_none(
    breaker: CircuitBreaker, redis_client: redis.Redis
) -> None:
    account = Account(rule_set(redis_client, loss_velocity=Decimal("0.05"), loss_window=600))
    account.read(100)
    for garbage in ("soon", "1 2 3", "9999999999999999 nan nan - 0 - 1 1", b"\xff"):
        redis_client.rpush("circuit_breaker:equity_readings", garbage)
    redis_client.hset("circuit_breaker:transfers", mapping={"MINE": "a lot", "YOURS": f"{10**15} much"})
    assert account.read(110) is Verdict.WITHIN
    assert account.move(10, -EVERY / 2) is Verdict.WITHIN, "it was a deposit and no gain"
    assert account.read("104.6") is Verdict.WITHIN
    assert account.read("104.4") is Verdict.TRIPPED


@pytest.mark.parametrize("amount", ["0", "NaN", "-inf", "much"])
def test_what_cannot_be_moved_is_refused(breaker: CircuitBreaker, account: Account, amount: str) -> None:
    account.read(100)
    assert account.move(amount) is Verdict.REFUSED
    assert account.move(5, timedelta(days=1)) is Verdict.REFUSED
    assert account.rules.refused_measurements() == {"TRANSFER": 2}


def test_a_rebase_has_what_was_moved_by_then(
    breaker: CircuitBreaker, account: Account, redis_client: redis.Redis
) -> None:
    account.read(100)
    account.move(50)
    account.rules.rebase_equity(150)
    assert account.rules.record_equity(149).verdict is Verdict.WITHIN
    assert redis_client.hget(EQUITY, "high_water") == b"150"
    assert account.rules.record_transfer(25, account.at, "OF BEFORE").details["effect"].startswith("none")
    assert redis_client.hget(EQUITY, "high_water") == b"150"


def test_the_day_begins_where_the_calendar_says(breaker: CircuitBreaker, redis_client: redis.Redis) -> None:
    account = Account(rule_set(redis_client, drawdown=None, daily_loss=Decimal("0.03")))
    account.read(100)
    account.at += EVERY
    tomorrow = DAY + timedelta(days=1)
    assert account.rules.record_equity(98, account.at, day=tomorrow).verdict is Verdict.WITHIN
    assert account.rules.record_equity("96.9", account.at, day=tomorrow).verdict is Verdict.TRIPPED
    assert breaker.get_status().trip_details["reference"] == "100", "with the last of the day before"


def test_a_day_begins_once_of_two_that_record_by_different_calendars(
    breaker: CircuitBreaker, redis_client: redis.Redis
) -> None:
    account = Account(rule_set(redis_client, drawdown=None, daily_loss=Decimal("0.03")))
    today = account.at.date()
    yesterday = today - timedelta(days=1)
    for equity, day in (("100", yesterday), ("99", today), ("98.5", yesterday), ("97.5", today), ("97.2", yesterday)):
        account.at += EVERY
        assert account.rules.record_equity(equity, account.at, day=day).verdict is Verdict.WITHIN
    account.at += EVERY
    assert account.rules.record_equity("96", account.at, day=today).verdict is Verdict.TRIPPED, "of the first day's 100"
    redis_client.hset(EQUITY, "day", 10**6)
    assert account.rules.record_equity("96", account.at, day=yesterday)
    assert redis_client.hget(EQUITY, "day") == str((yesterday - date(1970, 1, 1)).days).encode()


def test_a_fast_loss_trips_and_a_slow_one_does_not(breaker: CircuitBreaker, redis_client: redis.Redis) -> None:
    account = Account(rule_set(redis_client, drawdown=None, loss_velocity=Decimal("0.02"), loss_window=60))
    slow = [account.read(100 - step * Decimal("0.3")) for step in range(80)]
    assert set(slow) == {Verdict.WITHIN}
    account.move(100)
    assert account.read("176.3") is Verdict.WITHIN
    assert account.read("171.9") is Verdict.TRIPPED
    status = breaker.get_status()
    assert (status.trip_reason, status.trip_details["window"]) == ("LOSS_VELOCITY", "within 60 s")


# --- any series of equities and transfers -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Interval:
    """What happens between two readings: a gain or loss as a factor, or transfers as shares of the equity then."""

    factor: Fraction = Fraction(1)
    moved: tuple[Fraction, ...] = ()


factors = st.integers(900, 1100).map(lambda thousandths: Fraction(thousandths, 1000))
shares = st.integers(-900, 3000).filter(bool).map(lambda thousandths: Fraction(thousandths, 1000))
series = st.lists(
    factors.map(Interval) | st.lists(shares, min_size=1, max_size=3).map(lambda some: Interval(moved=tuple(some))),
    min_size=1,
    max_size=12,
)


@dataclass(frozen=True)
class Told:
    """One line of a course: a reading, or a transfer, at so many quarters of an interval."""

    quarter: int
    equity: Fraction | None = None
    moved: Fraction | None = None
    name: str = ""


def course(intervals: Sequence[Interval]) -> tuple[list[Told], Fraction, Fraction]:
    """What happens, in its order; high-water mark and day's first as an account without transfers says they are."""
    held, alone, highest = Fraction(100_000), Fraction(1), Fraction(1)
    told = [Told(0, equity=held)]
    for index, interval in enumerate(intervals):
        for place, share in enumerate(interval.moved):
            amount = Fraction(round(held * share * 100), 100)
            told.append(Told(4 * index + 1 + place, moved=amount, name=f"{index}.{place}"))
            held += amount
        held, alone = held * interval.factor, alone * interval.factor
        highest = max(highest, alone)
        told.append(Told(4 * index + 4, equity=held))
    return told, highest * held / alone, held / alone


def tell(client: redis.Redis, told: Sequence[Told]) -> tuple[float, float]:
    """High-water mark and the day's first after that was told, in that order."""
    client.flushall()
    rules, begun = Rules(client), datetime.now(UTC) - timedelta(hours=1)
    for each in told:
        at = begun + each.quarter * EVERY / 4
        if each.equity is not None:
            outcome = rules.record_equity(float(each.equity), at, day=DAY)
        else:
            assert each.moved is not None
            outcome = rules.record_transfer(float(each.moved), at, each.name)
        assert outcome.verdict is not Verdict.REFUSED, outcome
    rules.close()
    stored = client.hmget(EQUITY, "high_water", "day_start")
    return float(stored[0] or 0), float(stored[1] or 0)


@shared_server
@given(series)
def test_the_marks_are_those_of_an_account_without_transfers_scaled(
    redis_client: redis.Redis, intervals: list[Interval]
) -> None:
    told, highest, first = course(intervals)
    assert tell(redis_client, told) == pytest.approx((float(highest), float(first)), rel=1e-9)


@shared_server
@given(series, st.data())
def test_when_a_transfer_is_told_makes_no_difference(
    redis_client: redis.Redis, intervals: list[Interval], data: st.DataObject
) -> None:
    told, highest, first = course(intervals)
    readings = [each for each in told if each.equity is not None]
    shuffled = list(readings)
    for transfer in (each for each in told if each.moved is not None):
        shuffled.insert(data.draw(st.integers(1, len(shuffled))), transfer)
    assert tell(redis_client, shuffled) == pytest.approx((float(highest), float(first)), rel=1e-9)


@shared_server
@given(factors, shares, st.booleans())
def test_what_was_lost_beside_a_transfer_is_never_taken_for_less(
    redis_client: redis.Redis, factor: Fraction, share: Fraction, transfer_first: bool
) -> None:
    """When in between it was moved isn't known; either way the drawdown is that of the account alone, or more."""
    held, amount = Fraction(100_000), Fraction(round(100_000 * share))
    after = (held + amount) * factor if transfer_first else held * factor + amount
    if after <= 0:
        return
    told = [Told(0, equity=held), Told(2, moved=amount, name="T"), Told(4, equity=after)]
    highest, _ = tell(redis_client, told)
    assert 1 - float(after) / highest >= float(max(1 - factor, Fraction(0))) - 1e-9
