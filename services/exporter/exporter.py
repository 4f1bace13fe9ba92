"""Read Redis and the ledger afresh at each scrape, and render what was read.

A Redis or a database that hangs costs a scrape its deadline, never more: what does not answer is reported as failed.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

from breaker import BreakerError
from breaker.keys import GLOBAL
from breaker.state import unknown_status
from configuration.redis_clients import redis_client
from configuration.settings import Settings
from ledger.audit import verify_ledger
from ledger.configured import open_checkpoints, open_ready_ledger, open_spool
from ledger.errors import LedgerError
from ledger.ledger import Ledger
from ledger.location import configured_place
from ledger.outbox import known_scopes
from ledger.spool_copy import copy_key
from services.exporter.families import Rendering
from services.exporter.ledger_counts import Counts, read_on
from services.exporter.redis_reading import RedisReading, ScopeReading, read_redis
from services.exporter.scrape import ChainReading, LedgerReading, Scrape
from tasks.kill.pending_exit_store import read_pending_exits

VERIFY_CHAIN_EVERY = 60.0

T = TypeVar("T")


class Source(Generic[T]):
    """Something slow, read on a thread of its own, one reading at a time, and given up on after a deadline.

    A reading that is given up on goes on; until it has ended, further ones fail at once instead of piling up.
    """

    def __init__(self, name: str, read: Callable[[], T]) -> None:
        self._read = read
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=f"read {name}")
        self._running: Future[T] | None = None

    def start(self) -> Future[T] | None:
        if self._running is not None and not self._running.done():
            return None
        self._running = self._pool.submit(self._read)
        return self._running

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)


class Exporter:
    """Reads, and renders what was read. `deadline`: seconds after which a scrape has an answer, whatever hangs."""

    def __init__(self, settings: Settings, *, deadline: float | None = None) -> None:
        self.deadline = deadline or min(settings.redis_timeout, 2.0) + 0.5
        self._settings = settings
        self._redis = redis_client(settings)
        self._spool = open_spool(settings)
        self._copy = copy_key(configured_place(settings))
        self._checkpoints = open_checkpoints(settings)
        self._ledger: Ledger | None = None
        self._counts: Counts | None = None
        self._scopes: tuple[str, ...] = (GLOBAL,)
        self._chain = ChainReading()
        self._checks: Counter[str] = Counter(verified=0, failed=0)
        self._rendering = Rendering()
        self._safety_nets = tuple(name for name, each in settings.accounts.items() if each.safety_net is not None)
        self._one_at_a_time = threading.Lock()
        self._stopping = threading.Event()
        self._from_redis = Source("redis", self._read_redis)
        self._from_ledger = Source("ledger", self._read_ledger)
        self._from_exits = Source("pending exits", self._read_exits)
        self._upkeep = threading.Thread(target=self._keep_up, name="exporter upkeep", daemon=True)

    def start(self) -> None:
        """Begin to look for further breakers and to walk the chain, once a minute, beside the scrapes."""
        self._upkeep.start()

    def close(self) -> None:
        self._stopping.set()
        self._from_redis.close()
        self._from_ledger.close()
        self._from_exits.close()
        self._redis.close()

    def scrape(self) -> bytes:
        """One fresh reading in Prometheus's text format."""
        with self._one_at_a_time:
            begun = time.monotonic()
            redis_reading, ledger_reading, pending = self._read(begun + self.deadline)
            self._checks["verified" if redis_reading.verified else "failed"] += 1
            took = time.monotonic() - begun
            taken = Scrape(redis_reading, ledger_reading, self._chain, Counter(self._checks), took, pending)
            return self._rendering.render(taken)

    def _read(self, until: float) -> tuple[RedisReading, LedgerReading, Mapping[str, int] | None]:
        from_redis, from_ledger = self._from_redis.start(), self._from_ledger.start()
        from_exits = self._from_exits.start()
        hung = f"no answer within {self.deadline:g} s"
        closed = tuple(ScopeReading(scope, unknown_status(hung)) for scope in self._scopes)
        redis_reading = _result(from_redis, until) or RedisReading(closed, problem=hung)
        ledger_reading = _result(from_ledger, until) or LedgerReading(self._counts, hung)
        return redis_reading, ledger_reading, _result(from_exits, until)

    def _read_exits(self) -> Mapping[str, int]:
        """Each configured account, those without any too; what can be read, in Redis or on this host."""
        exits = read_pending_exits(self._settings).exits
        return {**dict.fromkeys(self._settings.accounts, 0), **Counter(pending.account for pending in exits)}

    def _read_redis(self) -> RedisReading:
        timeout = min(self._settings.redis_timeout, self.deadline)
        return read_redis(self._redis, self._scopes, copy=self._copy, safety_nets=self._safety_nets, timeout=timeout)

    def _read_ledger(self) -> LedgerReading:
        spooled: tuple[int | None, float | None] = None, None
        try:
            spooled = self._read_spool()
            self._ledger = self._ledger or open_ready_ledger(self._settings)
            self._counts = read_on(self._ledger, self._counts or Counts())
        except (LedgerError, OSError) as error:
            return LedgerReading(self._counts, str(error), *spooled)
        return LedgerReading(self._counts, None, *spooled)

    def _read_spool(self) -> tuple[int, float]:
        made = [record.timestamp.timestamp() for record in self._spool.records()]
        return len(made), max(0.0, time.time() - min(made)) if made else 0.0

    def _keep_up(self) -> None:
        while True:
            try:
                ledger = self._ledger or open_ready_ledger(self._settings)
                self._scopes = known_scopes(self._redis, ledger, timeout=self._settings.redis_timeout)
                found = verify_ledger(ledger, self._checkpoints, only_new=True)
                whole = found.verification.whole
                verified_at = time.time() if whole else self._chain.verified_at
                self._chain = ChainReading(whole, verified_at, found.verification.seq)
            except (LedgerError, BreakerError) as error:
                # What can't be reached is in the scrape; what was found before still holds for the rows of then.
                sys.stderr.write(f"exporter: {error}\n")
            if self._stopping.wait(VERIFY_CHAIN_EVERY):
                return


def _result(reading: Future[T] | None, until: float) -> T | None:
    if reading is None:
        return None
    try:
        return reading.result(max(0.0, until - time.monotonic()))
    except TimeoutError:
        return None
