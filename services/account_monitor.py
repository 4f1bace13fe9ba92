"""Monitor the accounts and the feeds: measure what the automatic trips judge, without a line of an engine's code.

`breaker monitor` does so by itself; `services.serve` and `breaker services` do beside what else they do. On as many
hosts as one likes: each account is polled by one process, whose lease in Redis another one takes over a few seconds
after it has died. Outages of Redis and of venues are outlived, and said.
"""

from __future__ import annotations

import asyncio
import random
import signal
import threading
from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta
from functools import partial

import httpx
import structlog

from breaker.deadline_client import AsyncDeadlineClient
from breaker.errors import BreakerError
from breaker.keys import check_scope
from breaker.rules import Verdict
from brokers.protocol import Broker, BrokerError
from brokers.registry import open_broker
from configuration.breakers import async_rules_of
from configuration.monitor import ALWAYS, monitored_scope
from configuration.redis_clients import async_redis_client
from configuration.running import RunningConfiguration
from configuration.settings import ConfigurationError, Settings
from services.outage_log import OutageLog
from tasks.monitor.account import MonitoredAccount, RequestPace
from tasks.monitor.feeds import FeedUnreadable, Sources, WatchedFeed
from tasks.monitor.leases import EVERY, FEEDS, LEASE, Holder, Leases, account_of, lease_of_account
from tasks.monitor.measurements import Measurements
from tasks.monitor.sessions import SharedSessions
from tasks.monitor.transfers import KnownTransfers
from tasks.running_services import MONITOR, reported

AT_ONCE = 8
"""Accounts that are asked at the same time."""
JITTER = 0.1
"""The fraction by which each interval is longer or shorter, so that accounts don't fall into step."""
_BAD = frozenset({Verdict.TRIPPED, Verdict.WOULD_TRIP, Verdict.UNCONFIRMED, Verdict.REFUSED})

log = structlog.get_logger(__name__)


class MonitorThread(threading.Thread):
    """Runs until `stop`."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(name="account monitor", daemon=True)
        self._monitor = AccountMonitor(settings)

    def stop(self) -> None:
        self._monitor.stop()
        self.join(5)

    def run(self) -> None:
        asyncio.run(self._monitor.run())


class AccountMonitor:
    """One process's part in monitoring what is configured."""

    def __init__(self, settings: Settings, *, lease: float = LEASE) -> None:
        self._settings = settings
        self._lease = lease
        self._stop_asked = threading.Event()
        self._outages = OutageLog("account monitor")
        self._holder = Holder()
        self._sessions = SharedSessions()
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._at_work: dict[str, asyncio.Task[None]] = {}

    def stop(self) -> None:
        """From any thread."""
        self._stop_asked.set()

    async def run(self) -> None:
        """Until `stop`: hold the leases that are to be had, and do what each of them is for."""
        redis = AsyncDeadlineClient(async_redis_client(self._settings), self._settings.redis_timeout)
        accounts = self._accounts(redis)
        feeds = self._feeds()
        sources = self._sources(redis)
        names = [*map(lease_of_account, accounts), *([FEEDS] if feeds else [])]
        leases = Leases(redis, self._holder, names, self._lease)
        everywhere = [asyncio.create_task(self._look(feed, sources)) for feed in feeds.values() if feed.everywhere]
        try:
            while not self._stop_asked.is_set():
                try:
                    held = await leases.hold()
                    self._outages.note("leases", None)
                except BreakerError as error:
                    self._outages.note("leases", error)
                else:
                    self._begin_and_end(held, accounts, feeds, sources)
                await asyncio.to_thread(self._stop_asked.wait, EVERY)
        finally:
            await _end([*self._at_work.values(), *everywhere])
            with suppress(BreakerError):  # they run out by themselves
                await leases.release()
            for account in accounts.values():
                await account.aclose()
            for feed in feeds.values():
                await feed.aclose()
            for broker in sources.brokers.values():
                await broker.aclose()
            await sources.http.aclose()
            await redis.close()
            self._sessions.close()

    def _begin_and_end(
        self,
        held: frozenset[str],
        accounts: Mapping[str, MonitoredAccount],
        feeds: Mapping[str, WatchedFeed],
        sources: Sources,
    ) -> None:
        """Begin what was not at work yet, and end what another process does by now."""
        lost, new = sorted(self._at_work.keys() - held), sorted(held - self._at_work.keys())
        for lease in lost:
            self._at_work.pop(lease).cancel()
        for lease in new:
            work = self._judge_feeds(feeds, sources) if lease == FEEDS else self._monitor(accounts[account_of(lease)])
            self._at_work[lease] = asyncio.create_task(work)
        if lost:
            log.warning("another process monitors", what=", ".join(lost))
        if new:
            log.info("monitoring", what=", ".join(new))

    async def _monitor(self, account: MonitoredAccount) -> None:
        """Measure one account again and again; whatever one reading fails with does not end it."""
        while True:
            await asyncio.sleep(account.seconds_to_wait)
            async with self._turns:
                await self._measure(account)
            await asyncio.sleep(self._pause())

    async def _measure(self, account: MonitoredAccount) -> None:
        try:
            judged = await account.measure()
            self._outages.note(account.name, judged.problems[0] if judged is not None and judged.problems else None)
        except (BrokerError, BreakerError) as error:
            self._outages.note(account.name, error)
        except Exception as error:  # an adapter's own mistake must not be the end of this account's protection
            self._outages.note(account.name, error)
        else:
            for outcome in () if judged is None else judged.outcomes:
                if outcome.verdict in _BAD:
                    log.warning("measured", account=account.name, verdict=outcome.verdict, **outcome.details)

    async def _judge_feeds(self, feeds: Mapping[str, WatchedFeed], sources: Sources) -> None:
        async with asyncio.TaskGroup() as together:
            for feed in feeds.values():
                together.create_task(self._judge(feed, sources))

    async def _judge(self, feed: WatchedFeed, sources: Sources) -> None:
        while True:
            try:
                outcome = await feed.judge(sources)
                self._outages.note(f"feed {feed.name}", FeedUnreadable(feed.unreadable) if feed.unreadable else None)
                if outcome.verdict in _BAD:
                    log.warning("judged", feed=feed.name, verdict=outcome.verdict, **outcome.details)
            except Exception as error:  # one feed's trouble is not the others'
                self._outages.note(f"feed {feed.name}", error)
            await asyncio.sleep(self._pause())

    async def _look(self, feed: WatchedFeed, sources: Sources) -> None:
        """For a feed that only this host may see; it is judged by whoever holds the lease."""
        while True:
            with suppress(FeedUnreadable):  # it may be on another host, and whoever judges says so
                try:
                    await feed.look(sources)
                except BreakerError as error:
                    self._outages.note(f"feed {feed.name}", error)
            await asyncio.sleep(self._pause())

    def _pause(self) -> float:
        interval = self._settings.monitor.interval
        return interval * random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311 - no secret

    def _accounts(self, redis: AsyncDeadlineClient) -> dict[str, MonitoredAccount]:
        """What can be monitored; what can't is said."""
        settings, found = self._settings, dict[str, MonitoredAccount]()
        measurements = Measurements(redis, self._holder, timedelta(days=settings.monitor.keep_days))
        for name, account in settings.accounts.items():
            scope = monitored_scope(name, settings.accounts)
            try:
                check_scope(scope)
                broker = open_broker(name, account, markets_dir=settings.markets_dir)
            except BreakerError as error:
                self._outages.note(name, error)
                continue
            rules = async_rules_of(settings, scope)
            pace = RequestPace(broker.capabilities.requests_per_minute, settings.monitor.rate_share)
            session = None if account.session == ALWAYS else partial(self._sessions.session, account.session)
            found[name] = MonitoredAccount(
                name,
                broker,
                rules,
                measurements,
                KnownTransfers(redis, name),
                pace,
                patience=2 * account.request_timeout,
                session=session,
            )
        return found

    def _feeds(self) -> dict[str, WatchedFeed]:
        found = {}
        for name in self._settings.feeds:
            try:
                found[name] = WatchedFeed(name, self._settings)
            except BreakerError as error:
                self._outages.note(f"feed {name}", error)
        return found

    def _sources(self, redis: AsyncDeadlineClient) -> Sources:
        settings = self._settings
        brokers: dict[str, Broker] = {}
        for feed in settings.feeds.values():
            name = (feed.account or "").upper()
            with suppress(ConfigurationError):  # the account itself has said so
                if name and name not in brokers:
                    brokers[name] = open_broker(name, settings.accounts[name], markets_dir=settings.markets_dir)
        paces = {
            name: RequestPace(broker.capabilities.requests_per_minute, settings.monitor.rate_share)
            for name, broker in brokers.items()
        }
        prometheus = settings.recovery.prometheus_url
        return Sources(redis, httpx.AsyncClient(), brokers, paces, prometheus, self._sessions)


def monitor(running: RunningConfiguration) -> None:
    """Monitor until SIGTERM or SIGINT. Raises ConfigurationError where there is nothing to monitor."""
    settings = running.settings
    if not settings.accounts and not settings.feeds:
        raise ConfigurationError(
            "neither an account nor a feed is configured; nothing was started, write [accounts.NAME]"
        )
    monitoring = AccountMonitor(settings)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: monitoring.stop())
    with reported(MONITOR, running):
        log.info("monitoring", accounts=sorted(settings.accounts), feeds=sorted(settings.feeds))
        asyncio.run(monitoring.run())


async def _end(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
