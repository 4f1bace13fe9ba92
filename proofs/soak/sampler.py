"""Looks at every long-lived process of a stack at regular intervals."""

from __future__ import annotations

import contextlib
import threading
import time

import psutil

from proofs.soak.stack import Stack
from proofs.soak.trend import Sample


class Sampler(threading.Thread):
    """Samples every `every` seconds until `stop`."""

    def __init__(self, stack: Stack, every: float) -> None:
        super().__init__(name="sampler", daemon=True)
        self.samples: list[Sample] = []
        self._stack = stack
        self._every = every
        self._asked_to_stop = threading.Event()

    def run(self) -> None:
        while not self._asked_to_stop.wait(self._every):
            for name, part in list(self._stack.parts.items()):
                if (pid := part.pid) is not None:
                    with contextlib.suppress(psutil.NoSuchProcess):  # killed between the two lines
                        self.samples.append(_look(name, pid))

    def stop(self) -> None:
        self._asked_to_stop.set()
        self.join()


def _look(name: str, pid: int) -> Sample:
    process = psutil.Process(pid)
    with process.oneshot():
        return Sample(
            name,
            pid,
            process.create_time(),
            time.time(),
            process.memory_info().rss,
            process.num_fds(),
            len(process.net_connections()),
            process.num_threads(),
            len(process.children(recursive=True)),
        )
