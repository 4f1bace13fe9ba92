"""What the gate's tests share: a record of what a gate admits while things go wrong, and a sidecar process."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time
from pathlib import Path

from breaker.gate import Gate, OrderIntent, clock
from tests.helpers import eventually

BACKENDS = ("thread", "drain", "shm")
BUY = OrderIntent("AAPL", "buy", 10)
UNHURRIED = 2.0
"""The `max_staleness` of gates that are to stay open though a busy machine pauses them for a moment."""


class Record:
    """Checks a gate without pause in a thread; each check's time is read before it is made."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._checks: list[tuple[float, bool]] = []
        self._stopping = False
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Record:
        self._thread.start()
        eventually(lambda: self._checks)
        return self

    def __exit__(self, *failure: object) -> None:
        self._stopping = True
        self._thread.join()

    def admitted_since(self, at: float) -> int:
        return sum(1 for checked, admitted in tuple(self._checks) if admitted and checked >= at)

    def refused_between(self, start: float, end: float) -> int:
        return sum(1 for checked, admitted in tuple(self._checks) if not admitted and start <= checked < end)

    def _run(self) -> None:
        while not self._stopping:
            now = clock.now()
            self._checks.append((now, bool(self._gate.check(BUY, 0))))
            time.sleep(0.0002)


def sidecar_command(url: str, shared_memory: Path) -> list[str]:
    sidecar = [sys.executable, "-m", "breaker.gate.sidecar"]
    return [*sidecar, "--redis", url, "--shared-memory", str(shared_memory)]


class Sidecar:
    """`python -m breaker.gate.sidecar` as a process."""

    def __init__(self, url: str, shared_memory: Path, *arguments: str) -> None:
        self.process = subprocess.Popen([*sidecar_command(url, shared_memory), *arguments])

    def stop(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.terminate()
        self.process.wait(30)
