"""Get a procedure's actions into the ledger without the procedure ever waiting for a database."""

from __future__ import annotations

import asyncio
import contextlib
import math
import sys
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from breaker.errors import BreakerError
from ledger.errors import LedgerError, SpoolUnavailable
from ledger.record import FAILED, OK, AuditRecord
from ledger.spool import Spool

if TYPE_CHECKING:
    from ledger.ledger import Ledger

RETRY_AFTER = 2.0
"""Seconds for which a ledger that failed is left alone."""
GATHER_FOR = 0.1
"""Seconds in which records come together before they are moved into the ledger, in one transaction."""
DISK_WAIT = 2.0
"""Seconds that an action waits for the disk to take the records before it; after that the disk is not waited for."""
BUSY_AGAIN_AFTER = 0.05
_BUSY = "another process is draining the spool"
_TOO_SLOW = f"the disk has not taken them within {DISK_WAIT:g} s"
_FAILURE_WORDS = ("FAILED", "UNAVAILABLE", "WITHOUT", "NOT_FLAT")


class AuditTrail:
    """Each action is on this host's disk before the next one begins, and in the ledger as soon as that can be had.

    Call it with an action's word and its details; it never raises, and waits for neither disk nor database. A thread of
    its own writes what has come since it last wrote, all at once; whoever acts next awaits `on_disk` first. A second
    thread moves the spool into the ledger. What a full or read-only disk refuses is kept in memory and goes to the
    ledger directly.
    """

    def __init__(
        self,
        spool: Spool,
        open_ledger: Callable[[], Ledger],
        drain_transitions: Callable[[Ledger], None],
        *,
        source: str,
        user_id: str,
        incident_id: str,
        scope: str = "global",
    ) -> None:
        self._spool = spool
        self._open_ledger = open_ledger
        self._drain_transitions = drain_transitions
        self._record = partial(AuditRecord, source=source, user_id=user_id, incident_id=incident_id, scope=scope)
        self.flow_run_id: str | None = None
        self._news = threading.Condition()
        """Guards what is recorded, and what of it is written."""
        self._unwritten: list[AuditRecord] = []
        self._recorded = self._written = self._given_up = 0
        self._waiting: list[tuple[int, asyncio.AbstractEventLoop, asyncio.Future[None]]] = []
        self._writer: threading.Thread | None = None
        self._unspooled: list[AuditRecord] = []
        self._problem: str | None = None
        self._spool_problem: str | None = None
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._until = math.inf
        """When closing ends, on the monotonic clock."""
        self._thread = threading.Thread(target=self._keep_draining, name="audit trail", daemon=True)

    def start(self) -> None:
        """Begin to move what is recorded into the ledger; until then it only gathers on the disk."""
        if not self._thread.ident:
            self._thread.start()

    def __call__(self, action: str, details: Mapping[str, Any]) -> None:
        outcome = FAILED if any(word in action for word in _FAILURE_WORDS) or details.get("flat") is False else OK
        record = self._record(action=action, details=details, outcome=outcome, flow_run_id=self.flow_run_id)
        with self._news:
            self._unwritten.append(record)
            self._recorded += 1
            self._news.notify_all()
            if self._writer is None:
                self._writer = threading.Thread(target=self._keep_writing, name="audit spool", daemon=True)
                self._writer.start()

    async def on_disk(self) -> None:
        """Return once everything that was recorded is on the disk, or was refused by it: `DISK_WAIT` s at most.

        A disk that hangs holds up one action, and none after it.
        """
        with self._news:
            wanted = self._recorded
            if self._written >= wanted or self._written < self._given_up:
                return
            loop = asyncio.get_running_loop()
            written: asyncio.Future[None] = loop.create_future()
            self._waiting.append((wanted, loop, written))
        try:
            async with asyncio.timeout(DISK_WAIT):
                await written
        except TimeoutError:
            self._given_up = wanted
            self._spool_problem = _TOO_SLOW

    def close(self, timeout: float) -> list[str]:
        """Give the ledger up to `timeout` seconds to take what is left; returns what is not in it, as sentences.

        Records that neither ledger nor disk has are written to standard error, a JSON line each: all that is left then.
        """
        end = time.monotonic() + timeout
        with self._news:
            if not self._news.wait_for(lambda: not self._unwritten, min(timeout, DISK_WAIT)):
                self._unspooled += self._unwritten  # should the disk take them after all, the ledger knows them by id
                self._spool_problem = _TOO_SLOW
            self._until = end
            self._closing.set()  # not before: whoever drains ends by it, and was to see what the disk had still to take
            self._news.notify_all()
        self.start()
        self._wake.set()
        self._thread.join(max(end - time.monotonic(), 0))
        if self._spool.copy is not None and (self._problem or self._thread.is_alive()):
            self._spool.copy.finish()
        missing = []
        if unspooled := list(self._unspooled):
            sys.stderr.write("".join(f"{record.to_json()}\n" for record in unspooled))
            missing.append(
                f"{len(unspooled)} audit records are only on this screen, the lines of JSON above; keep them: "
                f"{self._spool_problem}"
            )
        elif self._problem or self._thread.is_alive():
            why = self._problem or f"it did not answer within {timeout:g} s"
            missing.append(f"the ledger ({why}); the records wait in {self._spool.directory}: `breaker audit drain`")
        return missing

    def _keep_writing(self) -> None:
        while True:
            with self._news:
                self._news.wait_for(lambda: self._unwritten or self._closing.is_set())
                batch = list(self._unwritten)
                if not batch:
                    self._writer = None
                    return
            try:
                self._spool.add(batch)
            except SpoolUnavailable as error:
                self._spool_problem = str(error)
                self._unspooled += batch
            with self._news:
                del self._unwritten[: len(batch)]
                self._written += len(batch)
                self._news.notify_all()
                told = [each for each in self._waiting if each[0] <= self._written]
                self._waiting = [each for each in self._waiting if each[0] > self._written]
            self._wake.set()
            for _, loop, written in told:
                with contextlib.suppress(RuntimeError):  # the loop has ended, and with it whoever waited
                    loop.call_soon_threadsafe(_tell, written)

    def _keep_draining(self) -> None:
        ledger: Ledger | None = None
        while True:
            self._wake.wait()
            self._closing.wait(GATHER_FOR)
            self._wake.clear()
            try:
                ledger = ledger or self._open_ledger()
                self._problem = self._move_into(ledger)
            except (LedgerError, BreakerError, OSError) as error:
                self._problem = str(error)
            busy = self._problem == _BUSY and time.monotonic() < self._until  # whose drain may have begun before ours
            if self._closing.is_set() and not self._wake.is_set() and not busy:
                break
            if busy:
                time.sleep(BUSY_AGAIN_AFTER)
            elif self._problem:
                self._closing.wait(RETRY_AFTER)
            if self._problem:
                self._wake.set()
        if ledger is not None:
            ledger.close()

    def _move_into(self, ledger: Ledger) -> str | None:
        """Returns what kept the spool's own records where they are; that keeps the others from nothing."""
        try:
            problem = _BUSY if self._spool.drain(ledger).busy else None
        except SpoolUnavailable as error:
            problem = str(error)
        self._append_unspooled(ledger)
        self._drain_transitions(ledger)
        return problem

    def _append_unspooled(self, ledger: Ledger) -> None:
        waiting = list(self._unspooled)
        if waiting:
            ledger.append(waiting)
            del self._unspooled[: len(waiting)]


def _tell(written: asyncio.Future[None]) -> None:
    if not written.done():
        written.set_result(None)
