"""Record an action: in the ledger if it can be had soon, otherwise in the spool. There is no other way."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from configuration.login import behind_sudo
from ledger.errors import LedgerError, NotRecorded, SpoolUnavailable
from ledger.ledger import Ledger
from ledger.record import AuditRecord
from ledger.spool import Spool, SpoolDrain


class Destination(StrEnum):
    LEDGER = "ledger"
    SPOOL = "spool"


@dataclass(frozen=True, slots=True)
class Recorded:
    """Where the records are now, and why not in the ledger if they aren't."""

    where: Destination
    reason: str | None = None


class Recorder:
    """Records actions. Safe to use from several threads.

    A failing database is left alone for `retry_after` seconds, so that a kill switch of a hundred steps does not wait a
    hundred times for it. While older records wait in the spool, newer ones line up behind them, so that the ledger gets
    them in the order in which things happened.
    """

    def __init__(self, ledger: Ledger, spool: Spool, *, retry_after: float = 5.0) -> None:
        self.ledger = ledger
        self.spool = spool
        self._retry_after = retry_after
        self._lock = threading.Lock()
        self._not_before = float("-inf")
        self._last_failure: str | None = None

    def record(self, *records: AuditRecord) -> Recorded:
        """Keep `records`; returns once they are safe, in about twice the ledger's `timeout` or 2 s, whichever is more.

        Those of the command line say who is behind sudo, if anybody.

        Raises:
            NotRecorded: neither the database nor the spool took them.
        """
        if sudo := behind_sudo():
            records = tuple(
                replace(each, details={**each.details, "sudo": sudo}) if each.source == "cli" else each
                for each in records
            )
        if self._resting():
            self._spool(records, self._last_failure)
            return Recorded(Destination.SPOOL, self._last_failure)
        if self.spool.pending():
            self._spool(records, None)
            return self._drain_behind(records)
        try:
            self.ledger.append(records)
        except LedgerError as error:
            self._rest(error)
            self._spool(records, str(error))
            return Recorded(Destination.SPOOL, str(error))
        return Recorded(Destination.LEDGER)

    def drain(self) -> SpoolDrain:
        """Move what waits in the spool into the ledger now. Raises what `Spool.drain` raises."""
        return self.spool.drain(self.ledger)

    def _drain_behind(self, records: Sequence[AuditRecord]) -> Recorded:
        try:
            drained = self.spool.drain(self.ledger, within=self.ledger.timeout)
        except LedgerError as error:
            self._rest(error)
            return Recorded(Destination.SPOOL, str(error))
        if drained.busy:
            return Recorded(Destination.SPOOL, "another process is draining the spool")
        if drained.unfinished:
            return Recorded(Destination.SPOOL, "the spool holds more than can be moved at once")
        return Recorded(Destination.LEDGER)

    def _spool(self, records: Sequence[AuditRecord], failure: str | None) -> None:
        try:
            self.spool.add(records)
        except SpoolUnavailable as error:
            lines = " ".join(record.to_json() for record in records)
            raise NotRecorded(f"{failure or 'the ledger was not asked'}; {error}; note by hand: {lines}") from None

    def _resting(self) -> bool:
        with self._lock:
            return time.monotonic() < self._not_before

    def _rest(self, error: LedgerError) -> None:
        with self._lock:
            self._not_before = time.monotonic() + self._retry_after
            self._last_failure = str(error)
