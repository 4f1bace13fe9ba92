"""Define the settings of the account monitor and of its feeds, and which breaker each is judged for."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Protocol, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from breaker.errors import InvalidInput
from breaker.keys import GLOBAL, is_scope
from configuration.locations import not_empty
from configuration.units import Seconds, Unit

ALWAYS = "24/7"
OWN_FEED = "monitor"
"""The feed, of an account's breaker, that tells when the monitor last measured."""
Session = Annotated[str, Field(pattern=r"^(24/7|[A-Z][A-Z0-9_]{1,15})$")]
"""`24/7`, or the code of a calendar of `exchange_calendars`, such as `XNYS`."""


class MonitorSettings(BaseModel):
    """How the accounts are monitored: one process at a time per account polls its venue and feeds the rules."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    enabled: bool = True
    """Whether `serve` and `breaker services` monitor the accounts; `breaker monitor` does whatever this says."""
    interval: Seconds = 15.0
    """Between two readings of an account, and of each feed, give or take a tenth."""
    rate_share: Annotated[float, Unit("fraction")] = Field(default=0.1, gt=0, le=0.1)
    """Of an account's rate limit, what the monitor uses at most; where that is not enough, it reads less often."""
    keep_days: Annotated[float, Unit("days")] = Field(default=7.0, gt=0, le=31)
    """How long measurements are kept in Redis."""


class FeedSettings(BaseModel):
    """One feed, found by exactly one of `redis_key`, `url`, `prometheus`, `file` and `quote`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    redis_key: str | None = Field(default=None, min_length=1)
    """A key of Redis: a string that holds a time, or a stream, whose newest entry counts."""
    url: str | None = Field(default=None, pattern=r"^https?://[^\s]+$")
    """An address that answers with JSON."""
    json_path: str = ""
    """Where in that answer the time stands: names and positions, by dots, as `data.0.time`."""
    prometheus: str | None = Field(default=None, min_length=1)
    """A Prometheus query that answers with a time in Unix seconds; of several values the largest counts."""
    prometheus_url: str | None = Field(default=None, pattern=r"^https?://[^\s]+$")
    """Where that Prometheus is; recovery.prometheus_url unless given."""
    file: Annotated[Path | None, BeforeValidator(not_empty)] = None
    """A file, whose last change counts."""
    quote: str | None = Field(default=None, min_length=1)
    """A symbol, as orders have it, whose latest quote at the venue of `account` counts."""
    account: str | None = None
    """The account whose venue is asked for the quote."""
    session: Session = ALWAYS
    """The exchange calendar whose open time alone counts for its age: `24/7`, or such as `XNYS`."""
    before_open: Annotated[float, Field(ge=0, le=43_200), Unit("seconds")] = 0.0
    """How long before the open it speaks too: 19800 for the pre-market of XNYS."""
    after_close: Annotated[float, Field(ge=0, le=43_200), Unit("seconds")] = 0.0
    """How long after the close it speaks too: 14400 for the post-market of XNYS."""
    limit: Annotated[float | None, Field(gt=0, le=2_592_000), Unit("seconds")] = None
    """How old its newest data may be; `data_age` of its breaker's rules unless given."""
    scope: str | None = None
    """Which breaker its silence trips; of a quote that of its account, else `global`, unless given."""

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        places = (self.redis_key, self.url, self.prometheus, self.file, self.quote)
        if sum(place is not None for place in places) != 1:
            raise ValueError("name exactly one of redis_key, url, prometheus, file, quote")
        if bool(self.json_path) != (self.url is not None):
            raise ValueError("json_path goes with url, and url with json_path")
        if (self.account is None) != (self.quote is None):
            raise ValueError("account goes with quote, and quote with account")
        if self.scope is not None and not is_scope(self.scope):
            raise ValueError(f"{self.scope!r:.60} is no scope")
        return self


class Monitored(Protocol):
    """What decides for which breaker an account is judged."""

    @property
    def monitored_as(self) -> str | None: ...


def monitored_scope(name: str, accounts: Mapping[str, Monitored]) -> str:
    """The breaker that the equity of the account `name`, one of `accounts`, is judged for."""
    return accounts[name].monitored_as or (GLOBAL if len(accounts) == 1 else f"account:{name}")


def feed_scope(feed: FeedSettings, accounts: Mapping[str, Monitored]) -> str:
    """The breaker that the silence of the feed trips."""
    if feed.scope is not None:
        return feed.scope
    account = (feed.account or "").upper()
    return monitored_scope(account, accounts) if account in accounts else GLOBAL


def check_monitored_apart(accounts: Mapping[str, Monitored], feeds: Mapping[str, FeedSettings]) -> None:
    """Raises ValueError where two accounts' equities would be judged as one, or a quote is asked of no account.

    A breaker has one high-water mark, so that two accounts by turns would be a drawdown each time.
    """
    judged: dict[str, str] = {}
    for name in accounts:
        scope = monitored_scope(name, accounts)
        if accounts[name].monitored_as is not None and not is_scope(scope):
            raise ValueError(f"accounts.{name}.monitored_as: {scope!r:.60} is no scope")
        if scope in judged:
            raise ValueError(f"accounts.{name}: {judged[scope]} is monitored as {scope} already; give each its own")
        judged[scope] = name
    for name, feed in feeds.items():
        if feed.account is not None and feed.account.upper() not in accounts:
            raise ValueError(f"feeds.{name}: no account of the name {feed.account} is configured")


def check_feed_names(feeds: Collection[str]) -> None:
    """Raises ValueError for a name that no feed can have: nobody would judge it."""
    if not feeds:
        return
    from breaker.rule_requests import checked_feed  # noqa: PLC0415  halting doesn't pay for it

    for name in feeds:
        try:
            checked_feed(name)
        except InvalidInput as error:
            raise ValueError(f"feeds: {error}".rstrip(".")) from None
        if name == OWN_FEED:
            raise ValueError(f"feeds.{name}: the account monitor's own sign of life is called so; use another name")


def check_rule_scopes(scopes: Collection[str], accounts: Collection[str]) -> None:
    """Raises ValueError for limits of what can be no breaker, or of an account that is spelled otherwise."""
    for scope in scopes:
        if not is_scope(scope):
            raise ValueError(f"rules.{scope!r:.60} is no scope")
        kind, _, name = scope.partition(":")
        if kind == "account" and name not in accounts and name.upper() in accounts:
            raise ValueError(
                f"rules.{scope!r}: the account is called {name.upper()}, and its breaker account:{name.upper()}"
            )
