"""Data are missed only while the market is open: over a year of New York, with its holidays and early closes."""

from __future__ import annotations

import asyncio
import random
import threading
from datetime import UTC, date, datetime, timedelta

import pytest

from configuration.settings import ConfigurationError
from tasks.monitor import sessions as sessions_module
from tasks.monitor.sessions import (
    AlwaysOpen,
    ExchangeSession,
    MarketSession,
    OpenPeriod,
    SharedSessions,
    extended,
    market_session,
    open_since,
    read_calendar,
)

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the calendars, about pandas
LIMIT = timedelta(minutes=30)
INTERVAL = timedelta(minutes=15)
YEAR = (datetime(2026, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC))


@pytest.fixture(scope="module")
def new_york() -> ExchangeSession:
    return ExchangeSession(read_calendar("XNYS", date(2025, 12, 1), date(2027, 1, 31)))


@pytest.fixture(scope="module")
def with_pre_and_post_market() -> ExchangeSession:
    periods = read_calendar("XNYS", date(2025, 12, 1), date(2027, 1, 31))
    return ExchangeSession(extended(periods, timedelta(hours=5.5), timedelta(hours=4)))


def age(session: MarketSession, newest: datetime, at: datetime) -> timedelta | None:
    """As the rule works it out: from the newest data, or since when the market is open. None while it is closed."""
    since = open_since(session, newest, at)
    return None if since is None else at - max(newest, since)


@pytest.mark.parametrize(
    ("at", "is_open"),
    [
        ("2026-11-25T14:29:59", False),
        ("2026-11-25T14:30:00", True),
        ("2026-11-25T20:59:59", True),
        ("2026-11-25T21:00:00", False),
        ("2026-11-26T16:00:00", False),  # Thanksgiving
        ("2026-11-27T17:59:59", True),
        ("2026-11-27T18:00:00", False),  # closes early on the day after
        ("2026-11-28T16:00:00", False),  # Saturday
        ("2026-07-03T16:00:00", False),  # Independence Day, observed
        ("2026-07-06T13:30:00", True),  # an hour earlier in summer
        ("2026-12-24T18:00:00", False),
    ],
)
def test_when_new_york_is_open(new_york: ExchangeSession, at: str, is_open: bool) -> None:
    assert new_york.is_open(datetime.fromisoformat(at).replace(tzinfo=UTC)) is is_open


def test_a_year_of_a_feed_that_speaks_while_the_market_is_open_is_never_stale(
    new_york: ExchangeSession, with_pre_and_post_market: ExchangeSession
) -> None:
    for session in (new_york, with_pre_and_post_market):
        at, newest, looks, oldest = YEAR[0], YEAR[0], 0, timedelta()
        while at < YEAR[1]:
            looks += 1
            oldest = max(oldest, age(session, newest, at) or timedelta())
            if session.is_open(at):
                newest = at
            oldest = max(oldest, age(session, newest, at + INTERVAL - timedelta(seconds=1)) or timedelta())
            at += INTERVAL
        assert looks == 365 * 24 * 4
        assert oldest <= INTERVAL


def test_every_silence_in_session_is_found_within_the_limit_and_one_interval_of_open_time(
    new_york: ExchangeSession, with_pre_and_post_market: ExchangeSession
) -> None:
    chance = random.Random(7)
    for session in (new_york, with_pre_and_post_market):
        for _ in range(100):
            silent_since = YEAR[0] + timedelta(seconds=chance.randrange(360 * 86_400))
            found = first_stale(session, silent_since)
            took = session.open_time(silent_since, found)
            assert LIMIT < took <= LIMIT + INTERVAL
            assert session.is_open(found)


def first_stale(session: MarketSession, silent_since: datetime) -> datetime:
    """The first look, one each interval, at which it is; within two weeks, as no market is closed for longer."""
    looks = (silent_since + place * INTERVAL for place in range(1, 14 * 24 * 4))
    return next(at for at in looks if (age(session, silent_since, at) or timedelta()) > LIMIT)


def test_a_feed_that_died_before_the_close_is_not_young_again_at_the_next_open(new_york: ExchangeSession) -> None:
    died = datetime(2026, 11, 25, 20, 45, tzinfo=UTC)  # a quarter of an hour before the close, and then Thanksgiving
    next_open = datetime(2026, 11, 27, 14, 30, tzinfo=UTC)
    assert age(new_york, died, next_open - timedelta(seconds=1)) is None
    assert age(new_york, died, next_open) == timedelta(minutes=15)
    assert age(new_york, died, next_open + timedelta(minutes=16)) == timedelta(minutes=31)


def test_the_trading_day_begins_with_its_session(new_york: ExchangeSession) -> None:
    def day(text: str) -> str:
        return new_york.trading_day(datetime.fromisoformat(text).replace(tzinfo=UTC)).isoformat()

    assert day("2026-11-25T14:29:59") == "2026-11-24"
    assert day("2026-11-25T14:30:00") == "2026-11-25"
    assert day("2026-11-26T03:00:00") == "2026-11-25"  # an evening, which is the next day in UTC
    assert day("2026-11-27T14:00:00") == "2026-11-25"  # until the next session, over a holiday
    assert AlwaysOpen().trading_day(datetime(2026, 11, 26, 23, 59, tzinfo=UTC)).isoformat() == "2026-11-26"


def test_a_lunch_break_is_closed_and_belongs_to_no_pre_market() -> None:
    periods = read_calendar("XHKG", date(2026, 11, 2), date(2026, 11, 6))
    hong_kong = ExchangeSession(extended(periods, timedelta(minutes=30), timedelta(minutes=30)))
    assert hong_kong.is_open(datetime(2026, 11, 3, 1, 15, tzinfo=UTC))
    assert not hong_kong.is_open(datetime(2026, 11, 3, 4, 30, tzinfo=UTC))
    assert hong_kong.is_open(datetime(2026, 11, 3, 8, 15, tzinfo=UTC))


def test_a_market_without_a_close_is_always_open() -> None:
    session, at = market_session("24/7"), datetime(2026, 1, 3, 5, tzinfo=UTC)
    assert session.is_open(at)
    assert age(session, at - timedelta(hours=9), at) == timedelta(hours=9)
    assert age(session, at + timedelta(seconds=1), at) == -timedelta(seconds=1)


def test_an_unknown_calendar_is_named() -> None:
    with pytest.raises(ConfigurationError, match="'XNOWHERE' is no calendar of exchange_calendars"):
        market_session("XNOWHERE")


async def test_however_many_ask_a_calendar_is_read_once_and_off_the_others_threads() -> None:
    go_on, threads = threading.Event(), list[str]()

    def read(code: str, before: float, after: float) -> AlwaysOpen:
        threads.append(f"{threading.current_thread().name} {code}")
        assert go_on.wait(60)
        return AlwaysOpen()

    sessions = SharedSessions(read)
    asking = [asyncio.create_task(sessions.session(code)) for code in ("XNYS", "XLON") * 100]
    await asyncio.to_thread(lambda: None)  # a thread of the pool is to be had all the while
    asking[0].cancel()
    go_on.set()
    found = await asyncio.gather(*asking[1:])
    assert len({id(session) for session in found}) == 2
    assert sorted(threads) == ["calendars_0 XLON", "calendars_0 XNYS"]
    assert isinstance(await sessions.session("XNYS"), AlwaysOpen) and len(threads) == 2
    sessions.close()


async def test_in_a_new_month_nobody_waits_for_the_calendar_and_a_calendar_that_is_gone_is_told() -> None:
    read: list[str] = []

    def reading(code: str, *_: float) -> ExchangeSession:
        read.append(code)
        if len(read) > 2:
            raise ConfigurationError("no calendar")
        return ExchangeSession([])

    sessions = SharedSessions(reading)
    first = await sessions.session("XNYS")
    asked = ("XNYS", 0.0, 0.0)
    (month, _) = sessions._known[asked]
    sessions._known[asked] = (month - timedelta(days=28), first)
    assert await sessions.session("XNYS") is first
    await sessions._reading[asked]
    assert await sessions.session("XNYS") is not first and len(read) == 2
    sessions._known[asked] = (month - timedelta(days=40), first)
    with pytest.raises(ConfigurationError, match="no calendar"):
        await sessions.session("XNYS")
    sessions.close()


def test_a_calendar_is_read_once_for_whatever_is_added_to_its_sessions(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def reading(code: str, *_: date) -> list[OpenPeriod]:
        read.append(code)
        return []

    monkeypatch.setattr(sessions_module, "read_calendar", reading)
    for before in (0.0, 60.0, 120.0):
        market_session("XTEST", before)
    assert read == ["XTEST"]
