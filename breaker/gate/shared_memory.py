"""Share one sidecar's lease with every gate of the host, through a file in shared memory.

What a check compares is one aligned eight-byte number, which the processor reads and writes whole. All else is a
snapshot with a checksum: a reader that meets it half-written reads again. Closing is written before what explains it,
opening after. A sidecar that dies leaves a deadline that passes by itself.

The deadlines are on the boot-time clock, which all processes of a host share. A file that outlived a reboot carries
another boot's id and is not believed.
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import mmap
import os
import threading
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

from breaker.gate.decision import EXPIRED, Reason
from breaker.gate.judge import Halt
from breaker.gate.lease import LatestSeen, Lease, ScopeState, ScopeView, StateReading, StoredState
from breaker.gate.quiet_period import QuietPeriod

_SIZE = 65_536
_MAGIC = b"BRKGATE1"
_BOOT_ID = slice(40, 88)
_SNAPSHOT_AT = 128
# Indices of eight-byte fields.
_DEADLINE, _MAX_STALENESS, _CHECKSUM = 1, 2, 3
_READ_ATTEMPTS = 100
_REMAP_INTERVAL = 0.25

_Snapshot: TypeAlias = tuple[tuple[ScopeView, ...], Halt | None]


class SharedMemoryInUse(Exception):
    """Another sidecar writes this file already; the message names it."""


class SharedMemoryUnreadable(Exception):
    """The file is not a gate's shared memory, is another boot's, or is in the middle of a change that does not end."""


class SharedMemoryWriter:
    """The sidecar's side. Only one may have a file open at a time; raises `SharedMemoryInUse` otherwise."""

    def __init__(self, path: Path, max_staleness: float) -> None:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            raise SharedMemoryInUse(
                f"Another sidecar writes {path}; stop it first, or give this one another path."
            ) from None
        if os.fstat(descriptor).st_size != _SIZE:
            os.ftruncate(descriptor, _SIZE)
        self._descriptor = descriptor
        self._memory = mmap.mmap(descriptor, _SIZE)
        self._numbers = memoryview(self._memory).cast("d")
        self._checksums = memoryview(self._memory).cast("Q")
        self._close()
        self._numbers[_MAX_STALENESS] = max_staleness
        self._memory[_BOOT_ID] = boot_id()
        self._snapshot = b""
        self._memory[: len(_MAGIC)] = _MAGIC

    def write(self, lease: Lease, halt: Halt | None) -> None:
        """Show what is known now. Raises ValueError when there are more scopes than fit; then its gates are closed."""
        snapshot = json.dumps(
            {"views": [_view_to_json(view) for view in lease.views], "halt": _halt_to_json(halt)}
        ).encode()
        if snapshot != self._snapshot:
            self._close()
            if len(snapshot) > _SIZE - _SNAPSHOT_AT:
                raise ValueError(f"{len(lease.views)} scopes do not fit into it; use several sidecars.")
            self._memory[_SNAPSHOT_AT : _SNAPSHOT_AT + len(snapshot)] = snapshot
            self._checksums[_CHECKSUM] = _checksum(snapshot)
            self._snapshot = snapshot
        self._numbers[_DEADLINE] = lease.deadline

    def close(self) -> None:
        """Close every gate that reads here, at once."""
        self._close()
        self._numbers.release()
        self._checksums.release()
        self._memory.close()
        os.close(self._descriptor)

    def _close(self) -> None:
        self._numbers[_DEADLINE] = EXPIRED


class SharedMemoryReader:
    """A gate's side. Safe across fork: nothing is shared but the memory.

    Raises `OSError` when there is no such file, `SharedMemoryUnreadable` when it is not of this boot.
    """

    def __init__(self, path: Path) -> None:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            status = os.fstat(descriptor)
            if status.st_size != _SIZE:
                raise SharedMemoryUnreadable(f"{path} is not a gate's shared memory.")
            self.inode = status.st_ino
            memory = mmap.mmap(descriptor, _SIZE, access=mmap.ACCESS_READ)
        finally:
            os.close(descriptor)
        if memory[: len(_MAGIC)] != _MAGIC or memory[_BOOT_ID] != boot_id():
            memory.close()
            raise SharedMemoryUnreadable(f"{path} was not written since this host started; start the sidecar.")
        self._memory = memory
        self.numbers = memoryview(memory).cast("d")
        self._checksums = memoryview(memory).cast("Q")
        self._snapshot: _Snapshot = (), None
        self._snapshot_checksum = -1

    def read(self) -> tuple[Lease, Halt | None]:
        """What the sidecar knows. Raises `SharedMemoryUnreadable`."""
        # The deadline first: what it vouches for was written before it.
        deadline = self.numbers[_DEADLINE]
        views, halt = self._read_snapshot()
        return Lease(self.numbers[_MAX_STALENESS], views, deadline=deadline), halt

    def _read_snapshot(self) -> _Snapshot:
        for _ in range(_READ_ATTEMPTS):
            checksum = self._checksums[_CHECKSUM]
            if checksum == self._snapshot_checksum:
                return self._snapshot
            text = self._memory[_SNAPSHOT_AT : _SNAPSHOT_AT + (checksum >> 32)]
            if text and _checksum(text) == checksum:
                plain = json.loads(text)
                self._snapshot = tuple(map(_view_from_json, plain["views"])), _halt_from_json(plain["halt"])
                self._snapshot_checksum = checksum
                return self._snapshot
        raise SharedMemoryUnreadable("It holds nothing readable")


class SharedMemorySource:
    """The state source of the `shm` backend: maps the file, and maps it again if it is replaced."""

    poll_every = 0.0

    def __init__(
        self, path: Path, scopes: tuple[str, ...], max_staleness: float, publish: Callable[[Lease, Halt | None], None]
    ) -> None:
        self._path = path
        self._scopes = scopes
        self._max_staleness = max_staleness
        self._publish = publish
        self._reader: SharedMemoryReader | None = None
        self._numbers: Sequence[float] | memoryview[float] = (EXPIRED,) * 2
        self._published_deadline = EXPIRED
        self._lock = threading.Lock()
        """Held while what was read is published, so that an older reading never replaces a newer one."""
        self._stopping = threading.Event()
        self._maps = 0
        self.problem: str | None = None

    halt: Halt | None = None

    @property
    def connections(self) -> int:
        """How many files it has mapped; more than one means that the file was replaced."""
        return self._maps

    def start(self) -> None:
        self._map()
        self._thread = threading.Thread(target=self._remap_when_replaced, name="breaker-gate", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(timeout=5.0)
        self._reader = None

    def forked(self) -> None:
        """The memory is still there; only the thread that looks for a replaced file has to be started again."""
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self.start()

    def poll(self, now: float) -> None:
        """Read the file if it has changed."""
        if self._numbers[_DEADLINE] != self._published_deadline:
            self.refresh()

    def refresh(self) -> None:
        """Read the file; a check that finds another thread doing so does not wait for it."""
        reader = self._reader
        if reader is None or not self._lock.acquire(blocking=False):
            return
        try:
            self._read(reader)
        finally:
            self._lock.release()

    def _read(self, reader: SharedMemoryReader) -> None:
        try:
            lease, halt = reader.read()
        except SharedMemoryUnreadable as error:
            self._refuse(str(error))
            return
        views = {view.scope: view for view in lease.views}
        missing = [scope for scope in self._scopes if scope not in views]
        if missing:
            self._refuse(f"the sidecar does not watch {', '.join(missing)}")
        elif lease.max_staleness > self._max_staleness:
            self._refuse(f"the sidecar's max_staleness is {lease.max_staleness} s, the gate's {self._max_staleness} s")
        else:
            self.problem = None if halt is None else halt.sentence
            self._published_deadline = lease.deadline
            self._publish(replace(lease, views=tuple(views[scope] for scope in self._scopes)), halt)

    def _refuse(self, problem: str) -> None:
        self.problem = problem
        sentence = (
            f"The gate can't use {self._path} ({problem}); only orders that reduce risk pass. Look at the sidecar."
        )
        lease = Lease(self._max_staleness, tuple(ScopeView(scope) for scope in self._scopes))
        self._publish(lease, Halt(Reason.NOT_WATCHED, sentence))

    def _map(self) -> None:
        try:
            if self._reader is not None and self._reader.inode == self._path.stat().st_ino:
                return
            self._reader = SharedMemoryReader(self._path)
        except (OSError, SharedMemoryUnreadable) as error:
            if self._reader is None:
                self._refuse(str(error))
            return
        self._maps += 1
        self._numbers = self._reader.numbers
        self.refresh()

    def _remap_when_replaced(self) -> None:
        while not self._stopping.wait(_REMAP_INTERVAL):
            self._map()


def boot_id() -> bytes:
    """What tells this run of the operating system from the one before."""
    try:
        text = Path("/proc/sys/kernel/random/boot_id").read_bytes().strip()
    except OSError:  # not Linux: the default path is then emptied by a reboot
        text = b"unknown"
    return text.ljust(_BOOT_ID.stop - _BOOT_ID.start, b"\0")


def _checksum(snapshot: bytes) -> int:
    return len(snapshot) << 32 | zlib.crc32(snapshot)


# The snapshot's field names are a format of their own: a sidecar and an engine of different versions may share a host.


def _halt_to_json(halt: Halt | None) -> dict[str, Any] | None:
    return None if halt is None else dataclasses.asdict(halt)


def _halt_from_json(plain: dict[str, Any] | None) -> Halt | None:
    return None if plain is None else Halt(Reason(plain["reason"]), plain["sentence"], plain["scope"])


def _view_to_json(view: ScopeView) -> dict[str, Any]:
    reading, quiet_period, seen = view.reading, view.reading.quiet_period, view.latest_seen
    return {
        "scope": view.scope,
        "standing": view.state,
        "reading": {
            "word": reading.state,
            "epoch": reading.epoch,
            "trip_reason": reading.trip_reason,
            "cooling": None if quiet_period is None else dataclasses.asdict(quiet_period),
            "problem": reading.problem,
        },
        "newest": None if seen is None else dataclasses.asdict(seen),
    }


def _view_from_json(plain: dict[str, Any]) -> ScopeView:
    reading, quiet_period, seen = plain["reading"], plain["reading"]["cooling"], plain["newest"]
    return ScopeView(
        plain["scope"],
        ScopeState(plain["standing"]),
        StateReading(
            StoredState(reading["word"]),
            reading["epoch"],
            reading["trip_reason"],
            None if quiet_period is None else QuietPeriod(**quiet_period),
            reading["problem"],
        ),
        None if seen is None else LatestSeen(**seen),
    )
