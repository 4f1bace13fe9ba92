"""Look when the newest data of a feed came, wherever that can be seen, and let the rule judge its silence."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import httpx

from breaker.deadline_client import AsyncDeadlineClient
from breaker.errors import BreakerError
from breaker.keys import Keys
from breaker.redis_time import to_datetime
from breaker.requests import Request
from breaker.rules import AsyncRules, Outcome
from brokers.protocol import Broker, BrokerError, repeat_until
from configuration.breakers import limits_from
from configuration.monitor import FeedSettings, feed_scope
from configuration.redis_clients import async_redis_client
from configuration.settings import Settings
from tasks.checks.prometheus import Prometheus, PrometheusError
from tasks.monitor.account import RequestPace
from tasks.monitor.sessions import MarketSession, SharedSessions, market_session, open_since
from tasks.monitor.transfer_time import CLOCKS_APART

TIMEOUT = 5.0
"""Seconds that a source may take to answer."""
_UNITS = ((1e11, 1.0), (1e14, 1e3), (1e17, 1e6), (float("inf"), 1e9))
"""Below which magnitude a number of the present is in how many parts of a second."""
_NUMBER = re.compile(r"\d+(\.\d+)?")


class FeedUnreadable(Exception):
    """A feed's source could not be asked, or tells no time. The message is one line."""


@dataclass(frozen=True, slots=True)
class Sources:
    """What feeds are read from."""

    redis: AsyncDeadlineClient
    http: httpx.AsyncClient
    brokers: Mapping[str, Broker]
    paces: Mapping[str, RequestPace]
    """Of the accounts' market data."""
    prometheus_url: str | None = None
    sessions: SharedSessions = field(default_factory=SharedSessions)
    """When markets are open."""


async def newest_data(feed: FeedSettings, sources: Sources) -> datetime:
    """When the newest data of the feed came, UTC-aware. Raises FeedUnreadable."""
    try:
        async with asyncio.timeout(TIMEOUT):
            if feed.redis_key is not None:
                return await _of_key(sources.redis, feed.redis_key)
            if feed.url is not None:
                return await _of_url(sources.http, feed.url, feed.json_path)
            if feed.prometheus is not None:
                server = Prometheus(feed.prometheus_url or sources.prometheus_url, sources.http, TIMEOUT)
                return read_time(await server.query(feed.prometheus))
            if feed.file is not None:
                return datetime.fromtimestamp((await asyncio.to_thread(feed.file.stat)).st_mtime, UTC)
            return await _of_quote(feed, sources)
    except TimeoutError:
        raise FeedUnreadable(f"there was no answer within {TIMEOUT:g} s") from None
    except OSError as error:
        raise FeedUnreadable(f"{feed.file}: {error.strerror or error}") from None
    except FeedUnreadable:
        raise
    except (BreakerError, BrokerError, PrometheusError) as error:
        raise FeedUnreadable(str(error)) from None
    except Exception as error:  # what a source does that nobody thought of must not be the end of judging its silence
        raise FeedUnreadable(f"its source can't be read ({type(error).__name__}: {error!s:.100})") from error


async def _of_key(redis: AsyncDeadlineClient, key: str) -> datetime:
    (kind,) = await redis.execute(Request(f"read the kind of {key}", (("TYPE", key),)))
    if kind == b"stream":
        (entries,) = await redis.execute(Request(f"read {key}", (("XREVRANGE", key, "+", "-", "COUNT", 1),)))
        if isinstance(entries, list) and entries:
            return read_time(entries[0][0].partition(b"-")[0].decode())
    elif kind == b"string":
        (value,) = await redis.execute(Request(f"read {key}", (("GET", key),)))
        if isinstance(value, bytes):
            return read_time(value.decode("utf-8", "replace"))
    elif isinstance(kind, Exception):
        raise FeedUnreadable(f"Redis refuses {key}: {kind}")
    raise FeedUnreadable(f"{key} in Redis is neither a string that holds a time nor a stream with entries")


async def _of_url(http: httpx.AsyncClient, url: str, path: str) -> datetime:
    host = httpx.URL(url).host
    try:
        answer = await http.get(url, timeout=TIMEOUT)
        answer.raise_for_status()
        return read_time(at_path(answer.json(), path))
    except httpx.HTTPStatusError as error:
        raise FeedUnreadable(f"{host} answered {error.response.status_code}") from None
    except httpx.HTTPError as error:
        raise FeedUnreadable(f"{host} did not answer ({type(error).__name__})") from None
    except json.JSONDecodeError:
        raise FeedUnreadable(f"{host} answered no JSON") from None


async def _of_quote(feed: FeedSettings, sources: Sources) -> datetime:
    name = (feed.account or "").upper()
    broker, pace = sources.brokers[name], sources.paces[name]
    if not broker.capabilities.quotes:
        raise FeedUnreadable(f"the adapter of account {name} can't ask for quotes")
    if pace.seconds_to_wait:
        raise FeedUnreadable(f"the share of the rate limit of account {name} is used up")
    pace.used(1)
    repeating = repeat_until.set(float("-inf"))
    try:
        return await broker.latest_quote(feed.quote or "")
    finally:
        repeat_until.reset(repeating)


def at_path(document: Any, path: str) -> Any:
    """What stands there: names and positions, by dots. Pure. Raises FeedUnreadable."""
    found = document
    for step in path.split("."):
        try:
            found = found[int(step)] if isinstance(found, list) else found[step]
        except (KeyError, IndexError, ValueError, TypeError):
            raise FeedUnreadable(f"there is no {step!r:.40} on the way {path} into the answer") from None
    return found


def read_time(value: Any) -> datetime:
    """ISO 8601 with a zone, or Unix time in seconds, milli-, micro- or nanoseconds. Pure. Raises FeedUnreadable."""
    text = str(value).strip()
    if isinstance(value, bool) or not text:
        raise FeedUnreadable(f"{value!r:.40} is no time")
    if _NUMBER.fullmatch(text):
        number = float(text)
        parts = next((parts for limit, parts in _UNITS if number < limit), 1.0)
        try:
            return datetime.fromtimestamp(number / parts, UTC)
        except (ValueError, OverflowError):
            raise FeedUnreadable(f"{text!r:.40} is no time") from None
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            raise FeedUnreadable(f"{text!r:.40} has no time zone")
        return moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise FeedUnreadable(f"{text!r:.40} is no time") from None


class _OpenTime:
    """The rules' calendar of one feed: data from `newest` on grow older only while the market is open."""

    def __init__(self, session: MarketSession) -> None:
        self.session = session
        self.newest: datetime | None = None

    def open_since(self, at: datetime) -> datetime | None:
        return open_since(self.session, self.newest or at, at)


class WatchedFeed:
    """One feed under the eyes of this process.

    A source that can't be read is a feed that says nothing; but it is this process's own doing that it was not read
    before it began to look, so that its silence counts from then on.
    """

    def __init__(self, name: str, settings: Settings) -> None:
        self.name = name
        self.feed = settings.feeds[name]
        self.scope = feed_scope(self.feed, settings.accounts)
        limits = limits_from(settings, self.scope)
        if limits.data_age is not None and self.feed.limit is not None:
            limits = replace(limits, data_age=self.feed.limit)
        self._calendar = _OpenTime(market_session(*self._session))
        self._rules = AsyncRules(
            async_redis_client(settings),
            self.scope,
            limits=limits,
            calendar=self._calendar,
            timeout=settings.redis_timeout,
        )
        self._watching_since: datetime | None = None
        self._ahead: tuple[datetime, datetime] | None = None
        self.unreadable = ""
        """Why its source could not be read the last time; empty where it could."""

    @property
    def _session(self) -> tuple[str, float, float]:
        return self.feed.session, self.feed.before_open, self.feed.after_close

    @property
    def everywhere(self) -> bool:
        """Whether each host has to look for itself: a file may be here and nowhere else."""
        return self.feed.file is not None

    async def look(self, sources: Sources) -> None:
        """See when its newest data came, and tell the rules. Raises FeedUnreadable, and what Redis's does."""
        await self._rules.heartbeat(self.name, await newest_data(self.feed, sources))

    async def judge(self, sources: Sources) -> Outcome:
        """See when its newest data came, and judge how old that is.

        Raises what Redis's does. A source that can't be read makes the feed no younger; `unreadable` says why.
        """
        key = Keys.of(self.scope).key(f"heartbeat:{self.name}")
        (clock, known) = await sources.redis.execute(Request(f"read {key}", (("TIME",), ("GET", key))))
        now = to_datetime(int(clock[0]) * 1_000_000 + int(clock[1]))
        self._watching_since = self._watching_since or now
        self._calendar.session = await sources.sessions.session(*self._session)
        seen = _known(known)
        if seen is not None and seen > now + CLOCKS_APART:
            seen = None  # nor does the rule believe it
        try:
            newest = self._not_ahead(await newest_data(self.feed, sources), now)
            await self._rules.heartbeat(self.name, newest)
            self.unreadable = ""
        except FeedUnreadable as error:
            self.unreadable = str(error)
            newest = self._watching_since
        self._calendar.newest = newest if seen is None else max(seen, newest)
        return await self._rules.check_staleness([self.name])

    def _not_ahead(self, told: datetime, now: datetime) -> datetime:
        """A time in the future, by a clock that is ahead, came when it was first told: it stays young no longer."""
        if told <= now:
            return told
        if self._ahead is None or self._ahead[0] != told:
            self._ahead = (told, now)
        return self._ahead[1]

    async def aclose(self) -> None:
        await self._rules.close()


def _known(heartbeat: Any) -> datetime | None:
    try:
        return read_time(heartbeat.decode()) if isinstance(heartbeat, bytes) else None
    except (FeedUnreadable, UnicodeDecodeError):
        return None
