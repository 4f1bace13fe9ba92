"""Keep the venues' own dead-man timers armed: renewed in time, read back, and let run out where that is wanted.

`services.serve` and `breaker services` do so for every account that has `safety_net`. On as many hosts as one likes:
each account's timer is kept by one process, whose lease in Redis another one takes over a few seconds after it has
died. Failovers of Redis and outages of venues are outlived, and said.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial

import structlog

from breaker.deadline_client import AsyncDeadlineClient
from breaker.errors import BreakerError
from breaker.status_reader import AsyncStatusReader
from brokers.protocol import Broker, BrokerUnavailable
from brokers.registry import open_broker
from configuration.accounts import AccountSettings
from configuration.redis_clients import async_redis_client
from configuration.settings import Settings
from ledger.errors import LedgerError
from services.outage_log import OutageLog
from tasks.monitor.leases import Holder
from tasks.safety_nets.configured import WantedNet, wanted_net
from tasks.safety_nets.decision import Standing, untold_for
from tasks.safety_nets.holding import EVERY, LEASE, Holding
from tasks.safety_nets.net import Changed, Net, Told
from tasks.safety_nets.on_record import ACTIONS, BAD, record_change
from tasks.safety_nets.reading import read_net_records, read_told
from tasks.safety_nets.records import NetRecord, keep_request

KEPT_EVERY = 5.0
"""Seconds between two records of a timer that stands as it stood."""
LEAVE_WITHIN = 20.0
"""Seconds that an orderly end may take: what is at work ends, and the last process disarms."""
log = structlog.get_logger(__name__)


class SafetyNetThread(threading.Thread):
    """Runs until `stop`, which disarms what no other process keeps."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(name="safety nets", daemon=True)
        self._nets = SafetyNets(settings)

    def stop(self) -> None:
        self._nets.stop()
        self.join(LEAVE_WITHIN + 5)

    def run(self) -> None:
        asyncio.run(self._nets.run())


class SafetyNets:
    """One process's part in keeping the timers that are configured. `open_account` and `lease` are for tests."""

    def __init__(
        self,
        settings: Settings,
        *,
        open_account: Callable[[str, AccountSettings], Broker] | None = None,
        lease: float = LEASE,
        every: float = EVERY,
    ) -> None:
        self._settings = settings
        self._open_account = open_account or partial(open_broker, markets_dir=settings.markets_dir)
        self._lease = lease
        self._every = every
        self._stop_asked = threading.Event()
        self._outages = OutageLog("safety nets")
        self._holder = Holder()
        self._wanted: dict[str, tuple[WantedNet, Broker]] = {}
        self._held: dict[str, Net] = {}
        self._told: Mapping[str, Told] = {}
        self._steps: dict[str, asyncio.Task[None]] = {}
        self._kept_at: dict[str, float] = {}
        self._untold: set[str] = set()
        """Of which it was said that they are renewed without Redis."""

    def stop(self) -> None:
        """From any thread."""
        self._stop_asked.set()

    async def run(self) -> None:
        """Until `stop`: hold the leases that are to be had, and keep the timers that they are for."""
        settings = self._settings
        self._open()
        redis = AsyncDeadlineClient(async_redis_client(settings), settings.redis_timeout)
        statuses = AsyncStatusReader(async_redis_client(settings), timeout=settings.redis_timeout)
        holding = Holding(redis, self._holder, list(self._wanted), self._lease)
        looking: asyncio.Task[None] | None = None
        try:
            while not self._stop_asked.is_set():
                if looking is None or looking.done():
                    looking = asyncio.create_task(self._look(redis, statuses, holding))
                await asyncio.wait({looking}, timeout=self._every)  # a Redis that hangs keeps no timer from its renewal
                self._begin_steps(redis)
                await asyncio.to_thread(self._stop_asked.wait, self._every)
        finally:
            if looking is not None:
                await asyncio.gather(looking, return_exceptions=True)
            try:
                await asyncio.wait_for(self._leave(redis, holding), LEAVE_WITHIN)
            except TimeoutError:
                log.warning("not ended in order: the venues cancel what is not renewed", accounts=sorted(self._held))
            for _, broker in self._wanted.values():
                await broker.aclose()
            await statuses.close()
            await redis.close()

    def _begin_steps(self, redis: AsyncDeadlineClient) -> None:
        for net in self._held.values():
            if net.account not in self._steps or self._steps[net.account].done():
                self._steps[net.account] = asyncio.create_task(self._step(net, redis))

    async def _look(self, redis: AsyncDeadlineClient, statuses: AsyncStatusReader, holding: Holding) -> None:
        """Learn what is held and what holds. Without Redis all stays as it was, until `untold_for` ends it."""
        try:
            held = await holding.hold()
            told = await read_told(redis, statuses, list(self._wanted), self._told)
            records = (await read_net_records(redis))[1] if held - self._held.keys() else {}
        except BreakerError as error:
            self._outages.note("Redis", error)
            self._say_how_long_untold()
            return
        self._outages.note("Redis", None)
        self._untold.clear()
        self._told = told
        for lost in sorted(self._held.keys() - held):
            log.warning("another process keeps the safety net", account=lost)
            del self._held[lost]
        for new in sorted(held - self._held.keys()):
            self._held[new] = self._net(*self._wanted[new], records.get(new), told[new])
            log.info("keeping the safety net", account=new)

    def _net(self, wanted: WantedNet, broker: Broker, record: NetRecord | None, told: Told) -> Net:
        within = answered_within(self._settings.accounts[wanted.account].request_timeout, wanted.timeout)
        net = Net(wanted.account, broker, wanted.terms, within=within, host=str(self._holder))
        if record is not None:
            net.take_over(record, told)
        return net

    async def _step(self, net: Net, redis: AsyncDeadlineClient) -> None:
        """Whatever it fails with is not the end of the others."""
        told = self._told[net.account]
        try:
            changes = await net.step(told)
            problem = net.current(told).problem
            self._outages.note(net.account, BrokerUnavailable(problem, account=net.account) if problem else None)
            for changed in changes:
                await self._say(changed)
            if changes or time.monotonic() - self._kept_at.get(net.account, 0.0) >= KEPT_EVERY:
                await self._keep(net.current(told), redis)
        except Exception as error:
            self._outages.note(net.account, error)

    async def _keep(self, record: NetRecord, redis: AsyncDeadlineClient) -> None:
        try:
            (kept,) = await redis.execute(keep_request(record, self._holder))
            if kept == 1:
                self._kept_at[record.account] = time.monotonic()
        except BreakerError as error:
            self._outages.note("Redis", error)

    def _say_how_long_untold(self) -> None:
        """A timer that is renewed although nobody can tell whether it should be is nothing to be silent about."""
        for name, net in self._held.items():
            since = time.monotonic() - self._told[name].at
            if net.standing is Standing.ARMED and since > self._lease and name not in self._untold:
                self._untold.add(name)
                limit = untold_for(self._wanted[name][0].terms)
                log.error("renewed without a word from Redis", account=name, since=round(since), for_at_most=limit)

    async def _leave(self, redis: AsyncDeadlineClient, holding: Holding) -> None:
        """End in order: what is at work ends first, and of what no other process keeps the timer is disarmed."""
        await asyncio.gather(*self._steps.values(), return_exceptions=True)
        try:
            last = await holding.leave()
        except BreakerError as error:
            for net in self._held.values():
                log.warning(
                    "not disarmed: it can't be told whether another process keeps it",
                    account=net.account,
                    venue_cancels_in=round(net.seconds_left),
                    error=str(error),
                )
            return
        for name in sorted(last & self._held.keys()):
            net, told = self._held[name], self._told[name]
            changes = await net.disarm(told)
            for changed in changes:
                await self._say(changed)
                await self._keep(changed.record, redis)
        try:
            await holding.release()
        except BreakerError as error:
            self._outages.note("Redis", error)

    async def _say(self, changed: Changed) -> None:
        """Into the log, and on record."""
        record = changed.record
        words = {"account": record.account, "why": record.why, "problem": record.problem}
        told = {name: text for name, text in words.items() if text}
        (log.error if record.standing in BAD else log.info)(f"safety net {record.standing}", **told)
        try:
            await asyncio.to_thread(record_change, self._settings, changed)
        except LedgerError as error:
            log.warning("not on record", action=ACTIONS[record.standing], error=str(error), **told)

    def _open(self) -> None:
        """What can be kept; what can't is said."""
        for name, account in self._settings.accounts.items():
            if account.safety_net is None:
                continue
            try:
                broker = self._open_account(name, account)
            except BreakerError as error:
                self._outages.note(name, error)
                continue
            wanted = wanted_net(name, account, broker)
            if wanted is not None and not wanted.unfit:
                self._wanted[name] = (wanted, broker)
            elif wanted is not None:
                log.error("no safety net", account=name, why=wanted.unfit)


def answered_within(request_timeout: float, timeout: float) -> float:
    """Seconds for one renewal, which an adapter may repeat or precede with others: three fit into what is left."""
    return max(request_timeout, min(3 * request_timeout, timeout / 6))


def any_configured(accounts: Iterable[AccountSettings]) -> bool:
    """Whether there is anything to be kept."""
    return any(account.safety_net is not None for account in accounts)
