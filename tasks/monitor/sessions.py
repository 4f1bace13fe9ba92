"""Tell when a market is open, so that data is missed only while it should come.

`24/7` is always open; anything else is a calendar of `exchange_calendars`, with its holidays, early closes and lunch
breaks, and with time before the open and after the close where that is wanted.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from itertools import pairwise
from typing import Protocol

from configuration.monitor import ALWAYS
from configuration.settings import ConfigurationError

_BEFORE, _AFTER = timedelta(days=45), timedelta(days=75)
"""How much of a calendar is read around the month that it is wanted for."""
_LAST_MONTH = timedelta(days=31)


class MarketSession(Protocol):
    """When a market is open. Times are UTC-aware."""

    def is_open(self, at: datetime) -> bool: ...

    def open_time(self, start: datetime, end: datetime) -> timedelta:
        """How much of the time from `start` to `end` it was open; nothing where `end` comes first."""
        ...

    def trading_day(self, at: datetime) -> date:
        """The day of the newest session that has begun at `at`."""
        ...


class AlwaysOpen:
    """A market without a close; its day is UTC's."""

    def is_open(self, at: datetime) -> bool:
        del at
        return True

    def open_time(self, start: datetime, end: datetime) -> timedelta:
        return max(end - start, timedelta())

    def trading_day(self, at: datetime) -> date:
        return at.astimezone(UTC).date()


@dataclass(frozen=True, slots=True)
class OpenPeriod:
    """From when to when it is open, as a part of the session of `day`."""

    opens: datetime
    closes: datetime
    day: date


class ExchangeSession:
    """A market that is open in `periods`, which don't overlap, oldest first; before and after them it is closed."""

    def __init__(self, periods: Sequence[OpenPeriod]) -> None:
        self._periods = tuple(periods)
        self._opens = [period.opens for period in periods]

    def is_open(self, at: datetime) -> bool:
        period = self._newest_begun(at)
        return period is not None and at < period.closes

    def open_time(self, start: datetime, end: datetime) -> timedelta:
        first = max(bisect_right(self._opens, start) - 1, 0)
        last = bisect_right(self._opens, end)
        overlaps = (min(each.closes, end) - max(each.opens, start) for each in self._periods[first:last])
        return sum((overlap for overlap in overlaps if overlap > timedelta()), timedelta())

    def trading_day(self, at: datetime) -> date:
        period = self._newest_begun(at)
        return at.astimezone(UTC).date() if period is None else period.day

    def _newest_begun(self, at: datetime) -> OpenPeriod | None:
        place = bisect_right(self._opens, at)
        return self._periods[place - 1] if place else None


def market_session(code: str, before_open: float = 0.0, after_close: float = 0.0) -> MarketSession:
    """The session of that calendar around now; it is read anew each month, which takes about a second.

    Args:
        code: `24/7`, or such as `XNYS`.
        before_open: Seconds before each open that count as open too.
        after_close: Seconds after each close that do.

    Raises:
        ConfigurationError: there is no such calendar.
    """
    if code == ALWAYS:
        return AlwaysOpen()
    return _session_around(code, before_open, after_close, datetime.now(UTC).date().replace(day=1))


@lru_cache(maxsize=64)
def _session_around(code: str, before_open: float, after_close: float, month: date) -> ExchangeSession:
    periods = _periods_around(code, month)
    return ExchangeSession(extended(periods, timedelta(seconds=before_open), timedelta(seconds=after_close)))


@lru_cache(maxsize=64)
def _periods_around(code: str, month: date) -> tuple[OpenPeriod, ...]:
    return tuple(read_calendar(code, month - _BEFORE, month + _AFTER))


class SharedSessions:
    """Market sessions for all who ask on one event loop: each is read once, on one thread of their own.

    In a new month whoever asks goes on with what was read in the last one, which reaches well into this, until the new
    one is read: nobody's measurement waits for a calendar.
    """

    def __init__(self, read: Callable[[str, float, float], MarketSession] = market_session) -> None:
        self._read = read
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="calendars")
        self._known: dict[tuple[str, float, float], tuple[date, MarketSession]] = {}
        self._reading: dict[tuple[str, float, float], asyncio.Task[MarketSession]] = {}

    async def session(self, code: str, before_open: float = 0.0, after_close: float = 0.0) -> MarketSession:
        """As `market_session`. Raises ConfigurationError: there is no such calendar."""
        asked, month = (code, before_open, after_close), datetime.now(UTC).date().replace(day=1)
        known = self._known.get(asked)
        if known is not None and known[0] == month:
            return known[1]
        reading = self._reading.get(asked)
        if reading is None or reading.done():
            reading = self._reading[asked] = asyncio.create_task(self._reread(asked, month))
            reading.add_done_callback(lambda done: done.cancelled() or done.exception())  # it may be nobody's to hear
        if known is not None and month - known[0] <= _LAST_MONTH:
            return known[1]
        return await asyncio.shield(reading)

    async def _reread(self, asked: tuple[str, float, float], month: date) -> MarketSession:
        session = await asyncio.get_running_loop().run_in_executor(self._thread, self._read, *asked)
        self._known[asked] = month, session
        return session

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)


def read_calendar(code: str, first: date, last: date) -> list[OpenPeriod]:
    """When the exchange of that calendar is open, from the day `first` to `last`. Raises ConfigurationError."""
    # It brings pandas, which takes half a second; whoever trades around the clock doesn't pay for it.
    import exchange_calendars  # noqa: PLC0415
    from exchange_calendars.errors import CalendarError, InvalidCalendarName  # noqa: PLC0415

    try:
        calendar = exchange_calendars.get_calendar(code, start=first.isoformat(), end=last.isoformat())
    except InvalidCalendarName:
        raise ConfigurationError(
            f"session {code!r} is no calendar of exchange_calendars; use 24/7, or a code such as XNYS"
        ) from None
    except (CalendarError, ValueError) as error:
        raise ConfigurationError(f"session {code}: its calendar does not cover {first} to {last}: {error}") from None
    found = []
    for label, row in calendar.schedule.iterrows():
        pauses = [row["break_start"], row["break_end"]] if row.notna()["break_start"] else []
        moments = [moment.to_pydatetime() for moment in (row["open"], *pauses, row["close"])]
        found += [
            OpenPeriod(opens, closes, label.date()) for opens, closes in zip(moments[::2], moments[1::2], strict=True)
        ]
    return found


def extended(periods: Iterable[OpenPeriod], before: timedelta, after: timedelta) -> list[OpenPeriod]:
    """The periods with so much time before each session's open and after its close, without overlaps. Pure."""
    listed = list(periods)
    longer = [
        OpenPeriod(
            each.opens - before if place == 0 or listed[place - 1].day != each.day else each.opens,
            each.closes + after if place + 1 == len(listed) or listed[place + 1].day != each.day else each.closes,
            each.day,
        )
        for place, each in enumerate(listed)
    ]
    apart = [
        OpenPeriod(each.opens, min(each.closes, following.opens), each.day) for each, following in pairwise(longer)
    ]
    return [*apart, *longer[-1:]]


def open_since(session: MarketSession, newest: datetime, at: datetime) -> datetime | None:
    """What a `Calendar` of the rules is to answer at `at`, so that data from `newest` on is as old as the time that the
    market was open since; None while it is closed. Pure.
    """
    return at - session.open_time(newest, at) if session.is_open(at) else None
