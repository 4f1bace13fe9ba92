"""Notice that another Redis answers than before, or one with an older copy, and compare it with the ledger at once.

A failover can lose a trip that was acknowledged, and a restored copy has one that was reset since. The ledger knows:
what it has a trip of and no reset is tripped again. Nobody waits for the scheduled verification then.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import structlog
from redis import Redis

from breaker.deadline_client import DeadlineClient
from breaker.errors import BreakerError, RedisRefused
from breaker.redis_run import COMPARED_KEY, run_of
from breaker.requests import Request
from breaker.state import Status
from ledger.errors import LedgerError
from ledger.ledger import Ledger
from ledger.outbox import known_scopes
from ledger.reconcile import reconcile

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Seen:
    """Which run of a Redis server has answered, and the epoch of each breaker that had one."""

    run: str
    """As `run_of` has it; empty where it may not be read."""
    epochs: Mapping[str, int]

    def goes_on_from(self, before: Seen) -> bool:
        """Whether nothing speaks against it that the same server goes on: no other run, and no epoch that went back."""
        back = any(epoch < before.epochs.get(scope, epoch) for scope, epoch in self.epochs.items())
        return self.run == before.run and not back


class PrimaryWatch:
    """Looks at one Redis for as long as the trip watch runs. `timeout`: seconds that each exchange with it may take."""

    def __init__(self, redis: Redis, timeout: float) -> None:
        self._redis = redis
        self._timeout = timeout
        self._client = DeadlineClient(redis, timeout)
        self._compared: Seen | None = None
        self._not_told = False

    def look(self, ledger: Ledger, statuses: Mapping[str, Status]) -> bool:
        """Compare every breaker with the ledger, unless the same server goes on. Returns whether it did.

        Raises BreakerUnavailable, RedisRefused or LedgerError when that was not possible for all: the next look does.
        """
        run, noted = self._runs()
        now = Seen(run, {scope: found.epoch for scope, found in statuses.items() if found.epoch is not None})
        if self._compared is not None and now.goes_on_from(self._compared) and noted == run:
            self._compared = now
            return False
        self._compare(ledger)
        if run:  # by whatever answers now: if that is another one already, this is not its run
            self._client.execute(Request("note that it was compared with the ledger", (("SET", COMPARED_KEY, run),)))
        self._compared = now
        return True

    def close(self) -> None:
        self._client.close()

    def _compare(self, ledger: Ledger) -> None:
        problem: BreakerError | LedgerError | None = None
        for scope in known_scopes(self._redis, ledger, timeout=self._timeout):
            try:
                found = reconcile(self._redis, ledger, scope, timeout=self._timeout)
            except (BreakerError, LedgerError) as error:  # one breaker's trouble must not keep another's from it
                problem = error
                continue
            if found.tripped:
                log.error("tripped again: Redis had lost a trip that the ledger has", scope=scope, found=found.state)
            elif found.override is not None:
                log.error("Redis has a state that the ledger doesn't explain", scope=scope, found=found.state)
        if problem is not None:
            raise problem

    def _runs(self) -> tuple[str, str]:
        """The run that answers, and the one that was last compared; both empty where INFO is refused."""
        commands = (("INFO",), ("GET", COMPARED_KEY))
        try:
            told, noted = self._client.execute(Request("say which run of it this is", commands))
        except RedisRefused as error:
            if not self._not_told:
                log.warning("gates that ask for a compared Redis stay closed: its run can't be read", error=str(error))
            self._not_told = True
            return "", ""
        self._not_told = False
        return run_of(told), noted.decode("utf-8", "replace") if isinstance(noted, bytes) else ""
