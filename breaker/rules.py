"""The automatic trips (runbook, *Automatic Trips*): what is measured is judged in the script that records it.

So the 11th error trips in the same step in which it is counted, however many processes count, and no poller's
interval lies between a drawdown and its trip. Only old age has no event of its own: `check_staleness` is called by
gates, the exporter and the scheduled verification, and whoever is first trips.

Keys, with `:{scope}` appended for a scope other than global:

| key | type | content |
| --- | --- | --- |
| `circuit_breaker:api_errors` | zset | one member per error of the window, score Unix microseconds |
| `circuit_breaker:api_success` | hash | when each source last succeeded |
| `circuit_breaker:equity` | hash | equity, high-water mark, the day's first equity |
| `circuit_breaker:rejections` | hash | orders rejected in a row |
| `circuit_breaker:heartbeat:{feed}` | string | time of the feed's newest data |
| `circuit_breaker:feeds` | hash | since when a feed that never came has been waited for |
| `circuit_breaker:would_have_tripped` | stream | what rules in dry run would have done; the newest 1,000 |
| `circuit_breaker:refused_measurements` | hash | how many impossible measurements were refused |
| `circuit_breaker:confirmations` | hash | measurements in a row beyond each limit |
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol

from breaker.deadline_client import AsyncDeadlineClient, DeadlineClient
from breaker.errors import InvalidInput, RedisRefused
from breaker.keys import GLOBAL, Keys
from breaker.limits import Limits, Rule
from breaker.requests import Command, Request, checked_seconds, load_script, raise_if_error
from breaker.uuid7 import uuid7

if TYPE_CHECKING:
    from redis import Redis
    from redis.asyncio import Redis as AsyncRedis

__all__ = ["AsyncRules", "Calendar", "Limits", "Outcome", "Rule", "Rules", "Verdict"]

_UNIX_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FEED = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_SOURCE_LENGTH = 200


class Verdict(StrEnum):
    """What came of one measurement."""

    WITHIN = "WITHIN"
    OFF = "OFF"
    """Recorded; the rule is switched off."""
    UNCONFIRMED = "UNCONFIRMED"
    """Beyond the limit, but not often enough in a row yet."""
    WOULD_TRIP = "WOULD_TRIP"
    """Beyond the limit; the rule is in dry run."""
    ALREADY_TRIPPED = "ALREADY_TRIPPED"
    TRIPPED = "TRIPPED"
    """This very measurement tripped the breaker."""
    REFUSED = "REFUSED"
    """Impossible: not recorded, not acted on, counted."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The verdict on one measurement, with measured value, limit and window as text, or why it was refused."""

    verdict: Verdict
    details: Mapping[str, str]


class Calendar(Protocol):
    """When the market is open. While it is closed no data is missed."""

    def open_since(self, at: datetime) -> datetime | None:
        """When the session running at `at` (UTC-aware) began; None while the market is closed."""
        ...


@dataclass(frozen=True, slots=True)
class _Recorder:
    """Turns measurements of one scope into requests. Pure."""

    keys: Keys
    limits: Limits

    def request(self, script: str, rule: Rule, limit: object, measurements: str, *arguments: object) -> Request:
        return self._request(script, rule, limit, (self.keys.key(measurements),), arguments)

    def staleness(self, feeds: Sequence[str], opened: str) -> Request:
        if not feeds:
            raise InvalidInput("No feed was named, so there is no data whose age could be judged.")
        limit = self.limits.data_age
        milliseconds = 0 if limit is None else round(limit * 1000)
        extra = tuple(self.keys.key(f"heartbeat:{check_feed(feed)}") for feed in feeds)
        return self._request(
            "check_staleness",
            Rule.DATA_STALENESS,
            limit,
            (self.keys.key("feeds"),),
            (milliseconds, opened, *feeds),
            extra,
        )

    def api_error(self, source: str) -> Request:
        limits = self.limits
        window = round(limits.api_error_window * 1000)
        most = 0 if limits.api_errors is None else limits.api_errors
        return self.request(
            "record_api_error", Rule.API_ERRORS, limits.api_errors, "api_errors", window, most, text(source)
        )

    def api_success(self, source: str) -> Request:
        return self.request("record_api_success", Rule.API_ERRORS, self.limits.api_errors, "api_success", text(source))

    def rejection(self, why: str) -> Request:
        limit = self.limits.consecutive_rejections
        return self.request("record_rejection", Rule.CONSECUTIVE_REJECTIONS, limit, "rejections", limit or 0, why)

    def equity(self, value: object, at: datetime | None, rebase: bool) -> Request:
        limits = self.limits
        return self.request(
            "record_equity",
            Rule.DRAWDOWN,
            limits.drawdown,
            "equity",
            amount(value),
            microseconds(at),
            limits.drawdown or 0,
            limits.mode(Rule.DAILY_LOSS, limits.daily_loss),
            limits.daily_loss or 0,
            "rebase" if rebase else "",
        )

    def heartbeat(self, feed: str, at: datetime | None) -> Request:
        name = f"heartbeat:{check_feed(feed)}"
        return self.request("record_heartbeat", Rule.DATA_STALENESS, self.limits.data_age, name, microseconds(at))

    def _request(
        self,
        script: str,
        rule: Rule,
        limit: object,
        measurements: tuple[str],
        arguments: Sequence[object],
        extra_keys: tuple[str, ...] = (),
    ) -> Request:
        keys = self.keys
        own = ("would_have_tripped", "refused_measurements", "confirmations")
        names = (
            *(keys.state, keys.history, keys.outbox, keys.event_ids, keys.reset_rate_limit),
            *measurements,
            *(self.keys.key(name) for name in own),
            *extra_keys,
        )
        event_id = uuid7()
        common = (event_id, json.dumps(keys.scope), '"rule"', '""', "{}", '"rule"', "null", uuid7())
        judged = (self.limits.mode(rule, limit), self.limits.confirmations.get(rule, 1))
        tail: Command = (len(names), *names, *common, *judged, *(str(argument) for argument in arguments))
        loaded = load_script(script, "rules")
        return Request(
            purpose=f"{script.replace('_', ' ')} for {keys.state}",
            commands=(("EVALSHA", loaded.sha, *tail),),
            eval_commands=(("EVAL", loaded.text, *tail),),
            event_id=event_id,
        )


class Rules:
    """Records measurements of one scope, which may trip its breaker.

    `limits` are this scope's, or a mapping of scopes to theirs in which `global` stands in for those not named. Safe
    to share between threads. Every method raises what `CircuitBreaker`'s transitions raise when Redis is away or
    refuses; the measurement may then be recorded or not, and is counted once at most.
    """

    def __init__(
        self,
        redis: Redis,
        scope: str = GLOBAL,
        *,
        limits: Limits | Mapping[str, Limits] = Limits(),  # noqa: B008 -- frozen
        calendar: Calendar | None = None,
        timeout: float = 2.0,
    ) -> None:
        self._recorder = _Recorder(Keys.of(scope), limits_of(scope, limits))
        self._calendar = calendar
        self._client = DeadlineClient(redis, checked_seconds(timeout, "timeout", least=0.001))

    def record_api_error(self, source: str) -> Outcome:
        """One failed call to a venue or service, `source` (runbook: trips when more than 10 come in 5 minutes)."""
        return self._record(self._recorder.api_error(source))

    def record_api_success(self, source: str) -> Outcome:
        """A call to `source` succeeded; errors that were waiting to be confirmed no longer are."""
        return self._record(self._recorder.api_success(source))

    def record_order_rejected(self, why: str) -> Outcome:
        """The venue rejected an order for the reason `why`."""
        return self._record(self._recorder.rejection(text(why)))

    def record_order_accepted(self) -> Outcome:
        """The venue accepted an order, which ends a row of rejections."""
        return self._record(self._recorder.rejection(""))

    def record_equity(self, value: Decimal | float | str, at: datetime | None = None) -> Outcome:
        """The account's equity, measured `at` or now (runbook: trips more than 5 % under its high-water mark).

        NaN, infinity, zero, a negative amount, a time in the future and one before the last are refused.
        """
        return self._record(self._recorder.equity(value, at, rebase=False))

    def rebase_equity(self, value: Decimal | float | str) -> Outcome:
        """Begin anew at `value`, as high-water mark and as the day's first: after a deposit or a withdrawal."""
        return self._record(self._recorder.equity(value, None, rebase=True))

    def heartbeat(self, feed: str, at: datetime | None = None) -> Outcome:
        """`feed` has delivered data of the time `at`, or of now. A time in the future is refused."""
        return self._record(self._recorder.heartbeat(feed, at))

    def check_staleness(self, feeds: Sequence[str]) -> Outcome:
        """Judge the oldest of `feeds` (runbook: trips when data is older than 30 minutes).

        With a calendar only time in which the market was open counts. A feed that has never come is as old as the
        waiting for it.
        """
        return self._record(self._recorder.staleness(feeds, self._opened()))

    def refused_measurements(self) -> dict[str, int]:
        """How many impossible measurements were refused, by kind."""
        reply = self._client.execute(
            Request("read refusals", (("HGETALL", self._recorder.keys.key("refused_measurements")),))
        )
        return read_counts(reply[0])

    def would_have_tripped(self, limit: int = 100) -> list[dict[str, str]]:
        """What rules in dry run would have done, newest first: `rule`, `scope`, `at` and `details` as JSON."""
        key = self._recorder.keys.key("would_have_tripped")
        reply = self._client.execute(Request("read dry runs", (("XREVRANGE", key, "+", "-", "COUNT", limit),)))
        return read_entries(reply[0])

    def close(self) -> None:
        self._client.close()

    def _opened(self) -> str:
        if self._calendar is None:
            return ""
        return opened(self._calendar, self._client.execute(_TIME)[0])

    def _record(self, request: Request) -> Outcome:
        return read_outcome(self._client.execute(request)[0])


class AsyncRules:
    """Rules for asyncio, on a `redis.asyncio.Redis`. Same arguments, results and errors; see there."""

    def __init__(
        self,
        redis: AsyncRedis,
        scope: str = GLOBAL,
        *,
        limits: Limits | Mapping[str, Limits] = Limits(),  # noqa: B008 -- frozen
        calendar: Calendar | None = None,
        timeout: float = 2.0,
    ) -> None:
        self._recorder = _Recorder(Keys.of(scope), limits_of(scope, limits))
        self._calendar = calendar
        self._client = AsyncDeadlineClient(redis, checked_seconds(timeout, "timeout", least=0.001))

    async def record_api_error(self, source: str) -> Outcome:
        return await self._record(self._recorder.api_error(source))

    async def record_api_success(self, source: str) -> Outcome:
        return await self._record(self._recorder.api_success(source))

    async def record_order_rejected(self, why: str) -> Outcome:
        return await self._record(self._recorder.rejection(text(why)))

    async def record_order_accepted(self) -> Outcome:
        return await self._record(self._recorder.rejection(""))

    async def record_equity(self, value: Decimal | float | str, at: datetime | None = None) -> Outcome:
        return await self._record(self._recorder.equity(value, at, rebase=False))

    async def rebase_equity(self, value: Decimal | float | str) -> Outcome:
        return await self._record(self._recorder.equity(value, None, rebase=True))

    async def heartbeat(self, feed: str, at: datetime | None = None) -> Outcome:
        return await self._record(self._recorder.heartbeat(feed, at))

    async def check_staleness(self, feeds: Sequence[str]) -> Outcome:
        opening = "" if self._calendar is None else opened(self._calendar, (await self._client.execute(_TIME))[0])
        return await self._record(self._recorder.staleness(feeds, opening))

    async def close(self) -> None:
        await self._client.close()

    async def _record(self, request: Request) -> Outcome:
        return read_outcome((await self._client.execute(request))[0])


_TIME = Request("read its clock", (("TIME",),))


def limits_of(scope: str, limits: Limits | Mapping[str, Limits]) -> Limits:
    if isinstance(limits, Limits):
        return limits
    return limits.get(scope) or limits.get(GLOBAL) or Limits()


def opened(calendar: Calendar, clock: Any) -> str:
    """Since when the market has been open by Redis's clock, as the script reads it."""
    raise_if_error(clock)
    now = _UNIX_EPOCH + timedelta(seconds=int(clock[0]), microseconds=int(clock[1]))
    since = calendar.open_since(now)
    return "closed" if since is None else microseconds(since)


def microseconds(at: datetime | None) -> str:
    """`at` as Unix microseconds; '' for None. Raises InvalidInput for a time without a zone."""
    if at is None:
        return ""
    if at.tzinfo is None:
        raise InvalidInput(f"{at} has no time zone; nothing was recorded. Use times in UTC.")
    return str((at - _UNIX_EPOCH) // timedelta(microseconds=1))


def amount(value: object) -> str:
    """`value` as text for the script, which refuses, and counts, what is no amount."""
    if isinstance(value, bool) or not isinstance(value, Decimal | int | float | str):
        return "none"
    try:
        return str(Decimal(str(value)))
    except InvalidOperation:
        return "none"


def text(value: str) -> str:
    """A short plain description. Raises InvalidInput when it is empty or long."""
    if not isinstance(value, str) or not 0 < len(value) <= _SOURCE_LENGTH:
        raise InvalidInput(f"{value!r:.60} can't be recorded; use text of 1 to {_SOURCE_LENGTH} characters.")
    return value


def check_feed(feed: str) -> str:
    if not isinstance(feed, str) or not _FEED.fullmatch(feed):
        raise InvalidInput(f"{feed!r:.60} is no feed's name; use letters, digits, '_', '.', '-', at most 64.")
    return feed


def read_outcome(reply: Any) -> Outcome:
    """What a rule's script answered. Raises RedisRefused when it could not trip."""
    raise_if_error(reply)
    word, told = reply[0].decode(), reply[1].decode()
    if word == "REFUSED":
        return Outcome(Verdict.REFUSED, {"problem": told})
    if word not in Verdict.__members__:
        raise RedisRefused(f"A rule's limit was passed, but the breaker could not be tripped ({word} {told}). Trip it.")
    return Outcome(Verdict(word), json.loads(told))


def read_counts(reply: Any) -> dict[str, int]:
    raise_if_error(reply)
    return {name.decode(): int(count) for name, count in zip(reply[::2], reply[1::2], strict=True)}


def read_entries(reply: Any) -> list[dict[str, str]]:
    raise_if_error(reply)
    return [
        {name.decode(): value.decode() for name, value in zip(fields[::2], fields[1::2], strict=True)}
        for _, fields in reply
    ]
