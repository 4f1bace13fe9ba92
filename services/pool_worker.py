"""Run a worker of a Prefect work pool, and end it once it runs nothing: `python -m services.pool_worker --pool NAME`.

Prefect's own, once it has run something, goes on when it is asked to stop: it takes new work until it is killed, in
the middle of whatever it runs then. So SIGTERM and SIGINT here wait until the worker has run nothing for a few seconds,
and end it then. Whoever stops this sets the limit to that; a kill switch that is cut off is taken over by a standby.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

IDLE_FOR = 3.0
"""Seconds without any run: between taking one and starting its process a worker seems to run nothing."""
LOOK_EVERY = 0.2
LEAVE_WITHIN = 3.0
"""Seconds that a worker that runs nothing gets to end by itself."""


def run_worker(command: Sequence[str], stopping: threading.Event) -> int:
    """Run it until it ends, or until `stopping` is set and it runs nothing. Returns its status, 0 where ended here."""
    worker = subprocess.Popen(command, start_new_session=True)  # only this process decides when it is told to stop
    while worker.poll() is None:
        if stopping.wait(LOOK_EVERY):
            _wait_until_idle(worker)
            worker.terminate()
            with suppress(subprocess.TimeoutExpired):
                worker.wait(LEAVE_WITHIN)
            worker.kill()
            worker.wait()
            return 0
    return worker.returncode


def _wait_until_idle(worker: subprocess.Popen[bytes]) -> None:
    idle_since = time.monotonic()
    while worker.poll() is None and time.monotonic() - idle_since < IDLE_FOR:
        time.sleep(LOOK_EVERY)
        if _runs_something(worker.pid):
            idle_since = time.monotonic()


def _runs_something(pid: int) -> bool:
    """Each run is a child of the worker."""
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):  # that thread has ended
            if children.read_text().strip():
                return True
    return False


def main() -> int:
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    return run_worker(
        [sys.executable, "-m", "prefect", "worker", "start", "--type", "process", *sys.argv[1:]], stopping
    )


if __name__ == "__main__":
    sys.exit(main())
