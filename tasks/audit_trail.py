"""Get a procedure's actions into the ledger without the procedure ever waiting for a database."""

from __future__ import annotations

import sys
import threading
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
_FAILURE_WORDS = ("FAILED", "UNAVAILABLE", "WITHOUT", "NOT_FLAT")


class AuditTrail:
    """Each action is on this host's disk before the next one begins, and in the ledger as soon as that can be had.

    A thread of its own moves the spool into the ledger. What a full or read-only disk refuses is kept in memory and
    goes to the ledger directly. Call it with an action's word and its details; it never raises and never waits for the
    database.
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
        self._unspooled: list[AuditRecord] = []
        self._problem: str | None = None
        self._spool_problem: str | None = None
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._keep_draining, name="audit trail", daemon=True)

    def start(self) -> None:
        """Begin to move what is recorded into the ledger; until then it only gathers on the disk."""
        if not self._thread.ident:
            self._thread.start()

    def __call__(self, action: str, details: Mapping[str, Any]) -> None:
        outcome = FAILED if any(word in action for word in _FAILURE_WORDS) or details.get("flat") is False else OK
        record = self._record(action=action, details=details, outcome=outcome, flow_run_id=self.flow_run_id)
        try:
            self._spool.add([record])
        except SpoolUnavailable as error:
            self._spool_problem = str(error)
            self._unspooled.append(record)
        self._wake.set()

    def close(self, timeout: float) -> list[str]:
        """Give the ledger up to `timeout` seconds to take what is left; returns what is not in it, as sentences.

        Records that neither ledger nor disk has are written to standard error, a JSON line each: all that is left then.
        """
        self.start()
        self._closing.set()
        self._wake.set()
        self._thread.join(timeout)
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

    def _keep_draining(self) -> None:
        ledger: Ledger | None = None
        while True:
            self._wake.wait()
            self._wake.clear()
            try:
                ledger = ledger or self._open_ledger()
                self._problem = self._move_into(ledger)
            except (LedgerError, BreakerError, OSError) as error:
                self._problem = str(error)
            if self._closing.is_set() and not self._wake.is_set():
                break
            if self._problem:
                self._closing.wait(RETRY_AFTER)
                self._wake.set()
        if ledger is not None:
            ledger.close()

    def _move_into(self, ledger: Ledger) -> str | None:
        """Returns what kept the spool's own records where they are; that keeps the others from nothing."""
        problem = None
        try:
            self._spool.drain(ledger)
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
