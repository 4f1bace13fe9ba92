"""Lock one account at its venue once it is flat, and lift that again where another kill switch has to close something.

Before the venue is asked it is on record that the lock is ours, in Redis or on this host's disk; what it says is
believed only when it has been read back.
"""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime

from brokers.protocol import BrokerError
from configuration.settings import Settings
from tasks.kill.account import AccountRun, LockResult
from tasks.kill.venue_lock import Phase, VenueLock, begun, in_phase, is_foreign, why_not
from tasks.kill.venue_lock_store import read_venue_locks, write_venue_lock
from tasks.kill.venue_setting import set_and_read_back

LOCK_WITHIN = 15.0
"""Seconds after which a run no longer waits for the venue's lock."""
LIFT_WITHIN = 10.0
PLACES = 2
"""Where it is kept that a lock is ours: Redis, and this host's disk."""


class AccountLock:
    """The venue's lock on the account of one run."""

    def __init__(self, run: AccountRun, settings: Settings, scope: str) -> None:
        self._run = run
        self._settings = settings
        self._scope = scope
        self._lifting = asyncio.Lock()
        self._lifted_at: float | None = None

    @property
    def wanted(self) -> bool:
        """Whether there is anything to be settled at the end of the run."""
        return self._run.settings.venue_lock or self._lifted_at is not None

    async def settle(self) -> LockResult:
        """Lock the account if it is flat; what came of it."""
        run = self._run
        if not run.settings.venue_lock:
            lifted = "unlocked at the venue, to close what was there; not locked again, as kill.venue_lock is off"
            return LockResult(False, lifted)
        reason = why_not(
            run.progress,
            whole_account=run.whole_account,
            suspends_trading=run.broker.capabilities.suspends_trading,
        )
        if reason:
            return LockResult(False, reason)
        try:
            return await self._set()
        except BrokerError as error:
            return self._failed(str(error))

    async def lift(self, sent_at: float) -> bool:
        """Whether the lock was a kill switch's and is lifted since a close was sent at `sent_at`, monotonic seconds."""
        async with self._lifting:
            if self._lifted_at is not None and self._lifted_at >= sent_at:
                return True
            try:
                async with asyncio.timeout(LIFT_WITHIN):
                    lifted = await self._lift()
            except (BrokerError, TimeoutError) as error:
                self._failed(f"to close what is there, it could not be lifted: {error or 'no answer in time'}")
                return False
            if lifted:
                self._lifted_at = time.monotonic()
            return lifted

    async def _set(self) -> LockResult:
        broker = self._run.broker
        reading = await asyncio.to_thread(read_venue_locks, self._settings)
        known, suspended = reading.of(broker.name), bool((await broker.account()).trading_suspended)
        if is_foreign(known, suspended=suspended):
            unsure = f" ({'; '.join(reading.problems)})" if reading.problems else ""
            return self._failed(
                f"trading is suspended already, by nobody that is on record here{unsure}: left as it is, and no reset "
                "lifts it"
            )
        lock = begun(known, broker.name, self._scope, self._run.incident_id, datetime.now(UTC))
        problems = await self._keep(lock)
        if len(problems) == PLACES:
            return self._failed(f"the reset would not know that it may lift it: {'; '.join(problems)}")
        if not suspended:
            self._run.record("VENUE_LOCK_SENT", suspend=True)
            await self._run.on_disk()
            if not await set_and_read_back(broker, suspended=True):
                return self._failed("the venue took it, and does not say that trading is suspended")
        self._run.record("VENUE_LOCK_SET", was_set_before=suspended)
        await self._keep(in_phase(lock, Phase.SET, datetime.now(UTC)))
        return LockResult(True, "locked at the venue: it refuses new orders until the breaker is reset")

    async def _lift(self) -> bool:
        broker = self._run.broker
        reading = await asyncio.to_thread(read_venue_locks, self._settings)
        known, suspended = reading.of(broker.name), bool((await broker.account()).trading_suspended)
        if known is None or not suspended or is_foreign(known, suspended=suspended):
            return False
        lifting = in_phase(known, Phase.LIFTING, datetime.now(UTC))
        await self._keep(lifting)  # where it can't be kept, closing is still what matters
        self._run.record("VENUE_LOCK_SENT", suspend=False, why="positions have to be closed")
        await self._run.on_disk()
        if not await set_and_read_back(broker, suspended=False):
            return False
        self._run.record("VENUE_LOCK_LIFTED", why="positions have to be closed", set_in=known.incidents)
        await self._keep(in_phase(lifting, Phase.LIFTED, datetime.now(UTC)))
        return True

    async def _keep(self, lock: VenueLock) -> list[str]:
        return await asyncio.to_thread(write_venue_lock, self._settings, lock)

    def _failed(self, why: str) -> LockResult:
        self._run.record("VENUE_LOCK_FAILED", why=why)
        return LockResult(False, f"not locked at the venue: {why}")
