"""Keep records on this host's disk while the database can't take them, in a directory of append-only files.

Writers append whole lines under a lock and return once they are on the disk, so that a record outlives any kill of its
writer, and of the machine. A drain first puts the file aside, so that it never holds writers up, and deletes it only
when the ledger has every record in it; a drain that dies is begun again, and the ledger knows what it has already.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import math
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from breaker.atomic_file import sync_directory, write_atomically
from breaker.process_lock import process_lock
from ledger.checkpoint import ending_of_torn_line
from ledger.errors import InvalidRecord, SpoolUnavailable
from ledger.record import AuditRecord, derived_id

if TYPE_CHECKING:  # adding to the spool must not wait for SQLAlchemy to be imported
    from ledger.ledger import Ledger

UNREADABLE = "SPOOL_LINE_UNREADABLE"
"""Recorded for a line that is no record: what a crash left of it, or what somebody wrote there."""

_BATCH = 500
_LOCK_WAIT = 2.0


@dataclass(frozen=True, slots=True)
class SpoolDrain:
    """`moved` records are in the ledger now, `known` were there already, `unreadable` lines were recorded as such.

    `busy` says that another process is draining, so nothing was done; `unfinished` that the time was over first.
    """

    moved: int = 0
    known: int = 0
    unreadable: int = 0
    busy: bool = False
    unfinished: bool = False


class Copy(Protocol):
    """What is kept of a spool elsewhere. None of it raises, or waits for longer than it is told to."""

    def offer(self, records: Iterable[AuditRecord]) -> None:
        """These are on the disk now."""

    def withdraw(self, ids: Iterable[str]) -> None:
        """The ledger has these now."""

    def finish(self) -> None:
        """The process ends."""


class Spool:
    """The spool in one directory. Any number of processes may use it at once.

    `copy` is told what is on the disk, and what the ledger has of it since.
    """

    def __init__(self, directory: Path, copy: Copy | None = None) -> None:
        self.directory = directory
        self.copy = copy
        self._current = directory / "current.jsonl"

    def add(self, records: Sequence[AuditRecord]) -> None:
        """Append `records`, and return once they are on the disk.

        Raises:
            SpoolUnavailable: the disk refused; none, or the first few, of the records may have been written.
        """
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            data = "".join(record.to_json() + "\n" for record in records).encode()
            try:
                with self._locked_current() as file:
                    _write_all(file, ending_of_torn_line(file).encode() + data)
                    os.fsync(file)
            except TimeoutError:
                self._add_apart(data)
        except OSError as error:
            raise SpoolUnavailable(
                f"the spool {self.directory} can't be written ({error.strerror}); the record is not kept there"
            ) from None
        finally:
            if self.copy is not None:  # also what the disk refused: then it is the only one there is
                self.copy.offer(records)

    def pending(self) -> bool:
        """Whether anything waits to be drained."""
        return any(True for _ in self._files())

    def records(self) -> list[AuditRecord]:
        """What waits, in the order in which it came."""
        return [record for file in self._files() for record in _parse(file)]

    def drain(self, ledger: Ledger, *, within: float = math.inf) -> SpoolDrain:
        """Move everything into the ledger, oldest first, or what can be moved `within` so many seconds.

        Raises:
            LedgerUnavailable, LedgerNotReady: the ledger took only a part, or nothing; the rest still waits.
            SpoolUnavailable: the directory can't be read or written.
        """
        if not self.pending():
            return SpoolDrain()
        try:
            with process_lock(self.directory / "drain.lock") as mine:
                if not mine:
                    return SpoolDrain(busy=True)
                self._put_current_aside()
                drained, end = SpoolDrain(), time.monotonic() + within
                for file in self._files(aside=True):
                    drained = self._drain_file(file, ledger, drained, end)
                    if drained.unfinished:
                        break
                    file.unlink()
                return drained
        except OSError as error:
            raise SpoolUnavailable(
                f"the spool {self.directory} can't be drained ({error.strerror}); it is kept"
            ) from None

    def _drain_file(self, file: Path, ledger: Ledger, before: SpoolDrain, end: float) -> SpoolDrain:
        drained, records = before, _parse(file)
        for start in range(0, len(records), _BATCH):
            if time.monotonic() > end:
                return replace(drained, unfinished=True)
            batch = records[start : start + _BATCH]
            done = ledger.append(batch)
            if self.copy is not None:
                self.copy.withdraw(record.id for record in batch)
            drained = replace(
                drained,
                moved=drained.moved + len(done.new),
                known=drained.known + len(done.known),
                unreadable=drained.unreadable + sum(record.action == UNREADABLE for record in batch),
            )
        return drained

    def _files(self, *, aside: bool = False) -> Iterator[Path]:
        yield from sorted(self.directory.glob("aside-*.jsonl"))
        if not aside and self._current.exists():
            yield self._current

    @contextlib.contextmanager
    def _locked_current(self) -> Iterator[int]:
        """The current file, locked; not one that a drain has put aside while we waited for the lock.

        Raises TimeoutError if somebody holds it for longer than writing could take."""
        deadline = time.monotonic() + _LOCK_WAIT
        while True:
            file = os.open(self._current, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
            try:
                _lock(file, deadline)
                if _is_still(file, self._current):
                    if not os.fstat(file).st_size:  # whoever wrote the first line of another one has seen to its name
                        sync_directory(self.directory)
                    yield file
                    return
            finally:
                os.close(file)

    def _add_apart(self, data: bytes) -> None:
        """Write a file of one's own, because a frozen process holds the common one."""
        write_atomically(self._name_aside(), data)

    def _name_aside(self) -> Path:
        # Names sort by time; the clock may step back, so what is there already decides too.
        earlier = max((int(file.stem.split("-")[1]) for file in self._files(aside=True)), default=0)
        return self.directory / f"aside-{max(time.time_ns(), earlier + 1):020}-{os.getpid()}.jsonl"

    def _put_current_aside(self) -> None:
        if not self._current.exists():
            return
        with self._locked_current():
            if self._current.exists():
                self._current.rename(self._name_aside())
            sync_directory(self.directory)


def _parse(file: Path) -> list[AuditRecord]:
    lines = file.read_bytes().split(b"\n")
    return [_record(line, file) for line in lines if line.strip()]


def _record(line: bytes, file: Path) -> AuditRecord:
    text = line.decode("utf-8", "replace")
    try:
        return AuditRecord.from_json(text)
    except InvalidRecord:
        # Its content is its identity, so that a drain begun again does not record it twice.
        return AuditRecord(
            id=derived_id(UNREADABLE, text),
            action=UNREADABLE,
            source="spool",
            timestamp=datetime.fromtimestamp(file.stat().st_mtime, UTC),
            details={"line": text},
            outcome="UNREADABLE",
        )


def _lock(file: int, deadline: float) -> None:
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise TimeoutError(errno.ETIMEDOUT, "another process holds it") from None
            time.sleep(0.001)
        else:
            return


def _write_all(file: int, data: bytes) -> None:
    while data:
        data = data[os.write(file, data) :]


def _is_still(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False
